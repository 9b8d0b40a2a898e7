"""Other parameter groups for an optimizer in use, under a learning-rate schedule that has begun."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.optim import lr_scheduler

from trustformers_pl.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch.optim import Optimizer

# Whose only state for each group is a base rate, and for the first two a factor.
FOLLOWED = (
    lr_scheduler.LambdaLR,
    lr_scheduler.MultiplicativeLR,
    lr_scheduler.StepLR,
    lr_scheduler.MultiStepLR,
    lr_scheduler.ExponentialLR,
    lr_scheduler.CosineAnnealingLR,
    lr_scheduler.ConstantLR,
    lr_scheduler.LinearLR,
    lr_scheduler.PolynomialLR,
)


def refuse_unfollowable(schedulers: Sequence[Any]) -> None:
    """Refuse what new groups cannot follow.

    Args:
        schedulers: Of the optimizer.

    Raises:
        RefusedError: One has more state for each group than a base rate, or a factor that differs between groups.
    """
    for scheduler in schedulers:
        name = type(scheduler).__name__
        if type(scheduler) not in FOLLOWED:
            raise RefusedError(f"grow: a new part cannot follow the schedule {name}; use `schedule:` or LambdaLR")
        if len({id(factor) for factor in getattr(scheduler, "lr_lambdas", ())}) > 1:
            raise RefusedError(f"grow: {name} has a factor for each group, and none for a new part; give it one")


def regroup(optimizer: Optimizer, groups: Sequence[dict[str, Any]], schedulers: Sequence[Any]) -> None:
    """Give an optimizer in use other groups, each at its own rate times what the schedule has made of the first one's.

    State of parameters that go on training stays, that of all others is freed. The optimizer, its list of groups and
    its mapping of state stay the same objects, as others refer to them.

    Args:
        optimizer: In use.
        groups: All of them, as `add_param_group` takes them; their `lr` is the peak rate, or the optimizer's default.
        schedulers: Of the optimizer; none of them is refused by `refuse_unfollowable`.
    """
    before = list(optimizer.param_groups)
    first = before[0]
    reached = first["lr"] / first["initial_lr"] if first.get("initial_lr") else 1.0
    optimizer.param_groups.clear()
    try:
        for group in groups:
            peak = group.get("initial_lr", group.get("lr", optimizer.defaults["lr"]))
            scheduled = {"lr": peak * reached, "initial_lr": peak} if schedulers else {"lr": peak * reached}
            optimizer.add_param_group({**group, **scheduled})
    except (ValueError, TypeError) as error:
        optimizer.param_groups[:] = before
        raise RefusedError(f"grow: the optimizer does not take the grown module's groups: {error}") from error
    _free_state(optimizer)
    for scheduler in schedulers:
        _lengthen(scheduler, [group["initial_lr"] for group in optimizer.param_groups], reached)


def _free_state(optimizer: Optimizer) -> None:
    trained = {id(p) for group in optimizer.param_groups for p in group["params"] if p.requires_grad}
    for parameter in [p for p in optimizer.state if id(p) not in trained]:
        del optimizer.state[parameter]


def _lengthen(scheduler: Any, peaks: list[float], reached: float) -> None:
    scheduler.base_lrs = peaks
    scheduler._last_lr = [peak * reached for peak in peaks]
    if hasattr(scheduler, "lr_lambdas"):
        scheduler.lr_lambdas = scheduler.lr_lambdas[:1] * len(peaks)


def named(group: dict[str, Any]) -> dict[str, Any]:
    """A group of a built optimizer, as one that `add_param_group` takes."""
    names = group.get("param_names")
    params = group["params"] if names is None else list(zip(names, group["params"], strict=True))
    return {**{key: value for key, value in group.items() if key != "param_names"}, "params": params}
