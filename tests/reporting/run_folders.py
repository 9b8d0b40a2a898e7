"""Run folders as a run leaves them, and worse: names and texts that try to become markup."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

EVIL = "</script><script>document.title='broken out'</script><img src=x onerror=\"document.title='broken out'\">\u2028&amp;"


def metrics_csv(folder: Path, rows: int, *, name: str = "train_loss", last: str = "") -> None:
    lines = [f"step,epoch,{name},val_loss\n"]
    for i in range(rows):
        value = "nan" if i == rows // 2 else repr(3.0 * math.exp(-i / rows) + (i % 7) / 50)
        lines.append(f"{i},0,{value},{2.0 - i / rows if i % 10 == 9 else ''}\n")
    (folder / "metrics.csv").write_text("".join(lines) + last, encoding="utf-8")


def record(name: str, /, **changed: object) -> dict[str, object]:
    return {
        "format": 1,
        "name": name,
        "recipe": [["optimizer.lr", "0.1", "recipe.yaml:3"], ["seed", "0", "default"]],
        "features": [["csv", "A table.", "trustformers-pl 0"]],
        "environment": [["Python", "3.11"]],
        "legs": [
            {"from": None, "began": "2026-01-01T00:00:00+00:00", "ended": None, "status": "running", "error": None}
        ],
        "global_step": None,
        "sections": [],
        **changed,
    }


def run_folder(path: Path, rows: int = 50, **changed: object) -> Path:
    path.mkdir(parents=True)
    (path / "report.json").write_text(json.dumps(record(path.name, **changed)), encoding="utf-8")
    metrics_csv(path, rows)
    return path


def evil_run(path: Path, rows: int = 50) -> Path:
    section = {
        "title": EVIL,
        "text": f"**bold** {EVIL} ![picture](http://example.org/x.png) [l](javascript:alert(1))",
        "table": {"columns": [EVIL], "rows": [[EVIL]]},
        "curves": [{"name": EVIL, "x": [0, 1, 2], "y": [1.0, None, 3.0], "title": "", "x_label": "task"}],
        "source": None,
    }
    recipe = [["model.init_args.name", json.dumps(EVIL), EVIL]]
    run_folder(path, rows, name=EVIL, recipe=recipe, sections=[section], environment=[[EVIL, EVIL]])
    metrics_csv(path, rows, name=f'"{EVIL.replace(chr(34), chr(34) * 2)}"')
    sample = {"step": 10, "prompt": EVIL, "text": EVIL}
    (path / "samples.jsonl").write_text(json.dumps(sample) + "\n", encoding="utf-8")
    clock = [{"step": s, "seconds": s * 2.0, "data": s * 0.5, "compute": s * 1.0} for s in (0, rows)]
    (path / "times.jsonl").write_text("".join(json.dumps(line) + "\n" for line in clock), encoding="utf-8")
    return path
