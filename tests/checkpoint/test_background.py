"""Writing beside the training: the same files, one after the other; every failure is told, and none tears anything."""

from __future__ import annotations

import errno
import gc
import logging
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from lightning import Callback, Trainer
from ranks import on_ranks
from test_exact_resume import RECIPE, tree
from torch.utils.data import DataLoader

from trustformers_pl import assemble
from trustformers_pl.checkpoint import FolderCheckpointIO, load, verify, writing
from trustformers_pl.checkpoint.background import BackgroundWriter
from trustformers_pl.checkpoint.buffers import Buffers
from trustformers_pl.checkpoint.folder import clean, newest, step_name, steps
from trustformers_pl.checkpoint.io import Request
from trustformers_pl.errors import CheckpointError

Write = Callable[..., str]
FOLDER = Path("runs/recipe/checkpoints")
EVERY_TEN = RECIPE.replace("{every_n_steps: 1, keep_last: 100}", "{every_n_steps: 10}")
PACKAGE = str(Path(writing.__file__).parent)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_copies_are_of_the_same_bits_and_share_nothing(dtype: torch.dtype) -> None:
    wide = torch.randint(0, 2, (3, 5)).to(dtype)
    tensors = {"wide": wide, "one": wide[0, 0].clone(), "none": torch.empty(0, 2, dtype=dtype)}
    buffers = Buffers()
    copies = buffers.copy(tensors)
    for name, tensor in tensors.items():
        assert copies[name].shape == tensor.shape
        assert bytes(copies[name].reshape(-1).view(torch.uint8).tolist()) == bytes(
            tensor.reshape(-1).view(torch.uint8).tolist()
        )
    wide.zero_()
    assert copies["wide"].to(torch.complex64).abs().sum() > 0
    again = buffers.copy(tensors)
    assert again["wide"].data_ptr() == copies["wide"].data_ptr()  # the same memory, used again


def test_a_checkpoint_holds_the_state_of_the_moment_it_was_asked_for(tmp_path: Path) -> None:
    """The writer is held up until the originals have changed."""
    io, weight, go_on = FolderCheckpointIO(), torch.ones(1000), threading.Event()
    io.writer.submit(lambda: go_on.wait(30))  # type: ignore[arg-type]
    released = threading.Timer(0.2, go_on.set)
    released.start()
    for step in (1, 2, 3):  # the first one waits for what is being written
        with io.in_background(Request()):
            io.save_checkpoint({"w": weight, "list": [step]}, tmp_path / step_name(step))
        weight.add_(1)
    io.teardown()
    for step in (1, 2, 3):
        state = load(tmp_path / step_name(step))
        assert torch.equal(state["w"], torch.full((1000,), float(step)))
        assert state["list"] == [step]


def test_files_are_the_same_in_the_background_and_not(write: Write) -> None:
    assemble(write(EVERY_TEN)).fit()
    Path("runs").rename("background")
    assemble(write(EVERY_TEN), ["checkpoint.background=false"]).fit()
    for step in (30, 40):
        ours, theirs = tree(FOLDER / step_name(step)), tree(Path("background/recipe/checkpoints") / step_name(step))
        assert {**ours, "manifest.json": b""} == {**theirs, "manifest.json": b""}  # it tells of another recipe


def refused_by(number: int, what: str = "x") -> Callable[[], None]:
    """A write that the system refuses."""

    def refuse() -> None:
        try:
            raise OSError(number, os.strerror(number))
        except OSError as error:
            raise CheckpointError(f"{what}: checkpoint not written: {error.strerror}") from error

    return refuse


def test_a_refused_write_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    writer, attempts = BackgroundWriter(pauses=(0.01, 0.02)), []

    def write() -> None:
        attempts.append(1)
        if len(attempts) < 3:
            refused_by(errno.EIO)()

    with caplog.at_level(logging.WARNING):
        writer.submit(write)
        writer.wait()
    assert len(attempts) == 3
    assert [record.getMessage().rpartition("; ")[2] for record in caplog.records] == [
        "trying again in 0.01 s",
        "trying again in 0.02 s",
    ]
    assert all("Input/output error" in record.getMessage() for record in caplog.records)


