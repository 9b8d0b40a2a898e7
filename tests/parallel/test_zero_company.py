"""ZeRO beside the features that touch weights, gradients or optimizer state: on one rank, the run that DDP makes.

DDP on one rank is torch's optimizer on whole weights and gradients. Two ranks are `test_zero_equality.py`'s and the kit's.
"""

from __future__ import annotations

from ast import literal_eval
from typing import Any

import pytest
import torch
from torch import Tensor

from trustformers_pl.models import GPT
from trustformers_pl.testing import Trial, train
from trustformers_pl.testing.sections import LOGGED, SAVED, beside

STAGES = (1, 2, 3)
COMPANY: dict[str, dict[str, Any]] = {
    "ema": {"ema": {"decay": 0.9, "every_n_steps": 2}},
    "clip by norm": {"clip": {"norm": 0.1}},
    "accumulate": {"accumulate": {"batches": 3}},
    "bf16 by autocast": {"precision": {"dtype": "bf16"}},
    "fp32 masters of bf16": {"precision": {"dtype": "bf16", "opt_level": "O2"}},
    "fp16, scaled": {"precision": {"dtype": "fp16", "opt_level": "O2", "initial_scale": 1024.0}},
    "fp16, scaled too high": {"precision": {"dtype": "fp16", "opt_level": "O2", "initial_scale": 2.0**40}},
    "fp64": {"precision": {"dtype": "fp64"}},
    "unfreeze": {"unfreeze": {"stages": [{"match": "*norm*", "step": 3}, {"match": "blocks.0.*", "step": 2}]}},
    "frozen parameters": {"optimizer": {"name": "adamw", "lr": 0.01, "freeze": ["embedding*"]}},
    "groups": {"optimizer": {"name": "adamw", "lr": 0.01, "groups": [{"match": "*norm*", "lr": 0.1}]}},
    "schedule": {"schedule": {"name": "cosine", "warmup_steps": 2}},
    "spikes": {"spikes": {}},
    "samples": {"samples": {"prompts": ["a"], "max_new_tokens": 3}},
    "profile": {"profile": {}},
    "all at once": {
        "ema": {"decay": 0.9}, "clip": {"norm": 0.5}, "accumulate": {"batches": 2}, "precision": {"dtype": "bf16", "opt_level": "O2"},
        "finite": {"policy": "skip"}, "schedule": {"name": "linear"},
    },
}  # fmt: skip


class Poisoned(GPT):
    """Its loss is NaN in the fifth training step, once."""

    passes = 0

    def loss(self, outputs: Tensor, batch: Any, *weights: Any) -> tuple[Tensor, Tensor]:
        total, count = super().loss(outputs, batch, *weights)
        self.passes += self.training
        return total * (float("nan") if self.training and self.passes == 5 else 1.0), count


def trained(folder: Any, *sections: dict[str, Any]) -> Trial:
    return train(beside(SAVED, LOGGED, *sections), folder)


def whole(trial: Trial) -> dict[str, Tensor]:
    """Of one rank, whose shards are all there is."""
    state = trial.run.module.state_dict()
    return {name: value.to_local() if hasattr(value, "to_local") else value for name, value in state.items()}


def different(one: Trial, other: Trial) -> list[str]:
    """Weights and logged columns; norms of gradients are added up in another order, which is what clipping sees."""
    expected = whole(other)
    weights = [
        name for name, value in whole(one).items() if not torch.allclose(value, expected[name], rtol=1e-5, atol=1e-7)
    ]
    return [
        *weights,
        *(
            name
            for name, column in other.logged.items()
            if floats(one.logged[name]) != pytest.approx(floats(column), rel=1e-5, nan_ok=True)
        ),
    ]


def floats(column: str) -> list[float]:
    return [float(cell or -1) for cell in literal_eval(column)]


@pytest.mark.parametrize("name", COMPANY)
def test_it_is_the_run_that_ddp_makes(name: str, tmp_path: Any) -> None:
    expected = trained(tmp_path / "ddp", {"ddp": {}}, COMPANY[name])
    for stage in STAGES:
        found = trained(tmp_path / str(stage), {"zero": {"stage": stage}}, COMPANY[name])
        assert not (names := different(found, expected)), f"stage {stage}: {names}"
        evidence = {key: value for key, value in expected.evidence.items() if key not in ("ddp", "profile")}
        assert evidence.items() <= found.evidence.items()


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("policy", ["skip", "roll_back"])
def test_a_step_that_is_not_finite(policy: str, stage: int, tmp_path: Any) -> None:
    init = {"d_model": 8, "n_layers": 1, "n_heads": 2, "context_length": 8}
    sections = {
        "model": {"class_path": "test_zero_company.Poisoned", "init_args": init},
        "finite": {"policy": policy},
    }
    expected = trained(tmp_path / "ddp", {"ddp": {}}, sections)
    found = trained(tmp_path / "zero", {"zero": {"stage": stage}}, sections)
    assert "1" in (expected.evidence["finite"] or "")  # once
    assert found.evidence["finite"] == expected.evidence["finite"]
    assert not different(found, expected)
