"""`trustformers-pl fit`."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

from trustformers_pl.cli.notices import show_notices
from trustformers_pl.cli.opening import opened
from trustformers_pl.stopped import EXIT_CODES, Stopped

if TYPE_CHECKING:
    import argparse


def run(options: argparse.Namespace, overrides: list[str]) -> int:
    """Train; a run that a signal ends says how to go on, and the exit code is the signal's."""
    show_notices()
    training = opened(options.recipe, overrides)
    try:
        training.fit(resume=options.resume, ckpt=options.ckpt)
    except Stopped as stopped:
        if training.leads:
            print(stopped, file=sys.stderr)
        return int(stopped.code)  # type: ignore[arg-type]
    except SystemExit as stopped:  # Lightning's answer to signals, where nothing is saved
        if type(stopped).__name__ != "SIGTERMException":
            raise KeyboardInterrupt from stopped
        print("stopped by SIGTERM; nothing was saved, as there is no section `checkpoint`", file=sys.stderr)
        return EXIT_CODES[signal.SIGTERM]
    if training.leads:
        print(f"run folder: {training.folder}")
    return 0
