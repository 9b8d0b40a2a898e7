"""Samples that cannot be read are set aside, up to a number of them, and the run goes on."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch.distributed as dist
from lightning.pytorch import Callback
from typing_extensions import override

from trustformers_pl.data.failures import BadSample, FetchError
from trustformers_pl.durable import write_durably
from trustformers_pl.errors import RefusedError
from trustformers_pl.gathering import rank_and_world_size
from trustformers_pl.loop import exact_loop
from trustformers_pl.stateful import State

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lightning.pytorch import LightningModule, Trainer

logger = logging.getLogger(__name__)
FILE = "quarantine.jsonl"


class Quarantine(Callback):
    """Replaces training samples that raise by the next ones that do not, names them, and ends the run at too many.

    What takes a bad sample's place follows from the epoch's batches alone (`MendedBatches`), so that nothing depends on
    what was found before: a resumed run trains on the same samples. The list is for people, and for the cap. Each rank
    names what it finds at once; they bring their lists together at checkpoints and at the end of each epoch.

    For training loaders that are resumable, as `resumable_datamodule` and `resumable` make them. In a stock Trainer:
    `Trainer(callbacks=[Quarantine(max_samples=10)])`.

    Args:
        max_samples: Different samples of the dataset that may be set aside; the next one ends the run.
        file: Where they are listed, one JSON object a line, by index; `quarantine.jsonl` in the Trainer's folder if not
            given. There is none while nothing is set aside.

    Attributes:
        found: What was set aside, by index.
        watches: Whether it has been given the training data.
    """

    state_version = 1

    def __init__(self, max_samples: int = 10, file: str | Path | None = None) -> None:
        self.max_samples = max_samples
        self.file = None if file is None else Path(file)
        self.found: dict[int, BadSample] = {}
        self.watches = False

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Install the loop that resumes exactly."""
        del pl_module
        if stage == "fit":
            exact_loop(trainer)
            self.found, self.watches = {}, False
            self.file = self.file or Path(trainer.default_root_dir) / FILE

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Join the training data; the list is that of the checkpoint.

        Raises:
            RefusedError: The data have no samples with an index, or are not resumable.
        """
        del pl_module
        self._join(trainer)
        self._write()

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Join loaders that were made anew."""
        del pl_module
        self._join(trainer)

    def _join(self, trainer: Trainer) -> None:
        combined = trainer.fit_loop._combined_loader
        for loader in combined.flattened if combined is not None else []:
            if not hasattr(loader, "replace_bad"):
                raise RefusedError(
                    f"quarantine: the training loader is a {type(loader).__name__}, whose samples cannot be replaced; "
                    "give a map-style dataset in a plain DataLoader, through trustformers_pl.data.resumable_datamodule"
                )
            loader.replace_bad(self.max_samples, self.note)
            self.watches = True

    def note(self, sample: BadSample) -> None:
        """Set a sample aside, if it is not yet.

        Raises:
            FetchError: It is one too many.
        """
        if sample.index in self.found:
            return
        self._refuse_more_than_allowed([*self.found.values(), sample])
        self.found[sample.index] = sample
        number = f"{len(self.found)} of at most {self.max_samples}"
        logger.warning("sample %d of epoch %d is set aside (%s): %s", sample.index, sample.epoch, number, sample.cause)
        self._write()

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Bring the ranks' lists together.

        Raises:
            FetchError: Together they have too many.
        """
        del trainer, pl_module
        self._agree()
        self._refuse_more_than_allowed(self.found.values())

    def _agree(self) -> None:
        _, ranks = rank_and_world_size()
        if ranks == 1:
            return
        lists: list[Any] = [None] * ranks
        dist.all_gather_object(lists, list(self.found.values()))
        every = sorted((sample for one in lists for sample in one), key=lambda sample: (sample.epoch, sample.cause))
        for sample in every:
            self.found.setdefault(sample.index, sample)
        self._write()

    def _refuse_more_than_allowed(self, samples: Iterable[BadSample]) -> None:
        listed = list(samples)
        if len(listed) > self.max_samples:
            last = listed[-1]
            indices = ", ".join(str(sample.index) for sample in listed)
            raise FetchError(
                f"data: samples {indices} cannot be read, which is more than quarantine.max_samples = "
                f"{self.max_samples}; the last one, of epoch {last.epoch}: {last.cause}; mend them, or allow more"
            )

    def _write(self) -> None:
        if rank_and_world_size()[0]:
            return
        assert self.file is not None
        if self.found:
            rows = (json.dumps(dataclasses.asdict(self.found[index])) for index in sorted(self.found))
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_durably(self.file, "".join(f"{row}\n" for row in rows))
        else:
            self.file.unlink(missing_ok=True)

    def state(self) -> State:
        """What all ranks have set aside. Collective."""
        self._agree()
        return State({"found": [dataclasses.asdict(self.found[index]) for index in sorted(self.found)]})

    def load_state(self, state: State) -> None:
        """Go on from that list; where a run goes back while it trains, what it has found since stays known."""
        self.found = {row["index"]: BadSample(**row) for row in state.value["found"]} | self.found
