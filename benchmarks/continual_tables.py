"""The tables of `docs/features/continual-results.md`: methods of continual learning on real data, and beside Avalanche.

    python examples/continual/fetch.py --to DATA             # once; the digits need nothing
    python benchmarks/avalanche_digits.py --out avalanche.json   # in Avalanche's environment, see there
    python benchmarks/continual_tables.py --data DATA digits fashion permuted text
    python benchmarks/continual_tables.py --avalanche avalanche.json --write

The first call adds what it measures to `benchmarks/continual_results.json`, in one process on one core, and goes on
where it was stopped; the last one writes the tables between the markers of the page. `--quick` is one seed and
one epoch a task of the digits, and writes nothing.

A setting is chosen, of the same grid on both sides, on seeds that are not reported. An interval is the 95 % interval
of the mean difference over seeds (Student's t): a seed is the same split, the same first weights, on both sides.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from continual_data import STRENGTHS, Rows, Setting, chosen
from continual_jobs import experiment, fit
from rich.progress import Progress
from scipy.stats import t as student
from strengths_plot import svg

RESULTS = Path(__file__).parent / "continual_results.json"
PAGE = Path(__file__).parent.parent / "docs/features/continual-results.md"
PLOT = PAGE.parent.parent / "assets" / "ewc-strengths.svg"
SEEDS = {"digits": 10, "fashion": 10, "permuted": 10, "text": 10}
SINGLE = "ewc, single samples"
Summary = list[list[float]]
"""Of each seed, average accuracy and forgetting (NaN as -1)."""


def summary(rows: Rows) -> list[float]:
    """Average accuracy after the last task, and forgetting: the mean of the best that a task had minus what it has.

    Forgetting is -1 where there is one row only.
    """
    last = rows[-1]
    found = -1.0
    if len(rows) > 1:
        found = statistics.mean(max(row[task] for row in rows[:-1]) - last[task] for task in range(len(rows) - 1))
    return [round(statistics.mean(last), 5), round(found, 5)]


def measure(name: str, data: Path, seeds: int, results: dict[str, Any], save: Any) -> None:
    """Tune and run every method that is not among the results yet."""
    job = experiment(name, data)
    with Progress() as bar:
        line = bar.add_task(name, total=None)

        def one(method: str, setting: Setting, seed: int) -> Rows:
            bar.update(line, description=f"{name}: {method} {setting or ''} seed {seed}", advance=1)
            return fit(job, method, setting, seed)

        found = results.setdefault(name, {})
        for method, grid in job.grids.items():
            known = found.get(method)
            setting = known["setting"] if known else chosen(method, grid, partial(one, method), job.tuning)
            runs = found.setdefault(method, {"setting": setting, "runs": []})["runs"]
            for seed in range(len(runs), seeds):
                runs.append(summary(one(method, setting, seed)))
                save()
        if name == "digits":
            swept = results.setdefault("sweep", {})
            for strength in STRENGTHS:
                runs = swept.setdefault(f"{strength:g}", [])
                for seed in range(len(runs), seeds):
                    runs.append(summary(one("ewc", {"strength": strength}, seed)))
                    save()


def take_up(path: Path, results: dict[str, Any]) -> None:
    """Add what Avalanche's script has written."""
    written = json.loads(path.read_text())
    results["avalanche"] = {
        name: {"setting": found["setting"], "runs": [summary(rows) for rows in found["runs"]]}
        for name, found in written.items()
        if not name.endswith(": sweep")
    }
    swept = written.get(f"{SINGLE}: sweep", {})
    results["avalanche sweep"] = {strength: [summary(rows) for rows in runs] for strength, runs in swept.items()}


def interval(ours: Summary, others: Summary, place: int = 0) -> tuple[float, float]:
    """Mean difference by seed, and half of its 95 % interval."""
    differences = [one[place] - other[place] for one, other in zip(ours, others, strict=True)]
    spread = statistics.stdev(differences) / math.sqrt(len(differences))
    return statistics.mean(differences), float(student.ppf(0.975, len(differences) - 1)) * spread


def mean(runs: Summary, place: int = 0) -> float:
    """Over seeds."""
    return statistics.mean(run[place] for run in runs)


def _figures(runs: Summary) -> str:
    forgotten = mean(runs, 1)
    return f"{mean(runs):.3f} | {'-' if min(run[1] for run in runs) == -1.0 else f'{forgotten:.3f}'}"


def _setting(setting: Setting) -> str:
    return ", ".join(f"{key} {value:g}" for key, value in setting.items()) or "-"


