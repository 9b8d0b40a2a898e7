"""What a loader that is made over keeps of the user's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

# What a DataLoader keeps under its argument's name, and that says how samples are loaded rather than which.
WORKER_SETTINGS = (
    "num_workers",
    "pin_memory",
    "pin_memory_device",
    "timeout",
    "worker_init_fn",
    "multiprocessing_context",
    "prefetch_factor",
    "persistent_workers",
)


def worker_settings(loader: DataLoader[Any]) -> dict[str, Any]:
    """How a loader's samples are loaded, as arguments of another one."""
    return {name: getattr(loader, name) for name in WORKER_SETTINGS}


def as_fetched(batch: Any) -> Any:
    """The `collate_fn` of a loader whose dataset gives collated batches."""
    return batch
