"""What ZeRO refuses, by the recipe and in a stock Trainer: in one line, before any process group is there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lightning as L
import pytest
import tiny
import torch
from torch import nn

from trustformers_pl.errors import RecipeError, RefusedError
from trustformers_pl.factory import assemble
from trustformers_pl.parallel import MeshStrategy, ZeROConfig, data_parallel, zero

if TYPE_CHECKING:
    from collections.abc import Iterator

RECIPE = """\
version: 1
model:
  class_path: {model}
data:
  class_path: tiny.Data
trainer:
  max_steps: 1
  accelerator: cpu
  devices: 1
optimizer: {{name: sgd}}
"""


@pytest.fixture(autouse=True)
def _no_process_group_is_made() -> Iterator[None]:
    assert not torch.distributed.is_initialized()
    yield
    assert not torch.distributed.is_initialized()


# Every way in which options do not go together, or do nothing at a stage.
BAD = [
    ({"stage": 2, "ranks": 0}, "ranks must be at least 1, but is 0"),
    ({"stage": 1, "bucket_size_mb": 0}, "bucket_size_mb must be at least 1, but is 0"),
    ({"stage": 1, "partition_gradients": True}, "partition_gradients: true is stage 2, not 1"),
    ({"stage": 2, "partition_gradients": False}, "partition_gradients: false is stage 1, not 2"),
    ({"stage": 3, "partition_gradients": False}, "partition_gradients: false is stage 1, not 3"),
    ({"stage": 2, "contiguous_gradients": False}, "contiguous_gradients: false has no counterpart"),
    ({"stage": 3, "overlap_comm": False}, "overlap_comm: false is for stages 1 and 2"),
    ({"stage": 3, "reduce_scatter": False}, "reduce_scatter: false is for stages 1 and 2"),
    ({"stage": 3, "bucket_size_mb": 25}, "bucket_size_mb is for stages 1 and 2"),
    ({"stage": 1, "offload_params": True}, "offload_params needs stage 3"),
    ({"stage": 2, "offload_params": True}, "offload_params needs stage 3"),
    ({"stage": 2, "units": ["Linear"]}, "units are of stage 3"),
    ({"stage": 1, "reshard_after_forward": False}, "reshard_after_forward is of stage 3"),
]


@pytest.mark.parametrize(("values", "complaint"), BAD)
def test_options_that_do_nothing(values: dict[str, Any], complaint: str, write: Any) -> None:
    with pytest.raises(ValueError, match=complaint):
        ZeROConfig(**values)
    with pytest.raises(ValueError, match=complaint):
        zero(**values)
    recipe = write(RECIPE.format(model="tiny.Composable"), f"zero: {as_yaml(values)}\n")
    with pytest.raises(RecipeError, match=rf"recipe\.yaml:11: zero: {complaint}"):
        assemble(recipe)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"stage": 4}, "zero.stage = 4: expected one of 1, 2, 3"),
        ({"stage": 2, "reduce_dtype": "int8"}, "zero.reduce_dtype = 'int8': expected one of fp32, bf16, fp16"),
        ({"level": 2}, "zero.level: no such key"),
    ],
)
def test_values_that_there_are_none_of(values: dict[str, Any], complaint: str, write: Any) -> None:
    recipe = write(RECIPE.format(model="tiny.Composable"), f"zero: {as_yaml(values)}\n")
    with pytest.raises(RecipeError, match=complaint):
        assemble(recipe)


def test_a_stage_that_there_is_not_is_refused_in_python() -> None:
    with pytest.raises(ValueError, match="stage must be 1, 2 or 3, not 4"):
        ZeROConfig(stage=4)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no type 'int8'; use one of fp32, bf16, fp16"):
        zero(2, reduce_dtype="int8")


def as_yaml(values: dict[str, Any]) -> str:
    return "{" + ", ".join(f"{key}: {str(value).lower() if value in (True, False) else value}" for key, value in values.items()) + "}"  # fmt: skip


class Scalar(tiny.Composable):
    """Has a temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor(1.0))


class Tied(tiny.Composable):
    """Two blocks of one weight, as an embedding and a head may be."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)])
        self.blocks[1].weight = self.blocks[0].weight


class Mixed(tiny.Composable):
    """Of two types in one block."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Bilinear(4, 4, 4)])
        self.blocks[0].bias = nn.Parameter(torch.zeros(4, dtype=torch.float64))


UNSHARDABLE = [
    (Scalar, (), "zero: temperature is a scalar, .*; give it the shape \\(1,\\), or use zero.stage=2"),
    (Tied, (), r"zero: blocks\.0\.weight and blocks\.1\.weight are one parameter in two units .*\(blocks\.0 and blocks\.1\)"),
    (Mixed, (), r"is torch\.float32 and .* is torch\.float64, in one unit of stage 3"),
    (tiny.Composable, ("Block", "Linear"), "zero.units: the module has no Block; it has Dropout, Linear"),
]  # fmt: skip


