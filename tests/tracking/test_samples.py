from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from tiny_text import TinyLM, TinyText

from trustformers_pl.checkpoint import Checkpoint, resume_path
from trustformers_pl.errors import RefusedError, TrustformersError
from trustformers_pl.tracking import Progress, Samples
from trustformers_pl.tracking.excerpt import COLUMNS, LINES, excerpt

if TYPE_CHECKING:
    from pathlib import Path

    from lightning.pytorch import LightningModule, Trainer


def samples(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


def test_samples_are_kept_and_shown_after_each_validation(make_trainer: Any, tmp_path: Path, capsys: Any) -> None:
    callback = Samples(prompts=("", "The "), max_new_tokens=30)
    trainer = make_trainer(callbacks=[callback], val_check_interval=5, num_sanity_val_steps=2)
    trainer.fit(TinyLM(), datamodule=TinyText(batches=10))
    found = samples(tmp_path)
    # The sanity check before the first step is no validation of the fit.
    assert [(one["step"], one["prompt"]) for one in found] == [(s, p) for s in (5, 10, 15, 20) for p in ("", "The ")]
    assert {len(one["text"]) for one in found} == {30}
    assert len({one["text"] for one in found}) == 8
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line.startswith("step ")] == [
        f"step {s}  sample" for s in (5, 10, 15, 20)
    ]
    assert out.count("  \N{BOX DRAWINGS LIGHT VERTICAL} The \N{BLACK RIGHT-POINTING SMALL TRIANGLE}") == 4


def test_the_likeliest_tokens_follow_the_prompt(make_trainer: Any, tmp_path: Path) -> None:
    callback = Samples(prompts=("a",), max_new_tokens=12, top_k=1, temperature=0.1)
    module = TinyLM()
    make_trainer(callbacks=[callback], max_steps=5).fit(module, datamodule=TinyText(batches=5))
    # A bigram model's greedy continuation, read off its table by hand.
    token, expected = ord("a"), ""
    for _ in range(12):
        token = int(module.table.weight[token].argmax())
        expected += chr(token)
    assert samples(tmp_path)[-1]["text"] == expected


def test_only_each_nth_validation_is_sampled(make_trainer: Any, tmp_path: Path) -> None:
    trainer = make_trainer(callbacks=[Samples(max_new_tokens=3, every_n_validations=2)], val_check_interval=5)
    trainer.fit(TinyLM(), datamodule=TinyText(batches=10))
    assert [one["step"] for one in samples(tmp_path)] == [10, 20]


def test_the_global_random_state_is_not_touched(make_trainer: Any, tmp_path: Path) -> None:
    states = []
    for callbacks in ([], [Samples(max_new_tokens=5)]):
        torch.manual_seed(4)
        make_trainer(callbacks=callbacks).fit(TinyLM(), datamodule=TinyText(batches=10))
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_a_resumed_run_writes_the_file_of_an_uninterrupted_one(make_trainer: Any, tmp_path: Path) -> None:
    def fit(folder: Path, max_steps: int, resume: str | None = None) -> None:
        saving = ModelCheckpoint(folder, filename="{step}", save_top_k=-1, save_on_train_epoch_end=True)
        callbacks = [Samples(max_new_tokens=20, every_n_validations=2, folder=folder), saving]
        trainer = make_trainer(callbacks=callbacks, enable_checkpointing=True, max_steps=max_steps)
        trainer.fit(TinyLM(), datamodule=TinyText(batches=2), ckpt_path=resume)

    fit(tmp_path / "whole", 16)
    fit(tmp_path / "cut", 9)
    with (tmp_path / "cut/samples.jsonl").open("a") as file:
        file.write('{"step": 10, "prom')
    fit(tmp_path / "cut", 16, resume=str(tmp_path / "cut/step=6.ckpt"))
    assert [one["step"] for one in samples(tmp_path / "whole")] == [4, 8, 12, 16]
    assert (tmp_path / "cut/samples.jsonl").read_text() == (tmp_path / "whole/samples.jsonl").read_text()


