"""SIGKILL at every step of a write, a replacement and a removal: nothing torn ever has a checkpoint's name."""

import os
import shutil
import signal
import sys

import pytest
import torch

from trustformers_pl.checkpoint import atomic, writing
from trustformers_pl.checkpoint.folder import clean, load, newest, remove, step_name, verify, write_state

torch.set_num_threads(1)
PACKAGE = os.path.dirname(writing.__file__)  # noqa: PTH120 - compared with a code object's text
CALLS = {"open", "write", "flush", "fsync", "close", "mkdir", "rename", "unlink", "rmdir"}


def in_child(act, kill_at):
    """Run `act` in a child that kills itself before or after its n-th system call or function of the package.

    Returns how many such moments there were, or None if it was killed.
    """
    count = 0

    def trace(frame, event, arg):
        nonlocal count
        ours = frame.f_code.co_filename.startswith(PACKAGE)
        system = event.startswith("c_") and arg.__name__ in CALLS
        count += system or (ours and not event.startswith("c_"))
        if count == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    read, put = os.pipe()
    if (pid := os.fork()) == 0:
        sys.setprofile(trace)
        act()
        sys.setprofile(None)
        os.write(put, str(count).encode())
        os._exit(0)
    os.close(put)
    _, status = os.waitpid(pid, 0)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    assert os.WIFSIGNALED(status) is not bool(text)
    return int(text) if text else None


def at_every_moment(tmp_path, prepare, act):
    """Yield a folder for each moment at which a kill left it, until `act` came through."""
    template = prepare(tmp_path / "template")
    counted = shutil.copytree(template, tmp_path / "counted")
    total = in_child(lambda: act(counted), None)
    assert total > 20  # the tracing sees the steps
    for moment in range(1, total + 1):
        folder = shutil.copytree(template, tmp_path / str(moment))
        if in_child(lambda folder=folder: act(folder), moment) is None:
            yield folder


def two_steps(folder):
    for step in (1, 2):
        write_state(folder / step_name(step), {"value": step, "w": torch.full((100,), float(step))})
    return folder


def value_of_newest(folder):
    path, complaints = newest(folder)
    assert complaints == []  # a kill leaves leftovers, never a damaged checkpoint
    return load(path)["value"]


def only_checkpoints_after_cleaning(folder):
    clean(folder)
    assert all(path.name.startswith("step-") for path in folder.iterdir())
    for path in folder.iterdir():
        verify(path)


def test_a_killed_write_leaves_the_whole_new_one_or_none(tmp_path):
    act = lambda folder: write_state(folder / step_name(3), {"value": 3, "w": torch.ones(100)})  # noqa: E731
    seen = set()
    for folder in at_every_moment(tmp_path, two_steps, act):
        seen.add(value_of_newest(folder))
        only_checkpoints_after_cleaning(folder)
    assert seen == {2, 3}  # both sides of the rename were hit


def test_a_killed_replacement_leaves_the_old_one_or_the_new_one(tmp_path):
    act = lambda folder: write_state(folder / step_name(2), {"value": 9, "w": torch.ones(100)})  # noqa: E731
    seen = set()
    for folder in at_every_moment(tmp_path, two_steps, act):
        seen.add(load(folder / step_name(2))["value"])
        only_checkpoints_after_cleaning(folder)
        seen.add(load(folder / step_name(2))["value"])
    assert seen == {2, 9}


def test_a_killed_replacement_by_two_renames_is_mended_by_clean(tmp_path):
    def prepare(folder):
        write_state(two_steps(folder) / "new", {"value": 9})
        return folder

    act = lambda folder: atomic.swap_aside(folder / "new", folder / step_name(2))  # noqa: E731
    seen, missing = set(), 0
    for folder in at_every_moment(tmp_path, prepare, act):
        missing += not (folder / step_name(2)).exists()
        clean(folder)
        seen.add(load(folder / step_name(2))["value"])
    assert seen == {2, 9}
    assert missing > 0  # the gap between the two renames was hit


def test_a_killed_removal_leaves_it_whole_or_gone(tmp_path):
    seen = set()
    for folder in at_every_moment(tmp_path, two_steps, lambda folder: remove(folder / step_name(2))):
        seen.add(value_of_newest(folder))
        only_checkpoints_after_cleaning(folder)
    assert seen == {1, 2}


@pytest.mark.parametrize("name", ["a", "b"])
def test_the_manifest_is_the_last_file_and_all_is_synced_before_the_rename(tmp_path, name):
    order = []

    def trace(frame, event, arg):
        if event == "c_call" and arg.__name__ in ("fsync", "rename"):
            order.append(arg.__name__)
        if event == "call" and frame.f_code.co_name == "write_file":
            order.append(frame.f_locals["path"].name)

    sys.setprofile(trace)
    try:
        write_state(tmp_path / name, {"w": torch.ones(3)})
    finally:
        sys.setprofile(None)
    # The order that rule E of the design asks for: files, manifest, folder, rename, parent.
    files = ["tensors.safetensors", "fsync", "state.json", "fsync", "manifest.json", "fsync"]
    assert order == [*files, "fsync", "rename", "fsync"]
