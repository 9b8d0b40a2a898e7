"""Mixins of several features in one class: what a later one defines must be reached, not hidden by an earlier one."""

from __future__ import annotations

import inspect
from itertools import combinations
from types import FunctionType
from typing import TYPE_CHECKING, Any

from trustformers_pl.compose import extend
from trustformers_pl.errors import RefusedError
from trustformers_pl.optimization import ConfiguredOptimizers
from trustformers_pl.parts import locate

if TYPE_CHECKING:
    from trustformers_pl.assembly import Assembly

# What Python's own abstract classes and protocols leave in each class.
OF_PYTHON = ("_abc_impl", "_is_protocol", "_is_runtime_protocol")


def mix_in(module: Any, assembly: Assembly) -> None:
    """Compose the features' mixins into the module's class.

    Raises:
        RefusedError: One mixin hides what another one defines, or Python finds no order for them.
    """
    sections = assembly.sections["module_mixins"]
    mixins = [(section, locate(mixin)) for section, mixin in zip(sections, assembly.mixins, strict=True)]
    # In the module's class it stands before the features' mixins.
    engine = [] if assembly.optimizer is None else [("optimizer", ConfiguredOptimizers)]
    for first, second in combinations([*engine, *mixins], 2):
        if name := hidden_name(first[1], second[1]):
            raise RefusedError(f"{assembly.plan.place(second[0])}: {_said(name, *first, *second)}")
    try:
        extend(module, *(mixin for _, mixin in mixins))
    except TypeError as error:
        cause = " ".join(str(error).split())
        names = " and ".join(dict.fromkeys(section for section, _ in mixins))
        raise RefusedError(
            f"{assembly.plan.place(mixins[-1][0])}: the mixins of {names} cannot be bases of one class: {cause}; "
            "change the order by the `after` traits, or remove one of the sections"
        ) from error


def hidden_name(first: type, second: type) -> str | None:
    """A name that both classes define and that of the second is never reached, as the first does not call `super()`."""
    for name in sorted(_names(first) & _names(second)):
        definer, hidden = _definer(first, name), _definer(second, name)
        if vars(definer)[name] is not vars(hidden)[name] and not passes_on(definer, name):
            return name
    return None


def passes_on(cls: type, name: str) -> bool:
    """Whether a class's own method of that name calls `super()`, as far as its code tells."""
    function = inspect.unwrap(vars(cls)[name])
    return isinstance(function, FunctionType) and "super" in function.__code__.co_names


def _names(cls: type) -> set[str]:
    classes = [one for one in cls.__mro__ if one is not object]
    names = {name for one in classes for name in vars(one)}
    return {name for name in names if name not in OF_PYTHON and not (name.startswith("__") and name.endswith("__"))}


def _definer(cls: type, name: str) -> type:
    return next(one for one in cls.__mro__ if name in vars(one))


def _said(name: str, first: str, hiding: type, second: str, hidden: type) -> str:
    return (
        f"{first} and {second} both define `{name}` of the module, and that of {first} ({hiding.__name__}) hides that "
        f"of {second} ({hidden.__name__}); call super() in it, rename one, or remove one of the two sections"
    )
