"""`trustformers-pl checkpoint ls | verify | export | consolidate | diff`: no recipe; `ls` and `verify` no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trustformers_pl.checkpoint.finding import meant, of_run
from trustformers_pl.checkpoint.listing import listed, monitored, not_finite
from trustformers_pl.checkpoint.verification import damaged
from trustformers_pl.cli.tables import print_table
from trustformers_pl.errors import RecipeError

if TYPE_CHECKING:
    import argparse

    from trustformers_pl.checkpoint.comparing import Difference

WHAT = "a run folder (its newest whole checkpoint), a checkpoint folder, or a stock .ckpt file"
EXIT_DAMAGED = EXIT_DIFFERENT = 1
SHOWN = 20  # differences of a kind


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A parser for each thing that can be done."""
    parser.description = "List, check, compare, consolidate and export checkpoints."
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")

    def kind(name: str, summary: str) -> argparse.ArgumentParser:
        return kinds.add_parser(
            name, help=summary, description=summary[0].upper() + summary[1:] + ".", allow_abbrev=False
        )

    ls = kind("ls", "list a run's checkpoints")
    ls.add_argument("run_folder", metavar="RUN", help="a run folder, or its folder of checkpoints")
    ls.add_argument("--verify", action="store_true", help="read every byte; without it files are checked by their size")
    verify = kind("verify", "check every byte against the sha256 in the manifests; exit code 1 if any is damaged")
    verify.add_argument(
        "run_folder", metavar="RUN_OR_FOLDER", help="a run folder (all of its checkpoints), or one of them"
    )
    export = kind("export", "write a stock Lightning checkpoint file")
    export.add_argument("source", metavar="RUN_OR_FOLDER", help=WHAT)
    export.add_argument("--out", metavar="FILE", required=True, help="a .ckpt file, replaced if it is there")
    consolidate = kind("consolidate", "write whole weights and optimizer state as plain safetensors files")
    consolidate.add_argument("source", metavar="RUN_OR_FOLDER", help=WHAT.rpartition(", or")[0])
    consolidate.add_argument(
        "out", metavar="OUT", help="a new folder for model.safetensors, optimizer.safetensors and optimizer.json"
    )
    diff = kind("diff", "say what differs between two checkpoints; exit code 1 if anything does")
    diff.add_argument("first", metavar="A", help=WHAT)
    diff.add_argument("second", metavar="B", help="the same")
    diff.add_argument("--all", action="store_true", help=f"show every difference, not only the first {SHOWN} of a kind")


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Do one of them.

    Raises:
        CheckpointError: A path is no checkpoint and no run.
    """
    if rest:
        raise RecipeError(f"checkpoint: {rest[0]} is not understood; it reads folders and takes no values of a recipe")
    kinds = {"ls": _ls, "verify": _verify, "export": _export, "consolidate": _consolidate, "diff": _diff}
    return kinds[options.kind](options)


def _ls(options: argparse.Namespace) -> int:
    rows = []
    for step, path in of_run(options.run_folder).items():
        one = listed(path, every_byte=options.verify)
        checked = one.complaint and f"DAMAGED: {one.complaint}"
        rows.append(
            [
                str(step),
                str(one.metadata.get("epoch", "?")),
                f"{one.written.astimezone():%Y-%m-%d %H:%M:%S}",
                _size(one.size),
                monitored(one.metadata),
                checked or ("sha256 agrees" if options.verify else "sizes agree") + not_finite(one.metadata),
            ]
        )
    header = ["STEP", "EPOCH", "WRITTEN", "SIZE", "MONITORED", "FILES"]
    shown = [
        column for column in range(len(header)) if header[column] != "MONITORED" or any(row[column] for row in rows)
    ]
    print_table([header[column] for column in shown], [[row[column] for column in shown] for row in rows])
    return 0


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:,.1f} GiB"


def _verify(options: argparse.Namespace) -> int:
    found = {path: damaged(path) for path in meant(options.run_folder)}
    for path, files in found.items():
        print(f"{path}: {'damaged' if files else 'whole'}")
        width = max(map(len, files), default=0)
        for name, cause in files.items():
            print(f"  {name:<{width}}  {cause}")
    return EXIT_DAMAGED if any(found.values()) else 0


def _export(options: argparse.Namespace) -> int:
    from trustformers_pl.checkpoint.loading import export

    print(f"exported: {export(options.source, options.out)}")
    return 0


def _consolidate(options: argparse.Namespace) -> int:
    from trustformers_pl.checkpoint.consolidation import consolidate

    print(f"consolidated: {consolidate(options.source, options.out)}")
    return 0


def _diff(options: argparse.Namespace) -> int:
    from trustformers_pl.checkpoint.comparing import compare, recipe_changes
    from trustformers_pl.checkpoint.loading import load

    recipes = recipe_changes(options.first, options.second)
    if recipes:
        print("recipes:")
        print("".join(f"  {line}\n" for line in recipes))
    found = compare(load(options.first), load(options.second))
    different = len(recipes)
    for title, prefix in (("weights", "state_dict."), ("optimizers", "optimizer_states."), ("other state", "")):
        some = [one for one in found if one.name.startswith(prefix)]
        found = [one for one in found if not one.name.startswith(prefix)]
        _show(title, some, limit=None if options.all else SHOWN)
        different += len(some)
    if not different:
        print("equal: the same recipe, weights and state, bit for bit")
    return EXIT_DIFFERENT if different else 0


def _show(title: str, found: list[Difference], limit: int | None) -> None:
    if not found:
        return
    print(f"{title}: {len(found)} differences")
    rows = [[one.name, one.first, one.second, one.largest] for one in found[:limit]]
    print_table(["NAME", "A", "B", "LARGEST DIFFERENCE"], rows)
    if limit is not None and len(found) > limit:
        print(f"... and {len(found) - limit} more (--all)")
    print()
