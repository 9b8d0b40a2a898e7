"""What a run does when something goes wrong: signals, gradients that are not finite, and spikes."""

from typing import TYPE_CHECKING

from trustformers_pl.lazy import exports

if TYPE_CHECKING:
    from trustformers_pl.faults.signal_saves import SignalSaves

__all__ = ["SignalSaves"]
__getattr__, __dir__ = exports(__name__, {"SignalSaves": "signal_saves"})
