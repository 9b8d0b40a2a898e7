"""Predictions of several ranks as files, and their merging into the order of the data."""

from __future__ import annotations

import heapq
import os
from itertools import groupby, islice
from typing import TYPE_CHECKING

from trustformers_pl.durable import sync_folder
from trustformers_pl.errors import TrustformersError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path
    from typing import TextIO

Key = tuple[int, int]  # loader, batch


def part_path(out: Path, rank: int) -> Path:
    """Where a rank's part stands until all of them are merged: beside the file that they make."""
    return out.with_name(f".{out.name}.part-{rank}")


def write_rows(part: TextIO, key: Key, rows: Iterable[str]) -> None:
    """Append a batch's lines to a part, each after the number of its loader and its batch."""
    part.writelines(f"{key[0]} {key[1]} {row}\n" for row in rows)


def merge_parts(out: Path, ranks: int, samples: Callable[[Key], int | None]) -> int:
    """Merge the parts of all ranks into one file, in the order of the data, and remove them.

    Args:
        out: The file; one that is there is replaced when the new one is whole.
        ranks: How many parts there are; a batch's samples are shared out in slices, in the order of ranks.
        samples: Samples of a global batch; what ranks have repeated to have something to do comes after them, and is
            left out. None keeps all.

    Returns:
        How many lines there are.

    Raises:
        TrustformersError: A rank's part is not there: the ranks do not write to one file system.
    """
    paths = [part_path(out, rank) for rank in range(ranks)]
    missing = [str(rank) for rank, path in enumerate(paths) if not path.exists()]
    if missing:
        raise TrustformersError(
            f"{out.parent}: the predictions of rank {', '.join(missing)} are not there; give a folder that all ranks "
            "share with --out"
        )
    count, unfinished = 0, out.with_name(f".{out.name}.unfinished")
    with unfinished.open("w", encoding="utf-8") as file:
        merged = heapq.merge(*(_keyed(path) for path in paths), key=lambda pair: pair[0])
        for key, pairs in groupby(merged, key=lambda pair: pair[0]):
            for _, row in islice(pairs, samples(key)):
                file.write(row)
                count += 1
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(out)
    sync_folder(out.parent)
    for path in paths:
        path.unlink()
    return count


def _keyed(path: Path) -> Iterator[tuple[Key, str]]:
    with path.open(encoding="utf-8") as part:
        for line in part:
            loader, batch, row = line.split(" ", 2)
            yield (int(loader), int(batch)), row
