"""The calls that `class_path` / `init_args` sections stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trustformers_pl.parts import Part
from trustformers_pl.recipe.places import Section, plain

if TYPE_CHECKING:
    from trustformers_pl.plan import Plan


def section_part(plan: Plan, section: str) -> Part | None:
    """The call of a section of the recipe; None where there is no such section."""
    node = plan.recipe.tree.entries.get(section)
    return class_part(plain(node)) if isinstance(node, Section) else None


def class_part(value: Any) -> Any:
    """The call of a plain value with a `class_path`, and of those within it; any other value as it is."""
    if isinstance(value, dict) and isinstance(value.get("class_path"), str):
        module, _, name = value["class_path"].rpartition(".")
        return Part(f"{module}:{name}", (), {k: class_part(v) for k, v in (value.get("init_args") or {}).items()})
    return [class_part(item) for item in value] if isinstance(value, list) else value
