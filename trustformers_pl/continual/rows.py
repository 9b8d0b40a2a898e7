"""A batch as rows: its tensors by name, and the same batch with more rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trustformers_pl.errors import DataError

LABELS = "labels"


def rows_of(batch: Any, section: str = "replay") -> dict[str, Tensor]:
    """The tensors of a batch, each (B, ...), by their keys; in a list or tuple by their places, `0`, `1`, ...

    Args:
        batch: A mapping, list or tuple of tensors, or a tensor.
        section: Named in the error.

    Raises:
        DataError: There is something else in it, or the tensors have different numbers of rows.
    """
    if isinstance(batch, Tensor):
        return rows_of([batch], section)
    named = batch if isinstance(batch, Mapping) else None
    if named is None and isinstance(batch, list | tuple):
        named = {str(place): item for place, item in enumerate(batch)}
    if not named:
        raise DataError(f"{section}: a batch is a {type(batch).__name__}; give a mapping, a list or a tuple of tensors")
    for name, value in named.items():
        if not isinstance(value, Tensor) or not value.ndim:
            kind = "number" if isinstance(value, Tensor) else type(value).__name__
            raise DataError(f"{section}: {name!r} of a batch is a {kind}; give tensors with a row for each sample")
    if len({len(value) for value in named.values()}) > 1:
        sizes = ", ".join(f"{name} {len(value)}" for name, value in named.items())
        raise DataError(f"{section}: the tensors of a batch have different numbers of rows ({sizes})")
    return {str(name): value for name, value in named.items()}


def with_rows(batch: Any, more: Mapping[str, Tensor], section: str = "replay") -> Any:
    """A batch with further rows at its end, of the kind that it was.

    Args:
        batch: As for `rows_of`.
        more: By the same names, (N, ...) each.
        section: Named in the error.

    Raises:
        DataError: The rows have other names or shapes.
    """
    own = rows_of(batch, section)
    refuse_other_shapes(own, {name: value.shape[1:] for name, value in more.items()}, section)
    joined = {name: torch.cat([value, more[name].to(value.device, value.dtype)]) for name, value in own.items()}
    if isinstance(batch, Tensor):
        return joined["0"]
    if isinstance(batch, Mapping):
        return dict(zip(batch, joined.values(), strict=True))
    values = list(joined.values())
    return batch._make(values) if hasattr(batch, "_make") else type(batch)(values)


def refuse_other_shapes(rows: Mapping[str, Tensor], shapes: Mapping[str, Any], section: str) -> None:
    """Refuse rows that do not fit those that are kept.

    Args:
        rows: Name -> (N, ...).
        shapes: Name -> shape of a row.
        section: Named in the error.

    Raises:
        DataError: Other names or shapes.
    """
    found = {name: tuple(value.shape[1:]) for name, value in rows.items()}
    for name in dict.fromkeys([*found, *shapes]):
        now, before = found.get(name), shapes.get(name)
        if now is None or before is None or now != tuple(before):
            raise DataError(
                f"{section}: {name!r} of a sample has the shape {now}, and of one that is kept "
                f"{before if before is None else tuple(before)}; give samples of one shape, as `pad_to: fixed` does"
            )


def labels_of(rows: Mapping[str, Tensor], section: str = "replay") -> Tensor:
    """The class of each row: `labels`, or the last tensor of a list or tuple.

    Returns:
        (B,) int64.

    Raises:
        DataError: There are none, or a row has several.
    """
    name = LABELS if LABELS in rows else list(rows)[-1]
    labels = rows[name]
    if labels.ndim != 1 or labels.is_floating_point() or (name != LABELS and not name.isdigit()):
        raise DataError(
            f"{section}: to balance classes each sample needs one, as `labels` (B,) int64; keep: reservoir needs none"
        )
    return labels.long()
