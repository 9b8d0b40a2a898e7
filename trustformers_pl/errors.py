"""The errors of this package: raised in Python, printed as their message by the command."""

from __future__ import annotations


class TrustformersError(Exception):
    """Anything this package refuses or cannot do. The message names the place, the cause and the mend.

    A message may hold several lines: one problem a line.
    """


class RecipeError(TrustformersError):
    """A recipe, an override or an environment variable that cannot be read as meant."""


class RefusedError(TrustformersError):
    """Features that cannot live in one run, or a feature this model or data cannot carry."""


class PluginError(TrustformersError):
    """A plugin that cannot be found, imported or understood."""


class DataError(TrustformersError):
    """Data that cannot be trained on: missing, empty or not what it says it is."""


class CheckpointError(TrustformersError):
    """A checkpoint that cannot be written, or is damaged, foreign or of another run."""


class NonFiniteError(TrustformersError):
    """Gradients that are infinite or no numbers; the weights were not touched by them."""


class CountError(TrustformersError):
    """Counts of a loss or a loss term that are not what was declared; the weights were not touched."""


class DeviceMemoryError(TrustformersError):
    """A batch that does not fit into the device's memory, in pieces neither."""
