"""The section `tasks`."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from trustformers_pl.hookspecs import hookimpl
from trustformers_pl.parts import Part, part
from trustformers_pl.phases import DataPhase
from trustformers_pl.plugins import Plugin
from trustformers_pl.report import ReportSection, ReportTable
from trustformers_pl.traits import Trait, Traits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trustformers_pl.plan import Plan
    from trustformers_pl.run import Run

OF_THE_ORDER = ("scenario", "classes", "number", "field", "epochs", "steps")


class TasksPlugin(Plugin):
    """Continual learning: the data as one task after another, and the accuracy on each after each."""

    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"scenario": "domain", "number": 2, "steps": 4})

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The `tasks` section."""

        scenario: Literal["class", "domain", "task"] = "class"
        """`class`: each task has classes of its own, and the model must tell all of them apart. `task`: the same, but
        it is told the task: outputs of other tasks are masked in loss and evaluation. `domain`: the same classes in
        other data."""
        classes: tuple[tuple[int | str, ...], ...] | None = None
        """The classes of each task, `[[0, 1], [2, 3]]`; of domains, values of `field`."""
        number: int | None = None
        """Tasks, instead of `classes`: the sorted classes, or the data, in so many equal parts. By default one a
        class, a value of `field`, or a part of a `ConcatDataset`."""
        field: str | None = None
        """What tells the task of a sample: `labels`, if not given; domains are consecutive blocks of the data then."""
        epochs: int = 1
        """Passes over the data of a task."""
        steps: int | None = None
        """Optimizer steps of a task, instead of `epochs`."""
        boundaries: Literal["given", "detect"] = "given"
        """When features are told that a task has ended: where the data change, or where the loss rises."""
        detection: dict[str, float] = dataclasses.field(default_factory=dict)
        """Of `detect`: `threshold`, `drift`, `warm_up` and `memory` of `trustformers_pl.continual.boundaries`."""
        measure: bool = True
        """Measure the accuracy on the validation data of every task after each task."""
        batch_size: int = 256
        """Samples of a rank's batch when that is measured."""
        stop: bool = True
        """End the training with the last task."""

        def __post_init__(self) -> None:
            """Refuse what is no sequence of tasks."""
            if self.classes is not None:
                _check_classes(self.classes, self.number)
            if min(self.epochs, self.batch_size, *([self.number] if self.number is not None else ())) < 1:
                raise ValueError("number, epochs and batch_size must be at least 1")
            if self.steps is not None and (self.steps < 1 or self.epochs != 1):
                raise ValueError("steps must be at least 1, and takes the place of epochs; give one of the two")
            if self.scenario == "domain" and self.classes is not None and self.field is None:
                raise ValueError("classes of a domain are values of a field; name it in `field`")
            _check_detection(self.boundaries, self.detection, self.scenario)

    config: Config

    @classmethod
    def traits(cls, config: Config) -> Traits:
        """Other features are told of its tasks; masks need a loss that is taken apart."""
        needs = {Trait.DECOMPOSED_LOSS} if config.scenario == "task" else set()
        ends = {Trait.OWN_END} if config.stop and config.boundaries == "given" else set()
        return Traits(provides=frozenset({Trait.TASKS, *ends}), requires=frozenset(needs))

    @hookimpl
    def data(self, plan: Plan, phase: DataPhase) -> list[Part] | None:
        """The order of the samples."""
        del plan
        if phase is not DataPhase.ORDER:
            return None
        written = {key: value for key, value in self.written().items() if key in OF_THE_ORDER}
        if "classes" in written:
            written["classes"] = [list(one) for one in written["classes"]]
        return [part("trustformers_pl.continual:TaskOrder", **written)]

    @hookimpl
    def callbacks(self, plan: Plan) -> list[Part]:
        """The callback that tells of tasks, and the one that measures."""
        del plan
        c = self.config
        detect = {"detect": dict(c.detection)} if c.boundaries == "detect" else {}
        stop = {} if c.stop else {"stop": False}
        found = [part("trustformers_pl.continual:Tasks", **detect, **stop)]
        if c.measure:
            size = {} if c.batch_size == type(c).batch_size else {"batch_size": c.batch_size}
            found.append(part("trustformers_pl.continual:AccuracyMatrix", **size))
        return found

    @hookimpl
    def module_mixins(self, plan: Plan) -> list[str]:
        """What masks outputs."""
        del plan
        return ["trustformers_pl.continual:TaskHeads"] if self.config.scenario == "task" else []

    @hookimpl
    def probe(self, run: Run) -> str | None:
        """Which task the run has come to."""
        for tasks in run.callbacks("Tasks"):
            if tasks.ended or tasks.current or run.trainer.global_step:
                return f"task {tasks.current}, {tasks.ended} ended"
        return None

    @hookimpl
    def report(self, run: Run) -> list[ReportSection]:
        """The matrix of accuracies, and what follows from it."""
        return [section for found in run.callbacks("AccuracyMatrix") if found.rows for section in _sections(found)]


def _sections(found: Any) -> list[ReportSection]:
    count = len(found.rows[0])
    measured = [("before", found.untrained), *((f"after task {i}", row) for i, row in enumerate(found.rows))]
    rows = [(when, *(round(value, 3) for value in row)) for when, row in measured]
    table = ReportTable(["accuracy", *(f"task {j}" for j in range(count))], rows, heat=(0.0, 1.0))
    said = "; ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in found.metrics.items())
    return [ReportSection("Tasks", f"{said[:1].upper()}{said[1:]}.", table=table)]


def _check_classes(classes: tuple[tuple[int | str, ...], ...], number: int | None) -> None:
    if number is not None:
        raise ValueError("classes and number both say what the tasks are; give one of the two")
    for task, values in enumerate(classes):
        if not values:
            raise ValueError(f"task {task} of classes has no class; take it out")
    counts = Counter(value for values in classes for value in values)
    for value, count in counts.items():
        if count > 1:
            places = " and ".join(str(task) for task, values in enumerate(classes) if value in values)
            raise ValueError(f"class {value!r} is in task {places} of classes; give each class to one task")


def _check_detection(boundaries: str, detection: Mapping[str, float], scenario: str) -> None:
    known = ("threshold", "drift", "warm_up", "memory")
    for key in detection:
        if key not in known:
            raise ValueError(f"detection has no {key!r}; it has {', '.join(known)}")
        if not 0 < detection[key] < float("inf"):
            raise ValueError(f"detection.{key} must be a positive number, but is {detection[key]}")
    if boundaries == "given" and detection:
        raise ValueError("detection is of `boundaries: detect`")
    if boundaries == "detect" and scenario == "task":
        raise ValueError("scenario task tells the model each sample's task, and detected boundaries are not known then")
