"""Frozen parts of a LightningModule: not trained, not in checkpoints, and the same ones after a resume."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from trustformers_pl.compose import extend
from trustformers_pl.content import content_sha256, is_whole
from trustformers_pl.errors import CheckpointError
from trustformers_pl.model_parts import ModelPart, declared_parts, has_parts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lightning import Trainer
    from torch import Tensor

CHECKPOINT_KEY = "frozen_parts"


def with_parts(module: Any) -> Any:
    """Give a LightningModule that declares `parts()` the behaviour of `FrozenParts`; returns the same object.

    A recipe does it by itself. In a stock `lightning.Trainer`: `trainer.fit(with_parts(MyModule()))`.
    """
    return extend(module, FrozenParts) if has_parts(module) else module


class FrozenParts:
    """Mixin for a LightningModule with a method `parts() -> Mapping[str, ModelPart]`; see `with_parts`.

    Frozen parts need no gradients, stay in eval mode, and are in no optimizer. A checkpoint holds the sha256 of their
    content instead of their weights, and is refused where that differs. A copy that follows the trained weights (an
    average, a target network) changes and so is no frozen part: keep it as a state (`trustformers_pl.state`).

    A module that inherits from it by hand, and overrides `configure_model`, `on_fit_start`, `on_save_checkpoint` or
    `on_load_checkpoint`, calls `super()`'s.
    """

    _frozen_content: dict[str, str] | None = None

    if TYPE_CHECKING:  # given by LightningModule, and by the module's author
        trainer: Trainer

        def named_modules(self, *, remove_duplicate: bool = ...) -> Any: ...  # noqa: D102

        def parts(self) -> Mapping[str, ModelPart]:
            """The models by name."""

    def configure_model(self) -> None:
        """Freeze what is frozen, and note its content before the strategy casts or shards it."""
        super().configure_model()  # type: ignore[misc]
        for part in self._frozen().values():
            part.module.requires_grad_(False).eval()
        self._frozen_content = None
        if all(is_whole(part.module) for part in self._frozen().values()):
            self._content()

    def train(self, mode: bool = True) -> Any:
        """Set the mode of the parts that train; frozen ones stay in eval mode."""
        super().train(mode)  # type: ignore[misc]
        for part in self._frozen().values():
            part.module.eval()
        return self

    def on_fit_start(self) -> None:
        """Take frozen parameters out of the optimizers: `Adam(self.parameters())` means those that train."""
        super().on_fit_start()  # type: ignore[misc]
        frozen = {id(parameter) for part in self._frozen().values() for parameter in part.module.parameters()}
        for optimizer in self.trainer.optimizers:
            for group in optimizer.param_groups:
                kept = [i for i, parameter in enumerate(group["params"]) if id(parameter) not in frozen]
                for key in {"params", "param_names"} & group.keys():
                    group[key] = [group[key][i] for i in kept]

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As torch's, without the frozen parts."""
        state: dict[str, Any] = super().state_dict(*args, **kwargs)  # type: ignore[misc]
        prefix = kwargs.get("prefix", args[1] if len(args) > 1 else "")
        for key in self._frozen_keys(state, prefix):
            del state[key]
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As torch's, where frozen parts need not be given."""
        if self._frozen_keys(state_dict, ""):
            self._frozen_content = None
        own: dict[str, Tensor] = super().state_dict()  # type: ignore[misc]
        kept = {key: own[key] for key in self._frozen_keys(own, "")}
        completed = OrderedDict({**kept, **state_dict})
        completed._metadata = getattr(state_dict, "_metadata", None)  # type: ignore[attr-defined]
        return super().load_state_dict(completed, strict, assign)  # type: ignore[misc]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note the frozen parts' content in the checkpoint."""
        super().on_save_checkpoint(checkpoint)  # type: ignore[misc]
        checkpoint[CHECKPOINT_KEY] = dict(self._content())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Compare the frozen parts with those that the checkpoint was trained with.

        Raises:
            CheckpointError: One has another content, or trains now and has no weights in the checkpoint.
        """
        super().on_load_checkpoint(checkpoint)  # type: ignore[misc]
        stored = checkpoint.get(CHECKPOINT_KEY, {})
        for name, sha256 in stored.items():
            found = self._content().get(name)
            if found is None:
                raise CheckpointError(f"{name}: frozen in the checkpoint, which has no weights of it; keep it frozen")
            if found != sha256:
                raise CheckpointError(
                    f"{name}: not the frozen part that the checkpoint was trained with (sha256 {sha256[:12]}... there, "
                    f"{found[:12]}... here); give it the same weights"
                )

    def _frozen(self) -> dict[str, ModelPart]:
        return {name: part for name, part in declared_parts(self).items() if part.frozen}  # type: ignore[arg-type]

    def _content(self) -> dict[str, str]:
        if self._frozen_content is None:
            self._frozen_content = {name: content_sha256(part.module) for name, part in self._frozen().items()}
        return self._frozen_content

    def _frozen_keys(self, state: Mapping[str, Any], prefix: str) -> list[str]:
        frozen = {id(part.module) for part in self._frozen().values()}
        stems = tuple(
            f"{prefix}{name}." for name, module in self.named_modules(remove_duplicate=False) if id(module) in frozen
        )
        return [key for key in state if key.startswith(stems)]
