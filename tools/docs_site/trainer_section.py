"""The `trainer` section: Lightning's arguments, their defaults here, and the sections that own some of them."""

from __future__ import annotations

import dataclasses
import typing

from docs_site.features import Feature, default_of, features
from docs_site.markdown import code, table
from trustformers_pl.plan import FILLED_BY_HOOKS
from trustformers_pl.plugins import trainer_argument_owners
from trustformers_pl.recipe.values import describe
from trustformers_pl.trainer_arguments import TrainerArguments
from trustformers_pl.trainer_part import OWN_SHARDING, QUIET_DEFAULTS

OURS = {**QUIET_DEFAULTS, **OWN_SHARDING, "default_root_dir": "runs/<the recipe's name>"}


def table_rows() -> list[list[str]]:
    """A row an argument: its name and type, its default, and who writes it."""
    hints, owners = typing.get_type_hints(TrainerArguments), trainer_argument_owners()
    return [
        [
            f"{code(field.name)}<br><small>{describe(hints[field.name])}</small>",
            _default(field),
            _writer(field.name, owners.get(field.name, [])),
        ]
        for field in dataclasses.fields(TrainerArguments)
    ]


def arguments() -> str:
    """All arguments."""
    return table(["Argument", "Default", "Written"], table_rows())


def _default(field: dataclasses.Field[object]) -> str:
    if field.name not in OURS:
        return default_of(field)
    shown = OURS[field.name]
    return f"{code(str(shown).lower() if isinstance(shown, bool) else str(shown))}; Lightning's is {default_of(field)}"


def _writer(argument: str, sections: list[str]) -> str:
    if argument in FILLED_BY_HOOKS:
        return f"by the sections that bring {FILLED_BY_HOOKS[argument]}; refused here"
    if sections:
        links = [_linked(feature) for feature in features() if feature.offer.name in sections]
        return f"by {' or '.join(links)}; refused here"
    return "here"


def _linked(feature: Feature) -> str:
    return f"[{code(feature.heading)}]({feature.link})"
