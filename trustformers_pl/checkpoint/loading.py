"""Checkpoints outside a Trainer: their content, their weights in a module, and their stock form."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from trustformers_pl.checkpoint.finding import one
from trustformers_pl.checkpoint.reading import read_folder
from trustformers_pl.errors import CheckpointError
from trustformers_pl.stock_file import SUFFIXES, read_stock, stock_form, write_stock

if TYPE_CHECKING:
    import torch
    from lightning import LightningModule

    Module = TypeVar("Module", bound=LightningModule)


def load(path: str | Path, *, device: torch.device | None = None, mapped: bool = True) -> dict[str, Any]:
    """Load a checkpoint as plain dicts and tensors, verified; nothing is executed.

    Args:
        path: A checkpoint folder; a run folder, for its newest whole checkpoint; or a stock Lightning file.
        device: Where tensors go; without it they are on the CPU.
        mapped: Map tensors into memory: pages are read when they are used, and writing to a tensor changes a private
            copy, never the file. False reads everything into memory of its own.

    Returns:
        What the Trainer saved: `state_dict` (the module's tensors by name, in their shapes and dtypes), `epoch`,
        `global_step`, `optimizer_states`, `lr_schedulers`, `callbacks`, `loops`, and what hooks added.

    Raises:
        CheckpointError: There is no checkpoint, it is damaged, newer or foreign, needs code to be loaded, holds no
            dict, or the path is an address in the network.
    """
    if Path(path).is_file():
        return read_stock(path, map_location=device, mapped=mapped)
    folder = one(path)
    state, _ = read_folder(folder, device=device, mapped=mapped)
    if not isinstance(state, dict):
        raise CheckpointError(f"{folder}: it holds a {type(state).__name__}, not a dict")
    return state


def load_module(
    module_class: type[Module], path: str | Path, *, strict: bool | None = None, **init_args: Any
) -> Module:
    """Build a module from a checkpoint: `LightningModule.load_from_checkpoint`, also for our folders.

    Args:
        module_class: The user's own class; what its `save_hyperparameters()` stored are its arguments.
        path: As in `load`.
        strict: As in `load_from_checkpoint`: None takes the module's own `strict_loading`.
        **init_args: Arguments in place of the stored ones, or beside them.

    Returns:
        The module with the checkpoint's weights, on the CPU.

    Raises:
        CheckpointError: As `load`; or the class cannot be built from the stored arguments, or the weights do not fit.
    """
    from lightning.pytorch.core.saving import _load_state

    checkpoint = load(path, mapped=False)  # the module may keep these tensors for as long as it lives
    if "state_dict" not in checkpoint:
        raise CheckpointError(f"{path}: no Lightning checkpoint: it has no state_dict; put it in with load_weights")
    checkpoint["hyper_parameters"] = {**checkpoint.get("hyper_parameters", {}), **init_args}
    try:
        module = _load_state(module_class, checkpoint, strict=strict, **init_args)
    except (RuntimeError, TypeError) as error:
        cause = " ".join(str(error).split())
        raise CheckpointError(
            f"{path}: no {module_class.__name__} from it: {cause}; give its arguments to load_module, or call "
            "save_hyperparameters() in its constructor before training"
        ) from error
    return module  # type: ignore[return-value]


def export(path: str | Path, file: str | Path) -> Path:
    """Write a checkpoint as a stock Lightning file, for `Trainer.fit(ckpt_path=)` and `load_from_checkpoint`.

    What only our loop reads is left out: random number generators, logged metrics, the state of features.

    Args:
        path: A checkpoint folder, or a run folder for its newest whole one.
        file: The `.ckpt` or `.pt` file; it is there whole or not at all, and replaced if it is there.

    Returns:
        The file.

    Raises:
        CheckpointError: As `load`; or the state has something that a stock `weights_only=True` does not read (named),
            or the file cannot be written.
    """
    if Path(file).suffix not in SUFFIXES:
        raise CheckpointError(f"{file}: a stock file's name ends in {' or '.join(SUFFIXES)}")
    return write_stock(file, stock_form(load(path)))
