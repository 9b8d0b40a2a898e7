"""Parallel training: the mesh strategy and its dimensions."""

from typing import TYPE_CHECKING

from trustformers_pl.lazy import exports

if TYPE_CHECKING:
    from trustformers_pl.mesh_strategy import Dimension, MeshStrategy
    from trustformers_pl.parallel.replicate import Replicate

__all__ = ["Dimension", "MeshStrategy", "Replicate"]
__getattr__, __dir__ = exports(__name__, {"Dimension": "mesh", "MeshStrategy": "mesh", "Replicate": "replicate"})
