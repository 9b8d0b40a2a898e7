"""What the engine and Python's warnings have to say, a plain line each on stderr."""

from __future__ import annotations

import logging
import sys
import warnings
from contextlib import suppress
from typing import Any


class NoticeHandler(logging.Handler):
    """Writes `level: message` to the stderr of the moment, which a live progress bar may have replaced."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        _say(f"{record.levelname.lower()}: {record.getMessage()}")


def show_notices() -> None:
    """From now on, our loggers' warnings and Python's are single lines without file names or source."""
    logger = logging.getLogger("trustformers_pl")
    if not any(isinstance(handler, NoticeHandler) for handler in logger.handlers):
        logger.addHandler(NoticeHandler())
        logger.propagate = False
    warnings.showwarning = _show_warning


def _show_warning(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
    del category, place, more
    _say(f"warning: {' '.join(str(message).split())}")


def _say(line: str) -> None:
    with suppress(OSError):  # a log on a full disk, a terminal that is gone: no reason to end a run
        print(line, file=sys.stderr)
