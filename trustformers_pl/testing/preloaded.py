"""What every rank of the pool needs: imported once, by the server that they are forked from."""

import importlib

import torch

torch.set_num_threads(1)
# By name: nothing here uses them, and a tool that tidies imports would take them away.
for _module in (
    "jsonschema",
    "torch.distributed.tensor",
    "trustformers_pl.checkpoint.callback",
    "trustformers_pl.checkpoint.io",
    "trustformers_pl.data.module",
    "trustformers_pl.models.gpt",
    "trustformers_pl.parallel.mesh",
    "trustformers_pl.parallel.replicate",
    "trustformers_pl.testing.on_ranks",
    "trustformers_pl.testing.tiny",
    "trustformers_pl.tracking.csv",
    "trustformers_pl.tracking.metrics",
):
    importlib.import_module(_module)
