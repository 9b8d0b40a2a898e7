"""The hooks of a training step, looked up once: only those that someone has overridden are called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning import LightningModule
from lightning.pytorch import Callback
from lightning.pytorch.plugins.precision import Precision

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightning import Trainer

STEP_HOOKS = (
    "on_train_batch_start",
    "on_train_batch_end",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
)
FX = "_current_fx_name"  # where Lightning keeps the name of the hook that runs, for `self.log`


def overrides(instance: object, name: str, base: type) -> bool:
    """Whether calling `name` on an object may do more than the base class does: on its class, or on itself."""
    return name in vars(instance) or getattr(type(instance), name, None) is not getattr(base, name)


class StepHooks:
    """Calls hooks as Lightning does (callbacks, then the module, under the hook's name), without what nobody wrote.

    Attributes:
        callbacks: The Trainer's callbacks when they were looked up.
        at_boundary: The callbacks' methods `on_step_boundary`.
        clips_itself: Whether the module, or a subclass of the Precision, decides how gradients are clipped.

    Args:
        trainer: That is fitting.
    """

    def __init__(self, trainer: Trainer) -> None:
        module = trainer.lightning_module
        clipping = ((module, "configure_gradient_clipping"), (module, "clip_gradients"))
        self.clips_itself = any(overrides(owner, name, LightningModule) for owner, name in clipping)
        self.clips_itself |= overrides(trainer.precision_plugin, "clip_gradients", Precision)
        self._trainer = trainer
        self._module = module
        # torch's __setattr__ looks for parameters and submodules first.
        self._names: dict[str, Any] = vars(module)
        self._look_up()
        self._of_module = {name: self._callables([module], name, LightningModule) for name in STEP_HOOKS}

    def _look_up(self) -> None:
        self.callbacks: list[Any] = list(self._trainer.callbacks)  # type: ignore[attr-defined]
        self.at_boundary = boundary_methods(self._trainer)
        self._of_callbacks = {name: self._callables(self.callbacks, name, Callback) for name in STEP_HOOKS}

    @staticmethod
    def _callables(owners: list[Any], name: str, base: type) -> tuple[Callable[..., Any], ...]:
        found = (getattr(owner, name) for owner in owners if overrides(owner, name, base))
        return tuple(function for function in found if callable(function))

    def call(self, name: str, *arguments: Any) -> Any:
        """Call one of `STEP_HOOKS` on all callbacks and on the module; returns the module's answer."""
        if self._trainer.callbacks != self.callbacks:  # type: ignore[attr-defined]
            self._look_up()  # callbacks may come and go while a fit runs
        of_callbacks, of_module = self._of_callbacks[name], self._of_module[name]
        if not (of_callbacks or of_module):
            return None
        names, module = self._names, self._module
        before, names[FX] = names[FX], name
        for function in of_callbacks:
            function(self._trainer, module, *arguments)
        answer = None
        for function in of_module:
            answer = function(*arguments)
        names[FX] = before
        return answer

    def under_name(self, name: str, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Call a function as the hook `name`: what it logs is logged by that hook."""
        names = self._names
        before, names[FX] = names[FX], name
        answer = function(*arguments, **named)
        names[FX] = before
        return answer


def boundary_methods(trainer: Trainer) -> tuple[Callable[[Trainer, LightningModule], None], ...]:
    """The callbacks' methods `on_step_boundary`; those of callbacks with `at_end_of_boundary = True` come last."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    found = [callback for callback in callbacks if hasattr(callback, "on_step_boundary")]
    found.sort(key=lambda callback: getattr(callback, "at_end_of_boundary", False))
    return tuple(callback.on_step_boundary for callback in found)
