"""16-bit training: autocast, 16-bit weights with masters in float32, and loss scaling."""

from typing import TYPE_CHECKING

from trustformers_pl.lazy import exports

if TYPE_CHECKING:
    from trustformers_pl.precision.amp import AMP
    from trustformers_pl.precision.masters import MasterWeights
    from trustformers_pl.precision.monitor import LossScaleMonitor, underflow
    from trustformers_pl.precision.scaling import DynamicLossScale, StaticLossScale

__all__ = ["AMP", "DynamicLossScale", "LossScaleMonitor", "MasterWeights", "StaticLossScale", "underflow"]
__getattr__, __dir__ = exports(
    __name__,
    {
        "AMP": "amp",
        "DynamicLossScale": "scaling",
        "LossScaleMonitor": "monitor",
        "MasterWeights": "masters",
        "StaticLossScale": "scaling",
        "underflow": "monitor",
    },
)
