"""Discovery, order and refusals, with real distributions installed next to ours."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import trustformers_pl
from trustformers_pl.errors import PluginError, RefusedError
from trustformers_pl.factory import assemble
from trustformers_pl.plan import make_plan
from trustformers_pl.plugins import GROUP, discover
from trustformers_pl.recipe import Recipe

Install = Callable[..., None]
ROOT = Path(trustformers_pl.__file__).parent

STRANGER = """
    from dataclasses import dataclass
    from trustformers_pl import Plugin, Refusal, Traits, hookimpl, part

    class {name}(Plugin):
        "A stranger's feature."
        @dataclass(frozen=True, kw_only=True)
        class Config:
            level: int = 1
        @classmethod
        def traits(cls, config):
            return Traits({traits})
        {hooks}
"""


def stranger(name: str = "Feature", traits: str = "", hooks: str = "") -> str:
    return STRANGER.format(name=name, traits=traits, hooks=hooks)


def names(recipe: dict[str, object]) -> list[str]:
    return [plugin.name for plugin in make_plan(Recipe.from_mapping(recipe)).plugins]


def test_our_own_features_are_entry_points_like_any_other() -> None:
    assert set(discover()) >= {
        "optimizer.adamw",
        "schedule.cosine",
        "checkpoint",
        "csv",
        "metrics",
        "progress",
        "samples",
    }
    for offer in discover().values():
        assert offer.load().__doc__


def test_the_installed_metadata_is_that_of_pyproject() -> None:
    project = ROOT.parent / "pyproject.toml"
    declared = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["entry-points"]
    for group, points in declared.items():
        ours = {point.name: point.value for point in entry_points(group=group) if point.dist.name == "trustformers-pl"}
        assert ours == points, "reinstall: `pip install -e .`"


def test_the_core_imports_no_feature() -> None:
    features = {
        point.module.rpartition(".")[0] for point in entry_points(group=GROUP) if point.module.startswith("trust")
    }
    core = [path for folder in (".", "recipe", "cli", "deferred") for path in ROOT.glob(f"{folder}/*.py")]
    assert len(core) > 20
    for path in core:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for module in modules:
                assert not any(module == f or module.startswith(f + ".") for f in features), f"{path}: {module}"


def test_declaring_a_feature_imports_neither_torch_nor_lightning() -> None:
    code = "from trustformers_pl.plugins import discover\n[offer.load() for offer in discover().values()]\nimport sys\n"
    code += "print([m for m in ('torch', 'lightning', 'numpy', 'rich') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_name_offered_twice_is_refused_and_both_packages_named(install: Install) -> None:
    install("first-pack", stranger(), trustformers_pl={"twin": "Feature"})
    install("other-pack", stranger(), trustformers_pl={"twin": "Feature"})
    with pytest.raises(PluginError, match="plugin 'twin' is offered by first-pack and other-pack; uninstall one"):
        discover()


def test_a_broken_package_harms_only_recipes_that_name_it(install: Install) -> None:
    install("broken-pack", "raise RuntimeError('no library')", version="2.1", trustformers_pl={"broken": "Feature"})
    assert names({"csv": {}}) == ["csv"]
    with pytest.raises(
        PluginError,
        match=r"plugin 'broken' of broken-pack 2\.1 cannot be imported \(broken_pack:Feature\): "
        "RuntimeError: no library; repair or uninstall broken-pack",
    ):
        names({"broken": {}})


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("Feature = 3", "is not a subclass of trustformers_pl.Plugin"),
        (
            "from trustformers_pl import Plugin\nclass Feature(Plugin):\n    Config = dict\n",
            "Config is not a dataclass",
        ),
        (
            "from trustformers_pl import Plugin, hookimpl\nclass Feature(Plugin):\n"
            "    @hookimpl\n    def callback(self, plan): ...\n",
            "unknown hook 'callback'",
        ),
        (
            "from trustformers_pl import Plugin, hookimpl\nclass Feature(Plugin):\n"
            "    @hookimpl\n    def callbacks(self, run): ...\n",
            "Argument.s. {'run'} are declared in the hookimpl but can not be found in the hookspec",
        ),
    ],
)
def test_plugins_that_break_the_contract(install: Install, source: str, said: str) -> None:
    install("odd-pack", source, trustformers_pl={"odd": "Feature"})
    with pytest.raises(PluginError, match=said):
        make_plan(Recipe.from_mapping({"odd": {}})).hook  # noqa: B018 - making the hooks checks them


def test_order_is_by_after_then_by_name_whatever_the_recipe_says(install: Install) -> None:
    install("z-pack", stranger(traits="provides=frozenset({'z-pack:first'})"), trustformers_pl={"zeta": "Feature"})
    install("a-pack", stranger(traits="after=frozenset({'z-pack:first'})"), trustformers_pl={"alpha": "Feature"})
    install("m-pack", stranger(traits="after=frozenset({'alpha'})"), trustformers_pl={"mu": "Feature"})
    sections = ["mu", "csv", "alpha", "zeta"]
    for rotation in range(4):
        recipe = {name: {} for name in sections[rotation:] + sections[:rotation]}
        assert names(recipe) == ["csv", "zeta", "alpha", "mu"]


def test_a_circle_is_refused(install: Install) -> None:
    install("a-pack", stranger(traits="after=frozenset({'beta'})"), trustformers_pl={"alpha": "Feature"})
    install("b-pack", stranger(traits="after=frozenset({'alpha'})"), trustformers_pl={"beta": "Feature"})
    with pytest.raises(PluginError, match="alpha and beta want to come after each other"):
        names({"alpha": {}, "beta": {}})


def test_all_refusals_are_told_at_once(install: Install) -> None:
    claims = "claims=frozenset({'step'}), provides=frozenset({'a-pack:odd'})"
    install("a-pack", stranger(traits=claims), trustformers_pl={"alpha": "Feature"})
    refuses = "refuses=(Refusal(trait='a-pack:odd', reason='it is odd', mend='remove the section alpha'),)"
    install("b-pack", stranger(traits=f"claims=frozenset({{'step'}}), {refuses}"), trustformers_pl={"beta": "Feature"})
    hooks = "check = hookimpl(lambda self, plan: ['gamma dislikes this run'])"
    requires = "requires=frozenset({'c-pack:rare'})"
    install("c-pack", stranger(traits=requires, hooks=hooks), trustformers_pl={"gamma": "Feature"})
    with pytest.raises(RefusedError) as caught:
        assemble({"model": {"class_path": "tiny.Plain"}, "alpha": {}, "beta": {}, "gamma": {}})
    assert str(caught.value).splitlines() == [
        "Python: beta and alpha both claim step; remove one of the two sections",
        "Python: beta refuses a-pack:odd (of alpha), because it is odd; remove the section alpha",
        "Python: gamma needs c-pack:rare, which nothing in this run provides; add a section that does, or remove this one",
        "gamma dislikes this run",
    ]


def test_trainer_arguments_belong_to_who_declares_them(install: Install) -> None:
    hooks = "trainer_arguments = hookimpl(lambda self, plan: {'detect_anomaly': True})"
    install("own-pack", stranger(hooks=hooks), trustformers_pl={"anomaly": "Feature"})
    recipe = {"model": {"class_path": "tiny.Plain"}, "anomaly": {}}
    with pytest.raises(PluginError, match=r"plugin 'anomaly' sets trainer\.detect_anomaly, which its package does not"):
        assemble(recipe)
    owns = {"detect_anomaly": "Feature"}
    install(
        "own-pack2",
        stranger(hooks=hooks),
        trustformers_pl={"strange": "Feature"},
        trustformers_pl__trainer_arguments=owns,
    )
    run = assemble({"model": {"class_path": "tiny.Plain"}, "strange": {}})
    assert run.assembly.trainer.args[0].kwargs["detect_anomaly"] is True


def test_without_our_features_a_strangers_plugin_runs_alone(install: Install) -> None:
    source = """
    from lightning import Callback
    from trustformers_pl import Plugin, hookimpl, part
    class Counts(Callback):
        steps = 0
        def on_train_batch_end(self, *arguments):
            self.steps += 1
    class Feature(Plugin):
        "Counts steps."
        @hookimpl
        def callbacks(self, plan):
            return [part("lone_pack:Counts")]
    """
    install("lone-pack", source, trustformers_pl={"counts": "Feature"})
    code = (
        "import importlib.metadata as m, trustformers_pl.plugins as p\n"
        "p.entry_points = lambda group: [e for e in m.entry_points(group=group) if e.dist.name == 'lone-pack']\n"
        "from trustformers_pl.factory import assemble\n"
        "run = assemble({'model': {'class_path': 'tiny.Plain'}, 'data': {'class_path': 'tiny.Data'},\n"
        "                'trainer': {'max_steps': 3, 'accelerator': 'cpu'}, 'counts': {}})\n"
        "run.fit()\n"
        "print(sorted(p.discover()), run.trainer.callbacks[0].steps)\n"
    )
    path = {"PYTHONPATH": f"site:{Path(__file__).parent.parent}", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=path, check=False)
    assert done.stdout.splitlines()[-1:] == ["['counts'] 3"], done.stderr
