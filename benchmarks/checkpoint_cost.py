"""What a checkpoint costs the training: the time its thread loses, the writer's CPU time, and loading.

    python benchmarks/checkpoint_cost.py --megabytes 200 --repeats 15

Every figure is a median of interleaved repeats. Times are relative to `torch.save` of the same state to the same disk,
which does not sync; ours is synced and hashed. The overhead is of a checkpoint every 30 seconds: the time that the
thread loses when the state is copied, and the time by which its steps are slower while the writer is at work.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from trustformers_pl.checkpoint import FolderCheckpointIO
from trustformers_pl.checkpoint.io import Request

if TYPE_CHECKING:
    from collections.abc import Callable

EVERY_SECONDS = 30.0


def a_state(megabytes: int) -> dict[str, Any]:
    """Weights and AdamW's two moments of a model of layers of 1 M parameters, as a Trainer dumps them."""
    layers = max(1, round(megabytes / 12))
    model = torch.nn.Sequential(*(torch.nn.Linear(1000, 1000, bias=False) for _ in range(layers)))
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return {"state_dict": model.state_dict(), "optimizer_states": [optimizer.state_dict()], "global_step": 1}


def timed(function: Callable[[], object]) -> float:
    """Wall seconds of a call."""
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


def steps_for(seconds: float, busy: Callable[[], bool]) -> float:
    """Seconds a training step takes while `busy()`, for at most `seconds`; 0 where there was no whole step."""
    model = torch.nn.Linear(512, 512)
    x = torch.randn(64, 512)
    done, begun = 0, time.perf_counter()
    while busy() and time.perf_counter() - begun < seconds:
        model.zero_grad()
        model(x).square().mean().backward()
        done += 1
    return (time.perf_counter() - begun) / done if done else 0.0


def one_round(state: dict[str, Any], folder: Path, io: FolderCheckpointIO, taken: dict[str, list[float]]) -> None:
    """Each way once."""
    own = time.thread_time()
    taken["torch.save"].append(timed(lambda: torch.save(state, folder / "file.ckpt")))
    taken["its CPU"].append(time.thread_time() - own)
    idle = steps_for(0.5, lambda: True)

    def save() -> None:
        with io.in_background(Request()):
            io.save_checkpoint(state, folder / "folder")

    cpu = time.process_time() - time.thread_time()
    own = time.thread_time()
    taken["blocked"].append(timed(save))
    taken["CPU"].append(time.thread_time() - own)
    begun = time.perf_counter()
    running = io.writer._running
    assert running is not None
    busy = steps_for(60, lambda: not running.done())
    io.writer.wait()
    taken["writing"].append(time.perf_counter() - begun)
    taken["writer's CPU"].append(time.process_time() - time.thread_time() - cpu)
    taken["slower"].append(busy / idle if busy else 1.0)
    taken["torch.load"].append(timed(lambda: torch.load(folder / "file.ckpt", weights_only=True)))
    taken["load"].append(timed(lambda: io.load_checkpoint(folder / "folder")))


def report(taken: dict[str, list[float]]) -> None:
    """Print the table."""
    of = {name: median(values) for name, values in taken.items()}
    unit, cpu = of["torch.save"], of["writer's CPU"]
    relative = median(ours / theirs for ours, theirs in zip(taken["blocked"], taken["torch.save"], strict=True))
    lost = of["blocked"] + of["writing"] * (1 - 1 / of["slower"])
    rows = [
        ("torch.save, not synced", f"{unit:.3f} s", "1"),
        ("training thread, per checkpoint", f"{of['blocked']:.3f} s", f"{relative:.3f}"),
        ("  in CPU time of that thread", f"{of['CPU']:.3f} s", f"{of['CPU'] / of['its CPU']:.3f} of torch.save's"),
        ("until it is safe on the disk", f"{of['writing']:.3f} s", f"{of['writing'] / unit:.2f}"),
        ("writer's CPU time", f"{cpu:.3f} s", f"{cpu / unit:.2f}"),
        ("a training step meanwhile", f"x {of['slower']:.2f}", ""),
        (f"of every {EVERY_SECONDS:g} s", f"{lost:.3f} s", f"{lost / EVERY_SECONDS:.2%} overhead"),
        ("load, verified", f"{of['load']:.3f} s", f"{of['load'] / of['torch.load']:.2f} of torch.load"),
    ]
    for name, value, ratio in rows:
        print(f"{name:34}{value:>10}  {ratio}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--folder", default=None, help="where to write; the system's temporary folder if not given")
    options = parser.parse_args()
    torch.set_num_threads(1)
    state, io, taken = a_state(options.megabytes), FolderCheckpointIO(), defaultdict[str, list[float]](list)
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        one_round(state, Path(temporary), io, defaultdict(list))  # memory is fresh in the first one
        os.sync()
        for _ in range(options.repeats):
            one_round(state, Path(temporary), io, taken)
    io.teardown()
    report(taken)


if __name__ == "__main__":
    sys.exit(main())
