"""Can these features live in one run? Answered from their declarations: nothing is built, no torch is imported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trustformers_pl.errors import RecipeError
from trustformers_pl.names import nearest
from trustformers_pl.plan import make_plan
from trustformers_pl.plugins import discover
from trustformers_pl.recipe import Recipe
from trustformers_pl.recipe.config import Problems, build_config
from trustformers_pl.recipe.places import PYTHON, Section, from_plain
from trustformers_pl.refusals import refusals
from trustformers_pl.traits import OF_MODULES, Traits

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from trustformers_pl.plugins import Plugin


@dataclass(frozen=True)
class Verdict:
    """Whether features can live in one run.

    Attributes:
        reasons: Why not, one sentence each; empty if they can.
        completed_by: Features that others of the run need, and that were added to answer the question.
    """

    reasons: tuple[str, ...]
    completed_by: tuple[str, ...] = ()

    @property
    def together(self) -> bool:
        """Whether they can."""
        return not self.reasons


def section_of(feature: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe's section that switches a feature on: for `optimizer.adamw`, `{optimizer: {name: adamw, …}}`."""
    slot, _, choice = feature.partition(".")
    return {slot: {"name": choice, **values} if choice else dict(values)}


def example_of(feature: str) -> dict[str, Any]:
    """The section that switches an installed feature on, with its own example.

    Raises:
        RecipeError: No such feature is installed.
    """
    return section_of(feature, _loaded(feature).example)


def verdict(features: Sequence[str], written: Mapping[str, Any] | None = None) -> Verdict:
    """Whether features, each with its own example section, can live in one run.

    Args:
        features: Their names.
        written: Sections that take the place of examples, or stand beside them; what is no feature's does not matter.

    Raises:
        RecipeError: A feature is not installed.
        PluginError: It is broken.
    """
    for feature in features:
        _loaded(feature)
    rivals = _rivals(features)
    if rivals:
        return Verdict(tuple(rivals))
    added = completion(features)
    sections: dict[str, Any] = {}
    for feature in (*features, *added):
        sections |= example_of(feature)
    sections |= {name: section for name, section in (written or {}).items() if name in sections or name in discover()}
    plan = make_plan(Recipe.from_mapping(sections))
    checks = [reason for answer in plan.hook.check(plan=plan) for reason in answer or ()]
    found = [line.removeprefix(f"{PYTHON}: ") for line in refusals(plan, frozenset())]
    return Verdict((*found, *checks), tuple(added))


def completion(features: Iterable[str]) -> list[str]:
    """Installed features that give what these need and do not give each other; what nothing gives stays open."""
    present, known = list(features), _example_traits()
    added: list[str] = []
    while (need := next(iter(_open_needs([known[f] for f in (*present, *added) if f in known])), None)) is not None:
        taken = {feature.partition(".")[0] for feature in (*present, *added)}
        givers = [name for name, traits in known.items() if need in traits.provides]
        found = [name for name in givers if name.partition(".")[0] not in taken]
        if not found:
            break
        added.append(found[0])
    return added


def _open_needs(traits: list[Traits]) -> list[str]:
    provided = frozenset().union(*(t.provides for t in traits), OF_MODULES)
    return sorted(frozenset().union(*(t.requires for t in traits)) - provided)


def _example_traits() -> dict[str, Traits]:
    """The traits of every installed feature with its example; broken ones are left out."""
    found = {}
    for name, offer in discover().items():
        try:
            cls = offer.load()
            config = build_config(cls.Config, _node(cls), name, Problems())
            found[name] = cls.traits(config)
        except Exception:  # noqa: S112 - a stranger's broken plugin: nobody asked for it
            continue
    return found


def _node(cls: type[Plugin]) -> Section:
    node = from_plain(dict(cls.example))
    assert isinstance(node, Section)
    return node


def _rivals(features: Sequence[str]) -> list[str]:
    sections: dict[str, list[str]] = {}
    for feature in features:
        sections.setdefault(feature.partition(".")[0], []).append(feature)
    return [
        f"a recipe has one section `{section}`: choose {' or '.join(names)}"
        for section, names in sections.items()
        if len(names) > 1
    ]


def _loaded(feature: str) -> type[Plugin]:
    offers = discover()
    if feature not in offers:
        raise RecipeError(f"{feature}: no such feature is installed; {nearest(feature, offers)}")
    return offers[feature].load()
