"""The example of training arguments: a few steps of a small model, and what `explain` says of its values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shown import ROOT

from trustformers_pl.factory import assemble

if TYPE_CHECKING:
    from collections.abc import Callable

RECIPE = ROOT / "examples" / "arguments" / "arguments.yaml"
SMALL = ["model.init_args.d_model=16", "model.init_args.n_layers=1", "args.train_batch_size=4", "args.max_steps=20"]
SMALL += ["args.eval_steps=20", "trainer.limit_val_batches=2", "args.save_steps=10", "args.logging_steps=1"]


def test_it_trains_as_its_arguments_say() -> None:
    run = assemble(RECIPE, SMALL)
    run.fit()
    evidence = run.probe()
    assert "optimizer.lr" in str(evidence["args"])
    assert evidence["checkpoint"] == "checkpoints: step-00000010, step-00000020"
    assert evidence["schedule.cosine"] == "LambdaLR stepped 20 times"
    assert run.datamodule.batch_size == 4  # type: ignore[union-attr]
    rows = (run.folder / "metrics.csv").read_text(encoding="utf-8").splitlines()
    loss = rows[0].split(",").index("train_loss")
    losses = [float(value) for row in rows[1:] if (value := row.split(",")[loss])]
    assert len(losses) == 20
    assert losses[-1] < losses[0]


def test_explain_names_the_arguments(command: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = command("explain", str(RECIPE))
    assert code == 0
    assert "arguments.yaml:17 (args.learning_rate)" in out
    assert "AdamW(decay_groups(module, weight_decay=0.1), lr=0.003," in out
