"""Checkpoint folders: whole or not there, any damage found, the newest whole one chosen."""

import errno
import json
import os
import random
import shutil
import socket
import subprocess
import threading

import pytest
import torch

from trustformers_pl.checkpoint import atomic
from trustformers_pl.checkpoint.folder import (
    clean,
    load,
    newest,
    read_folder,
    remove,
    state_files,
    step_name,
    steps,
    verify,
    write_folder,
    write_state,
)
from trustformers_pl.errors import CheckpointError

torch.set_num_threads(1)
STATE = {
    "state_dict": {"w": torch.arange(6.0).view(2, 3), "b": torch.ones(3, dtype=torch.bfloat16)},
    "epoch": 3,
    1: (2,),
}
FILES = ("manifest.json", "state.json", "tensors.safetensors")


def write(path, value=0):
    write_state(path, {**STATE, "value": value}, {"step": value})
    return path


def test_what_is_written_is_read_back(tmp_path):
    write_state(tmp_path / "deep" / "er" / "c", STATE, {"epoch": 3, "versions": {"torch": "x"}, "é": [None, 0.1]})
    state, metadata = read_folder(tmp_path / "deep" / "er" / "c")
    assert metadata == {"epoch": 3, "versions": {"torch": "x"}, "é": [None, 0.1]}
    assert torch.equal(state["state_dict"]["w"], STATE["state_dict"]["w"])
    assert torch.equal(state["state_dict"]["b"], STATE["state_dict"]["b"])
    assert (state["epoch"], state[1]) == (3, (2,))
    assert load(tmp_path / "deep" / "er" / "c")["epoch"] == 3


def test_the_manifest_agrees_with_other_tools(tmp_path):
    path = write(tmp_path / "c")
    assert sorted(item.name for item in path.iterdir()) == sorted(FILES)
    for name, entry in json.loads((path / "manifest.json").read_text())["files"].items():
        sha256 = subprocess.run(["sha256sum", path / name], capture_output=True, check=True, text=True).stdout.split()[
            0
        ]
        assert entry == {"size": (path / name).stat().st_size, "sha256": sha256}  # coreutils is the reference


def test_further_files_are_kept_and_verified(tmp_path):
    from trustformers_pl.checkpoint.codec import encode

    write_folder(tmp_path / "c", {**state_files(*encode(STATE)), "rank-1.bin": [b"ab", memoryview(b"cd")]})
    assert (tmp_path / "c" / "rank-1.bin").read_bytes() == b"abcd"
    assert read_folder(tmp_path / "c")[0]["epoch"] == 3
    (tmp_path / "c" / "rank-1.bin").write_bytes(b"abce")
    with pytest.raises(CheckpointError, match=r"rank-1\.bin: sha256 differs"):
        read_folder(tmp_path / "c")


def test_loaded_tensors_have_memory_of_their_own(tmp_path):
    path = write(tmp_path / "c")
    one, two = load(path), load(path)
    one["state_dict"]["w"].zero_()
    assert two["state_dict"]["w"].sum() == 15.0  # 0 + 1 + ... + 5
    assert one["state_dict"]["b"].tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("name", FILES)
def test_truncation_anywhere_is_found(tmp_path, name):
    path = write(tmp_path / "c")
    whole = (path / name).read_bytes()
    for size in {0, len(whole) - 1, *random.Random(1).sample(range(len(whole)), 70)}:
        (path / name).write_bytes(whole[:size])
        for read in (verify, read_folder):
            with pytest.raises(CheckpointError, match=name):
                read(path)


