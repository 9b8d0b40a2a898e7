"""The page as text: nothing of a run becomes markup, nothing is loaded, and it says what the folder says."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest
from run_folders import EVIL, evil_run, metrics_csv, record, run_folder

from trustformers_pl.errors import TrustformersError
from trustformers_pl.reporting.page_file import write_page

if TYPE_CHECKING:
    from pathlib import Path

OURS = {
    "html",
    "head",
    "meta",
    "title",
    "style",
    "body",
    "header",
    "h1",
    "h2",
    "h3",
    "nav",
    "a",
    "button",
    "main",
    "div",
}
OURS |= {
    "span",
    "p",
    "section",
    "label",
    "input",
    "output",
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "i",
    "b",
    "pre",
}
OURS |= {"mark", "footer", "script", "details", "summary", "strong"}


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def page_of(*folders: Path) -> str:
    return write_page(*folders).read_text(encoding="utf-8")


def embedded(page: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page)[1])  # type: ignore[index]
    return found


def test_nothing_of_a_run_becomes_markup(tmp_path: Path) -> None:
    page = page_of(evil_run(tmp_path / "run"))
    parsed = Tags(page)
    assert {tag for tag, _ in parsed.tags} <= OURS
    assert [tag for tag, _ in parsed.tags].count("script") == 2
    assert not [name for _, attributes in parsed.tags for name in attributes if name.startswith("on")]
    assert not [a for _, a in parsed.tags if (a.get("href") or "").lower().startswith("javascript")]
    assert "".join(parsed.texts).count("document.title='broken out'") > 8  # there, as text
    assert EVIL in [series["name"] for chart in embedded(page)["charts"] for series in chart["series"]]


def test_nothing_is_loaded_and_only_our_script_may_run(tmp_path: Path) -> None:
    page = page_of(evil_run(tmp_path / "run"))
    assert not [a for _, a in Tags(page).tags if "src" in a]
    assert "@import" not in page
    assert "url(" not in re.search("<style>(.*?)</style>", page, re.DOTALL)[1]  # type: ignore[index]
    policy = next(a["content"] for t, a in Tags(page).tags if t == "meta" and "http-equiv" in a)
    script = re.search("<script>(.*?)</script>", page, re.DOTALL)[1]  # type: ignore[index]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'"


def test_the_curves_are_those_of_the_table(tmp_path: Path) -> None:
    charts = embedded(page_of(run_folder(tmp_path / "run")))["charts"]
    assert [chart["title"] for chart in charts] == ["loss"]
    train, val = charts[0]["series"]
    assert (train["name"], val["name"]) == ("train_loss", "val_loss")
    assert train["x"] == list(range(50))
    assert train["y"][25] is None  # NaN has no place on a chart
    assert val["x"] == [9, 19, 29, 39, 49]
    assert val["y"] == pytest.approx([2.0 - x / 50 for x in val["x"]], rel=1e-6)


def test_metrics_that_differ_in_a_number_share_a_chart(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run")
    (folder / "metrics.csv").write_text("step,task_accuracy_0,task_accuracy_1,top_5\n0,0.5,0.1,0.2\n1,0.6,0.2,0.3\n")
    charts = embedded(page_of(folder))["charts"]
    found = {chart["title"]: [series["name"] for series in chart["series"]] for chart in charts}
    assert found == {"task_accuracy": ["task_accuracy_0", "task_accuracy_1"], "top_5": ["top_5"]}


def test_runs_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = run_folder(tmp_path / "one")
    other = run_folder(
        tmp_path / "two", recipe=[["optimizer.lr", "0.2", "x"], ["seed", "0", "default"], ["ewc", "{}", "x"]]
    )
    page = page_of(one, other)
    assert (tmp_path / "comparison.html").exists()
    names = [series["name"] for series in embedded(page)["charts"][0]["series"]]
    assert names == ["one: train_loss", "one: val_loss", "two: train_loss", "two: val_loss"]
    differing = page[page.index("<h2>What differs</h2>") :]
    differing = differing[: differing.index("</table>")]
    rows = [re.findall("<td[^>]*>(.*?)</td>", row) for row in differing.split("<tr>")[2:]]
    assert rows == [["optimizer.lr", "0.1", "0.2"], ["ewc", "not there", "{}"]]


def test_runs_of_one_name_get_labels_of_their_own(tmp_path: Path) -> None:
    folders = [run_folder(tmp_path / place / "same") for place in "ab"]
    names = {series["name"] for series in embedded(page_of(*folders))["charts"][0]["series"]}
    assert {"same (1): val_loss", "same (2): val_loss"} <= names


def test_a_killed_run_is_told_of_as_far_as_it_came(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run")
    metrics_csv(folder, 50, last="50,0,2.")  # torn: a row without its last cell and newline
    page = page_of(folder)
    assert "running, or killed" in page
    assert embedded(page)["charts"][0]["series"][0]["x"][-1] == 49


def test_checkpoints_stand_beside_what_was_measured_when_they_were_taken(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run")
    for step in (15, 40):
        (folder / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    page = page_of(folder)
    table = page[page.index("<h2>Checkpoints</h2>") :]
    rows = re.findall("<tr>(<td.*?)</tr>", table[: table.index("</table>")])
    cells = [[re.sub("<[^>]+>", "", cell) for cell in row.split("</td>")] for row in rows]
    assert cells[0][:4] == ["step-00000015", "15", "0", "1.82"]  # the validation after step 10
    assert cells[1][:4] == ["step-00000040", "40", "0", "1.22"]
    assert 'class="number best"' in rows[1]


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: (f / "report.json").write_text("{"), r"report\.json: damaged; remove it"),
        (lambda f: (f / "report.json").write_text('{"recipe": 3}'), r"report\.json: damaged; remove it"),
        (lambda f: (f / "metrics.csv").write_text("step,epoch,a\n1,0,x\n"), r"metrics\.csv:2: not a row of numbers"),
        (lambda f: (f / "samples.jsonl").write_text("[]\n"), r"samples\.jsonl:1: not a sample"),
        (lambda f: (f / "times.jsonl").write_text('{"step": 1}\n'), r"times\.jsonl:1: not a line of times"),
        (lambda f: [path.unlink() for path in f.iterdir()], "not a run folder"),
    ],
)
def test_what_is_damaged_is_named(tmp_path: Path, break_it: Any, message: str) -> None:
    folder = run_folder(tmp_path / "run")
    break_it(folder)
    with pytest.raises(TrustformersError, match=message):
        write_page(folder)


def test_a_folder_with_nothing_but_a_recipe_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("seed: 3\noptimizer: {name: adamw}\n")
    page = page_of(tmp_path / "run")
    assert "optimizer.name" in page
    assert embedded(page)["charts"] == []


def test_the_record_of_this_test_has_the_keys_of_a_real_one(tmp_path: Path) -> None:
    from trustformers_pl.factory import assemble

    run = assemble(
        {
            "version": 1,
            "model": {"class_path": "tiny.Plain"},
            "data": {"class_path": "tiny.Data"},
            "trainer": {"max_steps": 1, "accelerator": "cpu", "default_root_dir": str(tmp_path / "real")},
        }
    )
    run.fit()
    real = json.loads((tmp_path / "real" / "report.json").read_text())
    assert real.keys() == record("x").keys()
    assert real["legs"][0].keys() == record("x")["legs"][0].keys()  # type: ignore[index]
