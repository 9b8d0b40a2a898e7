"""What one configuration of a feature needs from a run and does to it: conflicts follow from these, not from names."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A trait that a feature cannot live with.

    Attributes:
        trait: The trait, when any other feature provides it.
        reason: Why, as a clause that follows `because`.
        mend: The nearest change that would work.
    """

    trait: str
    reason: str
    mend: str


@dataclass(frozen=True, kw_only=True)
class Traits:
    """The declarations of one feature with one configuration.

    Attributes:
        claims: Exclusive slots; two features of a run may not claim the same one.
        provides: What holds in a run with this feature.
        requires: What another feature, or the module, must provide.
        refuses: What no other feature may provide.
        after: Traits or feature names whose hooks are called before this feature's.
    """

    claims: frozenset[str] = frozenset()
    provides: frozenset[str] = frozenset()
    requires: frozenset[str] = frozenset()
    refuses: tuple[Refusal, ...] = ()
    after: frozenset[str] = frozenset()
