"""How deep in the model a parameter sits, from the numbers in its name; learning rates that fall with it."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from torch import nn

from trustformers_pl.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterable

NUMBERED = re.compile(r"(.*?)\.?\b(\d+)\.")


def layer_scales(module: nn.Module, layer_decay: float) -> dict[str, float]:
    """Layer-wise decay of the learning rate (Howard & Ruder 2018, section 3.2; as in ELECTRA and BEiT).

    With n blocks, block i (from 0) gets `layer_decay ** (n - i)`; what is declared before the blocks, such as the
    embeddings, `layer_decay ** (n + 1)`; what comes after them, such as the head, 1.

    Args:
        module: Its blocks are the numbered submodules with one stem (`blocks.0`, `blocks.1`, …); if there are several
            such stems, the one with the most parameters.
        layer_decay: Factor from each layer to the one below it; 1 for none.

    Returns:
        Name of each parameter -> factor of the learning rate.

    Raises:
        RefusedError: There are no numbered blocks.
    """
    parameters = dict(module.named_parameters())
    if layer_decay == 1.0:
        return dict.fromkeys(parameters, 1.0)
    sizes: Counter[str] = Counter()
    for name, parameter in parameters.items():
        if found := NUMBERED.match(name):
            sizes[found[1]] += parameter.numel()
    if not sizes:
        if type(module) is not nn.Module:  # the bare holder of a part that grows
            raise RefusedError(
                f"optimizer.layer_decay: {type(module).__name__} has no numbered blocks (`blocks.0.…`); remove it, and "
                "give learning rates by name in `optimizer.groups`"
            )
        return dict.fromkeys(parameters, 1.0)
    return {name: layer_decay**height for name, height in _heights(parameters, sizes.most_common(1)[0][0]).items()}


def _heights(names: Iterable[str], stem: str) -> dict[str, int]:
    """Layers above each parameter: 0 after the blocks, 1 in the last, one more than in the first before them."""
    blocks = {name: int(found[2]) for name in names if (found := NUMBERED.match(name)) and found[1] == stem}
    count = max(blocks.values()) + 1
    heights, outside = {}, count + 1
    for name in names:
        outside = 0 if name in blocks else outside
        heights[name] = count - blocks[name] if name in blocks else outside
    return heights
