"""`save_checkpoint` and `load_checkpoint` on two ranks, and in the middle of a fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from lightning import Callback, Trainer
from ranks import on_ranks
from test_exact_resume import tree

from trustformers_pl import Run, assemble
from trustformers_pl.errors import CheckpointError

RECIPE: dict[str, Any] = {
    "model": {"class_path": "tiny.Composable", "init_args": {"dropout": 0.3}},
    "data": {"class_path": "tiny.Data", "init_args": {"count": 40}},
    "trainer": {"max_steps": 14, "accelerator": "cpu", "val_check_interval": 4, "check_val_every_n_epoch": None},
    "optimizer": {"name": "adamw", "lr": 0.05},
    "ema": {"decay": 0.9},
    "checkpoint": {"every_n_steps": 100},
}


def made(folder: str, devices: int = 1) -> Run:
    trainer = {**RECIPE["trainer"], "default_root_dir": folder, "devices": devices}
    more = {"ddp": {}} if devices > 1 else {}
    if devices > 1:  # an epoch has half as many batches
        trainer["val_check_interval"] = 2
    return assemble({**RECIPE, **more, "trainer": trainer})


class SavesByName(Callback):
    """Saves once, from inside a hook."""

    def __init__(self, run: Run, path: str, hook: str, step: int) -> None:
        self.run, self.path, self.step = run, path, step
        setattr(self, hook, self._save)

    def _save(self, trainer: Trainer, *rest: Any) -> None:
        if trainer.global_step == self.step:
            self.step = -1
            self.run.save_checkpoint(self.path)


def last_of(run: Run) -> dict[str, str]:
    return tree(run.folder / "checkpoints/step-00000014")


@pytest.mark.parametrize("step", [5, 8, 10])  # inside an epoch, where a validation is due, and at an epoch's end
def test_a_checkpoint_taken_at_a_step_boundary_is_gone_on_from_with_the_same_bits(step: int) -> None:
    whole = made("whole")
    whole.fit()
    saving = made("saving")
    saving.trainer.callbacks.append(SavesByName(saving, "named", "on_step_boundary", step))  # type: ignore[attr-defined]
    saving.fit()
    assert last_of(saving) == last_of(whole)  # saving changed nothing
    other = made("other")
    other.fit(ckpt="named")
    assert last_of(other) == last_of(whole)


def test_nothing_is_loaded_into_a_run_that_trains() -> None:
    run = made("run")
    run.fit()
    run = made("again")

    class Loads(Callback):
        def on_train_batch_end(self, trainer: Trainer, *rest: Any) -> None:
            run.load_checkpoint("run/checkpoints/step-00000014")

    run.trainer.callbacks.append(Loads())  # type: ignore[attr-defined]
    with pytest.raises(CheckpointError, match="not loaded: the run is training; load it before, or after it has ended"):
        run.fit()


PREAMBLE = f"""
import sys
sys.path[:0] = [{str(Path(tiny.__file__).parent)!r}, {str(Path(__file__).parent)!r}]
import torch.distributed as dist
from test_by_name_on_ranks import SavesByName, last_of, made
from trustformers_pl.errors import CheckpointError

opened = []  # for writing, by this process
sys.addaudithook(
    lambda event, args: opened.append(str(args[0]))
    if event == "open" and "named" in str(args[0]) and any(c in str(args[1]) for c in "wxa+") else None)
"""


def test_two_ranks_save_once_and_both_go_on_from_it() -> None:
    job = (
        PREAMBLE
        + """
whole = made("whole", 2)
whole.fit()
after = whole.save_checkpoint("named-after")
saving = made("saving", 2)
saving.trainer.callbacks.append(SavesByName(saving, "named", "on_step_boundary", 6))
saving.fit()
saving.save_checkpoint("named.ckpt")
rank = dist.get_rank()
wrote = sorted({name for name in ("named-after", "named", "named.ckpt") if any(f".{name}.tmp" in o for o in opened)})
other = made("other", 2)
other.load_checkpoint("named")
other.fit()
weights = [value.tolist() for value in other.module.state_dict().values()]
same = weights == [value.tolist() for value in whole.module.state_dict().values()]
print(rank, wrote, same, last_of(other) == last_of(whole) == last_of(saving))
"""
    )
    assert on_ranks(2, job) == [
        "0 ['named', 'named-after', 'named.ckpt'] True True\n",
        "1 [] True True\n",
    ]
    assert torch.load("named.ckpt", weights_only=True)["global_step"] == 14


def test_what_rank_0_cannot_write_is_raised_by_both() -> None:
    job = (
        PREAMBLE
        + """
run = made("run", 2)
run.fit()
for path in ("file/x", "file", "file/x.ckpt"):
    try:
        run.save_checkpoint(path)
    except CheckpointError as error:
        print(str(error))
run.save_checkpoint("still-works")
"""
    )
    Path("file").write_text("in the way")
    first, second = on_ranks(2, job)
    assert first == second
    lines = first.splitlines()
    assert len(lines) == 3
    assert "file/x: checkpoint not written: Not a directory" in lines[0]
    assert lines[1] == "file: not saved: it is there and no checkpoint; choose another name"
    assert "file/x.ckpt: not written: " in lines[2]
    assert Path("still-works/manifest.json").exists()
