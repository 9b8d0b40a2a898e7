"""The scores that can be asked for by name, as torchmetrics computes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torchmetrics.classification
import torchmetrics.text

from trustformers_pl.errors import RefusedError
from trustformers_pl.tracking.score_names import CLASSES, TEXTS, TOKENS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor
    from torchmetrics import Metric

IGNORED = -100
ROUGE = {"rouge_keys": ("rouge1", "rouge2", "rougeL")}  # the fourth, rougeLsum, needs nltk


@dataclass
class Score:
    """One score of an evaluation.

    Attributes:
        name: Under which it is logged, after the stage.
        kind: Which one it is.
        options: Arguments of torchmetrics' class.
    """

    name: str
    kind: str
    options: Mapping[str, Any]

    @property
    def of_texts(self) -> bool:
        """Whether it compares generated texts with references."""
        return self.kind in TEXTS

    def build(self, n_classes: int | None = None) -> Metric:
        """The metric, in its default state.

        Args:
            n_classes: Of what it measures; not needed for texts and perplexity.

        Raises:
            RefusedError: torchmetrics refuses the options, or needs a library that is not installed.
        """
        try:
            if self.kind in TEXTS:
                # Of a run, every rank has all texts.
                defaults = {"sync_on_compute": False, **(ROUGE if self.kind == "rouge" else {})}
                return getattr(torchmetrics.text, TEXTS[self.kind])(**{**defaults, **self.options})  # type: ignore[no-any-return]
            if self.kind in TOKENS:
                return getattr(torchmetrics.text, TOKENS[self.kind])(ignore_index=IGNORED, **self.options)  # type: ignore[no-any-return]
            given = {"num_classes": n_classes, "ignore_index": IGNORED, **_micro(self.kind), **self.options}
            return getattr(torchmetrics.classification, CLASSES[self.kind])(**given)  # type: ignore[no-any-return]
        except (TypeError, ValueError) as error:
            raise RefusedError(f"scores.metrics.{self.name}: torchmetrics refuses this: {_line(error)}") from error
        except ModuleNotFoundError as error:
            message = f"scores.metrics.{self.name}: {_line(error)} pip install 'trustformers-pl[scores]'"
            raise RefusedError(message) from error

    def update(self, metric: Metric, logits: Tensor, labels: Tensor) -> None:
        """Count a batch in.

        Args:
            metric: From `build`.
            logits: (..., C), for perplexity (B, T, V).
            labels: (...) int64, -100 where there is nothing to predict.
        """
        if self.kind in TOKENS:
            metric.update(logits.reshape(-1, *logits.shape[-2:]).float(), labels.reshape(-1, labels.shape[-1]))
        else:
            metric.update(logits.flatten(0, -2).float(), labels.flatten())


def _micro(kind: str) -> dict[str, str]:
    # What everyone calls accuracy is the share of samples; torchmetrics' default is the mean over classes.
    return {"average": "micro"} if kind == "accuracy" else {}


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
