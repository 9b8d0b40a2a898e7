"""Memory that runs out in a step: the batch is cut, and the gradient is that of the whole batch."""

from __future__ import annotations

import pickle
import resource
import sys
from pathlib import Path

import lightning as L
import pytest
import tiny
import torch
from crowded import (
    ON,
    RECIPE,
    Stock,
    Write,
    equal,
    fit,
    trained,
)
from lightning import LightningModule
from torch import Tensor

from trustformers_pl import LossTerm, assemble
from trustformers_pl.faults.pieces import cut, samples_in

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


def test_a_run_that_goes_back_keeps_what_it_knows(write: Write) -> None:
    """The gradient of step 5 is not finite; the checkpoint of step 2 is of whole batches and no bad samples."""
    more = "checkpoint: {every_n_steps: 2, keep_last: 1}\nfinite: {policy: roll_back}\nquarantine: {max_samples: 3}\n"
    recipe = (RECIPE + ON + more).replace("Small", "Spoiled").replace("tiny.Data", "crowded.Bad")
    run = trained(write(recipe), "model.init_args.rows=4", "model.init_args.from_step=3")
    evidence = run.probe()
    assert evidence["finite"] == "gone back 1 times"
    assert evidence["out_of_memory"] == "2 pieces a batch"
    assert run.module.seen.count(8) == 4  # steps 1 to 3, and the one that ran out; not again after going back
    assert evidence["quarantine"] == "set 1 samples aside"


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


def test_a_run_is_pickled_with_its_executor(write: Write) -> None:
    run = trained(write(RECIPE + ON), "model.init_args.rows=4")
    assert pickle.loads(pickle.dumps(run.module)).step_executor.splits == 1


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
