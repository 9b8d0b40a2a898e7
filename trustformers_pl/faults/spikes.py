"""What a run does about spikes: steps whose gradient is far larger than those before it."""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING

from lightning.pytorch import Callback
from typing_extensions import override

from trustformers_pl.errors import NonFiniteError
from trustformers_pl.faults.robust_level import limit
from trustformers_pl.faults.rollbacks import Rollbacks
from trustformers_pl.gradients import GradientPhase
from trustformers_pl.precision_order import gradient_order
from trustformers_pl.stateful import State

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

    from trustformers_pl.gradients import GradientStep

logger = logging.getLogger(__name__)


class Spikes(Callback):
    """Finds spikes of the gradient's norm before they reach the weights, and leaves the step out, goes back, or stops.

    A spike is a norm above the median of the last `window` steps by `factor` standard deviations, these estimated by
    the median absolute deviation (`robust_level.limit`). The norm is that of all ranks before clipping, so that all
    decide alike, and unlike the loss it is known before the step. Norms of spikes are no part of the window, unless
    `max_consecutive` come in a row: then they are the new level, and the window starts anew with them.

    In a stock Trainer: `Trainer(callbacks=[Spikes()], plugins=[OrderedPrecision()])`, with `Checkpoint()` to go back.

    Args:
        factor: How far above the median.
        window: Steps.
        policy: `skip`, `roll_back` or `stop`.
        max_consecutive: Spikes in a row that are taken for the new level.
        max_rollbacks: Of `roll_back`: after so many the run stops.
        skip_batches: Of `roll_back`: optimizer steps left out after going back.

    Attributes:
        found: Spikes so far, also those after which the run went back.
        rollbacks: What was done by going back.
    """

    def __init__(
        self,
        factor: float = 10.0,
        window: int = 100,
        policy: str = "skip",
        *,
        max_consecutive: int = 10,
        max_rollbacks: int = 3,
        skip_batches: int = 0,
    ) -> None:
        self.factor, self.policy, self.max_consecutive = factor, policy, max_consecutive
        self.rollbacks = Rollbacks(max_rollbacks, skip_batches)
        self.found = 0
        self._norms: deque[float] = deque(maxlen=window)
        self._in_a_row: list[float] = []

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Join the gradient order.

        Raises:
            RefusedError: The Trainer has no gradient order, or nobody saves a run that shall go back.
        """
        if stage != "fit":
            return
        if self.policy == "roll_back":
            self.rollbacks.prepare(trainer, type(self).__name__)
        gradient_order(trainer, type(self).__name__).add(GradientPhase.FINITE, self.decide)

    def decide(self, step: GradientStep) -> None:
        """Look at the norm of a step that is going to be taken.

        Raises:
            NonFiniteError: It is a spike, and the policy is to stop.
        """
        step.skip |= self.rollbacks.leaves_out()
        if step.skip or not step.finite or step.norm is None:
            return
        norm, highest = float(step.norm), self._highest()
        if highest is None or norm <= highest:
            self._in_a_row = []
            self._norms.append(norm)
            return
        self._in_a_row.append(norm)
        if len(self._in_a_row) >= self.max_consecutive:
            self._norms.clear()
            self._norms.extend(self._in_a_row)
            self._in_a_row = []
            return
        self.found += 1
        number = step.module.trainer.global_step + 1
        self._act(step, f"optimizer step {number}: a spike: the gradient's norm is {norm:.3g}, above {highest:.3g}")

    def _highest(self) -> float | None:
        """The largest norm that is no spike; None while half the window is not yet known."""
        enough = len(self._norms) >= max((self._norms.maxlen or 1) // 2, 1)
        return limit(self._norms, self.factor) if enough else None

    def _act(self, step: GradientStep, cause: str) -> None:
        if self.policy == "stop":
            raise NonFiniteError(f"{cause}; the weights are untouched; go on from the last checkpoint")
        step.skip = True
        if self.policy == "roll_back":
            self.rollbacks.cause = cause
        elif step.module.trainer.is_global_zero:
            logger.warning("%s; the step is left out", cause)

    def on_step_boundary(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go back, where there is a cause; before anybody saves.

        Raises:
            NonFiniteError: The run has gone back often enough, or there is nothing to go back to.
        """
        del pl_module
        if self.rollbacks.cause is not None:
            found, in_a_row = self.found, self._in_a_row
            self.rollbacks.at_boundary(trainer)
            self.found, self._in_a_row = found, in_a_row  # or no number of them would ever be the new level

    def state(self) -> State:
        """The window, and what was counted."""
        return State(
            {
                **self.rollbacks.state(),
                "found": self.found,
                "norms": list(self._norms),
                "in_a_row": list(self._in_a_row),
            }
        )

    def load_state(self, state: State) -> None:
        """Go on from them."""
        self.rollbacks.load_state(state.value)
        self.found, self._in_a_row = state.value["found"], list(state.value["in_a_row"])
        self._norms.clear()
        self._norms.extend(state.value["norms"])
