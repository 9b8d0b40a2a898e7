"""A batch cut into pieces along its samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from trustformers_pl.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator


def samples_in(batch: Any) -> int:
    """The size of a batch's tensors along their first dimension; tensors without dimensions have no say.

    Args:
        batch: Tensors of shape (B, ...) in nested dicts, lists and tuples.

    Raises:
        DataError: There are none, or they differ: nobody knows then which dimension is that of samples.
    """
    sizes = sorted({len(tensor) for tensor in _tensors(batch) if tensor.ndim})
    if len(sizes) != 1:
        found = f"tensors of first sizes {', '.join(map(str, sizes))}" if sizes else "no tensors"
        raise DataError(f"a batch with {found} cannot be cut into pieces; give all its tensors one sample a row")
    return sizes[0]


def cut(batch: Any, number: int) -> Iterator[Any]:
    """Contiguous pieces of a batch, as equal as can be, and at most as many as it has samples; tensors are views.

    Args:
        batch: As for `samples_in`. Lists and tuples of as many strings or numbers as there are samples are cut as well;
            whatever else is in it goes into every piece as it is.
        number: Of pieces.

    Raises:
        DataError: As for `samples_in`.
    """
    samples = samples_in(batch)
    number = min(number, samples)
    for piece in range(number):
        yield _rows(batch, piece * samples // number, (piece + 1) * samples // number, samples)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(item)


def _rows(value: Any, start: int, stop: int, samples: int) -> Any:
    if isinstance(value, Tensor):
        return value[start:stop] if value.ndim else value
    if isinstance(value, Mapping):
        cut_items = {key: _rows(item, start, stop, samples) for key, item in value.items()}
        return cut_items if type(value) is dict else type(value)(cut_items)  # type: ignore[call-arg]
    if not isinstance(value, list | tuple):
        return value
    if len(value) == samples and all(isinstance(item, str | int | float) for item in value):
        return value[start:stop]
    items = [_rows(item, start, stop, samples) for item in value]
    return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
