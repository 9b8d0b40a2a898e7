"""Runs one command and outlives nobody: when the process that started it is gone, so is the command, with its ranks.

Called as `python guard.py COMMAND...` with a pipe as standard input whose other end the starter holds open and never
writes to. However the starter dies, the system closes that end, the read here returns, and the command's whole process
group is killed. A kill signal bound to the parent (`prctl`) would reach the command alone, not what it has started.
Runs without `site`, imports nothing of the package, and ends with the command's exit code (128 + number of a signal).
"""

import os
import signal
import subprocess
import sys
import threading


def main(command: list[str]) -> None:
    """Run the command in a process group of its own."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)  # noqa: S603 - of our own starter
    threading.Thread(target=_kill_when_alone, args=(child.pid,), daemon=True).start()
    code = child.wait()
    if code:  # ranks that wait for one that has died wait forever
        _kill(child.pid)
    os._exit(code if code >= 0 else 128 - code)


def _kill_when_alone(group: int) -> None:
    os.read(0, 1)
    _kill(group)


def _kill(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


if __name__ == "__main__":
    main(sys.argv[1:])
