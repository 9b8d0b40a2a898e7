"""Tables of every format: the same rows from each, written by other libraries, and one line for what is wrong."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from trustformers_pl.data import LabelledText
from trustformers_pl.data.text_table import read_columns, table_rows
from trustformers_pl.errors import DataError, RefusedError

pyarrow = pytest.importorskip("pyarrow")
ROWS = [(f'text {n},\n"é" {"x" * (n % 5)}', n % 3) for n in range(2500)]


def written(kind: str, rows: list[tuple[Any, Any]]) -> str:
    """A table of `text` and `label`, by a library that is not ours."""
    columns = {"text": [text for text, _ in rows], "label": [label for _, label in rows]}
    if kind == "csv":
        with Path("t.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([tuple(columns), *rows])
        return "t.csv"
    if kind == "jsonl":
        Path("t.jsonl").write_text("".join(json.dumps({"text": t, "label": c}) + "\n" for t, c in rows))
        return "t.jsonl"
    if kind == "parquet":
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.table(columns), "t.parquet", row_group_size=700)
        return "t.parquet"
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict(columns).save_to_disk("saved", num_shards=2)
    return "saved"


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "datasets"])
def test_the_same_rows_from_every_format(kind: str) -> None:
    # Source: the rows that were written.
    expected = [(text, str(label) if kind == "csv" else label) for text, label in ROWS]
    assert read_columns(written(kind, ROWS), "text", "label") == expected


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_the_format_can_be_said(kind: Any) -> None:
    Path(written(kind, ROWS[:3])).rename("table.dat")
    assert len(read_columns("table.dat", "text", kind=kind)) == 3
    with pytest.raises(DataError, match=r"table\.dat: \.dat is not read; give a \.csv, .* or say its format"):
        read_columns("table.dat", "text")


def test_a_folder_with_splits_is_used_as_it_is_split() -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
    )
    sizes = {"train": 40, "validation": 6, "test": 4}
    splits = {
        name: datasets.Dataset.from_dict(
            {"sentence": [f"{name} {n}" for n in range(size)], "label": [-1 if name == "test" else n % 2 for n in range(size)]},
            features=features,
        )
        for name, size in sizes.items()
    }  # fmt: skip
    datasets.DatasetDict(splits).save_to_disk("glue")
    data = LabelledText(file="glue", text="sentence", batch_size=8)
    data.setup()
    assert data.classes == ["neg", "pos"]  # in the order of the ClassLabel
    loaders = {"train": data.train_dataloader(), "validation": data.val_dataloader(), "test": data.test_dataloader()}
    assert {name: len(loader.dataset) for name, loader in loaders.items()} == sizes  # type: ignore[arg-type]
    assert next(iter(loaders["validation"]))["labels"].tolist() == [0, 1] * 3
    assert next(iter(loaders["test"]))["labels"].tolist() == [-100] * 4  # -1: `datasets` has no label there


def test_a_book_in_a_field() -> None:
    """The csv module's own limit is 131,072 characters."""
    book = "word " * 60_000
    Path("t.csv").write_text(f"text\n{book}\n", encoding="utf-8")
    assert read_columns("t.csv", "text") == [(book,)]


def test_rows_are_read_one_by_one() -> None:
    Path("t.jsonl").write_text('{"text": "a"}\nnot json\n')
    rows = table_rows(Path("t.jsonl"), ("text",))
    assert next(rows) == ("t.jsonl:1", {"text": "a"})
    with pytest.raises(DataError, match=r"t\.jsonl:2: not JSON \("):
        next(rows)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.jsonl", b'{"text": "a"}\n{"text": "\xff"}\n', r"t\.jsonl:2: not UTF-8 \(invalid start byte at byte 10"),
        ("t.csv", b'text\na\n"b\n\xe9"\n', r"t\.csv:4: not UTF-8 \("),
        ("t.parquet", b"PAR1 and nothing else", r"t\.parquet: not a Parquet file \(.*\); give another file"),
        ("t.parquet", None, r"t\.parquet: No such file or directory; give the path"),
    ],
)
def test_files_that_cannot_be_used(name: str, content: bytes | None, said: str) -> None:
    if content is not None:
        Path(name).write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        read_columns(name, "text")
    assert "\n" not in str(caught.value)


def test_columns_that_are_not_there_or_empty() -> None:
    file = written("parquet", [("a", 1), (None, 2)])
    with pytest.raises(DataError, match=r"t\.parquet: no column 'lable'; did you mean 'label'\?"):
        read_columns(file, "text", "lable")
    with pytest.raises(DataError, match=r"t\.parquet: row 2: text is empty; give a value in every row"):
        read_columns(file, "text", "label")


def test_damaged_folders_of_datasets() -> None:
    folder = Path(written("datasets", ROWS[:10]))
    (arrow,) = sorted(folder.glob("*00000*.arrow"))
    arrow.write_bytes(arrow.read_bytes()[:100])
    with pytest.raises(DataError, match=r"\.arrow: damaged \(.*\); save the dataset again"):
        read_columns("saved", "text")
    (folder / "state.json").write_text("{")
    with pytest.raises(DataError, match=r"state\.json: not JSON"):
        read_columns("saved", "text")


def test_without_pyarrow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    file = written("parquet", ROWS[:3])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(RefusedError, match=r"need the package pyarrow; install trustformers-pl\[data\]"):
        read_columns(file, "text")
