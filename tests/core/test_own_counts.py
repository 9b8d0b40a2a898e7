"""Loss terms with counts of their own: the gradient of any split is that of the whole batch, or the run ends.

Expected gradients are `window_job.reference`: float64 autograd of torch over each whole window.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from ranks import on_ranks
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from trustformers_pl import LossTerm
from trustformers_pl.count_ahead import LookAhead
from trustformers_pl.environment import cluster_environment
from trustformers_pl.errors import CountError, PluginError, RefusedError
from trustformers_pl.factory import assemble
from trustformers_pl.precision_order import OrderedPrecision

sys.path.insert(0, str(Path(__file__).parent))
import window_job as job

TOLERANCE = 1e-6
MARKED, RARE, SAME, SIZE = job.TERMS


@pytest.mark.parametrize("switch", ["lean", "stock"])
@pytest.mark.parametrize("micro", [1, 2, 3, 4, 7, 16, 24])
def test_any_split_gives_the_gradient_of_the_whole(micro: int, switch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Uneven pieces, some without any element; the last window of an epoch has half the micro-batches."""
    monkeypatch.setenv("TFPL_LOOP", switch)
    assert job.largest_error(job.fit(micro)) < TOLERANCE


@pytest.mark.parametrize(("ranks", "micro"), [(2, [1, 2, 3, 5, 8]), (4, [1, 2, 3, 5])])
def test_any_split_over_ranks_does_too(ranks: int, micro: list[int]) -> None:
    """Real gloo ranks with shares of different sizes, each split in both loops; once under Lightning's own strategy."""
    numbers = [str(number) for number in micro]
    code = f"import sys, runpy; sys.argv[1:] = {numbers}; runpy.run_path({job.__file__!r}, run_name='__main__')"
    for output in on_ranks(ranks, code):
        found = json.loads(output.splitlines()[-1])
        assert len(found) == 2 * len(micro) + 2
        assert max(found.values()) < TOLERANCE, found


def test_under_a_loss_scale_too() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    assert job.largest_error(job.fit(4, scaler=scaler)) < TOLERANCE


def test_the_mean_of_means_would_be_far_off() -> None:
    """By hand: what each micro-batch's own means give, weighted by its share of the loss's elements."""
    module, total = job.Job(), torch.zeros(())
    for batch in list(job.Split(0, 1, 4).train_dataloader())[:4]:
        outputs = module(batch)
        (loss, count), *means = (module.loss(outputs, batch), *(t.compute(module, outputs, batch) for t in job.TERMS))
        weighted = [t.weight * s / c * count for t, (s, c) in zip(job.TERMS, means, strict=True) if c > 0]
        total = total + loss + sum(weighted)
    (total / job.samples()[2][: job.WINDOW].sum()).backward()  # type: ignore[no-untyped-call]
    found = torch.cat([p.grad.flatten() for p in module.parameters()])  # type: ignore[union-attr]
    weights = torch.nn.utils.parameters_to_vector(module.parameters())
    assert (found - torch.tensor(job.reference(weights.tolist(), 0))).abs().max() > 1e4 * TOLERANCE


class Stream(IterableDataset[Any]):
    """Micro-batches without a length: Lightning itself fetches one ahead."""

    def __init__(self, micro: int) -> None:
        self.batches = list(job.Split(0, 1, micro).train_dataloader())

    def __iter__(self) -> Any:
        yield from self.batches


@pytest.mark.parametrize("micro", [2, 4])
def test_data_without_a_length(micro: int) -> None:
    assert job.largest_error(job.fit(micro, DataLoader(Stream(micro), batch_size=None))) < TOLERANCE


