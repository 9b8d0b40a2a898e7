"""Continual learning: importance of weights, distillation, memories, progressive networks, and what is forgotten."""

from typing import TYPE_CHECKING

from trustformers_pl.lazy import exports

if TYPE_CHECKING:
    from trustformers_pl.continual.ewc import EWC
    from trustformers_pl.continual.heads import TaskHeads
    from trustformers_pl.continual.matrix import AccuracyMatrix
    from trustformers_pl.continual.order import TaskOrder
    from trustformers_pl.continual.path_penalty import SI
    from trustformers_pl.continual.sensitivity_penalty import MAS
    from trustformers_pl.continual.tasks import Tasks

__all__ = ["EWC", "MAS", "SI", "AccuracyMatrix", "TaskHeads", "TaskOrder", "Tasks"]
__getattr__, __dir__ = exports(
    __name__,
    {
        "AccuracyMatrix": "matrix",
        "EWC": "ewc",
        "MAS": "sensitivity_penalty",
        "SI": "path_penalty",
        "TaskHeads": "heads",
        "TaskOrder": "order",
        "Tasks": "tasks",
    },
)
