"""The section `args`."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from trustformers_pl.arguments.draft import nested
from trustformers_pl.arguments.standing_for import standing_for
from trustformers_pl.errors import RecipeError
from trustformers_pl.hookspecs import hookimpl
from trustformers_pl.plugins import Plugin
from trustformers_pl.recipe.places import Leaf, Place, Section, flatten, from_plain
from trustformers_pl.training_arguments import TrainingArguments

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from trustformers_pl.arguments.draft import Draft
    from trustformers_pl.recipe import Recipe
    from trustformers_pl.run import Run


class ArgsPlugin(Plugin):
    """Training arguments in one flat list, under transformers' names."""

    example: ClassVar[Mapping[str, Any]] = {"learning_rate": 0.01, "weight_decay": 0.02}
    Config: ClassVar[type] = TrainingArguments
    config: TrainingArguments

    @hookimpl
    def recipe(self, recipe: Recipe) -> Mapping[str, Any]:
        """The sections, each value at the place of its argument.

        Raises:
            RecipeError: The arguments contradict the recipe, or are for a section that it does not have.
        """
        own = recipe.tree.section(self.name)
        try:
            draft = standing_for(self.config, recipe.tree)
        except ValueError as error:
            raise RecipeError(f"{own.place}: {self.name}: {error}") from error
        self._refuse_without_data(draft, own, recipe)
        values = nested({key: self._node(draft, key, own) for key in draft.values})
        place = Place(own.place.source, own.place.line, self.name)
        return {section: from_plain(value, place) for section, value in values.items()}

    def _node(self, draft: Draft, key: str, own: Section) -> Leaf | Section:
        place, value = self._place(draft.origins[key], own), draft.values[key]
        return Section(place) if value == {} else Leaf(value, place)

    def _place(self, argument: str, own: Section) -> Place:
        written = own.entries.get(argument, own).place
        return Place(written.source, written.line, f"{self.name}.{argument}")

    def _refuse_without_data(self, draft: Draft, own: Section, recipe: Recipe) -> None:
        lines = [
            f"{self._place(draft.origins[key], own)}: the recipe has no section `data` that {draft.origins[key]} "
            "could be for; add it (around live datasets: give TrainingArguments itself as `args`)"
            for key in draft.values
            if key.startswith("data.") and "data" not in recipe.tree.entries
        ]
        if lines:
            raise RecipeError("\n".join(lines))

    @hookimpl
    def probe(self, run: Run) -> str | None:
        """The keys that have their value from an argument."""
        leaves = flatten(run.assembly.plan.recipe.tree)
        keys = [key for key, leaf in leaves.items() if (leaf.place.via or "").startswith(f"{self.name}.")]
        return f"stands for {', '.join(keys)}" if keys else None
