"""`trustformers-pl import`: the recipe that it writes, and what it refuses in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from trustformers_pl.factory import assemble
from trustformers_pl.plan import make_plan
from trustformers_pl.recipe import Recipe

ARGUMENTS = {
    "output_dir": "runs/mine #1", "max_steps": 6, "per_device_train_batch_size": 4, "learning_rate": 0.1, "warmup_steps": 2,
    "save_steps": 3, "use_cpu": True, "neftune_noise_alpha": 5.0, "max_grad_norm": 0, "eval_strategy": "no", "run_name": "Öl",
}  # fmt: skip
BASE = """\
version: 1
model: {class_path: tiny.Composable}
data: {class_path: tiny.Data}
"""


@pytest.fixture
def arguments() -> Path:
    path = Path("training_args.json")
    path.write_text(json.dumps(ARGUMENTS), encoding="utf-8")
    return path


def test_the_recipe_that_it_writes(arguments: Path, command: Any) -> None:
    code, out, _ = command("import", "hf", str(arguments))
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "# Written by: trustformers-pl import hf training_args.json"
    assert "# - neftune_noise_alpha = 5.0: add the noise in your module's forward" in lines
    assert "# - run_name = Öl: a run is named by its folder" in lines
    assert "  lr: 0.1  # learning_rate" in lines
    sections = yaml.safe_load(out)
    assert sections["trainer"] == {
        "max_steps": 6, "default_root_dir": "runs/mine #1", "accelerator": "cpu", "log_every_n_steps": 500, "limit_val_batches": 0,
    }  # fmt: skip


def test_with_a_model_and_data_it_trains(arguments: Path, command: Any) -> None:
    Path("base.yaml").write_text(BASE)
    code, out, _ = command("import", "hf", str(arguments), "-o", "mine.yaml", "--extends", "base.yaml")
    assert code == 0
    assert out.splitlines()[0] == "mine.yaml: written, with 19 values; 2 not carried over"
    # tiny.Data has one batch size for both; a person would take the line out.
    text = Path("mine.yaml").read_text(encoding="utf-8")
    Path("mine.yaml").write_text("".join(line for line in text.splitlines(keepends=True) if "val_batch" not in line))
    run = assemble("mine.yaml", ["no-progress"])
    run.fit()
    assert run.trainer.global_step == 6
    assert run.folder == Path("runs/mine #1")
    assert (run.folder / "checkpoints" / "step-00000003").is_dir()


def test_alone_it_says_what_is_missing(arguments: Path, command: Any) -> None:
    assert command("import", "hf", str(arguments), "-o", "mine.yaml")[0] == 0
    code, _, err = command("explain", "mine.yaml")
    line = Path("mine.yaml").read_text(encoding="utf-8").splitlines().index("data:") + 1
    assert code == 2
    assert err == f"error: mine.yaml:{line}: data.class_path is missing; give the class as `my_package.MyClass`\n"


def test_deepspeed(command: Any) -> None:
    config = {
        "train_batch_size": 32, "train_micro_batch_size_per_gpu": 4, "fp16": {"enabled": True}, "gradient_clipping": 1.0,
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-3}}, "zero_optimization": {"stage": 2},
    }  # fmt: skip
    Path("ds_config.json").write_text(json.dumps(config))
    Path("base.yaml").write_text(BASE)
    code, out, _ = command(
        "import", "deepspeed", "ds_config.json", "--devices=2", "--extends=base.yaml", "--out=ds.yaml"
    )
    assert code == 0
    assert "fp16.hysteresis" in out
    plan = make_plan(Recipe.read("ds.yaml", [], {}))
    configs = {plugin.name: plugin.config for plugin in plan.plugins}
    assert configs["accumulate"].batches == 4
    assert configs["clip"].norm == 1.0
    assert (configs["precision"].dtype, configs["precision"].initial_scale) == ("fp16", 65536.0)
    assert configs["zero"].stage == 2
    assert plan.trainer["devices"] == 2


@pytest.mark.parametrize(
    ("content", "arguments", "complaint"),
    [
        (None, (), "training_args.json: No such file or directory; give a JSON file"),
        ("{", (), "training_args.json: is not JSON (Expecting property name"),
        ("[" * 100_000, (), "training_args.json: is not JSON ("),
        ("[1]", (), "training_args.json: expected a mapping of arguments, not list"),
        ('{"learning_rate": "x"}', (), "training_args.json: learning_rate = 'x': expected a number"),
        ("{}", ("--devices=0",), "--devices=0: expected at least 1"),
        ("{}", ("--optimizer.lr=3",), "import: --optimizer.lr=3 is not understood; change values in the recipe"),
        ("{}", ("-o", "there.yaml"), "there.yaml: is there already, and is left as it is"),
        ("{}", ("-o", "no/such/folder.yaml"), "no/such/folder.yaml: cannot be written (No such file or directory)"),
    ],
)
def test_what_it_cannot_do_is_said_in_one_line(
    content: str | None, arguments: tuple[str, ...], complaint: str, command: Any
) -> None:
    Path("there.yaml").touch()
    if content is not None:
        Path("training_args.json").write_text(content)
    code, _, err = command("import", "hf", "training_args.json", *arguments)
    assert code == 2
    assert err.startswith(f"error: {complaint}")
    assert err.count("\n") == 1


def test_help_says_what_it_is_for(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command("--help")
    assert "write a recipe from another trainer's configuration" in " ".join(capsys.readouterr().out.split())


def test_a_pickle_is_not_read(command: Any) -> None:
    Path("training_args.bin").write_bytes(b"cos\nsystem\n(S'touch read'\ntR.")
    code, _, err = command("import", "hf", "training_args.bin")
    assert (code, err.startswith("error: training_args.bin: is a pickle, which is not read")) == (2, True)
    assert not Path("read").exists()
