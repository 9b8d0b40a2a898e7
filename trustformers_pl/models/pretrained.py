"""A Hugging Face model from a local folder inside a LightningModule, whose weights are read once."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning import LightningModule

from trustformers_pl.deferred import Whole, deferred_record, fill, is_deferring
from trustformers_pl.models.hf_folder import ModelFolder
from trustformers_pl.models.hf_saving import save_model
from trustformers_pl.models.hf_slices import NotByPartsError, parts_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor, nn

    from trustformers_pl.deferred import Source
    from trustformers_pl.models.hf_slices import Files

logger = logging.getLogger(__name__)
DType = Literal["float32", "bfloat16", "float16"]


class PretrainedModule(LightningModule):
    """What `HFCausalLM` and `HFSequenceClassifier` share: building, reading the weights and writing them.

    The constructor builds the architecture without initialising it. The pretrained weights are read when they are
    needed first: when Lightning configures the model, before a forward pass, before the `state_dict` is taken. Where a
    checkpoint brings all weights, the pretrained ones are not read at all.

    Attributes:
        model: The `transformers` model.
        files: What was read by parts, or None.
        checkpoint_follows: Whether a checkpoint is loaded right after the model is configured; a run says so.
    """

    auto_class: str
    files: Files | None = None
    checkpoint_follows = False

    def __init__(
        self, path: str, gguf_file: str | None, dtype: DType, changes: Mapping[str, Any], **fixed: Any
    ) -> None:
        """Build the architecture.

        Args:
            path: The folder, or a `.gguf` file.
            gguf_file: The file in that folder, if it is one.
            dtype: Of the weights.
            changes: Values of the configuration.
            fixed: Further ones, not to be checked.
        """
        super().__init__()
        self.folder = ModelFolder.at(path, gguf_file)
        self.weights_dtype: torch.dtype = getattr(torch, dtype)
        self._skeleton = partial(self.folder.skeleton, self.auto_class, self.weights_dtype, changes, fixed)
        self.model: Any = self._skeleton()
        # Where each tensor is, however the modules are called once features have changed the model.
        self._places = _owners(self.model) if is_deferring() else {}
        self._read = False
        # What the pretrained weights lack starts from numbers that follow from the run's seed at this point, however
        # much is drawn before the weights are read.
        self._new_weights_seed = int(torch.randint(2**63 - 1, (), device="cpu"))
        self.register_state_dict_pre_hook(_read_before_state_dict)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_read_unless_replaced)  # type: ignore[no-untyped-call]

    def configure_model(self) -> None:
        """Read the weights, unless they have been read, or a checkpoint brings them."""
        super().configure_model()
        if not self.checkpoint_follows:
            self.read_weights()

    def read_weights(self) -> None:
        """Read the pretrained weights, unless they have been read or replaced.

        Raises:
            RecipeError: The folder does not hold the weights of such a model.
        """
        if self._read or any(parameter.is_meta for parameter in self.model.parameters()) or self._is_deferred():
            return
        loaded = self._load()
        _take_over(self.model, loaded)
        self._read = True

    def value_sources(self) -> list[tuple[nn.Module, str, Source]]:
        """Where `fill` finds the weights: in the folder, by parts where that can be; nothing once they are there.

        Returns:
            The module that has the tensor, its name there, and where its value is read.

        Raises:
            RecipeError: The folder does not hold the weights of such a model.
        """
        if self._read or not self._is_deferred():
            return []
        try:
            parts = parts_of(self.folder, self._skeleton, self._new_weights_seed)
        except NotByPartsError as reason:
            logger.warning("%s: each process reads all of the weights, because %s", self.folder, reason)
            found: dict[str, Source] = {name: Whole(value) for name, value in self._load().state_dict().items()}
        else:
            self._tell(parts.started_anew)
            self.files, found = parts.files, parts.sources
        self._read = True
        places, self._places = self._places, {}
        return [(*places[name], source) for name, source in found.items() if name in places]

    def _make_ready(self) -> None:
        if not self._read and self._is_deferred():
            fill(self)
        self.read_weights()

    def _is_deferred(self) -> bool:
        """Whether the weights are to be given by `fill`."""
        return deferred_record(self.model) is not None

    def _load(self) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._new_weights_seed)
            loaded, started_anew = self.folder.load(self.auto_class, self.weights_dtype, self.model.config)
        self._tell(started_anew)
        return loaded

    def _tell(self, started_anew: list[str]) -> None:
        if started_anew:
            logger.info("%s: not among the pretrained weights, so they start anew: %s", self.folder, started_anew)

    def save_pretrained(self, folder: str | Path, data: Any = None) -> None:
        """Write the model and its tokenizer as `transformers` does, for `from_pretrained` of any program.

        Args:
            folder: Made, with `config.json`, `model.safetensors` and the tokenizer's files; it is there whole or not
                at all.
            data: The data module, which may know names that belong to the model.

        Raises:
            RefusedError: The folder is there already and not empty.
        """
        del data
        self._make_ready()
        save_model(self.model, self.folder, folder)

    def _inputs(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What `model` is called with: `input_ids`, and `attention_mask` and `token_type_ids` if there are some."""
        self._make_ready()
        inputs = {name: batch[name] for name in ("input_ids", "token_type_ids") if name in batch}
        if "attention_mask" in batch:
            inputs["attention_mask"] = batch["attention_mask"].long()
        return inputs


def _read_before_state_dict(module: nn.Module, prefix: str, keep_vars: bool) -> None:
    del prefix, keep_vars
    module.read_weights()  # type: ignore[operator]


def _read_unless_replaced(module: Any, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
    del rest
    if module._read:
        return
    own = (f"{prefix}model.{name}" for name in _stored_names(module.model))
    if all(name in state_dict for name in own):
        module._read = True
    else:
        module.read_weights()


def _owners(model: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Name of a parameter or a buffer -> the module that has it, and its name there."""
    found: dict[str, tuple[nn.Module, str]] = {}
    for prefix, one in model.named_modules(remove_duplicate=False):
        for name in (*one._parameters, *one._buffers):
            found[f"{prefix}.{name}" if prefix else name] = one, name
    return found


def _stored_names(model: nn.Module) -> list[str]:
    return list(model.state_dict())


def _take_over(model: nn.Module, loaded: nn.Module) -> None:
    """Give the tensors of one model to another of the same class, whose parameters stay the objects that they are."""
    for mine, theirs in (
        (model.named_parameters(), loaded.named_parameters()),
        (model.named_buffers(), loaded.named_buffers()),
    ):
        found = dict(theirs)
        for name, tensor in mine:
            new = found[name].detach()
            if (tensor.device, tensor.dtype, type(tensor.data)) == (new.device, new.dtype, type(new)):
                tensor.data = new
            else:
                tensor.data.copy_(new)
