"""Fashion-MNIST, permuted pixels and domains of text: the recipes on data of their formats, and what is fetched."""

from __future__ import annotations

import gzip
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from shown import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

EXAMPLE = ROOT / "examples" / "continual"
SHORT = ["--no-checkpoint", "--no-progress"]


@pytest.fixture(autouse=True)
def _in_the_example(monkeypatch: pytest.MonkeyPatch) -> None:
    for file in EXAMPLE.iterdir():
        if file.is_file():
            shutil.copy(file, file.name)
    monkeypatch.syspath_prepend(str(Path.cwd()))


def write_idx(part: str, number: int) -> None:
    """Each class is a bright row of its own. Magic numbers and sizes: Yann LeCun's description of the IDX format."""
    Path("fashion").mkdir(exist_ok=True)
    labels = np.arange(number) % 10
    images = np.random.default_rng(0).integers(0, 100, (number, 28, 28))
    images[np.arange(number), labels] = 255
    for name, magic, sizes, values in (
        ("labels-idx1", 2049, [number], labels),
        ("images-idx3", 2051, images.shape, images),
    ):
        header = struct.pack(f">{1 + len(sizes)}i", magic, *sizes)
        with gzip.open(f"fashion/{part}-{name}-ubyte.gz", "wb") as file:
            file.write(header + values.astype(np.uint8).tobytes())


def accuracy(folder: str) -> float:
    """The average accuracy that the report says."""
    text = (Path(folder) / "report.md").read_text(encoding="utf-8")
    return float(text.partition("Average accuracy ")[2].partition(";")[0])


def test_fashion_is_learned_in_five_tasks(command: Callable[..., tuple[int, str, str]]) -> None:
    """A bright row tells the class, and the task tells which two are asked: nothing is left to get wrong."""
    write_idx("train", 600)
    write_idx("t10k", 100)
    assert command("fit", "fashion.yaml", *SHORT, "--ewc.samples=20", "--data.init_args.batch_size=8")[0] == 0
    assert accuracy("runs/fashion") > 0.95


def test_permuted_pixels_are_domains(command: Callable[..., tuple[int, str, str]]) -> None:
    write_idx("train", 300)
    write_idx("t10k", 50)
    more = ["--data.init_args.tasks=3", "--replay.batch=8", "--data.init_args.batch_size=8"]
    assert command("fit", "permuted.yaml", *SHORT, *more)[0] == 0
    text = Path("runs/permuted/report.md").read_text(encoding="utf-8")
    assert "| after task 2 |" in text
    assert "| after task 3 |" not in text
    assert accuracy("runs/permuted") > 0.5


def test_three_kinds_of_text_are_three_domains(command: Callable[..., tuple[int, str, str]]) -> None:
    """Two texts of one letter each: the next byte is known once the domain has been seen."""
    for name, letter in (("austen", "a"), ("mails", "m")):
        Path(name).mkdir()
        Path(name, "text.txt").write_text(letter * 5000, encoding="utf-8")
    small = ["--model.init_args.d_model=16", "--model.init_args.n_layers=1", "--data.init_args.val_samples=3"]
    more = ["--tasks.steps=10", "--replay.batch=2", "--optimizer.lr=0.02", "--data.init_args.batch_size=4"]
    assert command("fit", "domains.yaml", *SHORT, *small, *more)[0] == 0
    text = Path("runs/domains/report.md").read_text(encoding="utf-8")
    last = next(line for line in text.splitlines() if line.startswith("| after task 2 |"))
    assert float(last.split("|")[4]) > 0.9


@pytest.mark.parametrize(("recipe", "asked"), [("fashion", "fashion"), ("permuted", "fashion"), ("domains", "austen")])
def test_data_that_are_not_there_are_asked_for_in_one_line(
    recipe: str, asked: str, command: Callable[..., tuple[int, str, str]]
) -> None:
    code, _, err = command("fit", f"{recipe}.yaml", *SHORT)
    assert code == 2
    (line,) = err.strip().splitlines()
    assert f"`python fetch.py {asked}`" in line


@pytest.mark.slow
def test_all_of_it_is_fetched() -> None:
    """60,000 and 10,000 pictures (Xiao et al. 2017); six novels."""
    done = subprocess.run([sys.executable, "fetch.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    fashion = __import__("fashion")
    x, labels = fashion.read(Path("fashion"), "train")
    assert x.shape == (60_000, 784)
    assert labels.bincount().tolist() == [6000] * 10
    assert {file.stem for file in Path("austen").iterdir()} == {
        "emma", "mansfield-park", "northanger-abbey", "persuasion", "pride-and-prejudice", "sense-and-sensibility",
    }  # fmt: skip
    assert "truth universally acknowledged" in Path("austen/pride-and-prejudice.txt").read_text(encoding="utf-8")
    assert len(list(Path("mails").iterdir())) > 3000