@pytest.mark.parametrize("name", FILES)
def test_a_single_flipped_bit_anywhere_is_found(tmp_path, name):
    path = write(tmp_path / "c")
    whole = (path / name).read_bytes()
    for bit in random.Random(2).sample(range(8 * len(whole)), 400):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        (path / name).write_bytes(damaged)
        for read in (verify, read_folder):
            with pytest.raises(CheckpointError, match=name):
                read(path)
    (path / name).write_bytes(whole)
    verify(path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path / "state.json").unlink(), "state.json: missing"),
        (lambda path: (path / "manifest.json").unlink(), "manifest.json: missing; this is no checkpoint"),
        (lambda path: shutil.rmtree(path), "manifest.json: missing; there is no such folder"),
        (lambda path: (path / "manifest.json").write_text("{}"), "manifest.json: damaged"),
        (lambda path: (path / "manifest.json").write_text("[" * 9**6), "manifest.json: damaged"),
        (lambda path: (path / "manifest.json").write_text('{"format": 2}'), "has format 2, this version reads up to 1"),
    ],
)
def test_the_message_says_which_file_is_bad_and_how(tmp_path, damage, message):
    path = write(tmp_path / "c")
    damage(path)
    for read in (verify, read_folder):
        with pytest.raises(CheckpointError) as caught:
            read(path)
        assert message in str(caught.value)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_the_message_of_a_truncated_file_says_both_sizes(tmp_path):
    path = write(tmp_path / "c")
    size = (path / "state.json").stat().st_size
    os.truncate(path / "state.json", 9)
    with pytest.raises(CheckpointError, match=f"state.json: expected {size} bytes, found 9;"):
        verify(path)


def test_a_manifest_cannot_name_files_elsewhere(tmp_path):
    write_folder(tmp_path / "other", {"x": [b""]})
    (tmp_path / "c").mkdir()
    from trustformers_pl.checkpoint.manifest import Entry, Manifest, render

    (tmp_path / "c" / "manifest.json").write_bytes(render(Manifest({"../other/x": Entry(0, "")}, {})))
    with pytest.raises(CheckpointError, match="names files outside the folder"):
        verify(tmp_path / "c")


def test_metadata_that_is_not_json_leaves_nothing(tmp_path):
    for metadata in ({"x": object()}, {"x": float("nan")}):
        with pytest.raises(CheckpointError, match="metadata: "):
            write_state(tmp_path / "c", STATE, metadata)
    assert list(tmp_path.iterdir()) == []


def test_a_state_that_cannot_be_stored_leaves_the_older_one(tmp_path):
    path = write(tmp_path / "c", 1)
    with pytest.raises(CheckpointError, match="value: an object"):
        write(path, object())
    assert load(path)["value"] == 1
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("old", ["folder", "file", "link", "dangling"])
def test_what_has_the_name_is_replaced(tmp_path, old):
    path, target = tmp_path / "last", write(tmp_path / "target", 1)
    if old == "folder":
        write(path, 1)
    elif old == "file":
        path.write_bytes(b"a stock checkpoint")
    else:
        path.symlink_to(target if old == "link" else tmp_path / "nowhere")
    write(path, 2)
    assert load(path)["value"] == 2
    assert not path.is_symlink()
    assert load(target)["value"] == 1
    assert sorted(item.name for item in tmp_path.iterdir()) == ["last", "target"]


def test_a_reader_never_misses_a_checkpoint_that_is_being_replaced(tmp_path):
    path, missing, done = write(tmp_path / "c"), [], threading.Event()

    def look():
        while not done.is_set():
            if not (path / "manifest.json").exists():
                missing.append(1)

    thread = threading.Thread(target=look)
    thread.start()
    for value in range(30):
        write(path, value)
    done.set()
    thread.join()
    assert missing == []
    assert atomic.exchange(path, write(tmp_path / "d"))  # the file system of this test has the atomic call


def test_replacing_by_two_renames_and_what_a_kill_between_them_leaves(tmp_path):
    final, new = write(tmp_path / "c", 1), write(tmp_path / "new", 2)
    atomic.swap_aside(new, final)
    assert load(final)["value"] == 2
    assert list(tmp_path.iterdir()) == [final]
    with pytest.raises(FileNotFoundError):
        atomic.swap_aside(new, final)
    assert load(final)["value"] == 2
    final.rename(tmp_path / f".c.old-{socket.gethostname()}-{dead_pid()}")
    clean(tmp_path)
    assert load(final)["value"] == 2


