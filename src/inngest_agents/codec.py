"""Lossless JSON for what steps return.

Whatever is given to the SDK's loop is the decoded value, on the first pass as on every replay; so a run behaves the
same wherever it is cut. JSON's own types stay as they are (a dashboard reads them); everything else is an object with
the key `$type`:

- `tuple`, `set`, `frozenset`, `bytes`, `datetime`, `date`, `time`, `timedelta`, `Decimal`, `UUID`, `dict` with other
  keys than strings: the values of Python's standard library;
- `str`, `int`, `float`: those that no JSON text carries through the server: lone surrogates, which its own parser
  refuses, NaN and infinities, and numbers that it writes in another way (it makes each a double, and 1.0 a 1);
- `model` (`exact_model` with such values in it), `dataclass`, `enum`: pydantic models, dataclasses and enums, found
  again by module and name among what is imported already (nothing is imported for it), or, if they were made in a
  function, through the user's function that gave them (see `inngest_agents.local_classes`);
- `text`: anything else, as the text that the model would have seen, with a JSON picture of the value for people.

A value is stored typed only if decoding it gives an equal text; else as `text`. So what the model sees is always the
same, also of a set in a process that would put its items in another order. The module says nothing about model
responses; see `inngest_agents.response_codec`.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import decimal
import enum
import json
import math
import re
import sys
import uuid
import zoneinfo
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeAlias

import pydantic

from inngest_agents.local_classes import find_local, reference_to

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"

TYPE_KEY: Final = "$type"

SURROGATE: Final = re.compile("[\ud800-\udfff]")
MAX_INT: Final = 2**53 - 1
"""The largest integer that stays exact where numbers are doubles, as in the server."""


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


def _kept(cls: type[Any], items: list[Any]) -> Any:
    if len(items) < 2 or all(type(item) in (int, float) for item in items):
        return cls(items)  # the order of these is the same in every process
    made: Any = (KeptSet if issubclass(cls, set) else KeptFrozenSet)(items)
    made.order = tuple(items)
    return made


_KEPT: Final[Mapping[type[Any], type[Any]]] = {KeptSet: set, KeptFrozenSet: frozenset}


class SeenText(str):
    """The text of a value that JSON cannot carry, as the model saw it; `picture` is the value's JSON for people."""

    picture: Any = None


def encode(value: Any) -> Any:
    """A value as JSON that `decode` turns into an equal one (for exotic types: into the text the model would see)."""
    try:
        return _encode(value)
    except RecursionError:  # it contains itself, or is too deep
        return {TYPE_KEY: "text", "text": encode(_text(value)), "picture": None}


def _encode(value: Any) -> Any:
    if type(value) in _PLAIN:
        return value if _is_carried(value) else {TYPE_KEY: type(value).__name__, "value": _PLAIN[type(value)](value)}
    if type(value) is list:
        return [_encode(item) for item in value]
    if type(value) is dict:
        return _encode_dict(value)
    encoded = _encode_typed(value)
    if encoded is not None and _same_text(value, encoded):
        return encoded
    if encoded is not None and encoded[TYPE_KEY] == "model":
        exact = encoded | {TYPE_KEY: "exact_model", "value": _encode(encoded["value"])}
        if _same_text(value, exact):
            return exact
    return {TYPE_KEY: "text", "text": _encode(_text(value)), "picture": _picture(value)}


def _is_carried(value: Any) -> bool:
    """Whether a value of JSON's own types comes back from the server as it was."""
    if type(value) is str:
        return value.isascii() or SURROGATE.search(value) is None
    if type(value) is int:
        return -MAX_INT <= value <= MAX_INT
    # The server writes 1.0 as 1, which for the model is another text.
    return type(value) is not float or (math.isfinite(value) and not value.is_integer())


def _is_all_carried(encoded: Any) -> bool:
    if isinstance(encoded, dict):
        return all(_is_carried(key) and _is_all_carried(item) for key, item in encoded.items())
    if isinstance(encoded, list):
        return all(_is_all_carried(item) for item in encoded)
    return _is_carried(encoded)


def is_text(encoded: Any) -> bool:
    """Whether `encode` could keep no more of a value, or of a part of it, than the text that the model would see."""
    if isinstance(encoded, list):
        return any(is_text(item) for item in encoded)
    if not isinstance(encoded, dict):
        return False
    return encoded.get(TYPE_KEY) == "text" or any(is_text(item) for item in encoded.values())


