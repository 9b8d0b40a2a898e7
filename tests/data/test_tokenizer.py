"""Tokenizers: byte-pair encoding that is the same each time and loses nothing, and everything that can be loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from trustformers_pl.data import ByteTokenizer, load_tokenizer
from trustformers_pl.data.bpe import stored_bpe, train_bpe
from trustformers_pl.errors import DataError, RefusedError

pytest.importorskip("tokenizers")
TEXTS = [f"the {word} sat on the mat, and the {word} ate; café №{n}\n" for n, word in enumerate(["cat", "dog"] * 40)]
TRAIN = """
import sys, json
from trustformers_pl.data.bpe import train_bpe
sys.stdout.write(train_bpe(json.loads(sys.argv[1]), 300).to_json())
"""


def test_bpe_is_the_same_in_every_process() -> None:
    runs = [
        subprocess.run([sys.executable, "-c", TRAIN, json.dumps(TEXTS)], capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert runs[0].stdout == runs[1].stdout == train_bpe(TEXTS, 300).to_json()


def test_bpe_loses_nothing_and_merges_what_is_commonest() -> None:
    bpe = train_bpe(TEXTS, 300)
    assert bpe.vocab_size == 300
    for text in [*TEXTS, "\x00 tab\t  two spaces\n\n🙂 \u00a0 unseen: zqxj", ""]:
        assert bpe.decode(bpe.encode(text)) == text
        assert max(bpe.encode(text), default=0) < bpe.vocab_size
    # By the algorithm: a word that stands in every text is one token, letters that are in none are bytes.
    assert len(bpe.encode(" the")) == 1
    assert len(bpe.encode("zqxj")) == 4
    assert bpe.decode([bpe.eos, *bpe.encode("a"), bpe.eos]) == "a"  # type: ignore[list-item]


def test_bpe_is_stored_and_read_again() -> None:
    file = Path("cache/bpe/tokenizer.json")
    first = stored_bpe(file, iter(TEXTS), 300)
    again = stored_bpe(file, iter([]), 300)
    assert again.identity == first.identity
    assert again.encode(TEXTS[3]) == first.encode(TEXTS[3])
    assert load_tokenizer(str(file), "<|endoftext|>").identity == first.identity


def test_bytes() -> None:
    # UTF-8 of é is C3 A9 (the Unicode standard); FF is in no UTF-8.
    tokenizer = load_tokenizer("byte")
    assert isinstance(tokenizer, ByteTokenizer)
    assert tokenizer.encode("é!") == [0xC3, 0xA9, 0x21]
    assert tokenizer.decode([0xFF, 0xC3, 0xA9, 0xFF]) == "é"
    assert tokenizer.encode_whole("é!", 1) == [0xC3]
    assert list(map(list, tokenizer.encode_batch(["a", "é"]))) == [[0x61], [0xC3, 0xA9]]


def test_a_folder_of_a_model() -> None:
    folder = Path("model")
    folder.mkdir()
    (folder / "tokenizer.json").write_text(train_bpe(TEXTS, 280).to_json())
    assert load_tokenizer("model").eos is None  # nothing says which
    (folder / "tokenizer_config.json").write_text('{"eos_token": {"content": "<|endoftext|>"}, "pad_token": null}')
    assert load_tokenizer("model").eos == 0
    with pytest.raises(DataError, match=r"tokenizer: model: has no token '</s>'; give another separator"):
        load_tokenizer("model", "</s>")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("bpee", r"tokenizer: bpee: no such file or folder; give byte, bpe, a tokenizer\.json or a model's folder"),
        ("broken.json", r"tokenizer: broken\.json: cannot be read \("),
    ],
)
def test_tokenizers_that_are_none(name: str, said: str) -> None:
    Path("broken.json").write_text("{}")
    with pytest.raises(DataError, match=said):
        load_tokenizer(name)


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(RefusedError, match=r"needs the package tokenizers; install trustformers-pl\[hf\]"):
        train_bpe(TEXTS, 300)
