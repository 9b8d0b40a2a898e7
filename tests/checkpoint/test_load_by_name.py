"""`save_checkpoint` and `load_checkpoint` of runs and of the Trainer around live objects."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch

import trustformers_pl as tfpl
from trustformers_pl.checkpoint import load
from trustformers_pl.errors import CheckpointError
from trustformers_pl.factory import assemble

Write = Callable[..., str]
DROPOUT = "model.init_args={dropout: 0.5}"


def weights(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def live(steps: int, **sections: object) -> tfpl.Trainer:
    torch.manual_seed(3)
    module = tiny.Composable()
    args = {"trainer": {"max_steps": steps, "accelerator": "cpu"}, "data": {"batch_size": 4}, **sections}
    in_order = torch.utils.data.DataLoader(tiny.samples(16), batch_size=4)
    return tfpl.Trainer(module, in_order, None, torch.optim.SGD(module.parameters(), lr=0.1), args)


@pytest.mark.parametrize("name", ["checkpoint-4.pt", "deep/er/four.ckpt"])
def test_a_live_trainer_saves_and_loads_a_stock_file(name: str) -> None:
    """Expected: a Trainer that was not interrupted; no section `checkpoint` is needed."""
    first = live(4)
    first.train()
    first.save_checkpoint(name)
    assert torch.load(name, weights_only=True)["global_step"] == 4
    second = live(8)
    assert not torch.equal(weights(second.run.module), weights(first.run.module))
    second.load_checkpoint(name)
    assert torch.equal(weights(second.run.module), weights(first.run.module))  # at once
    second.train()
    whole = live(8)
    whole.train()
    assert second.run.trainer.global_step == 8
    assert torch.equal(weights(second.run.module), weights(whole.run.module))


def test_a_folder_has_everything(write: Write) -> None:
    """Saved inside an epoch, with dropout: a run that goes on from it ends with the bits of one that did not stop."""
    recipe = write(more="checkpoint: {every_n_steps: 100}\n")
    first = assemble(recipe, [DROPOUT, "trainer.max_steps=3", "trainer.default_root_dir=first"])
    first.fit()
    assert first.save_checkpoint("saved") == Path("saved")
    assert load("saved")["global_step"] == 3
    second = assemble(recipe, [DROPOUT, "trainer.default_root_dir=second"])
    second.load_checkpoint("saved")
    second.fit()
    whole = assemble(recipe, [DROPOUT, "trainer.default_root_dir=whole"])
    whole.fit()
    assert torch.equal(weights(second.module), weights(whole.module))
    assert second.ckpt_path().endswith("second/checkpoints/step-00000006")  # not the one that was loaded


def test_an_evaluation_uses_what_was_loaded(write: Write) -> None:
    recipe = write(more="checkpoint: {every_n_steps: 2}\n")
    run = assemble(recipe)
    run.fit()
    newest = run.validate()
    again = assemble(recipe)
    again.load_checkpoint("runs/recipe/checkpoints/step-00000004")
    assert again.validate() != newest
    assert assemble(recipe).validate() == newest


def test_going_back_in_one_process(write: Write) -> None:
    """A fit, back to its middle, and on again: the same end."""
    recipe = write(more="checkpoint: {every_n_steps: 2}\n")
    run = assemble(recipe)
    run.fit()
    end = weights(run.module)
    run.load_checkpoint("runs/recipe/checkpoints/step-00000004")
    assert not torch.equal(weights(run.module), end)
    run.fit()
    assert torch.equal(weights(run.module), end)


def test_what_cannot_be_saved_there_is_refused(write: Write) -> None:
    run = assemble(write())
    with pytest.raises(CheckpointError, match=r"x.pt: not saved: the run has no state yet; train first"):
        run.save_checkpoint("x.pt")
    run.fit()
    with pytest.raises(CheckpointError, match="x: not saved: a folder needs the section `checkpoint`"):
        run.save_checkpoint("x")
    Path("x.pt").mkdir()
    with pytest.raises(CheckpointError, match=r"x.pt: not saved: it is a folder"):
        run.save_checkpoint("x.pt")
    with pytest.raises(CheckpointError, match=r"missing: there is no such file or folder"):
        run.load_checkpoint("missing")


def test_a_folder_of_other_things_is_not_replaced(write: Write) -> None:
    run = assemble(write(more="checkpoint: {}\n"))
    run.fit()
    Path("mine").mkdir()
    Path("mine/thesis.tex").write_text("years of work")
    with pytest.raises(CheckpointError, match="mine: not saved: it is there and no checkpoint"):
        run.save_checkpoint("mine")
    assert Path("mine/thesis.tex").exists()
    run.save_checkpoint("again")
    run.save_checkpoint("again")  # a checkpoint is replaced


def test_a_checkpoint_of_another_model_is_refused_at_once(write: Write) -> None:
    run = assemble(write(more="checkpoint: {}\n"))
    run.fit()
    wide = assemble(write(more="checkpoint: {}\n"), ["model.init_args.width=5", "trainer.default_root_dir=wide"])
    with pytest.raises(CheckpointError, match=r"of another model: size mismatch for layer.weight"):
        wide.load_checkpoint(run.ckpt_path())


def test_a_loaded_tensor_is_mapped_and_writing_to_it_changes_no_file(write: Write) -> None:
    run = assemble(write(more="checkpoint: {}\n"))
    run.fit()
    weight = load("runs/recipe")["state_dict"]["layer.weight"]
    assert torch.equal(weight, run.module.layer.weight)
    weight.zero_()
    for mapped in (True, False):
        assert torch.equal(load("runs/recipe", mapped=mapped)["state_dict"]["layer.weight"], run.module.layer.weight)
