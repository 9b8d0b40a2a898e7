"""One generated text: the randomness it is drawn with, and its beginning as a person reads it."""

from __future__ import annotations

import hashlib

import torch

LINES, COLUMNS = 6, 96
"""How much of a sample is printed."""

TRIANGLE = "\N{BLACK RIGHT-POINTING SMALL TRIANGLE}"
RULE, OMITTED = "  \N{BOX DRAWINGS LIGHT VERTICAL} ", "\N{HORIZONTAL ELLIPSIS}"


def sample_generator(step: int, prompt_index: int, device: torch.device) -> torch.Generator:
    """Randomness of one sample, the same in each run and on each resume.

    Args:
        step: Optimizer steps completed.
        prompt_index: Which prompt.
        device: Where the text is generated.

    Returns:
        A generator seeded by the SHA-256 of both numbers.
    """
    digest = hashlib.sha256(f"sample {step} {prompt_index}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def excerpt(prompt: str, text: str) -> str:
    """A prompt and the beginning of its continuation, without what would steer a terminal.

    Args:
        prompt: What was continued.
        text: Any text, also bytes that mean nothing, as an untrained model of bytes writes them.

    Returns:
        Both, divided by a small triangle: at most `LINES` lines of printable text beside a rule, none blank, cut at
        `COLUMNS`.
    """
    lines = [line for line in f"{prompt}{TRIANGLE}{text}".expandtabs(4).split("\n") if line.strip()]
    shown = [RULE + _printable(line) for line in lines[:LINES]]
    return "\n".join([*shown, RULE + OMITTED] if len(lines) > LINES else shown)


def _printable(line: str) -> str:
    text = "".join(c if c.isprintable() else "\N{MIDDLE DOT}" for c in line)
    return text if len(text) <= COLUMNS else text[: COLUMNS - 1] + OMITTED
