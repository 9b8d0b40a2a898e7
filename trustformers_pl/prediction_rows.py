"""What a `predict_step` answers, as one JSON object a sample."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from trustformers_pl.errors import RefusedError

ALONE = "prediction"
WANTED = (
    "return a mapping of names to values of each sample (tensors or lists, batch first), one such tensor, or a list of "
    "mappings, one for each sample"
)


def rows_of(outputs: Any) -> list[str]:
    """One line of JSON for each sample of a batch.

    Args:
        outputs: A mapping of names to tensors (B, ...) or sequences of length B; one tensor (B, ...), which gets the
            name `prediction`; or a sequence of B mappings. NaN and infinities become `null`, as JSON has neither.

    Raises:
        RefusedError: Something else, values of different lengths, or one that JSON cannot hold.
    """
    if isinstance(outputs, Tensor):
        outputs = {ALONE: outputs}
    if isinstance(outputs, Mapping):
        samples = _transposed({str(name): _plain(value) for name, value in outputs.items()})
    elif isinstance(outputs, Sequence) and all(isinstance(sample, Mapping) for sample in outputs):
        samples = [{str(name): _plain(value) for name, value in sample.items()} for sample in outputs]
    else:
        raise RefusedError(f"model: predict_step answers with {_kind(outputs)}; {WANTED}")
    return [_line(sample) for sample in samples]


def _transposed(columns: dict[str, Any]) -> list[dict[str, Any]]:
    lengths = {name: len(values) if isinstance(values, list) else None for name, values in columns.items()}
    if len(set(lengths.values())) != 1 or None in lengths.values():
        shown = ", ".join(f"{n}: {'no list' if size is None else size}" for n, size in lengths.items()) or "nothing"
        raise RefusedError(f"model: predict_step answers with values of different lengths ({shown}); {WANTED}")
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # of torch and of NumPy
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _line(sample: dict[str, Any]) -> str:
    try:
        return json.dumps(sample, ensure_ascii=False)
    except TypeError as error:
        raise RefusedError(f"model: predict_step answers with what JSON cannot hold ({error}); {WANTED}") from error


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
