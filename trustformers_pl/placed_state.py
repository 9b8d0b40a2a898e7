"""Stored weights and optimizer state, laid out on this run's ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate

from trustformers_pl.gathering import place_like
from trustformers_pl.pieces import Pieces

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn
    from torch.optim import Optimizer


def placed_module_state(module: nn.Module, stored: Mapping[str, Any]) -> dict[str, Any]:
    """A stored `state_dict`, each value as the module's own of that name lies; names that it lacks stay as they are.

    Args:
        module: With plain parameters or DTensors.
        stored: Name -> whole tensor, `Pieces`, or what else a module keeps.

    Raises:
        CheckpointError: A tensor has another shape than the module's.
    """
    if not any(isinstance(value, Pieces) for value in stored.values()) and not any(
        isinstance(parameter, DTensor) for parameter in module.parameters()
    ):
        return dict(stored)
    own = module.state_dict()
    return {name: _like(value, own.get(name)) for name, value in stored.items()}


def _like(value: Any, like: Any) -> Any:
    if isinstance(like, DTensor) and isinstance(value, Tensor | Pieces) and tuple(value.shape) == tuple(like.shape):
        return place_like(value, like)
    return value.whole() if isinstance(value, Pieces) else value  # another shape: torch says so, with the name


def placed_optimizer_state(optimizer: Optimizer, stored: Mapping[str, Any]) -> dict[str, Any]:
    """A stored optimizer state, the tensors of each parameter laid out as that parameter is.

    State of the parameter's shape lies as it does. Of any other shape (a row or a column of a factored second moment)
    what has the parameter's length along the sharded dimension is cut like it, and the rest is on all ranks.

    Args:
        optimizer: Whose state it will be.
        stored: As `Optimizer.state_dict` gave it, with whole tensors or `Pieces`.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    keys = [key for group in stored["param_groups"] for key in group["params"]]
    placed = dict(stored["state"])
    for key, parameter in zip(keys, parameters, strict=False):  # torch refuses other numbers, and says so
        if key in placed:
            placed[key] = {name: _state_like(value, parameter) for name, value in placed[key].items()}
    return {**stored, "state": placed}


def _state_like(value: Any, parameter: Tensor) -> Any:
    if not isinstance(value, Tensor | Pieces) or isinstance(value, DTensor):
        return value
    if not isinstance(parameter, DTensor) or len(value.shape) != parameter.ndim or parameter.ndim == 0:
        return value.whole() if isinstance(value, Pieces) else value
    return place_like(value, _laid_out(value, parameter))


def _laid_out(value: Tensor | Pieces, parameter: DTensor) -> DTensor:
    """An empty DTensor of the value's shape, cut as the parameter is where the two have one length."""
    if tuple(value.shape) == tuple(parameter.shape):
        return parameter
    placements = [
        Replicate() if one.is_shard() and value.shape[one.dim] != parameter.shape[one.dim] else one  # type: ignore[attr-defined]
        for one in parameter.placements
    ]
    return _empty(tuple(value.shape), parameter, placements)


def _empty(shape: tuple[int, ...], parameter: DTensor, placements: list[Any]) -> DTensor:
    from torch.distributed.tensor import empty

    found: DTensor = empty(shape, device_mesh=parameter.device_mesh, placements=placements, dtype=parameter.dtype)
    return found
