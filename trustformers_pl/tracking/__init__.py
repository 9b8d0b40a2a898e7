"""What a run tells about itself: metrics, a CSV file, the terminal, generated samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trustformers_pl.lazy import exports

if TYPE_CHECKING:
    from trustformers_pl.tracking.csv import CSVLogger
    from trustformers_pl.tracking.metrics import Metrics
    from trustformers_pl.tracking.phase_timer import PhaseTimer
    from trustformers_pl.tracking.progress import Progress
    from trustformers_pl.tracking.samples import Samples
    from trustformers_pl.tracking.scores import Scores
    from trustformers_pl.tracking.system import SystemMetrics
    from trustformers_pl.tracking.tensorboard import TensorBoardLogger

__all__ = ["CSVLogger", "Metrics", "PhaseTimer", "Progress", "Samples", "Scores", "SystemMetrics", "TensorBoardLogger"]

__getattr__, __dir__ = exports(
    __name__,
    {
        "CSVLogger": "csv",
        "Metrics": "metrics",
        "PhaseTimer": "phase_timer",
        "Progress": "progress",
        "Samples": "samples",
        "Scores": "scores",
        "SystemMetrics": "system",
        "TensorBoardLogger": "tensorboard",
    },
)
