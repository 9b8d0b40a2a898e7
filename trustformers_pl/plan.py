"""A run as declared: its recipe, checked and typed, and its plugins in order. No torch is imported."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trustformers_pl.expansion import expanded
from trustformers_pl.names import nearest
from trustformers_pl.plugins import Offer, Plugin, discover, hook_caller, in_order, slots, trainer_argument_owners
from trustformers_pl.recipe.config import Problems, build_config, with_defaults
from trustformers_pl.recipe.places import DEFAULT, Leaf, Place, Section, plain
from trustformers_pl.trainer_arguments import TrainerArguments

if TYPE_CHECKING:
    import pluggy

    from trustformers_pl.recipe import Recipe

CORE_SECTIONS = ("version", "seed", "model", "data", "trainer")
# Arguments of `lightning.Trainer` that the hooks of the same name fill.
FILLED_BY_HOOKS = {"logger": "loggers", "plugins": "plugins"}


@dataclass(frozen=True)
class Plan:
    """What the hooks get to see.

    Attributes:
        recipe: The recipe as read, with what its sections stand for.
        seed: Of all random number generators.
        trainer: The `trainer` section: Trainer arguments as written, checked against Lightning's signature.
        plugins: The features of this run, in the order in which their hooks are called.
        offers: What is installed.
        written: The recipe as read.
    """

    recipe: Recipe
    seed: int
    trainer: dict[str, Any]
    plugins: tuple[Plugin, ...]
    offers: dict[str, Offer]
    written: Recipe

    @property
    def folder(self) -> Path:
        """The run folder: logs, checkpoints, and the recipe as it ran."""
        written = self.trainer.get("default_root_dir")
        return Path(written) if written else Path("runs") / self.recipe.name

    @cached_property
    def hook(self) -> pluggy.HookRelay:
        """The hooks of this run's plugins, to be called."""
        return hook_caller(list(self.plugins)).hook

    def place(self, section: str) -> Place:
        """Where a section stands."""
        node = self.recipe.tree.entries.get(section.partition(".")[0])
        return node.place if node else DEFAULT

    @cached_property
    def resolved(self) -> Section:
        """The recipe with every feature's defaults filled in, each at the place `default`."""
        tree = self.recipe.tree
        entries: dict[str, Leaf | Section] = {"seed": tree.entries.get("seed", Leaf(self.seed, DEFAULT))}
        entries |= {k: n for k, n in tree.entries.items() if k in ("model", "data", "trainer")}
        for plugin in sorted(self.plugins, key=lambda plugin: plugin.name):
            slot, _, choice = plugin.name.partition(".")
            node = _as_section(tree.entries[slot])
            filled = with_defaults(plugin.config, node)
            if choice:
                filled.entries = {"name": node.entries["name"], **filled.entries}
            entries[slot] = filled
        return Section(tree.place, entries)


def make_plan(recipe: Recipe) -> Plan:
    """Find, load and configure the plugins that the recipe names, and put them in order.

    Raises:
        RecipeError: One line for each unknown section or key, wrong type or missing value.
        PluginError: A plugin that the recipe names cannot be imported, or two packages offer one name.
    """
    offers = discover()
    problems = Problems()
    written, recipe = recipe, expanded(recipe, offers, problems)
    problems.raise_if_any()
    _check_names(recipe, offers, problems)
    plugins = [plugin for name in recipe.tree.entries if (plugin := _plugin(recipe, name, offers, problems))]
    seed = _seed(recipe, problems)
    trainer = _trainer(recipe, problems)
    for name in ("model", "data"):
        _check_class_path(recipe, name, problems)
    problems.raise_if_any()
    return Plan(recipe, seed, trainer, tuple(in_order(plugins)), offers, written)


def _check_names(recipe: Recipe, offers: dict[str, Offer], problems: Problems) -> None:
    """What is taken out, or set by a variable, must be a section too: a misspelt one would pass unseen."""
    known = {name.partition(".")[0] for name in offers} | set(CORE_SECTIONS)
    asked = [(Place(f"${variable}"), section) for variable, section in recipe.variables.items()]
    for place, section in [*asked, *((place, name) for name, place in recipe.removed.items())]:
        if section not in known:
            problems.add(place, f"{section}: no such section; {nearest(section, known)}")


