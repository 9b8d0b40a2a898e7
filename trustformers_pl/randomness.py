"""The state of the process's random number generators, as tensors and numbers."""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from trustformers_pl.stateful import Scope, State

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

logger = logging.getLogger(__name__)


def random_state() -> dict[str, Any]:
    """The state of torch's (CPU and CUDA), NumPy's and Python's global generators."""
    state = {"torch": torch.get_rng_state(), "numpy": np.random.get_state(), "python": random.getstate()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Put the generators back to what `random_state` returned."""
    torch.set_rng_state(state["torch"])
    np.random.set_state(state["numpy"])
    random.setstate(state["python"])
    if "cuda" in state:
        torch.cuda.set_rng_state_all(state["cuda"])


class Randomness:
    """The global generators as a part with state, one a rank."""

    state_version = 1

    def state(self) -> State:
        """The generators of this rank."""
        return State(random_state(), self.state_version, Scope.RANK)

    def load_state(self, state: State) -> None:
        """Put this rank's generators back."""
        restore_random_state(state.value)

    def load_all_ranks(self, states: Sequence[State], rank: int, world_size: int) -> None:
        """Go on with another number of ranks: old ranks keep their stream, each new one gets a stream of its own.

        Args:
            states: Of the old ranks.
            rank: Of this process.
            world_size: Ranks now.
        """
        if rank == 0:
            logger.warning(
                "resume: the run had %d ranks and now has %d; its random numbers are not those of the run that went on",
                len(states),
                world_size,
            )
        restore_random_state(states[rank % len(states)].value)
        if rank >= len(states):
            seed = int(torch.randint(2**32, (rank // len(states),))[-1])
            torch.manual_seed(seed)
            np.random.seed(seed)
            random.seed(seed)
