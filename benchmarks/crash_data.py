"""Model and data of `crash_trials.py`: they write down each sample that is trained on, and die where they are told to.

`CRASH_AT=validation:3:0` in the environment kills rank 0 with SIGKILL at the third `validation`. The places:

    resumed       the start of a batch that is trained on, counted from this process's first one
    accumulation  such a start between two micro-batches of one step
    epoch         the start of an epoch's last batch, and the end of an epoch
    validation    the start of a batch of a validation
    rename        a checkpoint whose files are all written, but which does not have its name yet

and those of `crash_boundaries.py`.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from crash_boundaries import Boundaries
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from trustformers_pl.data import ByteText
from trustformers_pl.models import GPT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

PLACES, TRAINED = "places.json", "trained-{rank}.jsonl"


class Numbered(Dataset[Any]):
    """Adds to each sample its number, and noise: bytes replaced at random, by torch's and Python's generators.

    Args:
        samples: Mappings with `input_ids`.
        noise: Share of the bytes that are replaced.
    """

    def __init__(self, samples: Any, noise: float) -> None:
        self.samples, self.noise = samples, noise
        self.deterministic = noise == 0

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        sample = {name: value.clone() for name, value in self.samples[index].items()}
        inputs = sample["input_ids"]
        if self.noise:
            inputs[torch.rand(inputs.shape) < self.noise] = random.randrange(256)
        return {**sample, "number": torch.tensor(index)}


class Stream(IterableDataset[Any]):
    """Samples one after another, without a length or an index; several workers share them."""

    def __init__(self, samples: Numbered) -> None:
        self.samples = samples

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        info = get_worker_info()
        first, step = (info.id, info.num_workers) if info else (0, 1)
        for index in range(first, len(self.samples), step):
            yield self.samples[index]


class NumberedText(ByteText):
    """`ByteText` whose training samples are numbered, and may be noisy; the last batch of an epoch is incomplete."""

    def __init__(self, *, noise: float = 0.0, stream: bool = False, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.noise, self.stream = noise, stream

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled, or as a stream."""
        samples = Numbered(super().train_dataloader().dataset, self.noise)
        if self.stream:
            return DataLoader(Stream(samples), self.batch_size, num_workers=self.num_workers)
        return DataLoader(samples, self.batch_size, shuffle=True, num_workers=self.num_workers)


class WatchedGPT(GPT):
    """`GPT` that keeps `trained-<rank>.jsonl` and `places.json` in the run folder."""

    def on_train_start(self) -> None:
        """Say from which step this process goes on, and of how many samples."""
        self.visits: Counter[str] = Counter()
        place, number, rank = (os.environ.get("CRASH_AT") or "nowhere:0:0").split(":")
        self.fatal = (place, int(number)) if int(rank) == self.global_rank else ("nowhere", 0)
        path = Path(self.trainer.default_root_dir, TRAINED.format(rank=self.global_rank))
        self.trained = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        dataset: Any = self.trainer.train_dataloader.dataset  # type: ignore[union-attr]
        self._write("start", self.global_step, len(dataset.samples))
        self.boundaries = Boundaries(self.trainer, self._visit)
        sys.addaudithook(self._audit)  # of the writer's thread, too

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Write the batch down; it may be a place."""
        numbers = batch["number"].tolist()
        own = self._own(batch)
        self._write(self.global_step, self.current_epoch, batch_idx, numbers[:own], numbers[own:])
        self._visit("resumed")
        if batch_idx % self.trainer.accumulate_grad_batches:
            self._visit("accumulation")
        if batch_idx == self.trainer.num_training_batches - 1:
            self._visit("epoch")

    def forward(self, batch: Any) -> Any:
        """It may be a place; a teacher, which is a copy without a Trainer, has none."""
        if self._trainer is not None and hasattr(self, "boundaries"):
            self.boundaries.passed()
        return super().forward(batch)

    def _own(self, batch: Any) -> int:
        """How many rows of a batch no memory added; plain replay adds as many as a batch has, or more."""
        if "replay" in batch:
            return int((batch["replay"][:, 0] == 0).sum())
        loader, rows = self.trainer.train_dataloader, len(batch["number"])
        memories = [one for one in self.trainer.callbacks if hasattr(one, "replayed")]  # type: ignore[attr-defined]
        return rows - sum(one.batch for one in memories if rows > loader.batch_size)  # type: ignore[union-attr]

    def on_train_epoch_end(self) -> None:
        """A place."""
        self._visit("epoch")

    def on_validation_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """A place."""
        del batch, batch_idx, dataloader_idx
        if not self.trainer.sanity_checking:
            self._visit("validation")

    def on_train_end(self) -> None:
        """Tell how many places there were."""
        if self.global_rank == 0:
            Path(self.trainer.default_root_dir, PLACES).write_text(json.dumps(self.visits), encoding="utf-8")

    def _write(self, *row: Any) -> None:
        os.write(self.trained, json.dumps(row).encode() + b"\n")

    def _visit(self, place: str) -> None:
        self.visits[place] += 1
        if (place, self.visits[place]) == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event != "os.rename" or self.global_rank:
            return
        source, target = (Path(os.fsdecode(one)).name for one in arguments[:2])
        if ".tmp-" in source and target.startswith("step-"):
            self._visit("rename")
            self.boundaries.renamed(int(target.removeprefix("step-")))
