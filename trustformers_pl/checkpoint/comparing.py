"""What differs between two checkpoints: values by their path, tensors by their bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from trustformers_pl.checkpoint.finding import CHECKPOINTS
from trustformers_pl.recipe.marked_yaml import read_file
from trustformers_pl.run_folder import RECORD, changes

if TYPE_CHECKING:
    from collections.abc import Iterator

ABSENT = "not there"
_LONGEST = 40  # characters of a value that are shown
_MOST = 16  # numbers in a list that are compared one by one


@dataclass(frozen=True)
class Difference:
    """One value that differs.

    Attributes:
        name: Its path in the state.
        first: What it is in the first state, as text: a tensor's dtype and shape, any other value itself.
        second: The same of the second state.
        largest: The largest absolute difference of two tensors' elements; empty where they cannot be subtracted.
    """

    name: str
    first: str
    second: str
    largest: str = ""


def compare(first: object, second: object) -> list[Difference]:
    """Compare two states, as `load` gives them.

    Args:
        first: Nested dicts, lists, tuples, tensors, arrays and plain values.
        second: The same.

    Returns:
        The differences in the order of the first state. Tensors are equal if their bits are: NaN equals NaN, and -0.0
        is not 0.0.
    """
    return list(_compared(first, second, ""))


def _compared(first: Any, second: Any, where: str) -> Iterator[Difference]:
    before, after = _items(first), _items(second)
    if before is None or after is None:
        if not _same(first, second):
            yield Difference(where, _shown(first), _shown(second), _largest(first, second))
        return
    for name in dict.fromkeys([*before, *after]):
        below = f"{where}.{name}" if where else name
        if name in before and name in after:
            yield from _compared(before[name], after[name], below)
        else:
            yield Difference(below, *(_shown(some[name]) if name in some else ABSENT for some in (before, after)))


def recipe_changes(first: str | Path, second: str | Path) -> list[str]:
    """What differs between the recipes of the runs that two checkpoints are of, a line a key.

    Args:
        first: A run folder or a checkpoint in it.
        second: The same.

    Returns:
        The lines; none where either has no recipe beside it.
    """
    one, other = _run_folder(Path(first)), _run_folder(Path(second))
    if one is None or other is None or one == other:
        return []
    return changes(one, read_file(other / RECORD))


def _run_folder(path: Path) -> Path | None:
    place = path.resolve()
    folder = place.parents[1] if place.parent.name == CHECKPOINTS else place
    return folder if (folder / RECORD).is_file() else None


def _items(tree: object) -> dict[str, Any] | None:
    """What is below a value, by name; None for a leaf, which a long list of numbers (a generator's state) is too."""
    if isinstance(tree, Mapping):
        return {str(key): value for key, value in tree.items()}
    if not isinstance(tree, list | tuple) or (len(tree) > _MOST and all(type(item) in (int, float) for item in tree)):
        return None
    return {str(index): value for index, value in enumerate(tree)}


def _same(first: Any, second: Any) -> bool:
    one, other = _tensor(first), _tensor(second)
    if one is None or other is None:
        return type(first) is type(second) and repr(first) == repr(second)
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(_bits(one), _bits(other))


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)


def _tensor(value: Any) -> Tensor | None:
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return torch.from_numpy(np.array(value))
    return value if isinstance(value, Tensor) else None


def _largest(first: Any, second: Any) -> str:
    one, other = _tensor(first), _tensor(second)
    if one is None or other is None or one.shape != other.shape or one.numel() == 0:
        return ""
    wide = torch.complex128 if one.is_complex() or other.is_complex() else torch.float64
    return f"{(one.detach().to(wide) - other.detach().to(wide)).abs().max().item():.3g}"


def _shown(value: Any) -> str:
    tensor = _tensor(value)
    if tensor is not None:
        return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
    if isinstance(value, Mapping | list | tuple) and len(value) > 0:
        return f"{type(value).__name__} of {len(value)}"
    text = repr(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
