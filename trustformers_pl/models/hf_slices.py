"""The weights of a Hugging Face folder by parts: each rank reads what it holds, and no rank a whole model."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trustformers_pl.deferred import Recorded, Source, deferred
from trustformers_pl.deferred.placing import is_range, start_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from trustformers_pl.models.hf_folder import ModelFolder

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


class NotByPartsError(Exception):
    """The weights of this folder can only be read as a whole; the message says why."""


@dataclass
class Files:
    """The safetensors files of a folder.

    Attributes:
        folder: Where they are.
        file_of: Name of a tensor -> its file.
        bytes_read: How many bytes of tensors have been read.
    """

    folder: Path
    file_of: dict[str, str]
    bytes_read: int = 0
    _open: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path) -> Files:
        """Those that `transformers` would read.

        Raises:
            NotByPartsError: There are none.
        """
        if (folder / SINGLE).is_file():
            files = cls(folder, {})
            files.file_of = dict.fromkeys(files.file(SINGLE).keys(), SINGLE)
            return files
        if (folder / INDEX).is_file():
            return cls(folder, json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"])
        raise NotByPartsError(f"there is neither {SINGLE} nor {INDEX}")

    def file(self, name: str) -> Any:
        """A file, mapped into memory and not read."""
        from safetensors import safe_open

        if name not in self._open:
            self._open[name] = safe_open(self.folder / name, framework="pt", device="cpu")
        return self._open[name]

    def shape(self, key: str) -> tuple[int, ...]:
        """Of a tensor."""
        return tuple(self.file(self.file_of[key]).get_slice(key).get_shape())


@dataclass(frozen=True)
class FromFile:
    """A tensor in a file.

    Attributes:
        files: Those of the folder.
        key: Its name there.
        dtype: What it is cast to.
    """

    files: Files
    key: str
    dtype: torch.dtype

    def read(self, region: Mapping[int, Tensor]) -> Tensor:
        """Read the part and nothing else, but for what lies between indices that do not follow each other."""
        file, shape = self.files.file(self.files.file_of[self.key]), self.files.shape(self.key)
        if not region:
            found: Tensor = file.get_tensor(self.key)
        else:
            ends = {dim: (start_of(index), int(index[-1]) + 1 if len(index) else 0) for dim, index in region.items()}
            slices = tuple(slice(*ends.get(dim, (0, size))) for dim, size in enumerate(shape))
            if any(taken.start == taken.stop for taken in slices):
                return torch.empty([len(region.get(dim, range(size))) for dim, size in enumerate(shape)])
            found = file.get_slice(self.key)[slices]
        self.files.bytes_read += found.nbytes
        for dim, index in region.items():
            if not is_range(index):
                found = found.index_select(dim, index - index[0])
        return found.to(self.dtype)


@dataclass(frozen=True)
class Parts:
    """Where each tensor of a model is read from.

    Attributes:
        sources: Name of a parameter or a persistent buffer -> where its value comes from.
        started_anew: Names that the folder does not have.
        files: What is read.
    """

    sources: dict[str, Source]
    started_anew: list[str]
    files: Files


def parts_of(folder: ModelFolder, build: Callable[[], Any], seed: int) -> Parts:
    """Where the weights of a folder lie, under the names of the model that reads them.

    Names are matched by the rules of `transformers.from_pretrained`: renamed as it renames old ones, with or without
    the prefix of the base model, tied weights by whichever name the folder has. What the folder lacks is drawn as
    there, from `seed`.

    Args:
        folder: Of the model.
        build: Makes the architecture, without values.
        seed: Of weights that are not in the folder.

    Raises:
        NotByPartsError: It has no safetensors, or tensors that must be converted.
    """
    if folder.gguf_file is not None:
        raise NotByPartsError("it is a GGUF file")
    files = Files.of(folder.folder)
    with deferred() as recorder, torch.random.fork_rng(devices=[]):
        twin = build()
        if getattr(twin.config, "quantization_config", None) is not None:
            raise NotByPartsError("its weights are quantised")
        keys = _keys(twin, files)
        missing = _draw_missing(twin, keys, seed)
    sources: dict[str, Source] = {}
    tied = {id(tensor): keys[name] for name, tensor in _tensors(twin).items() if name in keys}
    for name, tensor in _tensors(twin).items():
        key = tied.get(id(tensor))
        source = Recorded.of(tensor, recorder.record) if key is None else FromFile(files, key, tensor.dtype)
        sources[name] = source
    return Parts(sources, sorted(missing), files)


def _tensors(model: Any) -> dict[str, Tensor]:
    """What a `state_dict` would have, as the very tensors of the model."""
    found: dict[str, Tensor] = model.state_dict(keep_vars=True)
    return {name: tensor for name, tensor in found.items() if isinstance(tensor, Tensor)}


def _keys(twin: Any, files: Files) -> dict[str, str]:
    """Name in the model -> name in the folder.

    Raises:
        NotByPartsError: A tensor must be converted, or has another shape than in the model.
    """
    renamed = _renamer(twin)
    own, keys = _tensors(twin), dict[str, str]()
    for key in files.file_of:
        name = renamed(key, own)
        if name in own:
            if tuple(own[name].shape) != files.shape(key):
                raise NotByPartsError(f"{key} has another shape in the model")
            keys[name] = key
    return keys


def _renamer(twin: Any) -> Callable[[str, dict[str, Tensor]], str]:
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, rename_source_key
    except ImportError as error:  # they are not part of transformers' public interface
        raise NotByPartsError("this version of transformers does not say how names are matched") from error
    rules = get_model_conversion_mapping(twin)
    renamings: Any = [rule for rule in rules if not isinstance(rule, WeightConverter)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]

    def renamed(key: str, own: dict[str, Tensor]) -> str:
        prefix = twin.base_model_prefix
        name, converter = rename_source_key(key, renamings, converters, prefix, own)
        if name not in own and key in own:
            name, converter = rename_source_key(key, [], [], prefix, own)
        if converter is not None and name in own:
            raise NotByPartsError(f"{key} must be converted")
        return str(name)

    return renamed


def _draw_missing(twin: Any, keys: Mapping[str, str], seed: int) -> set[str]:
    """Initialise what the folder lacks, as `from_pretrained` does; returns the names."""
    own = _tensors(twin)
    missing = own.keys() - keys.keys()
    for name in [*keys, *twin.all_tied_weights_keys]:
        own[name]._is_hf_initialized = True  # type: ignore[attr-defined]
    torch.manual_seed(seed)
    twin.initialize_weights()
    twin.tie_weights(missing_keys=missing, recompute_mapping=False)
    there = {id(tensor) for name, tensor in _tensors(twin).items() if name in keys}
    return {name for name in missing if id(_tensors(twin)[name]) not in there}