def dead_pid():
    """The id of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_clean_removes_only_what_the_dead_left(tmp_path):
    host, pid = socket.gethostname(), dead_pid()
    alive = subprocess.Popen(["sleep", "60"])
    stay = [f".c.tmp-{host}-{alive.pid}", f".c.tmp-elsewhere-{pid}", ".git", ".x.tmp-file", "c.tmp-a-1", step_name(1)]
    go = [f".c.tmp-{host}-{pid}", f".c.gone-{host}-{pid}", f".c.old-{host}-{pid}", f".c.tmp-{host}-{os.getpid()}"]
    long_ago = ".d.tmp-elsewhere-1"
    for name in [*stay, *go, long_ago, "c"]:
        (tmp_path / name).mkdir()
    os.utime(tmp_path / long_ago, (0, 0))
    try:
        assert sorted(path.name for path in clean(tmp_path)) == sorted([*go, long_ago])
    finally:
        alive.kill()
        alive.wait()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*stay, "c"])
    assert clean(tmp_path / "nowhere") == []


def test_clean_spares_what_this_process_is_writing(tmp_path):
    pieces, seen = threading.Event(), []

    class Slow(list):
        def __iter__(self):
            seen.extend(clean(tmp_path))
            pieces.set()
            return super().__iter__()

    write_folder(tmp_path / "c", {"x": Slow([b"1"])})
    assert pieces.is_set()
    assert seen == []
    verify(tmp_path / "c")


def test_steps_are_listed_by_number_and_foreign_names_passed_over(tmp_path):
    for name in [
        "step-00000002",
        "step-100000000",
        "step-00000010",
        "step-000000003",
        "step-3",
        "step-0000000x",
        "last",
    ]:
        (tmp_path / name).mkdir()
    (tmp_path / "step-00000004").touch()
    (tmp_path / ".step-00000005.tmp-host-1").mkdir()
    assert list(steps(tmp_path)) == [2, 10, 100000000]
    assert steps(tmp_path)[10] == tmp_path / "step-00000010"
    assert steps(tmp_path / "nowhere") == {}


def test_newest_is_the_highest_step_that_verifies(tmp_path):
    assert newest(tmp_path) == (None, [])
    for step in (1, 2, 3, 4):
        write(tmp_path / step_name(step), step)
    (tmp_path / step_name(4) / "state.json").write_text("{")
    (tmp_path / step_name(3) / "manifest.json").unlink()
    path, complaints = newest(tmp_path)
    assert path == tmp_path / step_name(2)
    assert [step_name(4) in complaints[0], step_name(3) in complaints[1], len(complaints)] == [True, True, 2]
    for step in (1, 2):
        os.truncate(tmp_path / step_name(step) / "tensors.safetensors", 9)
    assert newest(tmp_path)[0] is None
    assert len(newest(tmp_path)[1]) == 4


def test_remove_takes_folders_files_links_and_nothing(tmp_path):
    path = write(tmp_path / "c")
    (tmp_path / "link").symlink_to(path)
    (tmp_path / "file.ckpt").touch()
    for name in ("link", "file.ckpt", "nothing"):
        remove(tmp_path / name)
    assert list(tmp_path.iterdir()) == [path]
    verify(path)
    remove(path)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        CheckpointError, match=f"c: checkpoint not written: {os.strerror(errno.ENOTDIR)}; choose another"
    ):
        write(tmp_path / "file" / "c")
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk_leaves_the_older_checkpoint_and_says_how_much_is_missing(small_disk):
    older = write(small_disk / step_name(1), 1)
    free = shutil.disk_usage(small_disk).free
    big = {"w": torch.zeros(1 << 20, dtype=torch.uint8)}
    for name in (step_name(2), step_name(1)):
        with pytest.raises(CheckpointError) as caught:
            write_state(small_disk / name, big)
        assert f"{name}: checkpoint not written: {os.strerror(errno.ENOSPC)} (" in str(caught.value)
        needed, _, _, available, _, missing, _ = str(caught.value).split("(")[1].split(")")[0].split()
        assert int(missing) == int(needed) - free
        assert (1 << 20) < int(needed) < (1 << 20) + 1000
        assert int(available) == free
    assert [path.name for path in small_disk.iterdir()] == [older.name]
    assert newest(small_disk) == (older, [])
    assert load(older)["value"] == 1


def test_a_read_only_disk(small_disk):
    older = write(small_disk / "c", 1)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for act in (lambda: write(older, 2), lambda: remove(older)):
        with pytest.raises(CheckpointError, match=os.strerror(errno.EROFS)):
            act()
    assert load(older)["value"] == 1
