"""Runs on two gloo ranks that save the pieces which each of them holds: exact resume, and files for one process."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import on_ranks
from tiny_state import EveryScope, Jitter, train

from trustformers_pl.checkpoint import load, verify
from trustformers_pl.checkpoint.comparing import compare
from trustformers_pl.checkpoint.folder import clean, steps
from trustformers_pl.errors import CheckpointError
from trustformers_pl.testing.ranks import RankError

RUN = """
    import json, logging
    import torch, torch.distributed as dist
    from tiny_everywhere import SavesEverywhere
    from tiny_state import EveryScope, Jitter, cut, train, tree
    from trustformers_pl.stored import save
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    dist.init_process_group("gloo")
    rank = dist.get_rank()

    def seen(trainer):
        every = trainer.callbacks[0]
        weights = {name: value.tolist() for name, value in trainer.lightning_module.state_dict().items()}
        return {"weights": weights, "average": every.average.to_local().tolist(), "losses": every.losses}

    out = {"gathered": seen(train("gathered", EveryScope(), Jitter()))}
    trainer = train("whole", EveryScope(), Jitter(), strategy=SavesEverywhere())
    out["whole"] = seen(trainer)
    save(trainer, "named")
    save(trainer, "at-boundary", boundary="whole/step-00000014")
    save(trainer, "named.ckpt")
    if rank == 0:
        cut("whole", "cut", 6)
    dist.barrier()
    out["resumed"] = seen(train("cut", EveryScope(), Jitter(), strategy=SavesEverywhere(), resume=True))
    dist.barrier()
    out["same_files"] = tree("whole/step-00000014") == tree("cut/step-00000014")
    print(json.dumps(out))
    dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """A run whose ranks save their pieces, resumed in one place, and one that saves on rank 0."""
    folder, before = tmp_path_factory.mktemp("two"), Path.cwd()
    os.chdir(folder)
    try:
        printed = on_ranks(2, RUN)
    finally:
        os.chdir(before)
    return folder, [json.loads(output.splitlines()[-1]) for output in printed]


def test_who_saves_makes_no_difference_to_the_run(two: tuple[Path, list[dict[str, Any]]]) -> None:
    for seen in two[1]:
        assert seen["whole"] == seen["gathered"]
        assert seen["resumed"] == seen["whole"]
        assert seen["same_files"]


def test_one_process_reads_the_same_state_from_both(two: tuple[Path, list[dict[str, Any]]]) -> None:
    """The run that gathered on rank 0 is the expected one."""
    folder = two[0]
    files = {path.name for path in (folder / "whole/step-00000014").iterdir()}
    parts = {"tensors.safetensors", "tensors-00001-of-00002.safetensors"}
    assert files == {*parts, "state.json", "manifest.json"}
    pieces, gathered = (load(folder / name / "step-00000014") for name in ("whole", "gathered"))
    for key, tensor in gathered["state_dict"].items():
        assert torch.equal(pieces["state_dict"][key], tensor), key
    averages = [
        state["loops"]["fit_loop"]["epoch_loop.state_dict"]["parts"]["tiny_state.EveryScope"]["sharded"]
        for state in (pieces, gathered)
    ]
    assert torch.equal(averages[0]["value"]["average"], averages[1]["value"]["average"])
    assert averages[0]["version"] == averages[1]["version"] == 1


def test_a_checkpoint_by_its_name_is_written_by_all_ranks_and_a_stock_file_is_whole(
    two: tuple[Path, list[dict[str, Any]]],
) -> None:
    folder = two[0]
    assert (folder / "named/tensors-00001-of-00002.safetensors").exists()
    stock = torch.load(folder / "named.ckpt", weights_only=True)
    named, last = load(folder / "named"), load(folder / "whole/step-00000014")
    assert named["state_dict"].keys() == stock["state_dict"].keys() == last["state_dict"].keys()
    for key, tensor in last["state_dict"].items():
        assert type(stock["state_dict"][key]) is torch.Tensor
        assert torch.equal(stock["state_dict"][key], tensor), key
        assert torch.equal(named["state_dict"][key], tensor), key


def test_what_is_saved_after_a_fit_is_what_the_run_s_last_checkpoint_holds(
    two: tuple[Path, list[dict[str, Any]]],
) -> None:
    """Its loop's state is read from there in pieces, and written whole."""
    assert compare(load(two[0] / "at-boundary"), load(two[0] / "whole/step-00000014")) == []


def test_one_rank_goes_on_from_pieces_of_two(two: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> None:
    """Up to the state that belongs to ranks, which says so as after any other save."""
    shutil.copytree(two[0] / "whole/step-00000014", tmp_path / "c/step-00000014")
    with pytest.raises(CheckpointError, match=r"EveryScope: its rank state is of 2 ranks, this run has 1"):
        train(str(tmp_path / "c"), EveryScope(), Jitter(), resume=True, max_epochs=3)


REFUSED = """
    import torch.distributed as dist
    from tiny_everywhere import SavesEverywhere
    from tiny_state import train
    from trustformers_pl.errors import CheckpointError
    dist.init_process_group("gloo")

    class SavesOnRankZero(SavesEverywhere):
        saves_on_every_rank = False

    try:
        train("refused", strategy=SavesOnRankZero())
    except CheckpointError as error:
        print(error)
    dist.destroy_process_group()
"""


def test_a_strategy_that_saves_on_rank_zero_alone_is_refused_before_training() -> None:
    first, second = on_ranks(2, REFUSED)
    assert first == second
    assert first.startswith(
        "state_dict.layer.weight: it lies on several ranks, and SavesOnRankZero saves on rank 0 only"
    )


TROUBLE = """
    import torch.distributed as dist
    from tiny_everywhere import SavesEverywhere, Trouble
    from tiny_state import EveryScope, train
    from trustformers_pl.errors import CheckpointError
    dist.init_process_group("gloo")
    try:
        train({kind!r} + "-folder", EveryScope(), Trouble({kind!r}, 4), strategy=SavesEverywhere())
    except CheckpointError as error:
        print(error)
"""


def whole_ones(folder: str) -> list[int]:
    """The steps whose checkpoints verify: all that there are, and nothing else."""
    found = steps(folder)
    for path in found.values():
        verify(path)
    clean(folder)
    assert sorted(path.name for path in Path(folder).iterdir()) == [path.name for path in found.values()]
    return list(found)


def test_a_run_ends_on_all_ranks_when_one_cannot_write_its_part() -> None:
    first, second = on_ranks(2, TROUBLE.format(kind="full"))
    assert first == second
    assert "step-00000005: checkpoint not written: rank 1: File too large; choose another folder" in first
    assert Path("full-0").read_text() == Path("full-1").read_text() == "6 CheckpointError"  # at the next boundary
    assert whole_ones("full-folder") == [1, 2, 3, 4]


def test_a_rank_that_dies_ends_the_run_of_the_others() -> None:
    """Lightning's collectives fail first; the writer of rank 0 then does not wait its 1000 seconds."""
    with pytest.raises(RankError, match="rank 1 did not write its part; look at what that rank says"):
        on_ranks(2, TROUBLE.format(kind="dies"))
    assert Path("dies-0").read_text().startswith("4 ")
    assert whole_ones("dies-folder") in ([1, 2, 3, 4], [1, 2, 3])  # as far as rank 1 got with its part of the fourth
