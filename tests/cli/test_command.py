"""The command, as a person calls it."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Write = Callable[..., str]
Command = Callable[..., tuple[int, str, str]]
TESTS = Path(__file__).parent.parent
PROGRAM = [sys.executable, "-m", "trustformers_pl.cli"]


def shell(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*PROGRAM, *arguments], capture_output=True, text=True, env=environment, check=False, **options
    )  # type: ignore[call-overload,no-any-return]


def test_help_names_every_command(command: Command) -> None:
    with pytest.raises(SystemExit) as stopped:
        command("--help")
    assert stopped.value.code == 0
    done = shell("--help")
    assert done.returncode == 0
    for name in (
        "fit",
        "validate",
        "test",
        "predict",
        "generate",
        "report",
        "export",
        "explain",
        "plugins",
        "schema",
        "new",
    ):
        assert re.search(rf"^    {name} ", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("arguments", [("--help",), ("plugins",), ("schema",), ("explain", "recipe.yaml")])
def test_looking_imports_neither_torch_nor_lightning(write: Write, arguments: tuple[str, ...]) -> None:
    write()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *PROGRAM[1:], *arguments], capture_output=True, text=True, check=True
    )
    imported = set(re.findall(r"\|\s+(\w+)$", done.stderr, re.MULTILINE))
    assert "argparse" in imported
    assert not imported & {"torch", "lightning", "numpy", "jsonargparse"}


def cpu_seconds(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("argument", ["--help", "plugins", "schema"])
def test_looking_costs_little_more_than_python_with_pluggy_and_yaml(argument: str) -> None:
    bare = min(cpu_seconds([sys.executable, "-c", "import pluggy, yaml"]) for _ in range(5))
    ours = min(cpu_seconds([*PROGRAM, argument]) for _ in range(5))
    # `plugins` and `schema` import every feature that is installed, some milliseconds each, and none of them torch.
    assert ours - bare < (0.5 if argument in ("plugins", "schema") else 0.2)


def test_plugins_shows_name_summary_package_version_and_state(write: Write, command: Command) -> None:
    code, out, _ = command("plugins", write())
    assert code == 0
    header, *rows = out.splitlines()
    assert header.split("  ")[0] == "NAME"
    by_name = {row.split()[0]: row for row in rows}
    assert re.search(r"AdamW: Adam with decoupled .* trustformers-pl +\d\S+ +on$", by_name["optimizer.adamw"])
    assert by_name["csv"].endswith("off")


def test_plugins_survives_a_broken_package(install: Callable[..., None], command: Command) -> None:
    install("broken-pack", "import nowhere", trustformers_pl={"broken": "Feature"})
    code, out, _ = command("plugins")
    assert code == 0
    assert re.search(r"^broken .*broken: ModuleNotFoundError: No module named 'nowhere'", out, re.MULTILINE)
    assert "optimizer.adamw" in out


def test_explain_shows_values_with_origin_and_features_in_order(write: Write, command: Command) -> None:
    code, out, _ = command("explain", write(more="csv: {}\n"), "--optimizer.lr=0.5")
    assert code == 0
    assert re.search(r"^trainer\.max_steps +6 +recipe\.yaml:7$", out, re.MULTILINE)
    assert re.search(r"^optimizer\.lr +0\.5 +--optimizer\.lr$", out, re.MULTILINE)
    assert re.search(r"^optimizer\.eps +1e-08 +default$", out, re.MULTILINE)
    assert re.search(r"^seed +0 +default$", out, re.MULTILINE)
    assert re.search(r"^1 +csv .*\n2 +optimizer\.adamw ", out, re.MULTILINE)


def test_explain_shows_a_training_step_phase_by_phase(write: Write, command: Command) -> None:
    recipe = write(more="schedule: {name: cosine}\ncsv: {}\nddp: {}\n")
    out = command("explain", recipe, "--clip.norm=1.0")[1]
    table = out.partition("A TRAINING STEP")[2].partition("# The same run")[0]
    moments = [tuple(re.split(r" {2,}", line.strip())) for line in table.splitlines()[1:] if line.strip()]
    assert [phase for phase, *_ in moments] == [
        "batch", "forward", "backward", "sync", "unscale", "divide", "hooks", "finite", "clip", "step", "schedule", "log",
    ]  # fmt: skip
    assert ("clip", "clip", "by norm, to 1.0") in moments
    assert (
        "step",
        "optimizer.adamw",
        "AdamW(decay_groups(module, weight_decay=0.01), lr=0.001, betas=(0.9, 0.999), eps=1e-08)",
    ) in moments


def test_explain_build_shows_the_composed_class(write: Write, command: Command) -> None:
    out = command("explain", write(), "--build")[1].partition("CLASS, IN METHOD ORDER")[2]
    rows = [re.split(r" {2,}", line.strip()) for line in out.splitlines()[1:] if line.strip()]
    assert [row[0] for row in rows] == [
        "Composable+ConfiguredOptimizers", "ConfiguredOptimizers", "Composable", "DecomposedLoss",
        "5 parameters, 0.0 MiB, in 2 tensors",
    ]  # fmt: skip
    assert rows[0][1] == "composed by the engine"
    assert re.fullmatch(r"trustformers_pl/optimization\.py:\d+|.*trustformers_pl/optimization\.py:\d+", rows[1][1])
    assert rows[1][2] == "configure_optimizers"
    assert re.fullmatch(r".*tests/tiny\.py:\d+", rows[2][1])


def test_the_python_that_explain_prints_trains_the_same_weights(write: Write, command: Command) -> None:
    recipe = write(more="schedule: {name: cosine, warmup_steps: 2}\ncheckpoint: {}\ncsv: {}\n")
    script = command("explain", recipe)[1].partition("# The same run as Python:\n")[2]
    assert command("fit", recipe)[0] == 0
    Path("runs/recipe").rename("by_recipe")
    Path("script.py").write_text(script)
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "script.py"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    name = "checkpoints/step-00000006/tensors.safetensors"
    assert Path("runs/recipe", name).read_bytes() == Path("by_recipe", name).read_bytes()


def test_fit_resumes_by_itself_and_validate_reads_the_newest(write: Write, command: Command) -> None:
    recipe = write(more="checkpoint: {every_n_steps: 2}\ncsv: {}\n")
    assert command("fit", recipe) == (0, "run folder: runs/recipe\n", "")
    assert sorted(p.name for p in Path("runs/recipe/checkpoints").iterdir()) == ["step-00000004", "step-00000006"]
    code, _, err = command("fit", recipe, "--trainer.max_steps=8")
    assert code == 2
    assert err == (
        "error: runs/recipe: its checkpoints are of another recipe (trainer.max_steps: 6 -> 8); --resume=force goes on "
        "with this one, --resume=never starts anew and keeps the old folder\n"
    )
    assert command("fit", recipe, "--trainer.max_steps=8", "--resume=force")[0] == 0
    assert Path("runs/recipe/checkpoints/step-00000008").is_dir()
    assert command("fit", recipe, "--resume=never")[0] == 0
    assert Path("runs/recipe.1/checkpoints/step-00000008").is_dir()
    assert not Path("runs/recipe/checkpoints/step-00000008").exists()
    code, out, _ = command("validate", recipe)
    assert code == 0
    assert re.fullmatch(r"val_loss  \d\.\d{4}\n", out)


def test_validate_and_generate_without_a_checkpoint_say_what_to_do(write: Write, command: Command) -> None:
    recipe = write(more="checkpoint: {}\n")
    code, _, err = command("validate", recipe)
    assert (code, err) == (2, "error: runs/recipe: no checkpoint to load; run `trustformers-pl fit` first\n")
    code, _, err = command("generate", recipe)
    assert (code, err) == (
        2,
        "error: model: Composable+ConfiguredOptimizers has no method generate(); use a generative model\n",
    )


def test_errors_are_single_lines_without_a_traceback(write: Write) -> None:
    done = shell("fit", "nowhere.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: nowhere.yaml: No such file or directory; give the path of a recipe file\n"
    done = shell("fit", write("optimiser: {}\ncsv: {fiel: x}\n"))
    assert done.returncode == 2
    assert [line[:7] for line in done.stderr.splitlines()] == ["error: ", "error: "]
    assert "Traceback" in shell("--debug", "fit", "nowhere.yaml").stderr


def test_a_value_with_a_space_is_not_taken_for_something_else(write: Write, command: Command) -> None:
    code, _, err = command("explain", write(), "--seed", "3")
    assert code == 2
    assert "3: not understood; a value is set as --section.key=value, with no space" in err


def test_lightnings_chatter_does_not_reach_the_screen(write: Write) -> None:
    done = shell("fit", write(more="checkpoint: {}\n"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "run folder: runs/recipe\n", "")


def test_the_users_own_failure_keeps_its_traceback(write: Write) -> None:
    Path("mine.py").write_text(
        "import tiny\nclass Mine(tiny.Plain):\n    def training_step(self, batch, i):\n        return 1 / 0\n"
    )
    text = Path(write()).read_text().replace("tiny.Composable", "mine.Mine")
    done = shell("fit", write(text))
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


def test_ctrl_c_ends_with_130_and_a_word(write: Write) -> None:
    Path("mine.py").write_text(
        "import os, signal, tiny\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell starts us with it ignored\n"
        "class Mine(tiny.Plain):\n    def training_step(self, batch, i):\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n        return super().training_step(batch, i)\n"
    )
    text = Path(write()).read_text().replace("tiny.Composable", "mine.Mine")
    done = shell("fit", write(text))
    assert (done.returncode, done.stderr.splitlines()[-1]) == (130, "interrupted")
