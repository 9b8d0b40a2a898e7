"""Loss terms whose mean over an accumulation window could not be found: refused before the first step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trustformers_pl.compose import user_class
from trustformers_pl.errors import RefusedError

if TYPE_CHECKING:
    from trustformers_pl.steps import Counted


def not_counted(name: str, counted: Counted | None) -> str:
    """Why a term cannot be accumulated: nothing is said of its counts, or nobody has counted ahead."""
    if counted is None:
        return (
            f"loss term {name!r} does not say what it counts, and gradients are accumulated over micro-batches; give "
            'its LossTerm count="loss" if it counts what the loss counts, count="weights" if it looks at no data, or '
            "count=function, (module, batch) -> its count"
        )
    return (
        f"loss term {name!r} has to be counted before the first micro-batch of an accumulation window; give the "
        "Trainer our epoch loop: a `Checkpoint` callback, or `trustformers_pl.loop.exact_loop(trainer)`"
    )


def refuse_terms(module: Any, micro_batches: int) -> None:
    """Refuse loss terms whose mean over an optimizer step could not be found.

    Args:
        module: Any module; those without loss terms pass.
        micro_batches: Over which gradients are accumulated.

    Raises:
        RefusedError: One line for each term.
    """
    if micro_batches > 1 and (lines := _of_counts(module)):
        raise RefusedError("\n".join(lines))


def _of_counts(module: Any) -> list[str]:
    terms = getattr(module, "loss_terms", ())
    lines = [not_counted(term.name, None) for term in terms if term.count is None]
    own = [term.name for term in terms if callable(term.count)]
    if own and not callable(getattr(module, "loss_count", None)):
        name = user_class(type(module)).__name__
        lines.append(
            f"loss term {own[0]!r} has a count of its own, and gradients are accumulated over micro-batches; give "
            f"{name} `loss_count(batch)`, the count of its loss for a batch as the loader gives it"
        )
    return lines
