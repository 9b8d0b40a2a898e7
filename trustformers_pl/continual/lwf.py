"""Learning without forgetting: the network of the last task teaches the outputs that it knew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.pytorch import Callback
from typing_extensions import override

from trustformers_pl.continual.answers import CachedAnswers, asked
from trustformers_pl.continual.asking import known_tasks
from trustformers_pl.continual.lwf_loss import Distillation, lwf_term
from trustformers_pl.continual.teacher import copied, snapshot
from trustformers_pl.errors import RefusedError
from trustformers_pl.shards import are_sharded
from trustformers_pl.stateful import State

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

Heads = Literal["auto", "one", "each"]


class LwF(Callback):
    """Li & Hoiem 2016, "Learning without Forgetting", as a loss term: `lwf_loss` on the data of the new task.

    The teacher is a copy of the weights at the end of the last task, in evaluation mode, in no registry: neither the
    optimizer nor DDP nor the module's `state_dict` knows of it; its weights are this callback's state. With `cache` no
    teacher is kept: its answers to all training data of a task are computed when the task begins, which also works
    where weights are sharded, and cannot be used with augmentation.

    In a stock Trainer: `Trainer(callbacks=[LwF()])`, with a callback that calls `on_task_end(trainer, module, task)`,
    or `from_start`; the module is a `DecomposedLoss`.

    Args:
        alpha: Weight of the term (lambda_o).
        temperature: T.
        from_start: Let the weights at the start of the run teach from the first step on, for a pretrained model.
        heads: `one` softmax over the outputs that old tasks knew, or one for `each` old task; `auto`: `each` where the
            scenario of `Tasks` is `task`, where tasks are told at test time, and `one` otherwise.
        cache: Keep the teacher's answers instead of the teacher.

    Attributes:
        loss: The object behind the loss term.
    """

    state_version = 1

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        temperature: float = 2.0,
        from_start: bool = False,
        heads: Heads = "auto",
        cache: bool = False,
    ) -> None:
        self.alpha, self.temperature, self.from_start = alpha, temperature, from_start
        self.heads, self.cache = heads, cache
        self.loss = Distillation(temperature)
        self._weights: dict[str, Any] | None = None
        self._module: LightningModule | None = None
        self._put: Any = None

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the loss term in the module, or put it there.

        Raises:
            RefusedError: The module is no `DecomposedLoss`.
        """
        if stage != "fit":
            return
        module: Any = pl_module
        if not hasattr(module, "loss_terms"):
            raise RefusedError("LwF needs a module that is a DecomposedLoss")
        owners = [getattr(term.compute, "__self__", None) for term in module.loss_terms]
        found = [owner for owner in owners if isinstance(owner, Distillation)]
        if not found:
            self._put = module.loss_terms
            term = lwf_term(self.alpha, self.temperature)
            module.loss_terms = (*module.loss_terms, term)
            found = [term.compute.__self__]  # type: ignore[attr-defined]
        self.loss = found[0]
        self.loss.answers, self.loss.heads, self.loss.taught = None, [], 0
        self._weights = self._module = None

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the teacher up: that of the checkpoint, or the weights as they are.

        Raises:
            RefusedError: Weights are sharded, and a teacher would not be.
        """
        if not self.cache and are_sharded(pl_module.parameters()):
            raise RefusedError("lwf: each rank would hold a whole teacher beside its shard; use cache: true")
        self._module = pl_module
        if self._weights is not None:
            self.loss.answers = copied(pl_module, self._weights)
        elif self.from_start and not self.cache and self.loss.answers is None and not trainer.global_step:
            self._teach(pl_module)

    def _teach(self, module: LightningModule) -> None:
        self._weights = snapshot(module)
        self.loss.answers = copied(module, self._weights)

    def on_task_start(self, trainer: Trainer, pl_module: LightningModule, task: int) -> None:
        """Ask the old network, which the module still is, about the task's data."""
        if self.cache and (task or self.from_start):
            self.loss.answers = asked(trainer, pl_module, task)

    def on_task_end(self, trainer: Trainer, pl_module: LightningModule, task: int) -> None:
        """Take the weights as the teacher of what comes."""
        self.loss.heads = self._heads_after(trainer, task)
        if not self.cache:
            self._teach(pl_module)

    def _heads_after(self, trainer: Trainer, task: int) -> list[torch.Tensor]:
        tasks = known_tasks(trainer)
        scenario = getattr(getattr(tasks, "order", tasks), "scenario", "class")
        if tasks is None or scenario == "domain":
            return []
        masks = [torch.as_tensor(tasks.mask(number)).cpu() for number in range(task + 1)]
        each = self.heads == "each" or (self.heads == "auto" and scenario == "task")
        return masks if each else [torch.stack(masks).any(0)]

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the module as it was."""
        if stage == "fit" and self._put is not None:
            module: Any = pl_module
            module.loss_terms, self._put = self._put, None

    def state(self) -> State:
        """The teacher's weights, or the answers that are kept."""
        answers = self.loss.answers
        value = {
            "weights": self._weights,
            "heads": list(self.loss.heads),
            "cached": answers.state_dict() if isinstance(answers, CachedAnswers) else None,
            "taught": self.loss.taught,
        }
        return State(value, self.state_version)

    def load_state(self, state: State) -> None:
        """Go on with them."""
        value = state.value
        self.loss.heads, self.loss.taught, self._weights = list(value["heads"]), value["taught"], value["weights"]
        self.loss.answers = None if value["cached"] is None else CachedAnswers(**value["cached"])
        if self._module is not None and self._weights is not None:  # a roll-back in the middle of a training
            self.loss.answers = copied(self._module, self._weights)

    def __getstate__(self) -> dict[str, Any]:
        """Without the module that it belongs to."""
        return {**vars(self), "_module": None}
