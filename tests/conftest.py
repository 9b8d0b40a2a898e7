"""Fixtures of the whole suite."""

from __future__ import annotations

import os
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from shown import BASE

from trustformers_pl.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

torch.set_num_threads(1)
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def _no_ranks_left_behind() -> Iterator[None]:
    from ranks import ranks_left_behind  # beside this file

    with ranks_left_behind():
        yield


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Write a recipe and return its name: the base one, or `text`, with `more` appended."""

    def write_(text: str = BASE, more: str = "", name: str = "recipe.yaml") -> str:
        (tmp_path / name).write_text(textwrap.dedent(text) + textwrap.dedent(more), encoding="utf-8")
        return name

    return write_


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Install a distribution for this test: its module's source, and its entry points by group."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def install_(package: str, source: str, version: str = "1.0", **groups: dict[str, str]) -> None:
        module = package.replace("-", "_")
        (site / f"{module}.py").write_text(textwrap.dedent(source), encoding="utf-8")
        info = site / f"{module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        lines = []
        for group, points in groups.items():
            lines.append(f"[{group.replace('__', '.')}]")
            lines += [f"{name} = {module}:{value}" for name, value in points.items()]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
        # A folder's own time is as coarse as the kernel's tick, in which a test does much.
        os.utime(site, ns=(time.time_ns(),) * 2)
        monkeypatch.delitem(sys.modules, module, raising=False)

    return install_


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run `trustformers-pl` in this process: exit code, standard output, standard error."""

    def command_(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        output = capsys.readouterr()
        return code, output.out, output.err

    return command_
