"""What a text is, in one number; files that have not been touched are not read again."""

from __future__ import annotations

import json
from hashlib import blake2b, file_digest
from typing import TYPE_CHECKING

from trustformers_pl.durable import write_durably
from trustformers_pl.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def digest_of(files: Sequence[Path], memory: Path) -> str:
    """BLAKE2b of the files' contents in their order; neither names nor places count.

    Args:
        files: The text.
        memory: A folder where the digest is noted under sizes and times of the files, if it can be written.

    Raises:
        DataError: A file is not readable.
    """
    stats = [(str(path.resolve()), (found := path.stat()).st_size, found.st_mtime_ns) for path in files]
    note = memory / f"{blake2b(json.dumps(stats).encode(), digest_size=16).hexdigest()}.digest"
    if note.is_file():
        return note.read_text(encoding="utf-8")
    digest = blake2b(digest_size=16)
    for path in files:
        digest.update(_content(path))
    found_digest = digest.hexdigest()
    try:
        memory.mkdir(parents=True, exist_ok=True)
        write_durably(note, found_digest)
    except OSError:  # whoever needs the folder will say so
        pass
    return found_digest


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file_digest(file, "blake2b").digest()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; make the file readable, or narrow `pattern`") from error
