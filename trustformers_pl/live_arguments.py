"""`TrainingArguments` beside live objects: what is for the datasets, and what an optimizer has already."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from lightning import LightningDataModule
from torch.utils.data import DataLoader

from trustformers_pl.errors import RefusedError

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from trustformers_pl.training_arguments import TrainingArguments

# Argument -> the key of the `data` section that batches live datasets.
OF_LOADERS = {
    "train_batch_size": "batch_size",
    "eval_batch_size": "val_batch_size",
    "dataloader_num_workers": "num_workers",
    "dataloader_drop_last": "drop_last",
}
# Argument -> the setting of the parameter groups that it must be, where the optimizer is given.
OF_OPTIMIZERS = {"learning_rate": "lr", "weight_decay": "weight_decay"}
MADE_WITH = ("optim", "adam_beta1", "adam_beta2", "adam_epsilon")


def sections_beside(args: TrainingArguments, train: Any, val: Any, optimizer: Optimizer | None) -> dict[str, Any]:
    """Sections `args` and `data`, without what the live objects hold already.

    Args:
        args: The arguments.
        train: A dataset, a DataLoader, a LightningDataModule or None.
        val: A dataset, a DataLoader or None.
        optimizer: A live one, if given.

    Raises:
        RefusedError: An argument says another thing than an object that was given.
    """
    given = args.given()
    if given.get("local_rank") == int(os.environ.get("LOCAL_RANK", -1)):
        given.pop("local_rank", None)
    if optimizer is not None:
        _agree(given, optimizer)
    loaders = {"train_batch_size": train, "eval_batch_size": val}
    data = {}
    for name, key in OF_LOADERS.items():
        if name in given:
            value, data_object = given.pop(name), loaders.get(name, train)
            if _batched(name, value, data_object):
                continue
            data[key] = value
    return {"args": given, "data": data}


def _batched(name: str, value: Any, data: Any) -> bool:
    """Whether the object has its batches already, and they are those."""
    if not isinstance(data, DataLoader | LightningDataModule):
        return False
    has = {"train_batch_size": "batch_size", "eval_batch_size": "batch_size", "dataloader_num_workers": "num_workers"}
    actual = getattr(data, has.get(name, "drop_last"), None)
    if isinstance(data, LightningDataModule) or actual != value:
        shown = f" of {actual!r}" if isinstance(data, DataLoader) else ""
        raise RefusedError(
            f"Python: args.{name} = {value!r} is for a dataset, and a {type(data).__name__}{shown} was given; "
            "remove it, or give the dataset"
        )
    return True


def _agree(given: dict[str, Any], optimizer: Optimizer) -> None:
    """Take out what the optimizer has already.

    Raises:
        RefusedError: It has something else.
    """
    kind = type(optimizer).__name__
    for name, key in OF_OPTIMIZERS.items():
        found = sorted({float(group[key]) for group in optimizer.param_groups if key in group})
        if name in given and given[name] not in found:
            raise RefusedError(
                f"Python: args.{name} = {given[name]!r}, but the {kind} that was given has "
                f"{key} = {', '.join(map(str, found)) or 'none'}; give one of the two"
            )
        given.pop(name, None)
    for name in MADE_WITH:
        if name in given:
            raise RefusedError(f"Python: args.{name} makes an optimizer, and a {kind} was given; give one of the two")
