"""Task-incremental learning: outputs of other tasks have no part in the loss, nor in what is predicted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trustformers_pl.continual.division import NO_TASK
from trustformers_pl.continual.labels import IGNORED, LABELS, of_batch

if TYPE_CHECKING:
    from torch import Tensor


class TaskHeads:
    """Mixin over a composable module: its `loss` and `measures` see -inf in place of outputs of other tasks.

    Which task a sample is of follows from its label: the scenario tells it, and the model need not find out. Outputs
    are logits (B, C), a tensor or the `logits` of a mapping.

    Attributes:
        class_tasks: (C,) int64, the task of each class, -1 for none; None masks nothing. The callback `Tasks` sets it.
        label_field: The field of a batch that has the labels (B,).
    """

    class_tasks: Tensor | None = None
    label_field: str = LABELS

    def of_own_task(self, outputs: Any, batch: Any) -> Any:
        """The outputs with -inf where a class is of another task than the sample.

        Args:
            outputs: Logits (B, C), or a mapping with such `logits`.
            batch: With labels (B,).
        """
        if self.class_tasks is None:
            return outputs
        logits = outputs["logits"] if isinstance(outputs, Mapping) else outputs
        labels = of_batch(batch, self.label_field).to(logits.device)
        tasks = self.class_tasks.to(logits.device)
        of_class = tasks.new_full((logits.shape[-1],), NO_TASK)
        of_class[: len(tasks)] = tasks
        own = of_class[labels.clamp(min=0)].unsqueeze(-1) == of_class
        own |= (labels == IGNORED).unsqueeze(-1)
        found = logits.masked_fill(~own, -math.inf)
        return {**outputs, "logits": found} if isinstance(outputs, Mapping) else found

    def loss(self, outputs: Any, batch: Any, *weights: Any) -> Any:
        """The module's own, of masked outputs."""
        return super().loss(self.of_own_task(outputs, batch), batch, *weights)  # type: ignore[misc]

    loss.passes_weights_on = True  # type: ignore[attr-defined]

    def measures(self, outputs: Any, batch: Any) -> dict[str, tuple[Tensor, Tensor]]:
        """The module's own, of masked outputs."""
        found: dict[str, tuple[Tensor, Tensor]] = super().measures(  # type: ignore[misc]
            self.of_own_task(outputs, batch), batch
        )
        return found
