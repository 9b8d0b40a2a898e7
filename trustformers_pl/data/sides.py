"""Which texts of a table are held out: a pure function of each text."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from trustformers_pl.data.arrow_table import arrow_splits
from trustformers_pl.data.order import counter_seed

Side = Literal["train", "val", "test"]
KNOWN_SPLITS: dict[str, Side] = {
    "train": "train", "validation": "val", "valid": "val", "val": "val", "dev": "val", "test": "test"
}  # fmt: skip
SIDES: tuple[Side, ...] = ("train", "val", "test")


def side_of(text: str, val_fraction: float, test_fraction: float, seed: int) -> Side:
    """The split that a text belongs to.

    The same on every machine; texts that come later do not move the others, and equal texts are never on two sides.
    The shares are therefore met on average.

    Args:
        text: Any.
        val_fraction: Share of `val`.
        test_fraction: Share of `test`.
        seed: Another one holds out other texts.
    """
    position = counter_seed(seed, "split", text) / 2**64
    if position < val_fraction:
        return "val"
    return "test" if position < val_fraction + test_fraction else "train"


def own_splits(path: str) -> dict[Side, str | None]:
    """The splits that a table brings: side -> its name there; everything is `train` where it brings none.

    Args:
        path: A file, or a folder of `datasets`, of whose splits `train`, `validation` (or `valid`, `val`, `dev`) and
            `test` are known.
    """
    names = arrow_splits(Path(path)) or []
    found: dict[Side, str | None] = {KNOWN_SPLITS[name]: name for name in names if name in KNOWN_SPLITS}
    return found or {"train": names[0] if names else None}


def check_fractions(val_fraction: float, test_fraction: float) -> None:
    """Raise ValueError unless both are shares that leave something to train on."""
    if min(val_fraction, test_fraction) < 0 or val_fraction + test_fraction >= 1:
        raise ValueError("val_fraction and test_fraction must not be negative, and leave something to train on")
