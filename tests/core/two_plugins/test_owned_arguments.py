"""Trainer arguments that two sections own: they agree, or are refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from trustformers_pl.errors import PluginError, RefusedError
from trustformers_pl.factory import assemble


def test_two_values_for_one_argument_are_refused(refused: Any) -> None:
    answers = {"zzz": '{"log_every_n_steps": 2}', "aaa": '{"log_every_n_steps": 3}'}
    assert refused("trainer_arguments", owns="log_every_n_steps", **answers) == (
        RefusedError,
        "recipe.yaml:10: zzz sets trainer.log_every_n_steps to 2, and aaa to 3; remove one of the two sections, or "
        "let them agree",
    )


def test_two_that_agree_are_one(write: Any, install_two: Any) -> None:
    answer = '{"log_every_n_steps": 2}'
    install_two("trainer_arguments", zzz=answer, aaa=answer, owns="log_every_n_steps")
    assert assemble(write(more="aaa: {}\nzzz: {}\n")).trainer.log_every_n_steps == 2


def test_an_owned_argument_is_not_written_too(write: Any, install_two: Any) -> None:
    install_two("trainer_arguments", zzz='{"detect_anomaly": True}', aaa="None", owns="detect_anomaly")
    with pytest.raises(Exception, match=r"--trainer\.detect_anomaly: trainer\.detect_anomaly is owned by the section"):
        assemble(write(more="zzz: {}\n"), ["trainer.detect_anomaly=false"])


def test_an_owned_precision_keeps_the_gradient_order(write: Any, install_two: Any) -> None:
    """Lightning refuses a name beside a Precision; the name goes into our own."""
    install_two("trainer_arguments", zzz='{"precision": "bf16-mixed"}', aaa="None", owns="precision")
    precision = assemble(write(more="zzz: {}\n")).trainer.precision_plugin
    assert (type(precision).__name__, precision.precision) == ("OrderedPrecision", "bf16-mixed")


@pytest.mark.parametrize(
    ("argument", "mend"),
    [
        ("callbacks", "answer the hook `callbacks`"),
        ("logger", "answer the hook `loggers`"),
        ("plugins", "answer the hook `plugins`"),
        ("strategy", "answer the hook `strategy` or `mesh`"),
        ("default_root_dir", "it is the run folder, which only the recipe names"),
    ],
)
def test_what_something_else_fills_cannot_be_owned(refused: Any, argument: str, mend: str) -> None:
    assert refused("trainer_arguments", owns=argument, zzz=f'{{"{argument}": None}}', aaa="None") == (
        PluginError,
        f"plugin 'zzz' sets trainer.{argument}: {mend}",
    )
