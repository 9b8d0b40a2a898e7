"""Optimizers, their parameter groups, and learning-rate schedules."""

from typing import TYPE_CHECKING

from trustformers_pl.lazy import exports

if TYPE_CHECKING:
    from trustformers_pl.optim.adafactor import Adafactor
    from trustformers_pl.optim.adam import Adam
    from trustformers_pl.optim.adamw import AdamW
    from trustformers_pl.optim.ema import EMA
    from trustformers_pl.optim.finite import SkipNonFinite
    from trustformers_pl.optim.groups import decay_groups, parameter_groups
    from trustformers_pl.optim.lamb import LAMB
    from trustformers_pl.optim.patterns import Freeze, freeze
    from trustformers_pl.optim.schedules import get_lr, lr_lambda
    from trustformers_pl.optim.sgd import SGD
    from trustformers_pl.optim.stopping import EarlyStopping
    from trustformers_pl.optim.unfreezing import GradualUnfreezing

__all__ = [
    "EMA",
    "LAMB",
    "SGD",
    "Adafactor",
    "Adam",
    "AdamW",
    "EarlyStopping",
    "Freeze",
    "GradualUnfreezing",
    "SkipNonFinite",
    "decay_groups",
    "freeze",
    "get_lr",
    "lr_lambda",
    "parameter_groups",
]
__getattr__, __dir__ = exports(
    __name__,
    {
        "EMA": "ema",
        "EarlyStopping": "stopping",
        "SkipNonFinite": "finite",
        "Adafactor": "adafactor",
        "Adam": "adam",
        "AdamW": "adamw",
        "Freeze": "patterns",
        "GradualUnfreezing": "unfreezing",
        "LAMB": "lamb",
        "SGD": "sgd",
        "decay_groups": "groups",
        "freeze": "patterns",
        "get_lr": "schedules",
        "lr_lambda": "schedules",
        "parameter_groups": "groups",
    },
)
