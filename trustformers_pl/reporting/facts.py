"""Where a run took place: versions, hardware, the code's commit. No host name, user, path or variable."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trustformers_pl.run import Run

GIB = 2**30


def facts(run: Run) -> list[list[str]]:
    """Pairs of a name and a value."""
    found = [
        ["Python", platform.python_version()],
        ["PyTorch", _version("torch")],
        ["Lightning", _version("lightning")],
    ]
    found += _packages(offer.package for offer in (run.assembly.plan.offers[p.name] for p in run.assembly.plan.plugins))
    found += [["Devices", _devices(run)], ["Strategy", type(run.trainer.strategy).__name__]]
    found += [["Precision", str(run.trainer.precision)]]
    found += [["System", f"{platform.system()} {platform.release()} {platform.machine()}"], ["CPU", _cpu()]]
    if memory := _memory():
        found.append(["Memory", f"{memory / GIB:.1f} GiB"])
    if commit := _commit():
        found.append(["Commit of the working folder", commit])
    return found


def _packages(names: Iterable[str]) -> list[list[str]]:
    return [[name, _version(name)] for name in dict.fromkeys(["trustformers-pl", *names])]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # a live object's package need not be installed
        return "not installed"


def _devices(run: Run) -> str:
    import torch

    device = run.trainer.strategy.root_device
    if device.type != "cuda":
        return f"{run.trainer.world_size} x {device.type}, {torch.get_num_threads()} threads each"
    return f"{run.trainer.world_size} x {torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    except OSError:
        name = ""
    return f"{name or platform.machine()}, {os.cpu_count()} cores"


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0


def _commit() -> str:
    """The commit, with `-dirty` where tracked files have changed; empty outside of a repository or without git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
