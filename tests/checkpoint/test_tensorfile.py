"""Our streamed safetensors files are the reference implementation's, both ways."""

import json

import pytest
import safetensors.torch
import torch

from trustformers_pl.checkpoint.tensorfile import DTYPES, pack, unpack
from trustformers_pl.errors import CheckpointError

torch.set_num_threads(1)


def every_dtype():
    raw = torch.arange(64, dtype=torch.uint8)
    made = {
        name: (raw % 2 if name == "BOOL" else raw.clone()).view(dtype).reshape(2, -1) for name, dtype in DTYPES.items()
    }
    return {
        **made,
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(2.5, dtype=torch.bfloat16),
        "ünicode": torch.ones(3),
    }


def equal(one, two):
    bits = [tensor.reshape(-1).view(torch.uint8) for tensor in (one, two)]
    return one.dtype == two.dtype and one.shape == two.shape and torch.equal(*bits)


def test_the_reference_reads_what_we_write(tmp_path):
    tensors = every_dtype()
    (tmp_path / "t").write_bytes(b"".join(pack(tensors)))
    theirs = safetensors.torch.load_file(tmp_path / "t")  # safetensors is the reference
    assert theirs.keys() == tensors.keys()
    assert all(equal(theirs[name], tensors[name]) for name in tensors)


def test_we_read_what_the_reference_writes(tmp_path):
    tensors = every_dtype()
    safetensors.torch.save_file(tensors, tmp_path / "t", metadata={"format": "pt"})
    pieces: list[memoryview] = []
    ours = unpack(tmp_path / "t", pieces.append)
    assert ours.keys() == tensors.keys()
    assert all(equal(ours[name], tensors[name]) for name in tensors)
    assert b"".join(pieces) == (tmp_path / "t").read_bytes()


def test_all_dtypes_of_the_reference_are_known():
    readable = set(safetensors.torch._TYPES.values())  # what its reader knows
    assert set(DTYPES.values()) == readable
    assert {name: DTYPES[name] for name in safetensors.torch._TYPES} == safetensors.torch._TYPES


def test_each_tensor_is_aligned_to_its_element_size(tmp_path):
    header = bytes(pack(every_dtype())[0])
    assert len(header) % 8 == 0
    for entry in json.loads(header[8:]).values():
        assert entry["data_offsets"][0] % DTYPES[entry["dtype"]].itemsize == 0


@pytest.mark.parametrize(
    "entries",
    [
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},
        {"a": {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [1]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}},
        {"a": 1},
        [],
        {},
    ],
)
def test_a_header_that_does_not_fit_its_file_is_refused(tmp_path, entries):
    text = json.dumps(entries).encode()
    (tmp_path / "t").write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    with pytest.raises(CheckpointError, match="header is damaged"):
        unpack(tmp_path / "t")


def test_a_header_that_asks_for_more_than_the_file_holds_is_refused_before_memory_is_asked_for(tmp_path):
    text = json.dumps({"a": {"dtype": "F32", "shape": [1 << 60], "data_offsets": [0, 1 << 62]}}).encode()
    (tmp_path / "t").write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    with pytest.raises(CheckpointError, match="tensor a does not lie where it should"):
        unpack(tmp_path / "t")
