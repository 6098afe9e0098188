"""Compact JSON of the small frozen dataclasses that are stored with a step: defaults are left out."""

from __future__ import annotations

from dataclasses import MISSING, Field, fields
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

JsonDict: TypeAlias = dict[str, Any]

_SCALARS: Final = frozenset({str, int, float, bool, type(None)})


class DataclassInstance(Protocol):
    """Anything made by `@dataclass`."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


def plain(value: Any) -> Any:
    """One field value as JSON: nested records become dictionaries, tuples become lists."""
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    to_dict = getattr(value, "to_dict", None)
    return value if to_dict is None else to_dict()


def compact(record: DataclassInstance) -> JsonDict:
    """Give the fields of `record` that differ from their defaults, in the order of their declaration."""
    out: JsonDict = {}
    for name, default in _defaults(record.__class__):
        value = getattr(record, name)
        if value is not default and (default is MISSING or value != default):
            out[name] = value if value.__class__ in _SCALARS else plain(value)
    return out


def known(cls: Any, data: Mapping[str, Any]) -> JsonDict:
    """Give the entries of `data` that are fields of `cls`: a later version may have added others."""
    names = {name for name, _ in _defaults(cls)}
    return {key: value for key, value in data.items() if key in names}


@cache
def _defaults(cls: Any) -> tuple[tuple[str, Any], ...]:
    return tuple((field.name, field.default) for field in fields(cls))
