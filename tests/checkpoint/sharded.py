"""States with DTensors, made by hand on every kind of mesh, for the tests of checkpoints that several ranks write."""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from trustformers_pl.checkpoint import FolderCheckpointIO
from trustformers_pl.checkpoint.background import BackgroundWriter
from trustformers_pl.checkpoint.board import Patience
from trustformers_pl.checkpoint.io import Request

SHAPES = {
    "even": (8, 6),
    "uneven": (5, 3),
    "on_some": (1, 4),  # empty on all ranks but one
    "empty": (0, 3),
    "tall": (7,),
    "cube": (3, 4, 5),
}


def whole_tensors() -> dict[str, Tensor]:
    """The same on every rank: every shape, some dtypes, one without dimensions."""
    generator = torch.Generator().manual_seed(7)
    found = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    found["half"] = torch.randn(6, 5, generator=generator).to(torch.bfloat16)
    found["numbers"] = torch.randint(-9, 9, (9, 2), generator=generator)
    found["flags"] = torch.randint(0, 2, (10,), generator=generator).bool()
    found["scalar"] = torch.tensor(3.25)
    return found


def layouts(ranks: int) -> dict[str, tuple[Any, tuple[Any, ...]]]:
    """Meshes over all ranks, and placements on them."""
    line = init_device_mesh("cpu", (ranks,))
    found: dict[str, Any] = {"rows": (line, (Shard(0),)), "copies": (line, (Replicate(),))}
    if ranks == 4:
        square = init_device_mesh("cpu", (2, 2))
        found |= {
            "copied_rows": (square, (Replicate(), Shard(0))),
            "rows_copied": (square, (Shard(0), Replicate())),
            "rows_twice": (square, (Shard(0), Shard(0))),
            "blocks": (square, (Shard(0), Shard(1))),
        }
    return found


def fits(tensor: Tensor, placements: tuple[Any, ...]) -> bool:
    return all(not isinstance(one, Shard) or one.dim < tensor.ndim for one in placements)


def state(ranks: int) -> dict[str, Any]:
    """A checkpoint whose tensors are laid out in each way that they can be, beside plain ones."""
    weights: OrderedDict[str, Any] = OrderedDict()
    for layout, (mesh, placements) in layouts(ranks).items():
        for name, tensor in whole_tensors().items():
            if fits(tensor, placements):
                weights[f"{layout}.{name}"] = distribute_tensor(tensor, mesh, placements, src_data_rank=None)
    weights["tied"] = weights["rows.even"]
    weights["plain"] = torch.arange(5.0)
    weights._metadata = OrderedDict(version=1)  # type: ignore[attr-defined]
    rest = {"epoch": 1, "global_step": 3} if dist.get_rank() == 0 else {"only": "here", "not": object()}
    return {"state_dict": weights, "nested": [{"x": (weights["rows.uneven"] + 1,)}], **rest}


def expected(ranks: int) -> dict[str, Tensor]:
    """What `state` holds, whole, by the names in its `state_dict`; made without any mesh."""
    names = ["rows", "copies", *(["copied_rows", "rows_copied", "rows_twice", "blocks"] if ranks == 4 else [])]
    dims = {"copies": 0, "blocks": 2}
    found = {f"{n}.{k}": t for n in names for k, t in whole_tensors().items() if t.ndim >= dims.get(n, 1)}
    return {**found, "tied": found["rows.even"], "plain": torch.arange(5.0)}


def saver(**patience: float) -> FolderCheckpointIO:
    """Without pauses between attempts."""
    io = FolderCheckpointIO()
    io.writer = BackgroundWriter(pauses=())
    io.patience = Patience(**patience) if patience else io.patience  # type: ignore[misc]
    return io


def save(path: str | Path, given: Any, *, background: bool = True, io: FolderCheckpointIO | None = None) -> None:
    """On every rank; returns when it is written."""
    io = io or saver()
    if background:
        with io.in_background(Request()):
            io.save_checkpoint(given, path)
        io.writer.wait()
    else:
        io.save_checkpoint(given, path)


def on_each(function: Any, *arguments: Any) -> Any:
    """Run a function with a process group, and leave it in order."""
    alone = {} if "RANK" in os.environ else {"store": dist.HashStore(), "rank": 0, "world_size": 1}
    dist.init_process_group("gloo", **alone)
    try:
        return function(*arguments)
    finally:
        dist.destroy_process_group()


def save_both_ways(folder: str) -> None:
    """Save the same state beside the training and at once."""
    ranks = dist.get_world_size()
    given = state(ranks)
    save(Path(folder, "background"), given)
    save(Path(folder, "at-once"), given, background=False)
