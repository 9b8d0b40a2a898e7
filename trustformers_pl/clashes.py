"""Clashes of two sections that show only once their parts are built: refused before training, both sections named."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

from lightning import Callback
from lightning.fabric.plugins import CheckpointIO, ClusterEnvironment
from lightning.pytorch.plugins import LayerSync, Precision

from trustformers_pl.errors import RefusedError
from trustformers_pl.trainer_part import ENGINE

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from trustformers_pl.assembly import Assembly
    from trustformers_pl.steps import LossTerm

KINDS = (Precision, CheckpointIO, ClusterEnvironment, LayerSync)
# Why a section may not bring what the engine brings to every run, and what it does instead.
OF_ENGINE: dict[type, str] = {
    Precision: "keeps the gradient order; own `trainer.precision`, or answer the hook `gradient`",
    ClusterEnvironment: "is found from the launcher; leave it to the engine",
}


def refuse_trainer_clashes(assembly: Assembly, arguments: dict[str, Any]) -> None:
    """Compare the built arguments of a Trainer.

    Raises:
        RefusedError: Two plugins of one kind, two callbacks that a checkpoint cannot tell apart, or two mesh dimensions
            of one name or both without a size.
    """
    plugins, callbacks = arguments["plugins"], arguments["callbacks"]
    _refuse_twins(assembly, "plugins", plugins, _kind, _plugins_clash)
    _refuse_twins(assembly, "callbacks", callbacks, _state_key, _callbacks_clash)
    dimensions = getattr(arguments.get("strategy"), "dimensions", ())
    if assembly.sections.get("mesh"):
        _refuse_twins(assembly, "mesh", dimensions, lambda dimension: dimension.name, _names_clash)
        _refuse_twins(assembly, "mesh", dimensions, lambda dimension: dimension.size is None or None, _sizes_clash)


def refuse_term_clashes(assembly: Assembly, terms: Sequence[LossTerm]) -> None:
    """Compare the loss terms.

    Raises:
        RefusedError: Two have one name.
    """
    _refuse_twins(assembly, "loss_terms", terms, lambda term: term.name, _terms_clash)


def _refuse_twins(
    assembly: Assembly,
    hook: str,
    built: Sequence[Any],
    key: Callable[[Any], Hashable | None],
    said: Callable[[str, str, Any], str],
) -> None:
    keys = [key(item) for item in built]
    sections = assembly.sections[hook]
    for (first, one), (second, other) in combinations(zip(sections, keys, strict=True), 2):
        if one is not None and one == other:
            raise RefusedError(f"{assembly.plan.place(second)}: {said(first, second, one)}")


def _kind(plugin: Any) -> type | None:
    return next((kind for kind in KINDS if isinstance(plugin, kind)), None)


def _state_key(callback: Any) -> str | None:
    keeps_state = isinstance(callback, Callback) and type(callback).state_dict is not Callback.state_dict
    return callback.state_key if keeps_state else None


def _plugins_clash(first: str, second: str, kind: type) -> str:
    if first == ENGINE:
        return f"{second} brings a {kind.__name__}, and that of every run {OF_ENGINE[kind]}"
    return f"{_both(first, second)} a {kind.__name__}, and a Trainer takes one; remove one of the two"


def _callbacks_clash(first: str, second: str, key: str) -> str:
    return (
        f"{_both(first, second)} a callback that a checkpoint would keep under the state key {key!r}; give one of the "
        "classes a `state_key` of its own, or let it keep its state by state() and load_state()"
    )


def _names_clash(first: str, second: str, name: str) -> str:
    return f"{_both(first, second)} a mesh dimension {name!r}; remove one of the two"


def _sizes_clash(first: str, second: str, _: bool) -> str:
    return f"{_both(first, second)} a mesh dimension without a size, and only one can take the rest; give one its size"


def _terms_clash(first: str, second: str, name: str) -> str:
    return f"{_both(first, second)} a loss term {name!r}, which is its name in the log; remove one, or rename it"


def _both(first: str, second: str) -> str:
    return f"{first} twice brings" if first == second else f"{first} and {second} both bring"
