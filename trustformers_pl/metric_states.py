"""The states of a module's torchmetrics in mid-epoch; torchmetrics itself keeps them out of `state_dict`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torchmetrics import Metric, MetricCollection

from trustformers_pl.gathering import map_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

COUNTERS = ("_update_count", "_forward_cache")


def metric_states(module: nn.Module) -> dict[str, dict[str, Any]]:
    """What the torchmetrics of a module have gathered.

    Kept are the states that a metric declares with `add_state`. What wrappers such as `MinMaxMetric` or `MetricTracker`
    keep in plain attributes is not.

    Args:
        module: Any; its metrics are found among its submodules.

    Returns:
        Submodule name -> attribute -> tensor (in the metric's shape), list of tensors, or number.
    """
    for collection in module.modules():
        if isinstance(collection, MetricCollection):
            collection.values(copy_state=False)  # members of a compute group lag behind its first one until asked
    return {
        name: {attribute: _detached(getattr(metric, attribute)) for attribute in (*metric._defaults, *COUNTERS)}
        for name, metric in module.named_modules()
        if isinstance(metric, Metric)
    }


def load_metric_states(module: nn.Module, stored: Mapping[str, Mapping[str, Any]]) -> None:
    """Give the torchmetrics of a module back what `metric_states` returned.

    Args:
        module: Its metrics go on from there, on their own devices; those without a stored state stay as they are.
        stored: From `metric_states`.
    """
    for name, metric in module.named_modules():
        if isinstance(metric, Metric):
            for attribute, value in stored.get(name, {}).items():
                setattr(metric, attribute, _moved(value, metric))


def _detached(tree: Any) -> Any:
    return map_tensors(lambda tensor, _: tensor.detach(), tree, "")


def _moved(tree: Any, metric: Metric) -> Any:
    # Copied: members of a compute group were stored as one tensor, and each adds to its own until the group is found.
    return map_tensors(lambda tensor, _: tensor.to(metric.device, copy=True), tree, "")
