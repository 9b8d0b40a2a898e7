"""What Python code asks of a tensor without memory, answered as if it lay on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from trustformers_pl.deferred.recorder import CPU, META, CannotRecordError

if TYPE_CHECKING:
    from trustformers_pl.deferred.recorder import Recorder

OF_TENSORS: Any = Tensor  # its attributes, typed as their values are, are descriptors
ANSWERS: dict[Any, Any] = {
    OF_TENSORS.is_meta.__get__: False,
    OF_TENSORS.is_cpu.__get__: True,
    OF_TENSORS.device.__get__: CPU,
}
LEAVE_TORCH = (Tensor.numpy, Tensor.__array__, Tensor.share_memory_, Tensor.pin_memory)


class AsOnTheCpu(TorchFunctionMode):
    """Within it, recorded tensors say that they lie on the CPU.

    `torch.nn.init` and others leave out what they would do to tensors that say they are on the meta device.
    """

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Answer for a recorded tensor, or call the function."""
        del types
        kwargs = kwargs or {}
        if not args or not _is_recorded(args[0]):
            return func(*args, **kwargs)
        if func in ANSWERS:
            return ANSWERS[func]
        if func in LEAVE_TORCH:
            raise CannotRecordError(f"it takes the values of weights out of torch ({func.__name__})")
        if func is Tensor.data_ptr:
            return self._recorder.address(args[0])
        if func is Tensor.tolist:
            return self._recorder.value(args[0]).tolist()
        if func is Tensor.__deepcopy__:
            return _copied(*args)
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            return func(args[0], _with_tensors(args[1]), *args[2:])
        if func is Tensor.cpu:
            return args[0]
        if func is Tensor.to:
            return func(args[0], *map(_stays, args[1:]), **{name: _stays(value) for name, value in kwargs.items()})
        return func(*args, **kwargs)


def _is_recorded(value: Any) -> bool:
    with torch._C.DisableTorchFunction():
        return isinstance(value, Tensor) and value.is_meta


def _stays(argument: Any) -> Any:
    """A recorded tensor says that it lies on the CPU, so that moving it there changes nothing."""
    return META if isinstance(argument, (str, torch.device)) and torch.device(argument) == CPU else argument


def _with_tensors(index: Any) -> Any:
    """An index whose lists of numbers are tensors; torch would make tensors without values of them."""
    if isinstance(index, tuple):
        return tuple(map(_with_tensors, index))
    if isinstance(index, np.ndarray) or (isinstance(index, list) and all(isinstance(one, int) for one in index)):
        return torch.tensor(index)
    return index


def _copied(tensor: Tensor, memo: dict[int, Any]) -> Tensor:
    """As `copy.deepcopy`, by an operator that is recorded."""
    if id(tensor) not in memo:
        copy = tensor.detach().clone().requires_grad_(tensor.requires_grad)
        copy.__dict__.update(vars(tensor))
        memo[id(tensor)] = nn.Parameter(copy, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copy
    found: Tensor = memo[id(tensor)]
    return found
