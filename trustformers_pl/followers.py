"""New parameter groups under a learning-rate schedule that has begun."""

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


def follow(optimizer: Optimizer, groups: Sequence[dict[str, Any]], schedulers: Sequence[Any]) -> None:
    """Add groups to an optimizer, each at its own rate times what the schedule has made of the first group's.

    Args:
        optimizer: In use.
        groups: As `add_param_group` takes them; their `lr` is the peak rate, or the optimizer's default.
        schedulers: Of the optimizer; none of them is refused by `refuse_unfollowable`.
    """
    first = optimizer.param_groups[0]
    reached = first["lr"] / first["initial_lr"] if first.get("initial_lr") else 1.0
    for group in groups:
        peak = group.get("initial_lr", group.get("lr", optimizer.defaults["lr"]))
        scheduled = {"lr": peak * reached, "initial_lr": peak} if schedulers else {"lr": peak}
        optimizer.add_param_group({**group, **scheduled})
        for scheduler in schedulers:
            scheduler.base_lrs.append(peak)
            scheduler._last_lr.append(peak * reached)
            if hasattr(scheduler, "lr_lambdas"):
                scheduler.lr_lambdas.append(scheduler.lr_lambdas[0])
