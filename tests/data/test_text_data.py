"""TextData: the same tokens from every form of the same text, mapped, resumed exactly, made once by whoever is first."""

from __future__ import annotations

import csv
import json
import math
import pickle
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from trustformers_pl.data import ResumableLoader, TextData, resumable
from trustformers_pl.data.text_pieces import file_pieces
from trustformers_pl.data.token_files import TokenFiles
from trustformers_pl.errors import DataError, RefusedError
from trustformers_pl.factory import assemble
from trustformers_pl.tracking.perplexity import bits_per_byte

if TYPE_CHECKING:
    from collections.abc import Callable

torch.set_num_threads(1)
ROWS = [f'row {n} is {"long " * (n % 7)}é,"\n' for n in range(300)]


def text_data(source: str, **arguments: Any) -> TextData:
    options: dict[str, Any] = {"context_length": 10, "batch_size": 4, "val_batch_size": 3, "val_fraction": 0.2}
    return TextData(source=source, **(options | arguments))


def stream(data: TextData, side: Any) -> bytes:
    """All tokens of a split, of bytes; separators are FF."""
    tokens = data.files.tokens(side)
    return bytes(tokens[torch.arange(len(tokens))].tolist())


def written(kind: str) -> str:
    """`ROWS` as the column `body` of a table, by a library that is not ours."""
    if kind == "csv":
        with Path("t.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("body", "id"), *((row, n) for n, row in enumerate(ROWS))])
        return "t.csv"
    if kind == "jsonl":
        Path("t.jsonl").write_text("".join(json.dumps({"body": row, "id": 1}) + "\n" for row in ROWS))
        return "t.jsonl"
    if kind == "parquet":
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(arrow.table({"id": list(range(300)), "body": ROWS}), "t.parquet")
        return "t.parquet"
    pytest.importorskip("datasets").Dataset.from_dict({"body": ROWS}).save_to_disk("saved")
    return "saved"


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "datasets"])
def test_the_same_tokens_from_every_table(kind: str) -> None:
    data = text_data(written(kind), text="body", test_fraction=0.1)
    documents = {side: stream(data, side).split(b"\xff") for side in ("train", "val", "test")}
    assert all(found[0] == found[-1] == b"" for found in documents.values())  # a separator before, and one behind each
    found = [text.decode() for side in documents.values() for text in side[1:-1]]
    # Source: the rows that were written.
    assert sorted(found) == sorted(ROWS)
    for side, share in (("train", 0.7), ("val", 0.2), ("test", 0.1)):
        # Four standard deviations of a binomial share of 300 rows are at most 4 * sqrt(0.7 * 0.3 / 300) = 0.11.
        assert data.files.counts(side)["documents"] / 300 == pytest.approx(share, abs=0.11)  # type: ignore[arg-type]
    assert documents["val"] == stream(text_data(written("csv"), text="body", test_fraction=0.1), "val").split(b"\xff")


def test_a_file_and_a_folder_of_text_are_divided_by_bytes() -> None:
    text = "".join(ROWS)
    Path("t.txt").write_text(text, encoding="utf-8")
    Path("folder/sub").mkdir(parents=True)
    Path("folder/a.txt").write_text("".join(ROWS[:100]), encoding="utf-8")
    Path("folder/sub/b.txt").write_text("".join(ROWS[100:]), encoding="utf-8")
    Path("folder/empty.txt").write_text("")
    single, folder = text_data("t.txt", test_fraction=0.1), text_data("folder", test_fraction=0.1)
    content = text.encode()
    for data, files in ((single, 1), (folder, 2)):
        parts = {side: stream(data, side).replace(b"\xff", b"") for side in ("train", "val", "test")}
        # Source: the files, joined; cut by bytes, at the end of a character.
        assert b"".join(parts.values()) == content
        assert len(parts["val"]) == pytest.approx(len(content) * 0.2, abs=3)
        assert len(parts["test"]) == pytest.approx(len(content) * 0.1, abs=3)
        assert sum(data.files.counts(side)["documents"] for side in ("train", "val", "test")) == files + 2  # two cuts
    assert single.files.counts("val")["bytes"] == len(stream(single, "val").replace(b"\xff", b""))