@pytest.mark.parametrize(("model", "units", "complaint"), UNSHARDABLE)
def test_a_module_that_stage_3_cannot_cut(model: type, units: tuple[str, ...], complaint: str, write: Any) -> None:
    named = f"units: [{', '.join(units)}]" if units else "units: []"
    home = "tiny" if model is tiny.Composable else "test_zero_refusals"
    run = assemble(write(RECIPE.format(model=f"{home}.{model.__name__}"), f"zero: {{stage: 3, {named}}}\n"))
    with pytest.raises(RefusedError, match=complaint):
        run.fit()
    with pytest.raises(RefusedError, match=complaint):
        stock(MeshStrategy(zero(3, units=units))).fit(with_optimizer(model()), tiny.Data())


def test_stage_2_takes_them_all(write: Any) -> None:
    """What the messages advise."""
    for model in (Scalar, Tied, Mixed):
        recipe = write(RECIPE.format(model=f"test_zero_refusals.{model.__name__}"), "zero: {stage: 2}\nddp: null\n")
        run = assemble(recipe)
        run.fit()
        assert run.trainer.global_step == 1
        torch.distributed.destroy_process_group()


FEATURE = """
    from trustformers_pl import Plugin, Traits
    class Feature(Plugin):
        "A stranger's."
        @classmethod
        def traits(cls, config):
            return Traits(provides=frozenset({"second-order-gradients"}))
"""
STRATEGY = """
    from trustformers_pl import Plugin, Traits, hookimpl, part
    class Feature(Plugin):
        "A stranger's."
        @classmethod
        def traits(cls, config):
            return Traits(claims=frozenset({"strategy"}))
        @hookimpl
        def strategy(self, plan):
            return part("lightning.pytorch.strategies:SingleDeviceStrategy")
"""


def test_gradients_of_gradients_at_stage_3(write: Any, install: Any) -> None:
    install("meta-pack", FEATURE, trustformers_pl={"meta": "Feature"})
    recipe = write(RECIPE.format(model="tiny.Composable"), "zero: {stage: 3}\nmeta: {}\n")
    complaint = r"zero refuses second-order-gradients \(of meta\), because weights of stage 3 .*; use zero\.stage=2"
    with pytest.raises(RefusedError, match=complaint):
        assemble(recipe)
    assemble(recipe, ["zero.stage=2"])


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_batches_that_are_cut_when_memory_runs_out(stage: int, write: Any) -> None:
    recipe = write(RECIPE.format(model="tiny.Composable"), f"zero: {{stage: {stage}}}\nout_of_memory: {{}}\n")
    with pytest.raises(
        RefusedError, match=r"out_of_memory refuses sharded-gradients \(of zero\), because .*; use ddp, or"
    ):
        assemble(recipe)


@pytest.mark.parametrize(
    "option",
    ["bucket_size_mb: 5", "find_unused_parameters: true", "static_graph: true", "gradient_sync_every: 2", "reduce_dtype: bf16"],
)  # fmt: skip
def test_what_is_said_of_buckets_beside_zero(option: str, write: Any) -> None:
    recipe = write(RECIPE.format(model="tiny.Composable"), f"zero: {{stage: 2}}\nddp: {{{option}}}\n")
    with pytest.raises(
        RefusedError, match=f"ddp.{option.partition(':')[0]}: the ranks of a copy reduce gradients as its"
    ):
        assemble(recipe)


@pytest.mark.parametrize(
    ("sections", "complaint"),
    [
        ("zero: {ranks: 3}", "mesh: shard=3 do not make up 1 ranks; change a size, or the number of devices"),
        ("zero: {stage: 3, ranks: 2}", "mesh: shard=2 do not make up 1 ranks"),
        ("zero: {stage: 2}\nddp: {replicas: 2}", "mesh: replicate=2, shard=the rest do not make up 1 ranks"),
        ("zero: {stage: 2, ranks: 2}\nddp: {replicas: 2}", "mesh: replicate=2, shard=2 do not make up 1 ranks"),
        ("ddp: {replicas: 2}", "mesh: data_parallel=2 do not make up 1 ranks"),
    ],
)
def test_ranks_that_are_not_there(sections: str, complaint: str, write: Any) -> None:
    run = assemble(write(RECIPE.format(model="tiny.Composable"), f"{sections}\n"))
    with pytest.raises(RefusedError, match=complaint):
        run.fit()


@pytest.mark.parametrize("dimensions", [zero(2, ranks=3), [data_parallel(2)]])
def test_ranks_that_are_not_there_in_a_stock_trainer(dimensions: Any) -> None:
    with pytest.raises(RefusedError, match=r"mesh: .* do not make up 1 ranks"):
        stock(MeshStrategy(dimensions)).fit(with_optimizer(tiny.Composable()), tiny.Data())


def test_two_strategies(write: Any, install: Any) -> None:
    install("strategy-pack", STRATEGY, trustformers_pl={"own": "Feature"})
    recipe = write(RECIPE.format(model="tiny.Composable"), "zero: {stage: 2}\n")
    with pytest.raises(
        RefusedError, match=r"own refuses mesh \(of zero\), because a run has one strategy, and a mesh is one"
    ):
        assemble(recipe, ["own={}"])
    with pytest.raises(
        RefusedError, match=r"trainer.strategy is written, and zero makes the strategy of this run; remove"
    ):
        assemble(recipe, ["trainer.strategy=fsdp"])


def stock(strategy: Any) -> L.Trainer:
    return L.Trainer(
        strategy=strategy, accelerator="cpu", devices=1, max_steps=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip


def with_optimizer(module: Any) -> Any:
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=0.1)
    return module
