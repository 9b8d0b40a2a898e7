"""States with DTensors, made by hand on every kind of mesh, for the tests of checkpoints that several ranks write."""

from __future__ import annotations

import logging
import os
import resource
import signal
import sys
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from trustformers_pl.checkpoint import FolderCheckpointIO, background
from trustformers_pl.checkpoint.background import BackgroundWriter
from trustformers_pl.checkpoint.board import Patience
from trustformers_pl.checkpoint.codec import decode, encode
from trustformers_pl.checkpoint.io import Request
from trustformers_pl.errors import CheckpointError
from trustformers_pl.gathering import place_like
from trustformers_pl.optim import EMA
from trustformers_pl.pieces import Pieces
from trustformers_pl.state import gather, give_back

PACKAGE = str(Path(background.__file__).parent)
WAITING = {
    "_until",
    "_there",
    "_asked",
    "_wait",
    "<lambda>",
    "<genexpr>",
}  # how often these are called is up to the others

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


def save(path: str | Path, given: Any, *, beside: bool = True, io: FolderCheckpointIO | None = None) -> None:
    """On every rank; returns when it is written."""
    io = io or saver()
    if beside:
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
    save(Path(folder, "at-once"), given, beside=False)


class Moments:
    """Counts the calls of a save in this process, of the package and of the system; at one of them it kills itself."""

    CALLS: ClassVar = {"open", "write", "flush", "fsync", "close", "mkdir", "rename", "unlink", "set", "get", "check"}

    def __init__(self, kill_at: int | None) -> None:
        self.kill_at, self.count = kill_at, 0

    def trace(self, frame: Any, event: str, arg: Any) -> None:
        ours = frame.f_code.co_filename.startswith(PACKAGE)
        system = event.startswith("c_") and arg.__name__ in self.CALLS and arg.__name__ != "check"
        self.count += system or (ours and not event.startswith("c_") and frame.f_code.co_name not in WAITING)
        if self.count == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def __enter__(self) -> Moments:
        sys.setprofile(self.trace)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(None)


def of_value(value: float) -> dict[str, Any]:
    """A small state whose every number is `value`."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    weight = distribute_tensor(torch.full((64, 8), value), mesh, [Shard(0)], src_data_rank=None)
    return {"state_dict": {"w": weight, "plain": torch.full((8,), value)}}


def save_and_die(folder: str, victim: int, kill_at: int | None) -> int:
    """Save a checkpoint, and another one in its place, amid which one rank dies; returns its moments."""
    rank = dist.get_rank()
    io = saver(seconds=0.5, hurried=0.2)
    save(Path(folder, "c"), of_value(1.0), beside=False, io=saver())
    given = of_value(2.0)
    dist.barrier()
    try:
        with Moments(kill_at if rank == victim else None) as moments:
            save(Path(folder, "c"), given, beside=False, io=io)
    except CheckpointError as error:
        Path(folder, f"said-by-{rank}").write_text(str(error))
    return moments.count


def without_room(folder: str, victim: int, beside: bool) -> list[str]:
    """Save while one rank's files may not grow, then as usual; what this rank is told."""
    io, said = saver(), []
    for name, limit in (("refused", 100), ("written", -1)):
        if dist.get_rank() == victim:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, -1))
        try:
            save(Path(folder, name), of_value(1.0), beside=beside, io=io)
        except CheckpointError as error:
            said.append(str(error))
        finally:
            if dist.get_rank() == victim:
                resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
        dist.barrier()
    return said


def room_comes(folder: str) -> list[str]:
    """Save while rank 1 has no room at first: it tries again, and the others wait."""
    io, lines = saver(), []
    io.writer = BackgroundWriter(pauses=(0.5,))
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("trustformers_pl").addHandler(handler)
    if dist.get_rank() == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, -1))
        threading.Timer(0.3, resource.setrlimit, (resource.RLIMIT_FSIZE, (-1, -1))).start()
    save(Path(folder, "written"), of_value(1.0), io=io)
    return lines


def said_by_all(folder: str, kind: str) -> str:
    """What this rank is told of a save that one of them makes impossible."""
    given, rank = of_value(1.0), dist.get_rank()
    if kind == "unstorable" and rank == 0:
        given["x"] = object()
    if kind == "differs" and rank == 1:
        given["state_dict"]["v"] = given["state_dict"].pop("w")
    io = saver(seconds=1.0, hurried=0.3) if kind == "absent" else saver(seconds=1000.0, hurried=0.3)
    try:
        if kind == "hurry" and rank == 0:
            with io.in_background(Request()):
                io.save_checkpoint(given, Path(folder, "c"))
            io.writer.close()
        elif rank == 0 or kind not in ("absent", "hurry"):
            save(Path(folder, "c"), given, io=io)
    except CheckpointError as error:
        return str(error)
    return ""


