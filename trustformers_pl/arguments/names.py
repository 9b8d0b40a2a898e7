"""Names of optimizers and schedules in transformers -> ours."""

from __future__ import annotations

OPTIMIZERS = {
    "adamw_hf": "adamw",
    "adamw_torch": "adamw",
    "adamw_torch_fused": "adamw",
    "adamw_torch_npu_fused": "adamw",
    "adamw_torch_xla": "adamw",
    "adamw_apex_fused": "adamw",
}
"""Those that compute what ours does, under another name; `adafactor` and `sgd` are called alike."""

SCHEDULES = {"constant_with_warmup": "constant", "cosine_with_min_lr": "cosine", "warmup_stable_decay": "wsd"}
"""Likewise; `linear`, `cosine`, `polynomial` and `constant` are called alike."""
