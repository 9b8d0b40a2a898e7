"""Weights from any file into a module, by name: what matched, what was missing, what had another shape."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from trustformers_pl.checkpoint.loading import load
from trustformers_pl.checkpoint.manifest import NAME
from trustformers_pl.checkpoint.tensorfile import unpack
from trustformers_pl.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

SAFETENSORS = ".safetensors"
_NAMED = 3  # names that a message shows


@dataclass(frozen=True)
class Match:
    """How a module's tensors and a file's fit each other, by the module's names.

    Attributes:
        matched: In both, in the same shape: these were loaded. Name -> elements.
        missing: In the module alone: they keep their values. Name -> elements.
        reshaped: In both, in another shape: not loaded. Name -> (shape in the file, shape in the module).
        unused: In the file alone. Name, after `prefix` and `rename`, -> elements.
    """

    matched: Mapping[str, int]
    missing: Mapping[str, int]
    reshaped: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    unused: Mapping[str, int]

    @property
    def complete(self) -> bool:
        """Whether every tensor of both sides found its other."""
        return not (self.missing or self.reshaped or self.unused)


def load_weights(
    module: nn.Module,
    path: str | Path,
    *,
    strict: bool = True,
    prefix: str = "",
    rename: Mapping[str, str] | None = None,
) -> Match:
    """Put weights into a module, converted to its dtypes and devices; nothing in a file is executed.

    Args:
        module: Any module; its parameters keep their identity.
        path: A checkpoint folder; a run folder, for its newest whole one; a stock `.ckpt` or `.pt` file; a
            `.safetensors` file or a folder of them; or `package:file`, a file that an installed package brings.
        strict: Refuse unless all tensors of the module and of the file match. Otherwise what fits is loaded.
        prefix: Take only names that begin with it, and take it off: `model.`.
        rename: Beginnings of names and what stands in their place, applied after `prefix`; the first that fits counts.

    Returns:
        What matched and what did not.

    Raises:
        CheckpointError: The weights cannot be read, nothing of them matches, or `strict` and something does not.
    """
    given = _renamed(weights_of(path), prefix, rename or {})
    match, fitting = _matched(module, given)
    if not fitting:
        raise CheckpointError(
            f"{path}: nothing in it matches the module: it has {_some(given)}, the module has "
            f"{_some(module.state_dict())}; set `prefix` or `rename`"
        )
    if strict and not match.complete:
        raise CheckpointError(f"{path}: {_mismatch(match)}; strict: false loads what fits")
    module.load_state_dict(fitting, strict=False)
    return match


def weights_of(path: str | Path) -> dict[str, Tensor]:
    """Read the named tensors that a path means, mapped into memory; see `load_weights` for what it may be.

    Raises:
        CheckpointError: There are none, or they cannot be read.
    """
    place = _place(str(path))
    try:
        if place.is_file():
            return unpack(place, mapped=True) if place.suffix == SAFETENSORS else _state_dict(load(place), path)
        if place.is_dir() and not (place / NAME).exists() and (found := sorted(place.glob("*" + SAFETENSORS))):
            return {name: tensor for file in found for name, tensor in unpack(file, mapped=True).items()}
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error
    return _state_dict(load(place), path)


def _place(path: str) -> Path:
    package, colon, name = path.partition(":")
    if not colon or "/" in package or name.startswith("//"):
        return Path(path) if "://" not in path else _refuse_address(path)
    try:
        return Path(str(files(package) / name))
    except (ImportError, TypeError) as error:
        raise CheckpointError(f"{path}: no installed package {package!r}; install it, or give a path") from error


def _refuse_address(path: str) -> Path:
    raise CheckpointError(f"{path}: nothing is loaded from the network; download it first and give the file")


def _state_dict(content: Mapping[str, Any], path: str | Path) -> dict[str, Tensor]:
    tensors = content.get("state_dict", content)
    found = {name: value for name, value in tensors.items() if isinstance(value, Tensor)}
    if not found:
        raise CheckpointError(f"{path}: no weights in it; give a checkpoint, or a file of named tensors")
    return found


def _renamed(tensors: Mapping[str, Tensor], prefix: str, rename: Mapping[str, str]) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in tensors.items():
        if name.startswith(prefix):
            rest = name.removeprefix(prefix)
            old = next((old for old in rename if rest.startswith(old)), "")
            renamed[rename[old] + rest.removeprefix(old) if old else rest] = tensor
    return renamed


def _matched(module: nn.Module, given: Mapping[str, Tensor]) -> tuple[Match, dict[str, Tensor]]:
    own = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    fitting = {name: given[name] for name in own if name in given and given[name].shape == own[name].shape}
    # Tied weights have two names, and a file often has one of them.
    loaded = {(own[name].data_ptr(), own[name].shape) for name in fitting if own[name].numel()}
    tied = {name for name in own if name not in given and (own[name].data_ptr(), own[name].shape) in loaded}
    match = Match(
        {name: own[name].numel() for name in own if name in fitting or name in tied},
        {name: own[name].numel() for name in own if name not in given and name not in tied},
        {n: (tuple(given[n].shape), tuple(own[n].shape)) for n in own if n in given and n not in fitting},
        {name: tensor.numel() for name, tensor in given.items() if name not in own},
    )
    return match, fitting


def _mismatch(match: Match) -> str:
    parts = []
    if match.missing:
        parts.append(f"it lacks {_some(match.missing)}")
    parts += [
        f"{name} is {there} there and {here} here" for name, (there, here) in list(match.reshaped.items())[:_NAMED]
    ]
    if match.unused:
        parts.append(f"the module has no {_some(match.unused)}")
    return "; ".join(parts)


def _some(names: Mapping[str, object]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return (", ".join(list(names)[:_NAMED]) or "nothing") + more


def table(match: Match) -> tuple[list[str], list[list[str]]]:
    """A match as a table for people.

    Returns:
        The header, and a row for each kind of tensor that there is.
    """
    shapes = {f"{name} {there} -> {here}": 0 for name, (there, here) in match.reshaped.items()}
    kinds: list[tuple[str, Mapping[str, int]]] = [
        ("loaded", match.matched),
        ("missing, kept as built", match.missing),
        ("another shape, kept as built", shapes),
        ("in the file only", match.unused),
    ]
    rows = [
        [what, str(len(names)), f"{sum(names.values()):,}" if names is not shapes else "", _some(names)]
        for what, names in kinds
        if names
    ]
    return ["WEIGHTS", "TENSORS", "NUMBERS", "NAMES"], rows
