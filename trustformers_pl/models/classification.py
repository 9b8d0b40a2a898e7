"""What models that put sequences into classes share: loss, accuracy, predictions and the classes' names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from trustformers_pl.decomposed import DecomposedLoss
from trustformers_pl.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

IGNORED = -100


class Classification(DecomposedLoss):
    """Mixin for a LightningModule whose `forward(batch)` gives logits (B, C).

    `labels` are (B,) int64 in [0, C), -100 to be ignored. Evaluations log `val_accuracy` and `test_accuracy`.

    Attributes:
        n_classes: C.
        classes_argument: The constructor's argument that sets it, for messages.
    """

    n_classes: int
    classes_argument = "n_classes"

    if TYPE_CHECKING:  # given by LightningModule
        _trainer: Any

    def setup(self, stage: str) -> None:
        """Compare the number of classes with that of the data, where the data module has `classes`.

        Raises:
            RefusedError: They differ.
        """
        del stage
        classes = self.class_names()
        if classes is not None and len(classes) != self.n_classes:
            name = self.classes_argument
            raise RefusedError(
                f"model: {name} is {self.n_classes}, and the data have {len(classes)} classes "
                f"({', '.join(map(str, classes[:5]))}); set model.init_args.{name}={len(classes)}"
            )

    def loss(
        self, outputs: Tensor, batch: Mapping[str, Tensor], sample_weights: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Cross-entropy in nats.

        Args:
            outputs: (B, C), from `forward`.
            batch: Whose `labels` (B,) are taken.
            sample_weights: (B,), factors of each sample's loss.

        Returns:
            The sum over the labels that are not -100 (at least in float32), and their number: scalars.
        """
        labels = batch["labels"]
        logits = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
        losses = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none")
        return (losses if sample_weights is None else losses * sample_weights).sum(), self.loss_count(batch)

    def loss_count(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The number of labels that are not -100: what `loss` counts, known before the forward pass."""
        return (batch["labels"] != IGNORED).sum()

    def measures(self, outputs: Tensor, batch: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """`accuracy`: how many labels are the likeliest class, and how many there are."""
        return {"accuracy": ((outputs.argmax(dim=-1) == batch["labels"]).sum(), self.loss_count(batch))}

    def predict_step(self, batch: Mapping[str, Tensor], batch_idx: int = 0) -> dict[str, Any]:
        """`label`, the likeliest class of each sequence, by its name where the data module has `classes`.

        Returns:
            `label`: B names or numbers. `probabilities`: (B, C), in the order of the classes.
        """
        del batch_idx
        logits = self(batch)
        probabilities = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(dim=-1)
        numbers = probabilities.argmax(dim=-1).tolist()
        names = self.class_names() or range(self.n_classes)
        return {"label": [names[number] for number in numbers], "probabilities": probabilities}

    def class_names(self) -> Sequence[Any] | None:
        """The classes of the data module that the module is trained or evaluated on, or None."""
        return getattr(getattr(self._trainer, "datamodule", None), "classes", None)