def beside(results: dict[str, Any]) -> str:
    """The table of the digits."""
    lines = [
        "| method | setting | accuracy | forgetting | Avalanche's setting | accuracy | forgetting | difference |",
        "|---|---|---|---|---|---|---|---|",
    ]
    theirs = results["avalanche"]
    for name, own in results["digits"].items():
        for other in [key for key in theirs if key == name or key.startswith(f"{name}, ")]:
            shift, half = interval(own["runs"], theirs[other]["runs"])
            left = f"{name} | {_setting(own['setting'])} | {_figures(own['runs'])}"
            said = _setting(theirs[other]["setting"]) + (other.removeprefix(name) if other != name else "")
            lines.append(f"| {left} | {said} | {_figures(theirs[other]['runs'])} | {shift:+.3f} +- {half:.3f} |")
    return "\n".join(lines)


def strengths(results: dict[str, Any]) -> str:
    """The table of EWC's strengths."""
    ours, theirs = results["sweep"], results["avalanche sweep"]
    best, best_of_theirs = (max(mean(runs) for runs in of.values()) for of in (ours, theirs))
    lines = ["| strength | accuracy | below its best | Avalanche | below its best |", "|---|---|---|---|---|"]
    for strength, runs in ours.items():
        one, other = mean(runs), mean(theirs[strength])
        row = f"{strength} | {one:.3f} | {best - one:.3f} | {other:.3f} | {best_of_theirs - other:.3f}"
        lines.append(f"| {row.replace('e+0', 'e')} |")
    return "\n".join(lines)


def plot(results: dict[str, Any]) -> str:
    """The same as a curve."""
    curves = {"ewc": results["sweep"], "Avalanche": results["avalanche sweep"]}
    return svg({name: {float(one): mean(runs) for one, runs in of.items()} for name, of in curves.items()})


def beside_naive(found: dict[str, Any]) -> str:
    """The table of a data set that only this engine ran on."""
    lines = ["| method | setting | accuracy | forgetting | more than naive |", "|---|---|---|---|---|"]
    for name, own in found.items():
        shift, half = interval(own["runs"], found["naive"]["runs"])
        more = "-" if name == "naive" else f"{shift:+.3f} +- {half:.3f}"
        lines.append(f"| {name} | {_setting(own['setting'])} | {_figures(own['runs'])} | {more} |")
    return "\n".join(lines)


def dumped(results: dict[str, Any]) -> str:
    """JSON with a line for each method."""
    blocks = [
        f"{json.dumps(name)}: {{\n" + ",\n".join(f" {json.dumps(k)}: {json.dumps(v)}" for k, v in of.items()) + "\n}"
        for name, of in results.items()
    ]
    return "{\n" + ",\n".join(blocks) + "\n}\n"


def tables(results: dict[str, Any]) -> dict[str, str]:
    """Name of a marker -> its table."""
    found = {name: beside_naive(results[name]) for name in ("fashion", "permuted", "text") if name in results}
    if "avalanche" in results:
        found |= {"digits": beside(results)}
    return found | ({"strengths": strengths(results)} if results.get("avalanche sweep") else {})


def written(page: str, found: dict[str, str]) -> str:
    """The page with each table between its markers."""
    for name, table in found.items():
        before, _, rest = page.partition(f"<!-- table: {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        page = f"{before}<!-- table: {name} -->\n{table}\n{end}{after}" if end else page
    return page


def quick() -> None:
    """One seed of each method on the digits, one epoch a task."""
    job = experiment("digits", Path())
    short = {**job.recipe, "tasks": {**job.recipe["tasks"], "epochs": 1}}
    job = replace(job, recipe=short, together={"max_epochs": 1})
    for method, grid in job.grids.items():
        average, forgetting = summary(fit(job, method, grid[len(grid) // 2], 0))
        print(f"{method:8} {average:.3f} {forgetting:6.3f}")


def main() -> None:
    """Measure what is asked for, or write the page."""
    parser = argparse.ArgumentParser(description="Tables of continual learning on real data.")
    parser.add_argument("names", nargs="*", help="digits, fashion, permuted, text")
    parser.add_argument("--data", type=Path, default=Path())
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--avalanche", type=Path)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.quick:
        quick()
        return
    results: dict[str, Any] = json.loads(options.results.read_text()) if options.results.exists() else {}

    def save() -> None:
        options.results.write_text(dumped(results))

    for name in options.names:
        measure(name, options.data, options.seeds or SEEDS[name], results, save)
    if options.avalanche:
        take_up(options.avalanche, results)
        save()
    if options.write:
        PAGE.write_text(written(PAGE.read_text(), tables(results)))
        PLOT.write_text(plot(results))


if __name__ == "__main__":
    main()
