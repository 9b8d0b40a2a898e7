"""Building the site as `mkdocs build` does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
# Building must not import them: the group `docs` does not install them.
WITHOUT_TORCH = "import sys; sys.modules |= {'torch': None, 'lightning': None}; from mkdocs.__main__ import cli; cli()"


def build(root: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """Build the site of a checkout."""
    command = [sys.executable, "-c", WITHOUT_TORCH, "build", "--config-file", str(root / "mkdocs.yml")]
    return subprocess.run([*command, "--site-dir", str(site)], capture_output=True, text=True, cwd=root, check=False)
