"""Our own wheel, built as it would be published, and installed where no checkout is in reach."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent


def build(source: Path, target: str, folder: Path) -> Path:
    """Build `sdist` or `wheel` of a project; returns the file."""
    run(sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder), cwd=source)
    (built,) = folder.glob("*.tar.gz" if target == "sdist" else "*.whl")
    return built


def built_by_way_of_the_sdist(folder: Path) -> tuple[Path, Path]:
    """Our sdist, and the wheel that is built from nothing but it."""
    sdist = build(ROOT, "sdist", folder / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    return sdist, build(unpacked, "wheel", folder / "wheel")


def run(*command: str, cwd: Path | None = None) -> str:
    """Run a command without this checkout on its path; returns its standard output."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


def _is_whole(path: Path) -> bool:
    """Whether it is there itself: `.pth` files lead to editable installs, of which only the metadata is here.

    Ours is left out by its name: tox installs it from a wheel, so that its metadata does not say that it is editable.
    """
    if path.name.startswith("trustformers_pl"):
        return False
    origin = path / "direct_url.json"
    return path.suffix != ".pth" and not (origin.exists() and '"editable": true' in origin.read_text())


class Installation:
    """A new virtual environment, with links to the packages of the running one, but to nothing that is editable there.

    So torch need not be installed again, and our package is there only once it is installed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        venv.create(folder, symlinks=True)
        self.python = str(folder / "bin" / "python")
        site = run(self.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
        (folder / "linked").mkdir()
        for path in filter(_is_whole, Path(sysconfig.get_path("purelib")).iterdir()):
            (folder / "linked" / path.name).symlink_to(path)
        (Path(site) / "linked.pth").write_text(f"{folder / 'linked'}\n")

    def install(self, *what: Path) -> None:
        """pip, without network: wheels, or folders of projects that hatchling builds."""
        options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
        run(sys.executable, "-m", "pip", "--python", self.python, "install", *options, *map(str, what))

    def command(self, *arguments: str, name: str = "trustformers-pl") -> str:
        """Run an installed command where this process is; returns its standard output."""
        return run(str(self.folder / "bin" / name), *arguments)
