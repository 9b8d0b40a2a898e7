"""Whatever is wrong: one line with place, cause and mend, exit code 2, no traceback, nothing lost."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

TEXT = """\
model: {class_path: trustformers_pl.models.GPT, init_args: {d_model: 16, n_layers: 1, n_heads: 2, context_length: 8}}
data: {class_path: trustformers_pl.data.ByteText, init_args: {folder: text, context_length: 8, batch_size: 2}}
trainer: {max_steps: 3, accelerator: cpu, val_check_interval: 2}
optimizer: {name: adamw}
checkpoint: {keep_last: 1}
"""


@pytest.fixture(autouse=True)
def _text() -> None:
    Path("text").mkdir()
    Path("text/a.txt").write_text("some words to learn from\n" * 40)


def damage() -> None:
    (Path("runs/recipe/checkpoints/step-00000003") / "tensors.safetensors").write_bytes(b"torn")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("optimizer:", "optimiser:", r"recipe\.yaml:4: optimiser: no such section; did you mean 'optimizer'\?"),
        ("adamw}", "adamw, lr: fast}", r"recipe\.yaml:4: optimizer\.lr = 'fast': expected a number"),
        ("adamw}", "adamw, lt: 3}", r"recipe\.yaml:4: optimizer\.lt: no such key; did you mean 'lr'\?"),
        ("adamw}", "adamw", r"recipe\.yaml:5: not YAML: .*"),
        ("optimizer:", "trainer: {}\noptimizer:", r"recipe\.yaml:4: 'trainer' stands twice .*; remove one of the two"),
        ("models.GPT", "models.gpt.Tensor", r"recipe\.yaml:1: model\.class_path: .* is not a LightningModule; subclass .*"),
        ("n_heads: 2", "n_heads: 3", r"recipe\.yaml:1: model: .*GPT raised ValueError: d_model 16 must be a multiple of .*"),
        ("n_heads: 2", "n_head: 2", r"recipe\.yaml:1: model\.init_args\.n_head: GPT takes no such argument; did you .*"),
        ("n_heads: 2", "n_heads: two", r"recipe\.yaml:1: model: .*n_heads.*int.*"),
        ("max_steps: 3", "logger: true", r"recipe\.yaml:3: trainer\.logger is filled by the sections that bring loggers; .*"),
        ("max_steps: 3", "enable_checkpointing: true", r".*trainer\.enable_checkpointing is owned by the section `checkp.*"),
        ("folder: text", "folder: nowhere", r"nowhere: no such folder; give the path of a folder of text files"),
        ("folder: text", "folder: empty", r"empty: no file matches '\*'; change the pattern or the folder"),
        ("folder: text", "folder: short", r"short: \d+ bytes of training text are fewer than \d+: .*; give more text, .*"),
        ("folder: text", "folder: latin", r"latin/b\.txt: not UTF-8 at byte 3; convert the file, or narrow `pattern` .*"),
        ("max_steps: 3", "devices: 0", r"recipe\.yaml:3: trainer: Lightning refuses this: .*"),
        ("val_check_interval: 2", "val_check_interval: 9999", r"recipe\.yaml:3: trainer: .*val_check_interval.*"),
    ],
)  # fmt: skip
def test_one_line(
    write: Callable[..., str], command: Callable[..., tuple[int, str, str]], old: str, new: str, said: str
) -> None:
    for folder, content in (("empty", None), ("short", b"x"), ("latin", b"caf\xe9 au lait")):
        Path(folder).mkdir()
        if content:
            Path(folder, "b.txt").write_bytes(content)
    assert old in TEXT
    code, out, err = command("fit", write(TEXT.replace(old, new, 1)))
    assert (code, out) == (2, "")
    assert re.fullmatch(f"error: {said}\n", err), err


def test_a_torn_checkpoint(write: Callable[..., str], command: Callable[..., tuple[int, str, str]]) -> None:
    recipe = write(TEXT)
    assert command("fit", recipe)[0] == 0
    damage()
    code, out, err = command("fit", recipe)
    assert (code, out) == (2, "")
    assert re.fullmatch(
        r"error: runs/recipe/checkpoints: no whole checkpoint \(.*expected \d+ bytes, found 4.*; start.*",
        err.replace(", or start", "; start").rstrip(),
    ), err
    assert Path("runs/recipe/checkpoints/step-00000003/state.json").exists()
    assert command("fit", recipe, "--resume=never")[0] == 0


def test_a_checkpoint_of_another_model(write: Callable[..., str], command: Callable[..., tuple[int, str, str]]) -> None:
    assert command("fit", write(TEXT))[0] == 0
    changed = write(TEXT.replace("d_model: 16", "d_model: 32"))
    code, _, err = command("fit", changed)
    assert code == 2
    assert "(model.init_args.d_model: 16 -> 32); --resume=force" in err
    code, _, err = command("fit", changed, "--resume=force")
    assert (code, err.count("\n")) == (2, 1)
    assert re.match(r"error: runs/recipe/checkpoints/step-00000003: .*embedding\.weight", err)


def test_a_run_folder_that_cannot_be_made(
    write: Callable[..., str], command: Callable[..., tuple[int, str, str]]
) -> None:
    Path("file").write_text("")
    code, _, err = command("fit", write(TEXT), "--trainer.default_root_dir=file/run")
    assert (code, err) == (2, "error: file/run: Not a directory; choose another --trainer.default_root_dir\n")