def test_a_validation_amid_an_accumulation_is_sampled_once(make_trainer: Any, tmp_path: Path) -> None:
    """It says the step of the checkpoint before it, which the run resumes from; the kill comes two batches later."""

    class Fails(Callback):
        def on_train_batch_start(
            self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
        ) -> None:
            if trainer.fit_loop.epoch_loop.total_batch_idx == 11:
                raise KeyError

    def fit(folder: Path, *also: Callback) -> None:
        callbacks = [*also, Samples(max_new_tokens=20), Checkpoint(every_n_steps=2)]
        trainer = make_trainer(
            callbacks=callbacks,
            default_root_dir=folder,
            enable_checkpointing=True,
            accumulate_grad_batches=4,
            max_steps=6,
            val_check_interval=10,
            check_val_every_n_epoch=None,
        )
        trainer.fit(TinyLM(), datamodule=TinyText(batches=24), ckpt_path=resume_path(folder / "checkpoints"))

    fit(tmp_path / "whole")
    with pytest.raises(KeyError):
        fit(tmp_path / "cut", Fails())
    assert [one["step"] for one in samples(tmp_path / "cut")] == [2]
    fit(tmp_path / "cut")
    assert [one["step"] for one in samples(tmp_path / "whole")] == [2, 5]
    assert (tmp_path / "cut/samples.jsonl").read_text() == (tmp_path / "whole/samples.jsonl").read_text()


def test_an_excerpt_stands_above_the_bar(make_trainer: Any, tmp_path: Path, capsys: Any) -> None:
    make_trainer(callbacks=[Progress(), Samples(max_new_tokens=5)], max_steps=5).fit(
        TinyLM(), datamodule=TinyText(batches=5)
    )
    first, second, third, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("step 5  val_loss ")
    assert second == "step 5  sample"
    assert third.startswith("  \N{BOX DRAWINGS LIGHT VERTICAL} \N{BLACK RIGHT-POINTING SMALL TRIANGLE}")


def test_an_excerpt_cannot_steer_the_terminal() -> None:
    lines = excerpt("", "red \x1b[31m\x07\x00 and\n\ta bell" + "x" * 500 + "\nmore\n" * 50).split("\n")
    assert all(line.isprintable() for line in lines)
    rule = "  \N{BOX DRAWINGS LIGHT VERTICAL} "
    assert (
        lines[0]
        == f"{rule}\N{BLACK RIGHT-POINTING SMALL TRIANGLE}red \N{MIDDLE DOT}[31m\N{MIDDLE DOT}\N{MIDDLE DOT} and"
    )
    assert lines[1].startswith(f"{rule}    a bellx")
    assert len(lines[1]) == len(rule) + COLUMNS
    assert len(lines) == LINES + 1


class Silent(TinyLM):
    generate = None


class NoText(TinyText):
    decode = None


@pytest.mark.parametrize(
    ("module", "data", "message"),
    [
        (Silent, TinyText, "samples: Silent has no method 'generate'; define it, or leave samples out"),
        (TinyLM, NoText, "samples: NoText has no method 'decode'; define it, or leave samples out"),
    ],
)
def test_what_cannot_be_sampled_is_refused_before_the_first_step(
    make_trainer: Any, module: type[LightningModule], data: type[TinyText], message: str
) -> None:
    with pytest.raises(RefusedError) as caught:
        make_trainer(callbacks=[Samples()]).fit(module(), datamodule=data())
    assert str(caught.value) == message


def test_without_a_datamodule_it_is_refused(make_trainer: Any) -> None:
    with pytest.raises(RefusedError, match="the trainer's datamodule has no method 'encode'"):
        make_trainer(callbacks=[Samples()]).fit(TinyLM(), train_dataloaders=TinyText().train_dataloader())


def test_a_file_that_cannot_be_written_is_one_clear_line(make_trainer: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TrustformersError, match=r"file/samples.jsonl: cannot be written: "):
        make_trainer(callbacks=[Samples(folder=tmp_path / "file", max_new_tokens=2)]).fit(
            TinyLM(), datamodule=TinyText()
        )
