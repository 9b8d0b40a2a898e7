"""A recipe as YAML that this package reads back as the same values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from trustformers_pl.recipe.marked_yaml import RecipeLoader


class RecipeDumper(yaml.SafeDumper):
    """Quotes what PyYAML takes for a word and we for a number: the string `1e-3`."""


RecipeDumper.yaml_implicit_resolvers = {
    first: [
        *yaml.SafeDumper.yaml_implicit_resolvers.get(first, []),
        *RecipeLoader.yaml_implicit_resolvers.get(first, []),
    ]
    for first in {**yaml.SafeDumper.yaml_implicit_resolvers, **RecipeLoader.yaml_implicit_resolvers}
}


def as_yaml(sections: Any) -> str:
    """Plain values (mappings, lists, scalars) as YAML, in the order given."""
    text: str = yaml.dump(sections, Dumper=RecipeDumper, sort_keys=False, allow_unicode=True)
    return text


def flow(value: Any) -> str:
    """One value on one line, as it stands after `key: `: tuples as lists, paths as strings."""
    text: str = yaml.dump(
        _writable(value), Dumper=RecipeDumper, default_flow_style=True, width=10**6, allow_unicode=True
    )
    return text.removesuffix("\n").removesuffix("\n...")


def _writable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _writable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_writable(item) for item in value]
    return str(value) if isinstance(value, Path) else value
