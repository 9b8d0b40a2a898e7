"""Learning without forgetting in a stock Trainer: the loss against its formula in float64, and where the teacher is."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from lightning import Callback
from task_steps import Net, Points, TwoTasks, loader, trained
from torch import Tensor
from torch.nn import functional as F

from trustformers_pl.continual import LwF
from trustformers_pl.errors import RefusedError


class Notes(Callback):
    """The module's weights after the fourth step, and every step's loss with what it was computed from."""

    def __init__(self) -> None:
        self.steps: list[tuple[dict[str, Tensor], Tensor, Tensor]] = []
        self.old: Any = None

    def watch(self, module: Net) -> None:
        compute = module.training_step

        def noted(batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
            outputs: list[Tensor] = []
            handle = module.net.register_forward_hook(lambda *given: outputs.append(given[-1]))
            answer = compute(batch, batch_idx)
            handle.remove()
            self.steps.append((batch, outputs[0].detach(), answer["loss"].detach()))
            if len(self.steps) == 5:
                self.before_step_five = copy.deepcopy(module.net).eval()
            return answer

        module.training_step = noted  # type: ignore[method-assign]


def soft_cross_entropy(new: Tensor, old: Tensor, outputs: list[int]) -> Tensor:
    """Li & Hoiem 2016, equation 2, with temperature 2 and the factor 4."""
    p, q = (old[:, outputs] / 2).softmax(1), (new[:, outputs] / 2).softmax(1)
    return -4 * (p * q.log()).sum(1).mean()


@pytest.mark.parametrize("cache", [False, True])
def test_the_loss_is_that_of_the_paper_over_the_outputs_of_the_old_task(cache: bool) -> None:
    module, notes = Net(double=True), Notes()
    notes.watch(module)
    lwf = LwF(alpha=0.6, cache=cache)
    trained(module, [lwf, TwoTasks(4)], data=loader(mixes=False))
    for number, (batch, outputs, loss) in enumerate(notes.steps):
        wanted = F.cross_entropy(outputs, batch["labels"])
        if number >= 4:
            old = notes.before_step_five(batch["x"].double()).detach()
            wanted = wanted + 0.6 * soft_cross_entropy(outputs, old, [0, 1])
        torch.testing.assert_close(loss, wanted, rtol=1e-6 if cache else 1e-12, atol=0)  # a cache is in float32
    assert lwf.loss.taught == 4
    assert module.loss_terms == ()


def test_each_old_task_can_have_a_softmax_of_its_own() -> None:
    module, notes = Net(double=True), Notes()
    notes.watch(module)
    lwf, tasks = LwF(), TwoTasks(4)
    trained(module, [lwf, tasks], data=loader(mixes=False))
    trainer = trained(Net(), [tasks], data=loader(mixes=False), steps=1)
    assert [head.tolist() for head in lwf._heads_after(trainer, 1)] == [[True] * 4]
    tasks.scenario = "task"
    heads = lwf._heads_after(trainer, 1)
    assert [head.tolist() for head in heads] == [[True, True, False, False], [False, False, True, True]]
    tasks.scenario = "domain"
    assert lwf._heads_after(trainer, 1) == []
    new, old = torch.randn(2, 8, 4, dtype=torch.float64)
    lwf.loss.answers, lwf.loss.heads = (lambda batch: old), heads
    total, count = lwf.loss.compute(module, new, {})
    wanted = soft_cross_entropy(new, old, [0, 1]) + soft_cross_entropy(new, old, [2, 3])
    torch.testing.assert_close(total / count, wanted, rtol=1e-12, atol=0)


def test_the_teacher_is_in_no_registry() -> None:
    module, lwf = Net(), LwF(from_start=True)
    seen: dict[str, Any] = {}

    class Looks(Callback):
        def on_train_batch_end(self, trainer: Any, module: Net, *arguments: Any) -> None:
            seen["names"] = set(module.state_dict())
            seen["optimized"] = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
            seen["copies"] = (pickle.loads(pickle.dumps(module.loss_terms)), copy.deepcopy(module))

    before = copy.deepcopy(module.net).eval()
    trained(module, [lwf, Looks()], data=loader(mixes=False))
    teacher: Any = lwf.loss.answers
    assert seen["names"] == set(Net().state_dict())
    assert seen["optimized"] == {id(p) for p in module.parameters()}
    assert not any(p.requires_grad or p.grad is not None for p in teacher.parameters())
    assert not any(one.training for one in teacher.modules())
    assert teacher._trainer is None
    x = Points().x
    assert torch.equal(teacher.net(x), before(x))
    assert lwf.loss.taught == 8


def test_a_cache_is_of_the_very_samples() -> None:
    class Shifted(Net):
        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Any:
            return super().training_step({**batch, "x": batch["x"] + 1e-6}, batch_idx)

    with pytest.raises(RefusedError, match="lwf: cache: a sample is not among those of the task") as raised:
        trained(Shifted(), [LwF(cache=True), TwoTasks(4)], data=loader(mixes=False))
    assert "\n" not in str(raised.value)
