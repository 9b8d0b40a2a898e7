"""Types of numbers by the names that recipes use."""

from __future__ import annotations

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def dtype_of(given: torch.dtype | str | None) -> torch.dtype | None:
    """Torch's type of a name (`fp32`, `bf16`, `fp16`); a type, or None, as it is.

    Raises:
        ValueError: There is no such name.
    """
    if not isinstance(given, str):
        return given
    if given not in DTYPES:
        raise ValueError(f"no type {given!r}; use one of {', '.join(DTYPES)}")
    return DTYPES[given]
