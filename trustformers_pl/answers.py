"""What the plugins answer to a hook, and whose each answer is: a refusal names the sections that clash."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trustformers_pl.plan import Plan


@dataclass(frozen=True)
class Answer:
    """One thing that a plugin adds to the run.

    Attributes:
        plugin: The plugin's name.
        item: A part, or an object.
    """

    plugin: str
    item: Any


def calls(plan: Plan, hook: str, **arguments: Any) -> Iterator[tuple[str, Any]]:
    """(plugin, what it returns) of each implementation of a hook, in plugin order."""
    # pluggy keeps implementations in the reverse order of calls.
    for implementation in reversed(getattr(plan.hook, hook).get_hookimpls()):
        function: Any = implementation.function
        given = {"plan": plan, **arguments}
        yield implementation.plugin_name, function(*(given[name] for name in implementation.argnames))


def answers(plan: Plan, hook: str, **arguments: Any) -> list[Answer]:
    """Each item of each plugin's list, in plugin order."""
    return [Answer(plugin, item) for plugin, listed in calls(plan, hook, **arguments) for item in listed or ()]


def items(found: list[Answer]) -> list[Any]:
    """The items alone."""
    return [answer.item for answer in found]


def once(found: list[Answer]) -> list[Answer]:
    """The first of those whose items are equal."""
    return list({answer.item: answer for answer in [*found, *reversed(found)]}.values())


def owners(found: list[Answer]) -> tuple[str, ...]:
    """The plugin of each item."""
    return tuple(answer.plugin for answer in found)
