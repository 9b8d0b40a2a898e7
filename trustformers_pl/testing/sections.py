"""The small run that every feature is added to: a tiny GPT on a few hundred bytes of text."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

Sections = Mapping[str, Any]

STEPS = 8
PLAIN: Sections = {
    "seed": 0,
    "model": {
        "class_path": "trustformers_pl.models.GPT",
        "init_args": {"d_model": 8, "n_layers": 1, "n_heads": 2, "context_length": 8, "dropout": 0.1},
    },
    "data": {"class_path": "trustformers_pl.testing.TinyText"},
    "trainer": {
        "max_steps": STEPS,
        "accelerator": "cpu",
        "devices": 1,
        "log_every_n_steps": 1,
        "val_check_interval": 4,
        "check_val_every_n_epoch": None,
    },
    "optimizer": {"name": "adamw", "lr": 0.01},
}
"""Without any feature but the optimizer that training needs. An epoch has 5 steps, so 8 cross the end of one."""
IN_THE_PLAIN_RUN = ("optimizer.adamw",)

SAVED: Sections = {"checkpoint": {"every_n_steps": 2, "keep_last": 2 * STEPS}}
LOGGED: Sections = {"csv": {}, "metrics": {"tokens_per_second": False}}
TWO_RANKS: Sections = {"ddp": {}}


def beside(*added: Sections, steps: int | None = None, devices: int = 1) -> dict[str, Any]:
    """The plain run with further sections, later ones first; `trainer` is merged by key. The caller's own to change."""
    merged: dict[str, Any] = copy.deepcopy({**PLAIN, "trainer": {**PLAIN["trainer"], "devices": devices}})
    for sections in added:
        merged |= {k: {**merged["trainer"], **v} if k == "trainer" else v for k, v in sections.items()}
    if steps is not None:
        merged["trainer"] = {**merged["trainer"], "max_steps": steps}
    return merged