def test_what_fails_for_good_is_told_once_and_nothing_new_is_begun() -> None:
    writer, begun = BackgroundWriter(pauses=()), []
    writer.submit(refused_by(errno.EIO, "one"))
    with pytest.raises(CheckpointError, match="one"):
        writer.submit(lambda: begun.append(1))
    assert begun == []
    writer.submit(lambda: begun.append(2))
    writer.close()
    assert begun == [2]
    writer.submit(lambda: begun.append(3))  # it starts anew after it was closed
    writer.close()
    assert begun == [2, 3]


def test_closing_does_not_wait_for_pauses() -> None:
    writer = BackgroundWriter(pauses=(1000.0,))
    writer.submit(refused_by(errno.ENOSPC))
    begun = time.monotonic()
    with pytest.raises(CheckpointError):
        writer.close()
    assert time.monotonic() - begun < 30


def test_other_errors_are_not_tried_again() -> None:
    writer, attempts = BackgroundWriter(pauses=(1000.0,)), []

    def write() -> None:
        attempts.append(1)
        raise CheckpointError("metadata: not JSON")

    writer.submit(write)
    with pytest.raises(CheckpointError, match="not JSON"):
        writer.wait()
    assert attempts == [1]


def without_pauses(run: Any) -> Any:
    run.trainer.strategy.checkpoint_io.writer = BackgroundWriter(pauses=())
    return run


CALLS = {"open", "write", "flush", "fsync", "mkdir", "rename", "replace"}


class Faults:
    """Lets the n-th system call of the writer's thread fail, in the real code."""

    def __init__(self, at: int | None, number: int = errno.EIO, thread: str = "checkpoint") -> None:
        self.at, self.number, self.thread, self.count = at, number, thread, 0

    def trace(self, frame: Any, event: str, arg: Any) -> None:
        if event != "c_call" or arg.__name__ not in CALLS or not frame.f_code.co_filename.startswith(("/", "<")):
            return
        if threading.current_thread().name.startswith(self.thread) and self._is_ours(frame):
            self.count += 1
            if self.count == self.at:
                raise OSError(self.number, os.strerror(self.number))

    @staticmethod
    def _is_ours(frame: Any) -> bool:
        # pathlib calls for us: look a few frames up.
        for _ in range(4):
            if frame is not None and frame.f_code.co_filename.startswith(PACKAGE):
                return True
            frame = frame and frame.f_back
        return False

    def __enter__(self) -> Faults:
        threading.setprofile(self.trace)
        return self

    def __exit__(self, *error: object) -> None:
        threading.setprofile(None)  # type: ignore[arg-type]


def save(folder: Path, step: int) -> None:
    io = FolderCheckpointIO()
    io.writer = BackgroundWriter(pauses=())
    with io.in_background(Request()):
        io.save_checkpoint({"w": torch.full((100,), float(step))}, folder / step_name(step))
    io.teardown()


def test_any_call_of_a_save_may_fail(tmp_path: Path) -> None:
    """Each open, write, flush, fsync, mkdir and rename in turn: told, nothing torn, nothing left, the older one whole."""
    save(tmp_path / "counted", 1)
    with Faults(None) as counted:
        save(tmp_path / "counted", 2)
    assert counted.count >= 15  # three files are opened, written and synced; two folders synced; a rename
    outcomes = set()
    for at in range(1, counted.count + 1):
        folder = tmp_path / str(at)
        save(folder, 1)
        told = r"step-00000002: checkpoint not written: Input/output error"
        with Faults(at) as faults, pytest.raises(CheckpointError, match=told):
            save(folder, 2)
        assert faults.count >= at
        clean(folder)
        path, complaints = newest(folder)
        assert complaints == []
        assert path is not None
        outcomes.add(path.name)
        assert all(found.name in (step_name(1), step_name(2)) for found in folder.iterdir())
    assert outcomes == {step_name(1), step_name(2)}  # a rename was made, and the sync of its folder then failed


