"""What a plugin does when it is only imported and asked: run in a bare interpreter, and told as JSON.

    python -m trustformers_pl.testing.declaring NAME SECTIONS

Nothing here imports torch or Lightning, so that whatever is imported in the end was imported by the plugin.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

from trustformers_pl.plan import make_plan
from trustformers_pl.plugins import discover
from trustformers_pl.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec

EFFECTS = {
    "os.mkdir": "makes a folder",
    "os.remove": "removes a file",
    "os.rename": "renames a file",
    "os.putenv": "changes the environment",
    "os.unsetenv": "changes the environment",
    "socket.bind": "opens a socket",
    "socket.connect": "opens a socket",
    "socket.getaddrinfo": "looks up an address",
    "subprocess.Popen": "starts a process",
    "os.system": "starts a process",
    "os.fork": "starts a process",
    "os.posix_spawn": "starts a process",
}


class Watch:
    """Notes what happens outside of this interpreter's memory; it stays for the rest of the process."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in EFFECTS:
            self._add(f"{EFFECTS[event]} ({arguments[0]!r})" if arguments else EFFECTS[event])
        elif event == "open" and _opened_for_writing(*arguments[1:3]) and arguments[0] != os.devnull:
            self._add(f"writes {arguments[0]!r}")

    def _add(self, what: str) -> None:
        if what not in self.seen:
            self.seen.append(what)

    def take(self) -> list[str]:
        """What was seen since the last call."""
        seen, self.seen = self.seen, []
        return seen


class OnlyOwn:
    """An import hook that knows the standard library, what is there already, and one package: all else is missing."""

    def __init__(self, package: str) -> None:
        self.allowed = {package, *sys.stdlib_module_names, *(name.partition(".")[0] for name in sys.modules)}
        self.refused: list[str] = []

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Let the usual finders look, or say that there is no such module.

        Raises:
            ModuleNotFoundError: Of another package.
        """
        del path, target
        if name.partition(".")[0] in self.allowed:
            return None
        self.refused.append(name)
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def _opened_for_writing(mode: object, flags: object) -> bool:
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def _process_state() -> dict[str, Any]:
    return {
        "starts a thread": threading.active_count(),
        "handles a signal": [str(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)],
        "draws from `random`": hash(random.getstate()),
        "changes the working folder": os.getcwd(),  # noqa: PTH109
    }


def declare(name: str, sections: dict[str, Any]) -> dict[str, Any]:
    """Import a plugin and ask for its declarations twice, with nothing but its own package to import.

    Returns:
        `load` and `declare`: the effects of each; `needs`: modules of other packages that it tried to import; `same`:
        whether both answers were equal; `error`: why it could not be asked.
    """
    before = _process_state()
    offer = discover()[name]
    make_plan(Recipe.from_mapping({k: v for k, v in sections.items() if k in ("seed", "trainer")}))
    own = OnlyOwn(offer.entry_point.module.partition(".")[0])
    sys.meta_path.insert(0, own)
    watch = Watch()
    try:
        offer.load()
        load = watch.take()
        answers = [_answers(name, sections) for _ in range(2)]
        error, same = None, answers[0] == answers[1]
    except Exception as failure:
        load, same, error = watch.take(), False, f"{type(failure).__name__}: {failure}"
    after = _process_state()
    effects = [*watch.take(), *(what for what, value in before.items() if after[what] != value)]
    return {"load": load, "declare": effects, "needs": own.refused, "same": same, "error": error}


def _answers(name: str, sections: dict[str, Any]) -> list[Any]:
    plan = make_plan(Recipe.from_mapping(sections))
    plugin = next(plugin for plugin in plan.plugins if plugin.name == name)
    checks = [i for i in plan.hook.check.get_hookimpls() if i.plugin_name == name]
    reasons: list[Any] = [i.function(*([plan] * len(i.argnames))) for i in checks]
    return [repr(plugin.config), sorted_repr(plugin.traits(plugin.config)), reasons]


def sorted_repr(traits: Any) -> dict[str, list[str]]:
    """Traits as lists: sets have no order."""
    return {field: sorted(map(repr, getattr(traits, field))) for field in traits.__dataclass_fields__}


def main(arguments: Sequence[str]) -> None:
    """Print the answer."""
    print(json.dumps(declare(arguments[0], json.loads(arguments[1]))))


if __name__ == "__main__":
    main(sys.argv[1:])
