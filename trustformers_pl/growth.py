"""Growth during training: a new part goes through the phases alone, and joins the optimizer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from trustformers_pl.errors import RefusedError
from trustformers_pl.followers import follow, refuse_unfollowable
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

    Before Lightning has configured the model the part is attached, and the phases see the whole. While a fit runs, its
    trainable parameters join the optimizer in new groups, at the learning rate that a schedule has reached.

    Args:
        module: The LightningModule, of a fit that runs or is to come. Nothing that it has changes its name.
        name: Where the part goes: a dotted name that is free, in a submodule that exists.
        part: The new submodule, built; moved to the module's device.
        groups: How the optimizer groups the parameters of a module, as `decay_groups` does. Needed only where the
            optimizer has several groups and is not of the recipe.

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
    added = {full: p for full, p in alone.named_parameters() if p.requires_grad}
    new_groups = _groups(module, optimizer, alone, groups) if optimizer is not None and added else []
    parent.add_module(own_name, part.train(module.training))
    if trainer is None or optimizer is None:
        return {}
    follow(optimizer, new_groups, [config.scheduler for config in trainer.lr_scheduler_configs])
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
    if trainer.strategy.model is not trainer.lightning_module:
        wrapper = type(trainer.strategy.model).__name__
        raise RefusedError(f"grow: {wrapper} wraps the module and would not synchronise a new part's gradients")
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


def _groups(
    module: LightningModule, optimizer: Optimizer, alone: nn.Module, groups: Groups | None
) -> list[dict[str, Any]]:
    """What the optimizer's groups would be, were the part all there is."""
    if groups is not None:
        return groups(alone)
    declared = getattr(module, "optimizer_part", None)
    if isinstance(declared, Part):
        return [_named(group) for group in declared.build(module=alone).param_groups]
    if len(optimizer.param_groups) > 1:
        raise RefusedError("grow: the optimizer has several groups; say how it groups parameters, with `groups=`")
    settings = {key: value for key, value in optimizer.param_groups[0].items() if key not in ("params", "param_names")}
    named = [(name, p) for name, p in alone.named_parameters() if p.requires_grad]
    return [{**settings, "params": named if "param_names" in optimizer.param_groups[0] else [p for _, p in named]}]


def _named(group: dict[str, Any]) -> dict[str, Any]:
    """A group of a built optimizer, as one that `add_param_group` takes."""
    names = group.pop("param_names", None)
    params = group["params"] if names is None else list(zip(names, group["params"], strict=True))
    return {**group, "params": params}
