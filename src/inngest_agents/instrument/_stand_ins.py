"""Objects that take the place of the user's own while a durable run has them, with some methods replaced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def stand_in(original: Any, members: Mapping[str, Any]) -> Any:
    """An object of a subclass of the original's class that shares its state and has `members` of its own.

    So `isinstance` checks hold, whatever is set on the one is seen on the other, and private methods work. Where a
    class cannot be subclassed, or keeps its state elsewhere, an object that forwards everything else.
    """
    cls = type(original)
    # The original closes what the two share, and only it.
    members = {**members, "__del__": lambda _self: None}
    state = getattr(original, "__dict__", None)
    if isinstance(state, dict) and not _has_slots(cls) and state.keys().isdisjoint(members):
        try:
            made: Any = object.__new__(type(cls.__name__, (cls,), {**members, **_named_like(cls)}))
            object.__setattr__(made, "__dict__", state)
        except Exception:  # noqa: BLE001  a foreign class may refuse subclasses in any way; forwarding always works
            return _forwarder(original, members)
        return made
    return _forwarder(original, members)


def _named_like(cls: type[Any]) -> dict[str, Any]:
    return {"__module__": cls.__module__, "__qualname__": cls.__qualname__}


def _has_slots(cls: type[Any]) -> bool:
    return any(set(vars(base).get("__slots__", ())) - {"__dict__", "__weakref__"} for base in cls.__mro__)


def _forwarder(original: Any, members: Mapping[str, Any]) -> Any:
    cls = type(original)

    def get(_self: Any, name: str) -> Any:
        return getattr(original, name)

    def put(_self: Any, name: str, value: Any) -> None:
        setattr(original, name, value)

    shown = {"__getattr__": get, "__setattr__": put, "__class__": property(lambda _self: original.__class__)}
    return type(cls.__name__, (), {**members, **shown, **_named_like(cls)})()
