"""Packing: best fit against the fewest windows there can be, every token predicted once, no document cut without need."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import default_collate

from trustformers_pl.data import TextData
from trustformers_pl.data.packing import best_fit
from trustformers_pl.models import GPT

if TYPE_CHECKING:
    from collections.abc import Iterator

torch.set_num_threads(1)


@pytest.mark.parametrize("seed", range(20))
def test_best_fit_against_exhaustive_packing(seed: int) -> None:
    generator = random.Random(seed)
    lengths = [generator.randint(1, 10) for _ in range(9)]
    bins = best_fit(lengths, 10)
    assert sorted(item for items in bins for item in items) == list(range(9))
    assert all(sum(lengths[item] for item in items) <= 10 for items in bins)
    assert len(bins) <= 11 / 9 * fewest(lengths, 10) + 6 / 9  # Johnson 1974, Dosa 2007: the bound is tight


def fewest(lengths: list[int], capacity: int, rooms: tuple[int, ...] = ()) -> int:
    """By trying everything."""
    if not lengths:
        return len(rooms)
    first, *rest = lengths
    places = {room: index for index, room in enumerate(rooms) if room >= first}
    tried = [fewest(rest, capacity, (*rooms[:i], room - first, *rooms[i + 1 :])) for room, i in places.items()]
    return min([*tried, fewest(rest, capacity, (*rooms, capacity - first))])


def test_each_item_goes_where_it_leaves_least_room() -> None:
    # By hand: 6, 5 and 4 open bins with room 4, 5 and (4 fits the room of 4) 0; 3 then goes to the room of 5.
    assert best_fit([3, 6, 4, 5], 10) == [[1, 2], [3, 0]]
    assert best_fit([], 10) == []


TEXTS = [
    "one",
    "a longer text",
    "x",
    "a text that is longer than a window of sixteen tokens, twice over",
    "end",
    "two",
] * 5


@pytest.fixture
def data() -> TextData:
    for number, text in enumerate(TEXTS):
        Path(f"texts/{number:03}.txt").parent.mkdir(exist_ok=True)
        Path(f"texts/{number:03}.txt").write_text(text)
    return TextData(source="texts", packing="documents", context_length=16, batch_size=2, val_fraction=0.2)


def test_every_token_is_predicted_once_and_no_document_cut_without_need(data: TextData) -> None:
    found = []
    for batch in data.train_dataloader().dataset, data.val_dataloader().dataset:
        for sample in (batch[index] for index in range(len(batch))):  # type: ignore[arg-type]
            inputs, labels, documents = (sample[key].tolist() for key in ("input_ids", "labels", "document_ids"))
            for number in sorted(set(documents)):
                where = [i for i, document in enumerate(documents) if document == number]
                assert where == list(range(where[0], where[-1] + 1))  # one stretch
                part = [labels[i] for i in where if labels[i] != -100]
                # By the contract: labels are the inputs one position later, within a document.
                assert all(inputs[b] == labels[a] for a, b in pairwise(where) if labels[b] != -100)
                found.append(bytes(part))
    whole = {part[:-1].decode() for part in found if part.endswith(b"\xff")}
    assert {text for text in TEXTS if len(text) < 16} - {"two"} <= whole  # one document is cut between the splits
    # Source: the files, each with its separator.
    expected = sorted("".join(text + "\0" for text in TEXTS))
    assert sorted(b"".join(found).replace(b"\xff", b"\0").decode()) in (expected, sorted([*expected, "\0"]))


@pytest.fixture
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("_float64")
def test_a_packed_row_is_its_documents_alone(data: TextData) -> None:
    """GPT, in float64, its rotations too: loss and gradients of a window against those of each document by itself."""
    torch.manual_seed(0)
    gpt = GPT(d_model=16, n_layers=2, n_heads=2, context_length=16).eval()
    for parameter in gpt.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    windows: Any = data.train_dataloader().dataset
    batch = default_collate([windows[0], windows[len(windows) - 1]])
    loss_sum, count = gpt.loss(gpt(batch), batch)
    assert int(count) == int((batch["labels"] != -100).sum()) < batch["labels"].numel()
    expected = torch.zeros((), dtype=torch.float64)
    for row in range(2):
        for number in batch["document_ids"][row].unique():
            where = batch["document_ids"][row] == number
            logits = gpt({"input_ids": batch["input_ids"][row, where][None]})[0]
            # Source: each document in a forward pass of its own, without any mask.
            expected = expected + F.cross_entropy(
                logits, batch["labels"][row, where], reduction="sum", ignore_index=-100
            )
    torch.testing.assert_close(loss_sum, expected, rtol=0, atol=1e-9)
    theirs = torch.autograd.grad(expected, list(gpt.parameters()))
    for found, wanted in zip(torch.autograd.grad(loss_sum, list(gpt.parameters())), theirs, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)
