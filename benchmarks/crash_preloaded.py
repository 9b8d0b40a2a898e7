"""What a job of `crash_trials.py` needs: imported once, by the server that jobs are forked from."""

import importlib

import trustformers_pl.testing.preloaded  # noqa: F401 - torch, on one thread, and most of ours

for _module in (
    "crash_data",
    "trustformers_pl.cli.fit",
):
    importlib.import_module(_module)
