"""A stock Trainer around the tiny module of `tiny_text`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.plugins.environments import LightningEnvironment


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def make_trainer(tmp_path: Any) -> Any:
    """A stock Trainer on the CPU with nothing of its own switched on."""

    def make(**kwargs: Any) -> Trainer:
        defaults = {
            "accelerator": "cpu",
            "devices": 1,
            "plugins": [LightningEnvironment()],
            "default_root_dir": tmp_path,
            "logger": False,
            "enable_checkpointing": False,
            "enable_model_summary": False,
            "enable_progress_bar": any(isinstance(callback, ProgressBar) for callback in kwargs.get("callbacks", [])),
            "num_sanity_val_steps": 0,
            "max_steps": 20,
        }
        return Trainer(**(defaults | kwargs))

    return make
