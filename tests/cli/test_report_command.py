"""`trustformers-pl report`, as a person calls it, and what a fit leaves for it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny

from trustformers_pl.factory import assemble

Write = Callable[..., str]
Command = Callable[..., tuple[int, str, str]]


class Stumbles(tiny.Composable):
    def training_step(self, batch: object, batch_idx: int) -> object:
        if batch_idx == 3:
            raise (KeyboardInterrupt if self.interrupted else FloatingPointError("the loss <b>exploded</b>"))
        return super().training_step(batch, batch_idx)  # type: ignore[arg-type]

    interrupted = False


class IsInterrupted(Stumbles):
    interrupted = True


def test_a_fit_leaves_a_page_and_the_command_writes_it_again(write: Write, command: Command) -> None:
    recipe = write(more="csv: {}\nmetrics: {}\n")
    assert command("fit", recipe, "--optimizer.lr=0.5")[0] == 0
    page = Path("runs/recipe/report.html")
    first = page.read_text(encoding="utf-8")
    assert "--optimizer.lr" in first  # the origin, as `explain` shows it
    assert ">completed<" in first
    page.unlink()
    code, out, _ = command("report", "runs/recipe")
    assert (code, out) == (0, "report: runs/recipe/report.html\n")
    assert page.read_text(encoding="utf-8") == first


def test_several_runs_are_compared_in_one_file(write: Write, command: Command) -> None:
    recipe = write(more="csv: {}\nmetrics: {}\n")
    for lr in ("0.1", "0.2"):
        assert command("fit", recipe, f"--optimizer.lr={lr}", f"--trainer.default_root_dir=runs/{lr}")[0] == 0
    assert command("report", "runs/0.1", "runs/0.2", "--out", "pages/both.html")[1] == "report: pages/both.html\n"
    assert "What differs" in Path("pages/both.html").read_text(encoding="utf-8")


def test_the_command_imports_neither_torch_nor_lightning(write: Write, command: Command) -> None:
    assert command("fit", write(more="csv: {}\n"))[0] == 0
    code = "import sys; from trustformers_pl.cli import main; main(['report', 'runs/recipe'])\n"
    code += "print([name for name in ('torch', 'lightning', 'numpy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "error: nowhere: no such folder; give a run folder, as `fit` names it when it ends\n"),
        (
            ("empty",),
            "error: empty: not a run folder: it has neither report.json nor recipe.yaml nor a table of metrics\n",
        ),
        (("empty", "--seed=3"), "error: --seed=3: `report` reads run folders and takes no values of a recipe\n"),
    ],
)
def test_what_is_no_run_is_refused_in_one_line(command: Command, arguments: tuple[str, ...], message: str) -> None:
    Path("empty").mkdir()
    assert command("report", *arguments) == (2, "", message)


@pytest.mark.parametrize(("name", "status"), [("Stumbles", "failed"), ("IsInterrupted", "interrupted")])
def test_a_run_that_stops_half_way_is_told_of(write: Write, name: str, status: str) -> None:
    run = assemble(
        write(more="csv: {}\nmetrics: {}\n"),
        [f"model.class_path=test_report_command.{name}", "trainer.log_every_n_steps=1"],
    )
    with pytest.raises((FloatingPointError, KeyboardInterrupt, SystemExit)):
        run.fit()
    record = json.loads(Path("runs/recipe/report.json").read_text())
    assert (record["legs"][-1]["status"], record["global_step"]) == (status, 3)
    page = Path("runs/recipe/report.html").read_text(encoding="utf-8")
    assert f">{status}<" in page
    assert ("&lt;b&gt;exploded" in page) == (status == "failed")
    assert '"train_loss"' in page


def test_a_resumed_run_has_a_history(write: Write, command: Command) -> None:
    recipe = write(more="checkpoint: {every_n_steps: 3}\n")
    command("fit", recipe, "--trainer.max_steps=3")
    command("fit", recipe, "--resume=force")
    legs = json.loads(Path("runs/recipe/report.json").read_text())["legs"]
    assert [(leg["from"], leg["status"]) for leg in legs] == [(None, "completed"), ("step-00000003", "completed")]
    assert "went on from" in Path("runs/recipe/report.html").read_text(encoding="utf-8")


def test_a_report_that_cannot_be_written_does_not_spoil_the_run(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    run = assemble(write())
    Path("runs/recipe/report.html/in the way").mkdir(parents=True)
    run.fit()
    assert (Path("runs/recipe/outcome.json")).exists()
    assert re.search("report.html: not written", caplog.text)


def test_secrets_do_not_reach_the_page(install: Callable[..., None], write: Write, command: Command) -> None:
    install("keyed-pack", """
        from dataclasses import dataclass
        from trustformers_pl import Plugin
        class Feature(Plugin):
            "A feature with a key."
            @dataclass(frozen=True, kw_only=True)
            class Config:
                api_key: str = ""
                "The key."
    """, trustformers_pl={"keyed": "Feature"})  # fmt: skip
    assert command("fit", write(more="keyed: {api_key: hunter2}\n"))[0] == 0
    folder = Path("runs/recipe")
    assert "hunter2" not in (folder / "report.html").read_text() + (folder / "report.json").read_text()
    assert "(hidden)" in (folder / "report.html").read_text()
