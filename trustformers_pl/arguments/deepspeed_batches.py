"""DeepSpeed's three batch sizes, of which one follows from the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trustformers_pl.errors import RecipeError

if TYPE_CHECKING:
    from trustformers_pl.arguments.given import Given


@dataclass(frozen=True)
class BatchSizes:
    """How samples become optimizer steps.

    Attributes:
        micro: Samples of one forward pass on one rank.
        accumulated: Forward passes of one optimizer step.
        ranks: That see different samples.
    """

    micro: int
    accumulated: int
    ranks: int


def batch_sizes(given: Given, devices: int | None) -> BatchSizes | None:
    """Complete them as DeepSpeed does: `train_batch_size = micro x accumulation x ranks`.

    Args:
        given: The configuration.
        devices: Ranks; where all three sizes are given they follow from these, otherwise 1 by default.

    Returns:
        The sizes; None where the configuration has neither the whole nor the micro batch.

    Raises:
        RecipeError: The three do not multiply, or one is less than 1.
    """
    names = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
    whole, micro, accumulated = (_size(given, name) for name in names)
    if whole is None and micro is None:
        return None
    if whole is None:
        assert micro is not None
        return BatchSizes(micro, accumulated or 1, devices or 1)
    if micro is not None and accumulated is not None:
        ranks = _quotient(whole, micro * accumulated, f"{names[1]} = {micro} x {names[2]} = {accumulated}")
        if devices not in (None, ranks):
            raise RecipeError(
                f"train_batch_size = {whole} is {names[1]} = {micro} x {names[2]} = {accumulated} x {ranks} ranks, not "
                f"{devices}; change one of them"
            )
        return BatchSizes(micro, accumulated, ranks)
    ranks = devices or 1
    if micro is not None:
        return BatchSizes(micro, _quotient(whole, micro * ranks, f"{names[1]} = {micro} x {ranks} ranks"), ranks)
    accumulated = accumulated or 1
    rest = _quotient(whole, accumulated * ranks, f"{names[2]} = {accumulated} x {ranks} ranks")
    return BatchSizes(rest, accumulated, ranks)


def _size(given: Given, name: str) -> int | None:
    if given.take(name) is None:
        return None
    size = given.whole(name, 1)
    if size < 1:
        raise RecipeError(f"{name} = {size}: expected at least 1")
    return size


def _quotient(whole: int, part: int, shown: str) -> int:
    if whole % part:
        raise RecipeError(f"train_batch_size = {whole} is not a multiple of {shown}; change one of them")
    return whole // part