def decode(value: Any) -> Any:
    """The value that `encode` stored.

    Raises:
        ValueError: a `$type` that this version does not know.
    """
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    kind = value.get(TYPE_KEY)
    if kind is None:
        return {key: decode(item) for key, item in value.items()}
    decoder = _DECODERS.get(kind)
    if decoder is None:
        raise ValueError(f"a stored value has the unknown type {kind!r}; was it written by a newer inngest-agents?")
    return decoder(value)


def _encode_dict(value: dict[Any, Any]) -> Any:
    if all(type(key) is str and _is_carried(key) for key in value) and TYPE_KEY not in value:
        return {key: _encode(item) for key, item in value.items()}
    return {TYPE_KEY: "dict", "items": [[_encode(key), _encode(item)] for key, item in value.items()]}


def _encode_typed(value: Any) -> dict[str, Any] | None:
    for cls, kind, encoder in _ENCODERS:
        if type(value) is cls:
            return {TYPE_KEY: kind, "value": encoder(value)}
    reference = _class_reference(type(value))
    if reference is None:
        return None
    if isinstance(value, pydantic.BaseModel):
        dumped = value.model_dump(mode="json", by_alias=True, exclude_unset=True, warnings=False)
        return {TYPE_KEY: "model", "class": reference, "value": dumped}
    if isinstance(value, enum.Enum):
        return {TYPE_KEY: "enum", "class": reference, "value": value.name}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            field.name: _encode(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if hasattr(value, field.name)
        }
        return {TYPE_KEY: "dataclass", "class": reference, "value": fields}
    return None


def _same_text(value: Any, encoded: dict[str, Any]) -> bool:
    """Whether the model would see the same after decoding; a value is stored typed only then."""
    try:
        decoded = decode(_as_carried(encoded))
    except Exception:  # noqa: BLE001  a foreign constructor may raise anything; the text is stored then
        return False
    # Inside a list or dict it is the repr that the model sees.
    is_same_type = _KEPT.get(type(decoded), type(decoded)) is _KEPT.get(type(value), type(value))
    return is_same_type and _text(decoded) == _text(value) and repr(decoded) == repr(value)


def _as_carried(encoded: Any) -> Any:
    """JSON as it comes back from the server.

    Raises:
        ValueError: it would not come back.
    """
    if isinstance(encoded, dict):
        return {_as_carried(key): _as_carried(item) for key, item in encoded.items()}
    if isinstance(encoded, list):
        return [_as_carried(item) for item in encoded]
    if type(encoded) is float and encoded.is_integer() and abs(encoded) <= MAX_INT:
        return int(encoded)
    if not _is_carried(encoded):
        raise ValueError(f"{encoded!r} does not come back")
    return encoded


def _text(value: Any) -> str:
    """What `ItemHelpers.tool_call_output_item` would show of a value: its `str`."""
    return str(value)


def _picture(value: Any) -> Any:
    try:
        picture = pydantic.TypeAdapter(Any).dump_python(value, mode="json", fallback=str, warnings=False)
        return picture if _is_all_carried(picture) else None
    except Exception:  # noqa: BLE001  a picture for people must not fail the step
        return None


def _class_reference(cls: type[Any]) -> str | None:
    reference = reference_to(cls)
    return reference if _find_class(reference) is cls else None


def _find_class(reference: str) -> Any:
    if "<locals>" in reference:
        return find_local(reference)
    module_name, _, qualname = reference.partition(":")
    found: Any = sys.modules.get(module_name)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found


def _decode_class(value: Mapping[str, Any]) -> Any:
    cls = _find_class(value["class"])
    if cls is None:
        raise ValueError(
            f"a stored value is of the class {value['class']}, which is not imported any more; keep the class where it "
            "was until the runs that stored it have ended"
        )
    return cls


def _decode_model(value: Mapping[str, Any]) -> Any:
    return _in_stored_order(_decode_class(value).model_validate(value["value"]), value["value"])


