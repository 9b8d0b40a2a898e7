"""Parts with state: names, versions, scopes, and runs that go on as if they had not been stopped."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from lightning import Callback, Trainer
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.strategies import SingleDeviceStrategy
from tiny_state import EveryScope, Jitter, Rows, cut, train, tree

from trustformers_pl import assemble
from trustformers_pl.checkpoint import load
from trustformers_pl.errors import CheckpointError
from trustformers_pl.gathering import place_like
from trustformers_pl.randomness import Randomness, random_state
from trustformers_pl.state import Scope, State, collect, gather, give_back, parts

Write = Callable[..., str]
Install = Callable[..., None]


class Counter:
    """A part on its own."""

    def __init__(self, count: Any = 0, **how: Any) -> None:
        self.count, self.how = count, how
        self.loaded: list[State] = []

    def state(self) -> State:
        return State({"count": self.count}, **self.how)

    def load_state(self, state: State) -> None:
        self.loaded.append(state)
        self.count = state.value["count"]


def test_every_scope_goes_on_after_a_resume_in_a_stock_trainer() -> None:
    """The uninterrupted run decides; the bytes hold every part's state, the generators' and the logged values."""
    whole = train("whole", EveryScope(), Jitter(1), Jitter(2))
    stored = load("whole/step-00000014")["loops"]["fit_loop"]["epoch_loop.state_dict"]["parts"]
    assert set(stored) == {"tiny_state.EveryScope", "tiny_state.Jitter", "tiny_state.Jitter.2"}
    assert set(stored["tiny_state.EveryScope"]) == {"replicated", "sharded", "rank", "worker"}
    assert stored["tiny_state.EveryScope"]["worker"]["value"] == [{0: {"batches": 8}, 1: {"batches": 6}}]
    for step in (2, 7, 11):
        cut("whole", f"cut{step}", step)
        resumed = train(f"cut{step}", EveryScope(), Jitter(1), Jitter(2), resume=True)
        assert tree(f"cut{step}/step-00000014") == tree("whole/step-00000014"), f"resumed at {step}"
        assert resumed.callbacks[0].losses == whole.callbacks[0].losses  # type: ignore[attr-defined]


def test_in_a_recipe_two_strangers_of_one_name_keep_their_own_state(write: Write, install: Install) -> None:
    """Two packages have a callback of the same name, and one of them is there twice."""
    for package in ("first-pack", "other-pack"):
        install(package, "import tiny_state\nclass Jitter(tiny_state.Jitter):\n    pass\n")
    text = """
    model: {class_path: tiny.Composable, init_args: {dropout: 0.3}}
    data: {class_path: tiny.Data, init_args: {count: 30}}
    trainer:
      max_steps: 12
      accelerator: cpu
      callbacks:
        - {class_path: first_pack.Jitter, init_args: {seed: 1}}
        - {class_path: other_pack.Jitter, init_args: {seed: 2}}
        - {class_path: other_pack.Jitter, init_args: {seed: 3}}
    optimizer: {name: adamw}
    checkpoint: {every_n_steps: 1, keep_last: 100}
    """
    run = assemble(write(text))
    assert list(parts(run.trainer)) == ["first_pack.Jitter", "other_pack.Jitter", "other_pack.Jitter.2"]
    run.fit()
    expected = tree("runs/recipe/checkpoints/step-00000012")
    Path("runs/recipe").rename("whole")
    cut("whole/checkpoints", "runs/recipe/checkpoints", 5)
    assemble(write(text)).fit("force")
    assert tree("runs/recipe/checkpoints/step-00000012") == expected


def test_every_kind_of_part_is_found_by_its_own_class_and_not_by_its_composed_one(write: Write) -> None:
    def stateful(cls: type) -> Any:
        body = {"state": Counter.state, "load_state": Counter.load_state, "count": 0, "how": {}}
        made = type(f"My{cls.__name__}", (cls,), body)
        setattr(tiny, made.__name__, made)
        return made

    class Key(stateful(Callback)):  # type: ignore[misc]
        state_key = "Key of mine"

    for cls in (tiny.Composable, tiny.Data):
        stateful(cls).__module__ = "tiny.deeper"
    run = assemble(
        {
            "model": {"class_path": "tiny.MyComposable"},
            "data": {"class_path": "tiny.MyData"},
            "trainer": {"max_steps": 1, "accelerator": "cpu"},
            "optimizer": {"name": "adamw"},
        }
    )
    own: dict[str, Any] = {"strategy": stateful(SingleDeviceStrategy)("cpu"), "logger": stateful(Rows)()}
    trainer = Trainer(
        **own,
        max_steps=1,
        callbacks=[stateful(Callback)(), Key()],
        plugins=[stateful(Precision)(), LightningEnvironment()],
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(run.module, datamodule=run.datamodule)
    assert [name.partition(".")[2] for name in parts(trainer)] == [
        *("MyCallback", "Key of mine", "MyRows", "MySingleDeviceStrategy", "MyPrecision", "MyComposable", "MyData")
    ]
    assert list(parts(trainer))[-2:] == ["tiny.MyComposable", "tiny.MyData"]


def test_what_only_looks_like_a_part_is_none() -> None:
    """Lightning's documentation keeps a dict called `state` in a callback; its DummyLogger has every method."""

    class Documented(Callback):
        def __init__(self) -> None:
            self.state = {"epochs": 0}

    trainer = Trainer(
        callbacks=[Documented()], logger=DummyLogger(), accelerator="cpu", plugins=[LightningEnvironment()]
    )
    assert parts(trainer) == {}
    assert collect(trainer) == {}