def test_splits_of_a_folder_of_datasets() -> None:
    datasets = pytest.importorskip("datasets")
    splits = {"train": ROWS[:200], "validation": ROWS[200:280], "test": ROWS[280:]}
    datasets.DatasetDict({name: datasets.Dataset.from_dict({"text": rows}) for name, rows in splits.items()}).save_to_disk("d")  # fmt: skip
    data = text_data("d")
    for side, rows in (("train", ROWS[:200]), ("val", ROWS[200:280]), ("test", ROWS[280:])):
        assert stream(data, side) == b"\xff" + b"".join(row.encode() + b"\xff" for row in rows)


def test_many_tables_in_a_folder_by_their_pattern() -> None:
    Path("shards").mkdir()
    for number in range(3):
        lines = [json.dumps({"text": row}) + "\n" for row in ROWS[number * 100 : number * 100 + 100]]
        Path(f"shards/{number}.jsonl").write_text("".join(lines))
    data = text_data("shards", pattern="*.jsonl")
    assert data.files.counts("train")["documents"] + data.files.counts("val")["documents"] == 300


def test_samples_are_windows_of_the_stream_with_the_next_token() -> None:
    data = text_data(written("jsonl"), text="body")
    content = stream(data, "val")
    batches = list(data.val_dataloader())
    inputs, labels = (torch.cat([batch[key] for batch in batches]) for key in ("input_ids", "labels"))
    count = (len(content) - 1) // 10
    # By hand: consecutive windows, and the same one token later.
    assert bytes(inputs.flatten().tolist()) == content[: count * 10]
    assert bytes(labels.flatten().tolist()) == content[1 : count * 10 + 1]
    assert inputs.dtype == labels.dtype == torch.int64


@pytest.mark.parametrize("packing", ["concat", "documents"])
@pytest.mark.parametrize("workers", [0, 1])
def test_resumable_from_any_batch(packing: Any, workers: int) -> None:
    data = text_data(written("csv"), text="body", packing=packing, num_workers=workers)
    loader = resumable(data.train_dataloader(), seed=0)
    assert isinstance(loader, ResumableLoader)
    loader.seek(1, 0)
    whole = list(loader)
    loader.seek(1, 6)
    for found, expected in zip(loader, whole[6:], strict=True):
        assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_a_pickled_map_is_a_path() -> None:
    data = text_data(written("csv"), text="body")
    tokens = data.files.tokens("train")
    tokens[torch.arange(5)]
    packed = pickle.dumps(tokens)
    assert len(packed) < 1000 < len(tokens)
    assert torch.equal(pickle.loads(packed)[torch.arange(5)], tokens[torch.arange(5)])


def test_made_once_and_again_where_something_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    source = written("jsonl")
    first = text_data(source, text="body").files.folder
    assert first.parent.name == ".tokens"
    before = first.stat().st_mtime_ns
    assert text_data(source, text="body").files.folder == first
    assert first.stat().st_mtime_ns == before
    Path("moved.jsonl").write_bytes(Path(source).read_bytes())
    assert text_data("moved.jsonl", text="body").files.folder == first  # the content counts, not the name
    assert text_data(source, text="body", val_fraction=0.3).files.folder != first
    with Path(source).open("a") as file:
        file.write('{"body": "more"}\n')
    assert text_data(source, text="body").files.folder != first


def build(source: str) -> str:
    data = text_data(source, text="body", cache="cache")
    return str(data.files.folder) + str(data.files.counts("train"))


def test_processes_that_make_it_at_once_make_one() -> None:
    source = written("jsonl")
    context = get_context("fork")
    with ThreadPoolExecutor(4) as threads, context.Pool(4) as pool:
        found = list(threads.map(lambda _: pool.apply(build, (source,)), range(4)))
    assert len(set(found)) == 1
    assert len(list(Path("cache").glob("tokens-*"))) == 1
    assert not list(Path("cache").glob("*unfinished*"))


