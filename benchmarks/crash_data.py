"""Text with random augmentation whose process may kill itself at a chosen place; for `crash_trials.py`.

`CRASH_AT=validation:3` in the environment kills at the third such place: `validation` (amid one), `epoch` (at the last
batch of an epoch) or `accumulation` (between two micro-batches of one step).
"""

from __future__ import annotations

import os
import random
import signal
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, Dataset

from trustformers_pl.data import ByteText

if TYPE_CHECKING:
    from torch import Tensor


class Noisy(Dataset[Any]):
    """Replaces bytes of samples at random, drawn from torch's and Python's generators."""

    def __init__(self, samples: Any) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        sample = {name: value.clone() for name, value in self.samples[index].items()}
        inputs = next(iter(sample.values()))
        inputs[torch.rand(inputs.shape) < 0.05] = random.randrange(256)
        return sample


class NoisyText(ByteText):
    """`ByteText` with noise in training, and the kill."""

    places = 0

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled, with noise."""
        loader = super().train_dataloader()
        workers = self.num_workers
        return DataLoader(Noisy(loader.dataset), self.batch_size, shuffle=True, drop_last=True, num_workers=workers)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Kill the process if this is the place."""
        del dataloader_idx
        place, _, number = os.environ.get("CRASH_AT", "").partition(":")
        if place and self._is(place):
            self.places += 1
            if self.places == int(number):
                os.kill(os.getpid(), signal.SIGKILL)
        return batch

    def _is(self, place: str) -> bool:
        trainer = self.trainer
        assert trainer is not None
        if place == "validation":
            return trainer.validating or trainer.state.stage == "validate"
        if not trainer.training:
            return False
        batch = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        if place == "epoch":
            return batch == trainer.num_training_batches
        return trainer.accumulate_grad_batches > 1 and batch % trainer.accumulate_grad_batches == 2
