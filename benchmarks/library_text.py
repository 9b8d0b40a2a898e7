"""The text of the language-model benchmarks: the running Python's standard library, without its tests."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import torch

SKIPPED = {"test", "tests", "idle_test", "site-packages", "dist-packages"}


def read_split() -> tuple[torch.Tensor, torch.Tensor]:
    """Training and held-out bytes, (N,) uint8 each."""
    root = Path(sysconfig.get_paths()["stdlib"])
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.py"))
    kept = [name for name in names if not SKIPPED & set(name.split("/")[:-1]) and not name.startswith(".")]
    text = bytearray()
    for name in kept:
        content = (root / name).read_bytes()
        try:
            content.decode()
        except UnicodeDecodeError:
            continue
        text += content
    tokens = torch.frombuffer(text, dtype=torch.uint8)
    held_out = int(len(tokens) * 0.05)
    return tokens[:-held_out], tokens[-held_out:]
