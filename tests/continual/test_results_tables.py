"""The tables of `docs/features/continual-results.md`: what the stored runs say, and a run of them done again."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import pytest
import torch
from shown import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import continual_jobs as jobs
import continual_tables as tables

RESULTS: dict[str, Any] = json.loads(tables.RESULTS.read_text())


def test_the_page_has_the_tables_of_the_runs() -> None:
    page = tables.PAGE.read_text(encoding="utf-8")
    found = tables.tables(RESULTS)
    assert set(re.findall(r"<!-- table: (\w+) -->", page)) == found.keys()
    assert tables.written(page, found) == page
    assert all(table in page for table in found.values())
    assert tables.plot(RESULTS) == tables.PLOT.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["naive", "ewc", "si", "mas", "lwf", "replay", "der", "joint"])
def test_no_method_is_worse_than_avalanches(name: str) -> None:
    """Each of ten seeds beside the same seed there: the interval of the difference reaches 0 at least."""
    theirs = [found for key, found in RESULTS["avalanche"].items() if key == name or key.startswith(f"{name}, ")]
    assert theirs
    for other in theirs:
        shift, half = tables.interval(RESULTS["digits"][name]["runs"], other["runs"])
        assert shift + half > 0


def test_ewc_learns_as_well_at_strengths_of_three_decades() -> None:
    means = {float(strength): tables.mean(runs) for strength, runs in RESULTS["sweep"].items()}
    good = [strength for strength, found in means.items() if found > max(means.values()) - 0.02]
    assert max(good) / min(good) >= 1000


def test_quickly_every_method_runs(capsys: pytest.CaptureFixture[str]) -> None:
    tables.quick()
    found = dict(line.split()[:2] for line in capsys.readouterr().out.splitlines())
    assert list(found) == [*jobs.GRIDS]
    assert all(float(average) > 0.6 for average in found.values())


@pytest.mark.parametrize("method", ["ewc", "der"])
def test_a_stored_run_done_again_is_the_same(method: str) -> None:
    """Up to what another machine's rounding does in 850 steps: two of the 450 digits."""
    job, stored = jobs.experiment("digits", ROOT), RESULTS["digits"][method]
    found = tables.summary(jobs.fit(job, method, stored["setting"], 0))
    assert found == pytest.approx(stored["runs"][0], abs=0.006)


def test_what_the_engine_measures_is_what_the_witness_sees() -> None:
    from trustformers_pl.factory import assemble

    job = jobs.experiment("digits", ROOT)
    recipe = jobs.recipe_of(job, "naive", {}, 0)
    recipe["tasks"] = {**recipe["tasks"], "epochs": 1}
    run = assemble(recipe)
    witness = jobs.Witness(jobs.tasks_in(run.datamodule))
    run.trainer.callbacks.append(witness)
    run.fit()
    torch.testing.assert_close(torch.tensor(witness.rows), run.callbacks("AccuracyMatrix")[0].matrix.float())
