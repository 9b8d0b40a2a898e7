"""The accumulation window that a checkpoint cuts in two: its gradients and counts, as a part with state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.distributed.tensor import DTensor

from trustformers_pl.errors import CheckpointError
from trustformers_pl.loss_window import LossWindow
from trustformers_pl.shards import local, trained
from trustformers_pl.stateful import Scope, State

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lightning import Trainer
    from torch import Tensor, nn


class OpenWindow:
    """What lies on the gradients between two micro-batches of a window, of this rank.

    At a step boundary no window is open, and what is kept is the size that losses of sums are brought to, which the
    first micro-batch of the run has decided.

    Args:
        trainer: That is fitting.
    """

    state_version = 1

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer

    def state(self) -> State:
        """The window; empty where nothing is accumulated or taken apart."""
        window, value = self._loss_window(), dict[str, Any]()
        if window is not None:
            value["reference"] = window.reference
        if self._trainer.fit_loop.epoch_loop._should_accumulate():
            module = self._trainer.lightning_module
            value["gradients"] = _gradients(dict(module.named_parameters()))
            value["of_shards"] = _gradients(_shards(module))
            value["counts"] = None if window is None else window.state()
        return State(value, self.state_version, Scope.RANK)

    def load_state(self, state: State) -> None:
        """Go on inside the window."""
        window, module, value = self._loss_window(), self._trainer.lightning_module, state.value
        if window is not None:
            window.reference = value.get("reference")
        if "gradients" in value:
            _give(dict(module.named_parameters()), value["gradients"])
            _give(_shards(module), value.get("of_shards", {}))
        if window is not None and value.get("counts") is not None:
            window.load_state(value["counts"], module)

    def load_all_ranks(self, states: Sequence[State], rank: int, world_size: int) -> None:
        """Go on with another number of ranks, from a step boundary.

        Raises:
            CheckpointError: The checkpoint lies inside a window, whose micro-batches other ranks have shared.
        """
        del rank
        if any("gradients" in state.value for state in states):
            raise CheckpointError(
                f"the checkpoint lies inside an accumulation window of {len(states)} ranks, and this run has "
                f"{world_size}; resume with {len(states)}"
            )
        self.load_state(states[0])

    def _loss_window(self) -> LossWindow | None:
        window = getattr(self._trainer.lightning_module, "loss_window", None)
        return window if isinstance(window, LossWindow) else None


def _shards(module: nn.Module) -> dict[str, Tensor]:
    """What the optimizers train in place of whole parameters."""
    own = dict(module.named_parameters())
    return {name: shard for name, shard in trained(module).items() if shard is not own[name]}


def _gradients(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """This rank's part of each gradient that is there."""
    return {name: local(tensor.grad) for name, tensor in tensors.items() if tensor.grad is not None}


def _give(tensors: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        gradient = gradients.get(name)
        if gradient is None:
            tensor.grad = None
        elif isinstance(tensor, DTensor):
            tensor.grad = tensor.detach().clone()
            local(tensor.grad).copy_(gradient)
        else:
            tensor.grad = gradient.to(tensor)
