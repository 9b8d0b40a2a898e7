"""The Trainer for objects that exist already: `Trainer(model, train_dataset, val_dataset, optimizer, args).train()`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lightning import LightningDataModule
from torch.utils.data import DataLoader

from trustformers_pl.assembly import Live
from trustformers_pl.errors import RecipeError
from trustformers_pl.factory import assemble
from trustformers_pl.live_arguments import sections_beside
from trustformers_pl.names import nearest
from trustformers_pl.plan import CORE_SECTIONS
from trustformers_pl.plugins import aliases, discover, slots
from trustformers_pl.recipe import Recipe
from trustformers_pl.recipe.config import Problems, build_config
from trustformers_pl.recipe.places import from_plain
from trustformers_pl.training_arguments import TrainingArguments
from trustformers_pl.traits import Trait

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lightning import LightningModule
    from torch.optim import Optimizer

    from trustformers_pl.run import Resume, Run

PREFIX = "with_"


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """The `data` section beside datasets: how they are batched."""

    batch_size: int = 8
    """Samples in a training batch."""
    val_batch_size: int | None = None
    """Samples in a validation batch; as in training if not given."""
    num_workers: int = 0
    """Processes that load samples; 0 loads in the training process."""
    drop_last: bool = False
    """Leave out an epoch's last batch if it is not full."""


class DatasetModule(LightningDataModule):
    """A LightningDataModule over two datasets or DataLoaders."""

    def __init__(self, train: Any, val: Any, config: LoaderConfig) -> None:
        super().__init__()
        self.train, self.val, self.config = train, val, config

    def train_dataloader(self) -> Any:
        """Shuffled batches, or the DataLoader that was given."""
        return self._loader(self.train, self.config.batch_size, shuffle=True, drop_last=self.config.drop_last)

    def val_dataloader(self) -> Any:
        """Batches in order, or the DataLoader that was given; an empty list without validation data."""
        if self.val is None:
            return []
        return self._loader(self.val, self.config.val_batch_size or self.config.batch_size)

    def _loader(self, data: Any, batch_size: int, *, shuffle: bool = False, drop_last: bool = False) -> Any:
        if isinstance(data, DataLoader):
            return data
        shuffle = shuffle and hasattr(data, "__len__") and len(data) > 0
        return DataLoader(
            data, batch_size=batch_size, shuffle=shuffle, num_workers=self.config.num_workers, drop_last=drop_last
        )


class Trainer:
    """Assemble a run around live objects, with `TrainingArguments` and a method `with_<section>` for each section.

    `Trainer(model, train, val, optimizer, args).with_schedule("cosine", warmup_steps=100).train()`
    """

    def __init__(
        self,
        model: LightningModule,
        train_dataset: Any = None,
        val_dataset: Any = None,
        optimizer: Optimizer | None = None,
        args: TrainingArguments | Mapping[str, Any] | None = None,
    ) -> None:
        """Nothing is assembled before `train`, `validate` or `run` is used.

        Args:
            model: A LightningModule.
            train_dataset: A dataset, a DataLoader, or a LightningDataModule for both.
            val_dataset: A dataset or a DataLoader.
            optimizer: Over the model's parameters; instead of a section `optimizer`.
            args: TrainingArguments, or sections of a recipe; a section `data` then holds `batch_size`,
                `val_batch_size`, `num_workers` and `drop_last`.

        Raises:
            RecipeError: `args` or its `data` section is not as described.
            RefusedError: TrainingArguments say another thing than an object that was given.
        """
        if isinstance(args, TrainingArguments):
            args = sections_beside(args, train_dataset, val_dataset, optimizer)
        sections = dict(args or {})
        loader_config = _loader_config(sections.pop("data", {}))
        is_module = isinstance(train_dataset, LightningDataModule) or train_dataset is None
        data = train_dataset if is_module else DatasetModule(train_dataset, val_dataset, loader_config)
        provides = frozenset[str]({Trait.OPTIMIZER}) if optimizer is not None else frozenset()
        self._live = Live(model, data, optimizer, provides)
        self._recipe = Recipe.from_mapping(sections)

    @cached_property
    def run(self) -> Run:
        """The assembled run.

        Raises:
            TrustformersError: As `trustformers_pl.assemble` does.
        """
        return assemble(self._recipe, live=self._live)

    def train(self, resume: Resume = "auto") -> None:
        """Train; see `Run.fit`."""
        self.run.fit(resume)

    def validate(self) -> dict[str, float]:
        """Validate the newest checkpoint; see `Run.validate`."""
        return self.run.validate()

    def save_checkpoint(self, path: str | Path) -> Path:
        """Save the training as it stands: a stock file if the name ends in .ckpt or .pt; see `Run.save_checkpoint`."""
        return self.run.save_checkpoint(path)

    def load_checkpoint(self, path: str | Path) -> None:
        """Let the next `train` go on from a checkpoint; see `Run.load_checkpoint`."""
        self.run.load_checkpoint(path)

    def __getattr__(self, name: str) -> Callable[..., Trainer]:
        """`with_<section>(config_or_name=None, **values)`: the same Trainer with one more section."""
        if not name.startswith(PREFIX):
            raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")
        asked = name.removeprefix(PREFIX)
        section = _methods().get(asked)
        if section is None:
            known = [PREFIX + known for known in _methods()]
            raise AttributeError(f"no section {asked!r} is installed; {nearest(name, known)}")

        def with_section(config: Any = None, /, **values: Any) -> Trainer:
            return self._with(section, {**_as_values(section, config), **values})

        with_section.__name__ = name
        return with_section

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *(PREFIX + name for name in _methods())]

    def _with(self, section: str, values: Mapping[str, Any]) -> Trainer:
        other = object.__new__(type(self))
        other._live, other._recipe = self._live, self._recipe.with_section(section, values)
        return other


def _methods() -> dict[str, str]:
    """What follows `with_` -> the section."""
    sections = {name.partition(".")[0] for name in discover()} | set(CORE_SECTIONS) - {"model", "data", "version"}
    return {name: name for name in sorted(sections)} | aliases()


def _as_values(section: str, config: Any) -> dict[str, Any]:
    if config is None:
        return {}
    if isinstance(config, str) and section in slots(discover()):
        return {"name": config}
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return dict(config)
    raise RecipeError(f"with_{section}: expected keywords, a mapping or a Config, not {config!r}")


def _loader_config(values: Mapping[str, Any]) -> LoaderConfig:
    problems = Problems()
    config = build_config(LoaderConfig, from_plain(values), "data", problems)
    problems.raise_if_any()
    assert isinstance(config, LoaderConfig)
    return config
