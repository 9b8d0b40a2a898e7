"""One generated text: the randomness it is drawn with, and its beginning on one line."""

from __future__ import annotations

import hashlib

import torch

EXCERPT = 200
"""Characters of a sample that are printed."""

TRIANGLE = "\N{BLACK RIGHT-POINTING SMALL TRIANGLE}"


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
    """A prompt and the beginning of its continuation on one line, without what would steer a terminal.

    Args:
        prompt: What was continued.
        text: Any text, also bytes that mean nothing, as an untrained model of bytes writes them.

    Returns:
        Both, divided by a small triangle: at most `EXCERPT` printable characters and a mark of omission.
    """
    whole = " ".join(f"{prompt}{TRIANGLE}{text}".split())
    line = "".join(c if c.isprintable() else "\N{MIDDLE DOT}" for c in whole)
    return line if len(line) <= EXCERPT else line[:EXCERPT] + "\N{HORIZONTAL ELLIPSIS}"
