"""Notices of the command line, where nobody can read them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SAYS = """
import logging, warnings
from trustformers_pl.cli.notices import show_notices
show_notices()
logging.getLogger("trustformers_pl.tests").warning("a line")
warnings.warn("another")
print("went on")
"""


def test_a_full_log_ends_no_run() -> None:
    # /dev/full refuses every write as a full disk does
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = subprocess.run([sys.executable, "-c", SAYS], stdout=subprocess.PIPE, stderr=full, text=True, check=False)
    assert done.stdout == "went on\n"


def test_each_is_a_line() -> None:
    done = subprocess.run([sys.executable, "-c", SAYS], capture_output=True, text=True, check=True)
    assert done.stderr == "warning: a line\nwarning: another\n"
