"""Checkpoints that several gloo ranks write, each its own pieces: what is in the folder, and what reads it."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import pytest
import tiny_sharded as sharded
import torch
from safetensors.torch import load_file

from trustformers_pl.checkpoint import load, verify
from trustformers_pl.checkpoint.codec import decode
from trustformers_pl.checkpoint.folder import write_state
from trustformers_pl.checkpoint.io import FolderCheckpointIO
from trustformers_pl.errors import CheckpointError
from trustformers_pl.pieces import Pieces
from trustformers_pl.testing import Ranks

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BEFORE = {
    "manifest.json": "e8ba583c5062d249e44fac773083732b66d2fce11811aa24a9f01c5d8da042ca",
    "state.json": "2002304936f72e8bea61dea28dd6e2cc4d1525ae3120407a41006193bbc1046b",
    "tensors.safetensors": "936502135e544b9caeede6450fa089339d00fb156128550f20ad983b061a9b18",
}


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


def test_fsdp_over_tensor_parallelism(tmp_path: Path) -> None:
    """Uneven, and cut twice along one dimension; the weights of the module before it was cut are the expected ones."""
    for placements in Ranks().run(4, sharded.on_each, sharded.save_over_tensor_parallel, str(tmp_path / "c")):
        assert "_StridedShard" in placements
    found = load(tmp_path / "c")["state_dict"]
    expected = sharded.OverTensorParallel().state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def flip(path: Path) -> str:
    """Change the last byte of a file."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    return "sha256 differs"


def cut(path: Path) -> str:
    """Take the last byte of a file away."""
    path.write_bytes(path.read_bytes()[:-1])
    return r"expected \d+ bytes, found \d+"


def lose(path: Path) -> str:
    """Remove a file."""
    path.unlink()
    return "missing"


@pytest.mark.parametrize("damage", [flip, cut, lose])
def test_a_damaged_part_is_named(
    written: tuple[int, Path], tmp_path: Path, command: Callable[..., tuple[int, str, str]], damage: Any
) -> None:
    ranks, folder = written
    copy = shutil.copytree(folder / "at-once", tmp_path / "copy")
    name = sorted(path.name for path in copy.glob("tensors*"))[0]  # of a rank other than 0, if there is one
    assert (ranks == 1) == (name == "tensors.safetensors")
    told = damage(copy / name)
    for read in (verify, load, FolderCheckpointIO().load_checkpoint, FolderCheckpointIO().load_pieces):
        with pytest.raises(CheckpointError, match=rf"{name}: {told}"):
            read(copy)
    code, out, _ = command("checkpoint", "verify", str(copy))
    assert code == 1
    assert re.search(rf"{name} +{told}", out)


def test_ranks_share_the_hashing_and_tell_each_other(written: tuple[int, Path], tmp_path: Path) -> None:
    """A flipped bit in the file that only the last rank hashes, and in one that only the first does."""
    ranks, folder = written
    expected = str(sum(float(tensor.double().sum()) for tensor in sharded.expected(ranks).values()))
    assert Ranks().run(2, sharded.on_each, sharded.read_together, str(folder / "at-once")) == [expected] * 2
    for number, name in enumerate(sorted(path.name for path in (folder / "at-once").glob("tensors*"))):
        copy = shutil.copytree(folder / "at-once", tmp_path / str(number))
        flip(copy / name)
        said = Ranks().run(2, sharded.on_each, sharded.read_together, str(copy))
        assert said[0] == said[1]
        assert f"{name}: sha256 differs" in said[0]


def test_a_tree_that_asks_for_other_pieces_is_refused(written: tuple[int, Path]) -> None:
    """A file that is whole by its hashes, but from a foreign writer."""
    tensors = {"w": torch.zeros(2, 3)}
    node = {"$": "Sharded", "v": "w", "shape": [2, 3], "dtype": "float32", "parts": [[0, [0, 0], [2, 3]]]}
    assert torch.equal(decode(node, tensors), tensors["w"])
    for wrong in (
        {"shape": [3, 3]},
        {"dtype": "float64"},
        {"dtype": "load"},
        {"v": "x"},
        {"parts": [[1, [0, 0], [2, 3]]]},
        {"parts": [[0, [1, 0], [2, 3]]]},
        {"parts": [[0, [-1, 0], [2, 3]]]},
        {"parts": [[0, [0, 0], [1, 3]]]},
        {"parts": []},
        {"parts": [[0, [0], [2, 3]]]},
    ):
        with pytest.raises(CheckpointError, match="the state tree is malformed"):
            decode({**node, **wrong}, tensors)


def test_without_dtensors_the_files_are_those_of_before(tmp_path: Path) -> None:
    """The digests are of what the version before wrote that knew no DTensors (commit cc034d9)."""
    state = {
        "state_dict": OrderedDict(w=torch.arange(6.0).reshape(2, 3), b=torch.ones(2, dtype=torch.bfloat16)),
        "epoch": 3,
        "x": (1, float("inf"), {2: b"a", "y": torch.Size([2])}),
    }
    write_state(tmp_path / "c", state, {"global_step": 5})
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / "c").iterdir()}
    assert digests == BEFORE
