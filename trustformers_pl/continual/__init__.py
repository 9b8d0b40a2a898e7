"""Continual learning: importance of weights, distillation, memories, progressive networks, and what is forgotten."""

from typing import TYPE_CHECKING

from trustformers_pl.lazy import exports

if TYPE_CHECKING:
    from trustformers_pl.continual.column_growth import IntoColumns, ProgressiveModule
    from trustformers_pl.continual.dark import DarkReplay
    from trustformers_pl.continual.dark_loss import dark_term, dark_weights
    from trustformers_pl.continual.ewc import EWC
    from trustformers_pl.continual.heads import TaskHeads
    from trustformers_pl.continual.lwf import LwF
    from trustformers_pl.continual.lwf_loss import lwf_term
    from trustformers_pl.continual.matrix import AccuracyMatrix
    from trustformers_pl.continual.mixing import ReplayedRows
    from trustformers_pl.continual.order import TaskOrder
    from trustformers_pl.continual.path_penalty import SI
    from trustformers_pl.continual.progression import Progressive
    from trustformers_pl.continual.progressive import ProgressiveNetwork
    from trustformers_pl.continual.progressive_blocks import ProgressiveBlocks
    from trustformers_pl.continual.replay import Replay
    from trustformers_pl.continual.sensitivity_penalty import MAS
    from trustformers_pl.continual.tasks import Tasks

__all__ = [
    "EWC",
    "MAS",
    "SI",
    "AccuracyMatrix",
    "DarkReplay",
    "IntoColumns",
    "LwF",
    "Progressive",
    "ProgressiveBlocks",
    "ProgressiveModule",
    "ProgressiveNetwork",
    "Replay",
    "ReplayedRows",
    "TaskHeads",
    "TaskOrder",
    "Tasks",
    "dark_term",
    "dark_weights",
    "lwf_term",
]
__getattr__, __dir__ = exports(
    __name__,
    {
        "AccuracyMatrix": "matrix",
        "DarkReplay": "dark",
        "EWC": "ewc",
        "IntoColumns": "column_growth",
        "LwF": "lwf",
        "MAS": "sensitivity_penalty",
        "Progressive": "progression",
        "ProgressiveBlocks": "progressive_blocks",
        "ProgressiveModule": "column_growth",
        "ProgressiveNetwork": "progressive",
        "Replay": "replay",
        "ReplayedRows": "mixing",
        "SI": "path_penalty",
        "TaskHeads": "heads",
        "TaskOrder": "order",
        "Tasks": "tasks",
        "dark_term": "dark_loss",
        "dark_weights": "dark_loss",
        "lwf_term": "lwf_loss",
    },
)
