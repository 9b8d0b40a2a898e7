"""Scores of an evaluation by name: accuracy, F1, perplexity, BLEU, ROUGE, … right over batches and ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback
from torch import Tensor
from typing_extensions import override

from trustformers_pl.data.repeated import only_repeats
from trustformers_pl.errors import RefusedError
from trustformers_pl.tracking.references import continuations, read_references
from trustformers_pl.tracking.score_kinds import Score
from trustformers_pl.tracking.score_names import KIND

if TYPE_CHECKING:
    from pathlib import Path

    from lightning.pytorch import LightningModule, Trainer
    from torchmetrics import Metric

MANY = 1024  # classes: no option of a score is refused for as many


class Scores(Callback):
    """Computes torchmetrics' metrics over each validation and test, and logs them as `val_NAME` and `test_NAME`.

    What the module's `forward` first answers for each batch is taken as it passes by: nothing is computed twice.
    It must be logits (..., C), the batch a mapping with `labels` (...), -100 where there is nothing to predict.

    Scores of texts (`bleu`, `chrf`, `rouge`) compare what the module generates greedily after the prompts of a file
    with that file's references. The module needs `generate`, the datamodule `encode` and `decode`, as for `Samples`.

    Over ranks each sample counts once: torchmetrics adds up the states, a rank's share that only repeats a sample of
    another one is left out (`only_repeats`), and the prompts are shared out among the ranks.

    Args:
        metrics: Name -> options of torchmetrics' class; the option `metric` says which score it is, where the name is
            not one of `score_names.KINDS`.
        references: A file of JSON Lines with `prompt` and `reference` (a text or a list), for scores of texts.
        max_new_tokens: Tokens that are generated after each prompt.

    Raises:
        RefusedError: Scores of texts without references.
        DataError: The references cannot be read.
    """

    def __init__(
        self,
        metrics: Mapping[str, Mapping[str, Any]],
        *,
        references: str | Path | None = None,
        max_new_tokens: int = 64,
    ) -> None:
        self._scores = [
            Score(name, str(options.get(KIND, name)), {k: v for k, v in options.items() if k != KIND})
            for name, options in metrics.items()
        ]
        texts = [score.name for score in self._scores if score.of_texts]
        if texts and references is None:
            raise RefusedError(f"scores.metrics.{texts[0]} compares texts; give a file of prompts in scores.references")
        self._references = read_references(references) if texts and references is not None else []
        self._max_new_tokens = max_new_tokens
        self._metrics: dict[str, Metric] = {}
        self._logged: set[str] = set()
        self._outputs: Any = None
        self._handle: Any = None
        self.computed = 0

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse, before any step, what cannot generate, and options that torchmetrics does not take.

        Raises:
            RefusedError: Which, and why.
        """
        for score in self._scores:
            score.build(n_classes=MANY)  # how many there are is known when the first batch has been seen
        owners = ((pl_module, "generate"), (getattr(trainer, "datamodule", None), "encode"))
        missing = [name for owner, name in owners if not callable(getattr(owner, name, None))]
        if self._references and missing:
            raise RefusedError(
                f"scores: texts are compared, and there is no method {missing[0]!r}; leave those scores out"
            )

    @override
    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start anew, and watch the module's answers."""
        self._metrics = {}
        self._handle = pl_module.register_forward_hook(self._keep)

    @override
    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Likewise."""
        self.on_validation_epoch_start(trainer, pl_module)

    def _keep(self, module: Any, arguments: Any, outputs: Any) -> None:
        del module, arguments
        if self._outputs is None:  # strategies that wrap the module send the whole step through its forward, too
            self._outputs = outputs

    @override
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count a batch in."""
        logits, self._outputs = self._outputs, None
        scores = [score for score in self._scores if not score.of_texts]
        if not scores:
            return
        labels = batch.get("labels") if isinstance(batch, Mapping) else None
        if not isinstance(logits, Tensor) or not isinstance(labels, Tensor) or logits.shape[:-1] != labels.shape:
            raise RefusedError(
                f"scores: {scores[0].name} needs logits (..., C) from the module's forward, and `labels` (...) in the "
                f"batch; found {_shape(logits)} and {_shape(labels)}"
            )
        for score in scores:  # made also where nothing is counted: all ranks add up
            if score.name not in self._metrics:
                self._metrics[score.name] = score.build(logits.shape[-1]).to(pl_module.device)
            if not only_repeats(trainer, batch_idx, dataloader_idx):
                score.update(self._metrics[score.name], logits.detach(), labels)

    @override
    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Likewise."""
        self.on_validation_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)

    @override
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the scores."""
        self._log(trainer, pl_module, "val")

    @override
    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Likewise."""
        self._log(trainer, pl_module, "test")

    def _log(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._let_go()
        values: dict[str, float] = {}
        for name, metric in self._metrics.items():
            values[f"{stage}_{name}"] = float(metric.compute())
        self._metrics = {}
        if self._references and not trainer.sanity_checking:
            values |= {f"{stage}_{name}": value for name, value in self._of_texts(trainer, pl_module).items()}
        self._refuse_taken(trainer, values)
        pl_module.log_dict(values)
        self.computed += len(values)

    def _of_texts(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, float]:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        module: Any = pl_module
        texts = continuations(module, data, self._references, max_new_tokens=self._max_new_tokens)
        found: dict[str, float] = {}
        for score in (score for score in self._scores if score.of_texts):
            # Every rank has all texts: each computes the whole, and nothing is to be added up.
            metric = score.build()
            metric.update(texts, [list(reference.references) for reference in self._references])
            value = metric.compute()
            if isinstance(value, Mapping):  # ROUGE: of each kind precision, recall and F-measure
                measures = {key.partition("_fmeasure")[0]: v for key, v in value.items() if key.endswith("_fmeasure")}
                found |= {key.replace("rouge", score.name, 1): float(v) for key, v in measures.items()}
            else:
                found[score.name] = float(value)
        return found

    def _refuse_taken(self, trainer: Trainer, values: Mapping[str, float]) -> None:
        by_others = {key.rpartition(".")[2] for key in trainer._results or ()} - self._logged  # `hook.name`
        self._logged |= values.keys()
        if taken := sorted(by_others & values.keys()):
            name = taken[0].partition("_")[2]
            raise RefusedError(
                f"scores.metrics.{name}: this run logs {taken[0]} already; give it another name, as "
                f"`my_{name}: {{metric: {name}}}`"
            )

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop watching."""
        self._let_go()

    def _let_go(self) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None


def _shape(value: Any) -> str:
    if isinstance(value, Tensor):
        return str(tuple(value.shape))
    return "nothing" if value is None else type(value).__name__
