"""What a run does when something goes wrong: signals, bad samples, memory, gradients that are not finite, spikes."""

from typing import TYPE_CHECKING

from trustformers_pl.lazy import exports

if TYPE_CHECKING:
    from trustformers_pl.faults.emergency_saves import EmergencySaves
    from trustformers_pl.faults.out_of_memory import OutOfMemorySplits
    from trustformers_pl.faults.quarantine import Quarantine
    from trustformers_pl.faults.roll_back import RollBack
    from trustformers_pl.faults.signal_saves import SignalSaves
    from trustformers_pl.faults.spikes import Spikes
    from trustformers_pl.faults.split_step import SplitStep

__all__ = ["EmergencySaves", "OutOfMemorySplits", "Quarantine", "RollBack", "SignalSaves", "Spikes", "SplitStep"]
__getattr__, __dir__ = exports(
    __name__,
    {
        "EmergencySaves": "emergency_saves",
        "OutOfMemorySplits": "out_of_memory",
        "Quarantine": "quarantine",
        "RollBack": "roll_back",
        "SignalSaves": "signal_saves",
        "Spikes": "spikes",
        "SplitStep": "split_step",
    },
)
