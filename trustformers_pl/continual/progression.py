"""Progressive networks as a feature: when a task begins, its column does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback
from typing_extensions import override

from trustformers_pl.continual.column_growth import add_column
from trustformers_pl.continual.progressive import networks
from trustformers_pl.continual.tasks import tasks_of
from trustformers_pl.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lightning.pytorch import LightningModule, Trainer


class Progressive(Callback):
    """Grows a column of each `ProgressiveNetwork` in the module when a task begins, from the second one on.

    Rusu et al. 2016, "Progressive Neural Networks". The columns before are frozen; what is not in a network trains on,
    unless `freeze_rest`. The weights tell how many columns there are, so a run that goes on needs no state of this.

    In a stock Trainer: `Trainer(callbacks=[Tasks(), Progressive()], plugins=[OrderedPrecision()])`, and a module with a
    `ProgressiveNetwork`; see `Tasks`.

    Args:
        freeze_rest: Freeze what is not in a network, in evaluation mode, when the second task begins.
    """

    def __init__(self, *, freeze_rest: bool = False) -> None:
        self.freeze_rest = freeze_rest

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Look for what says where tasks begin.

        Raises:
            RefusedError: Nothing does, or the tasks of samples are not told.
        """
        if stage != "fit":
            return
        if tasks_of(trainer, type(self).__name__).order.scenario == "class":
            raise RefusedError(
                "Progressive: a column must be chosen for each sample, and scenario class tells no tasks"
            )

    @override
    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: Mapping[str, Any]) -> None:
        """The weights are loaded, and the optimizer is not built yet: it shall not have what was frozen."""
        if any(len(network.columns) > 1 for network in networks(pl_module).values()):
            self._freeze_rest(pl_module)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """There is something to grow, and what is frozen is in evaluation mode again.

        Raises:
            RefusedError: The module has no `ProgressiveNetwork`.
        """
        found = networks(pl_module)
        if not found:
            raise RefusedError("Progressive: the module has no ProgressiveNetwork; put one in the place of its layers")
        if any(len(network.columns) > 1 for network in found.values()):
            self._freeze_rest(pl_module)

    def on_task_start(self, trainer: Trainer, pl_module: LightningModule, task: int) -> None:
        """A column for each task but the first, which has one."""
        del trainer
        if not task:
            return
        self._freeze_rest(pl_module)
        for name, network in networks(pl_module).items():
            if len(network.columns) <= task:
                add_column(pl_module, name)

    def _freeze_rest(self, module: LightningModule) -> None:
        if not self.freeze_rest:
            return
        inside = {id(one) for network in networks(module).values() for one in network.modules()}
        around = {id(one) for one in module.modules() if any(id(child) in inside for child in one.modules())}
        for one in module.modules():
            if id(one) in inside:
                continue
            if id(one) not in around:
                one.training = False
            for parameter in one.parameters(recurse=False):
                parameter.requires_grad_(False)
                parameter.grad = None
