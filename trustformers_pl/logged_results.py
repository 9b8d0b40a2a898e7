"""What `self.log` has gathered since the epoch began, so that the means a resumed epoch logs are those of all of it.

What this needs of Lightning's private names is used in this file only, and named in its tests.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.trainer.connectors.logger_connector.result import _Metadata, _ResultMetric, _Sync

from trustformers_pl.gathering import map_tensors
from trustformers_pl.metric_states import load_metric_states, metric_states
from trustformers_pl.stateful import Scope, State

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lightning import Trainer

logger = logging.getLogger(__name__)

# What `self.log(reduce_fx=)` accepts: torch's functions and Python's, which compare as different.
REDUCTIONS = {f"torch.{name}": getattr(torch, name) for name in ("mean", "sum", "max", "min")}
REDUCTIONS |= {f"builtins.{function.__name__}": function for function in (sum, max, min)}
METADATA = (
    *("fx", "name", "prog_bar", "logger", "on_step", "on_epoch", "enable_graph"),
    *("add_dataloader_idx", "dataloader_idx", "metric_attribute"),
)
VALUES = ("_forward_cache", "_update_count", "has_reset")
CONNECTOR = ("_first_loop_iter", "_callback_metrics", "_logged_metrics", "_progress_bar_metrics")


class LoggedResults:
    """A Trainer's logged values in mid-epoch as a part with state, one a rank: `self.log` and torchmetrics' sums."""

    state_version = 1

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._loop: Any = trainer.fit_loop.epoch_loop

    def state(self) -> State:
        """Scalars and counts of what was logged, and the states of the module's torchmetrics, in their shapes."""
        results = self._loop._results
        value = {
            "results": {key: _result_state(result) for key, result in results.items() if not result.meta.sync.group},
            "grouped": [key for key, result in results.items() if result.meta.sync.group],
            "metrics": metric_states(self._trainer.lightning_module),
            "connector": {name: _copied(self._kept(name)) for name in CONNECTOR},
            "seen_batches": dict(self._loop.val_loop._seen_batches_per_dataloader),
        }
        return State(value, self.state_version, Scope.RANK)

    def load_state(self, state: State) -> None:
        """Take the values over; what the hooks before the first batch have logged by then is replaced."""
        stored = state.value
        if stored["grouped"]:
            logger.warning("resume: %s of this epoch: logged in a process group, starts anew", stored["grouped"])
        load_metric_states(self._trainer.lightning_module, stored["metrics"])
        self._loop._results.clear()
        self._loop._results.update({key: self._result(one) for key, one in stored["results"].items()})
        for name, value in stored["connector"].items():
            setattr(self._trainer._logger_connector, name, self._on_device(value))
        self._loop.val_loop._seen_batches_per_dataloader = defaultdict(int, stored["seen_batches"])

    def load_all_ranks(self, states: Sequence[State], rank: int, world_size: int) -> None:
        """On another number of ranks the sums have no owner: they start anew, and a warning says so."""
        if rank == 0:
            logger.warning(
                "resume: the run had %d ranks and now has %d; this epoch's logged means are of the rest of it only",
                len(states),
                world_size,
            )

    def _kept(self, name: str) -> Any:
        value = getattr(self._trainer._logger_connector, name)
        times = {time for callback in self._trainer.callbacks for time in getattr(callback, "measured_times", ())}  # type: ignore[attr-defined]
        return {k: v for k, v in value.items() if k not in times} if isinstance(value, dict) else value

    def _result(self, stored: Mapping[str, Any]) -> _ResultMetric:
        meta = _Metadata(**stored["meta"], reduce_fx=REDUCTIONS[stored["reduce_fx"]])
        sync = stored["sync"]
        reduce = self._trainer.strategy.reduce
        meta.sync = _Sync(fn=reduce, _should=sync["should"], rank_zero_only=sync["rank_zero_only"])
        result = _ResultMetric(meta, stored["is_tensor"])
        for name, value in self._on_device(stored["values"]).items():
            setattr(result, name, value)
        if not stored["is_tensor"]:
            result.value = self._trainer.lightning_module.get_submodule(str(meta.metric_attribute))
        return result

    def _on_device(self, tree: Any) -> Any:
        device = self._trainer.strategy.root_device
        return map_tensors(lambda tensor, _: tensor.to(device), tree, "")


def _result_state(result: _ResultMetric) -> dict[str, Any]:
    meta = result.meta
    names = (*VALUES, *(result._defaults if result.is_tensor else ()))
    return {
        "meta": {name: getattr(meta, name) for name in METADATA},
        "reduce_fx": next(name for name, function in REDUCTIONS.items() if function is meta.reduce_fx),
        "sync": {"should": meta.sync.should, "rank_zero_only": meta.sync.rank_zero_only},
        "is_tensor": result.is_tensor,
        "values": {name: _copied(getattr(result, name)) for name in names},
    }


def _copied(tree: Any) -> Any:
    return map_tensors(lambda tensor, _: tensor.detach(), dict(tree) if isinstance(tree, dict) else tree, "")
