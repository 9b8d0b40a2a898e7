"""A new run that begins with weights of another: the transform that loads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from trustformers_pl.checkpoint.weights import Match, load_weights, table
from trustformers_pl.cli.tables import print_table
from trustformers_pl.gathering import rank_and_world_size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trustformers_pl.phases import PhaseContext


class Pretrained:
    """Load weights into a module before it trains, unless a checkpoint brings its own.

    Works in a stock Trainer, as a transform of `PhasedModule`:
    `module.module_phases = ModulePhases({"materialise": [Pretrained("runs/first")]})`.
    """

    def __init__(
        self, path: str, *, strict: bool = False, prefix: str = "", rename: Mapping[str, str] | None = None
    ) -> None:
        """Nothing is read yet.

        Args:
            path: As `load_weights` takes it.
            strict: Refuse unless all tensors of the module and of the file match.
            prefix: Take only names that begin with it, and take it off.
            rename: Beginnings of names and what stands in their place.
        """
        self.path, self.strict, self.prefix, self.rename = path, strict, prefix, dict(rename or {})
        self.match: Match | None = None

    def __call__(self, module: nn.Module, context: PhaseContext) -> None:
        """Load, and print on rank zero what matched.

        Raises:
            CheckpointError: As `load_weights`.
        """
        del context
        if getattr(module, "checkpoint_follows", False) or type(module) is nn.Module:
            return  # a resumed run must not need the file any more, and what grows later is not in it
        self.match = load_weights(module, self.path, strict=self.strict, prefix=self.prefix, rename=self.rename)
        if rank_and_world_size()[0] == 0:
            print(f"pretrained: {self.path}")
            print_table(*table(self.match))
