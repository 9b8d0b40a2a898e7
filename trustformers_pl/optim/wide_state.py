"""Optimizer state of half-precision parameters in float32, also after a resume."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

if TYPE_CHECKING:
    from collections.abc import Callable


class WideStateOptimizer(Optimizer, ABC):
    """An optimizer that updates one parameter after another, with state of at least float32.

    A second moment in bfloat16 stops moving: 0.999 times it rounds to itself. Torch casts state to the parameter's type
    when it is loaded; here it is loaded as it was stored, so that a resumed run has the bits of one that went on.

    Subclasses implement `update`.
    """

    @abstractmethod
    def update(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Change one parameter in place.

        Args:
            parameter: Of any shape and floating type; may be a DTensor.
            gradient: Of the same shape, at least float32.
            state: Of this parameter, empty at its first step.
            group: The settings.
        """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One optimizer step.

        Args:
            closure: Computes the loss and the gradients anew.

        Returns:
            What the closure returned, or None.

        Raises:
            ValueError: A gradient is sparse or complex.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self.update_all([parameter for parameter in group["params"] if parameter.grad is not None], group)
        return loss

    def update_all(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Change the parameters of a group that have a gradient: one after the other, if a subclass knows no better."""
        for parameter in parameters:
            self.update(parameter, self.wide_gradient(parameter), self.state[parameter], group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load state, each tensor in the type that it was stored in.

        Args:
            state_dict: As `state_dict` returned it.
        """
        super().load_state_dict(state_dict)
        stored = state_dict["state"]
        keys = [key for group in state_dict["param_groups"] for key in group["params"]]
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for key, parameter in zip(keys, parameters, strict=True):
            for name, value in stored.get(key, {}).items():
                if isinstance(value, Tensor) and self.state[parameter][name].dtype != value.dtype:
                    self.state[parameter][name] = value.detach().to(parameter.device, copy=True)

    def wide_gradient(self, parameter: Tensor) -> Tensor:
        """A parameter's gradient, in at least float32.

        Raises:
            ValueError: It is sparse or complex.
        """
        gradient = parameter.grad
        assert gradient is not None
        if gradient.layout != torch.strided or gradient.is_complex():
            raise ValueError(
                f"{type(self).__name__} takes dense real gradients, not {gradient.layout} {gradient.dtype}"
            )
        return gradient.to(torch.promote_types(gradient.dtype, torch.float32))


def norm(tensor: Tensor) -> Tensor:
    """The 2-norm of a tensor, (*), or of a DTensor's whole: a plain scalar."""
    found = torch.linalg.vector_norm(tensor)
    whole: Callable[[], Tensor] | None = getattr(found, "full_tensor", None)
    return found if whole is None else whole()
