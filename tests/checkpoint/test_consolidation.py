"""Whole tensors in plain safetensors files, read by the safetensors library alone, against the optimizer's own state."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import tiny_sharded as sharded
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from trustformers_pl.checkpoint import FolderCheckpointIO, consolidate
from trustformers_pl.errors import CheckpointError
from trustformers_pl.testing import Ranks

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def trained(named: bool = True) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Three steps of AdamW in this process: what ranks do with the same data has to come to the same state."""
    return sharded.three_steps(sharded.OverTensorParallel(), named=named)


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_weights_and_optimizer_are_those_of_one_process(tmp_path: Path, ranks: int) -> None:
    """FSDP2 with equal data on all ranks averages equal gradients; bits may differ where ranks add up."""
    Ranks().run(ranks, sharded.on_each, sharded.save_fsdp_training, str(tmp_path / "c"))
    assert consolidate(tmp_path / "c", tmp_path / "out") == tmp_path / "out"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "model.safetensors",
        "optimizer.json",
        "optimizer.safetensors",
    ]
    module, optimizer = trained()
    weights = load_file(tmp_path / "out/model.safetensors")
    assert weights.keys() == module.state_dict().keys()
    for name, value in module.state_dict().items():
        assert torch.allclose(weights[name], value, rtol=1e-5, atol=1e-7), name
    with safe_open(tmp_path / "out/model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    state = load_file(tmp_path / "out/optimizer.safetensors")
    wanted = {
        f"{name}.{key}": value
        for name, parameter in module.named_parameters()
        for key, value in optimizer.state[parameter].items()
    }
    assert state.keys() == wanted.keys()
    for name, value in wanted.items():
        assert state[name].shape == value.shape
        assert torch.allclose(state[name], value, rtol=1e-4, atol=1e-7), name
    told = json.loads((tmp_path / "out/optimizer.json").read_text())
    (one,) = told["optimizers"]
    assert [group["params"] for group in one["groups"]] == [["0.weight", "0.bias"], ["1.weight", "1.bias"]]
    assert [group["lr"] for group in one["groups"]] == [0.1, 0.01]
    assert one["groups"][0]["betas"] == [0.9, 0.999]
    assert one["scalars"] == {}


def saved(path: Path, **state: Any) -> Path:
    FolderCheckpointIO().save_checkpoint(state, path)
    return path


def test_tensors_are_those_of_the_whole_checkpoint_bit_for_bit(tmp_path: Path) -> None:
    """On four ranks, in every layout; what was saved is made anew here without a mesh."""
    Ranks().run(4, sharded.on_each, sharded.save_both_ways, str(tmp_path))
    consolidate(tmp_path / "background", tmp_path / "out")
    found = load_file(tmp_path / "out/model.safetensors")
    expected = sharded.expected(4)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


def test_parameters_without_names_have_their_numbers(tmp_path: Path) -> None:
    module, optimizer = trained(named=False)
    path = saved(tmp_path / "c", state_dict=module.state_dict(), optimizer_states=[optimizer.state_dict()])
    consolidate(path, tmp_path / "out")
    state = load_file(tmp_path / "out/optimizer.safetensors")
    parameters = list(module.parameters())
    for number, parameter in enumerate(parameters):
        assert torch.equal(state[f"{number}.exp_avg"], optimizer.state[parameter]["exp_avg"])
    told = json.loads((tmp_path / "out/optimizer.json").read_text())["optimizers"][0]
    assert told["groups"][1]["params"] == ["2", "3"]


def test_several_optimizers_and_values_that_are_no_tensors(tmp_path: Path) -> None:
    """SGD without momentum keeps None; a learning rate may be a tensor, a limit infinite."""
    layer = nn.Linear(2, 1)
    sgd = torch.optim.SGD(layer.named_parameters(), lr=torch.tensor(0.5), momentum=0.9)
    sgd.param_groups[0]["limit"] = float("inf")
    states = [sgd.state_dict(), {"state": {0: {"deep": {"count": 3, "w": torch.ones(2)}}}, "param_groups": []}]
    consolidate(saved(tmp_path / "c", state_dict=layer.state_dict(), optimizer_states=states), tmp_path / "out")
    first, second = json.loads((tmp_path / "out/optimizer.json").read_text())["optimizers"]
    assert first["groups"][0]["params"] == ["0.weight", "0.bias"]
    assert first["groups"][0]["lr"] == 0.5
    assert first["groups"][0]["limit"] == {"$": "float", "v": "7ff0000000000000"}
    assert second["scalars"] == {"1.0.deep.count": 3}
    assert load_file(tmp_path / "out/optimizer.safetensors").keys() == {"1.0.deep.w"}


def test_what_cannot_be_consolidated(tmp_path: Path) -> None:
    path = saved(tmp_path / "c", state_dict=nn.Linear(2, 1).state_dict())
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    (tmp_path / "empty").mkdir()
    for out in (tmp_path / "full", tmp_path / "full/file", path):
        with pytest.raises(CheckpointError, match="not written: it is there already; choose another name"):
            consolidate(path, out)
    with pytest.raises(CheckpointError, match="not written: Not a directory"):
        consolidate(path, tmp_path / "full/file/deeper")
    consolidate(path, tmp_path / "empty")
    assert load_file(tmp_path / "empty/optimizer.safetensors") == {}
    with pytest.raises(CheckpointError, match=r"it has no weights \(no state_dict\)"):
        consolidate(saved(tmp_path / "d", epoch=1), tmp_path / "none")
    with pytest.raises(CheckpointError, match="there is no such folder"):
        consolidate(tmp_path / "nowhere", tmp_path / "none")
    assert not (tmp_path / "none").exists()
    assert not list(tmp_path.glob(".*"))


def test_the_command(tmp_path: Path, command: Callable[..., tuple[int, str, str]]) -> None:
    path = saved(tmp_path / "c", state_dict=nn.Linear(2, 1).state_dict())
    assert command("checkpoint", "consolidate", str(path), str(tmp_path / "out")) == (
        0,
        f"consolidated: {tmp_path / 'out'}\n",
        "",
    )
    assert load_file(tmp_path / "out/model.safetensors").keys() == {"weight", "bias"}
    code, _, told = command("checkpoint", "consolidate", str(path), str(tmp_path / "out"))
    assert code == 2
    assert "it is there already" in told
