"""The tracking example: a few steps of a small model, and what it leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shown import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

RECIPE = ROOT / "examples" / "tracking" / "tracked.yaml"
SMALL = ["model.init_args.d_model=16", "model.init_args.n_layers=1", "data.init_args.batch_size=4"]
SMALL += ["trainer.max_steps=20", "trainer.val_check_interval=10", "trainer.limit_val_batches=2"]
SMALL += ["samples.max_new_tokens=5", "schedule.warmup_steps=2"]


def test_everything_that_tells_about_a_run_tells(command: Callable[..., tuple[int, str, str]]) -> None:
    from trustformers_pl.factory import assemble

    run = assemble(RECIPE, SMALL)
    run.fit()
    evidence = run.probe()
    told = {name: evidence[name] for name in ("timing", "system", "tensorboard", "scores", "csv", "metrics", "samples")}
    assert all(told.values()), told
    values = run.trainer.callback_metrics
    assert 0 <= values["val_accuracy"] <= values["val_top5"] <= 1
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    for section in ("Curves", "Metrics", "Time by phase", "Samples", "Checkpoints", "Recipe", "Environment"):
        assert f"<h2>{section}</h2>" in page
    for metric in ("val_top5", "system_cpu_percent", "train_loss"):
        assert f'"{metric}"' in page
