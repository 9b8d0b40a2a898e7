"""What a resumed run must know of the loss window besides counters: the size that sums of losses are brought to."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny
import torch
from torch.utils.data import DataLoader

from trustformers_pl import assemble
from trustformers_pl.checkpoint.folder import steps

Write = Callable[..., str]
RECIPE = """\
model: {class_path: test_open_window.Uneven}
data: {class_path: test_open_window.Growing}
trainer: {max_steps: 12, accelerator: cpu, limit_val_batches: 0}
optimizer: {name: sgd, lr: 0.01}
precision: {dtype: fp16, initial_scale: 64.0}
checkpoint: {every_n_steps: 4, keep_last: 100}
"""


class Uneven(tiny.Composable):
    """Counts what its batches say: the first batch of the run far less than the others."""

    def loss(self, outputs: torch.Tensor, batch: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        return ((outputs - batch[1]) ** 2 * batch[2]).sum(), batch[2].sum()


class Growing(tiny.Data):
    def train_dataloader(self) -> DataLoader[Any]:
        inputs, targets = tiny.samples(48).tensors
        weights = torch.where(torch.arange(48) < 4, 1.0, 1024.0)[:, None]
        return DataLoader(torch.utils.data.TensorDataset(inputs, targets, weights), 4)


def test_the_size_of_sums_is_the_one_that_the_first_batch_of_the_run_decided(write: Write) -> None:
    recipe = write(RECIPE)
    assemble(recipe).fit()
    folder = Path("runs/recipe/checkpoints")
    expected = (folder / "step-00000012" / "tensors.safetensors").read_bytes()
    for step, path in steps(folder).items():
        if step > 4:
            shutil.rmtree(path)
    resumed = assemble(recipe)
    resumed.fit()
    assert (folder / "step-00000012" / "tensors.safetensors").read_bytes() == expected
    assert resumed.module.loss_window.reference == 4.0  # not 4,096, with which float16 overflows later
