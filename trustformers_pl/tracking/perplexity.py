"""What a cross-entropy in nats per token means: perplexity, and bits per byte of the text."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


def perplexity(nats: float) -> float:
    """Effective number of equally likely next tokens (Jelinek et al. 1977): e to the cross-entropy.

    Args:
        nats: Cross-entropy, nats per token.

    Returns:
        The perplexity; infinite where it is no double.
    """
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf


def bits_per_byte(nats: float, bytes_per_token: float) -> float:
    """Cross-entropy in a unit that does not depend on the tokenizer (Gao et al. 2020, The Pile, section 3.1).

    Args:
        nats: Cross-entropy, nats per token.
        bytes_per_token: UTF-8 bytes of the text over its tokens.

    Returns:
        Bits per byte: `nats / ln 2 / bytes_per_token`.
    """
    return nats / math.log(2.0) / bytes_per_token


def text_metrics(trainer: Trainer) -> dict[str, float]:
    """What `val_loss` says about text.

    A datamodule that has a `bytes_per_token` declares thereby that its elements are tokens of text, and `val_loss`
    their mean cross-entropy in nats. Without it a loss could be anything, and nothing is derived from it.

    Args:
        trainer: A trainer at the end of a validation.

    Returns:
        `val_perplexity` and `val_bits_per_byte`, or nothing.
    """
    bytes_per_token = getattr(getattr(trainer, "datamodule", None), "bytes_per_token", None)
    if bytes_per_token is None or "val_loss" not in trainer.callback_metrics:
        return {}
    nats = float(trainer.callback_metrics["val_loss"])
    return {
        "val_perplexity": perplexity(nats),
        "val_bits_per_byte": bits_per_byte(nats, float(bytes_per_token)),
    }
