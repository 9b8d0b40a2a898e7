"""Progressive networks: a new column for each task, which also reads the frozen columns before it.

Rusu et al. 2016, "Progressive Neural Networks".
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from trustformers_pl.continual.columns import Activation, AdapterLateral, Column, Kind, LinearLateral
from trustformers_pl.continual.fresh import fresh, refuse_unfreshable, template
from trustformers_pl.data.order import counter_seed
from trustformers_pl.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

Start = Literal["fresh", "copy"]
WIDTHS = "widths"


class ProgressiveNetwork(nn.Module):
    """Copies of a module, the columns, of which only the newest trains.

    The others are frozen, in evaluation mode, and computed without a graph: what they answer never changes. A
    `state_dict` tells how many columns there are, and `load_state_dict` makes as many.

        network = ProgressiveNetwork(nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10)))
        network.grow()  # for the second task: a new column, whose parameters an optimizer has to take up

    Args:
        first: The first column. What stands in its place takes its arguments and gives its outputs.
        levels: Names of its children that read the earlier columns' activations, in the order of their calls; by
            default those with weights of two and more dimensions, of an `nn.Sequential` or of the one list of blocks.
        lateral: `linear` connections (equation 2) or `adapter`s (equation 3).
        hidden: Width of the adapters' hidden layers; that of one column's activations if not given.
        activation: f of the adapters.
        start: Draw a new column's weights anew, or copy those of the column before.
        seed: Of these draws.

    Attributes:
        task: Which column answers; the newest where it is None. Columns after it are not computed.

    Raises:
        RefusedError: The levels are not known; or a submodule cannot draw its weights anew.
    """

    def __init__(
        self,
        first: nn.Module,
        *,
        levels: Sequence[str] | None = None,
        lateral: Kind = "linear",
        hidden: int | None = None,
        activation: Activation = F.relu,
        start: Start = "fresh",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.levels = tuple(levels) if levels is not None else default_levels(first)
        self.lateral, self.hidden, self.activation = lateral, hidden, activation
        self.start, self.seed = start, seed
        self.task: int | None = None
        _check_levels(first, self.levels)
        if start == "fresh":
            refuse_unfreshable(first)
        self._template = (template(first),)  # in a tuple it is no submodule
        self.columns = nn.ModuleList([self._as_column(first)])
        known = [_static_widths(first.get_submodule(name)) for name in self.levels]
        self.register_buffer(WIDTHS, torch.tensor(known))
        self.knows_widths = all(width for pair in known for width in pair)

    def _as_column(self, body: nn.Module, laterals: Sequence[nn.Module] = ()) -> Column:
        return Column(body, self.levels, laterals)

    def new_column(self, initialize: Callable[[nn.Module], Any] | None = None) -> Column:
        """The next column, not attached yet.

        Args:
            initialize: Called with the new copy of the module, after its submodules' own `reset_parameters`.

        Raises:
            RefusedError: The widths of the levels are not known yet: not all of them are `nn.Linear` or `nn.Conv2d`,
                and nothing was computed.
        """
        if not self.knows_widths:
            raise RefusedError("progressive: widths of the levels are known when a batch was computed; do that first")
        number = len(self.columns)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(counter_seed(self.seed, "progressive", number))
            body = fresh(self._template[0], initialize if self.start == "fresh" else None, self._previous())
            laterals = [self._lateral(index, body) for index in range(1, len(self.levels))]
        return self._as_column(body, laterals)

    def _previous(self) -> Mapping[str, Tensor] | None:
        return self._columns()[-1].body.state_dict() if self.start == "copy" else None

    def _lateral(self, index: int, body: nn.Module) -> nn.Module:
        source, width = self.get_buffer(WIDTHS)[index].tolist()
        level, sources = body.get_submodule(self.levels[index]), [source] * len(self.columns)
        if self.lateral == "adapter":
            return AdapterLateral(sources, width, level, self.hidden, self.activation)
        return LinearLateral(sources, width, level)

    def grow(self, initialize: Callable[[nn.Module], Any] | None = None) -> Column:
        """Freeze what is there, and attach a new column on the device and of the type of the others.

        For plain torch; in a run `add_column` lets the new one pass the module's phases and join the optimizer.

        Args:
            initialize: As for `new_column`.
        """
        column = self.new_column(initialize)
        like = next(self.parameters())
        self.freeze()
        self.columns.append(column.to(like.device, like.dtype))
        self.train(self.training)
        return column

    def freeze(self) -> None:
        """Let none of the present columns train again."""
        for column in self._columns():
            column.freeze()

    def shrink(self, count: int) -> None:
        """Take all but the first columns away; the last of them trains again.

        Args:
            count: Columns to keep, at least one; no more than there are.
        """
        if count < len(self.columns):
            del self.columns[count:]
            self._columns()[-1].thaw()
            self.train(self.training)

    @override
    def train(self, mode: bool = True) -> ProgressiveNetwork:
        """Switch the newest column; the frozen ones stay in evaluation mode."""
        super().train(mode)
        for column in self._columns()[:-1]:
            column.eval()
        return self

    @property
    def answering(self) -> int:
        """Number of the column that answers: `task`, or the newest if there is none for it yet."""
        newest = len(self.columns) - 1
        return newest if self.task is None else min(self.task, newest)

    @override
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What one column answers, with the activations of those before it."""
        *before, last = self.answering_columns()
        earlier: list[Sequence[Tensor]] = []
        with torch.no_grad():
            for column in before:
                earlier.append(column(earlier, *args, **kwargs)[1].inputs)
        outputs, reading = last(earlier, *args, **kwargs)
        if not self.knows_widths:
            self.learn(reading.widths)
        return outputs

    def answering_columns(self) -> list[Column]:
        """The column that answers, after those that it reads."""
        return self._columns()[: self.answering + 1]

    @torch.no_grad()
    def learn(self, widths: Sequence[tuple[int, int]]) -> None:
        """Take up the widths that each level reads and gives, (L, 2)."""
        own = self.get_buffer(WIDTHS)
        own.copy_(torch.tensor(widths))
        self.knows_widths = True

    def _columns(self) -> list[Column]:
        return [column for column in self.columns if isinstance(column, Column)]

    @override
    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        """Make as many columns as there are in the state; then they load theirs."""
        count = self.prepare(state_dict, prefix)
        while len(self.columns) < count:
            self.grow()
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def prepare(self, state_dict: Mapping[str, Any], prefix: str) -> int:
        """Take columns away that a state does not have, and learn from it what new ones need.

        Args:
            state_dict: Of a module.
            prefix: This network's name in it, with a dot at the end.

        Returns:
            How many columns the state has; 0 where it knows none.
        """
        count = stored_columns(state_dict, prefix)
        if count:
            stored = state_dict.get(f"{prefix}{WIDTHS}")
            if stored is not None and bool((stored > 0).all()):
                self.learn(stored.tolist())
            self.shrink(count)
        return count


