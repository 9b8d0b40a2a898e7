"""Hooks that stand for sections, add commands, report and leave evidence; and the page that lists all of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from trustformers_pl.errors import PluginError, RecipeError
from trustformers_pl.factory import assemble
from trustformers_pl.hookspecs import HookSpecs
from trustformers_pl.plan import make_plan
from trustformers_pl.recipe import Recipe

ROOT = Path(__file__).parent.parent.parent
SHORT = """
    from dataclasses import dataclass
    from trustformers_pl import Plugin, hookimpl
    class Short(Plugin):
        "A short form of three sections."
        @dataclass(frozen=True, kw_only=True)
        class Config:
            rate: float = 0.1
        @hookimpl
        def recipe(self, recipe):
            schedule = {"name": "cosine", "warmup_steps": 2}
            return {"optimizer": {"name": "adamw", "lr": self.config.rate}, "schedule": schedule, "shorter": {}}
    class Shorter(Plugin):
        "A short form of one more."
        @hookimpl
        def recipe(self, recipe):
            return {"csv": {}}
"""


def test_every_hook_has_a_docstring() -> None:
    """From which the site makes the reference of hooks."""
    hooks = {name: spec for name, spec in vars(HookSpecs).items() if not name.startswith("_")}
    assert len(hooks) >= 18
    assert all(spec.__doc__ for spec in hooks.values())


def test_a_short_form_is_expanded_under_what_is_written(install: Any, write: Any) -> None:
    install("short-pack", SHORT, trustformers_pl={"short": "Short", "shorter": "Shorter"})
    path = write("model: {class_path: tiny.Composable}\nshort: {rate: 0.5}\nschedule: {warmup_steps: 7}\n")
    plan = make_plan(Recipe.read(path, [], {}))
    assert [plugin.name for plugin in plan.plugins] == ["csv", "optimizer.adamw", "schedule.cosine", "short", "shorter"]
    by_name = {plugin.name: plugin.config for plugin in plan.plugins}
    assert (by_name["optimizer.adamw"].lr, by_name["schedule.cosine"].warmup_steps) == (0.5, 7)
    assert str(plan.resolved.section("optimizer").entries["lr"].place) == "recipe.yaml:2"
    assert str(plan.resolved.section("schedule").entries["warmup_steps"].place) == "recipe.yaml:3"


def test_what_a_short_form_says_is_checked_like_anything_else(install: Any, write: Any) -> None:
    install("short-pack", SHORT.replace('"lr"', '"lt"'), trustformers_pl={"short": "Short", "shorter": "Shorter"})
    with pytest.raises(RecipeError, match=r"^recipe\.yaml:1: optimizer\.lt: no such key; did you mean 'lr'\?$"):
        make_plan(Recipe.read(write("short: {}\n"), [], {}))


COMMAND = """
    def add_arguments(parser):
        parser.add_argument("--loud", action="store_true")
    def run(options, rest):
        print("HELLO" if options.loud else "hello", rest)
        return 3
"""


def test_a_package_adds_a_command(install: Any, command: Any, capsys: Any) -> None:
    install("greet-pack", COMMAND)
    info = Path("site/greet_pack-1.0.dist-info/entry_points.txt")
    info.write_text("[trustformers_pl.commands]\ngreet = greet_pack\n")
    assert command("greet", "--loud", "--a.b=3") == (3, "HELLO ['--a.b=3']\n", "")
    with pytest.raises(SystemExit):
        command("--help")
    assert re.search(r"greet +a command of greet-pack", capsys.readouterr().out)


def test_a_command_that_cannot_be_imported_harms_no_other(install: Any, command: Any) -> None:
    install("greet-pack", "import nowhere")
    Path("site/greet_pack-1.0.dist-info/entry_points.txt").write_text(
        "[trustformers_pl.commands]\ngreet = greet_pack\n"
    )
    assert command("plugins")[0] == 0
    code, _, err = command("greet")
    assert code == 2
    assert err == (
        "error: command 'greet' cannot be imported (greet_pack): ModuleNotFoundError: No module named 'nowhere'; "
        "repair greet-pack\n"
    )


def test_two_packages_with_one_command(install: Any) -> None:
    from trustformers_pl.cli.foreign import foreign_commands

    for name in ("first-pack", "other-pack"):
        install(name, COMMAND)
        module = name.replace("-", "_")
        Path(f"site/{module}-1.0.dist-info/entry_points.txt").write_text(
            f"[trustformers_pl.commands]\ngreet = {module}\n"
        )
    with pytest.raises(PluginError, match="command 'greet' is added by first-pack and other-pack; uninstall one"):
        foreign_commands()


MAIN_JOB = {
    "model": {
        "class_path": "trustformers_pl.models.GPT",
        "init_args": {"d_model": 16, "n_layers": 1, "context_length": 8},
    },
    "data": {"class_path": "trustformers_pl.data.ByteText", "init_args": {"folder": "text", "context_length": 8}},
    "trainer": {"max_steps": 4, "accelerator": "cpu", "val_check_interval": 2, "log_every_n_steps": 1},
    "optimizer": {"name": "adamw"},
    "schedule": {"name": "cosine"},
    "checkpoint": {},
    "csv": {},
    "metrics": {},
    "progress": {},
    "samples": {"prompts": ["some "], "max_new_tokens": 3},
    "ddp": {},
}


def test_every_feature_of_ours_leaves_evidence_and_the_run_a_report() -> None:
    Path("text").mkdir()
    Path("text/a.txt").write_text("some words to learn from\n" * 400)
    run = assemble(MAIN_JOB)
    run.fit()
    evidence = run.probe()
    assert evidence == {
        "checkpoint": "checkpoints: step-00000004",
        "csv": "columns: " + Path("runs/run/metrics.csv").read_text().splitlines()[0],
        "ddp": "1 data ranks",
        "metrics": "measured: grad_norm, lr, tokens_per_second, train_loss",
        "optimizer.adamw": "optimizer: AdamW",
        "progress": "bar: Progress",
        "samples": "2 samples",
        "schedule.cosine": "LambdaLR stepped 4 times",
    }
    report = Path("runs/run/report.md").read_text()
    assert [line for line in report.splitlines() if line.startswith("#")] == ["# run", "## Checkpoints", "## Samples"]
    assert re.search(r"^\| `val_bits_per_byte` \| \d", report, re.MULTILINE)
    assert "| step-00000004 |" in report


def test_a_feature_that_was_ignored_leaves_none() -> None:
    Path("text").mkdir()
    Path("text/a.txt").write_text("some words to learn from\n" * 400)
    run = assemble(MAIN_JOB)
    assert {name: found for name, found in run.probe().items() if found} == {"progress": "bar: Progress"}
