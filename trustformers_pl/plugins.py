"""Plugins: what one is, how they are found, loaded and put in order."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import pluggy

from trustformers_pl.errors import PluginError
from trustformers_pl.hookspecs import PROJECT, HookSpecs
from trustformers_pl.installed import entry_points
from trustformers_pl.trace import trace_if_asked
from trustformers_pl.traits import Traits

if TYPE_CHECKING:
    from collections.abc import Mapping
    from importlib.metadata import Distribution, EntryPoint

GROUP = "trustformers_pl"
OWNERSHIP_GROUP = "trustformers_pl.trainer_arguments"
ALIASES_GROUP = "trustformers_pl.aliases"


@dataclass(frozen=True, kw_only=True)
class NoConfig:
    """The Config of a plugin that has nothing to set."""


class Plugin:
    """A feature. Subclass it, and register the class as an entry point in the group `trustformers_pl`.

    The entry point's name is the section of the recipe that switches the feature on; `slot.name` makes it one
    implementation of a slot, chosen by the section's `name` key. The class docstring's first line is what
    `trustformers-pl plugins` says about it. Hooks are methods marked with `trustformers_pl.hookimpl`.

    Attributes:
        Config: A frozen keyword-only dataclass: the keys of the section, with types and defaults.
        example: A section that shows the feature at work within a few steps of a tiny model: what `new recipe` writes,
            the reference shows, and the conformance kit and the pair test run.
        name: The entry point's name.
        config: The section as read.
    """

    Config: ClassVar[type] = NoConfig
    example: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    name: str

    def __init__(self, config: Any, name: str) -> None:
        self.config = config
        self.name = name

    def written(self) -> dict[str, Any]:
        """The section's values that are not the defaults: arguments of a part that has the same defaults."""
        fields = dataclasses.fields(self.config)
        return {field.name: value for field in fields if (value := getattr(self.config, field.name)) != field.default}

    @classmethod
    def traits(cls, config: Any) -> Traits:
        """What this configuration claims, provides, requires, refuses and comes after. No side effects."""
        del config
        return Traits()


@dataclass(frozen=True)
class Offer:
    """A plugin that an installed distribution offers; nothing of it is imported yet."""

    name: str
    entry_point: EntryPoint
    package: str
    version: str

    def load(self) -> type[Plugin]:
        """Import the plugin's class.

        Raises:
            PluginError: The import fails, or what it gives is not a plugin with a dataclass Config.
        """
        origin = f"plugin {self.name!r} of {self.package} {self.version}"
        try:
            cls = self.entry_point.load()
        except Exception as error:
            cause = f"{type(error).__name__}: {error}".splitlines()[0]
            raise PluginError(
                f"{origin} cannot be imported ({self.entry_point.value}): {cause}; repair or uninstall {self.package}"
            ) from error
        if not (isinstance(cls, type) and issubclass(cls, Plugin)):
            raise PluginError(f"{origin}: {self.entry_point.value} is not a subclass of trustformers_pl.Plugin")
        if not dataclasses.is_dataclass(cls.Config):
            raise PluginError(f"{origin}: {cls.__name__}.Config is not a dataclass")
        return cls


def summary(cls: type[Plugin]) -> str:
    """What a plugin says of itself: the first line of its docstring."""
    return (cls.__doc__ or "").strip().partition("\n")[0]


def discover() -> dict[str, Offer]:
    """All plugins that installed distributions offer, by name, sorted; only metadata is read.

    Raises:
        PluginError: Two distributions offer one name, or none offers any.
    """
    offers: dict[str, dict[str, Offer]] = {}
    for point in entry_points(group=GROUP):
        package, version = _origin(point.dist)
        offers.setdefault(point.name, {}).setdefault(package, Offer(point.name, point, package, version))
    for name, by_package in sorted(offers.items()):
        if len(by_package) > 1:
            packages = " and ".join(sorted(by_package))
            raise PluginError(f"plugin {name!r} is offered by {packages}; uninstall one of the two")
    return {name: next(iter(offers[name].values())) for name in sorted(offers)}


