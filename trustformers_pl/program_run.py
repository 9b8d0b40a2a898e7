"""A recipe that is a program, assembled: `fit` runs its children. The process itself needs no torch."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING, Any, NoReturn

from trustformers_pl.batch import Batch
from trustformers_pl.errors import PluginError, RefusedError
from trustformers_pl.journal import FILE, Journal
from trustformers_pl.launching import in_fresh_processes
from trustformers_pl.locking import open_locked
from trustformers_pl.outcome import record_outcome
from trustformers_pl.run import Resume, Run
from trustformers_pl.run_folder import record, set_aside

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from pathlib import Path

    from trustformers_pl.declared_program import DeclaredProgram
    from trustformers_pl.launching import Launch
    from trustformers_pl.program import Child, Outcome


class ProgramRun(Run):
    """What `assemble` gives for a program: it has a folder and can be run, and has no model of its own."""

    def __init__(self, declared: DeclaredProgram, launch: Launch = in_fresh_processes) -> None:
        """Nothing is started.

        Args:
            declared: The program.
            launch: How children are run.
        """
        self.declared = declared
        self.launch = launch

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.declared.plugin.name!r}, folder={str(self.folder)!r})"

    @property
    def folder(self) -> Path:
        """The program's folder: its journal, and its children's recipes and folders."""
        return self.declared.plan.folder

    @property
    def leads(self) -> bool:
        """Always: a program is one process."""
        return True

    def fit(self, resume: Resume = "auto", ckpt: str | Path | None = None) -> None:
        """Run the children; those that have finished before, by the journal, are not run again.

        Args:
            resume: `auto` goes on if the children's recipes are the same; `force` runs those that have changed again,
                from their checkpoints; `never` starts anew, and the earlier folder is kept under another name.
            ckpt: None: a program has no model that could begin anywhere.

        Raises:
            RecipeError: A child was started with another recipe, or cannot be read.
            RefusedError: Another process runs this program, or a child's features cannot live together.
            PluginError: The program is not one.
            TrustformersError: The program gave up on a failed child.
        """
        if ckpt is not None:
            raise RefusedError(
                f"{self.folder}: a program cannot begin at {ckpt}; give it to one of its children's runs"
            )
        if resume == "never" and self.folder.exists():
            _set_aside(self.folder)
        with Journal(self.folder) as journal:
            record(self.folder, self.declared.plan.resolved)
            program = self.declared.build()
            metrics = self._run(self._generator(program), self._concurrent(program), journal, resume)
            record_outcome(self.folder, metrics)

    def _generator(self, program: Any) -> Generator[list[Child], list[Outcome], Mapping[str, float] | None]:
        generator = program(self.declared.plan) if callable(program) else program
        if not hasattr(generator, "send"):
            raise PluginError(f"the program of {self.declared.plugin.name!r} is not a function that yields children")
        return generator  # type: ignore[no-any-return]

    def _concurrent(self, program: Any) -> int:
        concurrent = getattr(program, "concurrent", 1)
        if type(concurrent) is not int or concurrent < 1:
            raise PluginError(
                f"the program of {self.declared.plugin.name!r} has concurrent = {concurrent!r}; give 1 or more"
            )
        return concurrent

    def _run(self, program: Any, concurrent: int, journal: Journal, resume: Resume) -> dict[str, float]:
        names: set[str] = set()
        outcomes: list[Outcome] | None = None
        last: Mapping[str, float] = {}
        for number in itertools.count():
            try:
                children = program.send(outcomes)
            except StopIteration as end:
                own: Mapping[str, float] | None = end.value
                return {name: float(value) for name, value in (last if own is None else own).items()}
            batch = Batch(self.declared, journal, number, force=resume == "force")
            outcomes = batch.run(children, names, self.launch, concurrent)
            last = outcomes[-1].metrics if outcomes else last
        raise AssertionError("itertools.count() has an end")

    def __getattr__(self, name: str) -> NoReturn:
        """Parts of a training, which a program does not have."""
        if name in ("assembly", "trainer", "module", "datamodule"):
            raise RefusedError(
                f"{self.folder}: the section {self.declared.section} makes this recipe a program, which has no model "
                f"of its own; use the recipe of one of its children, {self.folder}/<child>.yaml"
            )
        raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")


def _set_aside(folder: Path) -> None:
    held = open_locked(folder / FILE)
    try:
        set_aside(folder)
    finally:
        os.close(held)