def test_a_run_whose_disk_fails_ends_in_an_error_and_resumes(write: Write) -> None:
    recipe = write(EVERY_TEN)
    assemble(recipe).fit()
    expected = tree(FOLDER / step_name(40))
    Path("runs").rename("whole")
    with (
        Faults(40) as faults,
        pytest.raises(CheckpointError, match=r"step-\d+: checkpoint not written: Input") as caught,
    ):
        without_pauses(assemble(recipe)).fit()
    assert faults.count >= 40
    assert "\n" not in str(caught.value)
    assert len(steps(FOLDER)) >= 1
    for path in steps(FOLDER).values():
        verify(path)
    assemble(recipe).fit()
    assert tree(FOLDER / step_name(40)) == expected


FULL = """
import os, resource
from lightning import Callback
from trustformers_pl import assemble
from trustformers_pl.checkpoint.background import BackgroundWriter
from trustformers_pl.errors import CheckpointError

class Full(Callback):
    def on_train_batch_end(self, trainer, *rest):
        if trainer.global_step == 12 and trainer.global_rank == 0:
            trainer.strategy.checkpoint_io.writer.wait()
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, -1))

os.chdir({folder!r})
run = assemble("recipe.yaml")
run.trainer.strategy.checkpoint_io.writer = BackgroundWriter(pauses=())
run.trainer.callbacks.append(Full())
try:
    run.fit()
except CheckpointError as error:
    print(run.trainer.global_step, error)
finally:  # what this process says itself goes to a file too
    resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
"""


def without_room(ranks: int, recipe: str) -> list[str]:
    """What each rank says of a run in which, from step 12 on, no file of rank 0 may grow beyond a few bytes."""
    return on_ranks(ranks, FULL.format(folder=str(Path(recipe).resolve().parent)))


def test_files_that_may_not_grow_end_the_run_before_its_last_step(write: Write) -> None:
    (printed,) = without_room(1, write(EVERY_TEN.replace("csv: {}", "")))
    step, _, said = printed.partition(" ")
    assert 20 <= int(step) <= 30  # a boundary soon after the writer failed
    assert "step-00000020: checkpoint not written: File too large" in said
    assert list(steps(FOLDER)) == [10]
    verify(FOLDER / step_name(10))


def test_a_failure_of_the_last_checkpoint_is_raised_too(write: Write) -> None:
    with Faults(1), pytest.raises(CheckpointError, match="step-00000040: checkpoint not written"):
        without_pauses(assemble(write(EVERY_TEN), ["checkpoint.every_n_steps=1000"])).fit()


def test_an_exception_waits_for_what_is_being_written(write: Write) -> None:
    class Raises(Callback):
        def on_train_batch_start(self, trainer: Trainer, *rest: Any) -> None:
            if trainer.global_step == 10:
                raise RuntimeError("a bad sample")

    run = assemble(write(EVERY_TEN))
    run.trainer.callbacks.append(Raises())  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="a bad sample"):
        run.fit()
    verify(FOLDER / step_name(10))
    assert not list(FOLDER.glob(".*"))
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("checkpoint")]


def test_a_temporary_folder_elsewhere_makes_no_difference(write: Write, tmp_path: Path) -> None:
    """Only the run folder is written to: `$TMPDIR` need not even exist."""
    recipe = write(EVERY_TEN)
    code = f"from trustformers_pl import assemble; assemble({recipe!r}).fit()"
    paths = os.pathsep.join([*sys.path, os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "TMPDIR": str(tmp_path / "nowhere"), "PYTHONPATH": paths}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, timeout=300)
    verify(FOLDER / step_name(40))


def test_a_folder_that_cannot_be_written_to(write: Write) -> None:
    Path("runs/recipe").mkdir(parents=True)
    FOLDER.touch()  # root may write to a folder of mode 0500, but nobody into a file
    with pytest.raises(CheckpointError, match="checkpoint not written: Not a directory"):
        without_pauses(assemble(write(EVERY_TEN))).fit()


