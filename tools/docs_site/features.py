"""The reference of recipes: a page a chapter, a section a feature, all of it from the plugins' own declarations."""

from __future__ import annotations

import dataclasses
import json
import typing
from dataclasses import MISSING
from functools import cache
from importlib import import_module
from typing import Any

from docs_site.markdown import anchor, code, docstring, fence, first_line, table
from docs_site.traits_of import hooks_of, traits_table
from trustformers_pl.plugins import Offer, Plugin, discover, trainer_argument_owners
from trustformers_pl.recipe.config import Problems, build_config
from trustformers_pl.recipe.docstrings import field_docstrings
from trustformers_pl.recipe.places import from_plain
from trustformers_pl.recipe.values import describe
from trustformers_pl.recipe.writing import as_yaml

OWN = "trustformers_pl"
FOLDER = "reference/recipe"


@dataclasses.dataclass(frozen=True)
class Feature:
    """One plugin of those that are installed.

    Attributes:
        offer: Where it comes from.
        plugin: Its class.
    """

    offer: Offer
    plugin: type[Plugin]

    @property
    def section(self) -> str:
        """The section of a recipe that switches it on."""
        return self.offer.name.partition(".")[0]

    @property
    def heading(self) -> str:
        """How a recipe names it: `csv`, or `optimizer: {name: adamw}`."""
        slot, _, choice = self.offer.name.partition(".")
        return f"{slot}: {{name: {choice}}}" if choice else slot

    @property
    def is_ours(self) -> bool:
        """Whether it is in our own package."""
        return self.offer.entry_point.module.startswith(f"{OWN}.")

    @property
    def chapter(self) -> str:
        """The subpackage of ours that it is in, or the distribution of another package."""
        return self.offer.entry_point.module.split(".")[1] if self.is_ours else self.offer.package

    @property
    def example(self) -> dict[str, Any]:
        """The section that its author shows; with its `name` where it fills a slot."""
        choice = self.offer.name.partition(".")[2]
        return {**({"name": choice} if choice else {}), **self.plugin.example}

    @property
    def config(self) -> Any:
        """The Config of the example; None where the example does not make one."""
        return build_config(self.plugin.Config, from_plain(self.plugin.example), self.section, Problems())

    @property
    def link(self) -> str:
        """To its section of the reference, from a page in `reference/`."""
        return f"recipe/{self.chapter}.md#{anchor(self.offer.name)}"


@cache
def features() -> tuple[Feature, ...]:
    """All features of this repository's distributions and of installed ones, by name.

    Raises:
        trustformers_pl.errors.PluginError: One of them cannot be imported.
    """
    return tuple(Feature(offer, offer.load()) for offer in discover().values())


def overview() -> str:
    """A table of all features, with links to their sections; the package is named where it is not ours."""
    return table(["Section", "What it is"], map(_overview_row, features()))


def _overview_row(feature: Feature) -> list[str]:
    origin = "" if feature.is_ours else f"<br><small>{feature.offer.package}</small>"
    return [f"[{code(feature.heading)}]({feature.link}){origin}", first_line(docstring(feature.plugin))]


def pages() -> dict[str, str]:
    """Path in the site -> text, a page a chapter."""
    chapters = sorted({feature.chapter for feature in features()})
    return {f"{FOLDER}/{chapter}.md": _page(chapter) for chapter in chapters}


def _page(chapter: str) -> str:
    members = [feature for feature in features() if feature.chapter == chapter]
    ours = all(feature.is_ours for feature in members)
    intro = docstring(import_module(f"{OWN}.{chapter}")) if ours else f"Features of the package `{chapter}`."
    return "\n\n".join([f"# {chapter}", intro, *(_section(feature) for feature in members)]) + "\n"


def _section(feature: Feature) -> str:
    names = [f"[{code(hook)}](../hooks.md#{anchor('hook', hook)})" for hook in hooks_of(feature.plugin)]
    origin = f"{code(feature.offer.entry_point.value)} of {feature.offer.package} {feature.offer.version}"
    pieces = [
        f"## `{feature.heading}` {{#{anchor(feature.offer.name)}}}",
        docstring(feature.plugin),
        fence("yaml", as_yaml({feature.section: feature.example})),
        keys_table(feature.plugin.Config),
        traits_table(feature.plugin, feature.config),
        f"Answers the hooks {', '.join(names)}. Plugin: {origin}.",
        _owned(feature.section),
    ]
    return "\n\n".join(piece for piece in pieces if piece)


def _owned(section: str) -> str:
    owned = [code(f"trainer.{argument}") for argument, owners in trainer_argument_owners().items() if section in owners]
    return f"Owns {', '.join(owned)}: write this section instead." if owned else ""


def keys_table(config: type) -> str:
    """The keys of a Config: type, default and meaning; a sentence where there are none."""
    rows = [[f"{code(key)}<br><small>{kind}</small>", default, text] for key, kind, default, text in _keys(config)]
    return table(["Key", "Default", "Meaning"], rows) if rows else "It has no keys."


def _keys(config: type, prefix: str = "") -> list[tuple[str, str, str, str]]:
    hints, texts = typing.get_type_hints(config), field_docstrings(config)
    found: list[tuple[str, str, str, str]] = []
    for field in dataclasses.fields(config):
        hint, name = hints[field.name], f"{prefix}{field.name}"
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            found += _keys(hint, f"{name}.")
        else:
            found.append((name, describe(hint), default_of(field), texts.get(field.name, "")))
    return found


def default_of(field: dataclasses.Field[Any]) -> str:
    """A field's default as a recipe would write it."""
    if field.default_factory is not MISSING:
        return _written(field.default_factory())
    return "**required**" if field.default is MISSING else _written(field.default)


def _written(value: Any) -> str:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    return code(json.dumps(value, default=str, ensure_ascii=False))
