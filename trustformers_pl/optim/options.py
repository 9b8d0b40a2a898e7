"""Keys that the sections of all optimizers, and those of all schedules, have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trustformers_pl.names import nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

OVERRIDES = ("lr", "weight_decay")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """What every optimizer can be told."""

    lr: float = 1e-3
    """Peak learning rate; the schedule multiplies it. 1e-3 suits small models trained from scratch."""
    weight_decay: float = 0.0
    """L2 penalty of matrices, added to the gradient; norms, biases and other vectors have none."""
    groups: tuple[dict[str, str | float], ...] = ()
    """Settings by parameter name: `{match: "blocks.0.*", lr: 1e-4, weight_decay: 0.0}`; `*` is anything, later win."""
    layer_decay: float = 1.0
    """Factor of the learning rate from each numbered block to the one below it; 1 for none, 0.75 to 0.95 are usual."""
    freeze: tuple[str, ...] = ()
    """Patterns of the names of parameters that are not trained (`embedding.*`)."""

    def __post_init__(self) -> None:
        """Refuse what no step can use."""
        if self.lr < 0 or self.weight_decay < 0:
            raise ValueError("lr and weight_decay must not be negative")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay must be above 0 and at most 1, but is {self.layer_decay}")
        for group in self.groups:
            _check_group(group)


def _check_group(group: Mapping[str, Any]) -> None:
    shown = dict(group)
    if not isinstance(group.get("match"), str):
        raise ValueError(
            f'{shown} of groups has no `match`; give a pattern of parameter names, as `match: "blocks.0.*"`'
        )
    for key, value in group.items():
        if key not in ("match", *OVERRIDES):
            raise ValueError(f"{shown} of groups: no such key {key!r}; {nearest(key, ['match', *OVERRIDES])}")
        if key != "match" and (isinstance(value, str) or value < 0):
            raise ValueError(f"{shown} of groups: {key} must be a number that is not negative")
    if len(group) == 1:
        raise ValueError(f"{shown} of groups changes nothing; give it {' or '.join(OVERRIDES)}")


def check_betas(eps: float, betas: tuple[float, float]) -> None:
    """Refuse what Adam and its kin cannot use.

    Raises:
        ValueError: A decay rate outside of [0, 1), or a negative eps.
    """
    if eps < 0:
        raise ValueError("eps must not be negative")
    if not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"betas must be in [0, 1), not {betas}")


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """What every schedule can be told."""

    warmup_steps: int = 0
    """Optimizer steps in which the rate rises linearly from 0 to the peak."""
    warmup_ratio: float = 0.0
    """The same as a fraction of all steps, rounded up; give one of the two."""
    num_training_steps: int | None = None
    """Optimizer steps to the end of the schedule; by default those of the run."""

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps must not be negative, but is {self.warmup_steps}")
        if not 0 <= self.warmup_ratio <= 1:
            raise ValueError(f"warmup_ratio must be in [0, 1], but is {self.warmup_ratio}")
        if self.warmup_steps and self.warmup_ratio:
            raise ValueError("warmup_steps and warmup_ratio are both given; give one of the two")
        if self.num_training_steps is not None and self.num_training_steps < 1:
            raise ValueError(f"num_training_steps must be at least 1, but is {self.num_training_steps}")


@dataclass(frozen=True, kw_only=True)
class FloorConfig(ScheduleConfig):
    """What a schedule with a floor can be told."""

    min_ratio: float = 0.0
    """The floor, as a fraction of the peak; the rate stays there past the last step."""

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        super().__post_init__()
        if not 0 <= self.min_ratio <= 1:
            raise ValueError(f"min_ratio must be in [0, 1], but is {self.min_ratio}")