def test_all_ranks_end_when_rank_zero_cannot_write(write: Write) -> None:
    recipe = EVERY_TEN.replace("csv: {}\n", "").replace("accelerator: cpu", "accelerator: cpu, devices: 2")
    printed = without_room(2, write(recipe + "ddp: {}\n"))
    assert printed[0] == printed[1]
    assert printed[0].startswith("30 ")  # the step at which the ranks next speak of checkpoints
    assert "step-00000020: checkpoint not written: File too large" in printed[0]


def test_memory_is_given_back_at_the_end(tmp_path: Path) -> None:
    io = FolderCheckpointIO()
    with io.in_background(Request()):
        io.save_checkpoint({"w": torch.zeros(10)}, tmp_path / "c")
    assert io._buffers._block is not None
    io.teardown()
    gc.collect()
    assert io._buffers._block is None


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, too small for two checkpoints of a wide model."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)]
    mounted = subprocess.run(mount, capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_run_on_a_disk_that_fills_up_says_what_is_missing_and_goes_on_with_room(
    write: Write, small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Deep of width 300 has 0.55 MB of weights, and AdamW as much twice: 2.2 MB a checkpoint where 3 are."""
    recipe = write(
        EVERY_TEN.replace("tiny.Composable, init_args: {dropout: 0.3}", "tiny.Deep, init_args: {width: 300}").replace(
            "tiny.Data, init_args: {count: 30}", "test_background.Wide"
        )
    )
    where = f"trainer.default_root_dir={small_disk / 'run'}"
    run = assemble(recipe, [where])
    run.trainer.strategy.checkpoint_io.writer = BackgroundWriter(pauses=(0.01,))
    told = r"step-00000020: checkpoint not written: No space left on device \((\d+) bytes needed, (\d+) free, (\d+) missing\)"
    with caplog.at_level(logging.WARNING), pytest.raises(CheckpointError, match=told):
        run.fit()
    assert "trying again in 0.01 s" in caplog.text
    assert list(steps(small_disk / "run" / "checkpoints")) == [10]
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    assemble(recipe, [where]).fit()
    assemble(recipe).fit()  # the uninterrupted run, elsewhere
    assert tree(small_disk / "run" / "checkpoints" / step_name(40)) == tree(FOLDER / step_name(40))


class Wide(tiny.Data):
    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(tiny.samples(30, 300), 4, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(tiny.samples(8, 300), 4)


def test_a_thousand_random_damages_of_a_run_are_all_found(write: Write) -> None:
    """Truncations and single flipped bits anywhere in a checkpoint of a run; `newest` falls back to the one before."""
    assemble(write(EVERY_TEN)).fit()
    last, before = FOLDER / step_name(40), FOLDER / step_name(30)
    whole, chance = tree(last), random.Random(0)
    names = sorted(whole)
    for trial in range(1000):
        name = chance.choices(names, [len(whole[name]) for name in names])[0]
        at = chance.randrange(len(whole[name]))
        damaged = bytearray(whole[name])
        if trial % 2:
            damaged[at] ^= 1 << chance.randrange(8)
        (last / name).write_bytes(damaged if trial % 2 else damaged[:at])
        path, complaints = newest(FOLDER)
        assert path == before, (name, at)
        assert name in complaints[0]
        (last / name).write_bytes(whole[name])
    assert newest(FOLDER) == (last, [])


def test_a_large_state_is_copied_whole_by_two_threads() -> None:
    """torch has one thread in these tests; 24 MB in tensors of many sizes."""
    sizes = [1, 7, 1000, 3_000_000, 0, 2_000_000, 1_000_000, 5]
    tensors = {f"{number}": torch.randn(size) for number, size in enumerate(sizes)}
    buffers = Buffers()
    for _ in range(2):
        copies = buffers.copy(tensors)
        expected = {name: tensor.clone() for name, tensor in tensors.items()}
        for tensor in tensors.values():
            tensor.add_(1)  # training goes on
        assert all(torch.equal(copies[name], tensor) for name, tensor in expected.items())
    buffers.release()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("checkpoint-copy")]