def _plugin(recipe: Recipe, section: str, offers: dict[str, Offer], problems: Problems) -> Plugin | None:
    node = recipe.tree.entries[section]
    if section in CORE_SECTIONS:
        return None
    choices = slots(offers)
    name = section
    if section in choices:
        name, node = _choose(section, node, choices[section], problems)
    elif section not in offers:
        problems.add(node.place, _unknown_section(section, offers))
        return None
    if name not in offers:
        return None
    cls = offers[name].load()
    config = build_config(cls.Config, node, section, problems)
    return None if config is None else cls(config, name)


def _choose(slot: str, node: Leaf | Section, choices: list[str], problems: Problems) -> tuple[str, Leaf | Section]:
    """The plugin that a slot's section selects by `name`, and the section without that key."""
    if not isinstance(node, Section):
        problems.add(node.place, f"{slot} is a section with keys; write `{slot}: {{name: {choices[0]}}}`")
        return "", node
    chosen = node.entries.get("name")
    if not isinstance(chosen, Leaf):
        problems.add(node.place, f"{slot}.name is missing; choose one: {', '.join(choices)}")
        return "", node
    if chosen.value not in choices:
        problems.add(
            chosen.place, f"{slot}.name = {chosen.value!r}: no such {slot}; {nearest(str(chosen.value), choices)}"
        )
        return "", node
    return f"{slot}.{chosen.value}", Section(node.place, {k: n for k, n in node.entries.items() if k != "name"})


def _unknown_section(section: str, offers: dict[str, Offer]) -> str:
    known = {name.partition(".")[0] for name in offers} | set(CORE_SECTIONS)
    if not offers:
        return f"{section}: no plugins are installed, not even our own; install the package (`pip install .`)"
    return f"{section}: no such section; {nearest(section, known)}"


def _seed(recipe: Recipe, problems: Problems) -> int:
    node = recipe.tree.entries.get("seed", Leaf(0, DEFAULT))
    value = plain(node)
    if type(value) is not int or not 0 <= value < 2**32:
        problems.add(node.place, f"seed = {value!r}: expected an integer from 0 to 2**32 - 1")
        return 0
    return value


def _trainer(recipe: Recipe, problems: Problems) -> dict[str, Any]:
    node = recipe.tree.entries.get("trainer", Section(DEFAULT))
    build_config(TrainerArguments, node, "trainer", problems)
    section = _as_section(node)
    owners = trainer_argument_owners() if section.entries else {}
    for argument, child in section.entries.items():
        if argument in FILLED_BY_HOOKS:
            problems.add(
                child.place,
                f"trainer.{argument} is filled by the sections that bring {FILLED_BY_HOOKS[argument]}"
                "; remove this line and add such a section (`trustformers-pl plugins` lists them)",
            )
        elif argument in owners:
            names = " or ".join(f"`{owner}`" for owner in owners[argument])
            problems.add(
                child.place,
                f"trainer.{argument} is owned by the section {names}; remove this line, "
                f"and write or remove that section instead",
            )
    return {argument: plain(child) for argument, child in section.entries.items()}


def _check_class_path(recipe: Recipe, name: str, problems: Problems) -> None:
    node = recipe.tree.entries.get(name)
    if node is None:
        return
    if not isinstance(node, Section):
        problems.add(
            node.place, f"{name} is a section; write `{name}: {{class_path: my_package.MyClass, init_args: {{}}}}`"
        )
        return
    for key, child in node.entries.items():
        if key not in ("class_path", "init_args"):
            problems.add(child.place, f"{name}.{key}: no such key; {nearest(key, ['class_path', 'init_args'])}")
    path = node.entries.get("class_path")
    if path is None:
        problems.add(node.place, f"{name}.class_path is missing; give the class as `my_package.MyClass`")
    elif not isinstance(path, Leaf) or not _is_class_path(path.value):
        problems.add(path.place, f"{name}.class_path = {plain(path)!r}: expected `my_package.MyClass`")
    init_args = node.entries.get("init_args")
    if isinstance(init_args, Leaf) and init_args.value is not None:
        problems.add(init_args.place, f"{name}.init_args = {init_args.value!r}: expected a mapping of arguments")
    for key, child in _as_section(init_args).entries.items() if init_args else ():
        if not key.isidentifier():
            problems.add(child.place, f"{name}.init_args.{key}: expected the name of an argument")


def _is_class_path(value: Any) -> bool:
    return isinstance(value, str) and "." in value and all(part.isidentifier() for part in value.split("."))


def _as_section(node: Leaf | Section) -> Section:
    return node if isinstance(node, Section) else Section(node.place)
