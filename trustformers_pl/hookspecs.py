"""The contract between the core and its plugins: every hook, when it is called, and what an answer means.

Hooks are called while a run is assembled (`probe` and `report`: when it has ended), in the order of this file and,
within one hook, in the order of the plugins (`trustformers-pl explain`). They answer with `Part`s (see
`trustformers_pl.parts`), or with objects that are built already; what runs during training are Lightning's own hooks on
those objects. `None` means nothing to add.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from trustformers_pl.gradients import GradientPhase, Rule
    from trustformers_pl.parts import Part
    from trustformers_pl.phases import DataPhase, ModulePhase
    from trustformers_pl.plan import Plan
    from trustformers_pl.program import Program
    from trustformers_pl.recipe import Recipe
    from trustformers_pl.report import ReportSection
    from trustformers_pl.run import Run
    from trustformers_pl.steps import LossTerm, SampleWeights, StepExecutor

CONTRACT_VERSION = 1
PROJECT = "trustformers_pl"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class HookSpecs:
    """The hooks."""

    @hookspec
    def recipe(self, recipe: Recipe) -> Mapping[str, Any] | None:
        """Sections that this plugin's own section stands for: importers, and short forms of several sections.

        Called before everything else, once for each plugin that implements it, in the order of their names. What it
        answers is laid under the recipe, so that written values win, `null` too; its origin is the plugin's section.
        Two that stand for different values of one key that is not written are refused.
        """

    @hookspec
    def check(self, plan: Plan) -> Sequence[str] | None:
        """Reasons to refuse this run, before anything is built. One sentence each; all plugins' are shown at once."""

    @hookspec(firstresult=True)
    def program(self, plan: Plan) -> Part | Program | None:
        """What this recipe runs instead of one training: a `trustformers_pl.program.Program`, or a part that builds it.

        Called after the `check` of the plugin that claims `program`, before anything is built, and instead of all hooks
        below: they are called for each child, in its own plan, from which the claiming plugin's section is gone.
        `fit` then runs the children that the program yields, each in a process and a folder of its own. None: train.
        """

    @hookspec
    def trainer_arguments(self, plan: Plan) -> Mapping[str, Any] | None:
        """Arguments of `lightning.Trainer` that this plugin's package declares to own and now sets.

        Ownership is an entry point in the group `trustformers_pl.trainer_arguments`: argument = the plugin. Two
        plugins that set one argument must agree. Arguments that hooks fill cannot be owned.
        """

    @hookspec(firstresult=True)
    def strategy(self, plan: Plan) -> Part | Any | None:
        """The run's `Strategy`. One plugin may answer: claim `strategy`."""

    @hookspec
    def mesh(self, plan: Plan) -> Sequence[Part] | None:
        """Dimensions of the device mesh (`trustformers_pl.mesh_strategy.Dimension`), which make a `MeshStrategy`.

        Outer dimensions first, in plugin order; a run has either dimensions or a `strategy`.
        """

    @hookspec
    def plugins(self, plan: Plan) -> Sequence[Part | Any] | None:
        """CheckpointIO and LayerSync parts for `Trainer(plugins=)`, one of each in a run.

        Precision and ClusterEnvironment are the engine's: own `trainer.precision`, whose value is a name or a part that
        makes an `OrderedPrecision` and takes `rules`, or answer `gradient`.
        """

    @hookspec
    def callbacks(self, plan: Plan) -> Sequence[Part | Any] | None:
        """Callbacks for `Trainer(callbacks=)`; Lightning calls them in plugin order."""

    @hookspec
    def loggers(self, plan: Plan) -> Sequence[Part | Any] | None:
        """Loggers for `Trainer(logger=)`."""

    @hookspec
    def module_mixins(self, plan: Plan) -> Sequence[str] | None:
        """Mixin classes (as `package.module:Class`) for the LightningModule; earlier plugins' come first in the MRO.

        What two of them define must be reached: the first one calls `super()`, or the run is refused.
        """

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
        """Loss terms added to the module's own loss, whoever runs the step. The module must be composable.

        Each has a name of its own; where gradients are accumulated, each says by `LossTerm.count` what it counts.
        """

    @hookspec
    def gradient(self, plan: Plan, phase: GradientPhase) -> Sequence[Part | Rule] | None:
        """Rules for one phase of the gradient order (`trustformers_pl.gradients`), called once for each phase.

        A rule is called with the `GradientStep` at every optimizer step, in plugin order, after what the phase does by
        itself. The phases `unscale`, `divide`, `step` and `schedule` take none.
        """

    @hookspec
    def sample_weights(self, plan: Plan) -> Sequence[Part | SampleWeights] | None:
        """Factors of each sample's loss, multiplied. The module's `loss` must take `sample_weights`."""

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

    @hookspec
    def probe(self, run: Run) -> str | None:
        """Evidence, after a fit, that this feature took part: one line, or None where there is none.

        The pair test asks it: a feature that is on and leaves no evidence is a feature that was silently ignored.
        """

    @hookspec
    def report(self, run: Run) -> Sequence[ReportSection] | None:
        """Sections of the run's report, written to `report.md` in the run folder when a fit ends."""
