"""LabelledText: every text where it belongs, padding, resuming, and one clear line for files that cannot be used."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from trustformers_pl.data import LabelledText, ResumableLoader, resumable, resumable_datamodule
from trustformers_pl.errors import DataError

torch.set_num_threads(1)
ROWS = [(f'text {n} is {"long " * (n % 7)}\u00e9,"\n', ["no", "yes"][n % 2]) for n in range(200)]


@pytest.fixture
def file() -> str:
    with Path("t.csv").open("w", encoding="utf-8", newline="") as opened:
        csv.writer(opened).writerows([("text", "label"), *ROWS])
    return "t.csv"


def texts(loader: Any) -> list[str]:
    """The texts of all batches, with padding taken away as the mask says."""
    found = []
    for batch in loader:
        assert batch["input_ids"].shape == batch["attention_mask"].shape
        assert not batch["input_ids"][~batch["attention_mask"]].any()
        found += [
            bytes(row[kept].tolist()).decode()
            for row, kept in zip(batch["input_ids"], batch["attention_mask"], strict=True)
        ]
    return found


def labels(loader: Any) -> list[int]:
    return torch.cat([batch["labels"] for batch in loader]).tolist()


def test_every_text_is_in_one_split_with_its_label(file: str) -> None:
    data = LabelledText(file=file, batch_size=1)
    loaders = [data.train_dataloader(), data.val_dataloader(), data.test_dataloader()]
    found = [
        pair for loader in loaders for batch in loader for pair in zip(texts([batch]), labels([batch]), strict=True)
    ]
    # Source: the rows that were written.
    assert sorted(found) == sorted((text, ["no", "yes"].index(label)) for text, label in ROWS)
    assert data.classes == ["no", "yes"]
    for loader, share in zip(loaders, (0.8, 0.1, 0.1), strict=True):
        # Four standard deviations of a binomial share of 200 texts are at most 4 * sqrt(0.8 * 0.2 / 200) = 0.11.
        assert len(loader.dataset) / 200 == pytest.approx(share, abs=0.11)


def test_the_split_follows_from_each_text_alone(file: str) -> None:
    held_out = texts(LabelledText(file=file).val_dataloader())
    shuffled = [*reversed(ROWS), *ROWS[:50], ("a new text", "yes")]
    Path("more.jsonl").write_text("".join(json.dumps({"t": t, "l": c}) + "\n" for t, c in shuffled), encoding="utf-8")
    more = LabelledText(file="more.jsonl", text="t", label="l")
    assert set(texts(more.val_dataloader())) - {"a new text"} == set(held_out)
    sides = [set(texts(loader)) for loader in (more.train_dataloader(), more.val_dataloader(), more.test_dataloader())]
    assert len(set.union(*sides)) == sum(map(len, sides))
    assert set(texts(LabelledText(file=file, split_seed=1).val_dataloader())) != set(held_out)


def test_evaluations_are_in_the_order_of_the_file_and_training_is_shuffled(file: str) -> None:
    data, order = LabelledText(file=file, batch_size=8), [text for text, _ in ROWS]
    for loader in (data.val_dataloader(), data.test_dataloader(), data.predict_dataloader()):
        found = texts(loader)
        assert found == [text for text in order if text in set(found)]
    trained = texts(data.train_dataloader())
    assert len(trained) % 8 == 0
    assert trained != sorted(trained, key=order.index)
    assert texts(data.predict_dataloader()) == texts(data.test_dataloader())
    assert "labels" not in next(iter(data.predict_dataloader()))


def test_padding_to_the_longest_or_to_a_fixed_length(file: str) -> None:
    longest = next(iter(LabelledText(file=file, val_batch_size=5).val_dataloader()))
    assert longest["attention_mask"].sum(1).max() == longest["input_ids"].shape[1]
    fixed = LabelledText(file=file, val_batch_size=5, pad_to="fixed", max_length=90)
    assert {batch["input_ids"].shape[1] for batch in fixed.val_dataloader()} == {90}
    cut = LabelledText(file=file, max_length=6)
    assert set(texts(cut.val_dataloader())) <= {text[:6] for text, _ in ROWS}


@pytest.mark.parametrize("workers", [0, 1])
def test_resumable_from_any_batch(file: str, workers: int) -> None:
    loader = resumable(LabelledText(file=file, batch_size=4, num_workers=workers).train_dataloader(), seed=0)
    assert isinstance(loader, ResumableLoader)
    loader.seek(1, 0)
    whole = texts(loader)
    loader.seek(1, 6)
    assert texts(loader) == whole[24:]


def test_all_its_loaders_are_resumable(file: str) -> None:
    data = resumable_datamodule(LabelledText(file=file), seed=0)
    loaders = [data.train_dataloader(), data.val_dataloader(), data.test_dataloader(), data.predict_dataloader()]
    assert [type(loader) for loader in loaders] == [ResumableLoader] * 4


def test_tables_of_every_kind_are_the_same_table() -> None:
    rows = [(f"a {n}", n % 3) for n in range(90)]
    Path("t.tsv").write_text("\ufefflabel\ttext\n" + "".join(f"{c}\t{t}\n" for t, c in rows), encoding="utf-8")
    Path("t.jsonl").write_text("\n".join(json.dumps({"text": t, "label": c}) + "\n" for t, c in rows))
    tsv, lines = LabelledText(file="t.tsv"), LabelledText(file="t.jsonl")
    assert texts(tsv.val_dataloader()) == texts(lines.val_dataloader())
    assert labels(tsv.val_dataloader()) == labels(lines.val_dataloader())
    assert (tsv.classes, lines.classes) == (["0", "1", "2"], [0, 1, 2])


def test_another_file_is_predicted_without_labels(file: str) -> None:
    Path("new.csv").write_text("text\nhello\nworld\n")
    assert texts(LabelledText(file=file, predict_file="new.csv").predict_dataloader()) == ["hello", "world"]


def all_loaders(data: LabelledText) -> list[Any]:
    data.setup()
    return [data.train_dataloader(), data.val_dataloader(), data.test_dataloader()]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.csv", None, r"t\.csv: No such file or directory; give the path"),
        ("t.txt", "x", r"t\.txt: \.txt is not read; give a \.csv"),
        ("t.csv", "", r"t\.csv: there is no row in it"),
        ("t.csv", "text,label\n", r"t\.csv: there is no row in it"),
        ("t.csv", "text,labels\na,b\n", r"t\.csv:2: no column 'label'; did you mean 'labels'\?"),
        ("t.csv", "text,label\na,b\n,c\n", r"t\.csv:3: text is empty; give a value in every row"),
        ("t.csv", "text,label\na\n", r"t\.csv:2: label is empty"),
        ("t.csv", "text,label\na,b,c\n", r"t\.csv:2: more values than the header has columns"),
        ("t.csv", 'text,label\n"a"b,c\n', r"t\.csv:2: not a table \(',' expected after"),
        ("t.csv", "text,label\na,yes\nb,yes\n", r"t\.csv: column 'label' has one class alone, 'yes'"),
        ("t.jsonl", '{"text": "a", "label": 1}\n{"text"\n', r"t\.jsonl:2: not JSON \("),
        ("t.jsonl", "[1]\n", r"t\.jsonl:1: not a JSON object"),
        ("t.jsonl", '{"text": ["a"], "label": 1}\n', r"t\.jsonl:1: text is a list"),
        ("t.csv", b"text,label\ncaf\xe9,b\n", r"t\.csv:2: not UTF-8 \(invalid continuation byte at byte 3"),
        ("t.csv", "text,label\na,b\nc,d\n", r"t\.csv: no text falls into the (train|val|test) split; give more texts"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_used(name: str, content: Any, said: str) -> None:
    if content is not None:
        Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=said):
        all_loaders(LabelledText(file=name))


@pytest.mark.parametrize(
    "arguments",
    [{"batch_size": 0}, {"val_fraction": -0.1}, {"val_fraction": 0.5, "test_fraction": 0.5}, {"max_length": 0}],
)
def test_numbers_out_of_range(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        LabelledText(file="t.csv", **arguments)
