"""Growth under DDP: two ranks through two growths are one process with the same global batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from columns_job import grown

from trustformers_pl.testing import Ranks

if TYPE_CHECKING:
    from pathlib import Path

CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulated": {"accumulate": {"batches": 2}},
    "clipped, averaged, penalised": {"clip": {"norm": 0.5}, "ema": {"decay": 0.9}, "ewc": {"strength": 10.0}},
    "with layers that train on": {"model": {"class_path": "columns_job.Beneath"}, "accumulate": {"batches": 2}},
    "static graph": {"ddp": {"static_graph": True}},
}


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_are_one_process(case: str, tmp_path: Path) -> None:
    more = CASES[case]
    ((expected, rows, _),) = Ranks().run(1, grown, 1, more, str(tmp_path / "one"))
    ranks = Ranks().run(2, grown, 2, more, str(tmp_path / "two"))
    assert ranks[0][0] == ranks[1][0]
    for name, value in expected.items():
        # Sums over ranks round differently from sums over a batch: float32, 12 steps.
        torch.testing.assert_close(torch.tensor(ranks[0][0][name]), torch.tensor(value), rtol=0, atol=1e-6)
    assert ranks[0][1] == rows
    assert max(int(name.split(".")[2]) for name in expected if "columns" in name) == 2
    assert ranks[0][2] == 0  # DDP has what trains, and nothing else
