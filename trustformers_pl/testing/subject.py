"""A plugin under test, and the recipes that it is tried in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trustformers_pl.compatibility import completion, example_of, section_of
from trustformers_pl.errors import RecipeError, RefusedError
from trustformers_pl.factory import assemble
from trustformers_pl.names import nearest
from trustformers_pl.plugins import discover
from trustformers_pl.recipe.config import Problems, build_config
from trustformers_pl.recipe.places import Section, from_plain
from trustformers_pl.testing.sections import IN_THE_PLAIN_RUN, LOGGED, SAVED, TWO_RANKS, Sections, beside
from trustformers_pl.traits import Slot, Trait, Traits

if TYPE_CHECKING:
    from trustformers_pl.plugins import Plugin


@dataclass(frozen=True)
class Subject:
    """A feature with the sections of one conformance class.

    Attributes:
        name: Of the feature.
        values: Its section.
        around: Other sections that it needs.
        measured: Logged columns that differ from run to run, such as times.
    """

    name: str
    values: Sections
    around: Sections = field(default_factory=dict)
    measured: tuple[str, ...] = ()

    @property
    def plugin(self) -> type[Plugin]:
        """Its class.

        Raises:
            RecipeError: It is not installed.
        """
        offers = discover()
        if self.name not in offers:
            raise RecipeError(
                f"{self.name}: no installed package offers this plugin; {nearest(self.name, offers)}, or install yours "
                "(`pip install -e .`), again if its entry points have changed"
            )
        return offers[self.name].load()

    @property
    def section(self) -> Sections:
        """What switches it on."""
        return section_of(self.name, self.values)

    @property
    def config(self) -> Any:
        """Its section as its Config.

        Raises:
            RecipeError: The section is not valid.
        """
        problems = Problems()
        node = from_plain(dict(self.values))
        assert isinstance(node, Section)
        config = build_config(self.plugin.Config, node, self.name, problems)
        problems.raise_if_any()
        return config

    @property
    def traits(self) -> Traits:
        """What this configuration declares."""
        return self.plugin.traits(self.config)

    def plain(self, devices: int = 1) -> dict[str, Any]:
        """The recipe without it, logged and saved."""
        return beside(*self._company(devices), devices=devices)

    def on(self, values: Sections | None = None, devices: int = 1) -> dict[str, Any]:
        """The recipe with it: with these values, or with its own."""
        section = self.section if values is None else section_of(self.name, values)
        return beside(*self._company(devices), section, devices=devices)

    def _company(self, devices: int) -> list[Sections]:
        claims, provides = self.traits.claims, self.traits.provides
        saved = {} if Slot.CHECKPOINTS in claims else SAVED
        own_ranks = Slot.DATA_PARALLEL in claims or Slot.STRATEGY in claims or Trait.MESH in provides
        ranks = TWO_RANKS if devices > 1 and not own_ranks else {}
        needed = completion([self.name, *IN_THE_PLAIN_RUN])
        return [saved, LOGGED, ranks, *map(example_of, needed), self.around]


def refused(sections: Sections) -> str | None:
    """Why a recipe is refused before training, or None if it is not."""
    try:
        assemble(sections)
    except RefusedError as error:
        return str(error)
    return None
