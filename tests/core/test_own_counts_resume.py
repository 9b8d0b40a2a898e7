"""A run that looks ahead, stopped at a step boundary or killed in the middle of a window, equals the one that was not.

Expected: the last checkpoint's bytes, and the logged rows, of the run that went through.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trustformers_pl import assemble
from trustformers_pl.checkpoint.folder import steps

RECIPE = """\
model: {class_path: tiny.Countable, init_args: {dropout: 0.3}}
data: {class_path: tiny.Data, init_args: {count: 30}}
trainer: {max_steps: 8, accelerator: cpu, log_every_n_steps: 1}
accumulate: {batches: 3}
optimizer: {name: adamw, lr: 0.05}
checkpoint: {every_n_steps: 1, keep_last: 100, background: false}
csv: {}
metrics: {tokens_per_second: false}
positive: {}
"""
# DIE_AT ends the process by SIGKILL at the n-th call of `count` (while a window is looked at) or of `compute` (while its
# micro-batches are trained on).
PACK = """
    import os, signal
    from pathlib import Path
    from trustformers_pl import LossTerm, Plugin, hookimpl
    calls = {"count": 0, "compute": 0}
    def die(where):
        calls[where] += 1
        if os.environ.get("DIE_AT") == f"{where} {calls[where]}":
            os.kill(os.getpid(), signal.SIGKILL)
    def positive(module, batch):
        die("count")
        return batch[1].gt(0).sum()
    def pull(module, outputs, batch):
        die("compute")
        return (outputs ** 2 * batch[1].gt(0)).sum(), batch[1].gt(0).sum()
    class Positive(Plugin):
        "Pulls the outputs of positive targets to zero: counts those."
        @hookimpl
        def loss_terms(self, plan):
            return [LossTerm("positive", pull, 0.5, positive)]
"""
LAST = Path("runs/recipe/checkpoints/step-00000008")


def told() -> tuple[dict[str, bytes], str]:
    """The last checkpoint and all logged rows."""
    files = {f.name: f.read_bytes() for f in LAST.iterdir() if f.name != "manifest.json"}  # which names the recipe
    return files, Path("runs/recipe/metrics.csv").read_text()


@pytest.fixture
def whole(write: Any, install: Any) -> Any:
    """The recipe, and what the run that goes through tells. 30 samples are windows of 3, 3 and 2 micro-batches."""
    install("positive-pack", PACK, trustformers_pl={"positive": "Positive"})
    recipe = write(RECIPE)
    run = assemble(recipe)
    run.fit()
    assert run.trainer.fit_loop.epoch_loop._counter is not None  # type: ignore[attr-defined]
    shutil.copytree("runs", "whole")
    return recipe, told()


@pytest.mark.parametrize("workers", [0, 2])
def test_from_step_boundaries(whole: Any, workers: int) -> None:
    """In the middle of an epoch, before its last window, and at its end."""
    recipe, expected = whole
    for cut in (1, 2, 3, 7):
        shutil.rmtree("runs")
        shutil.copytree("whole", "runs")
        for step, path in steps("runs/recipe/checkpoints").items():
            if step > cut:
                shutil.rmtree(path)
        assemble(recipe, [f"data.init_args.num_workers={workers}"]).fit("force")
        assert told() == expected, f"resumed at {cut}"


@pytest.mark.parametrize("workers", [0, 2])
def test_after_kills(whole: Any, workers: int) -> None:
    """While a window is counted, and between its forward passes: in the second window, then in the next epoch's first."""
    recipe, expected = whole
    shutil.rmtree("runs")
    override = f"--data.init_args.num_workers={workers}"
    command = [sys.executable, "-m", "trustformers_pl.cli", "fit", recipe, override]
    path = os.pathsep.join(
        [str(Path("site").absolute()), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    )
    for die_at, found in (("count 5", 1), ("compute 7", 3), ("nowhere", 8)):
        environment = os.environ | {"PYTHONPATH": path, "DIE_AT": die_at}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == (0 if die_at == "nowhere" else -signal.SIGKILL), done.stderr
        assert max(steps("runs/recipe/checkpoints")) == found
    assert told() == expected
