"""The hashes of a large file's blocks: Python's own hashlib over the same bytes says what they are."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
import torch

from trustformers_pl.checkpoint import verify, writing
from trustformers_pl.checkpoint.blocks import BlockHashes
from trustformers_pl.checkpoint.folder import read_folder, write_state
from trustformers_pl.checkpoint.manifest import Entry, Manifest, render
from trustformers_pl.checkpoint.manifest import read as read_manifest
from trustformers_pl.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

FILE = "tensors.safetensors"
STATE = {str(number): torch.randn(number) for number in (1, 300, 2000, 0, 50)}


def by_hand(content: bytes, size: int) -> list[str]:
    return [hashlib.sha256(content[start : start + size]).hexdigest() for start in range(0, len(content), size)]


@pytest.mark.parametrize("size", [1, 7, 64, 1000, 1024, 5000])
def test_pieces_of_any_size_are_cut_into_blocks(size: int) -> None:
    pieces = [b"a" * 3, b"", b"bc" * 500, b"d", b"e" * 64, b"f" * (2048 - 1068)]
    assert sum(map(len, pieces)) == 2048
    with ThreadPoolExecutor(3) as pool:
        hashes = BlockHashes(size, pool)
        for piece in pieces:
            hashes.take(piece)
        assert list(hashes.digests()) == by_hand(b"".join(pieces), size)


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(writing, "SIZE", 1000)
    write_state(tmp_path / "c", STATE)
    return tmp_path / "c"


def test_a_large_file_is_checked_by_its_blocks(large: Path) -> None:
    content = (large / FILE).read_bytes()
    told = json.loads((large / "manifest.json").read_text())["files"]
    assert told[FILE]["sha256"] == hashlib.sha256(content).hexdigest()  # what `sha256sum` says stays there
    assert told[FILE]["block_size"] == 1000
    assert told[FILE]["blocks"] == by_hand(content, 1000)
    assert "blocks" not in told["state.json"]  # it is no larger than a block
    verify(large)
    for mapped in (False, True):
        state, _ = read_folder(large, mapped=mapped)
        assert all(torch.equal(state[name], tensor) for name, tensor in STATE.items())


@pytest.mark.parametrize("at", [0, 999, 1000, 5500, -1])
def test_one_flipped_bit_in_any_block_is_found(large: Path, at: int) -> None:
    content = bytearray((large / FILE).read_bytes())
    start = (at % len(content)) // 1000 * 1000
    content[at] ^= 1
    (large / FILE).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{FILE}: sha256 differs from byte {start}: expected"):
        verify(large)
    for mapped in (False, True):
        with pytest.raises(CheckpointError, match=r"sha256 differs from byte|header is damaged"):
            read_folder(large, mapped=mapped)


def test_a_manifest_without_blocks_is_read_and_one_with_wrong_ones_is_not(large: Path) -> None:
    """Smaller files, and checkpoints of before, have none."""
    manifest = read_manifest(large)
    before = {name: Entry(entry.size, entry.sha256) for name, entry in manifest.files.items()}
    (large / "manifest.json").write_bytes(render(Manifest(before, manifest.metadata)))
    verify(large)
    assert read_folder(large)[0].keys() == STATE.keys()
    entry = manifest.files[FILE]
    fewer = Entry(entry.size, entry.sha256, entry.block_size, entry.blocks[:-1])
    (large / "manifest.json").write_bytes(render(Manifest({**before, FILE: fewer}, manifest.metadata)))
    with pytest.raises(CheckpointError, match="its blocks are not those of the file's size"):
        verify(large)
