"""Continual learning: importance of weights, distillation, memories, progressive networks, and what is forgotten."""

from typing import TYPE_CHECKING

from trustformers_pl.lazy import exports

if TYPE_CHECKING:
    from trustformers_pl.continual.dark import DarkReplay
    from trustformers_pl.continual.dark_loss import dark_term, dark_weights
    from trustformers_pl.continual.lwf import LwF
    from trustformers_pl.continual.lwf_loss import lwf_term
    from trustformers_pl.continual.mixing import ReplayedRows
    from trustformers_pl.continual.replay import Replay

__all__ = ["DarkReplay", "LwF", "Replay", "ReplayedRows", "dark_term", "dark_weights", "lwf_term"]
__getattr__, __dir__ = exports(
    __name__,
    {
        "DarkReplay": "dark",
        "LwF": "lwf",
        "Replay": "replay",
        "ReplayedRows": "mixing",
        "dark_term": "dark_loss",
        "dark_weights": "dark_loss",
        "lwf_term": "lwf_loss",
    },
)
