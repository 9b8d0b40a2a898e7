"""What cannot be sharded, found before any process group is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trustformers_pl.errors import RefusedError
from trustformers_pl.model_parts import sharding_roots
from trustformers_pl.parallel.units import sharding_units

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

INSTEAD = "use zero.stage=2, which keeps weights whole"


def refuse_unshardable(module: nn.Module, units: Sequence[str] = ()) -> None:
    """Refuse a module that stage 3 cannot cut.

    Args:
        module: With all its parameters, on any device.
        units: As in `sharding_units`.

    Raises:
        RefusedError: A parameter is a scalar, is tied across units, or is of another type than those of its unit.
    """
    unit_of: dict[str, str] = {}
    for root, part in sharding_roots(module).items():
        prefix = f"{root}." if root else ""
        for name, unit in sharding_units(part.module, units).items():
            for inner, _ in unit.named_parameters(remove_duplicate=False):
                unit_of.setdefault(f"{prefix}{name}.{inner}", f"{prefix}{name}")
    _refuse_scalars(module)
    _refuse_ties(module, unit_of)
    _refuse_mixtures(module, unit_of)


def _refuse_scalars(module: nn.Module) -> None:
    for name, parameter in module.named_parameters():
        if parameter.ndim == 0:
            raise RefusedError(
                f"zero: {name} is a scalar, and stage 3 cuts parameters along their first dimension; give it the shape "
                f"(1,), or {INSTEAD}"
            )


def _refuse_ties(module: nn.Module, unit_of: dict[str, str]) -> None:
    first: dict[int, str] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        other = first.setdefault(id(parameter), name)
        here, there = unit_of.get(name, ""), unit_of.get(other, "")
        if here != there:
            raise RefusedError(
                f"zero: {other} and {name} are one parameter in two units of stage 3 ({there or 'the whole module'} "
                f"and {here or 'the whole module'}), and each unit is gathered and freed by itself; name a class that "
                f"holds both in zero.units, or {INSTEAD}"
            )


def _refuse_mixtures(module: nn.Module, unit_of: dict[str, str]) -> None:
    types: dict[str, tuple[str, object]] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        unit = unit_of.get(name, "")
        other, dtype = types.setdefault(unit, (name, parameter.dtype))
        if dtype != parameter.dtype:
            raise RefusedError(
                f"zero: {other} is {dtype} and {name} is {parameter.dtype}, in one unit of stage 3, which reduces "
                f"their gradients as one; give them one type, or {INSTEAD}"
            )
