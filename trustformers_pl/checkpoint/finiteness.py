"""Whether a state that is to be saved can be trained on: no NaN in it, and no infinity where none belongs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from torch import Tensor

LOOKED_AT = ("state_dict.", "optimizer_states.")


def first_not_finite(tensors: Mapping[str, Tensor], buffers: Collection[str] = ()) -> str | None:
    """Find the first tensor of the weights or of an optimizer that is not finite.

    Costs one pass over the memory: a sum is finite only if all that it is of is, as neither NaN nor infinity is ever
    left again. Only where it is not, each number is looked at, as finite numbers may have a sum that overflows.

    Args:
        tensors: From `encode` of what a Trainer dumps, of any shape and dtype, or copies of them.
        buffers: The module's buffers, by their names in the `state_dict`. They may hold infinity, as a mask of
            attention does, but no NaN.

    Returns:
        The tensor's name; None where all are finite.
    """
    of_buffers = {f"state_dict.{name}" for name in buffers}
    for name, tensor in tensors.items():
        if name.startswith(LOOKED_AT) and not _is_finite(tensor.detach(), infinite=name in of_buffers):
            return name
    return None


def _is_finite(tensor: Tensor, *, infinite: bool) -> bool:
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    if tensor.itemsize == 1:  # of 8 bits, which have no arithmetic
        tensor = tensor.float()
    if bool(tensor.sum().isfinite()):
        return True
    return not bool(tensor.isnan().any()) if infinite else bool(tensor.isfinite().all())
