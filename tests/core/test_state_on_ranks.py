"""State on real gloo ranks: exact resume of each rank, sharded state on another number of ranks, refusals."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from ranks import on_ranks
from tiny_state import EveryScope, Jitter, train

from trustformers_pl.checkpoint import load
from trustformers_pl.errors import CheckpointError

RUN = """
    import hashlib, json, logging, shutil
    import torch, torch.distributed as dist
    from lightning.pytorch.plugins.environments import TorchElasticEnvironment
    import trustformers_pl
    from trustformers_pl.randomness import random_state
    from trustformers_pl.state import Scope, State, gather
    from tiny_state import EveryScope, Jitter, cut, train, tree
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    dist.init_process_group("gloo")
    rank = dist.get_rank()

    def digest(trainer):
        every = trainer.callbacks[0]
        return {
            "weights": {name: value.tolist() for name, value in trainer.lightning_module.state_dict().items()},
            "random": random_state()["torch"].tolist(),
            "average": every.average.to_local().tolist(),
            "losses": every.losses,
            "by_worker": {str(key): value for key, value in every.by_worker.items()},
            "batches": every.batches,
            "rows": trainer.logger.rows,
        }

    whole = digest(train("whole", EveryScope(), Jitter()))
    out = {"file": trustformers_pl.__file__, "rank": rank, "whole": whole, "resumed": {}}
    for step in (3, 7, 10):
        if rank == 0:
            cut("whole", f"cut{step}", step)
        dist.barrier()
        out["resumed"][step] = digest(train(f"cut{step}", EveryScope(), Jitter(), resume=True))
        dist.barrier()
    out["same_files"] = tree("whole/step-00000014") == tree("cut7/step-00000014")

    class Part:
        def __init__(self, value, scope=Scope.RANK):
            self.given = State(value, scope=scope)
        def state(self):
            return self.given
        def load_state(self, state):
            pass

    def refused(*parts):
        try:
            gather({f"part{i}": part for i, part in enumerate(parts)})
        except trustformers_pl.errors.CheckpointError as error:
            return str(error)

    out["local_class"] = refused(Part({"a": lambda: 0}))
    out["ranks_differ"] = refused(Part({"a": 1}), *([Part({"a": 1})] if rank else []))
    out["dtensor"] = refused(Part({"a": {"b": [train.__globals__["distribute_tensor"](
        torch.ones(4), train.__globals__["init_device_mesh"]("cpu", (2,)))]}}))
    out["elsewhere_empty"] = gather({"part": Part({"a": torch.ones(3)})}) == {}
    print(json.dumps(out))
    dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """A run on 2 ranks, resumed in three places: its folder, and what each rank saw."""
    folder, before = tmp_path_factory.mktemp("two"), Path.cwd()
    os.chdir(folder)
    try:
        printed = on_ranks(2, RUN)
    finally:
        os.chdir(before)
    return folder, [json.loads(output.splitlines()[-1]) for output in printed]


def test_each_rank_goes_on_exactly(two: tuple[Path, list[dict[str, Any]]]) -> None:
    """Dropout differs between ranks and goes into the weights; the uninterrupted run decides."""
    for rank, seen in enumerate(two[1]):
        assert Path(seen["file"]).parent == Path(__file__).parent.parent.parent / "trustformers_pl"
        for step, resumed in seen["resumed"].items():
            rows, whole_rows = resumed.pop("rows"), seen["whole"]["rows"]
            whole = {key: value for key, value in seen["whole"].items() if key != "rows"}
            assert resumed == whole, f"rank {rank} resumed at {step}"
            assert rows == whole_rows[len(whole_rows) - len(rows) :], f"rank {rank} resumed at {step}"
            assert rows
    first, second = (seen["whole"] for seen in two[1])
    assert first["losses"] != second["losses"]
    assert first["random"] != second["random"]
    assert first["weights"] == second["weights"]
    assert (first["by_worker"]["0"]["batches"], second["by_worker"]["0"]["batches"]) == (8, 16)
    assert all(seen["same_files"] for seen in two[1])


