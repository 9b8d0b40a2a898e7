"""What of the machine a process uses: one reading of processor, memory, disk and GPU."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import torch

from trustformers_pl.errors import PluginError

try:
    import psutil
except ImportError as error:
    raise PluginError("system needs psutil; pip install 'trustformers-pl[system]'") from error

if TYPE_CHECKING:
    from pathlib import Path

GIB = 2**30
OF_THE_HOST = (
    "system_cpu_percent",
    "system_process_cpu_percent",
    "system_memory_percent",
    "system_process_memory_gib",
    "system_disk_free_gib",
)
OF_THE_GPU = ("system_gpu_percent", "system_gpu_memory_gib", "system_gpu_memory_peak_gib")


class Machine:
    """Reads the machine; shares of the processor are of the time since the reading before.

    Args:
        folder: Whose disk is looked at.
        device: The process's; its GPU is read where it is one.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._folder = folder
        self._device = device if device.type == "cuda" else None
        self._process = psutil.Process()
        self._utilization = self._device is not None
        psutil.cpu_percent()  # the first reading is 0: there is nothing before it
        self._process.cpu_percent()

    def read(self) -> dict[str, float]:
        """Names of `OF_THE_HOST` and `OF_THE_GPU` -> values; what cannot be read is left out.

        `process` is this process with its children, which load data; 100 % of the processor is one core for it, and all
        cores for the machine. Memory is resident, in GiB.
        """
        found = {
            "system_cpu_percent": psutil.cpu_percent(),
            "system_process_cpu_percent": self._process.cpu_percent(),
            "system_memory_percent": psutil.virtual_memory().percent,
            "system_process_memory_gib": self._resident() / GIB,
        }
        with suppress(OSError):  # a network disk that is away for a moment ends no training
            found["system_disk_free_gib"] = psutil.disk_usage(str(self._folder)).free / GIB
        return {**found, **self._gpu()}

    def _resident(self) -> int:
        total: int = self._process.memory_info().rss
        for child in self._process.children(recursive=True):
            try:
                total += child.memory_info().rss
            except psutil.Error:  # it has ended
                continue
        return total

    def _gpu(self) -> dict[str, float]:
        if self._device is None:
            return {}
        found = {
            "system_gpu_memory_gib": torch.cuda.memory_allocated(self._device) / GIB,
            "system_gpu_memory_peak_gib": torch.cuda.max_memory_allocated(self._device) / GIB,
        }
        if self._utilization:
            try:
                found["system_gpu_percent"] = float(torch.cuda.utilization(self._device))
            except Exception:  # no NVML library, no right to ask it, a GPU that is a slice: each has its own class
                self._utilization = False
        return found
