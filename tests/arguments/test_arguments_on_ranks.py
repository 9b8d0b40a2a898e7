"""`world_size` and `backend` on two gloo ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trustformers_pl.testing.on_ranks import train_on_rank
from trustformers_pl.testing.ranks import Ranks
from trustformers_pl.testing.sections import PLAIN
from trustformers_pl.testing.trial import differences

if TYPE_CHECKING:
    from pathlib import Path


def weights(sections: dict[str, Any], folder: Path) -> list[dict[str, str]]:
    return [trial.state for trial in Ranks().run(2, train_on_rank, sections, str(folder))]


def test_two_ranks_by_arguments_are_two_ranks_by_sections(tmp_path: Path) -> None:
    """The same bits as with `devices` and `ddp` written out, on both ranks."""
    trainer = {key: value for key, value in PLAIN["trainer"].items() if key not in ("accelerator", "devices")}
    args = {"world_size": 2, "backend": "gloo", "use_cpu": True, "learning_rate": 0.01}
    short = {**PLAIN, "trainer": trainer, "args": args}
    written = {**PLAIN, "trainer": {**PLAIN["trainer"], "devices": 2}, "ddp": {}}
    first, second = weights(short, tmp_path / "short")
    assert not [name for name in differences(first, second) if name.startswith("weights.")]
    assert not differences(first, weights(written, tmp_path / "written")[0])
