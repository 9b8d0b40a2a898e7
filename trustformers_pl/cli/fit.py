"""`trustformers-pl fit`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trustformers_pl.cli.notices import show_notices
from trustformers_pl.cli.opening import opened

if TYPE_CHECKING:
    import argparse


def run(options: argparse.Namespace, overrides: list[str]) -> int:
    """Train; an interrupted run says how to go on."""
    show_notices()
    training = opened(options.recipe, overrides)
    try:
        training.fit(resume=options.resume, ckpt=options.ckpt)
    except SystemExit as stopped:  # Lightning's answer to Ctrl-C
        raise KeyboardInterrupt from stopped
    if training.leads:
        print(f"run folder: {training.folder}")
    return 0