class OverTensorParallel(nn.Sequential):
    """Two layers that tensor parallelism cuts by columns and by rows."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Linear(6, 10), nn.Linear(10, 5))


def save_over_tensor_parallel(path: str) -> str:
    """FSDP2 over tensor parallelism: one dimension is sharded twice, the inner mesh dimension first."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("shard", "tensor"))
    module = parallelize_module(OverTensorParallel(), mesh["tensor"], {"0": ColwiseParallel(), "1": RowwiseParallel()})
    fully_shard(module, mesh=mesh["shard"])
    save(path, {"state_dict": module.state_dict()})
    stored = FolderCheckpointIO().load_pieces(path)["state_dict"]
    for name, value in module.state_dict().items():
        assert torch.equal(place_like(stored[name], value).to_local(), value.to_local()), name  # type: ignore[attr-defined]
    return str(module[0].weight.placements)


def three_steps(module: nn.Module, *, named: bool = True) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Train on the same data wherever it is called: two groups, one a layer."""
    layers = [list(layer.named_parameters(prefix=name)) for name, layer in module.named_children()]
    groups = [layer if named else [parameter for _, parameter in layer] for layer in layers]
    optimizer = torch.optim.AdamW([{"params": g, "lr": lr} for g, lr in zip(groups, (0.1, 0.01), strict=True)])
    inputs = torch.linspace(-1, 1, 24).reshape(4, 6)
    for _ in range(3):
        module(inputs).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return module, optimizer


def save_fsdp_training(path: str) -> None:
    """The same steps under FSDP2, saved with the optimizer's state."""
    module = OverTensorParallel()
    fully_shard(module, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    _, optimizer = three_steps(module)
    save(path, {"state_dict": module.state_dict(), "optimizer_states": [optimizer.state_dict()]})


def read_together(path: str) -> str:
    """Read with hashing shared out; what this rank is told, or a digest of what it has read."""
    try:
        stored = FolderCheckpointIO().load_pieces(path, together=True)["state_dict"]
    except CheckpointError as error:
        return str(error)
    wholes = {name: value if isinstance(value, Tensor) else value.whole() for name, value in stored.items()}
    return str(sum(float(value.double().sum()) for value in wholes.values()))


def save_with_nan(folder: str) -> None:
    """Save a state, and again with one number of the last rank that is none."""
    given = of_value(1.0)
    save(Path(folder, "whole"), given)
    given["state_dict"]["w"] = distribute_tensor(
        torch.ones(64, 8).index_fill(0, torch.tensor([60]), float("nan")), init_device_mesh("cpu", (2,)), [Shard(0)]
    )
    save(Path(folder, "nan"), given)


def every_call_fails(folder: str, victim: int) -> list[str]:
    """Save over an older checkpoint while the n-th system call of one rank's writer fails, for each n; what is told."""
    from test_background import Faults  # only here: ranks of other tests have no such module

    said, hit = [], True
    while hit:
        place, io = Path(folder, str(len(said))), saver(seconds=20.0)
        save(place / "c", of_value(1.0), io=saver())
        dist.barrier()
        faults = Faults(len(said) + 1 if dist.get_rank() == victim else None)
        with faults:
            try:
                save(place / "c", of_value(2.0), io=io)
                said.append("")
            except CheckpointError as error:
                said.append(str(error).removeprefix(f"{place}/c: "))
            io.teardown()
        counts: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(counts, faults.count)
        hit = counts[victim] >= len(said)
    return said


def averages_go_on(path: str) -> None:
    """Averaged weights, as pieces into a module whose weights are on this mesh."""
    ema, module = EMA(), nn.Linear(3, 5)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    fully_shard(module, mesh=mesh)
    ema.on_train_start(None, module)  # type: ignore[arg-type]
    ema.averages = {name: average + 1 for name, average in ema.averages.items()}
    kept = gather({"ema": ema}, in_place=True)
    io = saver()
    save(path, {"parts": kept}, io=io)
    stored = io.load_pieces(path)["parts"]
    for began in (True, False):  # amid a training, and before it
        other = EMA()
        if began:
            other.on_train_start(None, module)  # type: ignore[arg-type]
        give_back({"ema": other}, stored)
        as_stored = all(isinstance(average, Pieces) for average in other.averages.values())
        assert as_stored is not began
        other.on_train_start(None, module)  # type: ignore[arg-type]
        for name, average in ema.averages.items():
            placed: Any = other.averages[name]
            assert placed.placements == average.placements  # type: ignore[attr-defined]
            assert torch.equal(placed.to_local(), average.to_local())  # type: ignore[attr-defined]
    unplaced = EMA()
    give_back({"ema": unplaced}, stored)
    plain = nn.Linear(3, 5)
    unplaced.put_into(plain)
    for name, average in ema.averages.items():
        assert torch.equal(dict(plain.named_parameters())[name], average.full_tensor())  # type: ignore[attr-defined]
    tree, tensors = encode({"parts": gather({"ema": unplaced}, in_place=True)})
    if dist.get_rank() == 0:  # what nobody has placed is kept as it was
        found = decode(tree, tensors)["parts"]["ema"]["sharded"]["value"]["averages"]
        assert found.keys() == ema.averages.keys()
        assert torch.equal(found["weight"], plain.weight)
