"""`report.json` in a run's folder: what only the running program knows of it, for the report to be read from."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from trustformers_pl.plugins import summary
from trustformers_pl.recipe.places import flatten
from trustformers_pl.report import ReportSection, report_sections
from trustformers_pl.reporting.facts import facts
from trustformers_pl.reporting.page_file import write_page
from trustformers_pl.run_folder import write_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

    from trustformers_pl.run import Run

FILE = "report.json"
FORMAT = 1
SECRET = re.compile(r"token$|password|secret|api_?key|credential", re.IGNORECASE)
HIDDEN = "(hidden)"
INTERRUPTIONS = ("KeyboardInterrupt", "SystemExit", "SIGTERMException", "Stopped")

logger = logging.getLogger(__name__)


class Record:
    """Keeps `report.json` and `report.html` while a fit runs: a context around it, on the rank that writes.

    A fit that a person or an error ends is told of as far as it came; one that is killed stands as `running`.

    Args:
        run: That is going to fit.
        ckpt_path: The checkpoint that it goes on from, or None.

    Attributes:
        sections: The features' own, once the fit has ended well.
    """

    def __init__(self, run: Run, ckpt_path: Any) -> None:
        self._run = run
        self._from = None if ckpt_path is None else str(ckpt_path).rstrip("/").rpartition("/")[2]
        self.sections: Sequence[ReportSection] | None = None

    def __enter__(self) -> Record:
        """Write what is known before the first step.

        Raises:
            TrustformersError: The folder cannot be written to.
        """
        legs = _earlier_legs(self._run.folder) if self._from else []
        self._leg = {"from": self._from, "began": _now(), "ended": None, "status": "running", "error": None}
        self._content = {**_declared(self._run), "legs": [*legs, self._leg], "global_step": None, "sections": []}
        self._write()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Write how it ended. What fails here must neither hide the run's own error nor spoil a run that is done."""
        try:
            self._finish(kind, error)
        except Exception as failure:
            logger.warning("report.html: not written: %s: %s", type(failure).__name__, failure)

    def _finish(self, kind: type[BaseException] | None, error: BaseException | None) -> None:
        self._leg["status"] = "completed"
        if kind is not None:
            self._leg["status"] = "interrupted" if kind.__name__ in INTERRUPTIONS else "failed"
            self._leg["error"] = f"{kind.__name__}: {error}".splitlines()[0] if str(error) else kind.__name__
        self._leg["ended"] = _now()
        self._content["global_step"] = self._run.trainer.global_step
        try:
            sections = report_sections(self._run) if self.sections is None else self.sections
            self._content["sections"] = [_plain(section) for section in sections]
        finally:  # after an error, features may have nothing to say
            self._write()
            write_page(self._run.folder)

    def _write(self) -> None:
        write_text(self._run.folder / FILE, json.dumps(self._content, indent=1, default=str) + "\n")


def _declared(run: Run) -> dict[str, Any]:
    plan = run.assembly.plan
    offers = [plan.offers[plugin.name] for plugin in plan.plugins]
    return {
        "format": FORMAT,
        "name": plan.recipe.name,
        "recipe": [[key, _value(key, leaf.value), str(leaf.place)] for key, leaf in flatten(plan.resolved).items()],
        "features": [
            [offer.name, summary(type(plugin)), f"{offer.package} {offer.version}"]
            for plugin, offer in zip(plan.plugins, offers, strict=True)
        ],
        "environment": facts(run),
    }


def _value(key: str, value: Any) -> str:
    if SECRET.search(key.rpartition(".")[2]) and value is not None:
        return HIDDEN
    try:
        return json.dumps(value, ensure_ascii=False)
    except TypeError:
        return str(value)


def _plain(section: ReportSection) -> dict[str, Any]:
    plain = dataclasses.asdict(section)
    for curve in plain["curves"]:
        curve["x"] = [float(x) for x in curve["x"]]
        curve["y"] = [float(y) if math.isfinite(y) else None for y in curve["y"]]
    return plain


def _earlier_legs(folder: Path) -> list[dict[str, Any]]:
    """The fits of this run before this one: those that went on from its checkpoints."""
    try:
        legs = json.loads((folder / FILE).read_text(encoding="utf-8"))["legs"]
        return [dict(leg) for leg in legs]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
