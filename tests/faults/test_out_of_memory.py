"""Memory that runs out in a step: the batch is cut, and the gradient is that of the whole batch."""

from __future__ import annotations

import json
import logging
import pickle
import resource
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import tiny
import torch
from lightning import LightningModule
from ranks import on_ranks
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from trustformers_pl import LossTerm, assemble
from trustformers_pl.errors import DataError, DeviceMemoryError, RefusedError
from trustformers_pl.faults import OutOfMemorySplits
from trustformers_pl.faults.pieces import cut, samples_in
from trustformers_pl.precision_order import OrderedPrecision
from trustformers_pl.testing import Ranks
from trustformers_pl.testing.conformance import KILLED_AFTER
from trustformers_pl.testing.on_ranks import train_and_die, train_on_rank
from trustformers_pl.testing.sections import LOGGED, SAVED, TWO_RANKS, beside
from trustformers_pl.testing.trial import differences

Write = Callable[..., str]
RECIPE = """\
model: {class_path: test_out_of_memory.Small}
data: {class_path: tiny.Data, init_args: {count: 30, batch_size: 8}}
trainer: {max_steps: 10, accelerator: cpu, limit_val_batches: 0}
optimizer: {name: adamw, lr: 0.01}
"""
ON = "out_of_memory: {max_splits: 3}\n"


class Small(tiny.Composable):
    """A device with room for `rows` samples in a forward or backward pass, from a step on, on some ranks."""

    def __init__(
        self,
        rows: int = 1000,
        where: str = "forward",
        from_step: int = 0,
        only_rank: int = -1,
        dropout: float = 0.0,
        width: int = 4,
    ) -> None:
        super().__init__(width, dropout)
        self.hidden = nn.Linear(width, width)
        self.rows, self.where, self.from_step, self.only_rank = rows, where, from_step, only_rank
        self.seen: list[int] = []
        self.losses: list[float] = []

    def forward(self, batch: list[Tensor]) -> Tensor:
        hidden = self.hidden(batch[0]).tanh()  # a graph is there already when memory runs out
        if self.training:
            self.seen.append(len(batch[0]))
            if self.where == "forward":
                self.run_out(batch)
            else:
                hidden.register_hook(lambda gradient: self.run_out(batch))
        return self.layer(self.dropout(hidden))

    def run_out(self, batch: list[Tensor]) -> None:
        late = self.trainer.global_step >= self.from_step
        if late and len(batch[0]) > self.rows and self.only_rank in (-1, self.trainer.global_rank):
            raise torch.OutOfMemoryError("injected")

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(float(outputs["loss_sum"] / outputs["count"]))
        assert int(outputs["count"]) == len(batch[1])


class Counting(Small):
    """Says ahead what its loss counts."""

    def loss_count(self, batch: list[Tensor]) -> int:
        return len(batch[1])


def trained(recipe: str, *overrides: str) -> Any:
    run = assemble(recipe, [*overrides, f"trainer.default_root_dir=run-{trained.__dict__.setdefault('n', 0)}"])
    trained.__dict__["n"] += 1
    run.fit()
    return run


def equal(one: LightningModule, other: LightningModule) -> None:
    for (name, value), (_, expected) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6, msg=name)


O2 = ["precision={dtype: fp16, opt_level: O2}", "accumulate={batches: 2}"]


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize(
    "more", [[], ["accumulate={batches: 2}"], ["precision={dtype: fp16, initial_scale: 1024.0}"], O2]
)
def test_the_weights_are_those_of_the_run_that_fits(write: Write, where: str, more: list[str]) -> None:
    expected = trained(write(RECIPE), *more)
    found = trained(
        write(RECIPE + ON),
        *more,
        "model.init_args.rows=3",
        "model.init_args.from_step=2",
        f"model.init_args.where={where}",
    )
    if "16" in "".join(more):  # float16 products round otherwise in smaller matrices: 1e-3 is their precision
        for one, other in zip(found.module.parameters(), expected.module.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-2, atol=2e-3)
    else:
        equal(found.module, expected.module)
        torch.testing.assert_close(torch.tensor(found.module.losses), torch.tensor(expected.module.losses))
    before = 2 * (2 if "accumulate" in "".join(more) else 1)
    # Whole batches; then the batch as it is, in 2 pieces, and in 4, to which it keeps.
    first = [8] * 2 if before == 2 else [8, 8, 8, 6]
    assert found.module.seen[:before] == first
    assert found.module.seen[before : before + 6] == [8, 4, 2, 2, 2, 2]
    assert set(found.module.seen[before + 6 :]) <= {1, 2}
    assert found.probe()["out_of_memory"] == "4 pieces a batch"


