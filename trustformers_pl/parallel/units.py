"""Which parts of a module are sharded, gathered and freed as one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from trustformers_pl.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CONTAINERS = (nn.ModuleList, nn.Sequential, nn.ModuleDict)


def sharding_units(module: nn.Module, names: Sequence[str] = ()) -> dict[str, nn.Module]:
    """The submodules that are units of their own; what is in none of them goes with the whole module.

    Args:
        module: Whose submodules they are.
        names: Names of classes, such as `Block`: each module of such a class is a unit. Without any, the items of the
            outermost `ModuleList`s, `ModuleDict`s and `Sequential`s that hold parameters: the blocks of a transformer.

    Returns:
        Name -> submodule, inner ones first.

    Raises:
        RefusedError: There is no module of a class.
    """
    found = dict(_of_classes(module, names) if names else _items(module, ""))
    return dict(sorted(found.items(), key=lambda item: -item[0].count(".")))


def _of_classes(module: nn.Module, names: Sequence[str]) -> Iterator[tuple[str, nn.Module]]:
    unknown = set(names)
    for name, child in module.named_modules():
        if name and type(child).__name__ in names:
            unknown.discard(type(child).__name__)
            yield name, child
    if unknown:
        classes = ", ".join(sorted({type(child).__name__ for child in module.modules() if child is not module}))
        raise RefusedError(f"zero.units: the module has no {min(unknown)}; it has {classes}")


def _items(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        if isinstance(module, CONTAINERS) and not isinstance(child, CONTAINERS):
            if next(child.parameters(), None) is not None:
                yield path, child
        else:
            yield from _items(child, f"{path}.")
