from __future__ import annotations

import io
import logging
import re
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from rich.console import Console
from rich.text import Text
from tiny_text import TinyLM, TinyText

from trustformers_pl.tracking import Metrics, Progress
from trustformers_pl.tracking.bars import Bar, Frame
from trustformers_pl.tracking.display import REDRAW_SECONDS, Display
from trustformers_pl.tracking.figures import clock, loss, rate
from trustformers_pl.tracking.handlers import redirect_handlers
from trustformers_pl.tracking.shown import total_steps

if TYPE_CHECKING:
    from pathlib import Path

HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


def terminal(width: int = 80) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, color_system="standard")


def written(console: Console) -> str:
    return console.file.getvalue()  # type: ignore[attr-defined]


def plain(text: str) -> str:
    """The text without control sequences (ECMA-48: ESC [ parameters, one final letter)."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "\n")


def test_a_stock_trainer_has_no_other_bar(make_trainer: Any) -> None:
    trainer = make_trainer(callbacks=[Progress(console=terminal())])
    assert [type(one) for one in trainer.callbacks if isinstance(one, ProgressBar)] == [Progress]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_fit_on_a_terminal(make_trainer: Any, width: int) -> None:
    console = terminal(width)
    trainer = make_trainer(
        callbacks=[Metrics(), Progress(console=console)], max_steps=20, val_check_interval=5, log_every_n_steps=5
    )
    trainer.fit(TinyLM(), datamodule=TinyText(batches=10))
    text = plain(written(console))
    notes = re.findall(r"^step +(\d+)  val_loss +(\d\.\d{4})  bits/byte +(\d\.\d{4})  \(\d+\.\d s\)$", text, re.M)
    assert [step for step, _, _ in notes] == ["5", "10", "15", "20"]
    assert float(notes[-1][1]) == pytest.approx(float(trainer.callback_metrics["val_loss"]), abs=5e-5)
    assert "20/20" in text
    assert max(len(line) for line in text.split("\n")) <= width


def test_the_last_picture_holds_all_metrics_at_80_columns(make_trainer: Any) -> None:
    console = terminal(80)
    trainer = make_trainer(callbacks=[Metrics(), Progress(console=console)], max_steps=10, log_every_n_steps=5)
    trainer.fit(TinyLM(), datamodule=TinyText(batches=10))
    bar, metrics = plain(written(console)).rstrip().split("\n")[-2:]
    assert re.search(r"^train .*10/10 0:00:\d\d eta 0:00:00", bar)
    assert re.search(r"loss +\d\.\d{4}  bits/byte +\d\.\d{4}  tok/s +[\d.]+[kMG ]?", metrics)


def test_an_exception_gives_the_terminal_back(make_trainer: Any) -> None:
    class Breaks(TinyLM):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            raise ValueError("at step 0")

    console = terminal()
    with pytest.raises(ValueError, match="at step 0"):
        make_trainer(callbacks=[Progress(console=console)]).fit(Breaks(), datamodule=TinyText())
    assert written(console).count(HIDE_CURSOR) == 1
    assert written(console).rstrip("\n").endswith(SHOW_CURSOR)


class Prints(TinyLM):
    def on_train_batch_end(self, *args: Any) -> None:
        self.print("[bold]as written[/bold]", 7)


def test_what_a_module_prints_stands_above_the_bar(make_trainer: Any) -> None:
    console = terminal()
    make_trainer(callbacks=[Progress(console=console)], max_steps=2).fit(Prints(), datamodule=TinyText())
    assert plain(written(console)).count("[bold]as written[/bold] 7\n") == 2


def test_without_a_terminal_there_are_only_plain_lines(make_trainer: Any, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    trainer = make_trainer(callbacks=[Metrics(), Progress()], val_check_interval=5, log_every_n_steps=5)
    trainer.fit(TinyLM(), datamodule=TinyText(batches=10))
    lines = capsys.readouterr().out.splitlines()
    assert [line[:17] for line in lines] == [f"step {step:>2}  val_loss" for step in (5, 10, 15, 20)]
    assert all(line.isascii() and line.isprintable() for line in lines)


def test_plain_lines_come_as_often_as_asked(make_trainer: Any, capsys: Any) -> None:
    trainer = make_trainer(
        callbacks=[Metrics(), Progress(plain_every_seconds=0.0)], max_steps=3, log_every_n_steps=1, limit_val_batches=0
    )
    trainer.fit(TinyLM(), datamodule=TinyText(batches=10))
    lines = capsys.readouterr().out.splitlines()
    assert [line[:14] for line in lines] == [f"step {step}/3  loss" for step in (1, 2, 3)]


def test_a_resumed_run_says_so_and_goes_on_where_it_was(make_trainer: Any, tmp_path: Path) -> None:
    saving = ModelCheckpoint(tmp_path, filename="half", save_on_train_epoch_end=True)
    make_trainer(callbacks=[saving], enable_checkpointing=True, max_steps=10).fit(
        TinyLM(), datamodule=TinyText(batches=10)
    )
    console = terminal()
    trainer = make_trainer(callbacks=[Progress(console=console)], max_steps=20)
    trainer.fit(TinyLM(), datamodule=TinyText(batches=10), ckpt_path=str(tmp_path / "half.ckpt"))
    text = plain(written(console))
    assert "resumed at step 10\n" in text
    counts = [int(count) for count in re.findall(r"(\d+)/20 ", text)]
    assert min(counts) == 10
    assert counts[-1] == 20


def test_validate_alone_shows_a_bar_and_takes_it_away(make_trainer: Any) -> None:
    console = terminal()
    make_trainer(callbacks=[Progress(console=console)]).validate(TinyLM(), datamodule=TinyText(), verbose=False)
    assert re.search(r"validate .* [1-3]/3 ", plain(written(console)))
    assert written(console).count(SHOW_CURSOR) == 1


def test_a_disabled_bar_shows_nothing(make_trainer: Any, capsys: Any) -> None:
    progress = Progress(plain_every_seconds=0.0)
    progress.disable()
    make_trainer(callbacks=[progress]).fit(TinyLM(), datamodule=TinyText())
    assert capsys.readouterr().out == ""


def test_metrics_are_read_only_when_something_is_drawn(make_trainer: Any) -> None:
    reads: list[float] = []

    def metrics() -> list[tuple[str, str]]:
        reads.append(time.monotonic())
        return []

    progress = Progress(console=terminal())
    progress._display = Display(terminal(), 30.0, metrics)
    trainer = make_trainer(callbacks=[progress], max_steps=300, limit_val_batches=0)
    began = time.monotonic()
    trainer.fit(TinyLM(), datamodule=TinyText(batches=300))
    # Ten pictures a second, the first one, and two at the end.
    assert 1 <= len(reads) <= (time.monotonic() - began) / REDRAW_SECONDS + 4


@pytest.mark.parametrize(
    ("limits", "batches"),
    [({"max_epochs": 2}, 7), ({"max_epochs": 2, "accumulate_grad_batches": 3}, 7), ({"max_steps": 9}, 7)],
)
def test_the_total_is_the_step_at_which_the_fit_ends(make_trainer: Any, limits: Any, batches: int) -> None:
    trainer = make_trainer(**({"max_steps": -1} | limits))
    trainer.fit(TinyLM(), datamodule=TinyText(batches=batches))
    # Lightning's own count at the end is the measure.
    assert total_steps(trainer) == trainer.global_step


def test_a_run_without_an_end_has_no_total(make_trainer: Any) -> None:
    console = terminal()
    trainer = make_trainer(callbacks=[Progress(console=console)], max_steps=-1, max_epochs=-1, limit_val_batches=0)
    module = TinyLM()
    module.on_train_epoch_end = lambda: setattr(trainer, "should_stop", trainer.current_epoch == 1)
    trainer.fit(module, datamodule=TinyText(batches=5))
    assert total_steps(trainer) is None
    assert re.search(r"epoch 1 .* 10 +0:00:\d\d eta -:--:--", plain(written(console)))


def test_remaining_time_is_what_is_left_at_the_mean_speed() -> None:
    # By hand: 30 steps in 60 s after a resume at step 10, 60 of 100 steps left: 120 s.
    assert Bar("train", began=5.0, first=10, done=40, total=100, now=65.0).remaining() == 120.0
    assert Bar("train", began=5.0, first=10, done=10, total=100, now=65.0).remaining() is None


@pytest.mark.parametrize("width", [80, 111, 112, 160])
def test_nothing_moves_while_numbers_change(width: int) -> None:
    def lines(done: int, value: float, speed: float) -> list[str]:
        console = Console(file=io.StringIO(), width=width)
        metrics = [("loss", loss(value)), ("tok/s", rate(speed))]
        console.print(Frame([Bar("train", 0.0, done=done, total=10_000, now=done)], metrics))
        return Text(console.file.getvalue()).plain.splitlines()  # type: ignore[attr-defined]

    first, last = lines(1, 9.5, 850.0), lines(9_999, 123.4, 123_456.0)
    places = [[re.search(word, line).start() for line in one for word in ("eta|loss",) if re.search(word, line)]
              for one in (first, last)]  # fmt: skip
    assert places[0] == places[1]
    assert len(first) == len(last) == (1 if width >= 112 else 2)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (clock(3725.9), "1:02:05"),
        (clock(0), "0:00:00"),
        (clock(None), "-:--:--"),
        (loss(1.62), " 1.6200"),
        (loss(-1.62), "-1.6200"),
        (loss(123.456), " 123.46"),
        (loss(123456.0), "1.2e+05"),
        (loss(3e-5), "3.0e-05"),
        (loss(0.0), " 0.0000"),
        (loss(float("nan")), "    nan"),
        (loss(float("inf")), "    inf"),
        (rate(850), "  850 "),
        (rate(18_700), " 18.7k"),
        (rate(2_500_000), "  2.5M"),
    ],
)
def test_figures(text: str, expected: str) -> None:
    assert text == expected


def test_log_handlers_follow_the_stream_and_come_back() -> None:
    old, new = io.StringIO(), io.StringIO()
    handler = logging.StreamHandler(old)
    logger = logging.getLogger("trustformers_pl.tests.handlers")
    logger.addHandler(handler)
    redirect_handlers(old, new)
    logger.warning("above the bar")
    redirect_handlers(new, old)
    logger.warning("after it")
    logger.removeHandler(handler)
    assert (old.getvalue(), new.getvalue()) == ("after it\n", "above the bar\n")


def test_a_handler_that_asks_for_standard_error_each_time_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """Such as `logging.lastResort`, and the one that dill adds where `datasets` is used."""
    logger = logging.getLogger("trustformers_pl.tests.last_resort")
    assert logging.lastResort is not None
    logger.addHandler(logging.lastResort)
    redirect_handlers(sys.stderr, io.StringIO())
    logger.warning("still there")
    logger.removeHandler(logging.lastResort)
    assert "still there" in capsys.readouterr().err