def test_a_part_migrates_from_an_older_version_and_refuses_a_newer_one() -> None:
    stored = gather({"counter": Counter(3, version=2)})
    assert stored == {"counter": {"replicated": {"version": 2, "value": {"count": 3}}}}
    current = Counter(version=4)
    give_back({"counter": current}, stored)
    assert [(state.version, state.scope, dict(state.value)) for state in current.loaded] == [
        (2, Scope.REPLICATED, {"count": 3})
    ]
    with pytest.raises(
        CheckpointError,
        match=r"^counter: its stored state has version 2, the installed code reads up to 1; update the package",
    ) as caught:
        give_back({"counter": Counter(version=1)}, stored)
    assert "\n" not in str(caught.value)


def test_the_class_can_say_its_version_before_there_is_a_state() -> None:
    class Late(Counter):
        state_version = 3

        def state(self) -> State:
            raise AssertionError("made in on_train_start")

    late = Late()
    give_back({"late": late}, {"late": {"replicated": {"version": 3, "value": {"count": 5}}}})
    assert late.count == 5
    with pytest.raises(CheckpointError, match="version 4, the installed code reads up to 3"):
        give_back({"late": late}, {"late": {"replicated": {"version": 4, "value": {}}}})


def test_a_feature_added_or_removed_is_named_in_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    train("run", Jitter(1), EveryScope(), max_epochs=1)

    class Added(Jitter):
        pass

    class Other(Jitter):
        pass

    with caplog.at_level(logging.WARNING):
        resumed = train("run", Added(), Other(), EveryScope(), resume=True)
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("trustformers_pl")]
    name = "test_a_feature_added_or_removed_is_named_in_one_warning.<locals>"
    assert lines == [
        f"resume: the checkpoint has no state of test_state.{name}.Added, test_state.{name}.Other; it starts anew",
        "resume: nothing in this run takes the stored state of tiny_state.Jitter; it is left out",
    ]
    assert resumed.global_step == 14


@pytest.mark.parametrize("scope", list(Scope))
def test_a_leaf_that_cannot_be_stored_is_refused_before_the_first_step(scope: Scope) -> None:
    class Remembers(Callback):
        def state(self) -> State:
            return State({0: {"function": print}}, scope=scope)

        def load_state(self, state: State) -> None: ...

    with pytest.raises(CheckpointError, match=r"parts\..*Remembers\..*function: a builtin function.*cannot be stored"):
        train("run", Remembers())
    assert not list(Path("run").glob("step-*"))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (Counter(scope=Scope.WORKER), r"part: its worker state has the keys \['count'\]; number them from 0"),
        (type("Dict", (Counter,), {"state": lambda self: {"a": 1}})(), r"part: its state\(\) gave dict; give State\("),
        (type("Two", (Counter,), {"state": lambda self: [State({}), State({})]})(), "part: two states of one scope"),
    ],
)
def test_what_is_no_state_is_refused(part: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        gather({"part": part})


@pytest.mark.parametrize("scope", [Scope.RANK, Scope.WORKER])
def test_a_state_of_other_ranks_is_refused_unless_the_part_takes_all(scope: Scope) -> None:
    stored = {"counter": {scope.value: {"version": 1, "value": [{"count": 1}, {"count": 2}]}}}
    with pytest.raises(
        CheckpointError,
        match=rf"^counter: its {scope} state is of 2 ranks, this run has 1; resume with 2, or give Counter a method",
    ):
        give_back({"counter": Counter()}, stored)

    class Sum(Counter):
        state_version = 1

        def load_all_ranks(self, states: Any, rank: int, world_size: int) -> None:
            self.count = (sum(state.value["count"] for state in states), rank, world_size)

    part = Sum()
    give_back({"counter": part}, stored)
    assert part.count == (3, 0, 1)


def test_randomness_on_more_ranks_gives_each_its_own_stream() -> None:
    """Old ranks draw on as before; what new ones draw is the same every time and like no other rank's."""
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        states.append(State(copy.deepcopy(random_state()), 1, Scope.RANK))

    def draws() -> list[tuple[float, ...]]:
        drawn = []
        for rank in range(6):
            Randomness().load_all_ranks(states, rank, 6)
            drawn.append(tuple(torch.rand(3).tolist()))
        return drawn

    first = draws()
    assert first == draws()
    assert len(set(first)) == 6
    for seed in (1, 2):
        torch.manual_seed(seed)
        assert first[seed - 1] == tuple(torch.rand(3).tolist())


def test_a_plain_tensor_is_placed_on_its_device_and_keeps_its_dtype() -> None:
    value, like = torch.arange(4, dtype=torch.float64), torch.zeros(4)
    placed = place_like(value, like)
    assert placed.dtype == torch.float64
    assert torch.equal(placed, value)
    assert placed.data_ptr() != value.data_ptr()
    with pytest.raises(CheckpointError, match=r"stored with shape \(4,\), but \(5,\) is needed"):
        place_like(value, torch.zeros(5))
