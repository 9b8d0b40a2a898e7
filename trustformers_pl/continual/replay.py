"""Experience replay: samples of the past in every batch."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.pytorch import Callback
from typing_extensions import override

from trustformers_pl.continual.exemplars import chosen_exemplars
from trustformers_pl.continual.keeping import RULES, Keep, Keeping
from trustformers_pl.continual.memory import drawn
from trustformers_pl.continual.mixing import take_up
from trustformers_pl.continual.rows import labels_of, rows_of, with_rows
from trustformers_pl.continual.sharing import of_balanced_draws, of_exemplars, of_uniform_draws, share, together
from trustformers_pl.continual.store import Store
from trustformers_pl.data.failures import FetchError
from trustformers_pl.data.order import counter_seed
from trustformers_pl.data.ranks import data_ranks
from trustformers_pl.stateful import Scope, State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightning.pytorch import LightningModule, Trainer
    from torch import Tensor

    Rows = dict[str, Tensor]

FOLDER = "replay"


class Replay(Callback):
    """Keeps samples of the training data, and adds some of them to every batch of a rank.

    Rolnick et al. 2019, "Experience Replay for Continual Learning"; Chaudhry et al. 2019, "On Tiny Episodic Memories".
    The loss is the module's own, the mean over new and replayed samples. Each rank keeps its share of the samples that
    it sees. What a batch gets was kept before the accumulation window that the batch is in: so what is replayed follows
    from what was seen and (seed, epoch, step, rank), however far ahead a loader fetches, and a resumed run goes on with
    the same bits. Samples are kept as the loader gives them, on the CPU.

    In a stock Trainer: `Trainer(callbacks=[Replay(capacity=200, batch=8)])`, with a training loader
    `ResumableLoader(loader, seed=0, phases=DataPhases(mix=(ReplayedRows(),)))`.

    Args:
        capacity: Samples that all ranks keep together at most; 200 where there is no `bytes` either.
        bytes: The room for them.
        batch: Samples that are added to each batch of a rank, as soon as there are some.
        keep: `reservoir`, a uniform draw of all that came; `balanced`, one with as many of each class as can be; or
            `herding`, chosen at the end of each task, which needs `Tasks`.
        where: `memory` or `disk`.
        folder: Of the files on disk; `replay` in the Trainer's `default_root_dir` if not given.
        seed: Of the draws.

    Attributes:
        replayed: Rows that were added to this rank's batches so far.
        store: The memory.
    """

    state_version = 1
    section = "replay"
    store: Store

    def __init__(
        self,
        *,
        capacity: int | None = None,
        bytes: int | None = None,  # noqa: A002
        batch: int = 32,
        keep: Keep = "reservoir",
        where: Literal["memory", "disk"] = "memory",
        folder: str | None = None,
        seed: int = 0,
    ) -> None:
        self.capacity, self.bytes, self.batch = capacity, bytes, batch
        self.keep, self.where, self.folder, self.seed = keep, where, folder, seed
        self.replayed = 0
        self._rank = 0
        self._rule: Keeping | None = None
        self._rule_state: dict[str, Any] | None = None
        self._groups: list[list[int]] = []
        self._fetched: deque[Any] = deque()
        self._pending: list[Rows] = []

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make room.

        Raises:
            RefusedError: Less than one sample for a rank.
            DataError: More than the disk or the memory has.
        """
        if stage != "fit":
            return
        self._rank, ranks = data_ranks(trainer)
        folder = Path(self.folder or Path(trainer.default_root_dir) / FOLDER) / f"rank-{self._rank}"
        on_disk = folder if self.where == "disk" else None
        self.store = Store(self.capacity, self.bytes, ranks, on_disk, self.section, trainer.num_devices)
        self.replayed, self._rule, self._rule_state, self._groups = 0, None, None, []
        self._forget()

    def _forget(self) -> None:
        self._fetched.clear()
        self._pending = []

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take up the loader's phase MIX.

        Raises:
            RefusedError: There is none, or the data have no length, or not even one sample may be kept.
            DataError: There is no room, or samples have no class that this rule asks for.
        """
        take_up(trainer, self.mix)
        self._look_at_one(trainer.train_dataloader)

    def _look_at_one(self, loader: Any) -> None:
        if not hasattr(loader, "of_samples"):
            return
        with suppress(FetchError):  # a bad sample is somebody else's matter
            rows = rows_of(next(loader.of_samples(torch.zeros(1, dtype=torch.int64), 1)), self.section)
            self.store.refuse_no_room(rows)
            if self.keep != "reservoir":
                labels_of(rows, self.section)

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget what was fetched ahead for steps that never came."""
        self._fetched.clear()

    def mix(self, batch: Any, epoch: int, step: int) -> Any:
        """A batch as it is trained on.

        Args:
            batch: Of this rank, as the loader gives it.
            epoch: From 0.
            step: Of the epoch, from 0.
        """
        self._fetched.append(rows_of(batch, self.section))
        more = self.draw(epoch, step)
        return with_rows(batch, more, self.section) if more else batch

    def draw(self, epoch: int, step: int, purpose: str = "draw") -> Rows:
        """Rows to replay at a step; nothing while nothing is kept.

        Args:
            epoch: From 0.
            step: Of the epoch, from 0.
            purpose: Another one is another draw.
        """
        slots = drawn(self.store.filled, self.batch, self.seed, FOLDER, purpose, epoch, step, self._rank)
        self.replayed += len(slots)
        return self.store.read(slots) if len(slots) else {}

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the new samples of the window's batches, when the window ends."""
        if self.keep != "herding":
            self._pending.append(self.seen(self._fetched.popleft()))
        else:
            self._fetched.popleft()
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch:
            pending, self._pending = self._pending, []
            for rows in pending:
                self._observe(rows)

    def seen(self, fetched: Any) -> Rows:
        """The rows to keep of a batch that was trained on.

        Args:
            fetched: What `mix` put aside.
        """
        rows: Rows = fetched
        return rows

    def _observe(self, rows: Rows) -> None:
        number = len(next(iter(rows.values())))
        self.store.write(self._ruled(rows).place(rows, number), rows)

    def _ruled(self, rows: Rows) -> Keeping:
        if self._rule is None:
            seed = counter_seed(self.seed, FOLDER, "keep", self._rank)
            self._rule = RULES[self.keep](self.store.capacity_for(rows), seed=seed)
            if self._rule_state is not None:
                self._rule.load_state_dict(self._rule_state)
        return self._rule

    def on_task_end(self, trainer: Trainer, pl_module: LightningModule, task: int) -> None:
        """Choose what to keep of a task, for `herding`; the other rules have done so.

        Raises:
            RefusedError: There is no `Tasks` to give the task's data.
        """
        if self.keep == "herding":
            rows, self._groups = chosen_exemplars(trainer, pl_module, task, self.store, self._groups)
            self.store.refill(rows)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the loader."""
        if stage == "fit":
            take_up(trainer, None)

    def state(self) -> State:
        """The samples of this rank, and how they were chosen."""
        rule = self._rule_state if self._rule is None else self._rule.state_dict()
        value = {
            "rows": self.store.state_dict(),
            "rule": rule,
            "groups": [list(group) for group in self._groups],
            "pending": [dict(rows) for rows in self._pending],
            "replayed": self.replayed,
        }
        return State(value, self.state_version, Scope.RANK)

    def load_state(self, state: State) -> None:
        """Go on with them."""
        value = state.value
        self._forget()
        self.store.load_state_dict(value["rows"])
        self._rule, self._rule_state = None, value["rule"]
        self._groups = [list(group) for group in value["groups"]]
        self._pending = [dict(rows) for rows in value["pending"]]
        self.replayed = value["replayed"]

    def load_all_ranks(self, states: Sequence[State], rank: int, world_size: int) -> None:
        """Go on with this rank's part of what another number of ranks kept.

        Args:
            states: Of all old ranks.
            rank: This one.
            world_size: How many there are now.
        """
        values = [state.value for state in states]
        rows = together([value["rows"] for value in values])
        rules = [value["rule"] for value in values if value["rule"] is not None]
        own, rule, groups = torch.zeros(0, dtype=torch.int64), None, list[list[int]]()
        if rows:
            new = self.store.capacity_for(rows), rank, world_size
            if self.keep == "herding":
                own, groups = of_exemplars([value["groups"] for value in values], *new)
            elif self.keep == "balanced":
                own, rule = of_balanced_draws(rows, rules, *new, self.seed)
            else:
                kept = len(next(iter(rows.values())))
                own, rule = of_uniform_draws(kept, [one["seen"] for one in rules], *new, self.seed)
        pending = [one for value in values[rank::world_size] for one in value["pending"]]
        kept_rows = {name: value[own] for name, value in rows.items()}
        replayed = share(sum(value["replayed"] for value in values), rank, world_size)
        value = {"rows": kept_rows, "rule": rule, "groups": groups, "pending": pending, "replayed": replayed}
        self.load_state(State(value, self.state_version, Scope.RANK))
