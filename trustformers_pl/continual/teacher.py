"""A frozen copy of a network, outside of every registry."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trustformers_pl.gathering import map_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lightning.pytorch import LightningModule

SHARED = ("_device_mesh", "module_phases", "_went_through", "loss_terms", "sample_weights", "step_executor")
"""Attributes of a module that a copy takes as they are: they describe the run and hold no weight of the network."""


def copied(module: LightningModule, weights: Mapping[str, Tensor] | None = None) -> LightningModule:
    """A copy of a module in evaluation mode whose parameters do not train.

    Args:
        module: With plain weights.
        weights: Its `state_dict` at another time; the module's own if not given.

    Returns:
        The copy, without a Trainer.
    """
    shared = [vars(module)[name] for name in SHARED if vars(module).get(name) is not None]
    trainer, module._trainer = module._trainer, None
    try:
        with torch.no_grad():
            teacher = copy.deepcopy(module, {id(one): one for one in shared})
    finally:
        module._trainer = trainer
    if weights is not None:
        teacher.load_state_dict(weights)
    teacher.zero_grad(set_to_none=True)
    return teacher.eval().requires_grad_(False)


def snapshot(module: LightningModule) -> dict[str, Any]:
    """A module's `state_dict`, in memory of its own."""
    state: dict[str, Any] = map_tensors(lambda tensor, _: tensor.detach().clone(), dict(module.state_dict()), "weights")
    return state