def test_sharded_state_is_stored_whole(two: tuple[Path, list[dict[str, Any]]]) -> None:
    """5 rows on 2 ranks are 3 and 2; the expected value is the recurrence computed here on the whole tensor."""
    folder, seen = two
    stored = load(folder / "whole/step-00000014")["loops"]["fit_loop"]["epoch_loop.state_dict"]["parts"]
    expected = torch.arange(15.0).reshape(5, 3)
    for batch in range(1, 15):
        expected = expected * 0.5 + batch
    assert torch.equal(stored["tiny_state.EveryScope"]["sharded"]["value"]["average"], expected)
    local = [torch.tensor(one["whole"]["average"]) for one in seen]
    assert [len(rows) for rows in local] == [3, 2]
    assert torch.equal(torch.cat(local), expected)
    ranks = stored["tiny_state.EveryScope"]["rank"]["value"]
    assert [one["losses"] for one in ranks] == [one["whole"]["losses"] for one in seen]


def test_what_belongs_to_ranks_is_refused_on_another_number(two: tuple[Path, list[dict[str, Any]]]) -> None:
    with pytest.raises(
        CheckpointError,
        match=r"^tiny_state\.EveryScope: its rank state is of 2 ranks, this run has 1; resume with 2, or give E",
    ):
        train(str(two[0] / "cut3"), EveryScope(), Jitter(), resume=True)


class Average(Callback):
    """The sharded state only, read under the name of the part that wrote it."""

    state = EveryScope.state
    state_key = "EveryScope"
    state_version = 1

    def load_state(self, state: Any) -> None:
        if state.scope == "sharded":
            self.average = state.value["average"]

    def load_all_ranks(self, states: Any, rank: int, world_size: int) -> None: ...

    setup = EveryScope.setup

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *rest: Any) -> None: ...

    batches = 0


def test_everything_else_goes_on_with_one_rank(
    two: tuple[Path, list[dict[str, Any]]], caplog: pytest.LogCaptureFixture
) -> None:
    Average.__module__ = "tiny_state"
    average = Average()
    trainer = train(str(two[0] / "cut7"), average, Jitter(), resume=True, max_epochs=3)
    expected = torch.arange(15.0).reshape(5, 3)
    for batch in range(1, 15):
        expected = expected * 0.5 + batch
    assert torch.equal(average.average, expected)
    assert trainer.global_step == 21
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("trustformers_pl")]
    assert lines == [
        "resume: the run had 2 ranks and now has 1; its random numbers are not those of the run that went on",
        "resume: the run had 2 ranks and now has 1; this epoch's logged means are of the rest of it only",
    ]


def test_states_that_cannot_be_gathered_are_refused_in_one_line(two: tuple[Path, list[dict[str, Any]]]) -> None:
    first, second = two[1]
    for seen in (first, second):
        assert "this state cannot be stored" in seen["local_class"]
        assert "part0" in seen["local_class"]
        assert seen["dtensor"] == ("part0.a.b.0: a DTensor belongs to all ranks; give it in a state with Scope.SHARDED")
    assert first["ranks_differ"] == "part1: only some ranks have its rank state; give all ranks the same parts"
    assert (first["elsewhere_empty"], second["elsewhere_empty"]) == (False, True)


TWO_DIMENSIONS = """
    import torch, torch.distributed as dist
    from torch import nn
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
    from trustformers_pl.content import content_sha256
    from trustformers_pl.gathering import place_like, whole
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("shard", "tensor"))
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 10), nn.Linear(10, 5))
    before, sha256 = {name: value.clone() for name, value in module.state_dict().items()}, content_sha256(module)
    parallelize_module(module, mesh["tensor"], {"0": ColwiseParallel(), "1": RowwiseParallel()})
    fully_shard(module, mesh=mesh["shard"])
    parameters = dict(module.named_parameters())
    assert "_StridedShard" in str(parameters["0.weight"].placements)
    gathered = whole(parameters, "module")
    for name, parameter in parameters.items():
        assert gathered[name] is None if dist.get_rank() else torch.equal(gathered[name], before[name])
        placed = place_like(before[name], parameter)
        assert placed.placements == parameter.placements
        assert torch.equal(placed.to_local(), parameter.to_local())
    assert content_sha256(module) == sha256
    print("placed as torch placed it")
    dist.destroy_process_group()
"""


def test_tensors_are_gathered_from_and_placed_on_a_mesh_of_two_dimensions() -> None:
    """FSDP2 over tensor parallelism, with uneven shards; torch's own layout of the same weights is the expected one."""
    assert on_ranks(4, TWO_DIMENSIONS) == ["placed as torch placed it\n"] * 4
