"""Data of the conformance kit: a text so short that an epoch ends after five steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from typing_extensions import override

from trustformers_pl.data.text import ByteText

if TYPE_CHECKING:
    from torch import Tensor

TEXT = b"""\
Sing, goddess, of the anger of Achilles son of Peleus, that brought countless ills upon the Achaeans. Many a brave soul
did it send hurrying down to Hades, and many a hero did it yield a prey to dogs and vultures.
"""  # Homer, translated by Samuel Butler (1898), in the public domain


class TinyText(ByteText):
    """Bytes of one sentence, in memory: 22 samples to train on, in batches of 4, and 4 held out."""

    def __init__(self, *, batch_size: int = 4, context_length: int = 8, num_workers: int = 0) -> None:
        super().__init__(
            context_length=context_length,
            batch_size=batch_size,
            val_batch_size=2,
            val_fraction=0.17,
            num_workers=num_workers,
        )

    @override
    def read(self) -> Tensor:
        return torch.frombuffer(bytearray(TEXT), dtype=torch.uint8)
