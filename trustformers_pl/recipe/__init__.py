"""Reading recipes: typed sections whose every value knows where it was written."""

from trustformers_pl.recipe.recipe import Recipe

__all__ = ["Recipe"]
