"""Programs of strangers: stages and an adaptive search, killed at many moments; children are real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trustformers_pl import assemble

if TYPE_CHECKING:
    import pytest

Write = Callable[..., str]
Install = Callable[..., None]
Command = Callable[..., tuple[int, str, str]]

STAGES = """
    from dataclasses import dataclass
    from trustformers_pl import Plugin, Traits, hookimpl, part
    from trustformers_pl.program import Child, all_finished

    class Stages:
        def __call__(self, plan):
            first, = all_finished((yield [Child("first", {"schedule": None})]))
            # The second stage learns as fast as the first one still errs.
            sections = {"optimizer": {"lr": first.metrics["val_loss"] / 100}, "csv": {}}
            all_finished((yield [Child("second", sections)]))

    class Feature(Plugin):
        "Two stages."
        @classmethod
        def traits(cls, config):
            return Traits(claims=frozenset({"program"}))
        @hookimpl
        def program(self, plan):
            return part("stages_pack:Stages")
"""
SWEEP = """
    from dataclasses import dataclass
    from trustformers_pl import Plugin, Traits, hookimpl, part
    from trustformers_pl.program import Child

    class Sweep:
        concurrent = 2
        def __init__(self, low, high):
            self.low, self.high = low, high
        def __call__(self, plan):
            low, high = self.low, self.high
            for number in range(2):
                outcomes = yield [Child(f"round{number}-{lr:g}".replace(".", "_"), {"optimizer": {"lr": lr}})
                                  for lr in (low, high)]
                errs = [outcome.metrics["val_loss"] for outcome in outcomes]
                low, high = (low, (low + high) / 2) if errs[0] < errs[1] else ((low + high) / 2, high)
            return {"val_loss": min(errs), "low": low}

    class Feature(Plugin):
        "Halves an interval of learning rates."
        @dataclass(frozen=True, kw_only=True)
        class Config:
            low: float = 0.01
            high: float = 0.05
        @classmethod
        def traits(cls, config):
            return Traits(claims=frozenset({"program"}))
        @hookimpl
        def program(self, plan):
            return part("sweep_pack:Sweep", self.config.low, self.config.high)
"""
SLOW = """
    import os, time
    from pathlib import Path
    from lightning import Callback
    class Slow(Callback):
        def __init__(self, seconds: float = 0.0) -> None:
            self.seconds = seconds
        def on_fit_start(self, trainer, module):
            with open("pids", "a") as file:
                print(os.getpid(), file=file)
        def on_train_batch_end(self, *arguments):
            time.sleep(self.seconds)
