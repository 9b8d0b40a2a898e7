"""Which launcher started this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.lsf import LSFEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

if TYPE_CHECKING:
    from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment

# Lightning's own detection also asks mpi4py, and dies where that is installed without an MPI library.
LAUNCHERS: tuple[type[ClusterEnvironment], ...] = (TorchElasticEnvironment, SLURMEnvironment, LSFEnvironment)


def cluster_environment() -> ClusterEnvironment:
    """The environment of torchrun, SLURM or LSF where one of them started us, else Lightning's own."""
    found = next((launcher for launcher in LAUNCHERS if launcher.detect()), LightningEnvironment)
    return found()
