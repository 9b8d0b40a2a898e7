"""`trustformers-pl checkpoint`, as a person calls it."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from trustformers_pl.checkpoint import load
from trustformers_pl.checkpoint.folder import write_state

Write = Callable[..., str]
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def trained(write: Write, command: Command) -> Path:
    """A run with checkpoints at the steps 4 and 6."""
    assert command("fit", write(more="checkpoint: {every_n_steps: 2}\n"))[0] == 0
    return Path("runs/recipe")


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_ls_lists_a_runs_checkpoints_and_says_what_was_checked(trained: Path, command: Command) -> None:
    code, out, _ = command("checkpoint", "ls", str(trained))
    header, *rows = out.splitlines()
    assert code == 0
    assert header.split() == ["STEP", "EPOCH", "WRITTEN", "SIZE", "FILES"]
    assert [row.split()[:2] for row in rows] == [["4", "0"], ["6", "0"]]
    assert all(row.index("sizes agree") == header.index("FILES") for row in rows)
    assert command("checkpoint", "ls", str(trained / "checkpoints"))[1] == out
    flip(trained / "checkpoints/step-00000004/state.json")
    assert command("checkpoint", "ls", str(trained))[1] == out  # of the same size: only --verify reads it
    rows = command("checkpoint", "ls", str(trained), "--verify")[1].splitlines()[1:]
    assert rows[0].endswith("DAMAGED: state.json: sha256 differs")
    assert rows[1].endswith("sha256 agrees")


def test_ls_sees_a_file_that_was_cut_and_a_lost_manifest(trained: Path, command: Command) -> None:
    tensors = trained / "checkpoints/step-00000004/tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1])
    (trained / "checkpoints/step-00000006/manifest.json").unlink()
    rows = command("checkpoint", "ls", str(trained))[1].splitlines()[1:]
    assert re.search(r"DAMAGED: tensors.safetensors: expected \d+ bytes, found \d+$", rows[0])
    assert rows[1].split()[:2] == ["6", "?"]
    assert rows[1].endswith("DAMAGED: manifest.json: missing")


def test_verify_names_every_damaged_file(trained: Path, command: Command) -> None:
    first, second = (trained / "checkpoints" / name for name in ("step-00000004", "step-00000006"))
    whole = (0, f"{first}: whole\n{second}: whole\n", "")
    assert command("checkpoint", "verify", str(trained)) == whole
    expected = hashlib.sha256((first / "state.json").read_bytes()).hexdigest()
    flip(first / "state.json")
    (first / "tensors.safetensors").unlink()
    found = hashlib.sha256((first / "state.json").read_bytes()).hexdigest()
    code, out, _ = command("checkpoint", "verify", str(trained))
    assert code == 1
    assert out.splitlines() == [
        f"{first}: damaged",
        f"  state.json           sha256 differs: expected {expected}, found {found}",
        "  tensors.safetensors  missing",
        f"{second}: whole",
    ]
    assert command("checkpoint", "verify", str(second))[0] == 0
    assert command("checkpoint", "verify", str(first))[0] == 1


def test_verify_of_a_damaged_manifest(trained: Path, command: Command) -> None:
    flip(trained / "checkpoints/step-00000006/manifest.json")
    code, out, _ = command("checkpoint", "verify", str(trained / "checkpoints/step-00000006"))
    assert code == 1
    assert "  manifest.json  damaged: " in out


def test_diff_of_equal_checkpoints(trained: Path, command: Command) -> None:
    shutil.copytree(trained, "copy")
    assert command("checkpoint", "diff", str(trained), "copy") == (
        0,
        "equal: the same recipe, weights and state, bit for bit\n",
        "",
    )


def test_diff_tells_recipes_weights_and_state(trained: Path, write: Write, command: Command) -> None:
    recipe = write(more="checkpoint: {every_n_steps: 2}\n", name="other.yaml")
    assert command("fit", recipe, "--optimizer.lr=0.01")[0] == 0
    code, out, _ = command("checkpoint", "diff", str(trained), "runs/other")
    assert code == 1
    assert "  optimizer.lr: 0.001 -> 0.01\n" in out
    weights = [load(folder)["state_dict"]["layer.weight"].double() for folder in (trained, "runs/other")]
    largest = (weights[0] - weights[1]).abs().max().item()
    assert re.search(
        rf"^state_dict.layer.weight +float32 \[1, 4\] +float32 \[1, 4\] +{largest:.3g}$", out, re.MULTILINE
    )
    assert re.search(r"^optimizer_states.0.param_groups.0.lr +0.001 +0.01$", out, re.MULTILINE)
    assert "global_step" not in out  # it is equal


def test_diff_tells_shapes_and_what_only_one_has(trained: Path, write: Write, command: Command) -> None:
    write(more="checkpoint: {every_n_steps: 6}\n", name="wide.yaml")
    changes = ["--model.class_path=tiny.Deep", "--model.init_args.width=4"]
    assert command("fit", "wide.yaml", *changes)[0] == 0
    out = command("checkpoint", "diff", str(trained), "runs/wide", "--all")[1]
    assert re.search(r"^state_dict.last.weight +not there +float32 \[4, 4\]$", out, re.MULTILINE)
    torch.save({"state_dict": {"layer.weight": torch.zeros(2, 4)}}, "small.pt")
    out = command("checkpoint", "diff", str(trained), "small.pt")[1]
    assert re.search(r"^state_dict.layer.weight +float32 \[1, 4\] +float32 \[2, 4\]$", out, re.MULTILINE)
    assert re.search(r"^loops +dict of \d +not there$", out, re.MULTILINE)  # one line for all of it


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ls", "nowhere"), "error: nowhere: there is no such folder\n"),
        (("ls", "."), "error: .: no checkpoints in it; give a run folder, as `fit` names it when it ends\n"),
        (("verify", "a.ckpt"), "error: a.ckpt: a file, not a checkpoint folder; it has no manifest to go by\n"),
        (
            ("ls", ".", "--seed=3"),
            "error: checkpoint: --seed=3 is not understood; it reads folders and takes no values of a recipe\n",
        ),
        (
            ("diff", "http://127.0.0.1:9/a.ckpt", "."),
            "error: http://127.0.0.1:9/a.ckpt: nothing is loaded from the network; download it first and give the "
            "file\n",
        ),
        (("export", ".", "--out=x.zip"), "error: x.zip: a stock file's name ends in .ckpt or .pt\n"),
    ],
)
def test_what_is_no_checkpoint_is_refused_in_one_line(
    command: Command, arguments: tuple[str, ...], message: str
) -> None:
    Path("a.ckpt").touch()
    assert command("checkpoint", *arguments) == (2, "", message)


def test_ls_and_verify_import_neither_torch_nor_lightning(trained: Path) -> None:
    code = "import sys; from trustformers_pl.cli import main\n"
    code += f"assert main(['checkpoint', 'ls', {str(trained)!r}, '--verify']) == 0\n"
    code += f"assert main(['checkpoint', 'verify', {str(trained)!r}]) == 0\n"
    code += "print([name for name in ('torch', 'lightning', 'numpy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_ls_shows_the_metric_that_a_checkpoint_tells_of(command: Command) -> None:
    told = {"epoch": 1, "global_step": 4, "monitored": {"val_loss": 1.25}}
    write_state("checkpoints/step-00000004", {"a": torch.ones(1)}, told)
    write_state("checkpoints/step-00000005", {"a": torch.ones(1)}, {**told, "monitored": {"val_loss": "nan"}})
    header, first, second = command("checkpoint", "ls", ".")[1].splitlines()
    at = header.index("MONITORED")
    assert (first[at:].split()[0], second[at:].split()[0]) == ("val_loss=1.25", "val_loss=nan")


def test_a_changed_recipe_is_shown_a_value_a_line(trained: Path, command: Command) -> None:
    assert trained.exists()
    code, _, err = command("fit", "recipe.yaml", "--optimizer.lr=0.5", "--trainer.max_steps=10")
    assert code == 2
    assert err.splitlines() == [
        "error: runs/recipe: its checkpoints are of another recipe (2 values, then -> now); --resume=force goes on with "
        "this one, --resume=never starts anew and keeps the old folder",
        "error:   trainer.max_steps  6 -> 10",
        "error:   optimizer.lr       0.001 -> 0.5",
    ]
