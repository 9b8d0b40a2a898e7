"""The LAMB example: a few steps of a small model, and what `explain` says it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shown import ROOT

from trustformers_pl.factory import assemble

if TYPE_CHECKING:
    from collections.abc import Callable

RECIPE = ROOT / "examples" / "optim" / "lamb.yaml"
SMALL = ["model.init_args.d_model=16", "model.init_args.n_layers=1", "data.init_args.batch_size=4"]
SMALL += ["trainer.max_steps=20", "trainer.val_check_interval=20", "trainer.limit_val_batches=2"]
SMALL += ["samples.max_new_tokens=5", "schedule.warmup_steps=2"]


def test_lamb_trains_under_a_linear_schedule() -> None:
    run = assemble(RECIPE, SMALL)
    run.fit()
    evidence = run.probe()
    assert evidence["optimizer.lamb"] == "optimizer: LAMB"
    assert evidence["schedule.linear"] == "LambdaLR stepped 20 times"
    assert run.trainer.optimizers[0].param_groups[0]["lr"] == 0.0  # the end of the line
    rows = (run.folder / "metrics.csv").read_text(encoding="utf-8").splitlines()
    loss = rows[0].split(",").index("train_loss")
    losses = [float(value) for row in rows[1:] if (value := row.split(",")[loss])]
    assert losses[-1] < losses[0]


def test_explain_shows_it(command: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = command("explain", str(RECIPE))
    assert code == 0
    assert "LAMB(decay_groups(module, weight_decay=0.1), lr=0.01, betas=(0.9, 0.99), eps=1e-06)" in out
    assert "lr_lambda('linear', warmup_steps=70, total_steps=total_steps, min_ratio=0.0)" in out
