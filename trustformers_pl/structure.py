"""Names, trainability and shapes of a module's state, and how a phase may change them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trustformers_pl.errors import RefusedError
from trustformers_pl.phases import ModulePhase
from trustformers_pl.traits import Trait

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

SHOWN = 3


@dataclass(frozen=True)
class Structure:
    """What a transform found, or left.

    Attributes:
        trainable: Name of each parameter -> whether it is trained.
        shapes: Name of each entry of the `state_dict` -> its shape.
    """

    trainable: dict[str, bool]
    shapes: dict[str, Any]

    @classmethod
    def of(cls, module: nn.Module) -> Structure:
        """Look at a module."""
        state = {name: tuple(getattr(value, "shape", ())) for name, value in module.state_dict().items()}
        return cls({name: p.requires_grad for name, p in module.named_parameters()}, state)

    def check(self, after: Structure, phase: ModulePhase, who: str, *, may_change: bool) -> None:
        """Compare with what a transform left.

        Args:
            after: What it left.
            phase: The phase that it ran in.
            who: It, as the subject of the message.
            may_change: Whether its feature says that it changes the module's structure.

        Raises:
            RefusedError: It did what it may not.
        """
        if phase is ModulePhase.SURGERY:
            changed = [name for name, shape in after.shapes.items() if self.shapes.get(name, ...) != shape]
            changed += self.shapes.keys() - after.shapes.keys()
            if changed and not may_change:
                raise RefusedError(
                    f"{who} changes the structure of the module ({_listed(changed)}), and the plugin's traits do not "
                    f"provide {Trait.MODULE_STRUCTURE.value!r}; add it to them"
                )
            return
        self._check_names(after, phase, who)

    def _check_names(self, after: Structure, phase: ModulePhase, who: str) -> None:
        gone = [name for name in self.trainable if name not in after.trainable]
        new = [name for name in after.trainable if name not in self.trainable]
        if new or (gone and phase is not ModulePhase.SPLIT):
            what = " and ".join([f"loses {_listed(gone)}"] * bool(gone) + [f"adds {_listed(new)}"] * bool(new))
            raise RefusedError(f"{who} {what}; the names of parameters stay as they are after SURGERY")
        thawed = [name for name, trained in after.trainable.items() if trained and not self.trainable[name]]
        if thawed:
            raise RefusedError(f"{who} makes {_listed(thawed)} trainable; only SURGERY may")


def _listed(names: Iterable[str]) -> str:
    names = sorted(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
