"""What a program does when it is played again, refused or nested; children are fitted in this process, one by one."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import tiny

from trustformers_pl import Trainer, assemble
from trustformers_pl.cli.main import main
from trustformers_pl.declared_program import declared_program
from trustformers_pl.errors import CheckpointError, PluginError, RecipeError, RefusedError, TrustformersError
from trustformers_pl.plan import make_plan
from trustformers_pl.program_run import ProgramRun
from trustformers_pl.recipe import Recipe

if TYPE_CHECKING:
    from trustformers_pl.launching import Job, Watcher

Write = Callable[..., str]
Install = Callable[..., None]
Command = Callable[..., tuple[int, str, str]]
FOLDER = Path("runs/recipe")
PACK = """
    from trustformers_pl import Plugin, Traits, hookimpl
    from trustformers_pl.program import Child, all_finished

    def children(plan):
        {body}

    class Feature(Plugin):
        "Many runs."
        @classmethod
        def traits(cls, config):
            return Traits(claims=frozenset({claims}))
        @hookimpl
        def program(self, plan):
            return children
"""
TWO_ROUNDS = """
        outcomes = yield [Child(name, {"seed": seed}) for name, seed in (("a", 1), ("b", 2))]
        losses = [outcome.metrics.get("val_loss", 9.0) for outcome in outcomes]
        yield [Child("c", {"optimizer": {"lr": min(losses) / 100}})]
"""


def pack(install: Install, body: str = TWO_ROUNDS, name: str = "many", claims: str = "{'program'}") -> None:
    source = PACK.format(body=body.strip(), claims=claims)
    install(f"{name}-pack", source, trustformers_pl={name: "Feature"})


class InThisProcess:
    """Fits the children here, and remembers which."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, jobs: Sequence[Job], at_once: int, held: int, watcher: Watcher) -> None:
        for job in jobs:
            self.names.append(job.name)
            watcher.started(job)
            code = main(job.arguments)
            watcher.ended(job, f"exit code {code}" if code else None, 0.0)


def fit(*overrides: str, resume: Any = "auto") -> list[str]:
    """Fit the recipe; the names of the children that were run."""
    quick = ["trainer.max_steps=4", "trainer.val_check_interval=3", "trainer.check_val_every_n_epoch=null"]
    declared = declared_program(make_plan(Recipe.read("recipe.yaml", [*quick, *overrides])))
    assert declared is not None
    launch = InThisProcess()
    ProgramRun(declared, launch).fit(resume)
    return launch.names


def journal() -> bytes:
    return (FOLDER / "journal.jsonl").read_bytes()


def ends() -> dict[str, Any]:
    read = [json.loads(line) for line in journal().splitlines()]
    return {line["child"]: line["metrics"] for line in read if line["event"] == "ended"}


