"""The safetensors format, streamed: no second copy of the state in memory, and each byte read once.

Source: https://github.com/huggingface/safetensors#format (8 bytes little-endian header length, JSON header, data).
"""

from __future__ import annotations

import json
import math
import mmap
import os
from typing import TYPE_CHECKING, Any, BinaryIO

import torch
from torch import Tensor

from trustformers_pl.errors import CheckpointError
from trustformers_pl.pieces import Pieces

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

# Those that the reference implementation both writes and reads.
DTYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F32": torch.float32,
    "C64": torch.complex64,
    "F64": torch.float64,
    "I64": torch.int64,
    "U64": torch.uint64,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_PREFIX = 8  # bytes of the header's length


def _bytes(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor, not copied unless it is on another device."""
    return tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data


def pack(tensors: Mapping[str, Tensor]) -> list[memoryview]:
    """Lay tensors out as the bytes of a safetensors file.

    Args:
        tensors: Contiguous tensors of any shape and of a dtype in `DTYPES`.

    Returns:
        The pieces of the file in order. They are the tensors' own memory, so it must not change until they are written.
    """
    return [_head(tensors, {}), *(_bytes(tensors[name]) for name in _order(tensors))]


def stream(tensors: Mapping[str, Tensor | Pieces], metadata: Mapping[str, str]) -> Iterator[memoryview]:
    """As `pack`, but one tensor after the other is put together: only one is in memory at a time.

    Args:
        tensors: Contiguous tensors, or pieces in files, of any shape and of a dtype in `DTYPES`.
        metadata: Text for the file's header.
    """
    yield _head(tensors, metadata)
    for name in _order(tensors):
        value = tensors[name]
        yield _bytes(value.whole() if isinstance(value, Pieces) else value)


def _order(tensors: Mapping[str, Tensor | Pieces]) -> list[str]:
    # Wide elements first: then each tensor is aligned to its element size in a file that is mapped into memory.
    return sorted(tensors, key=lambda name: -tensors[name].dtype.itemsize)


def _head(tensors: Mapping[str, Tensor | Pieces], metadata: Mapping[str, str]) -> memoryview:
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name in _order(tensors):
        dtype, shape = tensors[name].dtype, list(tensors[name].shape)
        end = offset + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype], "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _PREFIX)
    return memoryview(len(text).to_bytes(_PREFIX, "little") + text)


def unpack(path: Path, take: Callable[[memoryview], object] = bool, *, mapped: bool = False) -> dict[str, Tensor]:
    """Read a safetensors file once, each tensor into memory of its own, or map it.

    Args:
        path: The file.
        take: Called with the pieces of the file in order (the tensors' own memory), each once it is there, so that they
            can be hashed without reading the file again.
        mapped: Map the file into memory; writing to a tensor then changes a private copy, never the file.

    Returns:
        The tensors by name, on the CPU, with the shapes and dtypes of the header.

    Raises:
        CheckpointError: The file is not safetensors or has another size than its header says.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        try:
            return (_map if mapped else _read)(file, os.fstat(file.fileno()).st_size, take)
        except (AttributeError, LookupError, RecursionError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: the safetensors header is damaged: {error!r}") from error


def _read(file: BinaryIO, size: int, take: Callable[[memoryview], object]) -> dict[str, Tensor]:
    head, header = _header(file, size)
    take(memoryview(head))
    tensors = {}
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        tensors[name] = torch.empty(entry["shape"], dtype=DTYPES[entry["dtype"]])
        content = _bytes(tensors[name])
        file.readinto(content)  # type: ignore[attr-defined]
        take(content)
    return {name: tensors[name] for name in header}


def _map(file: BinaryIO, size: int, take: Callable[[memoryview], object]) -> dict[str, Tensor]:
    head, header = _header(file, size)
    memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    take(memoryview(memory))
    return {name: _mapped(memory, len(head), entry) for name, entry in header.items()}


def _mapped(memory: mmap.mmap, start: int, entry: dict[str, Any]) -> Tensor:
    shape, dtype = entry["shape"], DTYPES[entry["dtype"]]
    count, offset = math.prod(shape), start + entry["data_offsets"][0]
    if count == 0:
        return torch.empty(shape, dtype=dtype)
    if offset % dtype.itemsize:  # another program's file: numbers across a boundary are slow, or an error
        return torch.frombuffer(bytearray(memory[offset : offset + count * dtype.itemsize]), dtype=dtype).reshape(shape)
    return torch.frombuffer(memory, dtype=dtype, count=count, offset=offset).reshape(shape)


def _header(file: BinaryIO, size: int) -> tuple[bytes, dict[str, Any]]:
    """The bytes before the tensors, and the checked header: a damaged one must not ask for all memory."""
    prefix = file.read(_PREFIX)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < _PREFIX or length > size - _PREFIX:
        raise ValueError(f"it says it has {length} bytes, the file has {size}")
    text = file.read(length)
    header: dict[str, Any] = json.loads(text)
    header.pop("__metadata__", None)
    end = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, (start, end) = end, entry["data_offsets"]
        tensor_bytes = math.prod(entry["shape"]) * DTYPES[entry["dtype"]].itemsize
        if start != begin or end - start != tensor_bytes or end > size - _PREFIX - length:
            raise ValueError(f"tensor {name} does not lie where it should")
    if end != size - _PREFIX - length:
        raise ValueError(f"{size - _PREFIX - length - end} bytes belong to no tensor")
    return prefix + text, header