def stored_columns(state_dict: Mapping[str, Any], prefix: str) -> int:
    """How many columns a state has for the network of a name; 0 where it knows none.

    Args:
        state_dict: Of a module.
        prefix: The network's name in it, with a dot at the end; empty for its own state.
    """
    column = re.compile(re.escape(f"{prefix}columns.") + r"(\d+)\.")
    return 1 + max((int(found[1]) for key in state_dict if (found := column.match(key))), default=-1)


@contextmanager
def answering(module: nn.Module, task: int | None) -> Iterator[None]:
    """Inside, the columns of one task answer, where there are any; None lets each network as it is."""
    changed = [(one, one.task) for one in networks(module).values()] if task is not None else []
    for network, _ in changed:
        network.task = task
    try:
        yield
    finally:
        for network, before in changed:
            network.task = before


def networks(module: nn.Module) -> dict[str, ProgressiveNetwork]:
    """The progressive networks in a module, by name."""
    return {name: one for name, one in module.named_modules() if isinstance(one, ProgressiveNetwork)}


def default_levels(body: nn.Module) -> tuple[str, ...]:
    """The children of a sequence, or of the one list of blocks in a module, that have weights of two dimensions.

    Raises:
        RefusedError: There is no such list, or several.
    """
    sequence = nn.Sequential, nn.ModuleList
    lists = {"": body} if isinstance(body, sequence) else dict(body.named_children())
    found = [(f"{name}." if name else "", one) for name, one in lists.items() if isinstance(one, sequence)]
    if len(found) != 1:
        kind = type(body).__name__
        raise RefusedError(
            f"progressive: {kind} is no sequence and has {len(found)} lists of blocks; name its `levels`"
        )
    prefix, children = found[0]
    weighty = [n for n, child in children.named_children() if any(p.dim() > 1 for p in child.parameters())]
    return tuple(f"{prefix}{name}" for name in weighty)


def _check_levels(body: nn.Module, levels: Sequence[str]) -> None:
    for name in levels:
        try:
            body.get_submodule(name)
        except AttributeError as error:
            have = ", ".join(one for one, _ in body.named_modules() if one)
            raise RefusedError(f"progressive.levels: the column has no {name!r}; it has {have}") from error
    if len(set(levels)) != len(levels) or len(levels) < 2:
        raise RefusedError(
            f"progressive.levels: {', '.join(levels) or 'none'}: laterals go to the second and later levels; give two "
            "or more different ones"
        )


def _static_widths(level: nn.Module) -> tuple[int, int]:
    """Of what a level reads and gives; zeros where only a pass can tell."""
    if isinstance(level, nn.Conv2d):
        return level.in_channels, level.out_channels
    if isinstance(level, nn.Linear):
        return level.in_features, level.out_features
    return 0, 0