@pytest.mark.parametrize("checkpoint", ["", "checkpoint: {every_n_steps: 2}\n"])
def test_from_every_moment_of_its_journal(write: Write, install: Install, checkpoint: str) -> None:
    """The journal is cut at each line and in the middle of each: what it does not know to have ended runs again."""
    pack(install)
    write(more=f"many: {{}}\n{checkpoint}")
    assert fit() == ["a", "b", "c"]
    whole, expected, outcome = journal(), ends(), (FOLDER / "outcome.json").read_bytes()
    rows = whole.splitlines(keepends=True)
    assert len(rows) == 6
    for count in range(len(rows) + 1):
        known = b"".join(rows[:count])
        for torn in {b"", rows[count][: len(rows[count]) // 2] if count < len(rows) else b""}:
            (FOLDER / "journal.jsonl").write_bytes(known + torn)
            assert fit() == ["a", "b", "c"][count // 2 :]
            assert ends() == expected
            assert (FOLDER / "outcome.json").read_bytes() == outcome
            assert journal().startswith(known)


def test_a_child_that_has_made_all_its_steps_keeps_its_metrics(write: Write, install: Install) -> None:
    """Killed after its last checkpoint, with or without the outcome written; `val_loss` is of step 3 of 4."""
    pack(install)
    write(more="many: {}\ncheckpoint: {every_n_steps: 1}\nmetrics: {}\n")
    fit("trainer.log_every_n_steps=1")
    expected = ends()
    assert expected["a"].keys() > {"val_loss", "tokens_per_second"}
    for outcome in (FOLDER / "a/outcome.json", None):
        (FOLDER / "journal.jsonl").write_bytes(journal().splitlines(keepends=True)[0])
        if outcome is None:
            (FOLDER / "a/outcome.json").unlink()
        fit("trainer.log_every_n_steps=1")
        lost = {"tokens_per_second"} if outcome is None else set()  # a time is no part of a checkpoint
        assert ends()["a"] == {k: v for k, v in expected["a"].items() if k not in lost}


def test_a_failure_that_was_built_on_is_kept_and_one_that_was_not_is_tried_again(
    write: Write, install: Install
) -> None:
    """`b` fails while there is a file `broken`."""
    source = "import os, tiny\nclass Fragile(tiny.Composable):\n    def __init__(self, fail: bool = False) -> None:\n"
    source += "        super().__init__()\n        if fail and os.path.exists('broken'): raise KeyError('broken')\n"
    install("fragile-pack", source)
    fails = '{"model": {"class_path": "fragile_pack.Fragile", "init_args": {"fail": True}}}'
    pack(install, TWO_ROUNDS.replace('("b", 2)', f'("b", 2)) if name == "a"] + [Child("b", {fails}'))
    write(more="many: {}\n")
    Path("broken").touch()
    assert fit() == ["a", "b", "c"]
    assert ends()["b"] == {}
    Path("broken").unlink()
    rows = journal().splitlines(keepends=True)
    assert fit() == []
    (FOLDER / "journal.jsonl").write_bytes(b"".join(rows[:4]))  # before `c` was started
    assert fit() == ["b", "c"]
    assert ends()["b"] != {}


def test_nan_comes_through(write: Write, install: Install) -> None:
    """One step of that size leaves weights whose squared errors overflow float32."""
    pack(install, 'yield [Child("a", {"optimizer": {"lr": 1e30}})]')
    write(more="many: {}\n")
    one_step = ["trainer.max_steps=1", "trainer.val_check_interval=1"]
    fit(*one_step)
    assert not math.isfinite(ends()["a"]["val_loss"])
    assert fit(*one_step) == []


def test_a_changed_recipe_is_refused_or_forced(write: Write, install: Install) -> None:
    pack(install)
    write(more="many: {}\ncheckpoint: {every_n_steps: 1}\n")
    fit()
    with pytest.raises(RecipeError) as caught:
        fit("model.init_args.dropout=0.5")
    assert str(caught.value) == (
        "runs/recipe: child a was started with another recipe (model.init_args.dropout: not there -> 0.5); "
        "--resume=force runs it again with this one, --resume=never starts anew and keeps the old folder"
    )
    assert fit() == []
    assert fit("trainer.max_steps=6", resume="force") == ["a", "b", "c"]
    assert json.loads((FOLDER / "a/outcome.json").read_text())["global_step"] == 6
    assert fit(resume="never") == ["a", "b", "c"]
    assert sorted(path.name for path in Path("runs").iterdir()) == ["recipe", "recipe.1"]


def test_a_program_may_grow(write: Write, install: Install) -> None:
    pack(install, 'yield [Child("a")]')
    write(more="many: {}\n")
    assert fit() == ["a"]
    shutil.rmtree("site")
    Path("site").mkdir()
    pack(install, 'yield [Child("a"), Child("b", {"seed": 2})]')
    assert fit() == ["b"]


def test_a_line_that_is_not_the_journals_is_refused(write: Write, install: Install) -> None:
    pack(install)
    write(more="many: {}\n")
    fit()
    rows = journal().splitlines(keepends=True)
    (FOLDER / "journal.jsonl").write_bytes(b"".join([rows[0], b"oh\n", *rows[2:]]))
    with pytest.raises(CheckpointError, match=r"^runs/recipe/journal.jsonl:2: not a line of a program's journal; "):
        fit()
    assert fit(resume="never") == ["a", "b", "c"]


def test_two_programs_are_refused(write: Write, install: Install, command: Command) -> None:
    pack(install)
    pack(install, name="other")
    code, _, errors = command("fit", write(more="many: {}\nother: {}\n"))
    assert code == 2
    assert errors == "error: recipe.yaml:11: other and many both claim program; remove one of the two sections\n"


def test_an_answer_without_the_claim_is_refused(write: Write, install: Install) -> None:
    pack(install, claims="()")
    with pytest.raises(PluginError, match="plugin 'many' implements the hook `program` without claiming the slot"):
        assemble(write(more="many: {}\n"))


def test_live_objects_cannot_be_handed_to_processes(install: Install) -> None:
    pack(install)
    with pytest.raises(RefusedError, match=r"Python: many makes child runs .* cannot be given objects \(model, data\)"):
        Trainer(tiny.Composable(), tiny.Data()).with_many().train()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("yield [Child('a/b')]", "the program of 'many' names a child 'a/b'; use letters, digits, - and _, and"),
        ("yield [Child('recipe')]", "the program of 'many' names a child 'recipe'; use letters"),
        ("yield [Child('a'), Child('a')]", "the program of 'many' yields two children named 'a'"),
        ("yield Child('a')", r"the program of 'many' yields Child\(.*\), not a list of children"),
        ("yield ['a']", "the program of 'many' yields 'a'; it must yield lists of"),
        ("return ['a']", "the program of 'many' is not a function that yields children"),
        ("yield []\n    children.concurrent = 0", "the program of 'many' has concurrent = 0; give 1 or more"),
        ("yield [Child('a', {'trainer': {'default_root_dir': 'x'}})]", "sets trainer.default_root_dir of child a; "),
        ("yield [Child('a', {'seed': 1j})]", "child a: Object of type complex is not JSON serializable; a child is a"),
        ("yield [Child('a'), Child('b', {'optimizer': {'lrr': 1}})]", "^child b: optimizer.lrr: no such key; did you"),
        ("yield [Child('a', {'model': None})]", "^child a: no section `model`; add"),
    ],
)
def test_bad_programs_end_in_one_line_before_a_child_starts(
    write: Write, install: Install, body: str, said: str
) -> None:
    pack(install, body)
    write(more="many: {}\n")
    with pytest.raises(TrustformersError, match=said) as caught:
        fit()
    assert "\n" not in str(caught.value)
    assert journal() == b""


def test_what_a_program_has_no_model_for_is_refused(write: Write, install: Install, command: Command) -> None:
    pack(install)
    recipe = write(more="many: {}\n")
    run = assemble(recipe)
    assert repr(run) == "ProgramRun('many', folder='runs/recipe')"
    with pytest.raises(RefusedError, match=r"runs/recipe: the section many makes this recipe a program.*<child>.yaml"):
        run.validate()
    fit()
    assert command("validate", "runs/recipe/a.yaml", "--no-checkpoint")[0] == 2  # nothing to load: it was not saved
    code, out, _ = command("explain", recipe, "--no-model")
    assert code == 0
    assert "A program, by many of many-pack 1.0: `fit` runs children of this recipe without its section many" in out
    assert command("explain", "runs/recipe/a.yaml")[0] == 0


def test_a_child_may_be_a_program(write: Write, install: Install) -> None:
    """The inner one's only child is a process of its own; what the inner one returns are its metrics."""
    pack(install, 'yield [Child("outer", {"inner": {}})]')
    inner = '[outcome] = yield [Child("a", {"trainer": {"max_steps": 3}})]\n'
    pack(install, f'{inner}        return {{"best": 2 * outcome.metrics["val_loss"]}}', name="inner")
    write(more="many: {}\n")
    assert fit() == ["outer"]
    innermost = json.loads((FOLDER / "outer/a/outcome.json").read_text())
    assert innermost["global_step"] == 3
    assert ends() == {"outer": {"best": 2 * innermost["metrics"]["val_loss"]}}


def test_the_programs_own_process_imports_no_torch(write: Write, install: Install) -> None:
    pack(install, 'yield [Child("a", {"nothing": 1})]')
    write(more="many: {}\n")
    code = "import sys; from trustformers_pl.cli import main; print(main(['fit', 'recipe.yaml']))\n"
    code += "print([name for name in ('torch', 'lightning', 'numpy') if name in sys.modules])"
    path = {"PYTHONPATH": ":".join(entry for entry in sys.path if entry)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=path, check=False)
    assert done.stdout == "2\n[]\n"
    assert done.stderr.startswith("error: child a: nothing: no such section")
