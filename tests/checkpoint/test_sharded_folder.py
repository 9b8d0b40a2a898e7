"""Checkpoints that several gloo ranks write, each its own pieces: what is in the folder, and what reads it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sharded
import torch
from safetensors.torch import load_file

from trustformers_pl.checkpoint import load, verify
from trustformers_pl.checkpoint.io import FolderCheckpointIO
from trustformers_pl.pieces import Pieces
from trustformers_pl.testing import Ranks


@pytest.fixture(scope="module", params=[1, 2, 4])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    """A folder with two checkpoints of the same state, and the number of ranks that wrote them."""
    folder = tmp_path_factory.mktemp(f"of{request.param}")
    Ranks().run(request.param, sharded.on_each, sharded.save_both_ways, str(folder))
    return request.param, folder


@pytest.mark.parametrize("name", ["background", "at-once"])
def test_one_process_reads_the_whole_tensors_bit_for_bit(written: tuple[int, Path], name: str) -> None:
    """The expected tensors were never on a mesh."""
    ranks, folder = written
    verify(folder / name)
    expected = sharded.expected(ranks)
    for mapped in (False, True):
        found = load(folder / name, mapped=mapped)
        assert found["state_dict"].keys() == expected.keys()
        for key, tensor in expected.items():
            assert found["state_dict"][key].dtype == tensor.dtype, key
            assert torch.equal(found["state_dict"][key], tensor), key
        assert found["state_dict"]["tied"] is found["state_dict"]["rows.even"]
        assert found["state_dict"]._metadata == {"version": 1}
        assert torch.equal(found["nested"][0]["x"][0], expected["rows.uneven"] + 1)
        assert (found["epoch"], found["global_step"]) == (1, 3)
        assert found.keys() == {"state_dict", "nested", "epoch", "global_step"}  # nothing of the other ranks' rest


def test_each_rank_has_a_file_with_its_pieces_alone(written: tuple[int, Path]) -> None:
    ranks, folder = written
    names = ["tensors.safetensors", *(f"tensors-{rank:05d}-of-{ranks:05d}.safetensors" for rank in range(1, ranks))]
    for checkpoint in ("background", "at-once"):
        found = {path.name for path in (folder / checkpoint).iterdir()}
        assert found == {*names, "state.json", "manifest.json"}
        assert (folder / checkpoint / "manifest.json").stat().st_size > 0
    assert sorted(path.name for path in folder.iterdir()) == ["at-once", "background"]
    files = [load_file(folder / "at-once" / name) for name in names]  # by the reference implementation
    wanted = sum(tensor.numel() for name, tensor in sharded.expected(ranks).items() if name != "tied")
    held = sum(t.numel() for tensors in files for t in tensors.values()) - sharded.expected(1)["rows.uneven"].numel()
    assert held == wanted  # each element once, however often it is replicated, and tied weights once
    state = json.loads((folder / "at-once/state.json").read_text())
    (node,) = [node for name, node in state["state_dict"]["v"] if name == "rows.uneven"]
    rows = {1: [5], 2: [3, 2], 4: [2, 2, 1]}[ranks]  # as torch.chunk cuts 5 rows; the fourth rank of 4 has none
    starts = {1: [0], 2: [0, 3], 4: [0, 2, 4]}[ranks]
    parts = [[rank, [start, 0], [size, 3]] for rank, (start, size) in enumerate(zip(starts, rows, strict=True))]
    assert node == {
        "$": "Sharded",
        "v": "state_dict.rows.uneven",
        "shape": [5, 3],
        "dtype": "float32",
        "parts": parts,
    }


def test_pieces_are_read_by_region(written: tuple[int, Path]) -> None:
    ranks, folder = written
    state = FolderCheckpointIO().load_pieces(folder / "at-once")
    whole = sharded.expected(ranks)
    for name, value in state["state_dict"].items():
        assert isinstance(value, torch.Tensor if name == "plain" else Pieces)
        if isinstance(value, Pieces):
            assert torch.equal(value.whole(), whole[name]), name
    cube = state["state_dict"]["rows.cube"]
    assert torch.equal(cube.region((1, 1, 2), (2, 3, 2)), whole["rows.cube"][1:3, 1:4, 2:4])
    assert cube.region((1, 0, 0), (0, 4, 5)).shape == (0, 4, 5)


def test_files_are_the_same_in_the_background_and_not(written: tuple[int, Path]) -> None:
    background, at_once = (
        {path.name: path.read_bytes() for path in (written[1] / name).iterdir()} for name in ("background", "at-once")
    )
    told = json.loads(background.pop("manifest.json"))["metadata"], json.loads(at_once.pop("manifest.json"))["metadata"]
    assert background == at_once
    assert (told[0].pop("finite"), told[0]) == (True, told[1])  # the writer looks; who saves at once does not
