"""Four real ranks, killed and resumed, end with the bits of four that were not."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from ranks import on_ranks

from trustformers_pl.checkpoint.folder import steps

RECIPE = """\
model: {class_path: tiny.Deep}
data: {class_path: tiny.Wide, init_args: {}}
trainer: {max_steps: 10, accelerator: cpu, devices: 4, log_every_n_steps: 1, val_check_interval: 4, check_val_every_n_epoch: null}
optimizer: {name: adamw, lr: 0.05}
checkpoint: {every_n_steps: 1, keep_last: 100}
csv: {}
metrics: {tokens_per_second: false}
ddp: {}
"""


def test_four_ranks_resume_bit_for_bit(write: Any) -> None:
    """DDP sums its buckets in another order after the first step unless they are settled before: two ranks hide it."""
    recipe = Path(write(RECIPE)).resolve()
    code = f"import os; os.chdir({str(recipe.parent)!r})\nfrom trustformers_pl import assemble\nassemble('recipe.yaml').fit()"
    on_ranks(4, code, seconds=240)
    folder = Path("runs/recipe/checkpoints")
    expected = {file.name: file.read_bytes() for file in (folder / "step-00000010").iterdir()}
    logged = Path("runs/recipe/metrics.csv").read_bytes()
    for step, path in steps(folder).items():
        if step > 5:
            shutil.rmtree(path)
    on_ranks(4, code, seconds=240)
    assert {file.name: file.read_bytes() for file in (folder / "step-00000010").iterdir()} == expected
    assert Path("runs/recipe/metrics.csv").read_bytes() == logged
