"""The pool of ready ranks: what it gives, how it fails, and that it is ready."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from trustformers_pl.testing import RankError, Ranks


def who(word: str) -> tuple[str, str, str]:
    print("not the result")
    return word, os.environ["RANK"], os.environ["WORLD_SIZE"]


def imported() -> bool:
    return all(name in sys.modules for name in ("lightning", "trustformers_pl.factory", "trustformers_pl.models.gpt"))


def added() -> list[float]:
    import torch

    torch.distributed.init_process_group("gloo")
    tensor = torch.full((2,), 1.0 + torch.distributed.get_rank())
    torch.distributed.all_reduce(tensor)
    return tensor.tolist()


def fails_on_one() -> None:
    if os.environ["RANK"] == "1":
        raise ValueError("only here")
    signal.pause()  # as one that waits for the other


def dies() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_each_rank_returns_its_result() -> None:
    assert Ranks().run(2, who, "word") == [("word", "0", "2"), ("word", "1", "2")]
    assert Ranks().run(3, added) == [[6.0, 6.0]] * 3  # 1 + 2 + 3


def test_they_are_ready() -> None:
    """Imports in every rank would cost seconds each."""
    assert Ranks().run(1, imported) == [True]


def test_one_that_fails_is_told_and_the_others_end() -> None:
    with pytest.raises(RankError, match="only here"):
        Ranks().run(2, fails_on_one)


def test_a_kill_is_told_apart() -> None:
    Ranks().run_until_killed(2, dies)
    with pytest.raises(RankError, match="rank 0 of 1 was killed by SIGKILL"):
        Ranks().run(1, dies)
    with pytest.raises(RankError, match="rank 0 of 1 ended with exit code 0, not by SIGKILL"):
        Ranks().run_until_killed(1, os.getpid)


def test_one_that_takes_too_long_is_ended() -> None:
    with pytest.raises(RankError, match="took too long"):
        Ranks().run(1, signal.pause, seconds=1.0)