def test_one_step_s_gradient_is_that_of_float64(write: Write) -> None:
    """One step of plain gradient descent against autograd of the mean over the batch, in float64."""
    recipe = write(RECIPE.replace("{name: adamw, lr: 0.01}", "{name: sgd, lr: 1.0}") + ON)
    run = assemble(recipe, ["trainer.max_steps=1", "model.init_args.rows=3", "data.init_args.shuffle=false"])
    start = {name: value.detach().double() for name, value in run.module.named_parameters()}
    weights = {name: value.clone().requires_grad_() for name, value in start.items()}
    x, y = (tensor[:8].double() for tensor in tiny.samples(30).tensors)
    hidden = (x @ weights["hidden.weight"].T + weights["hidden.bias"]).tanh()
    outputs = hidden @ weights["layer.weight"].T + weights["layer.bias"]
    ((outputs - y) ** 2).mean().backward()
    run.fit()
    assert run.module.seen == [8, 4, 2, 2, 2, 2]
    for name, value in run.module.named_parameters():
        torch.testing.assert_close(start[name] - value.detach().double(), weights[name].grad, rtol=1e-5, atol=1e-6)


TERMS = {
    "loss": LossTerm("small", lambda m, o, b: ((o**2).sum(), torch.tensor(float(len(o)))), 0.3, "loss"),
    "weights": LossTerm("small", lambda m, o, b: ((m.layer.weight**2).sum(), torch.tensor(1.0)), 0.3, "weights"),
    "function": LossTerm(
        "small",
        lambda m, o, b: ((o * (b[1] > 0)).sum(), (b[1] > 0).sum()),
        0.3,
        lambda m, b: (b[1] > 0).sum(),
    ),
}


@pytest.mark.parametrize("kind", list(TERMS))
def test_loss_terms_keep_their_means(kind: str) -> None:
    modules, means = [], []
    for rows in (1000, 2):
        L.seed_everything(0)
        module = Stock(rows=rows)
        module.loss_terms = (TERMS[kind],)
        fit(module, 6)
        modules.append(module)
        means.append(module.means)
    equal(*modules)
    torch.testing.assert_close(*(torch.tensor(one) for one in means))


class Stock(Counting):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.means = [*getattr(self, "means", []), float(outputs.get("small", 0))]


def fit(module: LightningModule, steps: int, splits: int = 3, **arguments: Any) -> OutOfMemorySplits:
    callback = OutOfMemorySplits(splits)
    trainer = L.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        limit_val_batches=0,
        callbacks=[callback],
        plugins=[OrderedPrecision()],
        **arguments,
    )
    trainer.fit(module, tiny.Data(30, 8, shuffle=False))
    return callback


