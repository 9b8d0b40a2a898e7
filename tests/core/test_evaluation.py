"""`test` and `predict`: the newest checkpoint, measured and asked; on several ranks as on one."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import tiny
import torch
from lightning.fabric.plugins.environments import LightningEnvironment
from ranks import on_ranks
from tiny_predictions import Data, Predicts, first_numbers

import trustformers_pl as tfpl
from trustformers_pl.checkpoint import load
from trustformers_pl.errors import RefusedError, TrustformersError
from trustformers_pl.prediction_parts import merge_parts, part_path, write_rows
from trustformers_pl.prediction_rows import rows_of
from trustformers_pl.predictions import PredictionWriter

Write = Callable[..., str]
Command = Callable[..., tuple[int, str, str]]
RECIPE = """\
model: {class_path: tiny_predictions.Predicts}
data: {class_path: tiny_predictions.Data}
trainer: {max_steps: 4, accelerator: cpu}
optimizer: {name: adamw, lr: 0.1}
checkpoint: {}
"""


def lines(path: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def test_both_take_the_newest_checkpoint(write: Write, command: Command) -> None:
    recipe = write(RECIPE)
    assert command("fit", recipe)[0] == 0
    code, out, err = command("test", recipe)
    assert (code, err) == (0, "")
    weights = load("runs/recipe/checkpoints/step-00000004")["state_dict"]
    x, y = (torch.stack(part) for part in zip(*tiny.samples(10), strict=True))
    outputs = x @ weights["layer.weight"].T + weights["layer.bias"]
    # Source: the mean squared error over all ten samples, by its definition, from the weights in the checkpoint.
    assert out == f"test_loss  {float(((outputs - y) ** 2).mean()):.4f}\n"
    code, out, err = command("predict", recipe)
    assert (code, out, err) == (0, "10 predictions: runs/recipe/predictions.jsonl\n", "")
    found = lines("runs/recipe/predictions.jsonl")
    assert [row["first"] for row in found] == first_numbers(10)
    assert [row["output"] for row in found] == pytest.approx(outputs[:, 0].tolist())
    assert found[3]["row"] == x[3].tolist()


def test_what_is_logged_is_of_the_checkpoints_step_and_epoch(write: Write, command: Command) -> None:
    """Not of step 0, as a Trainer that evaluates alone would say; a validation is on the row of the fit's own."""
    recipe = write(RECIPE.replace("max_steps: 4", "max_steps: 20") + "csv: {}\n")
    assert command("fit", recipe)[0] == 0  # 8 batches an epoch

    def rows() -> list[dict[str, str]]:
        with Path("runs/recipe/metrics.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    trained = rows()
    assert command("validate", recipe)[0] == command("test", recipe)[0] == 0
    found = rows()
    assert found[: len(trained)] == [{**row, **dict.fromkeys(found[0].keys() - row, "")} for row in trained]
    assert {(row["step"], row["epoch"]) for row in found[len(trained) :]} == {("19", "2")}
    assert [row["test_loss"] for row in found if row["test_loss"]]
    run = tfpl.assemble(recipe)
    run.validate()
    assert (run.trainer.current_epoch, run.trainer.fit_loop.epoch_loop._batches_that_stepped) == (0, 0)


def test_out_is_replaced_whole_and_nothing_is_left_beside_it(write: Write, command: Command) -> None:
    recipe = write(RECIPE)
    command("fit", recipe)
    Path("new").mkdir()
    Path("new/p.jsonl").write_text("old\n")
    assert command("predict", recipe, "--out=new/p.jsonl")[1] == "10 predictions: new/p.jsonl\n"
    assert [path.name for path in Path("new").iterdir()] == ["p.jsonl"]
    assert len(lines("new/p.jsonl")) == 10
    assert command("predict", recipe, "--out=a/b.jsonl", "--trainer.limit_predict_batches=1")[1].startswith("4 pred")
    code, _, err = command("predict", recipe, "--out=recipe.yaml/p.jsonl")
    assert (code, err) == (
        2,
        "error: recipe.yaml/p.jsonl: cannot be written (File exists); give another file with --out\n",
    )


def test_in_python_and_with_several_loaders(write: Write) -> None:
    run = tfpl.assemble(write(RECIPE.replace("tions.Data", "tions.Two")))
    run.fit()
    assert set(run.test()) == {"test_loss"}
    callbacks = list(run.trainer.callbacks)  # type: ignore[attr-defined]
    path, count = run.predict()
    assert (str(path), count) == ("runs/recipe/predictions.jsonl", 8)
    assert [row["first"] for row in lines(path)] == [*first_numbers(3), *first_numbers(5)]
    assert run.trainer.callbacks == callbacks  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("old", "new", "command_", "said"),
    [
        ("tiny_predictions.Data", "tiny.Data", "test", "recipe.yaml:2: Data has no test_dataloader(); write one, or use other data"),
        ("tiny_predictions.Data", "tiny.Data", "predict", "recipe.yaml:2: Data has no predict_dataloader(); write one, or use other data"),
        ("tiny_predictions.Predicts", "tiny.Composable", "predict", "recipe.yaml:1: Composable has no predict_step(); write one, or use another model"),
        ("tiny_predictions.Predicts", "tiny.Plain", "test", "recipe.yaml:1: Plain has no test_step(); write one, or use another model"),
        ("", "", "test", "runs/recipe: no checkpoint to load; run `trustformers-pl fit` first"),
        ("", "", "predict", "runs/recipe: no checkpoint to load; run `trustformers-pl fit` first"),
    ],
)  # fmt: skip
def test_what_is_missing_is_one_line(
    write: Write, command: Command, old: str, new: str, command_: str, said: str
) -> None:
    code, out, err = command(command_, write(RECIPE.replace(old, new)))
    assert (code, out, err) == (2, "", f"error: {said}\n")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (0, "answers with nothing; return a mapping"),
        (1, "values of different lengths (a: 1, b: 2)"),
        (2, "values of different lengths (nothing)"),
        (3, "with what JSON cannot hold (Object of type object is not JSON serializable)"),
        (4, "answers with a str; return"),
        (5, "values of different lengths (a: no list)"),
    ],
)
def test_answers_that_are_no_predictions_are_one_line(write: Write, command: Command, answer: int, said: str) -> None:
    module = f"tiny_predictions.PredictsBadly, init_args: {{answer: {answer}}}"
    recipe = write(RECIPE.replace("tiny_predictions.Predicts", module))
    command("fit", recipe)
    code, _, err = command("predict", recipe)
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith("error: model: predict_step ")
    assert said in err
    assert sorted(path.name for path in Path("runs/recipe").iterdir() if "predictions" in path.name) == []


