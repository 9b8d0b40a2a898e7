"""Passes over data at a task's end show how far they are."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest
import torch
from continual_job import recipe
from rich.console import Console

from trustformers_pl.continual import EWC
from trustformers_pl.continual.passes import shown
from trustformers_pl.testing.trial import train
from trustformers_pl.tracking import Progress

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _always_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trustformers_pl.tracking.display.REDRAW_SECONDS", 0.0)
    monkeypatch.setattr("trustformers_pl.tracking.display.REDRAW_SHARE", float("inf"))


def run(**sections: Any) -> dict[str, Any]:
    return recipe({"steps": 2, "batch_size": 4}, every=20, **sections, checkpoint={})


def test_on_a_terminal_a_bar_for_each(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system="standard")
    sections = run(ewc={"batch_size": 4}, lwf={"cache": True})
    train(sections, tmp_path, also=[Progress(console=console)])
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(f"{name} " in text for name in ("weigh", "measure", "ask", "train"))


def test_without_a_terminal_beside_the_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(run(ewc={"batch_size": 4}), tmp_path, also=[Progress(plain_every_seconds=0.0)])
    lines = capsys.readouterr().out.splitlines()
    passes = [line for line in lines if "  weigh " in line]
    assert any("  weigh 2/" in line and line.startswith("step") for line in passes)
    assert any("  measure 1/1" in line for line in lines)
    assert any(line.startswith("step") and "weigh" not in line and "measure" not in line for line in lines)


def test_a_pass_that_fails_takes_its_bar_away() -> None:
    told: list[str] = []

    class Notes:
        def on_pass_start(self, trainer: Any, name: str, batches: int | None) -> None:
            told.append(f"{name} {batches}")

        def on_pass_batch_end(self) -> None:
            told.append("batch")

        def on_pass_end(self) -> None:
            told.append("end")

    class Trainer:
        callbacks = (Notes(), object())

    for batch in shown(Trainer(), "look", [1, 2, 3], 3):  # type: ignore[arg-type]
        if batch == 2:
            break
    del batch
    assert told == ["look 3", "batch", "end"]
    assert list(shown(Trainer(), None, [1, 2])) == [1, 2]  # type: ignore[arg-type]
    assert len(told) == 3


def test_importances_of_some_samples_are_near_those_of_all(tmp_path: Path) -> None:
    """Drawn 60 of 168: the total is a mean of per-sample sums, and is within four of its standard errors.

    Both runs have the same weights when their only task ends. The per-sample sums are taken here by autograd.
    """
    one = {"classes": None, "number": 1, "scenario": "class", "steps": 3, "measure": False}
    model = {"class_path": "continual_job.Network"}
    all_, some = (
        train(recipe(one, every=8, model=model, ewc={"fisher": "empirical", **more}), tmp_path / name).run
        for name, more in {"all": {"samples": None}, "some": {"samples": 60}}.items()
    )
    x, y = all_.callbacks("Tasks")[0].loader.dataset.tensors
    sums = []
    for sample, label in zip(x, y, strict=True):
        loss = torch.nn.functional.cross_entropy(all_.module.layers(sample[None]), label[None])
        sums.append(sum(g.square().sum() for g in torch.autograd.grad(loss, [*all_.module.parameters()])))
    each = torch.stack(sums)
    totals = [sum(float(f.sum()) for f in run.callbacks("EWC")[0].curvature.values()) for run in (all_, some)]
    assert totals[0] == pytest.approx(float(each.mean()), rel=1e-4)
    error = float(each.std()) / 60**0.5 * (1 - 60 / len(each)) ** 0.5
    assert 0 < abs(totals[1] - totals[0]) < 4 * error


def test_two_thousand_are_the_default() -> None:
    assert EWC().samples == 2000
