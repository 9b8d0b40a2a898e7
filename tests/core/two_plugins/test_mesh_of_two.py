"""Dimensions of two packages make one mesh, outer ones first; what cannot be one mesh is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from two_parts import Typed, as_started, data, stock

from trustformers_pl.errors import RefusedError
from trustformers_pl.factory import assemble
from trustformers_pl.mesh import Placement, Wrap
from trustformers_pl.parallel import Dimension, MeshStrategy

if TYPE_CHECKING:
    from torch import nn

WRAPPED: list[str] = []


class Wraps(Wrap):
    """Notes that it wrapped the module."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def place(self, module: nn.Module, placement: Placement) -> nn.Module:
        WRAPPED.append(f"{self.name} {placement.mesh.size()}")
        return module


def dimension(name: str, size: int | None = 1) -> str:
    wrap = f'part("test_mesh_of_two:Wraps", {name!r})'
    return f'[part("trustformers_pl.parallel:Dimension", {name!r}, size={size}, wrap={wrap})]'


def test_the_first_plugins_dimension_is_the_outer_one_and_wraps_last(two: Any) -> None:
    WRAPPED.clear()
    run = two("mesh", zzz=dimension("rows"), aaa=dimension("columns", None))
    assert run.trainer.strategy.mesh.mesh_dim_names == ("rows", "columns")
    assert WRAPPED == ["columns 1", "rows 1"]


def test_the_same_dimensions_in_a_stock_trainer(write: Any) -> None:
    WRAPPED.clear()
    write()
    strategy = MeshStrategy([Dimension("rows", 1, Wraps("rows")), Dimension("columns", None, Wraps("columns"))])
    stock(strategy=strategy, devices=1).fit(as_started(Typed()), data())
    assert strategy.mesh.mesh_dim_names == ("rows", "columns")
    assert WRAPPED == ["columns 1", "rows 1"]


def test_two_dimensions_of_one_name_are_refused(refused: Any) -> None:
    assert refused("mesh", zzz=dimension("rows"), aaa=dimension("rows")) == (
        RefusedError,
        "recipe.yaml:10: zzz and aaa both bring a mesh dimension 'rows'; remove one of the two",
    )


def test_two_dimensions_without_a_size_are_refused(refused: Any) -> None:
    assert refused("mesh", zzz=dimension("rows", None), aaa=dimension("columns", None)) == (
        RefusedError,
        "recipe.yaml:10: zzz and aaa both bring a mesh dimension without a size, and only one can take the rest; give "
        "one its size",
    )


@pytest.mark.parametrize("names", [("rows", "rows"), ("rows", "columns")])
def test_a_stock_trainer_refuses_the_same_before_training(write: Any, names: tuple[str, str]) -> None:
    write()
    strategy = MeshStrategy([Dimension(name) for name in names])
    with pytest.raises(RefusedError, match=f"mesh: dimensions {', '.join(names)}: give each its own name, and a size"):
        stock(strategy=strategy, devices=1).fit(as_started(Typed()), data())


def test_a_strategy_beside_a_dimension_of_another_package_is_refused(write: Any, install: Any) -> None:
    """Neither says so in its traits: that a dimension makes a mesh follows from the hook."""
    source = """
    from trustformers_pl import Plugin, Traits, hookimpl, part
    class Feature(Plugin):
        "f"
        traits = classmethod(lambda cls, config: Traits({traits}))
        {hook} = hookimpl(lambda self, plan: {answer})
    """
    rows = source.format(traits="", hook="mesh", answer=dimension("rows"))
    install("rows-pack", rows, trustformers_pl={"rows": "Feature"})
    own = source.format(traits="claims=frozenset({'strategy'})", hook="strategy", answer="'auto'")
    install("own-pack", own, trustformers_pl={"own": "Feature"})
    with pytest.raises(RefusedError) as caught:
        assemble(write(more="rows: {}\nown: {}\n"))
    assert str(caught.value) == (
        "recipe.yaml:11: own refuses mesh (of rows), because a run has one strategy, and a mesh is one; remove one of the "
        "two sections"
    )
