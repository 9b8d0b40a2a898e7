"""A policy and a frozen reference in one module: what trains, what is stored, and what a resume accepts."""

from __future__ import annotations

import copy
import pickle
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from lightning import LightningModule, Trainer
from tiny_parts import Policy, StockPolicy, network
from tiny_state import cut, train, tree
from torch import nn

from trustformers_pl import assemble
from trustformers_pl.checkpoint import load
from trustformers_pl.content import content_sha256
from trustformers_pl.errors import CheckpointError, RefusedError
from trustformers_pl.frozen_parts import FrozenParts, with_parts
from trustformers_pl.model_parts import ModelPart, sharding_roots
from trustformers_pl.optim import decay_groups

Write = Callable[..., str]
RECIPE = """\
model: {class_path: tiny_parts.Policy}
data: {class_path: tiny.Data, init_args: {count: 28}}
trainer: {max_steps: 14, accelerator: cpu, val_check_interval: 3}
optimizer: {name: adamw, lr: 0.01}
checkpoint: {every_n_steps: 1, keep_last: 100}
"""


def frozen_bits(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.reference.state_dict().items()}  # type: ignore[union-attr,operator]


def same(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_in_a_recipe_the_policy_learns_and_the_reference_stays(write: Write) -> None:
    run = assemble(write(RECIPE))
    before, policy = frozen_bits(run.module), copy.deepcopy(run.module.policy.state_dict())
    run.fit()
    assert type(run.module).__name__ == "Policy+FrozenParts+DecomposedLoss+ConfiguredOptimizers"
    assert same(frozen_bits(run.module), before)  # also the running statistics: it was in eval mode throughout
    assert not same(run.module.policy.state_dict(), policy)  # type: ignore[union-attr,arg-type]
    assert not any(
        parameter.requires_grad or parameter.grad is not None for parameter in run.module.reference.parameters()
    )
    held = {id(p) for group in run.trainer.optimizers[0].param_groups for p in group["params"]}
    assert held == {id(parameter) for parameter in run.module.policy.parameters()}
    stored = load("runs/recipe/checkpoints/step-00000014")
    assert set(stored["state_dict"]) == {f"policy.{name}" for name in policy}
    assert stored["frozen_parts"] == {"reference": content_sha256(network(7))}


def test_a_run_of_a_recipe_resumes_exactly_and_validates(write: Write) -> None:
    recipe = write(RECIPE)
    assemble(recipe).fit()
    expected = tree("runs/recipe/checkpoints/step-00000014")
    Path("runs/recipe").rename("whole")
    for step in (3, 7):
        shutil.rmtree("runs")
        cut("whole/checkpoints", "runs/recipe/checkpoints", step)
        assemble(recipe).fit("force")
        assert tree("runs/recipe/checkpoints/step-00000014") == expected, f"resumed at {step}"
    assert assemble(recipe).validate()["val_loss"] > 0
    other = assemble(recipe)
    other.load_weights()
    assert same(
        other.module.policy.state_dict(),
        {n[7:]: v for n, v in load("whole/checkpoints/step-00000014")["state_dict"].items()},
    )  # type: ignore[union-attr,arg-type]


def test_in_a_stock_trainer_a_run_resumes_exactly() -> None:
    """With an optimizer over all parameters, of which the frozen ones are taken out, names and all."""
    before = network(7).state_dict()
    whole = train("whole", module=with_parts(StockPolicy()))
    assert same(frozen_bits(whole.lightning_module), before)
    group = whole.optimizers[0].param_groups[0]
    assert group["param_names"] == [name for name, _ in whole.lightning_module.named_parameters() if "policy" in name]
    assert len(group["params"]) == len(group["param_names"])
    cut("whole", "cut", 5)
    resumed = train("cut", module=with_parts(StockPolicy()), resume=True)
    assert tree("cut/step-00000014") == tree("whole/step-00000014")
    assert same(resumed.lightning_module.policy.state_dict(), whole.lightning_module.policy.state_dict())  # type: ignore[union-attr,arg-type]


def test_the_checkpoint_is_smaller_by_the_frozen_part() -> None:
    """The reference has as many weights as the policy: 16*4 + 16 + 16 + 16 + 16 + 1 numbers and the statistics."""
    train("with", module=with_parts(StockPolicy()), max_steps=1)
    train("without", module=StockPolicy(), max_steps=1)
    both, policy = (load(f"{name}/step-00000001")["state_dict"] for name in ("without", "with"))
    assert len(both) == 2 * len(policy)
    numbers = sum(value.numel() for value in both.values()) - sum(value.numel() for value in policy.values())
    assert numbers == 16 * 4 + 16 + 16 + 16 + 16 + 1 + (16 + 16 + 1)
    sizes = [Path(name, "step-00000001/tensors.safetensors").stat().st_size for name in ("without", "with")]
    assert sizes[0] - sizes[1] > 4 * numbers


def test_another_reference_is_refused() -> None:
    train("run", module=with_parts(StockPolicy()), max_steps=3)
    with pytest.raises(
        CheckpointError,
        match=r"^reference: not the frozen part that the checkpoint was trained with \(sha256 \w{12}\.\.\. there, "
        r"\w{12}\.\.\. here\); give it the same weights$",
    ):
        train("run", module=with_parts(StockPolicy(reference_seed=8)), resume=True)
    statistics = StockPolicy()
    statistics.reference[1].running_mean += 1e-6  # type: ignore[operator]
    with pytest.raises(CheckpointError, match="reference: not the frozen part"):
        train("run", module=with_parts(statistics), resume=True)


def test_a_part_that_was_frozen_has_no_weights_to_train_from() -> None:
    class Thawed(StockPolicy):
        def parts(self) -> Mapping[str, ModelPart]:
            return {name: ModelPart(part.module) for name, part in super().parts().items()}

    train("run", module=with_parts(StockPolicy()), max_steps=3)
    with pytest.raises(CheckpointError, match="reference: frozen in the checkpoint, which has no weights of it; keep"):
        train("run", module=with_parts(Thawed()), resume=True)


def test_weights_of_a_frozen_part_that_are_given_are_taken() -> None:
    """From a checkpoint in which it trained; what is noted from then on is their content."""
    trained, module = StockPolicy(reference_seed=9), with_parts(StockPolicy())
    module.configure_model()
    module.load_state_dict(trained.state_dict())
    assert same(frozen_bits(module), frozen_bits(trained))
    train("run", module=module, max_steps=1)
    assert load("run/step-00000001")["frozen_parts"] == {"reference": content_sha256(network(9))}


def test_frozen_parts_stay_in_eval_mode() -> None:
    module = with_parts(Policy())
    module.train()
    assert module.policy.training
    assert not any(child.training for child in module.reference.modules())
    module.eval()
    assert not module.policy.training
    assert module.train().policy.training


def test_the_decay_groups_hold_no_frozen_parameter() -> None:
    module = with_parts(Policy())
    module.configure_model()
    held = {name for group in decay_groups(module, weight_decay=0.1) for name, _ in group["params"]}
    assert held == {f"policy.{name}" for name, _ in module.policy.named_parameters()}


def test_a_strict_load_wants_the_trainable_parts_and_no_others() -> None:
    trained, fresh = with_parts(Policy()), with_parts(Policy(reference_seed=9))
    with torch.no_grad():
        trained.policy[0].weight += 1
    before = frozen_bits(fresh)
    assert not any(fresh.load_state_dict(trained.state_dict(), strict=True))
    assert same(fresh.policy.state_dict(), trained.policy.state_dict())
    assert same(frozen_bits(fresh), before)
    missing = {name: value for name, value in trained.state_dict().items() if name != "policy.0.weight"}
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "policy.0.weight". $'):
        fresh.load_state_dict(missing)
    plain = Policy()
    plain.load_state_dict({**plain.state_dict(), **trained.state_dict()})
    assert set(trained.state_dict()) < set(plain.state_dict())


def test_keys_below_a_wrapper_lose_the_frozen_part_too() -> None:
    """As DistributedDataParallel holds a module: under a prefix."""
    wrapped = nn.ModuleDict({"module": with_parts(Policy())})
    assert {name.partition(".policy.")[0] for name in wrapped.state_dict()} == {"module"}


def test_it_copies_and_pickles() -> None:
    module = with_parts(Policy())
    for clone in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert type(clone) is type(module)
        assert same(frozen_bits(clone), frozen_bits(module))
        assert set(clone.state_dict()) == set(module.state_dict())


def test_parts_that_share_a_parameter_are_refused_with_the_names() -> None:
    module = StockPolicy()
    module.reference[3].bias = module.policy[3].bias  # type: ignore[union-attr]
    with pytest.raises(
        RefusedError,
        match=r"^parts: policy and reference share a parameter \(policy\.3\.bias is reference\.3\.bias\); copy it, or",
    ):
        train("run", module=with_parts(module))


def test_a_part_may_tie_its_own_parameters() -> None:
    module = Policy()
    module.policy[0].weight = module.policy.tied = nn.Parameter(torch.ones(16, 4))  # type: ignore[union-attr,assignment]
    assert set(sharding_roots(module)) == {"policy", "reference"}


def test_parts_that_are_none_are_refused() -> None:
    class Wrong(StockPolicy):
        def parts(self) -> Any:
            return {"policy": self.policy}

    with pytest.raises(RefusedError, match=r"^Wrong\.parts\(\) must give a mapping of names to ModelParts$"):
        train("run", module=with_parts(Wrong()))


def test_the_roots_that_a_strategy_shards() -> None:
    module = Policy()
    roots = sharding_roots(module)
    assert [(name, root.module, root.frozen) for name, root in roots.items()] == [
        ("policy", module.policy, False),
        ("reference", module.reference, True),
    ]
    assert roots["policy"].forward_methods == ("generate",)
    module.temperature = nn.Parameter(torch.ones(()))
    assert list(sharding_roots(module)) == ["policy", "reference", ""]
    assert sharding_roots(module)[""].module is module
    plain = LightningModule()
    assert sharding_roots(plain) == {"": ModelPart(plain)}


def test_a_module_without_parts_stays_as_it_is() -> None:
    module = LightningModule()
    assert type(with_parts(module)) is LightningModule


def test_the_content_is_names_dtypes_shapes_and_bytes() -> None:
    """Each change of one of the four gives another number; the same content gives the same, wherever it lies."""
    module = nn.Linear(2, 3)
    first = content_sha256(module)
    assert len(first) == 64
    strided = copy.deepcopy(module)
    strided.weight.data = strided.weight.data.t().contiguous().t()
    assert content_sha256(strided) == first
    seen = {first}
    for change in (
        lambda m: setattr(m.weight, "data", -m.weight.data),
        lambda m: setattr(m.weight, "data", m.weight.data.reshape(2, 3)),
        lambda m: setattr(m.weight, "data", m.weight.data.view(torch.int32).view(torch.float32).to(torch.bfloat16)),
        lambda m: m.register_buffer("more", torch.zeros(0)),
    ):
        other = copy.deepcopy(module)
        change(other)
        seen.add(content_sha256(other))
    assert len(seen) == 5


def test_by_hand_it_is_a_mixin() -> None:
    class Typed(FrozenParts, StockPolicy):
        pass

    trainer = Trainer(max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False)
    module = Typed()
    before = frozen_bits(module)
    trainer.fit(module, datamodule=tiny.Data())
    assert same(frozen_bits(module), before)
    assert with_parts(module) is module
    assert type(module) is Typed
