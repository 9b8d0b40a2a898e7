"""A recipe as YAML that this package reads back as the same values."""

from __future__ import annotations

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
