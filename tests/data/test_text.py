"""ByteText: every byte where it belongs, and one clear line for text that cannot be used."""

import sysconfig
from pathlib import Path

import pytest
import torch

from trustformers_pl.data import ByteText, ResumableLoader, resumable
from trustformers_pl.errors import DataError

torch.set_num_threads(1)


@pytest.fixture
def folder(tmp_path):
    """500 bytes in three files, the position of each byte in the joined text written into it (modulo 251)."""
    content = bytes(position % 127 for position in range(500))
    (tmp_path / "b").mkdir()
    (tmp_path / "a.txt").write_bytes(content[:200])
    (tmp_path / "b" / "c.txt").write_bytes(content[200:300])
    (tmp_path / "d.md").write_bytes(content[300:])
    (tmp_path / ".hidden").write_bytes(b"\xff")
    return tmp_path


def byte_text(folder, **arguments):
    options = {"context_length": 10, "batch_size": 4, "val_batch_size": 3, "val_fraction": 0.2}
    return ByteText(folder=str(folder), **(options | arguments))


def all_windows(loader):
    """(samples, context_length + 1): inputs, and behind them the last label."""
    batches = list(loader)
    for batch in batches:
        # By the contract: labels are the inputs one position later.
        assert torch.equal(batch["input_ids"][:, 1:], batch["labels"][:, :-1])
        assert batch["input_ids"].dtype == batch["labels"].dtype == torch.int64
    return torch.cat([torch.cat([batch["input_ids"], batch["labels"][:, -1:]], dim=1) for batch in batches])


def test_validation_is_the_last_files_in_order(folder):
    windows = all_windows(byte_text(folder).val_dataloader())
    # 500 * 0.2 = 100 held-out bytes from position 400 on: (100 - 1) // 10 = 9 windows, by hand.
    expected = [[position % 127 for position in range(start, start + 11)] for start in range(400, 490, 10)]
    assert windows.tolist() == expected


def test_training_is_all_the_rest_shuffled_and_whole(folder):
    windows = all_windows(byte_text(folder, batch_size=13).train_dataloader())
    # 400 training bytes make (400 - 1) // 10 = 39 windows, three batches of 13.
    expected = [[position % 127 for position in range(start, start + 11)] for start in range(0, 390, 10)]
    assert sorted(windows.tolist()) == sorted(expected)
    assert windows.tolist() != expected


def test_the_incomplete_training_batch_is_dropped(folder):
    assert [len(batch["labels"]) for batch in byte_text(folder).train_dataloader()] == [4] * 9


def test_splits_share_no_byte(tmp_path):
    content = "".join(chr(0x4E00 + index) for index in range(2000)).encode()
    (tmp_path / "text").write_bytes(content)
    module = byte_text(tmp_path, batch_size=1)
    train = module.train_dataloader().dataset.tokens
    val = module.val_dataloader().dataset.tokens
    # 2,000 different characters of three bytes: the two together are the file, each byte once.
    assert bytes(train.tolist()) + bytes(val.tolist()) == content


def test_a_pattern_narrows(folder):
    module = byte_text(folder, pattern="*.txt", val_fraction=0.5)
    # a.txt and b/c.txt hold 300 bytes.
    assert len(module.train_dataloader().dataset.tokens) == 150


@pytest.mark.parametrize("workers", [0, 1])
def test_resumable_from_any_batch(folder, workers):
    module = byte_text(folder, num_workers=workers)
    loader = resumable(module.train_dataloader(), seed=0)
    assert isinstance(loader, ResumableLoader)
    loader.seek(1, 0)
    whole = all_windows(loader)
    loader.seek(1, 6)
    assert torch.equal(all_windows(loader), whole[24:])


def test_a_batch_equals_its_samples(folder):
    windows = byte_text(folder).train_dataloader().dataset
    batch = windows.__getitems__([3, 0, 38])
    for row, index in enumerate([3, 0, 38]):
        assert torch.equal(batch["input_ids"][row], windows[index]["input_ids"])
        assert torch.equal(batch["labels"][row], windows[index]["labels"])
    with pytest.raises(IndexError):
        windows[39]


def test_masking_labels_in_place_leaves_inputs_alone(folder):
    batch = next(iter(byte_text(folder).val_dataloader()))
    before = batch["input_ids"].clone()
    batch["labels"].fill_(-100)
    assert torch.equal(batch["input_ids"], before)


def test_text_round_trips():
    module = ByteText()
    # UTF-8 of é is C3 A9 (the Unicode standard); its first half alone is shown as U+FFFD.
    assert module.encode("é!") == [0xC3, 0xA9, 0x21]
    assert module.decode([0xC3, 0xA9, 0x21]) == "é!"
    assert module.decode(torch.tensor([0x21, 0xC3])) == "!\ufffd"
    assert module.bytes_per_token == 1.0


def test_the_standard_library_is_there_without_its_tests():
    module = ByteText()
    module.setup("fit")
    train, val = module.train_dataloader().dataset.tokens, module.val_dataloader().dataset.tokens
    text = bytes(train.tolist()) + bytes(val.tolist())
    library = Path(sysconfig.get_paths()["stdlib"])
    assert (library / "argparse.py").read_bytes() in text
    assert (library / "unittest" / "mock.py").read_bytes() in text
    # The suite's own tests subclass TestCase by the thousand; what is left are documentation and unittest itself.
    assert text.count(b"(unittest.TestCase):") < 20
    assert len(val) == int(len(text) * 0.05)
    assert 5e6 < len(text) < 50e6
    text.decode()


def test_the_same_text_each_time(folder):
    first, second = (byte_text(folder).val_dataloader().dataset.tokens for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("prepare", "arguments", "message"),
    [
        (lambda path: None, {"folder": "nowhere"}, "nowhere: no such folder; give"),
        (lambda path: None, {"pattern": "*.rst"}, "no file matches '*.rst'; change"),
        (lambda path: None, {"pattern": "/etc/*"}, "pattern '/etc/*' cannot be used"),
        (lambda path: (path / "e").write_bytes(b"ab\xffc"), {}, "/e: not UTF-8 at byte 2; convert"),
        (
            lambda path: None,
            {"context_length": 100, "batch_size": 2},
            "100 bytes of held-out text are fewer than 101: 1 x context",
        ),
        (
            lambda path: None,
            {"val_fraction": 0.9, "batch_size": 5},
            "50 bytes of training text are fewer than 51: 5 x",
        ),
        (lambda path: [p.write_bytes(b"") for p in path.rglob("*.*")], {}, "0 bytes of training text are fewer"),
    ],
)
def test_unusable_text_is_refused_in_one_line(folder, prepare, arguments, message):
    prepare(folder)
    with pytest.raises(DataError) as caught:
        byte_text(arguments.pop("folder", folder), **arguments).setup()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unreadable_file_is_named(folder):
    (folder / "e.txt").symlink_to("/proc/self/mem")
    with pytest.raises(DataError, match=r"e\.txt: .*; make the file readable"):
        byte_text(folder).setup()


@pytest.mark.parametrize(
    "arguments",
    [{"context_length": 0}, {"batch_size": 0}, {"val_fraction": 0.0}, {"val_fraction": 1.0}, {"num_workers": -1}],
)
def test_numbers_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        ByteText(**arguments)
