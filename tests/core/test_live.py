"""`Trainer(model, train_dataset, val_dataset, optimizer, args)`: the same assembly around live objects."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import tiny
import torch

import trustformers_pl as tfpl
from trustformers_pl.errors import RecipeError, RefusedError

ARGS = {"trainer": {"max_steps": 5, "accelerator": "cpu"}, "data": {"batch_size": 4}}


def model() -> tiny.Composable:
    torch.manual_seed(3)
    return tiny.Composable()


def test_it_trains_what_a_plain_loop_trains() -> None:
    """Expected weights: torch's own SGD over the same batches, written out."""
    module, data = model(), tiny.samples(20)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    in_order = torch.utils.data.DataLoader(data, batch_size=4)
    tfpl.Trainer(module, in_order, None, optimizer, ARGS).train()
    expected = model()
    plain = torch.optim.SGD(expected.parameters(), lr=0.1)
    for x, y in in_order:
        plain.zero_grad()
        (((expected.layer(x) - y) ** 2).sum() / len(y)).backward()
        plain.step()
    assert torch.equal(module.layer.weight, expected.layer.weight)


def test_sections_are_methods() -> None:
    trainer = tfpl.Trainer(model(), tiny.samples(20), tiny.samples(8), None, ARGS)
    full = (
        trainer.with_optimizer("adamw", lr=0.1)
        .with_schedule("cosine", warmup_steps=2)
        .with_csv()
        .with_checkpoint(every_n_steps=2)
    )
    full.train()
    assert Path("runs/run/metrics.csv").exists()
    assert Path("runs/run/checkpoints/step-00000005").is_dir()
    assert full.validate()["val_loss"] > 0
    assert type(full.run.trainer.optimizers[0]).__name__ == "AdamW"
    with pytest.raises(RefusedError, match="configures no optimizer"):
        trainer.train()  # the first Trainer has not changed
    assert {"with_optimizer", "with_checkpoint", "with_trainer", "with_seed"} <= set(dir(trainer))


def test_a_section_is_given_by_keywords_a_mapping_or_a_dataclass() -> None:
    @dataclass
    class MyConfig:
        every_n_steps: int = 3

    trainer = tfpl.Trainer(model(), tiny.samples(20), None, None, {**ARGS, "optimizer": {"name": "adamw"}})
    for made in (trainer.with_checkpoint(MyConfig()), trainer.with_checkpoint({"every_n_steps": 3})):
        assert made.run.trainer.checkpoint_callbacks[0].every_n_steps == 3  # type: ignore[attr-defined]
    with pytest.raises(RecipeError, match="with_checkpoint: expected keywords, a mapping or a Config, not 3"):
        trainer.with_checkpoint(3)
    with pytest.raises(RecipeError, match=r"Python: checkpoint\.every: no such key; did you mean 'every_n_steps'\?"):
        trainer.with_checkpoint(every=3).train()


def test_unknown_sections_and_attributes() -> None:
    trainer = tfpl.Trainer(model())
    with pytest.raises(AttributeError, match="no section 'chekpoint' is installed; did you mean 'with_checkpoint'"):
        trainer.with_chekpoint()
    with pytest.raises(AttributeError, match="has no attribute 'fit_all'"):
        trainer.fit_all  # noqa: B018


def test_what_is_given_twice_is_refused() -> None:
    module = model()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    trainer = tfpl.Trainer(module, tiny.samples(8), None, optimizer, {**ARGS, "optimizer": {"name": "adamw"}})
    with pytest.raises(RefusedError, match="Python: optimizer was also given as an object; give one of the two"):
        trainer.train()


def test_the_data_section_batches_datasets() -> None:
    args = {**ARGS, "data": {"batch_size": 5, "val_batch_size": 2, "drop_last": True}}
    module = model()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    run = tfpl.Trainer(module, tiny.samples(17), tiny.samples(8), optimizer, args).run
    assert [len(x) for x, _ in run.datamodule.train_dataloader()] == [5, 5, 5]  # type: ignore[union-attr]
    assert [len(x) for x, _ in run.datamodule.val_dataloader()] == [2, 2, 2, 2]  # type: ignore[union-attr]
    with pytest.raises(RecipeError, match=r"Python: data\.batchsize: no such key; did you mean 'batch_size'"):
        tfpl.Trainer(model(), tiny.samples(8), args={"data": {"batchsize": 3}})


def test_explain_is_for_live_objects_too() -> None:
    from trustformers_pl.script import python_source

    run = tfpl.Trainer(model(), tiny.samples(8), None, None, {**ARGS, "optimizer": {"name": "adamw"}}).run
    assert "trainer.fit(module, datamodule=datamodule)" in python_source(run.assembly)
