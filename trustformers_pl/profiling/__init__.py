"""Where the time of a training step goes, and how much of the device it uses."""

from typing import TYPE_CHECKING

from trustformers_pl.lazy import exports

if TYPE_CHECKING:
    from trustformers_pl.profiling.callback import Profile
    from trustformers_pl.profiling.peak import measured_peak, peak_flops

__all__ = ["Profile", "measured_peak", "peak_flops"]
__getattr__, __dir__ = exports(__name__, {"Profile": "callback", "measured_peak": "peak", "peak_flops": "peak"})
