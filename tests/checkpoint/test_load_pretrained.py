"""Weights into a module by name, and the section `pretrained`."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import lightning as L
import pytest
import tiny
import torch
from safetensors.torch import save_file
from torch import nn

from trustformers_pl.checkpoint import Pretrained, load, load_weights
from trustformers_pl.errors import CheckpointError
from trustformers_pl.factory import assemble
from trustformers_pl.module_phases import ModulePhases, PhasedModule

Write = Callable[..., str]
Command = Callable[..., tuple[int, str, str]]
MORE = "checkpoint: {every_n_steps: 2}\n"


def linear(inputs: int = 4, outputs: int = 1) -> nn.Module:
    torch.manual_seed(7)
    return nn.ModuleDict({"layer": nn.Linear(inputs, outputs)})


@pytest.mark.parametrize("kind", ["run", "step", "ckpt", "safetensors", "folder", "pt"])
def test_every_kind_of_file(write: Write, kind: str) -> None:
    """Expected weights: the trained module's own."""
    run = assemble(write(more=MORE))
    run.fit()
    trained = run.module.state_dict()
    Path("hf").mkdir()
    save_file({"layer.weight": trained["layer.weight"]}, "hf/model-00001-of-00002.safetensors")
    save_file({"layer.bias": trained["layer.bias"]}, "hf/model-00002-of-00002.safetensors")
    save_file(dict(trained), "a.safetensors")
    torch.save(trained, "a.pt")
    run.save_checkpoint("a.ckpt")
    paths = {"run": "runs/recipe", "step": "runs/recipe/checkpoints/step-00000006", "ckpt": "a.ckpt"}
    paths |= {"safetensors": "a.safetensors", "folder": "hf", "pt": "a.pt"}
    module = linear()
    match = load_weights(module, paths[kind])
    assert match.complete
    assert match.matched == {"layer.weight": 4, "layer.bias": 1}
    assert torch.equal(module["layer"].weight, trained["layer.weight"])
    assert torch.equal(module["layer"].bias, trained["layer.bias"])


def test_names_shapes_and_types() -> None:
    """A half-precision file of another model, whose names begin otherwise and whose head has another shape."""
    body = torch.arange(4.0).reshape(1, 4)
    tensors = {"net.body.weight": body.half(), "net.head.weight": torch.ones(3, 9), "net.old": torch.ones(5)}
    save_file({**tensors, "opt.layer.weight": torch.zeros(1, 4)}, "w.safetensors")
    module = linear()
    module["head"] = nn.Linear(9, 2, bias=False)
    parameter, bias = module["layer"].weight, module["layer"].bias.clone()
    match = load_weights(module, "w.safetensors", strict=False, prefix="net.", rename={"body.": "layer."})
    assert module["layer"].weight is parameter
    assert torch.equal(parameter, body)
    assert parameter.dtype == torch.float32
    assert torch.equal(module["layer"].bias, bias)
    assert (match.matched, match.missing) == ({"layer.weight": 4}, {"layer.bias": 1})
    assert (match.reshaped, match.unused) == ({"head.weight": ((3, 9), (2, 9))}, {"old": 5})
    with pytest.raises(
        CheckpointError,
        match=re.escape(
            "w.safetensors: it lacks layer.bias; head.weight is (3, 9) there and (2, 9) here; the module has no old; "
            "strict: false loads what fits"
        ),
    ):
        load_weights(module, "w.safetensors", prefix="net.", rename={"body.": "layer."})


def test_tied_weights_match_by_either_name() -> None:
    module = nn.ModuleDict({"a": nn.Linear(2, 2, bias=False), "b": nn.Linear(2, 2, bias=False)})
    module["b"].weight = module["a"].weight
    save_file({"a.weight": torch.eye(2)}, "w.safetensors")
    assert load_weights(module, "w.safetensors").complete
    assert torch.equal(module["b"].weight, torch.eye(2))


def test_nothing_that_matches_is_refused_in_one_line(write: Write, command: Command) -> None:
    save_file({f"model.{i}": torch.ones(1) for i in range(5)}, "w.safetensors")
    code, _, err = command("fit", write(more="pretrained: {path: w.safetensors}\n"))
    assert code == 2
    assert err == (
        "error: w.safetensors: nothing in it matches the module: it has model.0, model.1, model.2 and 2 more, the "
        "module has layer.weight, layer.bias; set `prefix` or `rename`\n"
    )


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere", "nowhere: there is no such folder"),
        ("http://127.0.0.1:9/w.pt", "http://127.0.0.1:9/w.pt: nothing is loaded from the network"),
        ("no_such_pack:w.safetensors", "no_such_pack:w.safetensors: no installed package 'no_such_pack'"),
        ("plain.pt", "plain.pt: no weights in it"),
    ],
)
def test_what_are_no_weights_is_refused(path: str, message: str) -> None:
    torch.save({"epoch": 3}, "plain.pt")
    with pytest.raises(CheckpointError, match=re.escape(message)):
        load_weights(linear(), path)


def test_a_run_begins_with_another_runs_weights_and_says_so(write: Write, command: Command) -> None:
    assert command("fit", write(more=MORE))[0] == 0
    code, out, _ = command("fit", write(more="pretrained: {path: runs/recipe}\n", name="tuned.yaml"))
    lines = out.splitlines()
    at = lines.index("pretrained: runs/recipe")
    assert code == 0
    assert lines[at + 1].split() == ["WEIGHTS", "TENSORS", "NUMBERS", "NAMES"]
    assert lines[at + 2].split() == ["loaded", "2", "5", "layer.weight,", "layer.bias"]
    run = assemble("tuned.yaml", ["optimizer.lr=0.0", "trainer.default_root_dir=still"])
    run.fit()  # at a rate of 0 the weights stay what was loaded
    assert torch.equal(run.module.layer.weight, load("runs/recipe")["state_dict"]["layer.weight"])
    assert run.probe()["pretrained"] == "pretrained: 2 tensors from runs/recipe"


def test_a_resumed_run_and_an_evaluation_do_not_read_it_again(write: Write) -> None:
    """Expected weights: those of a run that was not stopped. The file is gone by then."""
    save_file({"layer.weight": torch.full((1, 4), 0.5)}, "w.safetensors")
    recipe = write(more=MORE + "pretrained: {path: w.safetensors}\n")
    whole = assemble(recipe, ["trainer.default_root_dir=whole"])
    whole.fit()
    assemble(recipe, ["trainer.max_steps=4"]).fit()
    Path("w.safetensors").unlink()
    resumed = assemble(recipe)
    resumed.fit(resume="force")
    assert torch.equal(resumed.module.layer.weight, whole.module.layer.weight)
    assert resumed.probe()["pretrained"] is None
    assert assemble(recipe).validate() == whole.validate()
    with pytest.raises(CheckpointError, match=r"w.safetensors"):
        assemble(recipe).fit(resume="never")


class Phased(PhasedModule, tiny.Plain):
    """The user's module with phases, for a stock Trainer."""


def test_the_transform_works_in_a_stock_trainer() -> None:
    save_file({"layer.weight": torch.full((1, 4), 0.5)}, "w.safetensors")
    module = Phased()
    module.module_phases = ModulePhases({"materialise": [Pretrained("w.safetensors")]})
    trainer = L.Trainer(max_steps=0, accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.fit(module, datamodule=tiny.Data())
    assert torch.equal(module.layer.weight, torch.full((1, 4), 0.5))
