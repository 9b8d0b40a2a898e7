"""Reading recipes: layers, places and every kind of bad input."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from trustformers_pl.errors import RecipeError
from trustformers_pl.plan import make_plan
from trustformers_pl.recipe import Recipe
from trustformers_pl.recipe.places import flatten, plain

if TYPE_CHECKING:
    from pathlib import Path

Write = Callable[..., str]


def read(path: str, *overrides: str, **environment: str) -> Recipe:
    return Recipe.read(path, overrides, environment)


def values(recipe: Recipe) -> dict[str, object]:
    return {key: leaf.value for key, leaf in flatten(recipe.tree).items()}


def places(recipe: Recipe) -> dict[str, str]:
    return {key: str(leaf.place) for key, leaf in flatten(recipe.tree).items()}


def refused(path: str, *overrides: str, **environment: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        make_plan(read(path, *overrides, **environment))
    return str(caught.value).splitlines()


def test_every_value_knows_its_line(write: Write) -> None:
    found = places(read(write("seed: 1\n\ntrainer:\n  max_steps: 3\n  devices: [0, 1]\n")))
    assert found == {"seed": "recipe.yaml:1", "trainer.max_steps": "recipe.yaml:4", "trainer.devices": "recipe.yaml:5"}


def test_numbers_are_read_as_yaml_1_2_reads_them(write: Write) -> None:
    text = "a: 2e-3\nb: 1.0e+3\nc: yes\nd: true\ne: 3\nf: '3'\ng: .inf\nh: 2026-11-22\ni: null\nj: off\n"
    text += "k: 1:30\nl: 012\nm: 0o17\nn: 0x1F\no: 0b1\np: -1_000\n"
    found = values(read(write(text)))
    expected = {"a": 2e-3, "b": 1000.0, "c": "yes", "d": True, "e": 3, "f": "3", "g": float("inf"), "h": "2026-11-22"}
    expected |= {"k": "1:30", "l": 12, "m": 15, "n": 31, "o": "0b1", "p": -1000}
    assert found == {**expected, "j": "off"}  # YAML 1.2, core schema; a null section is taken out


def test_later_layers_win_and_say_where_they_are_from(write: Write) -> None:
    write("seed: 1\ntrainer: {max_steps: 3, devices: 1}\n", name="base.yaml")
    path = write("extends: base.yaml\ntrainer:\n  max_steps: 4\n")
    recipe = read(path, "--trainer.max_steps=6", TFPL_TRAINER__DEVICES="2", TFPL_SEED="9")
    assert values(recipe) == {"seed": 9, "trainer.max_steps": 6, "trainer.devices": 2}
    assert places(recipe) == {
        "seed": "$TFPL_SEED",
        "trainer.max_steps": "--trainer.max_steps",
        "trainer.devices": "$TFPL_TRAINER__DEVICES",
    }


def test_extends_is_relative_to_its_file_takes_lists_and_refuses_circles(write: Write, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    write("seed: 1\n", name="one.yaml")
    write("seed: 2\nextends: ../one.yaml\n", name="deep/two.yaml")
    assert values(read(write("extends: [one.yaml, deep/two.yaml]\n"))) == {"seed": 2}
    write("extends: recipe.yaml\n", name="loop.yaml")
    with pytest.raises(RecipeError, match=r"extends itself through recipe\.yaml -> loop\.yaml -> recipe\.yaml"):
        read(write("extends: loop.yaml\n"))
    with pytest.raises(RecipeError, match=r"recipe\.yaml:1: extends: expected a path or a list of paths"):
        read(write("extends: 3\n"))


def test_null_takes_a_section_out_and_the_environment_never_switches_one_on(write: Write) -> None:
    path = write("csv: {}\nmetrics: {}\n")
    recipe = read(path, "--no-csv", TFPL_PROGRESS__PLAIN_EVERY_SECONDS="3", TFPL_METRICS__LEARNING_RATE="false")
    assert plain(recipe.tree) == {"metrics": {"learning_rate": False}}
    taken_out = write("csv: null\n")
    assert plain(read(taken_out, TFPL_CSV__FILE="x.csv").tree) == {}
    assert plain(read(taken_out, "--csv={file: y.csv}").tree) == {"csv": {"file": "y.csv"}}


def test_another_class_does_not_inherit_the_arguments_of_the_first(write: Write) -> None:
    write("model: {class_path: a.B, init_args: {x: 1}}\n", name="base.yaml")
    changed = read(write("extends: base.yaml\nmodel: {class_path: a.C}\n"))
    assert plain(changed.tree) == {"model": {"class_path": "a.C"}}
    same = read(write("extends: base.yaml\nmodel: {class_path: a.B, init_args: {y: 2}}\n"))
    assert plain(same.tree)["model"]["init_args"] == {"x": 1, "y": 2}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed: [1\n", r"recipe.yaml:2: not YAML: .*; check brackets"),
        ("a: 1\nb: 2\na: 3\n", r"recipe.yaml:3: 'a' stands twice \(first at recipe.yaml:1\)"),
        ("trainer: {callbacks: [{a: 1, a: 2}]}\n", r"recipe.yaml:1: 'a' stands twice"),
        ("- 1\n", "recipe.yaml:1: a recipe is a mapping of sections .*, not a list"),
        ("3\n", "recipe.yaml:1: a recipe is a mapping of sections .*, not a single value"),
        ("? [a]\n: 1\n", "recipe.yaml:1: a key is a word, not a list"),
        ("a: &x {b: 1}\nc: {<<: *x}\n", "recipe.yaml:2: YAML merge keys .* use `extends"),
        ("version: 2\n", "recipe.yaml:1: version is 2; this package reads version 1"),
        ("a: !!python/object:os.system {}\n", "recipe.yaml:1: the tag .* is not read"),
        ("a: !!python/name:os.system x\n", "recipe.yaml:1: the tag .* is not read"),
        ("a: &x [*x]\n", "recipe.yaml:1: a value that contains itself; write it without an alias"),
        ("a: &x\n  b: *x\n", "recipe.yaml:1: a value that contains itself"),
        ("a: !!timestamp x\n", "recipe.yaml:1: the tag 'tag:yaml.org,2002:timestamp' is not read"),
        ("a: !!null x\n", "recipe.yaml:1: the tag 'tag:yaml.org,2002:null' is not read"),
        ("a: !!int '3'\n", "recipe.yaml:1: the tag 'tag:yaml.org,2002:int' is not read"),
        ("a: !mine x\n", "recipe.yaml:1: the tag '!mine' is not read"),
        ("a: 1e400\n", r"recipe.yaml:1: 1e400 is larger than a number can be \(1.8e308\); write .inf for infinity"),
        ("a: " + "1" * 5000, "recipe.yaml:1: Exceeds the limit"),
        ("a: 0x" + "f" * 5000, "recipe.yaml:1: Exceeds the limit"),
        (
            "a: " + "[" * 3000 + "]" * 3000,
            "recipe.yaml: brackets or indentation too deep to be meant; write it flatter",
        ),
        ("a: 1\n---\nb: 2\n", "recipe.yaml:2: not YAML: but found another document"),
        ("a: *nowhere\n", "recipe.yaml:1: not YAML: found undefined alias"),
    ],
)
def test_files_that_cannot_be_read(write: Write, text: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        read(write(text))


def test_aliases_that_explode_are_refused_at_once(write: Write) -> None:
    """Nine times nine times … ten levels deep ("billion laughs"): 9**7 > 1,000,000 on the eighth line."""
    levels = "".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]\n" for n in range(1, 11))
    with pytest.raises(RecipeError, match=r"recipe\.yaml:8: its aliases make more than 1,000,000 values"):
        read(write(f"l0: &l0 1\n{levels}"))
    assert values(read(write("a: &x {b: [1]}\nc: *x\n"))) == {"a.b": [1], "c.b": [1]}  # plain aliases are read


def test_nothing_is_silently_ignored(write: Write) -> None:
    path = write("seed: 1\noptimizer: {name: adamw}\ncsv: {}\n")
    unknown = "no such section; did you mean 'csv'?"
    assert refused(path, "--no-cvs") == [f"--no-cvs: cvs: {unknown}"]
    assert refused(write("cvs: null\n", name="b.yaml")) == [f"b.yaml:1: cvs: {unknown}"]
    assert refused(path, TFPL_SEED__X="3") == [
        "$TFPL_SEED__X: seed = {'x': 3}: expected an integer from 0 to 2**32 - 1"
    ]
    assert refused(path, TFPL_CSV="x")[0].startswith("$TFPL_CSV: csv is a section with keys, not 'x'")
    assert refused(path, TFPL_CSV__="x")[0].startswith("$TFPL_CSV__: csv.: no such key")
    assert plain(read(path, TFPL_CSV="{file: x.csv}").tree)["csv"] == {"file": "x.csv"}
    with pytest.raises(RecipeError, match="--no-: not understood"):
        read(path, "--no-")
    assert "csv" not in plain(make_plan(read(path, "--no-csv", "--no-progress")).recipe.tree)


def test_names_are_shown_on_one_line(write: Write) -> None:
    assert refused(write('"a\\nb\\e[31m": {}\n'))[0].startswith(r"recipe.yaml:1: a\nb\x1b[31m: no such section")
    assert refused(write("seed: 1\n"), "--a\nb=1")[0].startswith(r"--a\nb: a\nb: no such section")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model: {class_path: a..B}", "model.class_path = 'a..B': expected `my_package.MyClass`"),
        (
            'model: {class_path: "a.B\\nimport os"}',
            r"model.class_path = 'a.B\nimport os': expected `my_package.MyClass`",
        ),
        ("model: {class_path: a.B, init_args: {x y: 1}}", "model.init_args.x y: expected the name of an argument"),
        ("optimizer: {name: adamw, lr: 1" + "0" * 400 + "}", "expected a number of at most 1.8e308"),
    ],
)
def test_values_that_cannot_be_meant(write: Write, text: str, said: str) -> None:
    (line,) = refused(write(text + "\n"))
    assert said in line


def test_paths_that_lead_nowhere(write: Write) -> None:
    with pytest.raises(RecipeError, match=r"a\\x00b\.yaml: embedded null byte; give the path of a recipe file"):
        read("a\0b.yaml")
    for parent, shown in (("nowhere.yaml", "nowhere.yaml"), ("'a b.c'", "a b.c"), ('"a\\0b"', r"a\x00b"), (".", ".")):
        with pytest.raises(RecipeError) as caught:
            read(write(f"seed: 1\nextends: {parent}\n"))
        said = f"recipe.yaml:2: extends: {shown}: no such file; paths are relative to recipe.yaml"
        assert str(caught.value) == said


def test_missing_unreadable_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"nowhere\.yaml: No such file or directory"):
        read("nowhere.yaml")
    with pytest.raises(RecipeError, match="Is a directory"):
        read(str(tmp_path))
    (tmp_path / "latin.yaml").write_bytes(b"seed: 1 # caf\xe9\n")
    with pytest.raises(RecipeError, match=r"latin\.yaml: not UTF-8 \(byte 13\)"):
        read("latin.yaml")


def test_bad_overrides(write: Write) -> None:
    path = write("seed: 1\n")
    with pytest.raises(RecipeError, match=r"--seed: not understood; write --section\.key=value"):
        read(path, "--seed")
    with pytest.raises(RecipeError, match=r"--seed: '\[1' is not a YAML value; quote it"):
        read(path, "--seed=[1")


def test_all_problems_are_told_at_once_each_with_its_place(write: Write) -> None:
    text = """\
    seed: fast
    optimiser: {name: adamw}
    optimizer: {name: adamww}
    schedule: {warmup_steps: 3}
    checkpoint: {every_n_step: 5, keep_last: true}
    csv: 3
    trainer: {max_step: 3, devices: 1.5, logger: true, enable_progress_bar: true}
    model: {class_path: GPT, arguments: {}}
    data: my.Data
    samples: {max_new_tokens: 3}
    """
    assert refused(write(text)) == [
        "recipe.yaml:1: seed = 'fast': expected an integer from 0 to 2**32 - 1",
        "recipe.yaml:2: optimiser: no such section; did you mean 'optimizer'?",
        "recipe.yaml:3: optimizer.name = 'adamww': no such optimizer; did you mean 'adamw'?",
        "recipe.yaml:4: schedule.name is missing; choose one: constant, cosine, exponential, linear, polynomial, step, wsd",
        "recipe.yaml:5: checkpoint.every_n_step: no such key; did you mean 'every_n_steps'?",
        "recipe.yaml:5: checkpoint.keep_last = True: expected an integer",
        "recipe.yaml:6: csv is a section with keys, not 3; write `csv: {}` for defaults",
        "recipe.yaml:7: trainer.max_step: no such key; did you mean 'max_steps'?",
        "recipe.yaml:7: trainer.devices = 1.5: expected a list of integers or a string or an integer",
        "recipe.yaml:7: trainer.logger is filled by the sections that bring loggers; remove this line and add such a "
        "section (`trustformers-pl plugins` lists them)",
        "recipe.yaml:7: trainer.enable_progress_bar is owned by the section `progress`; remove this line, and write or "
        "remove that section instead",
        "recipe.yaml:8: model.arguments: no such key; known: class_path, init_args",
        "recipe.yaml:8: model.class_path = 'GPT': expected `my_package.MyClass`",
        "recipe.yaml:9: data is a section; write `data: {class_path: my_package.MyClass, init_args: {}}`",
        "recipe.yaml:10: samples.prompts is missing; give a list of strings",
    ]


def test_problems_of_flags_and_variables_name_them(write: Write) -> None:
    path = write("optimizer: {name: adamw}\n")
    assert refused(path, "--optimizer.lr=fast", TFPL_OPTIMISER__LR="3") == [
        "$TFPL_OPTIMISER__LR: optimiser: no such section; did you mean 'optimizer'?",
        "--optimizer.lr: optimizer.lr = 'fast': expected a number",
    ]


def test_values_that_fit_their_type_but_mean_nothing(write: Write) -> None:
    path = write("optimizer: {name: adamw, betas: [0.9, 1.5]}\nschedule: {name: cosine, min_ratio: 2}\n")
    assert refused(path) == [
        "recipe.yaml:1: optimizer: betas must be in [0, 1), not (0.9, 1.5)",
        "recipe.yaml:2: schedule: min_ratio must be in [0, 1], but is 2.0",
    ]