"""
MORE = """
seed: 3
schedule: {name: cosine, warmup_steps: 2}
checkpoint: {every_n_steps: 1}
"""
QUICK = ["--trainer.val_check_interval=3", "--trainer.check_val_every_n_epoch=null"]


def lines(folder: Path | str) -> list[dict[str, Any]]:
    path = Path(folder) / "journal.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def events(folder: Path | str) -> list[tuple[str, str]]:
    return [(line["event"], line["child"]) for line in lines(folder)]


def ends(folder: Path | str) -> list[dict[str, Any]]:
    kept = ("child", "digest", "batch", "status", "metrics", "error")
    return [{key: line[key] for key in kept} for line in lines(folder) if line["event"] == "ended"]


def last_checkpoint(folder: Path) -> dict[str, bytes]:
    newest = sorted((folder / "checkpoints").iterdir())[-1]
    return {"name": newest.name.encode(), **{path.name: path.read_bytes() for path in newest.iterdir()}}


def start(*more: str) -> subprocess.Popen[str]:
    path = os.pathsep.join(entry for entry in sys.path if entry)  # with what the test has installed
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "trustformers_pl.cli", "fit", "recipe.yaml", *QUICK, *more]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "this takes too long"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def stopped(process: subprocess.Popen[str], by: signal.Signals, ready: Callable[[], object]) -> None:
    """Send the signal when `ready`; afterwards no child that has ever said its pid is alive."""
    wait_for(lambda: ready() or process.poll() is not None)
    assert process.poll() is None, process.communicate()
    process.send_signal(by)
    process.communicate()
    assert process.returncode == (130 if by == signal.SIGINT else -by)
    wait_for(lambda: not any(alive(int(pid)) for pid in Path("pids").read_text().split()), seconds=5)


def test_killed_at_any_moment_it_ends_as_if_it_had_not_been(write: Write, install: Install) -> None:
    install("stages-pack", STAGES, trustformers_pl={"stages": "Feature"})
    install("slow-pack", SLOW)
    write(more=MORE + "stages: {}\n")
    slow = "--trainer.callbacks=[{class_path: slow_pack.Slow, init_args: {seconds: 0.2}}]"
    out, errors = start(slow, "--trainer.default_root_dir=whole").communicate()
    assert (errors, events("whole")) == ("", [(e, c) for c in ("first", "second") for e in ("started", "ended")])
    assert "first (1 of 1): started\nfirst (1 of 1): finished after" in out

    cut = Path("cut")
    arguments = (slow, "--trainer.default_root_dir=cut")
    stopped(start(*arguments), signal.SIGKILL, lambda: list(cut.glob("first/checkpoints/step-00000002")))
    assert not (cut / "first/outcome.json").exists()
    stopped(start(*arguments), signal.SIGTERM, lambda: ("ended", "first") in events(cut))
    stopped(start(*arguments), signal.SIGINT, lambda: list(cut.glob("second/checkpoints/step-00000003")))
    out, errors = start(*arguments).communicate()

    assert errors == ""
    assert "first (1 of 1): finished before\n" in out
    assert ends("cut") == ends("whole")
    assert json.loads((cut / "outcome.json").read_text()) == json.loads(Path("whole/outcome.json").read_text())
    assert events("cut").count(("started", "first")) == 2
    for stage in ("first", "second"):
        assert last_checkpoint(cut / stage) == last_checkpoint(Path("whole") / stage)
    # What the children's sections put in and took out.
    assert (cut / "second/metrics.csv").exists() > (cut / "first/metrics.csv").exists()
    assert ("schedule:\n" in (cut / "second.yaml").read_text()) > ("schedule:\n" in (cut / "first.yaml").read_text())


def test_a_search_decides_by_what_it_has_seen(
    write: Write, install: Install, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The learning rates that must be chosen, and all losses, come from the same fits made by hand in this process."""

    def val_loss(lr: float) -> float:
        run = assemble("recipe.yaml", [*QUICK, "no-sweep", f"optimizer.lr={lr}", "trainer.default_root_dir=by-hand"])
        run.fit()
        return float(run.trainer.callback_metrics["val_loss"])

    install("sweep-pack", SWEEP, trustformers_pl={"sweep": "Feature"})
    recipe = write(more="schedule: {name: cosine, warmup_steps: 2}\nsweep: {low: 0.01, high: 0.05}\n")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with monkeypatch.context() as patch:
        patch.setenv("TFPL_OPTIMIZER__LR", "7.0")  # the children's own values win over the environment
        code, out, errors = command("fit", recipe, *QUICK)
    assert (code, errors) == (0, "")
    assert out.splitlines()[:2] == ["round0-0_01 (1 of 2): started", "round0-0_05 (2 of 2): started"]
    expected = {lr: val_loss(lr) for lr in (0.01, 0.05)}
    assert expected[0.05] < expected[0.01]
    expected[0.03] = val_loss(0.03)
    found = {line["child"]: line["metrics"]["val_loss"] for line in ends("runs/recipe")}
    assert found == {
        "round0-0_01": expected[0.01],
        "round0-0_05": expected[0.05],
        "round1-0_03": expected[0.03],
        "round1-0_05": expected[0.05],
    }
    own = json.loads(Path("runs/recipe/outcome.json").read_text())["metrics"]
    assert own["val_loss"] == min(expected[0.03], expected[0.05])


def test_a_failed_stage_ends_the_program_in_one_line(write: Write, install: Install, command: Command) -> None:
    install("stages-pack", STAGES, trustformers_pl={"stages": "Feature"})
    code, _out, errors = command("fit", write(more="stages: {}\n"), "--model.class_path=tiny.Raises")
    assert code == 2
    assert errors == (
        "error: child first failed: runs/recipe/first.yaml:4: model: tiny.Raises raised KeyError: 'no such size'; "
        "all it said is in runs/recipe/first/output.log; "
        "mend this and call `fit` again, which runs nothing again that has finished\n"
    )
    assert events("runs/recipe") == [("started", "first"), ("ended", "first")]
    assert "tiny.Raises raised KeyError" in Path("runs/recipe/first/output.log").read_text()