class Graph(torch.autograd.Function):
    """A node that holds on to a token for as long as its graph is there."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, token: object) -> Tensor:
        ctx.token = token
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class Held(Small):
    """Counts, at each forward pass, the graphs of earlier ones that are still in memory."""

    def forward(self, batch: list[Tensor]) -> Tensor:
        token = Token()
        self.__dict__.setdefault("alive", []).append(sum(one() is not None for one in self.tokens))
        self.tokens.append(weakref.ref(token))
        return super().forward([Graph.apply(batch[0].requires_grad_(), token), *batch[1:]])

    @property
    def tokens(self) -> list[Any]:
        return self.__dict__.setdefault("kept", [])


class Token: ...


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_what_failed_is_out_of_memory_before_it_runs_again(write: Write, where: str) -> None:
    run = trained(
        write(RECIPE.replace("Small", "Held") + ON),
        *("model.init_args.rows=2", "model.init_args.from_step=1", f"model.init_args.where={where}"),
    )
    assert run.module.seen[:7] == [8, 8, 4, 2, 2, 2, 2]
    assert run.module.alive == [0] * len(run.module.alive)


class Hungry(Stock):
    """Takes 64 MiB and more a sample: a result of 32, and as much again in the backward pass."""

    def forward(self, batch: list[Tensor]) -> Tensor:
        self.seen.append(len(batch[0]))
        wide = self.layer(batch[0]).expand(-1, 2**23).exp()
        return wide.mean(1, keepdim=True)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_that_really_runs_out() -> None:
    """The system gives this process no more than another 350 MiB: too little for eight samples, or for four."""
    pages = int(Path("/proc/self/statm").read_text("utf-8").split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    module = Hungry()
    try:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 350 * 2**20, hard))
        splits = fit(module, 2).step.splits
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert (splits, module.seen) == (2, [8, 4, 2, 2, 2, 2, 2, 2, 2, 2])


def test_in_a_stock_trainer_and_left_as_it_was() -> None:
    module = Stock(rows=4)
    assert fit(module, 4).step.splits == 1
    assert "step_executor" not in vars(module)


def test_what_does_not_fit_in_the_smallest_pieces_ends_the_run(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    run = assemble(write(RECIPE + ON), ["model.init_args.rows=1", "out_of_memory.max_splits=2"])
    with (
        caplog.at_level(logging.WARNING, "trustformers_pl.faults"),
        pytest.raises(DeviceMemoryError, match=r"^out of memory with a batch of 8 samples in 4 pieces \(out_of_memory"),
    ):
        run.fit()
    assert "batches are cut into 4 pieces from now on (at most 4)" in caplog.text


def test_a_sample_that_does_not_fit_ends_the_run(write: Write) -> None:
    run = assemble(write(RECIPE + ON), ["model.init_args.rows=0"])
    with pytest.raises(DeviceMemoryError, match=r"8 samples in 8 pieces \(one sample each\)"):
        run.fit()


def test_a_batch_that_cannot_be_cut_ends_the_run() -> None:
    module = Stock(rows=4)
    module.on_train_batch_start = lambda batch, batch_idx: batch.append(torch.zeros(3))  # type: ignore[method-assign]
    with pytest.raises(DeviceMemoryError, match=r"^out of memory, and a batch with tensors of first sizes 3, 8 cannot"):
        fit(module, 1)


def test_other_errors_pass() -> None:
    module = Stock()
    module.loss = lambda outputs, batch: 1 / 0  # type: ignore[method-assign,assignment]
    with pytest.raises(ZeroDivisionError):
        fit(module, 1)
    assert "step_executor" not in vars(module)


RANKS = """
import json, torch, test_out_of_memory as t
from trustformers_pl import assemble
run = assemble({{**t.AS_DICT, "trainer": {{**t.AS_DICT["trainer"], "devices": 2}}, "ddp": {{}}, {more}}})
run.fit()
weights = [p.tolist() for p in run.module.parameters()]
print(json.dumps([weights, run.module.seen, run.callbacks("OutOfMemorySplits")[0].step.splits]))
"""
AS_DICT: dict[str, Any] = {
    "model": {
        "class_path": "test_out_of_memory.Small",
        "init_args": {"rows": 3, "only_rank": 1, "where": "backward", "from_step": 2},
    },
    "data": {"class_path": "tiny.Data", "init_args": {"count": 32, "batch_size": 4}},
    "trainer": {"max_steps": 6, "accelerator": "cpu", "limit_val_batches": 0},
    "optimizer": {"name": "adamw", "lr": 0.01},
    "out_of_memory": {"max_splits": 2},
}


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("from_step", [0, 2])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_one_of_two_ranks_runs_out(tmp_path: Path, where: str, from_step: int, accumulate: int) -> None:
    """Both end with the weights of one process with room for everything, and cut alike from the next step on."""
    model = f'"model": {{"class_path": "test_out_of_memory.Small", "init_args": {{"rows": 3, "only_rank": 1, "where": "{where}", "from_step": {from_step}}}}}'
    more = f'{model}, "accumulate": {{"batches": {accumulate}}}'
    told = [json.loads(out) for out in on_ranks(2, RANKS.format(more=more))]
    whole: dict[str, Any] = {
        **AS_DICT,
        "model": {"class_path": "test_out_of_memory.Small"},
        "data": {"class_path": "tiny.Data", "init_args": {"count": 32, "batch_size": 8}},
        "accumulate": {"batches": accumulate},
    }
    del whole["out_of_memory"]
    expected = assemble(whole)
    expected.fit()
    assert told[0][0] == told[1][0]
    for found, parameter in zip(told[0][0], expected.module.parameters(), strict=True):
        torch.testing.assert_close(torch.tensor(found), parameter.detach(), rtol=1e-5, atol=1e-6)
    assert told[0][2] == told[1][2] == 1
    # Rank 1 finds out at a batch of its fourth sample; rank 0 learns of it at the end of the step.
    batches = from_step * accumulate
    assert told[1][1][batches : batches + 3] == [4, 2, 2]
    assert told[0][1][: batches + accumulate] == [4] * (batches + accumulate)
    assert told[0][1][batches + accumulate] == 2


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_killed_run_resumes_bit_for_bit(tmp_path: Path, ranks: int) -> None:
    """With dropout: it ran out after step 3, and was killed after step 5."""
    init = {"rows": 2, "from_step": 3, "dropout": 0.3, "only_rank": ranks - 1}
    sections = beside(
        {"model": {"class_path": "test_out_of_memory.Small", "init_args": init}},
        {"data": {"class_path": "tiny.Data", "init_args": {"count": 30}}, "out_of_memory": {"max_splits": 2}},
        *(SAVED, LOGGED, TWO_RANKS if ranks == 2 else {}),
        devices=ranks,
    )
    whole = Ranks().run(ranks, train_on_rank, sections, str(tmp_path / "whole"))[0]
    Ranks().run_until_killed(ranks, train_and_die, sections, str(tmp_path / "killed"), KILLED_AFTER)
    resumed = Ranks().run(ranks, train_on_rank, sections, str(tmp_path / "killed"))[0]
    assert whole.evidence["out_of_memory"] == resumed.evidence["out_of_memory"] == "2 pieces a batch"
    assert not differences(whole.state | whole.logged, resumed.state | resumed.logged)


def test_a_run_that_goes_back_keeps_what_it_knows(write: Write) -> None:
    """The gradient of step 5 is not finite; the checkpoint of step 2 is of whole batches and no bad samples."""
    more = "checkpoint: {every_n_steps: 2, keep_last: 1}\nfinite: {policy: roll_back}\nquarantine: {max_samples: 3}\n"
    recipe = (RECIPE + ON + more).replace("Small", "Spoiled").replace("tiny.Data", "test_out_of_memory.Bad")
    run = trained(write(recipe), "model.init_args.rows=4", "model.init_args.from_step=3")
    evidence = run.probe()
    assert evidence["finite"] == "gone back 1 times"
    assert evidence["out_of_memory"] == "2 pieces a batch"
    assert run.module.seen.count(8) == 4  # steps 1 to 3, and the one that ran out; not again after going back
    assert evidence["quarantine"] == "set 1 samples aside"


class Spoiled(Small):
    def loss(self, outputs: Tensor, batch: list[Tensor]) -> tuple[Tensor, Tensor]:
        total, count = super().loss(outputs, batch)
        first = self.trainer.fit_loop.epoch_loop.total_batch_idx == 3
        return (total * float("nan") if first and self.training else total), count


class Bad(tiny.Data):
    """The sample of the fourth batch that raises."""

    def __init__(self, count: int, batch_size: int) -> None:
        super().__init__(64, batch_size, shuffle=False)

    def train_dataloader(self) -> Any:
        loader = super().train_dataloader()
        return DataLoader(OneRaises(loader.dataset), self.batch_size)


class OneRaises(Dataset[Any]):
    def __init__(self, samples: Any) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        if index == 30:
            raise OSError("damaged")
        return self.samples[index]


def test_a_step_that_runs_again_draws_what_a_run_in_pieces_draws(write: Write) -> None:
    """Dropout starts where the batch began: the same bits as a run whose batches were in two pieces all along."""
    weights = []
    for rows_at_first in (1000, 4):
        run = assemble(write(RECIPE + ON), ["model.init_args.dropout=0.5", "trainer.max_steps=3"])
        run.module.rows, run.module.from_step = 4, 0
        if rows_at_first == 4:
            run.trainer.callbacks.append(InPieces())
        run.fit(resume="never")
        weights.append(torch.cat([p.detach().reshape(-1) for p in run.module.parameters()]))
    assert torch.equal(*weights)


class InPieces(L.Callback):
    def on_train_start(self, trainer: L.Trainer, pl_module: LightningModule) -> None:
        pl_module.step_executor.splits = 1  # type: ignore[attr-defined]


# What is refused


class Normalised(Stock):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)


@pytest.mark.parametrize(
    ("module", "match"),
    [
        (tiny.Plain(), "cuts batches by loss sums and counts, and Plain has none"),
        (Normalised(), r"Normalised\.norm normalises over the batch"),
    ],
)
def test_modules_that_cannot_be_cut_are_refused(module: Any, match: str) -> None:
    with pytest.raises(RefusedError, match=match):
        fit(module, 1)


def test_loss_terms_that_do_not_say_what_they_count_are_refused() -> None:
    module = Stock()
    module.loss_terms = (LossTerm("mute", lambda m, o, b: (o.sum(), torch.tensor(1.0))),)
    with pytest.raises(RefusedError, match=r"cuts batches into micro-batches: loss term 'mute' does not say"):
        fit(module, 1)


def test_another_owner_of_the_step_is_refused() -> None:
    module = Stock()
    module.step_executor = lambda module, batch: None  # type: ignore[assignment]
    with pytest.raises(RefusedError, match=r"runs the training step, which .* runs already"):
        fit(module, 1)


def test_a_plain_training_step_is_refused_in_a_recipe(write: Write) -> None:
    recipe = RECIPE.replace("test_out_of_memory.Small", "tiny.Plain")
    with pytest.raises(RefusedError, match="out_of_memory needs decomposed-loss, which Plain does not provide"):
        assemble(write(recipe + ON))


ANOTHER = """
from trustformers_pl import Plugin, Traits, hookimpl, part
class Feature(Plugin):
    "A stranger's executor."
    traits = classmethod(lambda cls, config: Traits(claims=frozenset({"step"})))
    @hookimpl
    def step(self, plan):
        return part("trustformers_pl.steps:sequential")
