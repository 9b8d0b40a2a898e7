"""Rule B, and the phases of the data: two packages in one phase go by `after`, in a recipe and by hand."""

from __future__ import annotations

from typing import Any

import phased
import pytest
import tiny
import torch
from torch import Tensor, nn
from two_parts import stock

from trustformers_pl import ModulePhases, PhasedModule
from trustformers_pl.data import resumable_datamodule
from trustformers_pl.errors import DataError, RefusedError
from trustformers_pl.factory import assemble

SCALE, SHIFT = '[part("phased:Scale", 2.0)]', '[part("phased:Shift", 1.0)]'


class Phased(PhasedModule, tiny.Composable):
    """By hand."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.mark.parametrize("phase", ["surgery", "tensor_parallel", "materialise"])
def test_two_transforms_in_one_phase_go_by_after(two: Any, phase: str) -> None:
    """`aaa` comes after `zzz`: 2 w + 1, not 2 (w + 1)."""
    run = two("modify_module", phase=phase, zzz=SCALE, aaa=SHIFT, overrides=("optimizer.lr=0.0",))
    start = assemble("recipe.yaml", ["no-aaa", "no-zzz"]).module.state_dict()
    module = Phased()
    module.load_state_dict(start)
    module.module_phases = ModulePhases({phase: [phased.Scale(2.0), phased.Shift(1.0)]})
    stock().fit(module, datamodule=tiny.Data())
    for made in (run.module, module):
        assert all(torch.equal(made.state_dict()[name], 2 * value + 1) for name, value in start.items())


STRUCTURE = '"module-structure"'


def test_two_that_add_a_submodule_of_one_name_by_hand_and_by_recipe(write: Any, install: Any) -> None:
    """The second one finds the first one's and can build on it: a column on a column, not one in its place."""
    source = phased.feature("modify_module", "surgery", "deepen", 'provides=frozenset({"module-structure"}){after}')
    source += "def deepen(module, context):\n    import torch\n    found = getattr(module, 'column', None)\n"
    source += "    new = torch.nn.Linear(1, 1)\n"
    source += "    module.column = new if found is None else torch.nn.Sequential(found, new)\n"
    install("zzz-pack", source.replace("{after}", ""), trustformers_pl={"zzz": "Feature"})
    install("aaa-pack", source.replace("{after}", ', after=frozenset({"zzz"})'), trustformers_pl={"aaa": "Feature"})
    module = assemble(write(more="aaa: {}\nzzz: {}\n")).module
    module.configure_model()
    expected = ["layer.weight", "layer.bias", *(f"column.{i}.{name}" for i in (0, 1) for name in ("weight", "bias"))]
    assert [name for name, _ in module.named_parameters()] == expected
    from zzz_pack import deepen  # type: ignore[import-not-found]

    by_hand = Phased()
    by_hand.module_phases = ModulePhases({"surgery": [deepen, deepen]})
    stock().fit(by_hand, datamodule=tiny.Data())
    assert [name for name, _ in by_hand.named_parameters()] == expected


def backwards(indices: Tensor, epoch: int, seed: int) -> Tensor:
    return indices.flip(0)


def first_four(indices: Tensor, epoch: int, seed: int) -> Tensor:
    return indices[:4]


def tens(dataset: Any) -> list[Any]:
    return [10 * sample for sample in dataset]


def plus_one(dataset: Any) -> list[Any]:
    return [sample + 1 for sample in dataset]


def twice(batch: Tensor, epoch: int, step: int, seed: int) -> Tensor:
    return 2 * batch


def next_one(batch: Tensor, epoch: int, step: int, seed: int) -> Tensor:
    return batch + 1


class Numbers(phased.Sentences):
    """0 to 7 in order, two at a time."""

    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(list(range(8)), 2)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("phase", "zzz", "aaa", "expected"),
    [  # by hand from 0 to 7
        ("source", "tens", "plus_one", [[1, 11], [21, 31], [41, 51], [61, 71]]),
        ("order", "backwards", "first_four", [[7, 6], [5, 4]]),
        ("mix", "twice", "next_one", [[1, 3], [5, 7], [9, 11], [13, 15]]),
    ],
)
def test_two_in_one_phase_of_the_data_go_by_after(
    install_two: Any, phase: str, zzz: str, aaa: str, expected: list[list[int]]
) -> None:
    answers = {"zzz": f"[test_phases_of_two.{zzz}]", "aaa": f"[test_phases_of_two.{aaa}]"}
    install_two("data", phase=phase, more="import test_phases_of_two\n", **answers)
    records = {"model": {"class_path": "phased.Records"}, "data": {"class_path": "test_phases_of_two.Numbers"}}
    run = assemble({**records, "trainer": {"max_epochs": 1, "accelerator": "cpu"}, "aaa": {}, "zzz": {}})
    run.fit()
    functions = [globals()[zzz], globals()[aaa]]
    module = phased.Records()
    by_hand = resumable_datamodule(Numbers(), seed=0, phases={phase: functions})
    stock(max_steps=-1, max_epochs=1).fit(module, datamodule=by_hand)
    assert run.module.trained == module.trained == expected


def test_two_owners_of_a_phase_by_hand_are_refused() -> None:
    with pytest.raises(
        RefusedError, match=r"^data phase batch: six_tokens and uneven both want it, and it has one owner; give one$"
    ):
        resumable_datamodule(tiny.Data(), seed=0, phases={"batch": [phased.six_tokens, phased.uneven]})


def test_an_order_that_the_other_cannot_live_with_is_refused(install_two: Any) -> None:
    """`aaa` doubles what `zzz` left, which is out of the dataset: refused by name, not read from elsewhere."""
    install_two("data", phase="order", zzz="[lambda i, epoch, seed: i[:6]]", aaa="[lambda i, epoch, seed: 2 * i]")
    records = {"model": {"class_path": "phased.Records"}, "data": {"class_path": "test_phases_of_two.Numbers"}}
    run = assemble({**records, "trainer": {"max_epochs": 1, "accelerator": "cpu"}, "aaa": {}, "zzz": {}})
    with pytest.raises(DataError, match=r"<lambda> must give 1-D int64 tensors of indices from 0 to 7"):
        run.fit()


def test_transforms_of_two_draw_from_streams_of_their_own(two: Any) -> None:
    """What `zzz` draws is the same with and without `aaa`; each is seeded by its own name."""
    random = "[phased.randomise]"
    run = two("modify_module", phase="surgery", zzz=random, aaa="[phased.Shift(1.0)]", more="import phased\n")
    del run
    drawn = []
    for overrides in ([], ["no-aaa"]):
        module: nn.Module = assemble("recipe.yaml", overrides).module
        module.configure_model()  # type: ignore[operator]
        drawn.append(module.state_dict())
    for name, value in drawn[1].items():
        torch.testing.assert_close(drawn[0][name], value + 1)
