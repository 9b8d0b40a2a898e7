"""`trustformers-pl report`: reads run folders, and neither a recipe nor torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trustformers_pl.errors import TrustformersError

if TYPE_CHECKING:
    import argparse

OUT = "the file to write (report.html in the folder of one run; comparison.html here for several)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run folder; several are compared")
    parser.add_argument("--out", metavar="FILE", help=OUT)
    parser.add_argument("--open", action="store_true", help="open the page in a browser")


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Write the page and name it."""
    from trustformers_pl.reporting.page_file import write_page  # here: `--help` of any command imports this module

    if rest:
        raise TrustformersError(f"{rest[0]}: `report` reads run folders and takes no values of a recipe")
    folders = dict.fromkeys(Path(folder) for folder in options.runs)
    path = write_page(*folders, out=Path(options.out) if options.out else None)
    print(f"report: {path}")
    if options.open:
        import webbrowser

        webbrowser.open(path.resolve().as_uri())
    return 0
