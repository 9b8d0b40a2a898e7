"""Saves by several gloo ranks of which one fails or dies: all are told, and nothing torn has a checkpoint's name."""

from __future__ import annotations

import random
import re
import time
from typing import TYPE_CHECKING

import pytest
import tiny_sharded as sharded
import torch

from trustformers_pl.checkpoint import load, manifest, verify
from trustformers_pl.checkpoint.folder import clean
from trustformers_pl.testing import Ranks
from trustformers_pl.testing.ranks import RankError

if TYPE_CHECKING:
    from pathlib import Path


def values(path: Path) -> set[float]:
    state = load(path)["state_dict"]
    assert state["w"].shape == (64, 8)
    return set(torch.cat([tensor.flatten() for tensor in state.values()]).tolist())


@pytest.mark.parametrize("kills", [5, pytest.param(60, marks=pytest.mark.slow)])
@pytest.mark.parametrize("victim", [0, 1])
def test_a_kill_leaves_the_old_one_or_the_new_one(tmp_path: Path, victim: int, kills: int) -> None:
    """SIGKILL of either rank at moments drawn at random from its part of the save of a checkpoint over an older one."""
    counted = tmp_path / "counted"
    counted.mkdir()
    total = Ranks().run(2, sharded.on_each, sharded.save_and_die, str(counted), victim, None)[victim]
    assert total > 60  # the tracing sees the steps
    assert values(counted / "c") == {2.0}
    moments = sorted(random.Random(victim).sample(range(1, total + 1), kills))
    seen = set()
    for moment in moments:
        folder = tmp_path / str(moment)
        folder.mkdir()
        with pytest.raises(RankError, match=f"rank {victim} of 2 was killed by SIGKILL"):
            Ranks().run(2, sharded.on_each, sharded.save_and_die, str(folder), victim, moment)
        verify(folder / "c")
        (value,) = values(folder / "c")  # all of one save, never some ranks' old and some ranks' new pieces
        seen.add(value)
        clean(folder)
        others = [path.name for path in folder.iterdir() if not path.name.startswith("said-by")]
        assert others == ["c"]
        if value == 1.0:
            said = (folder / f"said-by-{1 - victim}").read_text()
            assert re.fullmatch(rf"{folder}/c: checkpoint not written: .*; older ones are untouched", said), said
    assert 1.0 in seen


@pytest.mark.parametrize("victim", [0, 1])
def test_any_call_of_a_save_by_two_ranks_may_fail(tmp_path: Path, victim: int) -> None:
    """Each open, write, flush, fsync, mkdir and rename of either writer in turn: told on both, nothing torn or left."""
    first, second = Ranks().run(2, sharded.on_each, sharded.every_call_fails, str(tmp_path), victim, seconds=300.0)
    assert first == second
    assert first.pop() == ""  # the last one had no such call any more
    assert len(first) >= (15 if victim == 0 else 4)  # as of one rank alone; of the other one file
    who = "" if victim == 0 else "rank 1: "
    seen = set()
    for number, line in enumerate(first):
        told = bool(line)
        assert not told or line.startswith(f"checkpoint not written: {who}Input/output error"), number
        clean(tmp_path / str(number))
        assert [path.name for path in (tmp_path / str(number)).iterdir()] == ["c"], number
        (value,) = values(tmp_path / str(number) / "c")
        seen.add((told, value))
    # A rename was made, and the sync of its folder failed; or the removal of the older one, which is left to `clean`.
    assert seen == ({(True, 1.0), (True, 2.0), (False, 2.0)} if victim == 0 else {(True, 1.0)})


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_full_disk_of_any_rank_is_told_on_all(tmp_path: Path, victim: int, beside: bool) -> None:
    said = Ranks().run(3, sharded.on_each, sharded.without_room, str(tmp_path), victim, beside)
    assert said[0] == said[1] == said[2]
    (line,) = said[0]
    who = f"rank {victim}: " if victim else ""
    assert line.startswith(f"{tmp_path}/refused: checkpoint not written: {who}File too large")
    assert [path.name for path in tmp_path.iterdir()] == ["written"]  # nothing is left, and the next one is written
    assert values(tmp_path / "written") == {1.0}


def test_a_rank_tries_again_while_the_others_wait(tmp_path: Path) -> None:
    first, second = Ranks().run(2, sharded.on_each, sharded.room_comes, str(tmp_path))
    assert first == []
    (line,) = second
    assert line.endswith("trying again in 0.5 s")
    assert "rank 1: File too large" in line
    assert values(tmp_path / "written") == {1.0}
    assert [path.name for path in tmp_path.iterdir()] == ["written"]


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("unstorable", r"x: an object of type object cannot be stored; .*"),
        ("differs", r".*/c: checkpoint not written: rank 1 has other sharded tensors than rank 0; .*"),
    ],
)
def test_what_one_rank_cannot_save_is_told_on_all(tmp_path: Path, kind: str, told: str) -> None:
    first, second = Ranks().run(2, sharded.on_each, sharded.said_by_all, str(tmp_path), kind)
    assert first == second
    assert re.fullmatch(told, first)
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_finite_in_any_rank_s_piece_is_told(tmp_path: Path) -> None:
    """Row 60 of 64 is the second rank's."""
    Ranks().run(2, sharded.on_each, sharded.save_with_nan, str(tmp_path))
    assert manifest.read(tmp_path / "whole").metadata["finite"] is True
    told = manifest.read(tmp_path / "nan").metadata
    assert (told["finite"], told["not_finite"]) == (False, "state_dict.w")


@pytest.mark.parametrize("kind", ["absent", "hurry"])
def test_nobody_waits_forever_for_a_rank_that_does_not_save(tmp_path: Path, kind: str) -> None:
    """With 1000 s of patience it is the end of the run that hurries; without a hurry the patience itself ends."""
    begun = time.monotonic()
    first, second = Ranks().run(2, sharded.on_each, sharded.said_by_all, str(tmp_path), kind)
    assert time.monotonic() - begun < 60
    assert first.startswith(f"{tmp_path}/c: checkpoint not written: rank 1 did not write its part")
    assert second == ""
    assert list(tmp_path.iterdir()) == []
