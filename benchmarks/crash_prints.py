"""What must be equal at the end of a run, and which samples it was trained on."""

from __future__ import annotations

import csv
import hashlib
import json
from typing import TYPE_CHECKING, Any

from crash_data import TRAINED

if TYPE_CHECKING:
    from pathlib import Path

MEASURED = ("tokens_per_second",)


def fingerprint(folder: Path, ranks: int) -> dict[str, str]:
    """Of every file of every checkpoint, of all that was logged and generated, and of the samples, by name."""
    prints = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((folder / "checkpoints").rglob("*"))
        if path.is_file()
    }
    with (folder / "metrics.csv").open(newline="") as file:
        prints["metrics.csv"] = repr([_unmeasured(row) for row in csv.DictReader(file)])
    outcome = json.loads((folder / "outcome.json").read_text(encoding="utf-8"))
    prints["outcome.json"] = repr({name: _unmeasured(value) for name, value in outcome.items()})
    prints["samples.jsonl"] = (folder / "samples.jsonl").read_text(encoding="utf-8")
    prints["samples trained on"] = repr([trained(folder, rank) for rank in range(ranks)])
    return prints


def _unmeasured(value: Any) -> Any:
    return {k: v for k, v in value.items() if k not in MEASURED} if isinstance(value, dict) else value


def trained(folder: Path, rank: int) -> list[list[Any]]:
    """Each batch that made the run what it is: [step, epoch, batch, numbers of its samples, of those replayed].

    A process that goes on from a step takes back what its forerunners had trained from that step on.
    """
    rows: list[list[Any]] = []
    for line in (folder / TRAINED.format(rank=rank)).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row[0] == "start":
            rows = [earlier for earlier in rows if earlier[0] < row[1]]
        else:
            rows.append(row)
    return rows


def why_not_once(folder: Path, ranks: int, tasks: tuple[int, int] = (1, 1)) -> str | None:
    """What speaks against every sample having been trained on exactly once an epoch; the last epoch may be cut.

    Args:
        folder: The run folder.
        ranks: How many there were.
        tasks: How many, which are consecutive parts of the samples, and the epochs of each.
    """
    first = (folder / TRAINED.format(rank=0)).read_text(encoding="utf-8").splitlines()[0]
    count = json.loads(first)[2]
    epochs: dict[int, list[int]] = {}
    for rank in range(ranks):
        for _, epoch, _, numbers, _ in trained(folder, rank):
            epochs.setdefault(epoch, []).extend(numbers)
    if sorted(epochs) != list(range(len(epochs))):
        return f"epochs {sorted(epochs)}"
    number, each = tasks
    for epoch, numbers in epochs.items():
        task = min(epoch // each, number - 1)
        wanted = [sample for sample in range(count) if sample * number // count == task]
        whole = epoch < len(epochs) - 1
        if len(set(numbers)) < len(numbers) or not set(numbers) <= set(wanted) or (whole and sorted(numbers) != wanted):
            return f"epoch {epoch}: {len(numbers)} samples trained on, {len(set(numbers))} different, of {len(wanted)}"
    return None
