"""Commands of two packages side by side, of one name, and of a name of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

SOURCE = """
    def add_arguments(parser): ...
    def run(options, rest):
        print(__name__)
        return 0
"""


@pytest.fixture
def commands(install: Any) -> Any:
    def commands_(**of_packages: str) -> None:
        for package, name in of_packages.items():
            install(f"{package}-pack", SOURCE)
            points = f"[trustformers_pl.commands]\n{name} = {package}_pack\n"
            Path(f"site/{package}_pack-1.0.dist-info/entry_points.txt").write_text(points)

    return commands_


def test_both_are_there(commands: Any, command: Any) -> None:
    commands(aaa="greet", zzz="leave")
    assert command("greet") == (0, "aaa_pack\n", "")
    assert command("leave") == (0, "zzz_pack\n", "")


def test_one_name_twice_is_refused_with_both_packages(commands: Any, command: Any) -> None:
    commands(aaa="greet", zzz="greet")
    said = "error: command 'greet' is added by aaa-pack and zzz-pack; uninstall one of the two\n"
    assert command("greet") == (2, "", said)


def test_a_name_of_ours_is_refused(commands: Any, command: Any) -> None:
    commands(aaa="plugins", zzz="leave")
    said = "error: command 'plugins' is our own, and aaa-pack adds one too; uninstall aaa-pack\n"
    assert command("plugins") == (2, "", said)