def test_accumulation_that_begins_in_the_second_epoch() -> None:
    """Twelve batches are twelve steps of the first epoch, and three of the second."""
    data = DataLoader(TensorDataset(*job.samples()), job.WINDOW // 4)
    seen = job.fit(1, data, callbacks=[GradientAccumulationScheduler({0: 1, 1: 4})])
    assert len(seen.steps) == 12 + 3
    for window, (weights, gradients) in enumerate(seen.steps[12:]):
        assert gradients == pytest.approx(job.reference(weights, window), abs=TOLERANCE)


class Leaves(job.Job):
    """Leaves the first epoch in the middle of its second window."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        return -1 if (self.current_epoch, batch_idx) == (0, 6) else None


def test_a_window_that_was_left_open_is_forgotten() -> None:
    seen = job.fit(4, module=Leaves())
    assert len(seen.steps) == 1 + job.WINDOWS
    for window, (weights, gradients) in enumerate(seen.steps[1:]):
        assert gradients == pytest.approx(job.reference(weights, window), abs=TOLERANCE)


class Read(Dataset[Any]):
    """Counts what is read of it."""

    def __init__(self) -> None:
        self.inner, self.read = TensorDataset(*job.samples()), 0

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> Any:
        self.read += 1
        return self.inner[index]


class Reads(job.Job):
    """Notes how much was read when each micro-batch is trained on."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.notes.append(self.data.read)


@pytest.mark.parametrize(
    ("micro", "own", "read"),
    [
        # Batches of 6; 7 of them are an epoch. In windows of 3, the last one has a single micro-batch.
        (3, True, [18, 18, 18, 36, 36, 36, 42]),
        (3, False, [6, 12, 18, 24, 30, 36, 42]),
        (1, True, [6, 12, 18, 24, 30, 36, 42]),
    ],
)
def test_only_a_window_is_fetched_ahead_and_only_for_terms_that_need_it(micro: int, own: bool, read: list[int]) -> None:
    module = Reads()
    module.data, module.notes = Read(), []
    module.loss_terms = job.TERMS if own else (SAME, SIZE)
    job.fit(micro, DataLoader(module.data, 6), module, max_epochs=1, limit_train_batches=7)
    assert module.notes == read


def test_looking_ahead_takes_nothing_that_was_not_asked_for() -> None:
    source = iter(range(5))
    ahead = LookAhead(source)
    assert (ahead.peek(2), ahead.peek(1), next(ahead), ahead.peek(2)) == ([0, 1], [0], 0, [1, 2])
    assert next(source) == 3
    assert (ahead.peek(9), list(ahead), ahead.peek(1)) == ([1, 2, 4], [1, 2, 4], [])


def refused(module: Any, micro: int, **more: Any) -> str:
    """The message with which a fit is refused, before any optimizer step."""
    before = [p.detach().clone() for p in module.parameters()]
    with pytest.raises((RefusedError, CountError)) as error:
        job.fit(micro, module=module, **more)
    assert all(torch.equal(p, was) for p, was in zip(module.parameters(), before, strict=True))
    return str(error.value)


def with_terms(*terms: LossTerm, cls: type[job.Job] = job.Job) -> job.Job:
    module = cls()
    module.loss_terms = terms  # type: ignore[assignment]
    return module


def test_a_term_that_does_not_say_what_it_counts_is_refused_under_accumulation() -> None:
    silent, also = replace(SAME, count=None), replace(SIZE, count=None)
    message = refused(with_terms(silent, also), 2)
    assert [line.partition(";")[0] for line in message.splitlines()] == [
        f"loss term {name!r} does not say what it counts, and gradients are accumulated over micro-batches"
        for name in ("same", "size")
    ]
    job.fit(1, module=with_terms(silent, also))


def test_a_module_that_cannot_count_ahead_is_refused_with_the_mend() -> None:
    class Plain(job.Job):
        loss_count = None

    assert "give Plain `loss_count(batch)`, the count of its loss" in refused(with_terms(MARKED, cls=Plain), 2)
    job.fit(1, module=with_terms(MARKED, cls=Plain))


def test_two_terms_with_one_name_are_refused() -> None:
    assert "loss term 'same': 2 terms have this name" in refused(with_terms(SAME, replace(SIZE, name="same")), 1)


@pytest.mark.parametrize("name", ["loss", "count"])
def test_a_term_with_a_name_of_the_losss_own_is_refused(name: str) -> None:
    with pytest.raises(RefusedError, match=f"loss term '{name}': "):
        replace(SIZE, name=name)


def test_what_is_no_count_is_refused() -> None:
    with pytest.raises(PluginError, match="loss term 'x': count = 'tokens': give \"loss\", \"weights\", or a function"):
        LossTerm("x", job.of_same, count="tokens")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("term", "message"),
    [
        (replace(MARKED, count="loss"), "'marked': count=\"loss\", but its counts are in no fixed proportion"),
        (replace(MARKED, count="weights"), "'marked': count=\"weights\", but its counts differ from batch to batch"),
        (replace(SIZE, count="loss"), "'size': count=\"loss\", but its counts are in no fixed proportion"),
        (replace(MARKED, count=lambda module, batch: batch[4].sum() + 1), "'marked': its `count` gave 12 for"),
    ],
)
def test_a_count_that_is_not_as_declared_ends_the_run_before_the_weights_change(term: LossTerm, message: str) -> None:
    """10 of the first window's 24 samples are marked, and it has two micro-batches."""
    assert message in refused(with_terms(RARE, term), 2)


def test_a_loss_that_counts_otherwise_than_its_module_said() -> None:
    class Wrong(job.Job):
        def loss_count(self, batch: Any) -> int:
            return batch[2].numel()

    expected = "the module: `loss_count` gave 120 for an accumulation window whose forward passes counted 56"
    assert expected in refused(with_terms(MARKED, cls=Wrong), 2)


