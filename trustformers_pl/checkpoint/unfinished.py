"""The names of what is not finished, and the removal of what dead processes left.

Everything unfinished is called `.NAME.KIND-HOST-PID`, which no reader takes for a checkpoint:
`tmp` is being written, `gone` is being removed, `old` was moved aside on a file system that cannot exchange two names.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import time
from pathlib import Path

_PATTERN = re.compile(r"\.(?P<name>.+)\.(?P<kind>tmp|gone|old)-(?P<host>[A-Za-z0-9._]+)-(?P<pid>\d+)")
# Whether a process of another machine lives cannot be asked; no write takes this long.
_FOREIGN_SECONDS = 24 * 3600
_mine: set[Path] = set()  # what this process is at: its own id in a predecessor's name must not protect that


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9._]", "_", socket.gethostname())


def _real(path: Path) -> Path:
    return path.parent.resolve() / path.name


def unfinished(path: Path, kind: str) -> Path:
    """Name something unfinished that belongs to `path`, in the same folder, and remember that this process is at it.

    Args:
        path: The final name.
        kind: `tmp`, `gone` or `old`.

    Returns:
        The name, free: what a dead process with our id has left there is deleted.

    Raises:
        OSError: The leftover cannot be deleted.
    """
    temporary = path.with_name(f".{path.name}.{kind}-{_host()}-{os.getpid()}")
    delete(temporary)
    _mine.add(_real(temporary))
    return temporary


def finished(temporary: Path) -> None:
    """Forget and delete something unfinished.

    Args:
        temporary: A name from `unfinished`; it need not exist. What cannot be deleted is left for `clean`.
    """
    with contextlib.suppress(OSError):
        delete(temporary)
    _mine.discard(_real(temporary))


def delete(path: Path) -> None:
    """Delete a file, a link (not what it points to) or a folder, if it is there.

    Args:
        path: What to delete.

    Raises:
        OSError: It cannot be deleted.
    """
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True  # of another user
    return True


def _abandoned(path: Path, host: str, pid: int) -> bool:
    if host != _host():
        return time.time() - path.lstat().st_mtime > _FOREIGN_SECONDS
    return _real(path) not in _mine if pid == os.getpid() else not _alive(pid)


def clean(folder: str | Path) -> list[Path]:
    """Remove what processes that died while writing or removing a checkpoint have left in a folder.

    Whether a process of another machine still lives is not known; what it left goes after 24 hours. A checkpoint that
    had been moved aside (see `publish`) and whose successor never got its name is moved back.

    Args:
        folder: Where checkpoints are kept; it need not exist.

    Returns:
        The leftovers dealt with. What cannot be deleted is left where it is.
    """
    done = []
    for path in sorted(Path(folder).glob(".*")):
        match = _PATTERN.fullmatch(path.name)
        with contextlib.suppress(OSError):
            if match and _abandoned(path, match["host"], int(match["pid"])):
                _settle(path, path.with_name(match["name"]), match["kind"])
                done.append(path)
    return done


def _settle(leftover: Path, final: Path, kind: str) -> None:
    if kind == "old" and not (final.exists() or final.is_symlink()):
        leftover.rename(final)
    else:
        delete(leftover)
