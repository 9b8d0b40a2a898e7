"""One class per run: the user's LightningModule with the features' mixins, as a person could have typed it."""

from __future__ import annotations

from functools import cache, reduce
from typing import Any

USER_CLASS = "__composed_from__"
STEPS = "__composed_in_steps__"


@cache
def compose(user: type, mixins: tuple[type, ...]) -> type:
    """The class `User+Mixin+…`, mixins first in the method resolution order.

    It pickles and deep-copies (it is rebuilt from the parts), keeps the user's `state_dict` keys, and is the same
    object for the same parts. Without mixins, or with none that the user's class lacks, it is the user's class.

    Args:
        user: The class to extend.
        mixins: Classes without `__init__`, the first one first in the method resolution order.
    """
    missing = tuple(mixin for mixin in mixins if not issubclass(user, mixin))
    if not missing:
        return user

    # How it came about, from a class that can be imported: a composed one cannot.
    steps = (*vars(user).get(STEPS, ()), missing)

    def __reduce_ex__(self: Any, protocol: Any) -> tuple[Any, ...]:  # noqa: N807
        del protocol
        return _blank, (user_class(user), steps), self.__getstate__()

    name = "+".join([user.__name__, *(mixin.__name__ for mixin in missing)])
    body = {"__reduce_ex__": __reduce_ex__, "__module__": user.__module__, "__doc__": user.__doc__}
    return type(name, (*missing, user), {**body, USER_CLASS: user, STEPS: steps})


def _blank(user: type, steps: tuple[tuple[type, ...], ...]) -> Any:
    cls: Any = reduce(compose, steps, user)
    return cls.__new__(cls)


def extend(instance: Any, *mixins: type) -> Any:
    """Give a live object the mixins' methods by changing its class; returns the object."""
    user: type = type(instance)
    instance.__class__ = compose(user, mixins)
    return instance


def user_class(cls: type) -> type:
    """The class that a composed one was composed from; a class that was not composed is its own."""
    while USER_CLASS in vars(cls):
        cls = vars(cls)[USER_CLASS]
    return cls


def plain_again(instance: Any) -> Any:
    """Give an object that an earlier run extended its user's class back; returns the object."""
    instance.__class__ = user_class(type(instance))
    return instance
