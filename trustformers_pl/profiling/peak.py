"""The floating-point operations a second that a device can do at most: what utilisation is a share of."""

from __future__ import annotations

import time

import torch

# Dense, without sparsity, from NVIDIA's data sheets: float16 and bfloat16 on tensor cores; TF32; in 10^12 a second.
DATA_SHEETS: dict[str, tuple[float, float]] = {
    "H200": (989.0, 494.0),
    "H100 PCIe": (756.0, 378.0),
    "H100": (989.0, 494.0),
    "A100": (312.0, 156.0),
    "A40": (149.7, 74.8),
    "A10": (125.0, 62.5),
    "L40S": (362.0, 183.0),
    "L4": (121.0, 60.0),
    "V100": (125.0, 15.7),
    "T4": (65.0, 8.1),
}
SIZE, ROUNDS = 1024, 3


def peak_flops(device: torch.device, dtype: torch.dtype) -> tuple[float, str]:
    """A device's peak, from its data sheet where it has one here, else as measured.

    Args:
        device: That trains.
        dtype: That most of its operations are in.

    Returns:
        Operations a second, and where the number comes from.
    """
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for known, (half, single) in DATA_SHEETS.items():
            if known in name:
                return (half if dtype.itemsize == 2 else single) * 1e12, f"data sheet of {known}"
    return measured_peak(device, dtype), f"a product of two {SIZE} x {SIZE} matrices, measured here"


def measured_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second in a matrix product, the fastest of some: a lower bound of the peak.

    Args:
        device: Where to measure.
        dtype: Of the matrices.
    """
    a = torch.ones(SIZE, SIZE, device=device, dtype=dtype)
    fastest = float("inf")
    for _ in range(ROUNDS + 1):  # the first one warms up
        _wait(device)
        start = time.perf_counter()
        torch.mm(a, a)
        _wait(device)
        fastest = min(fastest, time.perf_counter() - start)
    return 2 * SIZE**3 / fastest


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
