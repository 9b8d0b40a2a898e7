"""What went wrong while samples were fetched, told in one line that names them, from whichever process they were in."""

from __future__ import annotations

import traceback
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Never

from typing_extensions import override

from trustformers_pl.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Note = Callable[["BadSample"], None]

SHOWN = 3


class FetchError(DataError):
    """A batch that could not be fetched: a sample or its collation raised, or a worker process died."""


class Told(ABC):
    """What a worker sends in place of a batch when it has something to say of it."""

    @abstractmethod
    def delivered(self, note: Note | None) -> Any:
        """The batch, in the training process.

        Args:
            note: Told of samples that were replaced.
        """


@dataclass(frozen=True)
class BadSample:
    """A sample that could not be read.

    Attributes:
        index: In the dataset.
        epoch: In which it was found, counted from 0.
        cause: Type, message and place of the exception, in one line.
    """

    index: int
    epoch: int
    cause: str


@dataclass(frozen=True)
class Failure(Told):
    """An exception of a dataset or a `collate_fn`, in place of the batch: workers can send it as it is.

    Attributes:
        epoch: Counted from 0.
        what: `sample 17` or the samples of a batch.
        cause: Type, message and place of the exception, in one line.
        details: Its traceback.
    """

    epoch: int
    what: str
    cause: str
    details: str

    @classmethod
    def of(cls, error: Exception, epoch: int, what: str) -> Failure:
        """Take down an exception that is being handled.

        Args:
            error: The exception.
            epoch: Counted from 0.
            what: Whose it is.
        """
        return cls(epoch, what, cause_of(error), "".join(traceback.format_exception(error)))

    @override
    def delivered(self, note: Note | None) -> Never:
        """Raise it in the training process, with the traceback as its cause.

        Raises:
            FetchError: Always.
        """
        del note
        error = FetchError(f"data: {self.what} of epoch {self.epoch}: {self.cause}; mend it, or leave it out")
        error.__cause__ = RuntimeError(self.details)
        raise error


def cause_of(error: Exception) -> str:
    """Type, message and place of an exception that is being handled, in one line."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    said = " ".join(str(error).split())
    return f"{type(error).__name__}{': ' if said else ''}{said} ({Path(frame.filename).name}:{frame.lineno})"


def batch_of(indices: Sequence[int] | int) -> str:
    """The samples of a batch, in words: the first few by index."""
    if isinstance(indices, int):
        return f"sample {indices}"
    shown = ", ".join(map(str, indices[:SHOWN]))
    more = f" and {len(indices) - SHOWN} more" if len(indices) > SHOWN else ""
    return f"the batch of samples {shown}{more}"
