"""Optimizers and learning-rate schedules."""

from typing import TYPE_CHECKING

from trustformers_pl.lazy import exports

if TYPE_CHECKING:
    from trustformers_pl.optim.adamw import AdamW
    from trustformers_pl.optim.groups import decay_groups
    from trustformers_pl.optim.schedules import lr_lambda

__all__ = ["AdamW", "decay_groups", "lr_lambda"]
__getattr__, __dir__ = exports(__name__, {"AdamW": "adamw", "decay_groups": "groups", "lr_lambda": "schedules"})