def test_a_broken_row_leaves_nothing_behind() -> None:
    Path("t.jsonl").write_text('{"text": "a"}\n{"text": 3}\n')
    with pytest.raises(DataError, match=r"t\.jsonl:2: text is a int; give a text in every row"):
        text_data("t.jsonl", cache="cache").prepare_data()
    assert not [path for path in Path("cache").iterdir() if "tokens" in path.name]


@pytest.mark.parametrize("size", [7, 64, 1 << 20])
def test_pieces_are_whole_characters_and_join_to_the_file(size: int) -> None:
    text = "".join(ROWS) + "no end of line \u20ac" * 30 + "\n\n  indented\n\nlast é"
    Path("t.txt").write_text(text, encoding="utf-8")
    pieces = list(file_pieces(Path("t.txt"), size))
    assert "".join(content.decode() for content, _ in pieces) == text
    assert [ends for _, ends in pieces] == [False] * (len(pieces) - 1) + [True]


def test_bpe_tokenises_pieces_as_it_tokenises_the_whole() -> None:
    pytest.importorskip("tokenizers")
    Path("t.txt").write_text("".join(ROWS) * 3, encoding="utf-8")
    data = text_data("t.txt", tokenizer="bpe", bpe_size=400)
    tokenizer, whole = data.tokenizer, "".join(ROWS) * 3
    pieces = [content.decode() for content, _ in file_pieces(Path("t.txt"), 500)]
    assert len(pieces) > 5
    # Source: the tokenizers library on the whole text at once.
    assert [token for piece in pieces for token in tokenizer.encode(piece)] == tokenizer.encode(whole)


def test_bits_per_byte_do_not_depend_on_the_tokenizer() -> None:
    """A model that finds all tokens equally likely needs log2(V) bits a token; the bytes are counted by hand."""
    pytest.importorskip("tokenizers")
    data = text_data(written("jsonl"), text="body", tokenizer="bpe", bpe_size=400)
    counts = data.files.counts("val")
    texts = [data.decode(part) for part in documents(data)]
    assert counts["bytes"] == sum(len(text.encode()) for text in texts)
    assert counts["tokens"] == 1 + sum(len(data.encode(text)) + 1 for text in texts)
    found = bits_per_byte(math.log(400), data.bytes_per_token)
    assert found == pytest.approx(math.log2(400) * counts["tokens"] / counts["bytes"])
    assert data.bytes_per_token > 1.5


def documents(data: TextData) -> list[list[int]]:
    tokens, ends = data.files.tokens("val"), data.files.ends("val")
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), ends[:-1]]) + 1
    return [tokens[torch.arange(int(start), int(end))].tolist() for start, end in zip(starts, ends, strict=True)]


def test_bpe_is_trained_on_the_training_split_alone() -> None:
    pytest.importorskip("tokenizers")
    seen, held_out = "aaaa bbbb " * 400, "zzzzqqqq" * 100
    Path("t.txt").write_text(seen + held_out)
    data = text_data("t.txt", tokenizer="bpe", bpe_size=300, val_fraction=len(held_out) / len(seen + held_out))
    assert len(data.encode("aaaa bbbb")) <= 3
    assert len(data.encode("zzzzqqqq")) == 8


RECIPE = """\
model:
  class_path: trustformers_pl.models.GPT
  init_args: {vocab_size: 300, d_model: 16, n_layers: 1, n_heads: 2, context_length: 16}
data:
  class_path: trustformers_pl.data.TextData
  init_args: {source: text.txt, tokenizer: bpe, bpe_size: 300, context_length: 16, batch_size: 4, val_fraction: 0.2}
trainer: {max_steps: 8, accelerator: cpu, log_every_n_steps: 1, val_check_interval: 4, check_val_every_n_epoch: null}
optimizer: {name: adamw, lr: 0.01}
checkpoint: {every_n_steps: 4, keep_last: 5}
csv: {}
metrics: {tokens_per_second: false}
samples: {prompts: ["the"], max_new_tokens: 4}
"""


