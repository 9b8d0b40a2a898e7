"""Copies of a module with weights of their own: drawn anew, or taken over."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from trustformers_pl.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

RESET = ("reset_parameters", "_reset_parameters")


def template(module: nn.Module) -> nn.Module:
    """A copy of a module whose parameters take no memory."""
    on_meta = {
        id(one): nn.Parameter(one.detach().to("meta"), requires_grad=one.requires_grad) for one in module.parameters()
    }
    return copy.deepcopy(module, on_meta)


def fresh(
    of: nn.Module,
    initialize: Callable[[nn.Module], Any] | None = None,
    weights: Mapping[str, Tensor] | None = None,
) -> nn.Module:
    """A module as a template is, on the CPU.

    Args:
        of: The template.
        initialize: Called at last, with the module.
        weights: A `state_dict` to take the values from, instead of drawing them.

    Raises:
        RefusedError: The weights are of another structure.
    """
    made = copy.deepcopy(of)
    own = {
        id(one): nn.Parameter(torch.empty_like(one, device="cpu"), requires_grad=one.requires_grad)
        for one in made.parameters()
    }
    made = copy.deepcopy(made, own)
    if weights is not None:
        if weights.keys() != made.state_dict().keys():
            changed = ", ".join(sorted(weights.keys() ^ made.state_dict().keys())[:3])
            raise RefusedError(
                f"progressive: the column before has other parameters by now ({changed}); `start: fresh`"
            )
        made.load_state_dict(weights)
        return made
    for module in made.modules():
        reset = _reset(module)
        if reset is not None:
            reset()
    if initialize is not None:
        initialize(made)
    return made


def refuse_unfreshable(module: nn.Module) -> None:
    """Refuse a module of which a part cannot draw its parameters anew.

    Raises:
        RefusedError: It names the part.
    """
    for name, one in module.named_modules():
        if next(one.parameters(recurse=False), None) is not None and _reset(one) is None:
            raise RefusedError(
                f"progressive: {name or 'the column'} ({type(one).__name__}) has parameters and no reset_parameters() "
                "to draw them anew; give it one, or use `start: copy`"
            )


def _reset(module: nn.Module) -> Callable[[], Any] | None:
    return next((getattr(module, name) for name in RESET if callable(getattr(module, name, None))), None)