def test_rows_of_every_form() -> None:
    two = torch.tensor([[1.0, float("nan")], [float("-inf"), 2.5]])
    assert rows_of(two) == ['{"prediction": [1.0, null]}', '{"prediction": [null, 2.5]}']
    assert rows_of({"label": torch.tensor([1, 0]), "text": ["é\n", "b"]}) == [
        '{"label": 1, "text": "é\\n"}',
        '{"label": 0, "text": "b"}',
    ]
    assert rows_of([{"p": two[0, 0]}, {"p": {"q": (1, two[1, 0])}}]) == ['{"p": 1.0}', '{"p": {"q": [1, null]}}']
    assert rows_of([]) == []
    with pytest.raises(RefusedError, match="no list"):
        rows_of({"a": torch.tensor(3)})


def test_parts_of_four_ranks_are_one_file_in_order() -> None:
    """Nine samples in global batches of 6: ranks have 2, 2, 1, 1; of the last three, rank 3 repeats the first."""
    shares = [[[0, 1], [6]], [[2, 3], [7]], [[4], [8]], [[5], [6]]]  # torch.tensor_split, by hand
    for rank, batches in enumerate(shares):
        with part_path(Path("out.jsonl"), rank).open("w") as part:
            for number, samples in enumerate(batches):
                write_rows(part, (0, number), map(str, samples))
    assert merge_parts(Path("out.jsonl"), 4, lambda key: [6, 3][key[1]]) == 9
    assert Path("out.jsonl").read_text().split() == list("012345678")
    with pytest.raises(TrustformersError, match="the predictions of rank 0, 1 are not there"):
        merge_parts(Path("other.jsonl"), 2, lambda key: None)


def test_the_writer_in_a_stock_trainer() -> None:
    writer = PredictionWriter(Path("out.jsonl"))
    trainer = lightning.Trainer(
        accelerator="cpu", callbacks=[writer], plugins=[LightningEnvironment()], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.predict(Predicts(), datamodule=Data(), return_predictions=False)
    assert writer.count == 10
    assert [row["first"] for row in lines("out.jsonl")] == first_numbers(10)


ON_RANKS = """
import torch
from trustformers_pl.cli.main import main
torch.set_num_threads(1)
for arguments in {commands!r}:
    print("exit code", main([*arguments, "--ddp={{}}", "--trainer.devices=2"]))
"""


def test_two_ranks_write_and_measure_what_one_does(write: Write, command: Command) -> None:
    """Nine samples are batches of 8 and 1 of the two together: the last one stands on both ranks, and is written once."""
    recipe = write(RECIPE.replace("tions.Data}", "tions.Data, init_args: {rows: 9}}"))
    endless = write(RECIPE.replace("tions.Data", "tions.Endless"), name="endless.yaml")
    command("fit", recipe)
    assert command("predict", recipe)[1].startswith("9 predictions")
    assert command("predict", endless, "--trainer.default_root_dir=runs/recipe", "--out=6.jsonl")[1].startswith(
        "6 pred"
    )
    measured = command("test", recipe, "--data.init_args.rows=10")[1]
    commands = [
        ["predict", recipe, "--out=both.jsonl"],
        ["test", recipe, "--data.init_args.rows=10"],
        ["predict", endless, "--trainer.default_root_dir=runs/recipe", "--out=endless.jsonl"],
    ]
    leader, follower = on_ranks(2, ON_RANKS.format(commands=commands))
    assert leader == f"9 predictions: both.jsonl\nexit code 0\n{measured}exit code 0\nexit code 2\n"
    assert follower == "exit code 0\nexit code 0\nexit code 2\n"
    assert Path("both.jsonl").read_text() == Path("runs/recipe/predictions.jsonl").read_text()
    assert [row["first"] for row in lines("both.jsonl")] == first_numbers(9)
    assert not Path("endless.jsonl").exists()  # samples without an index have no order that two ranks know