def test_all_ranks_refuse_what_only_one_of_them_sees() -> None:
    """Without accumulation too: the counts are in proportion on each rank, but not over both."""
    code = f"""
    import os, sys
    sys.path.insert(0, {str(Path(job.__file__).parent)!r})
    import torch, window_job as job
    from dataclasses import replace
    from trustformers_pl.errors import CountError
    rank = int(os.environ["RANK"])
    module = job.Job()
    def term(module, outputs, batch):
        return outputs.sum(), batch[2].sum() * (1 + rank)
    module.loss_terms = (job.LossTerm("uneven", term, count="loss"),)
    try:
        job.fit(1, module=module)
    except CountError as error:
        print(error)
    """
    for output in on_ranks(2, code):
        assert output.splitlines()[-1].startswith("loss term 'uneven': count=\"loss\", but its counts are in no fixed")


def test_without_our_loop_a_term_that_must_be_counted_ahead_is_refused() -> None:
    trainer = Trainer(
        accelerator="cpu", accumulate_grad_batches=2, plugins=[cluster_environment(), OrderedPrecision()], **job.QUIET
    )
    with pytest.raises(RefusedError, match="'marked' has to be counted before the first micro-batch"):
        trainer.fit(with_terms(MARKED), job.Split(0, 1, 2))
    trainer = Trainer(
        accelerator="cpu", accumulate_grad_batches=2, plugins=[cluster_environment(), OrderedPrecision()], **job.QUIET
    )
    with pytest.raises(RefusedError, match="'size' does not say what it counts"):
        trainer.fit(with_terms(replace(SIZE, count=None)), job.Split(0, 1, 2))


PACK = """
    from trustformers_pl import LossTerm, Plugin, hookimpl
    def small(module, outputs, batch):
        mask = outputs.detach() < 9
        return (outputs ** 2 * batch[1].gt(0)).sum(), batch[1].gt(0).sum()
    def positive(module, batch):
        return batch[1].gt(0).sum()
    def near(module, outputs, batch):
        return outputs.abs().sum(), 3 * batch[0].new_tensor(len(outputs))
    class Positive(Plugin):
        "Pulls the outputs of positive targets to zero: counts those."
        @hookimpl
        def loss_terms(self, plan):
            return [LossTerm("positive", small, 0.5, positive)]
    class Near(Plugin):
        "Pulls all outputs to zero: counts three for each sample."
        @hookimpl
        def loss_terms(self, plan):
            return [LossTerm("near", near, 0.7, "loss")]
    class Silent(Plugin):
        "Does not say what it counts."
        @hookimpl
        def loss_terms(self, plan):
            return [LossTerm("silent", near, 0.7)]
"""
OFFERS = {"positive": "Positive", "near": "Near", "silent": "Silent"}


def test_terms_of_two_plugins_in_a_recipe(write: Any, install: Any) -> None:
    """Expected: AdamW of torch on whole windows, with the loss written as in the plugins' descriptions."""
    install("terms-pack", PACK, trustformers_pl=OFFERS)
    text = Path(write()).read_text().replace("tiny.Composable", "tiny.Countable").replace("6", "3")
    overrides = ["accumulate.batches=3", "optimizer.lr=0.01", "optimizer.weight_decay=0.0"]
    overrides += ["data.init_args.count=30", "data.init_args.shuffle=false"]
    run, expected = (assemble(write(text, "positive: {}\nnear: {}\n"), overrides) for _ in range(2))
    run.fit("never")
    # 30 samples in micro-batches of 4, in windows of three: the last window of the epoch has two, of 4 and 2 samples.
    x, y = (torch.cat(parts) for parts in zip(*expected.datamodule.train_dataloader(), strict=True))  # type: ignore[union-attr]
    net: Any = expected.module.layer
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.0)
    for a, b in ((0, 12), (12, 24), (24, 30)):
        optimizer.zero_grad()
        outputs, targets = net(x[a:b]), y[a:b]
        loss = ((outputs - targets) ** 2).mean() + 0.5 * (outputs[targets > 0] ** 2).mean()
        (loss + 0.7 * outputs.abs().sum() / (3 * len(outputs))).backward()
        optimizer.step()
    found: Any = run.module.layer
    assert torch.allclose(found.weight, net.weight, atol=TOLERANCE)
    assert torch.allclose(found.bias, net.bias, atol=TOLERANCE)


def test_a_recipe_is_refused_before_anything_starts(write: Any, install: Any) -> None:
    install("terms-pack", PACK, trustformers_pl=OFFERS)
    recipe = write(more="silent: {}\npositive: {}\n")
    assemble(recipe)
    with pytest.raises(RefusedError, match=r"'silent' does not say .*\n.*give Composable `loss_count\(batch\)`"):
        assemble(recipe, ["accumulate.batches=2"])
