"""The contract between the core and its plugins: every hook, when it is called, and what an answer means.

All hooks are called once, while a run is assembled, in the order of this file and, within one hook, in the order of
the plugins (`trustformers-pl plugins`). They answer with `Part`s (see `trustformers_pl.parts`), or with objects that
are built already; what runs during training are Lightning's own hooks on those objects. `None` means nothing to add.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from trustformers_pl.parts import Part
    from trustformers_pl.phases import DataPhase, ModulePhase
    from trustformers_pl.plan import Plan
    from trustformers_pl.steps import LossTerm, StepExecutor

CONTRACT_VERSION = 1
PROJECT = "trustformers_pl"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class HookSpecs:
    """The hooks."""

    @hookspec
    def check(self, plan: Plan) -> Sequence[str] | None:
        """Reasons to refuse this run, before anything is built. One sentence each; all plugins' are shown at once."""

    @hookspec
    def trainer_arguments(self, plan: Plan) -> Mapping[str, Any] | None:
        """Arguments of `lightning.Trainer` that this plugin's package declares to own and now sets.

        Ownership is an entry point in the group `trustformers_pl.trainer_arguments`: argument = the plugin.
        """

    @hookspec(firstresult=True)
    def strategy(self, plan: Plan) -> Part | Any | None:
        """The run's `Strategy`. One plugin may answer: claim `strategy`."""

    @hookspec
    def plugins(self, plan: Plan) -> Sequence[Part | Any] | None:
        """Precision and CheckpointIO parts for `Trainer(plugins=)`."""

    @hookspec
    def callbacks(self, plan: Plan) -> Sequence[Part | Any] | None:
        """Callbacks for `Trainer(callbacks=)`; Lightning calls them in plugin order."""

    @hookspec
    def loggers(self, plan: Plan) -> Sequence[Part | Any] | None:
        """Loggers for `Trainer(logger=)`."""

    @hookspec
    def module_mixins(self, plan: Plan) -> Sequence[str] | None:
        """Mixin classes (as `package.module:Class`) for the LightningModule; earlier plugins' come first in the MRO."""

    @hookspec
    def modify_module(self, plan: Plan, phase: ModulePhase) -> Sequence[Part | Callable[..., Any]] | None:
        """Transforms `(module, context) -> module or None` of the built module; called once for each phase.

        A transform belongs to one phase. They run in the order of the phases, within one in plugin order, when
        Lightning configures the model; `context` is a `PhaseContext`. See `trustformers_pl.module_phases`.
        """

    @hookspec
    def data(self, plan: Plan, phase: DataPhase) -> Sequence[Part | Callable[..., Any]] | None:
        """Functions of this phase of the training data (SHARD: of all data); called once for each phase.

        `DataPhase` has their arguments. Each must be a pure function of them, so that a resumed run finds its place.
        BATCH has one owner, who claims `data-batch`; SHARD has one, who claims `data-shard`.
        """

    @hookspec
    def loss_terms(self, plan: Plan) -> Sequence[Part | LossTerm] | None:
        """Loss terms added to the module's own loss, whoever runs the step. The module must be composable."""

    @hookspec(firstresult=True)
    def step(self, plan: Plan) -> Part | StepExecutor | None:
        """The executor of training steps. One plugin may answer: claim `step`. Default: sequential."""

    @hookspec(firstresult=True)
    def optimizer(self, plan: Plan) -> Part | None:
        """The optimizer, as a part with the free variable `module`. One plugin may answer: claim `optimizer`."""

    @hookspec(firstresult=True)
    def lr_schedule(self, plan: Plan) -> Part | None:
        """The learning-rate schedule, as a part with the free variables `optimizer` and `total_steps`.

        Stepped after each optimizer step. One plugin may answer: claim `schedule`.
        """

    @hookspec(firstresult=True)
    def ckpt_path(self, plan: Plan) -> Part | None:
        """The checkpoint to go on from, as a part that builds to a path or None, for `Trainer.fit(ckpt_path=)`."""
