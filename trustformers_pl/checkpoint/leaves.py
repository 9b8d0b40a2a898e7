"""Single values <-> JSON: what JSON cannot say exactly becomes `{"$": tag, "v": text}`."""

from __future__ import annotations

import base64
import math
import pathlib
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable

TAG = "$"
# Numpy kinds whose bytes are their whole value; strings, objects and records are left to Python's own types.
NUMPY_KINDS = "biufcmM"


def tagged(tag: str, value: Any, **more: Any) -> dict[str, Any]:
    """Build the node of a value that JSON has no word for.

    Args:
        tag: Which decoder reads it back.
        value: JSON.
        **more: Further JSON that the decoder needs.

    Returns:
        The node.
    """
    return {TAG: tag, "v": value, **more}


def numpy_dtype(name: str) -> np.dtype[Any]:
    """Read a dtype's name, byte order included.

    Args:
        name: As `numpy.dtype.str` gives it, such as `<f8`.

    Returns:
        The dtype.

    Raises:
        ValueError: It is none whose bytes are its whole value (objects, strings, records).
        TypeError: numpy does not know it.
    """
    dtype = np.dtype(name)
    if dtype.kind not in NUMPY_KINDS:
        raise ValueError(f"numpy dtype {name} is not one of numbers or times")
    return dtype


def _int(x: int) -> Any:
    # Python refuses to parse decimal numbers of more than 4300 digits; hexadecimal has no limit.
    return x if abs(x) < 2**63 else tagged("int", hex(x))


def _float(x: float) -> Any:
    # JSON has no inf; NaN's payload survives only as bytes. repr of the rest is exact.
    return x if math.isfinite(x) else tagged("float", struct.pack(">d", x).hex())


def _numpy_scalar(x: np.generic) -> Any:
    return tagged("numpy", x.tobytes().hex(), dtype=x.dtype.str)


def _same(x: Any) -> Any:
    return x


_ENCODE: dict[type, Callable[[Any], Any]] = {
    type(None): _same,
    bool: _same,
    str: _same,
    int: _int,
    float: _float,
    bytes: lambda x: tagged("bytes", base64.b64encode(x).decode()),
    type(pathlib.Path()): lambda x: tagged("Path", str(x)),
    pathlib.PurePosixPath: lambda x: tagged("PurePosixPath", str(x)),
    pathlib.PureWindowsPath: lambda x: tagged("PureWindowsPath", str(x)),
    torch.Size: lambda x: tagged("Size", list(x)),
    torch.dtype: lambda x: tagged("dtype", str(x).removeprefix("torch.")),
    torch.device: lambda x: tagged("device", str(x)),
}


def read_dtype(name: str) -> torch.dtype:
    """Read a dtype's name, such as `bfloat16`.

    Raises:
        AttributeError: torch has no such thing.
        TypeError: It is no dtype.
    """
    dtype = getattr(torch, name)
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"torch.{name} is no dtype")
    return dtype


def _read_float(text: str) -> float:
    raw = bytes.fromhex(text)
    if len(raw) != struct.calcsize(">d"):
        raise ValueError(f"{len(raw)} bytes are no float")
    value: float = struct.unpack(">d", raw)[0]
    return value


# Each reads its own node. None calls anything that the node names.
DECODE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "int": lambda node: int(node["v"], 16),
    "float": lambda node: _read_float(node["v"]),
    "bytes": lambda node: base64.b64decode(node["v"], validate=True),
    "Path": lambda node: pathlib.Path(node["v"]),
    "PurePosixPath": lambda node: pathlib.PurePosixPath(node["v"]),
    "PureWindowsPath": lambda node: pathlib.PureWindowsPath(node["v"]),
    "Size": lambda node: torch.Size(node["v"]),
    "dtype": lambda node: read_dtype(node["v"]),
    "device": lambda node: torch.device(node["v"]),
    "numpy": lambda node: np.frombuffer(bytes.fromhex(node["v"]), numpy_dtype(node["dtype"]))[0],
}


def encode_leaf(x: object) -> Any:
    """Turn one value that holds no other into JSON.

    Args:
        x: The value.

    Returns:
        JSON, or `NotImplemented` if the value is a container, a tensor, an array or nothing that can be stored.
    """
    # By exact type: a subclass (an IntEnum, a StrEnum) would come back as something else.
    if (encode := _ENCODE.get(type(x))) is not None:
        return encode(x)
    if isinstance(x, np.generic) and x.dtype.kind in NUMPY_KINDS:
        return _numpy_scalar(x)
    return NotImplemented
