"""Runs of a recipe on any number of ranks, with everything that has state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from trustformers_pl import assemble
from trustformers_pl.checkpoint import load

STEPS, CUT = 10, 5


def recipe(folder: str, mode: dict[str, Any], ranks: int, **more: Any) -> dict[str, Any]:
    """The small GPT on bytes, with dropout, an average of the weights, accumulation, clipping and a schedule."""
    return {
        "version": 1,
        "seed": 3,
        "model": {
            "class_path": "trustformers_pl.models.GPT",
            "init_args": {"d_model": 12, "n_layers": 2, "n_heads": 2, "context_length": 8, "dropout": 0.1},
        },
        "data": {
            "class_path": "trustformers_pl.data.ByteText",
            "init_args": {"folder": str(Path(folder, "text")), "context_length": 8, "batch_size": 8 // ranks},
        },
        "trainer": {
            "max_steps": STEPS, "accelerator": "cpu", "devices": ranks, "log_every_n_steps": 1,
            "val_check_interval": 6, "check_val_every_n_epoch": None, "limit_val_batches": 2,
            "default_root_dir": str(Path(folder, "run")),
        },
        "optimizer": {"name": "adamw", "lr": 0.01, "eps": 1e-4},
        "schedule": {"name": "cosine", "warmup_steps": 2},
        "accumulate": {"batches": 2},
        "clip": {"norm": 0.5},
        "ema": {"decay": 0.9},
        "checkpoint": {"every_n_steps": 1, "keep_last": 100},
        "csv": {},
        "metrics": {"tokens_per_second": False},
        **mode,
        **more,
    }  # fmt: skip


def fit(
    folder: str, mode: dict[str, Any], ranks: int, more: dict[str, Any] | None = None, resume: Any = "auto"
) -> None:
    """On one rank."""
    torch.set_num_threads(1)
    assemble(recipe(folder, mode, ranks, **(more or {}))).fit(resume)


def content(folder: Path, step: int) -> dict[str, list[float]]:
    """The whole weights and averages of a checkpoint, by name."""
    state = load(folder / f"run/checkpoints/step-{step:08}")
    parts: Any = state["loops"]["fit_loop"]["epoch_loop.state_dict"]["parts"]
    found = dict(state["state_dict"])
    ema = next(value for name, value in parts.items() if name.endswith("EMA"))["sharded"]["value"]["averages"]
    found |= {f"average of {name}": tensor for name, tensor in ema.items()}
    for key, values in state["optimizer_states"][0]["state"].items():
        found |= {f"{key}.{name}": value for name, value in values.items() if value.ndim}
    return {name: tensor.float().flatten().tolist() for name, tensor in found.items()}


def distance(one: dict[str, list[float]], other: dict[str, list[float]]) -> float:
    """The largest difference of two contents."""
    assert one.keys() == other.keys()
    return max(abs(a - b) for name in one for a, b in zip(one[name], other[name], strict=True))
