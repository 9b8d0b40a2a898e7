"""What a job of `crash_trials.py` needs: imported once, by the server that jobs are forked from."""

import importlib

import trustformers_pl.testing.preloaded  # noqa: F401 - torch, on one thread, and most of ours

for _module in (
    "crash_data",
    "trustformers_pl.checkpoint.plugin",
    "trustformers_pl.cli.fit",
    "trustformers_pl.faults.signal_saves",
    "trustformers_pl.optim.adamw",
    "trustformers_pl.optim.ema",
    "trustformers_pl.optim.optimizer_plugins",
    "trustformers_pl.optim.schedule_plugins",
    "trustformers_pl.precision.amp",
    "trustformers_pl.tracking.plugins",
    "trustformers_pl.tracking.samples",
):
    importlib.import_module(_module)
