"""Growth during training: a new part goes through the phases alone, joins the optimizer, and is told to who asks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning.pytorch.core.optimizer import _configure_optimizers
from torch import nn

from trustformers_pl.errors import RefusedError
from trustformers_pl.followers import named, refuse_unfollowable, regroup
from trustformers_pl.parts import Part

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightning import LightningModule, Trainer
    from torch.optim import Optimizer

    Groups = Callable[[nn.Module], list[dict[str, Any]]]


def grow(
    module: LightningModule, name: str, part: nn.Module, *, groups: Groups | None = None
) -> dict[str, nn.Parameter]:
    """Attach a new submodule, put it through the phases that the module went through, and have it trained.

    Before Lightning has configured the model the part is attached, and the phases see the whole. While a fit runs, the
    optimizer is from then on what a new one of the grown module would be: groups in the same order, learning rates that
    a schedule has reached, and the state of what goes on training. What was frozen before is left out and its state
    freed. So a resumed run, which grows before its optimizer is built, has the same groups. Call it at a step boundary.

    A strategy with a method `place_again()` is called afterwards, to wrap the module anew; then every callback with a
    method `on_grown(trainer, module, names)`: the new parameters' names.

    Args:
        module: The LightningModule, of a fit that runs or is to come. Nothing that it has changes its name.
        name: Where the part goes: a dotted name that is free, in a submodule that exists.
        part: The new submodule, built; moved to the module's device.
        groups: How the optimizer groups the parameters of a module, as `decay_groups` does. Needed only where the
            optimizer was made outside of recipe and module, and has several groups.

    Returns:
        Name -> parameter, of what joined the optimizer.

    Raises:
        RefusedError: The name is taken or has no parent; a transform breaks the rules of its phase; the strategy wraps
            the module, so that it would not see the part; or the optimizer's settings for it are not known.
    """
    parent, own_name = _free_place(module, name)
    trainer: Trainer | None = module._trainer
    optimizer = _optimizer(trainer) if trainer is not None else None
    alone, part = _through_phases(module, name, part)
    if trainer is not None:
        trainer.precision_plugin.convert_module(alone)
    parent.add_module(own_name, part.train(module.training))
    if trainer is None or optimizer is None:
        return {}
    try:
        _regroup(trainer, module, optimizer, groups)
    except RefusedError:
        delattr(parent, own_name)
        raise
    added = {full: p for full, p in alone.named_parameters() if p.requires_grad}
    if hasattr(trainer.strategy, "place_again"):
        trainer.strategy.place_again()
    _tell(trainer, module, tuple(added))
    return added


def _free_place(module: LightningModule, name: str) -> tuple[nn.Module, str]:
    place, _, own_name = name.rpartition(".")
    try:
        parent = module.get_submodule(place)
    except AttributeError as error:
        raise RefusedError(f"grow: {name}: the module has no {place!r} to attach to") from error
    if hasattr(parent, own_name):
        raise RefusedError(f"grow: {name}: the name is taken; choose another")
    return parent, own_name


def _optimizer(trainer: Trainer) -> Optimizer | None:
    """The optimizer that is in use, if the part can join it."""
    if not (trainer.training and trainer.optimizers):
        return None
    strategy: Any = trainer.strategy
    if hasattr(strategy, "refuse_growth"):
        strategy.refuse_growth()
    elif strategy.model is not trainer.lightning_module:
        wrapper = type(strategy.model).__name__
        raise RefusedError(
            f"grow: {wrapper} wraps the module and would not synchronise a new part's gradients; use MeshStrategy "
            "(section `ddp`)"
        )
    if len(trainer.optimizers) > 1:
        raise RefusedError("grow: the module has several optimizers, and which one the part should join is not known")
    refuse_unfollowable([config.scheduler for config in trainer.lr_scheduler_configs])
    return trainer.optimizers[0]


def _through_phases(module: LightningModule, name: str, part: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The part under its full name in an otherwise empty module, and the part itself: phases may replace it."""
    alone = part
    for piece in reversed(name.split(".")):
        holder = nn.Module()
        holder.add_module(piece, alone)
        alone = holder
    if not any(p.is_meta for p in part.parameters()):
        part.to(module.device)
    phases = getattr(module, "module_phases", None)
    if phases is not None and phases.applied_to(module):
        phases.run(alone, module.device_mesh, name)
    outside = [full for full, _ in alone.named_parameters() if not full.startswith(f"{name}.")]
    if outside:
        raise RefusedError(f"grow: {name}: a transform put {', '.join(outside)} outside of it")
    return alone, alone.get_submodule(name)


def _regroup(trainer: Trainer, module: LightningModule, optimizer: Optimizer, groups: Groups | None) -> None:
    found = _new_groups(module, optimizer, groups)
    regroup(optimizer, found, [config.scheduler for config in trainer.lr_scheduler_configs])


def _new_groups(module: LightningModule, optimizer: Optimizer, groups: Groups | None) -> list[dict[str, Any]]:
    """Those of a new optimizer of the module."""
    if groups is not None:
        return groups(module)
    declared = getattr(module, "optimizer_part", None)
    if isinstance(declared, Part):
        return [named(group) for group in declared.build(module=module).param_groups]
    if declared is None:
        (made,), _, _ = _configure_optimizers(module.configure_optimizers())  # type: ignore[arg-type]
        return [named(group) for group in made.param_groups]
    if len(optimizer.param_groups) > 1:
        raise RefusedError("grow: the optimizer has several groups; say how it groups parameters, with `groups=`")
    settings = {key: value for key, value in optimizer.param_groups[0].items() if key not in ("params", "param_names")}
    own = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    settings["lr"] = settings.get("initial_lr", settings["lr"])
    return [{**settings, "params": own if "param_names" in optimizer.param_groups[0] else [p for _, p in own]}]


def _tell(trainer: Trainer, module: LightningModule, names: tuple[str, ...]) -> None:
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        if callable(getattr(callback, "on_grown", None)):
            callback.on_grown(trainer, module, names)
