"""`TrainingArguments` beside live objects, as in `Trainer(model, train_dataset, val_dataset, optimizer, args)`."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from torch.utils.data import DataLoader

import trustformers_pl as tfpl
from trustformers_pl import TrainingArguments
from trustformers_pl.errors import RecipeError, RefusedError


def model() -> tiny.Composable:
    torch.manual_seed(3)
    return tiny.Composable()


def adamw(module: Any, lr: float = 1e-2) -> torch.optim.Optimizer:
    return torch.optim.AdamW(module.parameters(), lr=lr, weight_decay=0.01)


def test_five_objects_train() -> None:
    """The arguments' batches, learning rate, warm-up and length are those of the run."""
    module = model()
    args = TrainingArguments(
        num_epochs=2, train_batch_size=5, eval_batch_size=3, learning_rate=1e-2, warmup_steps=4, save_steps=4,
        output_dir="mine", use_cpu=True,
    )  # fmt: skip
    trainer = tfpl.Trainer(module, tiny.samples(20), tiny.samples(8), adamw(module), args)
    trainer.train()
    run = trainer.run
    assert run.trainer.global_step == 8  # two epochs of 20 samples in batches of 5
    assert [len(x) for x, _ in run.datamodule.val_dataloader()] == [3, 3, 2]  # type: ignore[union-attr]
    assert sorted(path.name for path in run.folder.glob("checkpoints/step-*")) == ["step-00000004", "step-00000008"]
    assert run.trainer.lr_scheduler_configs[0].scheduler.get_last_lr() == [0.0]  # linear, to the end


def test_without_an_optimizer_the_arguments_make_one() -> None:
    args = TrainingArguments(max_steps=3, learning_rate=0.25, optim="sgd", use_cpu=True)
    trainer = tfpl.Trainer(model(), tiny.samples(20), None, None, args).with_csv()
    trainer.train()
    (optimizer,) = trainer.run.trainer.optimizers
    assert (type(optimizer).__name__, optimizer.param_groups[0]["lr"]) == ("SGD", 0.25)


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        ({"learning_rate": 0.5}, r"Python: args\.learning_rate = 0\.5, but the AdamW that was given has lr = 0\.01; give one"),
        ({"weight_decay": 0.5}, r"args\.weight_decay = 0\.5, but the AdamW that was given has weight_decay = 0\.01"),
        ({"optim": "lamb"}, r"args\.optim makes an optimizer, and a AdamW was given; give one of the two"),
        ({"adam_beta1": 0.5}, r"args\.adam_beta1 makes an optimizer"),
    ],
)  # fmt: skip
def test_arguments_and_a_live_optimizer_must_agree(args: dict[str, Any], complaint: str) -> None:
    module = model()
    with pytest.raises(RefusedError, match=complaint):
        tfpl.Trainer(module, tiny.samples(20), None, adamw(module), TrainingArguments(**args))


def test_arguments_and_live_loaders_must_agree() -> None:
    loader: DataLoader[Any] = DataLoader(tiny.samples(20), batch_size=4)
    run = tfpl.Trainer(model(), loader, None, None, TrainingArguments(train_batch_size=4, learning_rate=0.1)).run
    assert [len(x) for x, _ in run.datamodule.train_dataloader()] == [4] * 5  # type: ignore[union-attr]
    with pytest.raises(
        RefusedError, match=r"args\.train_batch_size = 8 is for a dataset, and a DataLoader of 4 was given"
    ):
        tfpl.Trainer(model(), loader, None, None, TrainingArguments(train_batch_size=8))
    with pytest.raises(
        RefusedError, match=r"args\.eval_batch_size = 8 is for a dataset, and a DataLoader of 4 was given"
    ):
        tfpl.Trainer(model(), tiny.samples(4), loader, None, TrainingArguments(eval_batch_size=8))
    with pytest.raises(RefusedError, match=r"args\.dataloader_num_workers = 2 is for a dataset, and a Data was given"):
        tfpl.Trainer(model(), tiny.Data(), None, None, TrainingArguments(dataloader_num_workers=2))


def test_the_launchers_local_rank_is_let_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """As scripts for torchrun give it; a recipe that said it would differ from rank to rank."""
    args = TrainingArguments(local_rank=1, learning_rate=0.1)
    with pytest.raises(RecipeError, match="local_rank = 1: the launcher tells each process its rank"):
        tfpl.Trainer(model(), tiny.samples(4), None, None, args).run  # noqa: B018
    monkeypatch.setenv("LOCAL_RANK", "1")
    trainer = tfpl.Trainer(model(), tiny.samples(4), None, None, args)
    assert "local_rank" not in trainer._recipe.tree.section("args").entries


def test_a_contradiction_is_told_where_the_arguments_are_made() -> None:
    with pytest.raises(ValueError, match="fp16 and bf16 are both true; choose one"):
        TrainingArguments(fp16=True, bf16=True)
    with pytest.raises(TypeError, match="learnig_rate"):
        TrainingArguments(learnig_rate=0.1)  # type: ignore[call-arg]


def test_torch_is_not_imported_for_them() -> None:
    import subprocess
    import sys

    code = "from trustformers_pl import TrainingArguments; TrainingArguments(fp16=True); import sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
