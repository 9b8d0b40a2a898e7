"""What a training has left behind in this process."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch

Traces = dict[str, set[str]]
Settings = dict[str, Any]


def traces() -> Traces:
    """Everything that a run might leave open, by what it is called in a message."""
    return {
        "open files": _open_files(),
        "threads": {thread.name for thread in threading.enumerate() if thread.is_alive()},
        "processes": {str(process.pid) for process in multiprocessing.active_children()},
        "log handlers": {repr(handler) for handler in logging.getLogger().handlers},
    }


def settings() -> Settings:
    """What a run might change in its process, for whatever comes after it."""
    return {
        "signal handlers": {name.name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)},
        "excepthook": sys.excepthook,
        "working folder": os.getcwd(),  # noqa: PTH109
        "torch's default dtype": torch.get_default_dtype(),
        "torch's gradient mode": torch.is_grad_enabled(),
        "torch's deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "torch's threads": torch.get_num_threads(),
        "autocast": torch.is_autocast_enabled("cpu"),
    }


def _open_files() -> set[str]:
    found = set()
    for link in Path("/proc/self/fd").iterdir() if Path("/proc/self/fd").exists() else ():
        try:
            found.add(str(link.readlink()))
        except OSError:  # the folder's own descriptor, closed by now
            continue
    return {target for target in found if target.startswith("/") and not target.startswith(("/dev/", "/proc/"))}


def left_behind(before: Traces, patience: float = 2.0) -> list[str]:
    """What is open now and was not before: one line each. Threads and processes get a moment to end.

    Args:
        before: Earlier traces.
        patience: Seconds.
    """
    deadline = time.monotonic() + patience
    while more := {what: now - before[what] for what, now in traces().items() if now - before[what]}:
        if time.monotonic() > deadline:
            return [f"{what}: {', '.join(sorted(left))}" for what, left in more.items()]
        gc.collect()
        time.sleep(0.02)
    return []


def changed_settings(before: Settings) -> list[str]:
    """What is set differently now: one line each."""
    return [f"{what}: {before[what]!r} became {now!r}" for what, now in settings().items() if now != before[what]]
