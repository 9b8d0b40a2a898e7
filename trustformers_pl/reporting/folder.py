"""One run folder as the report sees it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trustformers_pl.errors import TrustformersError
from trustformers_pl.outcome import read_outcome
from trustformers_pl.recipe.marked_yaml import read_file
from trustformers_pl.recipe.places import flatten
from trustformers_pl.reporting.series import Series, read_clock, read_metrics, whole_lines
from trustformers_pl.run_folder import RECORD

if TYPE_CHECKING:
    from pathlib import Path

REPORT = "report.json"


@dataclass(frozen=True)
class CheckpointRow:
    """A checkpoint of the folder.

    Attributes:
        name: Of its folder.
        step: Optimizer steps done.
        size: Bytes of its files.
    """

    name: str
    step: int
    size: int


@dataclass
class RunFolder:
    """What a run has left.

    Attributes:
        path: The folder.
        label: What it is called in the page; different for each run of one page.
        record: `report.json`; empty where there is none.
        recipe: Key, value as text, origin (empty where it is not known).
        metrics: The curves.
        clock: The lines of `times.jsonl`.
        samples: The lines of `samples.jsonl`: `step`, `prompt`, `text`.
        checkpoints: Oldest first.
        outcome: Name -> last value of each metric that the fit ended with.
    """

    path: Path
    label: str
    record: dict[str, Any]
    recipe: list[tuple[str, str, str]]
    metrics: dict[str, Series]
    clock: list[dict[str, float]] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    checkpoints: list[CheckpointRow] = field(default_factory=list)
    outcome: dict[str, float] = field(default_factory=dict)


def read_run(path: Path) -> RunFolder:
    """Read a run folder, of a run that is over, running or was killed.

    Raises:
        TrustformersError: It is no run folder, or one of its files is damaged: which, and what to do.
    """
    if not path.is_dir():
        raise TrustformersError(f"{path}: no such folder; give a run folder, as `fit` names it when it ends")
    record = _record(path)
    recipe = _recipe(path, record)
    metrics = read_metrics(path)
    if not (record or recipe or metrics):
        raise TrustformersError(
            f"{path}: not a run folder: it has neither {REPORT} nor {RECORD} nor a table of metrics"
        )
    outcome = read_outcome(path) or {}
    return RunFolder(
        path,
        str(record.get("name") or path.resolve().name),
        record,
        recipe,
        metrics,
        read_clock(path),
        _samples(path),
        _checkpoints(path),
        outcome.get("metrics", {}),
    )


def read_runs(paths: list[Path]) -> list[RunFolder]:
    """Several run folders, each with a label of its own.

    Raises:
        TrustformersError: As `read_run`.
    """
    runs = [read_run(path) for path in paths]
    for name in {run.label for run in runs}:
        alike = [run for run in runs if run.label == name]
        for number, run in enumerate(alike, 1) if len(alike) > 1 else ():
            names = [other.path.resolve().name for other in alike]
            run.label = names[number - 1] if len(set(names)) == len(names) else f"{name} ({number})"
    return runs


def _record(path: Path) -> dict[str, Any]:
    file = path / REPORT
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        rows = [tuple(map(str, (key, value, origin))) for key, value, origin in found["recipe"]]
        return {**found, "recipe": rows}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrustformersError(f"{file}: damaged; remove it, and the report goes without what it held") from error


def _recipe(path: Path, record: dict[str, Any]) -> list[tuple[str, str, str]]:
    if record:
        return list(record["recipe"])
    if not (path / RECORD).exists():
        return []
    values = flatten(read_file(path / RECORD))
    return [(key, json.dumps(leaf.value, ensure_ascii=False, default=str), "") for key, leaf in values.items()]


def _samples(path: Path) -> list[dict[str, Any]]:
    found = []
    for number, line in enumerate(whole_lines(path / "samples.jsonl"), 1):
        try:
            sample = json.loads(line)
            found.append({"step": int(sample["step"]), "prompt": str(sample["prompt"]), "text": str(sample["text"])})
        except (ValueError, TypeError, KeyError) as error:
            raise TrustformersError(f"{path / 'samples.jsonl'}:{number}: not a sample; remove the line") from error
    return found


def _checkpoints(path: Path) -> list[CheckpointRow]:
    folders = [f for f in (path / "checkpoints").glob("step-*") if f.is_dir() and f.name[5:].isdecimal()]
    rows = [
        CheckpointRow(f.name, int(f.name[5:]), sum(x.stat().st_size for x in f.rglob("*") if x.is_file()))
        for f in folders
    ]
    return sorted(rows, key=lambda row: row.step)