@lru_cache(maxsize=64)
def _origin(distribution: Distribution | None) -> tuple[str, str]:
    """Its name and version, for which its metadata are parsed."""
    return (distribution.name, distribution.version) if distribution else ("an unknown package", "")


def trainer_argument_owners() -> dict[str, list[str]]:
    """Trainer argument -> the sections that own it, from metadata alone."""
    names = {offer.entry_point.value: name for name, offer in discover().items()}
    owners: dict[str, list[str]] = {}
    for point in entry_points(group=OWNERSHIP_GROUP):
        if point.value in names:
            owners.setdefault(point.name, []).append(names[point.value])
    return {argument: sorted(set(sections)) for argument, sections in sorted(owners.items())}


def aliases() -> dict[str, str]:
    """Other name of a section in Python (`data_parallel`) -> the section (`ddp`), from metadata alone.

    Raises:
        PluginError: An alias is of no plugin, of one of a slot, or is taken by another section.
    """
    offers = discover()
    names = {offer.entry_point.value: name for name, offer in offers.items() if "." not in name}
    found: dict[str, str] = {}
    for point in entry_points(group=ALIASES_GROUP):
        section = names.get(point.value)
        origin = f"alias {point.name!r} of {point.dist.name if point.dist else 'an unknown package'}"
        if section is None:
            raise PluginError(
                f"{origin}: {point.value} is no section's plugin; give it the value of an entry point in {GROUP}"
            )
        if point.name in offers or found.setdefault(point.name, section) != section:
            other = found.get(point.name, point.name)
            raise PluginError(f"{origin} is for {section!r}, and {other!r} has this name already; give it another one")
    return dict(sorted(found.items()))


def slots(offers: dict[str, Offer]) -> dict[str, list[str]]:
    """Slot -> the names that it can take: `optimizer` -> [`adamw`, …]."""
    found: dict[str, list[str]] = {}
    for name in offers:
        slot, dot, choice = name.partition(".")
        if dot:
            found.setdefault(slot, []).append(choice)
    return found


def in_order(plugins: list[Plugin]) -> list[Plugin]:
    """Topological by `after`, ties by name: the same on every machine and every rank.

    Raises:
        PluginError: The plugins want to come after each other in a circle.
    """
    waiting = {plugin.name: plugin for plugin in sorted(plugins, key=lambda plugin: plugin.name)}
    traits = {plugin.name: plugin.traits(plugin.config) for plugin in plugins}
    ordered: list[Plugin] = []
    while waiting:
        ready = next((name for name in waiting if not _predecessors(name, waiting, traits)), None)
        if ready is None:
            raise PluginError(f"{' and '.join(waiting)} want to come after each other; change their `after` traits")
        ordered.append(waiting.pop(ready))
    return ordered


def _predecessors(name: str, waiting: dict[str, Plugin], traits: dict[str, Traits]) -> list[str]:
    after = traits[name].after
    return [other for other in waiting if other != name and after & (traits[other].provides | {other})]


def _refuse_other_orders(manager: pluggy.PluginManager, plugin: Plugin) -> None:
    for caller in manager.get_hookcallers(plugin) or ():
        for how in caller.get_hookimpls():
            if how.plugin is plugin and (how.tryfirst or how.trylast or how.wrapper or how.hookwrapper):
                raise PluginError(
                    f"plugin {plugin.name!r}: its hook `{caller.name}` is marked tryfirst, trylast or wrapper, which "
                    "would go past the declared order; say what it comes after in its traits"
                )


def hook_caller(plugins: list[Plugin]) -> pluggy.PluginManager:
    """A fresh pluggy manager that calls hooks in the order of `plugins`.

    Raises:
        PluginError: A plugin implements a hook that does not exist, with arguments that it does not have, or with one
            of pluggy's own ways to change the order.
    """
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(HookSpecs)
    try:
        for plugin in reversed(plugins):  # pluggy calls the last registered first
            manager.register(plugin, name=plugin.name)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginError(str(error).replace("\n", " ")) from error
    for plugin in plugins:
        _refuse_other_orders(manager, plugin)
    trace_if_asked(manager)
    return manager
