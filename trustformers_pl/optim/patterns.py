"""Parameters chosen by patterns of their names, and freezing them."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from torch import nn

from trustformers_pl.errors import RefusedError
from trustformers_pl.names import nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from trustformers_pl.phases import PhaseContext


def matching(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name fits one of the patterns, in which `*` is anything, dots too (`blocks.0.*`)."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def refuse_unmatched(module: nn.Module, patterns: Iterable[str], key: str) -> None:
    """Refuse patterns that no parameter fits: a misspelt one would pass unseen.

    Args:
        module: Whose parameters. A part that grows comes in bare `nn.Module`s, and need not have what the whole has.
        patterns: Of their names.
        key: Where the patterns stand, for the message.

    Raises:
        RefusedError: One fits none.
    """
    names = [name for name, _ in module.named_parameters()]
    for pattern in patterns:
        if type(module) is not nn.Module and not any(fnmatchcase(name, pattern) for name in names):
            raise RefusedError(f"{key}: {pattern!r} fits no parameter; {nearest(pattern, names)}")


def freeze(module: nn.Module, patterns: Sequence[str], key: str = "freeze") -> None:
    """Stop training the parameters that fit one of the patterns.

    Args:
        module: In which they are, before its optimizer is made.
        patterns: Of names as in `named_parameters()`.
        key: Where the patterns stand, for messages.

    Raises:
        RefusedError: A pattern fits no parameter, or nothing is left to train.
    """
    refuse_unmatched(module, patterns, key)
    for name, parameter in module.named_parameters():
        if matching(name, patterns):
            parameter.requires_grad_(False)
    if type(module) is not nn.Module and not any(parameter.requires_grad for parameter in module.parameters()):
        raise RefusedError(f"{key}: nothing is left to train; freeze less")


class Freeze:
    """`freeze` as a transform of the module phases: before the strategy wraps the module, which looks at it.

    Args:
        patterns: Of names of parameters.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self.patterns = tuple(patterns)

    def __call__(self, module: nn.Module, context: PhaseContext) -> None:
        """Freeze."""
        del context
        freeze(module, self.patterns, "optimizer.freeze")
