"""Dark experience replay: samples of the past with the answers that the model gave to them then."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from typing_extensions import override

from trustformers_pl.continual.dark_loss import MARK, NAME, DarkLoss, dark_term, dark_weights, marks, owner_of
from trustformers_pl.continual.replay import Replay
from trustformers_pl.continual.rows import rows_of, with_rows
from trustformers_pl.errors import DataError, RefusedError
from trustformers_pl.steps import SampleWeights

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from torch import Tensor

    Rows = dict[str, Tensor]

LOGITS = "kept logits"
"""The name of the logits among a sample's tensors."""


class DarkReplay(Replay):
    r"""DER and DER++: Buzzega et al. 2020, "Dark Experience for General Continual Learning", section 3.

    What is minimised is the loss of the new samples, plus :math:`\alpha` times the mean of :math:`\|z - h(x)\|^2` over
    samples of the memory and the logits that were kept with them, plus (DER++, :math:`\beta > 0`) :math:`\beta` times
    the loss of another draw from the memory. All run through the model together, in one batch. The authors' code takes
    the mean over outputs too: its alpha is C times ours. Logits are those of the training step in which a sample was
    seen.

    Batches are mappings; they get a key `replay`, which says what each row is. In a stock Trainer as `Replay`; the
    module is a `DecomposedLoss` whose loss takes `sample_weights`.

    Args:
        alpha: Weight of the distance to kept logits.
        beta: Weight of the loss of replayed samples; 0 is DER.
        capacity: As for `Replay`.
        bytes: As for `Replay`; kept logits are part of a sample.
        batch: Samples of each of the two draws that are added to a batch of a rank.
        keep: As for `Replay`, without herding.
        where: As for `Replay`.
        folder: As for `Replay`.
        seed: As for `Replay`.

    Attributes:
        loss: What it adds to a step.
    """

    section = NAME

    def __init__(
        self,
        *,
        alpha: float = 0.1,
        beta: float = 0.0,
        capacity: int | None = None,
        bytes: int | None = None,  # noqa: A002
        batch: int = 32,
        keep: Literal["reservoir", "balanced"] = "reservoir",
        where: Literal["memory", "disk"] = "memory",
        folder: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(capacity=capacity, bytes=bytes, batch=batch, keep=keep, where=where, folder=folder, seed=seed)
        self.alpha, self.beta = alpha, beta
        self.loss = DarkLoss(alpha, beta)
        self._put: Any = None

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the loss term and the weights in the module, or put them there."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        module: Any = pl_module
        if not hasattr(module, "loss_terms"):
            raise RefusedError(f"{type(self).__name__} needs a module that is a DecomposedLoss")
        if any(isinstance(owner_of(term), DarkLoss) for term in module.loss_terms):  # a recipe has put them there
            self.loss = next(owner_of(term) for term in module.loss_terms if isinstance(owner_of(term), DarkLoss))
            self.loss.alpha = self.alpha
        else:
            self._put = (module.loss_terms, module.sample_weights)
            term = dark_term(self.alpha)
            self.loss = owner_of(term)
            module.loss_terms = (*module.loss_terms, term)
            module.sample_weights = (*module.sample_weights, dark_weights())
        self.loss.beta = self.beta
        weights = [one for one in module.sample_weights if not isinstance(owner_of(one), DarkLoss)]
        module.sample_weights = (*weights, SampleWeights(NAME, self.loss.weights))

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the loader, and the module as it was."""
        super().teardown(trainer, pl_module, stage)
        if stage == "fit" and self._put is not None:
            module: Any = pl_module
            module.loss_terms, module.sample_weights = self._put
            self._put = None

    @override
    def mix(self, batch: Any, epoch: int, step: int) -> Any:
        """A batch with rows to compare with kept logits, and for DER++ rows to learn.

        Raises:
            DataError: The batch is no mapping.
        """
        if not isinstance(batch, Mapping):
            raise DataError(f"der: a batch is a {type(batch).__name__}; give mappings, which can tell what is replayed")
        rows = rows_of(batch, self.section)
        draws = [self.draw(epoch, step)] + ([self.draw(epoch, step, "labelled")] if self.beta else [])
        logits = draws[0].pop(LOGITS, None)
        numbers = [len(next(iter(rows.values())))] + [len(next(iter(one.values()), ())) for one in draws]
        numbers += [0] * (3 - len(numbers))
        for more in draws:
            more.pop(LOGITS, None)
            batch = with_rows(batch, more, self.section) if more else batch
        self._fetched.append((rows, logits, numbers))
        return {**batch, MARK: marks(numbers)}

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Tell the loss term which logits were kept."""
        _, logits, numbers = self._fetched[0]
        self.loss.begin(logits, numbers)

    @override
    def seen(self, fetched: Any) -> Rows:
        """The new rows, with the logits that the step gave them."""
        rows: Rows = fetched[0]
        answers = self.loss.answers
        if len(answers) != fetched[2][0]:
            raise RefusedError(
                f"der: the step gave logits for {len(answers)} of {fetched[2][0]} new samples; the module's "
                "training_step must go through its loss terms"
            )
        logits = torch.stack([answers[place] for place in range(len(answers))])
        self.loss.begin(None, [0, 0, 0])
        return {**rows, LOGITS: logits.float().cpu()}
