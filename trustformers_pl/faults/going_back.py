"""A training that goes back to a checkpoint while it runs: everything but its place in the data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trustformers_pl import state
from trustformers_pl.checkpoint import manifest as manifests
from trustformers_pl.checkpoint.codec import encode
from trustformers_pl.checkpoint.finiteness import first_not_finite
from trustformers_pl.checkpoint.series import steps
from trustformers_pl.checkpoint.verification import verify
from trustformers_pl.errors import CheckpointError
from trustformers_pl.loop import EpochLoop
from trustformers_pl.shards import agree_on_any, are_sharded, local

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from lightning.pytorch import Trainer

    from trustformers_pl.checkpoint.callback import Checkpoint


def newest_finite(trainer: Trainer, saver: Checkpoint) -> tuple[str, Mapping[str, Any]] | None:
    """The newest whole and finite checkpoint, and its content; None where there is none. Collective.

    Rank 0 decides which one it is; all ranks read it.
    """
    saver.settle(trainer)
    found = None
    if trainer.is_global_zero:
        for path in reversed(steps(saver.folder_of(trainer)).values()):
            if _is_sound(trainer, path):
                found = str(path)
                break
    found = trainer.strategy.broadcast(found)
    return None if found is None else (found, trainer.strategy.load_checkpoint(found))


def _is_sound(trainer: Trainer, path: Path) -> bool:
    try:
        verify(path)
        bad = manifests.read(path).not_finite
        return not _bad(trainer, path) if bad is None else not bad
    except CheckpointError:
        return False


def _bad(trainer: Trainer, path: Path) -> str | None:
    """As the manifest of a checkpoint tells since there is such a note."""
    stored = trainer.strategy.checkpoint_io.load_checkpoint(path)
    _, tensors = encode({name: stored[name] for name in ("state_dict", "optimizer_states")})
    return first_not_finite(tensors, [name for name, _ in trainer.lightning_module.named_buffers()])


def are_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether tensors of any shapes hold only finite numbers; equal on all ranks, where they are sharded too."""
    floating = [tensor.detach() for tensor in tensors if tensor.is_floating_point()]
    # A sum of squares may overflow where no number does; their largest does not.
    largest = [part.abs().max().float() for part in map(local, floating) if part.numel()]
    if not are_sharded(floating):
        return bool(torch.stack(largest).isfinite().all()) if largest else True
    bad = torch.zeros((), device=local(floating[0]).device)
    if largest:
        bad.copy_(~torch.stack(largest).isfinite().all())
    agree_on_any(bad, floating)
    return not bool(bad)


def go_back(trainer: Trainer, checkpoint: Mapping[str, Any]) -> None:
    """Put weights, optimizer, schedule, loss scale, features' states and random numbers back, at a step boundary.

    The counters of optimizer steps go back with them, and loggers forget what came after (`truncate_after`). The
    counters of batches and epochs stay, and so does the datamodule: the data go on where they are. What was logged in
    this epoch goes back only where the checkpoint is of this epoch.

    Args:
        trainer: That is fitting with the exact loop.
        checkpoint: Of this run.
    """
    connector: Any = trainer._checkpoint_connector
    connector._loaded_checkpoint = dict(checkpoint)
    try:
        connector.restore_model()
        connector.restore_callbacks()
        connector.restore_precision_plugin_state()
        connector.restore_optimizers_and_schedulers()
    finally:
        connector._loaded_checkpoint = {}
    _put_back_loop(trainer, checkpoint["loops"]["fit_loop"])
    for keeper in (*trainer.loggers, *trainer.callbacks):  # type: ignore[attr-defined]
        if hasattr(keeper, "truncate_after"):
            keeper.truncate_after(trainer.global_step)


def _put_back_loop(trainer: Trainer, stored: Mapping[str, Any]) -> None:
    loop = trainer.fit_loop.epoch_loop
    assert isinstance(loop, EpochLoop)
    own = stored["epoch_loop.state_dict"]
    loop.automatic_optimization.optim_progress.load_state_dict(
        stored["epoch_loop.automatic_optimization.optim_progress"]
    )
    loop.scheduler_progress.load_state_dict(stored["epoch_loop.scheduler_progress"])
    loop._batches_that_stepped = own["_batches_that_stepped"]
    datamodule = trainer.datamodule  # type: ignore[attr-defined]
    parts = {name: part for name, part in state.parts(trainer).items() if part is not datamodule}
    state.give_back(parts, own["parts"], quiet=True)
    epochs: Any = trainer.fit_loop.epoch_progress.current
    same_epoch = stored["epoch_progress"]["current"]["processed"] == epochs.processed
    kept = {name: part for name, part in loop._own_parts().items() if same_epoch or name != "logged"}
    state.give_back(kept, own["own"], quiet=True)
