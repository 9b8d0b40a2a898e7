"""The whole page: one HTML file with its style, script and data inside, which loads nothing from anywhere."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from trustformers_pl.reporting import artifacts, overview, recipes
from trustformers_pl.reporting.charts import clock, metric_charts, section_charts, thinned_names
from trustformers_pl.reporting.markup import data, table, tag, text
from trustformers_pl.reporting.series import MOST_POINTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trustformers_pl.reporting.folder import RunFolder

SHOWN_BY_THE_PAGE = ("samples.jsonl", "checkpoints", "times.jsonl", "metrics.csv")
SCRIPTS = ("series.js", "axes.js", "chart.js", "page.js")
Block = tuple[str, str]


def document(runs: Sequence[RunFolder]) -> str:
    """The page of one run, or the comparison of several."""
    charts = metric_charts(runs)
    blocks = _curves(charts)
    if len(runs) == 1:
        blocks += [("Metrics", overview.metrics_table(runs[0]))] if runs[0].metrics else []
        blocks += _of_one(runs[0], charts)
    else:
        blocks += [("Final metrics", overview.final_table(runs)), ("What differs", recipes.differences_table(runs))]
        blocks += [(run.label, _folded(_of_one(run, charts))) for run in runs]
    title = runs[0].label if len(runs) == 1 else " · ".join(run.label for run in runs)
    content = {"charts": charts, "clocks": [clock(run) for run in runs]}
    heads = [overview.headline(run, swatch=None if len(runs) == 1 else n) for n, run in enumerate(runs)]
    top = tag("div", "".join(heads), class_="runs") + (overview.tiles(runs[0]) if len(runs) == 1 else "")
    return _framed(title, top, blocks, data(content, "data"))


def _folded(blocks: Sequence[Block]) -> str:
    return "".join(tag("details", tag("summary", text(title)) + tag("div", body)) for title, body in blocks)


def _curves(charts: list[dict[str, Any]]) -> list[Block]:
    if not charts:
        return []
    boxes = "".join(tag("div", "", class_="chart", data_chart=str(n)) for n in range(len(charts)))
    names = thinned_names(charts)
    note = f"Thinned to the extremes of {MOST_POINTS // 2:,} spans: {', '.join(names)}. " if names else ""
    note += "Every pixel shows the least and the greatest value in it; zooming in shows each."
    return [
        ("Curves", _resource("toolbar.html") + tag("div", boxes, class_="charts") + tag("p", text(note), class_="note"))
    ]


def _of_one(run: RunFolder, charts: list[dict[str, Any]]) -> list[Block]:
    """The blocks of one run; its sections' charts are added to `charts`."""
    blocks = [("Time by phase", artifacts.times(run) if run.clock else "")]
    blocks += [("Samples", artifacts.samples(run) if run.samples else "")]
    blocks += [("Checkpoints", artifacts.checkpoints(run) if run.checkpoints else "")]
    for section in run.record.get("sections") or ():
        if section.get("source") not in SHOWN_BY_THE_PAGE:
            own = section_charts(section)
            blocks.append((str(section["title"]), artifacts.section(section, len(charts), len(own))))
            charts += own
    blocks += [("Recipe", recipes.recipe_table(run) if run.recipe else "")]
    environment = run.record.get("environment") or []
    blocks += [("Environment", table(["", ""], environment) if environment else "")]
    blocks += [("History", overview.history(run))]
    return [(title, body) for title, body in blocks if body]


def _framed(title: str, top: str, blocks: Sequence[Block], content: str) -> str:
    script = "\n".join(_resource(name) for name in SCRIPTS)
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # Even if something of a run were taken for a tag, no script but this one runs, and nothing is fetched.
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'"
    links = "".join(tag("a", text(name), href=f"#s{number}") for number, (name, _) in enumerate(blocks))
    sections = [
        tag("section", tag("h2", text(name)) + body, id=f"s{number}") for number, (name, body) in enumerate(blocks)
    ]
    return _resource("frame.html").format(
        policy=policy,
        title=text(title),
        style=_resource("report.css"),
        links=links,
        top=top,
        sections="\n".join(sections),
        data=content,
        script=script,
    )


@cache
def _resource(name: str) -> str:
    return (files("trustformers_pl.reporting") / "page" / name).read_text(encoding="utf-8")
