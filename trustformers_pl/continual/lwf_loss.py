"""The loss term of learning without forgetting: what a teacher, or a cache of its answers, says of a batch."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from trustformers_pl.continual.distillation import lwf_loss
from trustformers_pl.errors import RefusedError
from trustformers_pl.steps import LossTerm

NAME = "lwf"


class Answers(Protocol):
    """The old answers: a frozen network, or what it said once."""

    def __call__(self, batch: Any) -> Any:
        """Logits (B, ..., C) for a batch."""


class Distillation:
    """`lwf_loss` of a module's outputs and the old answers, for each head of the old network.

    Attributes:
        temperature: T.
        answers: Of the old network; None while there is none, and the term is 0.
        heads: (C',) bool each, C' <= C, the outputs of one softmax; empty: all outputs of the old network.
        taught: Batches that were compared so far.
    """

    def __init__(self, temperature: float = 2.0) -> None:
        self.temperature = temperature
        self.answers: Answers | None = None
        self.heads: list[Tensor] = []
        self.taught = 0

    def compute(self, module: Any, outputs: Any, batch: Any) -> tuple[Tensor, Tensor]:
        """The sum over heads and positions, and the number of positions, as the module's own loss counts them.

        Args:
            module: The module; its `labels(batch)`, or the batch's `labels`, tell which positions are left out (-100).
            outputs: Logits (B, ..., C).
            batch: That they are of.

        Raises:
            RefusedError: The outputs are no tensor of logits.
        """
        if not isinstance(outputs, Tensor) or outputs.ndim < 2:
            raise RefusedError("lwf: forward(batch) must give logits, a tensor (B, ..., C)")
        labels = labels_for(module, outputs, batch)
        if self.answers is None:
            kind = torch.promote_types(outputs.dtype, torch.float32)
            return outputs.new_zeros((), dtype=kind), (labels != -100).sum()
        with torch.no_grad():
            old = self.answers(batch)
        self.taught += 1
        parts = [
            lwf_loss(outputs, old, head, temperature=self.temperature, labels=labels)
            for head in self._heads_of(outputs.shape[-1])
        ]
        return torch.stack([total for total, _ in parts]).sum(), (labels != -100).sum()

    def _heads_of(self, width: int) -> list[Tensor | None]:
        """The heads over all outputs there are now: those beyond the last known one are new."""
        if not self.heads:
            return [None]
        return [torch.cat([head, head.new_zeros(max(width - len(head), 0))])[:width] for head in self.heads]

    def __getstate__(self) -> dict[str, Any]:
        """Without the old network: it is the callback's."""
        return {**vars(self), "answers": None}


def labels_for(module: Any, outputs: Tensor, batch: Any) -> Tensor:
    """Which positions count: the labels, of the shape of the outputs without their last dimension.

    Returns:
        Zeros where nobody knows any: every position counts.
    """
    found = None
    if callable(getattr(module, "labels", None)):
        found = module.labels(batch)
    elif hasattr(batch, "keys"):
        found = batch["labels"] if "labels" in batch else None  # noqa: SIM401 - Hugging Face's batches have no `get`
    if isinstance(found, Tensor) and found.shape == outputs.shape[:-1]:
        return found
    return torch.zeros(outputs.shape[:-1], dtype=torch.int64, device=outputs.device)


def lwf_term(alpha: float, temperature: float = 2.0) -> LossTerm:
    """The term `lwf`, for a module's `loss_terms`; a callback `LwF` gives it the old network.

    Args:
        alpha: Its weight (lambda_o of Li & Hoiem 2016).
        temperature: T.
    """
    return LossTerm(NAME, Distillation(temperature).compute, alpha, "loss")