"""


def test_two_owners_of_the_step_are_refused_in_a_recipe(write: Write, install: Callable[..., Any]) -> None:
    install("a-pack", ANOTHER, trustformers_pl={"episodes": "Feature"})
    with pytest.raises(RefusedError, match="out_of_memory and episodes both claim step"):
        assemble(write(RECIPE + ON + "episodes: {}\n"))


def test_a_run_is_pickled_with_its_executor(write: Write) -> None:
    run = trained(write(RECIPE + ON), "model.init_args.rows=4")
    assert pickle.loads(pickle.dumps(run.module)).step_executor.splits == 1


# Pieces


def test_pieces_hold_each_sample_once_and_the_rest_as_it_is() -> None:
    batch = {
        "x": torch.arange(10).reshape(5, 2),
        "texts": list("abcde"),
        "pair": (torch.arange(5), torch.tensor(7)),
        "name": "train",
        "options": {"scale": 2.0, "sizes": [1, 2]},
    }
    pieces = list(cut(batch, 2))
    assert samples_in(batch) == 5
    assert torch.equal(torch.cat([piece["x"] for piece in pieces]), batch["x"])
    assert [piece["texts"] for piece in pieces] == [["a", "b"], ["c", "d", "e"]]
    assert [piece["pair"][0].tolist() for piece in pieces] == [[0, 1], [2, 3, 4]]
    assert all(int(piece["pair"][1]) == 7 and piece["options"] == batch["options"] for piece in pieces)
    assert [len(piece["x"]) for piece in cut(batch, 8)] == [1] * 5


@pytest.mark.parametrize(
    ("batch", "found"),
    [
        ([torch.zeros(4), torch.zeros(3, 4)], "tensors of first sizes 3, 4"),
        ({"a": "text"}, "no tensors"),
    ],
)
def test_a_batch_whose_samples_nobody_knows_is_refused(batch: Any, found: str) -> None:
    with pytest.raises(DataError, match=f"a batch with {found} cannot be cut"):
        samples_in(batch)
