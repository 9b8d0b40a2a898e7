"""What a person may get wrong in a continual-learning recipe: one line, exit code 2, and no step is taken."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from continual_job import TEN, recipe

if TYPE_CHECKING:
    from collections.abc import Callable

NAMED = {
    "data": {"class_path": "continual_job.NamedDigits", "init_args": {"every": 8}},
    "model": {"class_path": "continual_job.Weighable"},
}
WITHOUT: dict[str, Any] = {"tasks": None}
DROPS = {"class_path": "continual_job.Digits", "init_args": {"every": 8, "batch_size": 40, "drop_last": True}}
MUCH = 10**13


def tasks(**section: Any) -> dict[str, Any]:
    return {"tasks": section}


CASES: dict[str, tuple[dict[str, Any], str]] = {
    "a task without samples": (tasks(classes=[*TEN, [42]]), r"task 5 \(labels \[42\]\) has no sample; take it out"),
    "a class in no task": (tasks(classes=TEN[:4]), r"class [89] \(sample \d+\) is in no task; add it to one"),
    "a class in two": (tasks(classes=[*TEN, [0, 10]]), "class 0 is in task 0 and 5 of classes; give each class to one"),
    "a task without classes": (tasks(classes=[*TEN, []]), "task 5 of classes has no class; take it out"),
    "more tasks than classes": (tasks(number=12), "12 tasks need as many values of 'labels', and there are 10"),
    "more domains than samples": (tasks(scenario="domain", number=5000), "task 1 has no sample; take it out"),
    "less than a batch": ({**tasks(classes=[[0, 1, 2, 3, 4, 5, 6, 7, 8], [9]]), "data": DROPS}, "task 1 has fewer samples than a batch"),
    "no such field": (tasks(number=2, field="colour"), "a sample has no 'colour': .*; name another `field`"),
    "no steps": (tasks(number=2, steps=0), "steps must be at least 1"),
    "a threshold below zero": (tasks(number=2, boundaries="detect", detection={"threshold": -1.0}), "detection.threshold must be a positive number"),
    "a key of detection": (tasks(number=2, boundaries="detect", detection={"treshold": 1.0}), "detection has no 'treshold'; it has threshold"),
    "ewc without tasks": ({**WITHOUT, "ewc": {}}, "ewc needs tasks, which nothing in this run provides; add a section"),
    "lwf without tasks": ({**WITHOUT, "lwf": {}}, "lwf needs tasks, which nothing in this run provides; add a section"),
    "herding without tasks": ({**WITHOUT, "replay": {"keep": "herding"}}, "replay needs tasks, which nothing in this run"),
    "a negative strength": ({"ewc": {"strength": -1.0}}, "strength must be a number that is not negative, but is -1.0"),
    "a strength that is none": ({"si": {"strength": float("nan")}}, "strength must be a number that is not negative"),
    "gamma alone": ({"ewc": {"gamma": 0.5}}, "gamma is of online EWC; add `online: true`"),
    "no samples": ({"mas": {"samples": 0}}, "samples and batch_size must be at least 1"),
    "no damping": ({"si": {"damping": 0.0}}, "damping must be positive"),
    "an unknown Fisher": ({"ewc": {"fisher": "exact"}}, "ewc.fisher = 'exact': expected one of empirical, true, expected"),
    "no temperature": ({"lwf": {"temperature": 0.0}}, "temperature a positive one"),
    "an alpha that is none": ({"lwf": {"alpha": float("nan")}}, "alpha must be a number that is not negative"),
    "heads of domains": ({**tasks(scenario="domain", number=2), "lwf": {"heads": "each"}}, "lwf.heads=each: with tasks.scenario=domain all tasks share their outputs; remove heads"),
    "a cache and replay": ({"lwf": {"cache": True}, "replay": {}}, "lwf.cache has no answers to samples of replay"),
    "two memories": ({**NAMED, "replay": {}, "der": {}}, "replay and der both claim trustformers-pl:memory"),
    "no memory": ({"replay": {"capacity": 0}}, "capacity and bytes must be at least 1"),
    "less than a sample": ({"replay": {"bytes": 10}}, "a sample takes 264 bytes and the budget is 10; raise it"),
    "bytes beyond the disk": ({"replay": {"bytes": MUCH * 100, "where": "disk"}}, "replay: bytes: .* has .* left; choose another folder"),
    "samples beyond the disk": ({"replay": {"capacity": MUCH, "where": "disk"}}, "samples of 264 bytes take 2640000000000000 bytes, and .* left; choose another folder"),
    "bytes beyond memory": ({"replay": {"bytes": MUCH * 100}}, "bytes of memory are left; use where: disk"),
    "samples beyond memory": ({**NAMED, "der": {"capacity": MUCH}}, "der: .* bytes of memory are left; use where: disk"),
    "a folder that cannot be": ({"replay": {"where": "disk", "folder": "/dev/null/kept"}}, "folder: .*Not a directory; choose another one"),
    "a folder for nothing": ({"replay": {"folder": "kept"}}, "folder is for samples on disk; add where: disk"),
    "der without weights": ({"der": {}}, r"der needs sample-weights, which Network does not provide; let the module's"),
    "a negative beta": ({**NAMED, "der": {"beta": -1.0}}, "alpha and beta must be numbers that are not negative"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_it_is_said_in_one_line_before_the_first_step(
    name: str, command: Callable[..., tuple[int, str, str]], write: Callable[..., str]
) -> None:
    sections, says = CASES[name]
    made = recipe({"classes": TEN, "scenario": "class", "steps": 2}) | sections
    made = {key: value for key, value in made.items() if value is not None}
    code, _, errors = command("fit", write(yaml.safe_dump({"version": 1, **made})))
    lines = [line for line in errors.splitlines() if line.startswith("error")]
    assert code == 2
    assert len(lines) == 1
    assert re.search(says, lines[0]), lines[0]
    assert errors.rstrip().endswith(lines[0])  # nothing more, as a traceback would be
    assert not list(Path().rglob("metrics.csv"))


def test_text_is_refused_where_labels_of_samples_are_needed(
    command: Callable[..., tuple[int, str, str]], write: Callable[..., str]
) -> None:
    """Before the first step, by a look at one sample: what a task's end asks for must not be missing after hours."""
    text: dict[str, Any] = {
        "version": 1,
        "model": {"class_path": "trustformers_pl.models.GPT", "init_args": {"d_model": 8, "n_layers": 1, "n_heads": 2, "context_length": 8}},
        "data": {"class_path": "trustformers_pl.data.ByteText", "init_args": {"context_length": 8, "batch_size": 4}},
        "tasks": {"scenario": "domain", "number": 2, "steps": 2, "measure": False},
        "optimizer": {"name": "adamw", "lr": 0.001},
        "trainer": {"accelerator": "cpu", "devices": 1, "max_epochs": 9},
        "csv": {},
    }  # fmt: skip
    for section, says in (
        ({"replay": {"keep": "balanced"}}, "to balance classes each sample needs one"),
        ({"ewc": {"fisher": "expected"}}, r"ewc.fisher: expected is for logits \(B, C\), and these are \(1, 8, 256\); use"),
    ):  # fmt: skip
        code, _, errors = command("fit", write(yaml.safe_dump(text | section)))
        assert code == 2
        (line,) = [line for line in errors.splitlines() if line.startswith("error")]
        assert re.search(says, line), line
        assert not list(Path().rglob("metrics.csv"))
