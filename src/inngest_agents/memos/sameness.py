"""Whether a value that was decoded is what it was before, part by part.

Neither `==` nor an equal text tells: a class may compare by identity, or by some of its fields, and a repr hides what a
field says is not shown. So models, dataclasses and containers are the same if their parts are, and if they have the
same type; other values if `==` says so.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import functools
import inspect
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final

import pydantic
from pydantic_core import PydanticUndefined

from inngest_agents.memos.kept_values import COUNTS_AS, KeptFrozenSet, KeptSet

_ITERABLES: Final = frozenset({list, tuple, set, frozenset, KeptSet, KeptFrozenSet})
_MAPPINGS: Final = frozenset({dict, collections.OrderedDict, collections.Counter})
_BASES: Final = (str, int, float)
_TOLD_BY_EQUALITY: Final = frozenset({str, int, bool, type(None)})
_TOLD_BY_REPR: Final = frozenset(
    {
        float,  # NaN, and the sign of zero
        decimal.Decimal,  # 1.0 and 1.00
        datetime.datetime,  # `==` asks for the same moment, and refuses equal local times of two zone objects
        datetime.date,
        datetime.time,
        datetime.timedelta,
        uuid.UUID,
        bytes,
    }
)
"""Types whose repr is the value, where `==` says more or less than that."""

FACTORIES: Final[Mapping[str, type[Any]]] = {cls.__name__: cls for cls in (int, list, set, dict, str, float, tuple)}
"""The factories of a defaultdict that can be stored."""


def factory_name(value: collections.defaultdict[Any, Any]) -> str | None:
    """The name of a defaultdict's factory among `FACTORIES`."""
    return next((name for name, known in FACTORIES.items() if known is value.default_factory), None)


def is_named_tuple(value: Any) -> bool:
    """Whether a value is of a NamedTuple class, and nothing but its items."""
    return isinstance(value, tuple) and hasattr(type(value), "_fields") and not getattr(value, "__dict__", None)


def is_dataclass(value: Any) -> bool:
    """Whether a value is an object of a dataclass."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def fields_of(model: pydantic.BaseModel) -> dict[str, Any]:
    """The values of a model's fields, without what was cached beside them."""
    known = model.__dict__
    return {name: known[name] for name in type(model).model_fields if name in known}


def private_of(model: pydantic.BaseModel) -> dict[str, Any]:
    """A model's private attributes that are set."""
    private = model.__pydantic_private__ or {}
    return {name: value for name, value in private.items() if value is not PydanticUndefined}


def own_attributes(value: Any) -> dict[str, Any]:
    """The attributes that an object keeps itself, in its dict or in slots."""
    found = dict(getattr(value, "__dict__", None) or {})
    for base in type(value).__mro__:
        slots = vars(base).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if not name.startswith("__") and hasattr(value, name):
                found[name] = getattr(value, name)
    return found


def attributes_of(value: Any) -> dict[str, Any]:
    """What a dataclass's object has: its fields, then what else was set on it (by `__post_init__`, say)."""
    names = (field.name for field in dataclasses.fields(value))
    return {name: getattr(value, name) for name in names if hasattr(value, name)} | own_attributes(value)


def is_cached(value: Any, name: str) -> bool:
    """Whether an attribute is but the answer of a cached property, which will be made again."""
    return isinstance(inspect.getattr_static(type(value), name, None), functools.cached_property)


def parts_of(value: Any) -> list[Any] | None:
    """What a value is made of, names and keys included; None of one that has no parts that are known here."""
    cls = type(value)
    if cls in _ITERABLES or is_named_tuple(value):
        return list(value)
    if cls in _MAPPINGS:
        return _flat(value)
    if cls is collections.defaultdict:
        factory = value.default_factory
        return [factory_name(value) or factory, *_flat(value)]
    if cls is collections.deque:
        return [value.maxlen, *value]
    if isinstance(value, pydantic.BaseModel):
        return _flat(fields_of(value)) + _flat(value.__pydantic_extra__ or {})
    if is_dataclass(value):
        return _flat({name: item for name, item in attributes_of(value).items() if not is_cached(value, name)})
    return None


def _flat(value: Mapping[Any, Any]) -> list[Any]:
    return [part for pair in value.items() for part in pair]


class Comparison:
    """One comparison of a value with the one that was decoded of it.

    Args:
        is_carried: whether a private attribute of a model is one that is stored; others need not be the same.
    """

    def __init__(self, is_carried: Callable[[pydantic.BaseModel, Any], bool]) -> None:
        self._is_carried = is_carried
        self._under_way: set[tuple[int, int]] = set()

    def is_same(self, value: Any, decoded: Any) -> bool:
        """Whether both are of the same type and made of the same parts."""
        cls, other = type(value), type(decoded)
        if cls is other and cls in _TOLD_BY_EQUALITY:
            return bool(value == decoded)
        if value is decoded:
            return True
        cls, other = COUNTS_AS.get(cls, cls), COUNTS_AS.get(other, other)
        if cls is not other:
            # A subclass of a plain type comes back as that type, as pydantic and JSON have it.
            return other in _BASES and isinstance(value, other) and repr(value) == repr(decoded)
        if cls in _TOLD_BY_REPR:
            return repr(value) == repr(decoded)
        pair = (id(value), id(decoded))
        if pair in self._under_way:
            return True  # both lead back to themselves; what differs is found on the way
        self._under_way.add(pair)
        try:
            return self._has_same_parts(value, decoded)
        finally:
            self._under_way.discard(pair)

    def _has_same_parts(self, value: Any, decoded: Any) -> bool:
        parts, others = parts_of(value), parts_of(decoded)
        equality: Any = type(value).__eq__
        if parts is None and equality is object.__eq__:
            # It knows identity only, which no decoded value has.
            parts, others = _flat(own_attributes(value)) or None, _flat(own_attributes(decoded)) or None
        if parts is None or others is None:
            return _is_equal(value, decoded)
        if not (len(parts) == len(others) and all(map(self.is_same, parts, others))):
            # A set may come in another order. `==` is enough for items that have no parts to hide.
            is_plain_set = isinstance(value, (set, frozenset)) and all(parts_of(item) is None for item in value)
            return is_plain_set and _is_equal(value, decoded)
        if not isinstance(value, pydantic.BaseModel):
            return True
        private, known = private_of(value), private_of(decoded)
        return all(
            name in known and self.is_same(item, known[name])
            for name, item in private.items()
            if self._is_carried(value, item)
        )


def _is_equal(value: Any, decoded: Any) -> bool:
    try:
        return (value == decoded) is True  # an array's answer is an array
    except RecursionError:
        raise
    except Exception:  # noqa: BLE001  a foreign `__eq__` may raise anything; nobody knows then whether it is the same
        return False
