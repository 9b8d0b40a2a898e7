"""The mesh strategy of the core, under the name that users rely on."""

from trustformers_pl.mesh_strategy import Dimension, MeshStrategy

__all__ = ["Dimension", "MeshStrategy"]
