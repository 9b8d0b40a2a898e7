"""The recipe with replay: a few steps of a small model."""

from __future__ import annotations

from shown import ROOT

from trustformers_pl.factory import assemble

SMALL = ["model.init_args.d_model=16", "model.init_args.n_layers=1", "data.init_args.batch_size=4"]
SMALL += ["trainer.max_steps=6", "trainer.val_check_interval=6", "trainer.limit_val_batches=2"]


def test_it_trains_and_replays() -> None:
    run = assemble(ROOT / "examples/continual/replay.yaml", SMALL)
    run.fit()
    assert run.probe()["replay"] == "20 samples replayed"
