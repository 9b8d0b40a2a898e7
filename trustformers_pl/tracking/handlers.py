"""Log handlers that write to the terminal behind a live picture's back, lent to the picture while it is there."""

from __future__ import annotations

import logging
from typing import Any


def redirect_handlers(old: Any, new: Any) -> None:
    """Make each log handler that writes to one stream write to another; call it with both exchanged to undo it.

    A `StreamHandler` keeps the stream that was standard error when it was made (Lightning's: on import), so that it
    does not see that standard error was replaced.

    Args:
        old: The stream that handlers write to.
        new: The stream that they shall write to.
    """
    if old is new:
        return
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    for handler in (handler for one in loggers for handler in getattr(one, "handlers", ())):
        # One that has no stream of its own, as `logging.lastResort`, asks for standard error each time.
        if isinstance(handler, logging.StreamHandler) and vars(handler).get("stream") is old:
            handler.setStream(new)
