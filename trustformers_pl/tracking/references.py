"""Texts that the model is asked for, and what it should have said."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
import torch.distributed as dist

from trustformers_pl.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Reference:
    """One line of the file: what is continued, and the continuations that count as right."""

    prompt: str
    references: tuple[str, ...]


class Generates(Protocol):
    """A module that continues token ids, as `GPT.generate` does."""

    device: torch.device

    def generate(self, input_ids: Tensor, *, max_new_tokens: int, temperature: float) -> Tensor:
        """(1, T) int64 -> (1, T + new) int64."""


class Texts(Protocol):
    """Data that turn text into token ids and back."""

    def encode(self, text: str) -> list[int]:
        """Token ids."""

    def decode(self, ids: list[int]) -> str:
        """Text."""


def read_references(path: str | Path) -> list[Reference]:
    """Read JSON Lines with `prompt` and `reference`: a text, or a list of equally good ones.

    Raises:
        DataError: The file cannot be read, is empty, or a line is not such an object.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); give a file of JSON Lines in scores.references") from error
    found = [_reference(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise DataError(f'{path}: no reference in it; write lines such as {{"prompt": "…", "reference": "…"}}')
    return found


def _reference(path: str | Path, number: int, line: str) -> Reference:
    try:
        read = json.loads(line)
        given = read["reference"]
        texts = (given,) if isinstance(given, str) else tuple(given)
        if not isinstance(read["prompt"], str) or not texts or not all(isinstance(text, str) for text in texts):
            raise TypeError
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f'{path}:{number}: expected {{"prompt": "…", "reference": "…"}}, or a list of texts as reference'
        ) from error
    return Reference(read["prompt"], texts)


def continuations(module: Generates, data: Texts, references: list[Reference], *, max_new_tokens: int) -> list[str]:
    """What the module says after each prompt, the likeliest token each time. Collective: the ranks share the prompts.

    Every rank calls `generate` equally often, as a module whose weights are sharded needs all ranks for each call; what
    was made for that alone is left out.

    Args:
        module: In evaluation mode.
        data: Of the same tokens.
        references: Equal on all ranks.
        max_new_tokens: After each prompt.

    Returns:
        The texts without the prompts, in the order of `references`, on every rank.
    """
    there = dist.is_available() and dist.is_initialized()
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if there else (0, 1)
    own = [
        _continued(module, data, references[place % len(references)].prompt, max_new_tokens)
        for place in range(rank, -(-len(references) // ranks) * ranks, ranks)
    ]
    if ranks == 1:
        return own
    everyone: list[list[str]] = [[] for _ in range(ranks)]
    dist.all_gather_object(everyone, own)
    return [everyone[place % ranks][place // ranks] for place in range(len(references))]


def _continued(module: Generates, data: Texts, prompt: str, max_new_tokens: int) -> str:
    ids = data.encode(prompt or "\n")
    input_ids = torch.tensor([ids], dtype=torch.int64, device=module.device)
    out = module.generate(input_ids, max_new_tokens=max_new_tokens, temperature=0.0)
    return data.decode(out[0, len(ids) :].tolist())
