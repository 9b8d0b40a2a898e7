"""A checkpoint as plain safetensors files with whole tensors, for programs that know nothing of this package."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from trustformers_pl.checkpoint.atomic import fsync_folder, make_folder, publish
from trustformers_pl.checkpoint.finding import one
from trustformers_pl.checkpoint.leaves import encode_leaf
from trustformers_pl.checkpoint.reading import read_folder
from trustformers_pl.checkpoint.tensorfile import stream
from trustformers_pl.checkpoint.unfinished import finished, unfinished
from trustformers_pl.checkpoint.unstorable import describe
from trustformers_pl.errors import CheckpointError
from trustformers_pl.pieces import Pieces

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

logger = logging.getLogger(__name__)
MODEL, OPTIMIZER, REST = "model.safetensors", "optimizer.safetensors", "optimizer.json"
_METADATA = {"format": "pt"}  # which Hugging Face's loaders ask for


def consolidate(path: str | Path, out: str | Path) -> Path:
    """Write a checkpoint's weights and optimizer state as files that the `safetensors` library reads.

    Tensors are put together from their pieces one at a time. Written are `model.safetensors`, the module's tensors by
    their names, tied ones under each name; `optimizer.safetensors`, the optimizer's as `<parameter name>.<state name>`;
    and `optimizer.json`, a list `optimizers` with, of each, its `groups` (arguments, and the parameters' names) and
    `scalars` (state that is no tensor, by the same names). Parameters are named by the `param_names` of the groups, or
    by their number where there are none. Of several optimizers each name begins with the optimizer's number.

    Args:
        path: A checkpoint folder, or a run folder for its newest whole one.
        out: A new folder; it is there whole or not at all.

    Returns:
        The folder.

    Raises:
        CheckpointError: There is no checkpoint, or it is damaged or holds no weights; `out` is there already, or cannot
            be written; or an optimizer holds what is neither tensors nor plain values.
    """
    final = Path(out).absolute()
    if final.exists() and not (final.is_dir() and not any(final.iterdir())):
        raise CheckpointError(f"{out}: not written: it is there already; choose another name")
    folder = one(path)
    state, _ = read_folder(folder, pieces=True)
    if not isinstance(state, dict) or not isinstance(state.get("state_dict"), Mapping):
        raise CheckpointError(f"{folder}: it has no weights (no state_dict)")
    tensors, rest = _optimizers(state.get("optimizer_states", []))
    text = json.dumps({"optimizers": rest}, indent=1, allow_nan=False).encode() + b"\n"
    files = {
        MODEL: stream(_weights(state["state_dict"]), _METADATA),
        OPTIMIZER: stream(tensors, _METADATA),
        REST: iter([memoryview(text)]),
    }
    _write(final, files)
    return Path(out)


def _weights(state_dict: Mapping[str, Any]) -> dict[str, Tensor | Pieces]:
    found = {name: value for name, value in state_dict.items() if isinstance(value, Tensor | Pieces)}
    if others := state_dict.keys() - found.keys():
        logger.warning("consolidate: %s: no tensors; left out", ", ".join(sorted(others)))
    return found


def _optimizers(states: Iterable[Mapping[str, Any]]) -> tuple[dict[str, Tensor | Pieces], list[dict[str, Any]]]:
    """The tensors of all optimizers by name, and of each what is JSON."""
    tensors: dict[str, Tensor | Pieces] = {}
    rest = []
    listed = list(states)
    for number, state in enumerate(listed):
        prefix = f"{number}." if len(listed) > 1 else ""
        names = {key: prefix + name for key, name in _names(state["param_groups"]).items()}
        groups = [_group(group, names, f"{prefix}param_groups.{i}") for i, group in enumerate(state["param_groups"])]
        leaves = {
            f"{names.get(key, f'{prefix}{key}')}.{name}": value
            for key, of_one in state["state"].items()
            for name, value in _flat(of_one)
        }
        tensors |= {name: value for name, value in leaves.items() if isinstance(value, Tensor | Pieces)}
        scalars = {name: _plain(value, name) for name, value in leaves.items() if name not in tensors}
        rest.append({"groups": groups, "scalars": scalars})
    return tensors, rest


def _names(groups: Iterable[Mapping[str, Any]]) -> dict[Any, str]:
    """The parameters' names by their numbers in the state."""
    return {
        number: str(name)
        for group in groups
        for number, name in zip(group["params"], group.get("param_names") or group["params"], strict=True)
    }


def _group(group: Mapping[str, Any], names: Mapping[Any, str], where: str) -> dict[str, Any]:
    told = {
        key: _plain(value, f"{where}.{key}") for key, value in group.items() if key not in ("params", "param_names")
    }
    return {**told, "params": [names[number] for number in group["params"]]}


def _flat(tree: Mapping[Any, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{where}{key}.")
        else:
            yield f"{where}{key}", value


def _plain(value: Any, where: str) -> Any:
    """A value as JSON; numbers that JSON lacks as in a checkpoint's `state.json`."""
    if isinstance(value, Pieces):
        value = value.whole()
    if isinstance(value, Tensor):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}.{i}") for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{where}.{key}") for key, item in value.items()}
    leaf = encode_leaf(value)
    if leaf is NotImplemented:
        raise CheckpointError(f"{where}: {describe(value)[0]} cannot be written; consolidate another checkpoint")
    return leaf


def _write(final: Path, files: Mapping[str, Iterable[memoryview]]) -> None:
    try:
        make_folder(final.parent)
        temporary = unfinished(final, "tmp")
        try:
            temporary.mkdir()
            for name, content in files.items():
                with (temporary / name).open("xb") as file:
                    for piece in content:
                        file.write(piece)
                    file.flush()
                    os.fsync(file.fileno())
            fsync_folder(temporary)
            publish(temporary, final)
        finally:
            finished(temporary)
    except OSError as error:
        raise CheckpointError(f"{final}: not written: {error.strerror or error}; choose another place") from error
