"""The masks of a task-incremental run beside features that weigh samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from continual_job import Network, Weighable, recipe
from torch.nn import functional as F

from trustformers_pl.compose import extend
from trustformers_pl.continual import TaskHeads
from trustformers_pl.decomposed import DecomposedLoss
from trustformers_pl.errors import RefusedError
from trustformers_pl.factory import assemble, module_traits
from trustformers_pl.testing.trial import train
from trustformers_pl.traits import Trait

if TYPE_CHECKING:
    from pathlib import Path

NAMED: dict[str, Any] = {
    "data": {"class_path": "continual_job.NamedDigits", "init_args": {"every": 8}},
    "model": {"class_path": "continual_job.Weighable"},
}


class Quiet:
    """A mixin of somebody else's, whose `loss` takes no weights."""

    def loss(self, outputs: Any, batch: Any) -> Any:
        return super().loss(outputs, batch)  # type: ignore[misc]


def test_whether_samples_can_be_weighed_is_up_to_the_modules_own_loss() -> None:
    def weighs(module: Any, *mixins: type) -> bool:
        return Trait.SAMPLE_WEIGHTS in module_traits(extend(module, *mixins, DecomposedLoss))

    assert weighs(Weighable())
    assert weighs(Weighable(), TaskHeads)
    assert not weighs(Network())
    assert not weighs(Network(), TaskHeads)
    assert not weighs(Weighable(), TaskHeads, Quiet)


def test_weights_reach_the_loss_of_masked_outputs() -> None:
    """The formula by hand: a softmax over the sample's own two classes, times its weight."""
    module = extend(Weighable(), TaskHeads)
    module.class_tasks = torch.arange(10) // 2
    outputs, labels, weights = torch.randn(6, 10), torch.tensor([0, 3, 9, 4, 5, 1]), torch.rand(6)
    found, count = module.loss(outputs, {"labels": labels}, weights)
    own = outputs.view(6, 5, 2)[torch.arange(6), labels // 2]
    wanted = (F.cross_entropy(own, labels % 2, reduction="none") * weights).sum()
    torch.testing.assert_close(found, wanted)
    assert int(count) == 6


def test_dark_replay_in_a_task_incremental_run(tmp_path: Path) -> None:
    """With alpha and beta zero, replayed rows weigh nothing: weights are those of the run without them."""
    more = {"batch_size": 16, "every": 8}
    data = {"class_path": "continual_job.NamedDigits", "init_args": more}
    common = {**NAMED, "data": data, "checkpoint": {}}
    plain = train(recipe({"steps": 2}, **common), tmp_path / "plain")
    nothing = train(
        recipe({"steps": 2}, **common, der={"alpha": 0.0, "capacity": 40, "batch": 5}), tmp_path / "nothing"
    )
    der = train(recipe({"steps": 2}, **common, der={"beta": 0.5, "capacity": 40, "batch": 5}), tmp_path / "der")
    assert der.evidence["der"] == "90 samples replayed"  # twice five rows in nine of ten steps
    largest = [
        max((one - other).abs().max().item() for one, other in zip(plain.run.module.parameters(), found, strict=True))
        for found in (nothing.run.module.parameters(), der.run.module.parameters())
    ]
    assert largest[0] < 1e-6 < 1e-3 < largest[1]


def test_a_module_that_weighs_nothing_is_still_refused() -> None:
    with pytest.raises(RefusedError, match="der needs sample-weights, which Network does not provide"):
        assemble(recipe(der={}))
