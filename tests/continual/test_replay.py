"""Replay and dark replay in a stock Trainer: what is in a batch, and the loss against its formula in float64."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
import torch
from task_steps import Net, Points, TwoTasks, loader, trained
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

from trustformers_pl.continual import DarkReplay, Replay, ReplayedRows
from trustformers_pl.continual.dark_loss import DARK, LABELLED, MARK, OWN, dark_term, marks, owner_of
from trustformers_pl.continual.memory import herding, reservoir
from trustformers_pl.data.loader import ResumableLoader
from trustformers_pl.data.order import counter_seed
from trustformers_pl.data.phases import DataPhases
from trustformers_pl.data.streamed import StreamedLoader
from trustformers_pl.errors import DataError, RefusedError

if TYPE_CHECKING:
    from pathlib import Path


def test_a_batch_has_samples_of_before_at_its_end() -> None:
    module, replay = Net(), Replay(capacity=10, batch=3, seed=5)
    trained(module, [replay])
    points = Points()
    sizes = [len(batch["labels"]) for batch in module.trained]
    assert sizes == [8] + [11] * 7
    assert replay.replayed == 21
    for step, batch in enumerate(module.trained):
        assert torch.equal(batch["x"][:8], points.x[8 * step : 8 * step + 8])  # in order: no shuffling
        for x, y in zip(batch["x"][8:], batch["labels"][8:], strict=True):
            found = (points.x == x).all(1).nonzero().item()
            assert found < 8 * step
            assert y == points.y[found]


def test_what_is_kept_is_the_reservoir_of_what_was_seen() -> None:
    replay = Replay(capacity=10, batch=3, seed=5)
    trained(Net(), [replay])
    slots = reservoir(0, 64, 10, seed=counter_seed(5, "replay", "keep", 0)).tolist()
    wanted = {slot: number for number, slot in enumerate(slots) if slot != -1}
    kept = replay.store.read(torch.arange(10))
    assert torch.equal(kept["x"], Points().x[[wanted[slot] for slot in range(10)]])


def test_classes_are_balanced() -> None:
    replay = Replay(capacity=12, batch=2, keep="balanced")
    trained(Net(), [replay])
    assert torch.bincount(replay.store.read(torch.arange(12))["labels"]).tolist() == [3, 3, 3, 3]


def test_within_a_window_of_accumulated_gradients_the_memory_stands_still() -> None:
    module, replay = Net(), Replay(capacity=50, batch=2)
    trained(module, [replay], accumulate_grad_batches=4, steps=2)
    assert [len(batch["labels"]) for batch in module.trained] == [8] * 4 + [10] * 4
    first = Points().x[:32]
    for batch in module.trained[4:]:
        assert all((first == x).all(1).any() for x in batch["x"][8:])


def test_herding_keeps_the_first_choices_of_each_class_on_the_features_of_the_model() -> None:
    module, replay = Net(), Replay(capacity=10, batch=2, keep="herding")
    found = {}

    class Looks(TwoTasks):
        def on_train_batch_end(self, trainer: object, module: Net, *arguments: object) -> None:  # type: ignore[override]
            super().on_train_batch_end(trainer, module, *arguments)
            if trainer.global_step == 4:  # type: ignore[attr-defined]
                found.update(replay.store.read(torch.arange(replay.store.filled)))
                self.features = module.eval().features({"x": Points().x[:32]}).detach()
                module.train()

    tasks = Looks(4)
    trained(module, [replay, tasks])
    points = Points()
    chosen = [of[herding(tasks.features[of], 5)] for of in (torch.arange(0, 32, 2), torch.arange(1, 32, 2))]
    assert torch.equal(found["x"], points.x[torch.cat(chosen)])
    assert [len(batch["labels"]) for batch in module.trained] == [8] * 4 + [10] * 4
    trainer = trained(Net(), [replay, Looks(4)])
    replay.on_task_end(trainer, trainer.lightning_module, 1)
    kept = replay.store.read(torch.arange(10))
    assert torch.bincount(kept["labels"]).tolist() == [2, 2, 3, 3]  # what does not divide goes to the larger groups
    assert torch.equal(kept["x"][:4], found["x"][[0, 1, 5, 6]])  # the first choices stay


def test_samples_on_disk_are_the_same(tmp_path: Path) -> None:
    in_memory = Net()
    trained(in_memory, [Replay(capacity=10, batch=3)])
    on_disk = Net()
    replay = Replay(bytes=10 * (3 * 4 + 8), batch=3, where="disk", folder=str(tmp_path / "kept"))
    trained(on_disk, [replay])
    assert {path.name for path in (tmp_path / "kept" / "rank-0").iterdir()} == {"x.rows", "labels.rows"}
    for one, other in zip(in_memory.parameters(), on_disk.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 0.0), (0.3, 0.7)])
def test_the_loss_of_dark_replay_is_that_of_the_paper(alpha: float, beta: float) -> None:
    """Buzzega et al. 2020, equations 6 and 7, with their terms computed here from the rows alone, in float64."""
    module, seen = Net(double=True), []
    compute = module.training_step

    def noted(batch: dict[str, torch.Tensor], batch_idx: int) -> dict[str, torch.Tensor]:
        outputs: list[torch.Tensor] = []
        handle = module.net.register_forward_hook(lambda *given: outputs.append(given[-1]))
        answer = compute(batch, batch_idx)
        handle.remove()
        seen.append((batch, outputs[0].detach(), answer["loss"].detach()))
        return answer

    module.training_step = noted  # type: ignore[method-assign]
    trained(module, [DarkReplay(alpha=alpha, beta=beta, capacity=12, batch=4)])
    answers: dict[bytes, torch.Tensor] = {}
    for batch, outputs, loss in seen:
        kinds = batch[MARK][:, 0]
        own, dark, labelled = (kinds == kind for kind in (OWN, DARK, LABELLED))
        wanted = F.cross_entropy(outputs[own], batch["labels"][own])
        if dark.any():
            kept = torch.stack([answers[x.numpy().tobytes()] for x in batch["x"][dark]])
            wanted = wanted + alpha * (outputs[dark] - kept).square().sum(1).mean()
            if beta:
                wanted = wanted + beta * F.cross_entropy(outputs[labelled], batch["labels"][labelled])
        torch.testing.assert_close(loss, wanted, rtol=1e-6, atol=1e-7)  # logits are kept in float32
        answers |= {x.numpy().tobytes(): z for x, z in zip(batch["x"][own], outputs[own], strict=True)}
    assert len(seen) == 8
    assert module.loss_terms == ()
    assert module.sample_weights == ()


def test_dark_replay_keeps_logits_beside_samples() -> None:
    replay = DarkReplay(capacity=6, batch=2)
    trained(Net(), [replay])
    kept = replay.store.read(torch.arange(6))
    assert set(kept) == {"x", "labels", "kept logits"}
    assert kept["kept logits"].shape == (6, 4)
    assert kept["kept logits"].abs().sum(1).min() > 0


def stream() -> StreamedLoader:
    class Stream(IterableDataset[dict[str, torch.Tensor]]):
        def __iter__(self):  # type: ignore[no-untyped-def]
            points = Points()
            return (points[index] for index in range(len(points)))

    return StreamedLoader(DataLoader(Stream(), 8), seed=0, phases=DataPhases(mix=(ReplayedRows(),)))


def lengths() -> ResumableLoader:
    samples = [{"x": torch.zeros(3 + number // 8), "labels": torch.tensor(0)} for number in range(16)]
    return ResumableLoader(DataLoader(samples, 8), seed=0, phases=DataPhases(mix=(ReplayedRows(),)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("replay", "data", "error", "says"),
    [
        (Replay(bytes=2**62, where="disk"), loader, DataError, "replay: bytes: .* left; choose another folder"),
        (Replay(bytes=10), loader, RefusedError, "replay: a sample takes 20 bytes and the budget is 10"),
        (Replay(capacity=0), loader, RefusedError, "replay: capacity=0 on 1 ranks"),
        (Replay(), lambda: loader(mixes=False), RefusedError, "replay: the training loader mixes nothing in"),
        (Replay(), stream, RefusedError, "replay: a batch was fetched .* the training data have no length"),
        (Replay(), lengths, DataError, "replay: 'x' of a sample has the shape"),
    ],
)
def test_what_cannot_be_kept_is_refused_in_one_line(
    replay: Replay, data: object, error: type[Exception], says: str
) -> None:
    class Anything(Net):
        def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
            return super().forward({"x": batch["x"][:, :3]})

    with pytest.raises(error) as raised:
        trained(Anything(), [replay], data=data())  # type: ignore[operator]
    assert re.match(says, str(raised.value))
    assert "\n" not in str(raised.value)


def test_herding_without_tasks_is_refused() -> None:
    replay = Replay(keep="herding")
    trainer = trained(Net(), [replay])
    with pytest.raises(RefusedError, match="herding needs the training data of a task; add the section `tasks`"):
        replay.on_task_end(trainer, trainer.lightning_module, 0)


@pytest.mark.parametrize("numbers", [[5, 3, 3], [8, 1, 2], [11, 0, 0]])
def test_a_batch_in_pieces_has_the_terms_of_the_whole(numbers: list[int]) -> None:
    """As `out_of_memory` cuts it: sums and counts add up, weights are the same, and every answer is remembered."""
    own, dark, labelled = numbers
    loss = owner_of(dark_term(0.1))
    loss.beta = 0.5
    outputs, kept = torch.randn(11, 4), torch.randn(dark, 4)
    batch = {MARK: marks(numbers)}
    loss.begin(kept, numbers)
    total, count = loss.compute(None, outputs, batch)
    weights, answers = loss.weights(None, batch), dict(loss.answers)
    loss.begin(kept, numbers)
    pieces = [(outputs[rows], {MARK: batch[MARK][rows]}) for rows in (slice(0, 6), slice(6, 11))]
    parts = [loss.compute(None, *piece) for piece in pieces]
    torch.testing.assert_close(sum(part for part, _ in parts), total)
    assert int(sum(number for _, number in parts)) == int(count) == max(dark, 1)
    assert torch.equal(torch.cat([loss.weights(None, piece) for _, piece in pieces]), weights)
    assert all(torch.equal(loss.answers[place], answers[place]) for place in range(own))
    wanted = [11 / own] * own + [0.0] * dark + [0.5 * 11 / max(labelled, 1)] * labelled
    torch.testing.assert_close(weights, torch.tensor(wanted))
