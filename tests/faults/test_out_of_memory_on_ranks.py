"""Memory that runs out on one rank of two, or in a run that is killed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import killed
import pytest
import torch
from ranks import on_ranks

from trustformers_pl import assemble
from trustformers_pl.testing.conformance import KILLED_AFTER
from trustformers_pl.testing.sections import LOGGED, SAVED, TWO_RANKS, beside

if TYPE_CHECKING:
    from pathlib import Path

RANKS = """
import json, torch, test_out_of_memory_on_ranks as t
from trustformers_pl import assemble
run = assemble({{**t.AS_DICT, "trainer": {{**t.AS_DICT["trainer"], "devices": 2}}, "ddp": {{}}, {more}}})
run.fit()
weights = [p.tolist() for p in run.module.parameters()]
print(json.dumps([weights, run.module.seen, run.callbacks("OutOfMemorySplits")[0].step.splits]))
"""
AS_DICT: dict[str, Any] = {
    "model": {
        "class_path": "crowded.Small",
        "init_args": {"rows": 3, "only_rank": 1, "where": "backward", "from_step": 2},
    },
    "data": {"class_path": "tiny.Data", "init_args": {"count": 32, "batch_size": 4}},
    "trainer": {"max_steps": 6, "accelerator": "cpu", "limit_val_batches": 0},
    "optimizer": {"name": "adamw", "lr": 0.01},
    "out_of_memory": {"max_splits": 2},
}


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("from_step", [0, 2])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_one_of_two_ranks_runs_out(tmp_path: Path, where: str, from_step: int, accumulate: int) -> None:
    """Both end with the weights of one process with room for everything, and cut alike from the next step on."""
    model = f'"model": {{"class_path": "crowded.Small", "init_args": {{"rows": 3, "only_rank": 1, "where": "{where}", "from_step": {from_step}}}}}'
    more = f'{model}, "accumulate": {{"batches": {accumulate}}}'
    told = [json.loads(out) for out in on_ranks(2, RANKS.format(more=more))]
    whole: dict[str, Any] = {
        **AS_DICT,
        "model": {"class_path": "crowded.Small"},
        "data": {"class_path": "tiny.Data", "init_args": {"count": 32, "batch_size": 8}},
        "accumulate": {"batches": accumulate},
    }
    del whole["out_of_memory"]
    expected = assemble(whole)
    expected.fit()
    assert told[0][0] == told[1][0]
    for found, parameter in zip(told[0][0], expected.module.parameters(), strict=True):
        torch.testing.assert_close(torch.tensor(found), parameter.detach(), rtol=1e-5, atol=1e-6)
    assert told[0][2] == told[1][2] == 1
    # Rank 1 finds out at a batch of its fourth sample; rank 0 learns of it at the end of the step.
    batches = from_step * accumulate
    assert told[1][1][batches : batches + 3] == [4, 2, 2]
    assert told[0][1][: batches + accumulate] == [4] * (batches + accumulate)
    assert told[0][1][batches + accumulate] == 2


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_killed_run_resumes_bit_for_bit(tmp_path: Path, ranks: int) -> None:
    """With dropout: it ran out after step 3, and was killed after step 5."""
    init = {"rows": 2, "from_step": 3, "dropout": 0.3, "only_rank": ranks - 1}
    sections = beside(
        {"model": {"class_path": "crowded.Small", "init_args": init}},
        {"data": {"class_path": "tiny.Data", "init_args": {"count": 30}}, "out_of_memory": {"max_splits": 2}},
        *(SAVED, LOGGED, TWO_RANKS if ranks == 2 else {}),
        devices=ranks,
    )
    whole, resumed = killed.resumed_on_ranks(ranks, sections, tmp_path, KILLED_AFTER)
    assert whole.evidence["out_of_memory"] == resumed.evidence["out_of_memory"] == "2 pieces a batch"