def test_a_run_resumes_on_the_same_tokens_only(
    write: Callable[..., str], command: Callable[..., tuple[int, str, str]]
) -> None:
    pytest.importorskip("tokenizers")
    text = "".join(f"the quick brown fox {n} jumps over the lazy dog\n" for n in range(300))
    Path("text.txt").write_text(text)
    recipe = write(RECIPE)
    assemble(recipe).fit()
    checkpoints = Path("runs/recipe/checkpoints")
    expected = {file.name: file.read_bytes() for file in (checkpoints / "step-00000008").iterdir()}

    def cut() -> None:
        for file in (checkpoints / "step-00000008").iterdir():
            file.unlink()
        (checkpoints / "step-00000008").rmdir()

    cut()
    assemble(recipe).fit()
    assert {file.name: file.read_bytes() for file in (checkpoints / "step-00000008").iterdir()} == expected
    with Path("runs/recipe/metrics.csv").open(newline="") as file:
        row = [row for row in csv.DictReader(file) if row["val_loss"]][-1]
    data = assemble(recipe).datamodule
    assert isinstance(data, TextData)
    assert float(row["val_bits_per_byte"]) == pytest.approx(bits_per_byte(float(row["val_loss"]), data.bytes_per_token))
    sample = json.loads(Path("runs/recipe/samples.jsonl").read_text().splitlines()[-1])
    assert isinstance(sample["text"], str)
    code, out, _ = command("generate", recipe, "--prompt=the quick", "--max-new-tokens=3")
    assert code == 0
    assert "\nthe quick" in out
    cut()
    Path("text.txt").write_text(text + "more\n")
    code, _, err = command("fit", recipe)
    assert code == 2
    assert "text.txt: text or tokenizer have changed since the checkpoint (tokens-" in err


def test_a_model_with_too_few_tokens_is_refused(write: Callable[..., str]) -> None:
    Path("text.txt").write_text("the quick brown fox " * 200)
    with pytest.raises(
        RefusedError, match=r"knows 100 tokens, and the data's tokenizer 256; set model\.init_args\.voc"
    ):
        assemble(write(RECIPE), ["model.init_args.vocab_size=100", "data.init_args.tokenizer=byte"]).fit()


@pytest.mark.parametrize(
    ("prepare", "arguments", "said"),
    [
        (None, {"source": "nowhere"}, "nowhere: no such file or folder; give the path of text files or of a table"),
        (("t.txt", b"ab\xffc"), {}, "t.txt: not UTF-8 at byte 2; convert the file"),
        (("t.jsonl", b'{"body": "a"}\n'), {}, "t.jsonl:1: no column 'text'; known: body"),
        (("t.jsonl", b'{"text": null}\n'), {}, "t.jsonl:1: text is empty; give a text in every row"),
        (("t.jsonl", b'{"text": "\\ud800"}\n'), {}, "t.jsonl:1: text holds half a character"),
        (("t.txt", b"abc"), {}, "t.txt: the train split has"),
        (("t.txt", b"abc"), {"cache": "/proc/x"}, "/proc/x: cannot be written (No such file or directory); give"),
    ],
)
def test_text_that_cannot_be_used(prepare: Any, arguments: dict[str, Any], said: str) -> None:
    if prepare is not None:
        Path(prepare[0]).write_bytes(prepare[1])
    with pytest.raises(DataError) as caught:
        text_data(**({"source": prepare[0]} if prepare else {}) | arguments).train_dataloader()
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [{"batch_size": 0}, {"val_fraction": -0.1}, {"val_fraction": 0.5, "test_fraction": 0.5}, {"bpe_size": 256}],
)
def test_numbers_out_of_range(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        text_data("t.txt", **arguments)


def test_large_vocabularies_take_four_bytes() -> None:
    class Wide:
        vocab_size, eos, padding, identity = 70_000, 69_999, 0, "wide"

        def encode_batch(self, texts: list[str]) -> list[list[int]]:
            return [[65_536 + len(text)] for text in texts]

    from trustformers_pl.data.text_source import Piece
    from trustformers_pl.data.token_files import write_tokens

    write_tokens(Path("wide"), [Piece("train", "abc", True)], Wide())  # type: ignore[arg-type]
    tokens = TokenFiles(Path("wide")).tokens("train")
    assert tokens[torch.arange(len(tokens))].tolist() == [69_999, 65_539, 69_999]
