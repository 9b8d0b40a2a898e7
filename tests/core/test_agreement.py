"""Ranks that would not run the same thing stop before the first step, all of them, with the difference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ranks import on_ranks

JOB = """
import os
from trustformers_pl import assemble
from trustformers_pl.errors import RefusedError
run = assemble({recipe!r}, [f"optimizer.lr={{0.1 if os.environ['RANK'] == '0' else 0.2}}", "trainer.devices=2"])
try:
    run.fit()
except RefusedError as error:
    print(run.trainer.global_step, error)
"""


def test_another_value_on_another_rank(write: Any) -> None:
    recipe = str(Path(write(more="ddp: {}\n")).resolve())
    expected = (
        "0 rank 0 and rank 1 do not run the same thing: optimizer.lr is 0.1 and 0.2; start all ranks with the same recipe "
        "and the same packages\n"
    )
    assert on_ranks(2, JOB.format(recipe=recipe)) == [expected, expected]
