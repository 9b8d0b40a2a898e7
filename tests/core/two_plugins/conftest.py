"""Two features of two packages: `aaa` comes after `zzz` by its traits, against the alphabet.

Whatever goes by name alone comes out the other way round.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import pytest

from trustformers_pl.factory import assemble
from trustformers_pl.hookspecs import HookSpecs

if TYPE_CHECKING:
    from collections.abc import Callable

    from trustformers_pl.run import Run

SOURCE = """
from trustformers_pl import LossTerm, Plugin, SampleWeights, Traits, hookimpl, part
{more}
class Feature(Plugin):
    "One of two features."
    @classmethod
    def traits(cls, config):
        return Traits({traits})
"""


@pytest.fixture
def install_two(install: Any) -> Callable[..., None]:
    """Install `aaa` and `zzz`, each with an answer to one hook (for `phase` only, where it has phases)."""

    def install_two_(
        hook: str, *, zzz: str, aaa: str, phase: str = "", more: str = "", claims: str = "", owns: str = ""
    ) -> None:
        arguments = ", ".join(inspect.signature(getattr(HookSpecs, hook)).parameters)
        for section, answer in (("zzz", zzz), ("aaa", aaa)):
            own = f"({answer}) if phase == {phase!r} else None" if phase else answer
            after = 'after=frozenset({"zzz"}), ' if section == "aaa" else ""
            traits = f"{after}claims=frozenset({{{str(claims)!r}}})" if claims else after
            source = SOURCE.format(traits=traits, more=more) + f"    {hook} = hookimpl(lambda {arguments}: {own})\n"
            groups = {"trustformers_pl__trainer_arguments": {owns: "Feature"}} if owns else {}
            install(f"{section}-pack", source, trustformers_pl={section: "Feature"}, **groups)

    return install_two_


@pytest.fixture
def two(write: Any, install_two: Any) -> Callable[..., Run]:
    """Install both and train one step with them from a recipe."""

    def two_(hook: str, *, overrides: tuple[str, ...] = (), recipe: str = "", **answers: str) -> Run:
        install_two(hook, **answers)
        path = write(more=f"{recipe}aaa: {{}}\nzzz: {{}}\n")
        run = assemble(path, ["trainer.max_steps=1", "trainer.log_every_n_steps=1", *overrides])
        run.fit("never")
        return run

    return two_


@pytest.fixture
def refused(write: Any, install_two: Any) -> Callable[..., tuple[type[Exception], str]]:
    """Install both and assemble a recipe with them, which must be refused: the error's class and message."""

    def refused_(hook: str, *, overrides: tuple[str, ...] = (), **answers: str) -> tuple[type[Exception], str]:
        install_two(hook, **answers)
        path = write(more="aaa: {}\nzzz: {}\n")
        with pytest.raises(Exception) as caught:  # noqa: PT011 - the caller compares class and message
            assemble(path, overrides)
        return caught.type, str(caught.value)

    return refused_
