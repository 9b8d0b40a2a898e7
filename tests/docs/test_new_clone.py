"""README's two commands and the documentation's, as pasted, in a new clone with nothing installed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(tmp_path / "clone")], check=True)
    return tmp_path / "clone"


def pasted(section: str, page: str = "README.md") -> str:
    text = (ROOT / page).read_text(encoding="utf-8").partition(f"## {section}")[2]
    found = re.search(r"^```bash\n(.*?)\n```", text, re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


@pytest.mark.slow
def test_the_main_job_beats_a_trigram(clone: Path) -> None:
    """3-gram with Witten-Bell smoothing on the same split: 2.216 (benchmarks/plain_lm.py --ngram)."""
    done = subprocess.run(["bash", "-c", pasted("Train")], cwd=clone, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(re.findall(r"bits/byte +(\d\.\d+)", done.stdout)[-1]) < 2.216


@pytest.mark.slow
def test_the_test_command_passes(clone: Path) -> None:
    command = pasted("Run the tests") + " -- tests/recipe"
    done = subprocess.run(["bash", "-c", command], cwd=clone, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_site_is_built_without_torch(clone: Path) -> None:
    command = pasted("Documentation", "CONTRIBUTING.md")
    done = subprocess.run(["bash", "-e", "-c", command], cwd=clone, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (clone / "site" / "reference" / "recipe" / "optim" / "index.html").exists()
    assert not list((clone / ".venv").rglob("site-packages/torch"))
