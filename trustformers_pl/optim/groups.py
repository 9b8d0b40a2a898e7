"""Parameter groups: which weights decay, and which have a learning rate of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trustformers_pl.optim.layers import layer_scales
from trustformers_pl.optim.patterns import matching, refuse_unmatched

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn


def decay_groups(module: nn.Module, *, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: matrices (two and more dimensions) decay; biases, norms and other vectors do not.

    Args:
        module: Its trainable parameters are grouped, by name; a tied one stands once.
        weight_decay: Of the first group.

    Returns:
        Groups with `params` as (name, parameter) pairs, without empty ones.
    """
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    decayed = {"params": [pair for pair in named if pair[1].ndim >= 2], "weight_decay": weight_decay}
    plain = {"params": [pair for pair in named if pair[1].ndim < 2], "weight_decay": 0.0}
    return [group for group in (decayed, plain) if group["params"]]


def parameter_groups(
    module: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    overrides: Sequence[Mapping[str, Any]] = (),
    layer_decay: float = 1.0,
) -> list[dict[str, Any]]:
    """Groups of parameters with equal settings: by role as `decay_groups`, by depth, and by name.

    Args:
        module: Its trainable parameters are grouped, by name; a tied one stands once, under its first name.
        lr: Learning rate of what nothing else is said about.
        weight_decay: Of matrices that nothing else is said about.
        overrides: Each with `match`, a pattern of names, and settings (`lr`, `weight_decay`) of the parameters that fit
            it; later ones win. Such an `lr` is final: `layer_decay` does not change it.
        layer_decay: Factor of the learning rate from each block to the one before it; see `layer_scales`.

    Returns:
        Groups with `params` as (name, parameter) pairs and their settings, in the order of their first parameters.

    Raises:
        RefusedError: A pattern fits no parameter, or there are no numbered blocks for `layer_decay`.
    """
    refuse_unmatched(module, [override["match"] for override in overrides], "optimizer.groups")
    scales = layer_scales(module, layer_decay)
    groups: dict[tuple[tuple[str, Any], ...], dict[str, Any]] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        own = {"lr": lr * scales[name], "weight_decay": weight_decay if parameter.ndim >= 2 else 0.0}
        for override in overrides:
            if matching(name, [override["match"]]):
                own |= {key: value for key, value in override.items() if key != "match"}
        groups.setdefault(tuple(sorted(own.items())), {"params": [], **own})["params"].append((name, parameter))
    return list(groups.values())
