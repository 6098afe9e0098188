"""What stands for values that JSON cannot carry as they are: sets, and what only the text is known of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final


class KeptSet(set[Any]):
    """A set in the order in which it was stored: that of a set differs from process to process."""

    order: tuple[Any, ...] = ()

    def __iter__(self) -> Iterator[Any]:
        return iter(in_order(self))

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, in_order(self)))
        return f"{{{shown}}}" if shown else "set()"


class KeptFrozenSet(frozenset[Any]):
    """The same for a frozenset."""

    order: tuple[Any, ...] = ()

    def __iter__(self) -> Iterator[Any]:
        return iter(in_order(self))

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, in_order(self)))
        return f"frozenset({{{shown}}})" if shown else "frozenset()"


def in_order(value: KeptSet | KeptFrozenSet) -> list[Any]:
    """The items in the order in which they were stored, then those that were added since."""
    return [item for item in value.order if item in value] + list(set(value).difference(value.order))


def kept(cls: type[Any], items: list[Any]) -> Any:
    """A set (or frozenset, by `cls`) of the items in this order."""
    if len(items) < 2 or all(type(item) in (int, float) for item in items):
        return cls(items)  # the order of these is the same in every process
    made: Any = (KeptSet if issubclass(cls, set) else KeptFrozenSet)(items)
    made.order = tuple(items)
    return made


class SeenText(str):
    """The text of a value that JSON cannot carry, as the model saw it; `picture` is the value's JSON for people."""

    picture: Any = None


COUNTS_AS: Final[Mapping[type[Any], type[Any]]] = {KeptSet: set, KeptFrozenSet: frozenset, SeenText: str}
"""What these types are for whoever compares them with a value that was not decoded."""