def _in_stored_order(value: Any, stored: Any) -> Any:
    """A value of a model with the sets in it as `KeptSet`, in the order that they have in its JSON."""
    if type(value) in (set, frozenset) and isinstance(stored, list):
        known = {_json(item): item for item in value}
        items = [known[text] for text in map(_json, stored) if text in known]
        return _kept(type(value), items) if len(items) == len(value) else value
    if isinstance(value, pydantic.BaseModel) and isinstance(stored, dict):
        fields = type(value).model_fields
        for name, item in value.__dict__.items():
            alias = fields[name].serialization_alias if name in fields else None
            value.__dict__[name] = _in_stored_order(item, stored.get(alias or name))
    elif type(value) is list and isinstance(stored, list):
        value[:] = map(_in_stored_order, value, stored)
    elif type(value) is dict and isinstance(stored, dict):
        value.update({name: _in_stored_order(item, stored.get(name)) for name, item in value.items()})
    return value


def _json(value: Any) -> str:
    return json.dumps(pydantic.TypeAdapter(Any).dump_python(value, mode="json", fallback=str, warnings=False))


def _decode_enum(value: Mapping[str, Any]) -> Any:
    return _decode_class(value)[value["value"]]


def _decode_dataclass(value: Mapping[str, Any]) -> Any:
    cls = _decode_class(value)
    made = object.__new__(cls)  # no __init__ and no __post_init__: the fields are what they were
    for name, item in value["value"].items():
        object.__setattr__(made, name, decode(item))
    return made


def _decode_datetime(text: str, fold: int, zone: str | None) -> datetime.datetime:
    """ISO 8601 tells neither the second of two equal local times nor the name of a time zone."""
    value = datetime.datetime.fromisoformat(text).replace(fold=fold)
    return value if zone is None else value.replace(tzinfo=zoneinfo.ZoneInfo(zone))


def _decode_text(value: Mapping[str, Any]) -> SeenText:
    seen = SeenText(decode(value["text"]))
    seen.picture = value.get("picture")
    return seen


_PLAIN: Final[Mapping[type[Any], Any]] = {
    type(None): None,
    bool: None,
    str: lambda value: base64.b64encode(value.encode("utf-8", "surrogatepass")).decode(),
    int: str,
    float: repr,
}
"""The types of JSON itself, and how their values that JSON can't carry are written."""

_ENCODERS: Final[tuple[tuple[type[Any], str, Any], ...]] = (
    (tuple, "tuple", lambda value: [_encode(item) for item in value]),
    (set, "set", lambda value: [_encode(item) for item in value]),
    (frozenset, "frozenset", lambda value: [_encode(item) for item in value]),
    (KeptSet, "set", lambda value: [_encode(item) for item in value]),
    (KeptFrozenSet, "frozenset", lambda value: [_encode(item) for item in value]),
    (bytes, "bytes", lambda value: base64.b64encode(value).decode()),
    (datetime.datetime, "datetime", lambda value: [value.isoformat(), value.fold, getattr(value.tzinfo, "key", None)]),
    (datetime.date, "date", datetime.date.isoformat),
    (datetime.time, "time", datetime.time.isoformat),
    (datetime.timedelta, "timedelta", lambda value: [value.days, value.seconds, value.microseconds]),
    (decimal.Decimal, "Decimal", str),
    (uuid.UUID, "UUID", str),
)
_DECODERS: Final[Mapping[str, Any]] = {
    "str": lambda value: base64.b64decode(value["value"]).decode("utf-8", "surrogatepass"),
    "int": lambda value: int(value["value"]),
    "float": lambda value: float(value["value"]),
    "tuple": lambda value: tuple(decode(value["value"])),
    "set": lambda value: _kept(set, decode(value["value"])),
    "frozenset": lambda value: _kept(frozenset, decode(value["value"])),
    "bytes": lambda value: base64.b64decode(value["value"]),
    "datetime": lambda value: _decode_datetime(*value["value"]),
    "date": lambda value: datetime.date.fromisoformat(value["value"]),
    "time": lambda value: datetime.time.fromisoformat(value["value"]),
    "timedelta": lambda value: datetime.timedelta(*value["value"]),
    "Decimal": lambda value: decimal.Decimal(value["value"]),
    "UUID": lambda value: uuid.UUID(value["value"]),
    "dict": lambda value: {decode(key): decode(item) for key, item in value["items"]},
    "model": _decode_model,
    "exact_model": lambda value: _decode_model({**value, "value": decode(value["value"])}),
    "enum": _decode_enum,
    "dataclass": _decode_dataclass,
    "text": _decode_text,
}
