"""The contract's reference: hooks in order, phases, and the words of the traits, from the core's own docstrings."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING

import griffe

from docs_site.features import features
from docs_site.markdown import anchor, code, docstring, fence, table
from docs_site.traits_of import HOOKS, hooks_of, requires
from trustformers_pl.gradients import OURS_ALONE, GradientPhase
from trustformers_pl.hookspecs import PROJECT, HookSpecs
from trustformers_pl.phases import EXCLUSIVE, DataPhase, ModulePhase
from trustformers_pl.traits import NEEDS_OF_HOOKS, OF_MODULES, SLOTS_OF_HOOKS, Slot, Trait

if TYPE_CHECKING:
    from collections.abc import Iterable
    from enum import StrEnum

    from docs_site.features import Feature


def hooks() -> str:
    """A section a hook, in the order in which they are called."""
    return "\n\n".join(_hook(name) for name in HOOKS)


def _hook(name: str) -> str:
    spec = getattr(HookSpecs, name)
    arguments = [p for p in inspect.signature(spec).parameters if p != "self"]
    implementers = [feature for feature in features() if name in hooks_of(feature.plugin)]
    notes = [
        "The first answer that is not `None` counts." if getattr(spec, f"{PROJECT}_spec")["firstresult"] else "",
        f"Claim {_link('slot', SLOTS_OF_HOOKS[name])}." if name in SLOTS_OF_HOOKS else "",
        f"Requires {_link('trait', NEEDS_OF_HOOKS[name])}." if name in NEEDS_OF_HOOKS else "",
        f"Implemented by {_features(implementers)}." if implementers else "",
    ]
    heading = f"## `{name}` {{#{anchor('hook', name)}}}"
    signature = fence("python", f"def {name}({', '.join(['self', *arguments])}) -> {_answer(spec)}: ...")
    return "\n\n".join([heading, signature, docstring(spec), " ".join(note for note in notes if note)])


def _answer(spec: object) -> str:
    return str(inspect.signature(spec).return_annotation)  # type: ignore[arg-type]


def phases() -> str:
    """The phases of the module, the data and the gradients, in order."""
    return "\n\n".join(
        f"## {title} {{#{anchor('phases', hook)}}}\n\n{_intro(kind)}\n\n{table(['Phase', 'What happens'], rows)}"
        for title, hook, kind, rows in (
            ("Phases of the module", "modify_module", ModulePhase, _members(ModulePhase)),
            ("Phases of the data", "data", DataPhase, _members(DataPhase)),
            ("Phases of the gradients", "gradient", GradientPhase, _members(GradientPhase)),
        )
    )


def _intro(kind: type[StrEnum]) -> str:
    closed = [phase for phase in kind if phase in OURS_ALONE]
    owned = [phase for phase in kind if phase in EXCLUSIVE]
    sentences = [f"{code(kind.__name__)}. {docstring(kind)}"]
    if closed:
        sentences.append(f"{', '.join(code(phase.value) for phase in closed)} take no rules.")
    if owned:
        sentences.append(f"{', '.join(code(phase.value) for phase in owned)} have one owner each.")
    return " ".join(sentences)


def _members(kind: type[StrEnum]) -> list[list[str]]:
    texts = member_docstrings(kind)
    return [[code(member.value), texts.get(member.name, "")] for member in kind]


def slots() -> str:
    """A section a slot: what it is, and who claims it."""
    return "\n\n".join(_word("slot", slot, member_docstrings(Slot)[slot.name], _claimants(slot)) for slot in Slot)


def _claimants(slot: Slot) -> list[str]:
    return [f"Claimed by {_features(f for f in features() if f.config and slot in f.plugin.traits(f.config).claims)}."]


def traits() -> str:
    """A section a trait: what it means, who provides it, who asks for it."""
    return "\n\n".join(_word("trait", trait, member_docstrings(Trait)[trait.name], _users(trait)) for trait in Trait)


def _users(trait: Trait) -> list[str]:
    configured = [feature for feature in features() if feature.config]
    providers = [f for f in configured if trait in f.plugin.traits(f.config).provides]
    requirers = [f for f in configured if trait in requires(f.plugin, f.config)]
    refusers = [f for f in configured if trait in {r.trait for r in f.plugin.traits(f.config).refuses}]
    return [
        f"To provide it as a module: {OF_MODULES[trait]}." if trait in OF_MODULES else "",
        f"Provided by {_features(providers)}." if providers else "",
        f"Required by {_features(requirers)}." if requirers else "",
        f"Refused by {_features(refusers)}." if refusers else "",
    ]


def _word(kind: str, word: StrEnum, meaning: str, notes: Iterable[str]) -> str:
    return "\n\n".join(
        [f"### `{word.value}` {{#{anchor(kind, word.value)}}}", meaning, " ".join(note for note in notes if note)]
    )


def _features(found: Iterable[Feature]) -> str:
    links = [f"[{code(feature.heading)}]({feature.link})" for feature in found]
    return ", ".join(links) or "no installed feature"


def _link(kind: str, word: StrEnum) -> str:
    return f"[{code(word.value)}](traits.md#{anchor(kind, word.value)})"


def member_docstrings(kind: type[StrEnum]) -> dict[str, str]:
    """Member -> its docstring on one line; Python itself throws these away."""
    file = Path(inspect.getfile(kind))
    members = griffe.visit(kind.__module__, file, file.read_text("utf-8"))[kind.__name__].members
    return {name: " ".join(m.docstring.value.split()) for name, m in members.items() if m.docstring}
