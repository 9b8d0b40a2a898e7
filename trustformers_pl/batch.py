"""The children that a program has yielded at once: which of them are to be run, and how they end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trustformers_pl.child_run import ChildRun, check, child_run, write
from trustformers_pl.errors import PluginError, RecipeError
from trustformers_pl.launching import Job
from trustformers_pl.outcome import read_outcome
from trustformers_pl.program import OUTPUT, Outcome
from trustformers_pl.run_folder import changes

if TYPE_CHECKING:
    from trustformers_pl.declared_program import DeclaredProgram
    from trustformers_pl.journal import Journal
    from trustformers_pl.launching import Launch


class Batch:
    """Runs one batch, tells the journal, and prints a line when a child starts and when it ends."""

    def __init__(self, declared: DeclaredProgram, journal: Journal, number: int, *, force: bool) -> None:
        """Nothing is started.

        Args:
            declared: The program.
            journal: Its journal.
            number: Of the batch, from 0.
            force: Run children again whose recipes have changed.
        """
        self._declared, self._journal, self._number, self._force = declared, journal, number, force
        self._runs: dict[str, ChildRun] = {}
        self._outcomes: dict[str, Outcome] = {}

    def run(self, children: object, taken: set[str], launch: Launch, concurrent: int) -> list[Outcome]:
        """Run those that are not settled by the journal; all of them are checked before the first one starts.

        Args:
            children: What the program has yielded.
            taken: Names of the batches before; this one's are added.
            launch: How to run them.
            concurrent: How many at once.

        Returns:
            The outcomes of all children, in order.

        Raises:
            TrustformersError: One of them cannot be run; the line names it.
        """
        if not isinstance(children, list):
            raise PluginError(
                f"the program of {self._declared.plugin.name!r} yields {children!r}, not a list of children"
            )
        for child in children:
            self._accept(child, taken)
        waiting = [run for run in self._runs.values() if not self._settled(run)]
        for run in waiting:
            check(run, self._declared.section)
        launch([self._job(run) for run in waiting], concurrent, self._journal.descriptor, self)
        return [self._outcomes[name] for name in self._runs]

    def started(self, job: Job) -> None:
        """Write its recipe and note it, before its process is there."""
        write(self._runs[job.name])
        self._journal.started(job.name, self._runs[job.name].digest, self._number)
        self._say(job.name, "started")

    def ended(self, job: Job, failure: str | None, seconds: float) -> None:
        """Read the outcome and note it."""
        end = _end(self._runs[job.name], failure)
        self._journal.ended(job.name, end, seconds)
        error = f": {end['error']}" if end["error"] else ""
        self._say(job.name, f"{end['status']} after {seconds:.1f} s{error}")
        self._outcomes[job.name] = self._outcome(job.name, end)

    def _accept(self, child: object, taken: set[str]) -> None:
        run = child_run(self._declared, child)
        if run.name in taken:
            raise PluginError(f"the program of {self._declared.plugin.name!r} yields two children named {run.name!r}")
        taken.add(run.name)
        entry = self._journal.entry(run.name)
        if entry and entry.digest != run.digest and not self._force:
            found = changes(run.recipe_file.parent, run.recipe.tree, run.recipe_file.name)
            differences = "; ".join(found) or f"{run.recipe_file.name} has been written to since"
            raise RecipeError(
                f"{self._declared.plan.folder}: child {run.name} was started with another recipe ({differences}); "
                "--resume=force runs it again with this one, --resume=never starts anew and keeps the old folder"
            )
        self._runs[run.name] = run

    def _settled(self, run: ChildRun) -> bool:
        entry, end = self._journal.entry(run.name), self._journal.settled(run.name)
        if entry is None or end is None or entry.digest != run.digest:
            return False
        self._outcomes[run.name] = self._outcome(run.name, end)
        self._say(run.name, f"{end['status']} before")
        return True

    def _job(self, run: ChildRun) -> Job:
        resume = "force" if self._force else "auto"
        return Job(run.name, ("fit", str(run.recipe_file), f"--resume={resume}"), run.folder / OUTPUT)

    def _outcome(self, name: str, end: Any) -> Outcome:
        return Outcome(name, end["status"], end["metrics"], str(self._runs[name].folder), end["error"])

    def _say(self, name: str, what: str) -> None:
        print(f"{name} ({list(self._runs).index(name) + 1} of {len(self._runs)}): {what}", flush=True)


def _end(run: ChildRun, failure: str | None) -> dict[str, Any]:
    left = None if failure else read_outcome(run.folder)
    if left is None:
        return {"status": "failed", "metrics": {}, "error": failure or "its process ended well and left no outcome"}
    return {"status": "finished", "metrics": left["metrics"], "error": None}
