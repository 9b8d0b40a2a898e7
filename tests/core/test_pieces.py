"""Which rank holds what of a DTensor, as torch itself says; pieces put together, and cut again for another mesh."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import tiny_sharded as sharded
import torch
import torch.distributed as dist
from tiny_sharded import SHAPES
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Shard, distribute_tensor
from torch.distributed.tensor._utils import (
    _compute_local_shape_and_global_offset,
    compute_local_shape_and_global_offset,
)
from torch.distributed.tensor.placement_types import _StridedShard

from trustformers_pl.checkpoint.folder import write_state
from trustformers_pl.checkpoint.io import FolderCheckpointIO
from trustformers_pl.checkpoint.tensorfile import pack, unpack
from trustformers_pl.errors import CheckpointError
from trustformers_pl.gathering import place_like
from trustformers_pl.pieces import Pieces, _region, owners, region_of
from trustformers_pl.testing import Ranks


def test_regions_of_pieces_are_those_of_the_whole() -> None:
    """Every box of a matrix that is cut in four uneven pieces, against indexing the matrix."""
    whole = torch.arange(35.0).reshape(7, 5)
    corners = [(0, 0, 3, 2), (0, 2, 3, 5), (3, 0, 7, 2), (3, 2, 7, 5)]
    pieces = Pieces(whole.shape, whole.dtype, [((a, b), whole[a:c, b:d]) for a, b, c, d in corners])
    assert torch.equal(pieces.whole(), whole)
    for top in range(8):
        for left in range(6):
            for height in range(8 - top):
                for width in range(6 - left):
                    found = pieces.region((top, left), (height, width))
                    assert torch.equal(found, whole[top : top + height, left : left + width])
    assert pieces.whole().data_ptr() != whole.data_ptr()
    with pytest.raises(CheckpointError, match="the pieces make up 6 of 35 elements"):
        Pieces(whole.shape, whole.dtype, pieces.pieces[:1]).whole()


def as_torch_says() -> int:
    """Compare this rank's regions with torch's own, and what all ranks write with the whole; returns how many."""
    count = 0
    for mesh, placements in sharded.layouts(4).values():
        for shape in SHAPES.values():
            if not sharded.fits(torch.empty(shape), placements):
                continue
            tensor = distribute_tensor(torch.zeros(shape), mesh, placements, src_data_rank=None)
            local, offset = compute_local_shape_and_global_offset(shape, mesh, placements)
            region = region_of(tensor)
            assert region.shape == tuple(local) == tuple(tensor.to_local().shape)
            assert region.numel == 0 or region.offset == tuple(offset)
            written = torch.zeros(shape)
            for _, owned in owners(tensor):
                written[owned.slices()] += 1
            assert torch.equal(written, torch.ones(shape))  # each element once
            mine = [owned for rank, owned in owners(tensor) if rank == dist.get_rank()]
            assert mine in ([], [region])
            count += 1
    return count


def test_regions_are_those_that_torch_gives() -> None:
    assert (
        Ranks().run(4, sharded.on_each, as_torch_says) == [35] * 4
    )  # six layouts of six shapes, but no blocks of a line


@pytest.mark.parametrize(("mesh", "in_stretches"), [((2, 2), []), ((2, 4), []), ((3, 2), [13, 19, 25, 31, 37])])
def test_regions_of_fsdp_over_tensor_parallelism_are_torch_s_or_refused(
    mesh: tuple[int, int], in_stretches: list[int]
) -> None:
    """One dimension cut twice, the inner mesh dimension first; uneven sizes can leave a rank with two stretches."""
    placements = (_StridedShard(0, split_factor=mesh[1]), Shard(0))
    coordinates = list(itertools.product(*map(range, mesh)))
    for size in range(40):
        if size in in_stretches:
            with pytest.raises(CheckpointError, match="several stretches of one dimension"):
                [_region((size, 3), mesh, placements, at) for at in coordinates]
            continue
        rows: list[int] = []
        for at in coordinates:
            region = _region((size, 3), mesh, placements, at)
            shape, offset = _compute_local_shape_and_global_offset((size, 3), mesh, list(at), placements)
            assert region.shape == tuple(shape)
            assert region.numel == 0 or region.offset == tuple(offset)
            rows += range(region.offset[0], region.offset[0] + region.shape[0])
        assert sorted(rows) == list(range(size))


def refused() -> list[str]:
    mesh = init_device_mesh("cpu", (2,))
    messages = []
    for act in (
        lambda: region_of(DTensor.from_local(torch.ones(2), mesh, [Partial()])),
        lambda: owners(DTensor.from_local(torch.ones(2), mesh, [Partial()])),
        lambda: FolderCheckpointIO().save_checkpoint(
            {"w": [DTensor.from_local(torch.ones(2), mesh, [Partial()])]}, "c"
        ),
    ):
        with pytest.raises(CheckpointError) as caught:
            act()
        messages.append(str(caught.value))
    return messages


def test_sums_that_are_pending_are_refused_on_all_ranks() -> None:
    first, second = Ranks().run(2, sharded.on_each, refused)
    assert first == second
    assert first[0] == "a DTensor with the placement P(sum) is in no regions of its own; redistribute it"
    assert first[0] == first[1]
    assert first[2] == "w.0: " + first[0]
    assert not Path("c").exists()


def save_on_these_ranks(path: str) -> None:
    sharded.save(path, sharded.state(dist.get_world_size()), beside=False)


def cut_again(path: str, written_by: int) -> int:
    """Place what other ranks wrote on every mesh of these ones, from pieces and from whole tensors."""
    io, count = FolderCheckpointIO(), 0
    stored, whole = io.load_pieces(path)["state_dict"], io.load_checkpoint(path)["state_dict"]
    expected = sharded.expected(written_by)
    for mesh, placements in sharded.layouts(dist.get_world_size()).values():
        for name, tensor in expected.items():
            if not sharded.fits(tensor, placements):
                continue
            like = distribute_tensor(torch.zeros_like(tensor), mesh, placements, src_data_rank=None)
            wanted = distribute_tensor(tensor, mesh, placements, src_data_rank=None)  # torch's own way of cutting
            for value in (stored[name], whole[name]):
                placed: Any = place_like(value, like)
                assert placed.placements == tuple(placements)
                assert placed.shape == tensor.shape
                assert placed.stride() == wanted.stride()
                assert placed.dtype == tensor.dtype
                assert torch.equal(placed.to_local(), wanted.to_local()), name
                count += 1
    for name, tensor in expected.items():  # and in plain tensors
        assert torch.equal(place_like(stored[name], torch.zeros_like(tensor)), tensor)
    return count


@pytest.mark.parametrize("chain", [(2, 4, 1), (1, 2), (4, 2)])
def test_what_some_ranks_wrote_is_cut_for_any_other_number(chain: tuple[int, ...]) -> None:
    for before, now in itertools.pairwise(chain):
        Ranks().run(before, sharded.on_each, save_on_these_ranks, f"of{before}")
        assert min(Ranks().run(now, sharded.on_each, cut_again, f"of{before}", before)) > 30


def cut_a_plain_one(path: str) -> int:
    """Place tensors that one process wrote without any mesh on every mesh of these ranks."""
    stored, count = FolderCheckpointIO().load_pieces(path), 0
    for mesh, placements in sharded.layouts(dist.get_world_size()).values():
        for name, tensor in sharded.whole_tensors().items():
            assert isinstance(stored[name], torch.Tensor)
            if sharded.fits(tensor, placements):
                wanted: Any = distribute_tensor(tensor, mesh, placements, src_data_rank=None)
                placed: Any = place_like(stored[name], torch.zeros_like(wanted))
                assert torch.equal(placed.to_local(), wanted.to_local()), name
                count += 1
    return count


def test_what_was_plain_is_cut(tmp_path: Path) -> None:
    write_state(tmp_path / "c", sharded.whole_tensors())
    assert min(Ranks().run(2, sharded.on_each, cut_a_plain_one, str(tmp_path / "c"))) == 19  # one is without rows


def test_averaged_weights_go_on_from_pieces(tmp_path: Path) -> None:
    Ranks().run(2, sharded.on_each, sharded.averages_go_on, str(tmp_path / "c"))


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux tells what of a file is in memory")
def test_only_the_pages_of_a_region_are_read(tmp_path: Path) -> None:
    file = tmp_path / "big.safetensors"
    file.write_bytes(b"".join(pack({"w": torch.arange(2**22).reshape(2**11, 2**11)})))  # 32 MiB
    mapped = unpack(file, mapped=True)["w"]
    pieces = Pieces(mapped.shape, mapped.dtype, [((0, 0), mapped[:1000]), ((1000, 0), mapped[1000:])])
    assert torch.equal(pieces.region((998, 0), (4, 2**11))[:, 0], torch.arange(998, 1002) * 2**11)
    _, _, told = Path("/proc/self/smaps").read_text().partition(str(file))
    resident = int(told[told.index("Rss:") :].split()[1])
    assert resident < 4 * 1024  # KiB; the system reads somewhat ahead


def test_other_shapes_are_refused() -> None:
    pieces = Pieces(torch.Size([2]), torch.float32, [((0,), torch.zeros(2))])
    with pytest.raises(CheckpointError, match=r"stored with shape \(2,\), but \(3,\) is needed"):
        place_like(pieces, torch.zeros(3))
