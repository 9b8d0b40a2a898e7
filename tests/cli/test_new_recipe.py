"""`new recipe`: what it writes trains as written, is what the schema takes, and each section can be switched on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator
from shown import ROOT

from trustformers_pl.cli.new_recipe import MAIN_JOB, new_recipe
from trustformers_pl.plan import make_plan
from trustformers_pl.plugins import discover
from trustformers_pl.recipe import Recipe
from trustformers_pl.recipe.marked_yaml import read_file
from trustformers_pl.recipe.places import plain
from trustformers_pl.recipe.schema import recipe_schema

Command = Callable[..., tuple[int, str, str]]
SMALL = ["--model.init_args.d_model=16", "--model.init_args.n_layers=1", "--trainer.max_steps=4"]
SMALL += ["--trainer.val_check_interval=4", "--trainer.limit_val_batches=2", "--samples.max_new_tokens=4"]


def sections(text: str) -> dict[str, object]:
    Path("read.yaml").write_text(text, encoding="utf-8")
    return plain(read_file(Path("read.yaml")))


SLOTS = ("optimizer", "schedule")


def blocks(text: str) -> dict[str, str]:
    """Name, as of its entry point -> the sections that are commented out, without the first `# ` of each line."""
    taken_out = [block for block in text.split("\n\n") if block.startswith("# # ")]
    bare = ["\n".join(line[2:] for line in block.splitlines()) for block in taken_out]
    return {
        f"{section}.{values['name']}" if section in SLOTS else section: block
        for block in bare
        for section, values in yaml.safe_load(block).items()
    }


def test_it_is_the_main_job_and_trains_as_written(command: Command) -> None:
    code, out, err = command("new", "recipe", "mine.yaml")
    assert (code, out, err) == (0, "mine.yaml: written. Next: trustformers-pl fit mine.yaml\n", "")
    main_job = plain(read_file(ROOT / "examples" / "lm" / "lm.yaml"))
    assert plain(make_plan(Recipe.read("mine.yaml", (), {})).resolved) == plain(
        make_plan(Recipe.from_mapping(main_job)).resolved
    )
    (Path("text")).mkdir()
    Path("text/a.txt").write_text("to be or not to be\n" * 4000)
    code, _, err = command("fit", "mine.yaml", *SMALL, "--data.init_args.folder=text")
    assert (code, err) == (0, "")


def test_the_template_is_the_example() -> None:
    assert MAIN_JOB.read_bytes() == (ROOT / "examples" / "lm" / "lm.yaml").read_bytes()


def test_every_installed_section_is_in_it_and_the_schema_takes_it() -> None:
    text = new_recipe("mine.yaml")
    validator = Draft202012Validator(recipe_schema())
    assert not list(validator.iter_errors(sections(text)))
    names = {f"{section}: {name}" for section, name in ((n.partition(".")[0], n.partition(".")[2]) for n in discover())}
    active = {f"{s}: {v['name'] if s in SLOTS else ''}" for s, v in yaml.safe_load(text).items() if isinstance(v, dict)}
    others = {f"{name.partition('.')[0]}: {name.partition('.')[2]}" for name in blocks(text)}
    assert names <= active | others
    assert max(map(len, text.splitlines())) <= 120


TYPES = """
import dataclasses, pathlib
from trustformers_pl import Plugin

@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    depth: int = 1
    \"\"\"How deep.\"\"\"

class TypedPlugin(Plugin):
    \"\"\"Has fields of many kinds.\"\"\"

    example = {"pair": [3, 4.0], "inner": {"depth": 5}, "needed": ["1e-3", "yes"]}

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Config:
        needed: list[str]
        inner: Inner = Inner()
        where: pathlib.Path = pathlib.Path("here")
        pair: tuple[int, float] = (1, 2.0)
        endless: float = float("inf")

class BarePlugin(Plugin):
    \"\"\"Has nothing to set.\"\"\"

class NeedyPlugin(Plugin):
    \"\"\"Has no example, and needs a value.\"\"\"

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Config:
        needed: list[str]
"""


def test_each_section_that_is_commented_out_can_be_uncommented(install: Callable[..., None]) -> None:
    points = {"typed": "TypedPlugin", "bare": "BarePlugin", "needy": "NeedyPlugin"}
    install("typed-pack", TYPES, trustformers_pl=points)
    install("broken-pack", "import nowhere", trustformers_pl={"broken": "Feature"})
    text = new_recipe("mine.yaml")
    validator = Draft202012Validator(recipe_schema())
    for name, block in blocks(text).items():
        alone = sections(block)
        Path("one.yaml").write_text(block)
        assert set(alone) == {name.partition(".")[0]}
        assert validator.is_valid(alone) == (name != "needy")
        if name != "needy":
            make_plan(Recipe.read("one.yaml", (), {}))
    found = sections(blocks(text)["typed"])["typed"]
    assert found == {"needed": ["1e-3", "yes"], "inner": {"depth": 5}, "pair": [3, 4.0]}  # source: the example above
    assert "#   # endless: .inf\n" in text
    assert "#   # needed: ... (required: a list of strings)\n" in text
    assert "# broken: broken: plugin 'broken' of broken-pack 1.0 cannot be imported" in text
    assert sections(blocks(text)["bare"]) == {"bare": {}}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["there.yaml"], "there.yaml: is there already, and is left as it is; give the path of a new file"),
        (["no/new.yaml"], "no/new.yaml: cannot be written (No such file or directory); give another path"),
        (
            ["new.yaml", "--seed=3"],
            "new recipe: --seed=3 is not understood; it takes a PATH alone, change values in the file",
        ),
    ],
)
def test_refusals_are_one_line_and_nothing_is_overwritten(command: Command, arguments: list[str], said: str) -> None:
    Path("there.yaml").write_text("mine\n")
    assert command("new", "recipe", *arguments) == (2, "", f"error: {said}\n")
    assert [path.name for path in Path().iterdir() if path.suffix] == ["there.yaml"]
    assert Path("there.yaml").read_text() == "mine\n"
