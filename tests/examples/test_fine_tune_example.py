"""The fine-tuning example: it begins where the main job ended."""

from __future__ import annotations

from shown import ROOT

from trustformers_pl.checkpoint import load
from trustformers_pl.factory import assemble

SMALL = ["model.init_args.d_model=16", "model.init_args.n_layers=1", "data.init_args.batch_size=4"]
SMALL += ["trainer.val_check_interval=5", "trainer.limit_val_batches=2", "samples.max_new_tokens=5"]
SMALL += ["schedule.warmup_steps=2"]


def test_it_begins_with_the_weights_of_the_main_job() -> None:
    first = assemble(ROOT / "examples/lm/lm.yaml", [*SMALL, "trainer.max_steps=5"])
    first.fit()
    tuned = assemble(
        ROOT / "examples/checkpoints/fine-tune.yaml", [*SMALL, "trainer.max_steps=5", f"pretrained.path={first.folder}"]
    )
    tuned.fit()
    tensors = len(load(first.folder)["state_dict"])
    assert tuned.probe()["pretrained"] == f"pretrained: {tensors} tensors from {first.folder}"
