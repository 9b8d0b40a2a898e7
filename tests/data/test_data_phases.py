"""Curriculum, token budget and replay at once: what they give is computed by hand, and found again by position."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import phased
import pytest
import tiny
import torch
from lightning import Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset

from trustformers_pl import DataPhase, assemble
from trustformers_pl.checkpoint.folder import steps
from trustformers_pl.data import DataPhases, ResumableLoader, resumable, resumable_datamodule
from trustformers_pl.errors import DataError, PluginError, RefusedError

Write = Callable[..., str]
Install = Callable[..., None]
BATCH_OWNER = "claims=frozenset({'data-batch'})"
PHASES = {"order": [phased.short_first], "batch": [phased.six_tokens], "mix": [phased.replay]}
# By hand from the lengths (5, 1, 4, 2, 3, 6): by length the samples are 1, 3, 4, 2, 0, 5. The first epoch has the four
# shortest, of 1, 2, 3 and 4 tokens: three fill the budget of six. Last in each batch: 100 x epoch + 10 x step + seed.
EPOCHS = [
    [[1, 3, 3, 4, 4, 4, 0], [2, 2, 2, 2, 10]],
    [[1, 3, 3, 4, 4, 4, 100], [2, 2, 2, 2, 110], [0, 0, 0, 0, 0, 120], [5, 5, 5, 5, 5, 5, 130]],
    [[1, 3, 3, 4, 4, 4, 200], [2, 2, 2, 2, 210], [0, 0, 0, 0, 0, 220], [5, 5, 5, 5, 5, 5, 230]],
]
VALIDATION = [[0, 1], [2, 3]]


def features(install: Install) -> dict[str, Any]:
    for section, phase, traits in (
        ("curriculum", "order", ""),
        ("budget", "batch", BATCH_OWNER),
        ("rehearsal", "mix", ""),
    ):
        function = f"phased.{PHASES[phase][0].__name__}"
        source = phased.feature("data", phase, function, traits)
        install(f"{section}-pack", source, trustformers_pl={section: "Feature"})
    return {
        "model": {"class_path": "phased.Records"},
        "data": {"class_path": "phased.Sentences"},
        "trainer": {"max_epochs": 3, "accelerator": "cpu", "num_sanity_val_steps": 0},
        "curriculum": {},
        "budget": {},
        "rehearsal": {},
    }


def test_the_phases_are_in_order() -> None:
    assert [phase.value for phase in DataPhase] == ["source", "order", "batch", "mix", "shard"]


def test_three_features_in_a_recipe(install: Install) -> None:
    run = assemble(features(install))
    run.fit()
    assert run.module.trained == [batch for epoch in EPOCHS for batch in epoch]
    # Validation data stay as they are, and are validated on at the end of each epoch, however long it is.
    assert run.module.validated == VALIDATION * 3
    assert run.trainer.global_step == 10


def test_in_a_stock_trainer() -> None:
    module = phased.Records()
    data = resumable_datamodule(phased.Sentences(), seed=0, phases=PHASES)
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        plugins=[LightningEnvironment()],
    )
    trainer.fit(module, datamodule=data)
    assert module.trained == EPOCHS[0]
    assert module.validated == VALIDATION


def test_a_fraction_of_an_epoch_that_grows(install: Install) -> None:
    recipe = features(install)
    recipe["trainer"] |= {"limit_train_batches": 0.5, "val_check_interval": 0.5}
    run = assemble(recipe)
    run.fit()
    # By hand: half of 2, 4 and 4 batches; a validation at half of each epoch and at its end, or at the one batch.
    assert run.module.trained == [*EPOCHS[0][:1], *EPOCHS[1][:2], *EPOCHS[2][:2]]
    assert run.module.validated == VALIDATION * 5


def loader(phases: dict[str, Any], dataset: Any = None, seed: int = 0, **arguments: Any) -> ResumableLoader:
    dataset = list(range(10)) if dataset is None else dataset
    arguments = {"batch_size": 4, "shuffle": True, "collate_fn": list, **arguments}
    return ResumableLoader(DataLoader(dataset, **arguments), seed=seed, phases=DataPhases.of(phases))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_seek_gives_the_tail_of_any_epoch(num_workers: int) -> None:
    sentences = phased.Sentences().train_dataloader()
    made = loader(PHASES, sentences.dataset, collate_fn=torch.cat, num_workers=num_workers)
    for epoch, batches in enumerate(EPOCHS):
        for start in range(len(batches) + 1) if num_workers == 0 else (1,):
            made.seek(epoch, start)
            assert len(made) == len(batches)
            assert [batch.tolist() for batch in made] == batches[start:]
    with pytest.raises(ValueError, match="no batch 3 of epoch 0: batches go from 0 to 2"):
        made.seek(0, 3)


def test_each_order_gets_the_answer_of_the_one_before() -> None:
    def evens(indices: Tensor, epoch: int, seed: int) -> Tensor:
        return indices[indices % 2 == 0]

    def first_two(indices: Tensor, epoch: int, seed: int) -> Tensor:
        return indices[:2]

    data = {"dataset": list(range(10)), "shuffle": False}
    # By hand: of 0 to 9 in order.
    assert list(loader({"order": [evens, first_two]}, **data)) == [[0, 2]]
    assert list(loader({"order": [first_two, evens]}, **data)) == [[0]]


def test_sources_follow_one_another() -> None:
    def tens(dataset: Any) -> Any:
        return [10 * sample for sample in dataset]

    def last_five(dataset: Any) -> Any:
        return Subset(dataset, range(5, 10))

    made = loader({"source": [tens, last_five]}, shuffle=False)
    # By hand.
    assert list(made) == [[50, 60, 70, 80], [90]]
    assert len(made.dataset) == 5


def test_the_last_batch_is_dropped_after_the_order() -> None:
    def nine(indices: Tensor, epoch: int, seed: int) -> Tensor:
        return indices[:9]

    assert [len(batch) for batch in loader({"order": [nine]}, drop_last=True)] == [4, 4]
    assert [len(batch) for batch in loader({"order": [nine]})] == [4, 4, 1]


def noise(batch: Any, epoch: int, step: int, seed: int) -> Any:
    return torch.rand(()).item()


def test_draws_of_a_mixer_follow_from_the_position_and_disturb_nobody() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = list(loader({"mix": [noise]}))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    again = loader({"mix": [noise]})
    assert list(again) == first
    again.seek(0, 1)
    assert list(again) == first[1:]
    again.seek(1, 0)
    assert len({*first, *again, *loader({"mix": [noise]}, seed=1)}) == 9


@pytest.mark.parametrize(
    ("phases", "said"),
    [
        ({"order": [lambda indices, epoch, seed: indices + 1]}, "<lambda> must give 1-D int64 tensors of indices from"),
        ({"order": [lambda indices, epoch, seed: indices - 1]}, "of indices from 0 to 9"),
        ({"order": [lambda indices, epoch, seed: indices.float()]}, "must give 1-D int64 tensors"),
        ({"order": [lambda indices, epoch, seed: indices.tolist()]}, "must give 1-D int64 tensors"),
        ({"batch": [lambda indices, size, epoch, seed: [indices.reshape(2, 5)]]}, "must give 1-D int64 tensors"),
        ({"batch": [lambda indices, size, epoch, seed: [indices, indices[:0]]]}, "made an empty batch; leave it out"),
        ({"shard": [lambda indices, rank, ranks: indices[:0]]}, "leaves rank 0 of 1 without samples of a batch"),
        ({"source": [iter]}, "iter gave a list_iterator, without length or index; give a map-style dataset"),
    ],
)
def test_answers_that_are_no_data(phases: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        list(loader(phases))


def test_batches_of_a_loader_that_does_not_batch() -> None:
    with pytest.raises(DataError, match="six_tokens makes batches, and the DataLoader none; give it a batch_size"):
        loader({"batch": [phased.six_tokens]}, batch_size=None, collate_fn=None)


def test_two_functions_for_a_phase_with_one_owner() -> None:
    with pytest.raises(
        RefusedError, match="data phase batch: six_tokens and uneven both want it, and it has one owner"
    ):
        DataPhases.of({"batch": [phased.six_tokens, phased.uneven]})
    with pytest.raises(ValueError, match="'sort' is not a valid DataPhase"):
        DataPhases.of({"sort": [phased.short_first]})


@pytest.mark.parametrize("phase", ["batch", "shard"])
def test_two_owners_are_refused(install: Install, phase: str) -> None:
    traits = f"claims=frozenset({{'data-{phase}'}})"
    for section in ("alpha", "beta"):
        source = phased.feature("data", phase, "phased.six_tokens", traits)
        install(f"{section}-pack", source, trustformers_pl={section: "Feature"})
    with pytest.raises(RefusedError) as caught:
        assemble({"model": {"class_path": "phased.Records"}, "alpha": {}, "beta": {}})
    assert str(caught.value) == f"Python: beta and alpha both claim data-{phase}; remove one of the two sections"


def test_an_owner_must_claim_and_answer_once(install: Install) -> None:
    recipe = {"model": {"class_path": "phased.Records"}, "data": {"class_path": "phased.Sentences"}}
    unclaimed = phased.feature("data", "batch", "phased.six_tokens")
    install("budget-pack", unclaimed, trustformers_pl={"budget": "Feature"})
    with pytest.raises(PluginError, match=r"plugin 'budget' answers data\(BATCH\) without claiming .data-batch"):
        assemble({**recipe, "budget": {}})
    twice = phased.feature("data", "batch", "phased.six_tokens, phased.uneven", BATCH_OWNER)
    install("twice-pack", twice, trustformers_pl={"twice": "Feature"})
    with pytest.raises(RefusedError, match=r"Python: twice gives two answers to data\(BATCH\); give one"):
        assemble({**recipe, "twice": {}})


class Stream(IterableDataset[int]):
    def __iter__(self) -> Any:
        yield from range(4)


class Streaming(phased.Sentences):
    def train_dataloader(self) -> Any:
        return DataLoader(Stream())


class Seekable(phased.Sentences):
    def train_dataloader(self) -> Any:
        return resumable(super().train_dataloader(), seed=1)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (Streaming, "data: short_first, six_tokens: cannot work on the training loader: Stream is an Iterable"),
        (Seekable, "cannot work on the training loader: ResumableLoader seeks by itself"),
    ],
)
def test_data_that_features_cannot_change_are_refused(data: type, said: str) -> None:
    with pytest.raises(DataError, match=said):
        resumable_datamodule(data(), seed=0, phases=PHASES).train_dataloader()
    unchanged = resumable_datamodule(data(), seed=0).train_dataloader()
    assert len(list(unchanged)) == (4 if data is Streaming else 3)


def test_a_module_with_its_own_loaders_is_refused(install: Install) -> None:
    recipe = features(install)
    del recipe["data"]
    with pytest.raises(
        RefusedError, match=r"Python: no section `data`, and features of this run change the data \(order, batch, mix\)"
    ):
        assemble(recipe)


RECIPE = """\
model: {class_path: tiny.Composable, init_args: {dropout: 0.3}}
data: {class_path: tiny.Data, init_args: {count: 30}}
trainer: {max_epochs: 4, accelerator: cpu}
optimizer: {name: adamw, lr: 0.05}
checkpoint: {every_n_steps: 1, keep_last: 100}
pool: {}
sizes: {}
mixup: {}
"""


def test_resume_is_exact_at_every_step(write: Write, install: Install) -> None:
    """Epochs of another length each, batches of drawn sizes, and draws in the mixing: all found again by position."""
    for section, phase, function, traits in (
        ("pool", "order", "growing_pool", ""),
        ("sizes", "batch", "uneven", BATCH_OWNER),
        ("mixup", "mix", "mixup", ""),
    ):
        source = phased.feature("data", phase, f"phased.{function}", traits)
        install(f"{section}-pack", source, trustformers_pl={section: "Feature"})
    recipe = write(RECIPE)
    whole = assemble(recipe)
    whole.fit()
    folder = Path("runs/recipe/checkpoints")
    last = whole.trainer.global_step
    made = whole.datamodule.train_dataloader()
    counts = []
    for epoch in range(4):
        made.seek(epoch, 0)
        counts.append(len(made))
    # Otherwise the cuts below show nothing: epochs differ in length, and each is cut somewhere.
    assert sum(counts) == last
    assert len(set(counts)) > 1
    expected = {file.name: file.read_bytes() for file in sorted(steps(folder)[last].iterdir())}
    shutil.copytree("runs", "whole")
    for cut in range(1, last, 2):
        shutil.rmtree("runs")
        shutil.copytree("whole", "runs")
        for step, path in steps(folder).items():
            if step > cut:
                shutil.rmtree(path)
        assemble(recipe).fit()
        assert {f.name: f.read_bytes() for f in sorted(steps(folder)[last].iterdir())} == expected, f"resumed at {cut}"


def test_the_python_that_explain_prints_has_the_phases(install: Install, write: Write, command: Any) -> None:
    features(install)
    recipe = write(more="curriculum: {}\nbudget: {}\n")
    code, out, _ = command("explain", recipe)
    assert code == 0
    assert "phases={'order': [short_first], 'batch': [six_tokens]})" in out
    assert "from phased import short_first, six_tokens" in out
    assert "use_distributed_sampler=False" in out


def test_an_empty_epoch_is_told() -> None:
    data = resumable_datamodule(tiny.Data(), seed=0, phases={"order": [lambda indices, epoch, seed: indices[:0]]})
    with pytest.raises(DataError, match="the training dataset gives no batch"):
        data.train_dataloader()
