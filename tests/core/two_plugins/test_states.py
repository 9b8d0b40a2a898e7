"""Rule E: states of two packages are kept apart, and what cannot be told apart is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_state import Jitter, cut, train, tree
from two_parts import Moves, stock

from trustformers_pl.checkpoint import load
from trustformers_pl.errors import CheckpointError, RefusedError
from trustformers_pl.factory import assemble

SAME = "import two_parts\nclass Moves(two_parts.Moves):\n    pass\n"
ZZZ, AAA = '[part("zzz_pack:Moves", 0.1)]', '[part("aaa_pack:Moves", 0.3)]'
STEPS = "runs/recipe/checkpoints"


def stored(folder: str) -> dict[str, Any]:
    loop: dict[str, Any] = load(folder)["loops"]["fit_loop"]["epoch_loop.state_dict"]
    return {name: state["replicated"]["value"]["amount"] for name, state in loop["parts"].items()}


def test_two_classes_of_one_name_keep_their_own_state_and_resume_exactly(write: Any, install_two: Any) -> None:
    install_two("callbacks", zzz=ZZZ, aaa=AAA, more=SAME)
    path = write(more="aaa: {}\nzzz: {}\ncheckpoint: {every_n_steps: 1, keep_last: 100}\n")
    assemble(path).fit()
    # By hand: six steps, each of which multiplies by 1.5.
    assert stored(f"{STEPS}/step-00000006") == pytest.approx(
        {"zzz_pack.Moves": 0.1 * 1.5**6, "aaa_pack.Moves": 0.3 * 1.5**6}
    )
    expected = tree(f"{STEPS}/step-00000006")
    Path("runs/recipe").rename("whole")
    cut("whole/checkpoints", STEPS, 3)
    assemble(path).fit("force")
    assert tree(f"{STEPS}/step-00000006") == expected


def test_in_a_stock_trainer(tmp_path: Path) -> None:
    class Other(Moves):
        pass

    whole = train("whole", Moves(0.1), Other(0.3), max_epochs=1)
    cut("whole", "cut", 3)
    resumed = train("cut", Moves(7.0), Other(7.0), max_epochs=1, resume=True)
    assert tree("cut/step-00000007") == tree("whole/step-00000007")
    assert [c.amount for c in resumed.callbacks[:2]] == [c.amount for c in whole.callbacks[:2]]  # type: ignore[attr-defined]


def test_another_number_of_one_class_is_refused_as_nobody_knows_whose_state_it_is(write: Any, install_two: Any) -> None:
    """Both packages use one class: without `zzz`, `aaa` would go on with the state of `zzz`."""
    install_two("callbacks", zzz='[part("two_parts:Moves", 0.1)]', aaa='[part("two_parts:Moves", 0.3)]')
    path = write(more="aaa: {}\nzzz: {}\ncheckpoint: {every_n_steps: 1}\n")
    assemble(path).fit()
    assert set(stored(f"{STEPS}/step-00000006")) == {"two_parts.Moves", "two_parts.Moves.2"}
    shutil.rmtree(f"{STEPS}/step-00000006")
    with pytest.raises(CheckpointError) as caught:
        assemble(path, ["no-zzz"]).fit("force")
    assert str(caught.value) == (
        "two_parts.Moves: the checkpoint has states of 2 parts of this name, the run has 1, and nobody can tell whose each "
        "is; use as many, or give each a `state_key` of its own"
    )


def test_the_same_in_a_stock_trainer() -> None:
    train("run", Jitter(1), max_epochs=1)
    with pytest.raises(
        CheckpointError, match=r"tiny_state\.Jitter: the checkpoint has states of 1 parts of this name, th"
    ):
        train("run", Jitter(1), Jitter(2), resume=True)


KEYED = """
from lightning import Callback
class Keeps(Callback):
    def state_dict(self):
        return {}
"""


def test_two_callbacks_under_one_state_key_are_refused(refused: Any) -> None:
    """Lightning keeps them by class name alone, whatever the package."""
    answers = {name: f'[part("{name}_pack:Keeps")]' for name in ("zzz", "aaa")}
    assert refused("callbacks", more=KEYED, **answers) == (
        RefusedError,
        "recipe.yaml:10: zzz and aaa both bring a callback that a checkpoint would keep under the state key 'Keeps'; give "
        "one of the classes a `state_key` of its own, or let it keep its state by state() and load_state()",
    )


def test_a_stock_trainer_refuses_them_itself() -> None:
    names: dict[str, Any] = {}
    exec(KEYED, names)
    with pytest.raises(RuntimeError, match="Found more than one stateful callback of type `Keeps`"):
        stock(callbacks=[names["Keeps"](), names["Keeps"]()])
