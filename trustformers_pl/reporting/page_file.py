"""The page as a file."""

from __future__ import annotations

from pathlib import Path

from trustformers_pl.durable import write_durably
from trustformers_pl.errors import TrustformersError
from trustformers_pl.reporting.document import document
from trustformers_pl.reporting.folder import read_runs

FILE = "report.html"
COMPARISON = "comparison.html"


def write_page(*folders: Path, out: Path | None = None) -> Path:
    """Write the report of a run, or the comparison of several, as one file that loads nothing.

    Args:
        *folders: Run folders.
        out: The file; if not given, `report.html` in the folder of one run, `comparison.html` here for several.

    Returns:
        The file.

    Raises:
        TrustformersError: A folder is not a run's, is damaged, or the file cannot be written.
    """
    page = document(read_runs(list(folders)))
    path = out or (folders[0] / FILE if len(folders) == 1 else Path(COMPARISON))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, page)
    except OSError as error:
        raise TrustformersError(f"{path}: cannot be written: {error.strerror}; give another file with --out") from error
    return path
