"""LightningModules with several models: which parts there are, which of them train, and how they are sharded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trustformers_pl.compose import user_class
from trustformers_pl.errors import RefusedError

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class ModelPart:
    """One model of a module that has several.

    Attributes:
        module: The model, a submodule of the LightningModule.
        frozen: It is not trained: no gradients, eval mode, in no optimizer and no checkpoint.
        forward_methods: Its methods beside `forward` that compute with its parameters, such as `generate`; strategies
            that shard it register them (`torch.distributed.fsdp.register_fsdp_forward_method`).
    """

    module: nn.Module
    frozen: bool = False
    forward_methods: tuple[str, ...] = ()


def has_parts(module: object) -> bool:
    """Whether a module declares `parts() -> Mapping[str, ModelPart]`."""
    return callable(getattr(type(module), "parts", None))


def sharding_roots(module: nn.Module) -> dict[str, ModelPart]:
    """What a strategy shards one by one, in this order.

    Args:
        module: A LightningModule.

    Returns:
        Its parts by name. The whole module stands last, under the empty name, if parameters of it are in no part; alone
        if it has no parts.

    Raises:
        RefusedError: `parts()` gives something else, or parts share parameters.
    """
    parts = declared_parts(module)
    inside = {id(parameter) for part in parts.values() for parameter in part.module.parameters()}
    if parts and all(id(parameter) in inside for parameter in module.parameters()):
        return parts
    return {**parts, "": ModelPart(module)}


def declared_parts(module: nn.Module) -> dict[str, ModelPart]:
    """What `module.parts()` gives, checked; empty where there is no such method.

    Raises:
        RefusedError: It gives something else, or parts share parameters.
    """
    if not has_parts(module):
        return {}
    parts: Any = module.parts()  # type: ignore[operator]
    if not isinstance(parts, Mapping) or not all(isinstance(part, ModelPart) for part in parts.values()):
        raise RefusedError(f"{user_class(type(module)).__name__}.parts() must give a mapping of names to ModelParts")
    _refuse_ties(parts)
    return dict(parts)


def _refuse_ties(parts: Mapping[str, ModelPart]) -> None:
    owners: dict[int, tuple[str, str]] = {}
    for part, declared in parts.items():
        for name, parameter in declared.module.named_parameters(remove_duplicate=False):
            other, other_name = owners.setdefault(id(parameter), (part, name))
            if other != part:
                raise RefusedError(
                    f"parts: {other} and {part} share a parameter ({other}.{other_name} is {part}.{name}); "
                    "copy it, or make both one part"
                )
