"""Lossless JSON for what steps return.

Whatever is given to the SDK's loop is the decoded value, on the first pass as on every replay; so a run behaves the
same wherever it is cut. JSON's own types stay as they are (a dashboard reads them); everything else is an object with
the key `$type`:

- `tuple`, `set`, `frozenset`, `bytes`, `datetime`, `date`, `time`, `timedelta`, `Decimal`, `UUID`, `OrderedDict`,
  `Counter`, `deque`, `defaultdict` of a builtin type, `dict` with other keys than strings: the values of Python's
  standard library;
- `str`, `int`, `float`: those that no JSON text carries through the server: lone surrogates, which its own parser
  refuses, NaN and infinities, and numbers that it writes in another way (it makes each a double, and 1.0 a 1);
- `model` (`exact_model` with such values in it), `dataclass`, `namedtuple`, `enum`: pydantic models, dataclasses and so
  on, found again by module and name among what is imported already (nothing is imported for it), or, if they were made
  in a function, through the user's function that gave them (see `inngest_agents.memos.local_classes`);
- `model_state`: a pydantic model that validating its own JSON does not give again, as a default is made anew or a field
  is left out of the JSON, say: what it holds, private attributes included, from which it is built without validation;
- `text`: anything else, as the text that the model would have seen, with a JSON picture of the value for people.

A value is stored typed only if decoding it gives the same value (see `inngest_agents.memos.sameness`) of an equal text;
else as `text`. So what the model sees is always the same, also of a set in a process that would put its items in
another order. Secrets (pydantic's `SecretStr`) are not stored, so what contains one is a `text` with the secret masked.
Of a model's private attributes those that cannot be stored, such as locks and clients, are not looked at: they get
their default. The module says nothing about model responses; see `inngest_agents.memos.response_codec`.
"""

from __future__ import annotations

import base64
import collections
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
from pydantic_core import PydanticUndefined

from inngest_agents.memos.kept_values import KeptFrozenSet, KeptSet, SeenText, kept
from inngest_agents.memos.local_classes import find_local, reference_to
from inngest_agents.memos.sameness import (
    FACTORIES,
    Comparison,
    attributes_of,
    factory_name,
    fields_of,
    is_cached,
    is_dataclass,
    is_named_tuple,
    parts_of,
    private_of,
)

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"

TYPE_KEY: Final = "$type"

SURROGATE: Final = re.compile("[\ud800-\udfff]")
MAX_INT: Final = 2**53 - 1
"""The largest integer that stays exact where numbers are doubles, as in the server."""


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
    for encoded in _forms(value):
        if _comes_back(value, encoded):
            return encoded
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
    kind = encoded.get(TYPE_KEY)
    # A model's own JSON is not of this module: what has the same key there means something else.
    return kind == "text" or (kind != "model" and any(is_text(item) for item in encoded.values()))


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
    return {TYPE_KEY: "dict", "items": _pairs(value)}


def _forms(value: Any) -> Iterator[dict[str, Any]]:
    """The typed forms that a value may be stored in, the most readable first."""
    cls = type(value)
    if cls in _ENCODERS:
        kind, encoder = _ENCODERS[cls]
        encoded = encoder(value)
        if encoded is not None:
            yield {TYPE_KEY: kind, "value": encoded}
        return
    reference = _class_reference(cls)
    if reference is None:
        return
    if isinstance(value, pydantic.BaseModel):
        yield from _model_forms(value, reference)
    elif isinstance(value, enum.Enum):
        yield {TYPE_KEY: "enum", "class": reference, "value": value.name}
    elif is_named_tuple(value):
        yield {TYPE_KEY: "namedtuple", "class": reference, "value": [_encode(item) for item in value]}
    elif is_dataclass(value):
        encoded = {name: _encode(item) for name, item in attributes_of(value).items()}
        encoded = {name: item for name, item in encoded.items() if not (is_text(item) and is_cached(value, name))}
        yield {TYPE_KEY: "dataclass", "class": reference, "value": encoded}


def _model_forms(value: pydantic.BaseModel, reference: str) -> Iterator[dict[str, Any]]:
    dumped = _dumped(value)
    if dumped is not None:
        yield {TYPE_KEY: "model", "class": reference, "value": dumped}
        exact = _encode(dumped)
        if exact != dumped:
            yield {TYPE_KEY: "exact_model", "class": reference, "value": exact}
    # What validation does not give again is only in the object itself: defaults that are made, what a dump leaves out.
    state: dict[str, Any] = {
        "fields": _encode_dict(fields_of(value)),
        "set": sorted(value.model_fields_set),
    }
    if value.__pydantic_extra__ is not None:
        state["extra"] = _encode_dict(value.__pydantic_extra__)
    private = {name: item for name, item in private_of(value).items() if _is_private_carried(value, item)}
    if private:
        state["private"] = _encode_dict(private)
    yield {TYPE_KEY: "model_state", "class": reference, **state}


def _dumped(model: pydantic.BaseModel) -> Any:
    """A model as its own JSON; None if it has none."""
    try:
        return model.model_dump(mode="json", by_alias=True, exclude_unset=True, warnings=False)
    except RecursionError:
        raise
    except Exception:  # noqa: BLE001  a foreign serializer may raise anything; the model's state is stored then
        return None


def _is_private_carried(owner: pydantic.BaseModel, value: Any) -> bool:
    """Whether a private attribute is stored with its model.

    It is if all in it can be. Locks, clients and secrets are not, nor what leads back to its model, such as a parent.
    """
    return _is_carriable(value, (id(owner),))


def is_carriable(value: Any) -> bool:
    """Whether all in a value is of the types that are stored: no lock, no client, no secret."""
    return _is_carriable(value, ())


def _is_carriable(value: Any, outer: tuple[int, ...]) -> bool:
    if type(value) in _PLAIN:
        return True
    if id(value) in outer or len(outer) > _MAX_PRIVATE_DEPTH:
        return False
    parts = parts_of(value)
    if parts is None:
        return (type(value) in _ENCODERS or isinstance(value, enum.Enum)) and not is_text(_encode(value))
    if type(value) not in _ENCODERS and type(value) not in (list, dict) and _class_reference(type(value)) is None:
        return False
    if isinstance(value, pydantic.BaseModel):
        parts += private_of(value).values()
    return all(_is_carriable(part, (*outer, id(value))) for part in parts)


def _comes_back(value: Any, encoded: dict[str, Any]) -> bool:
    """Whether decoding gives the same value, of the same text for the model; a value is stored typed only then."""
    try:
        decoded = decode(_as_carried(encoded))
        texts = _text(decoded), repr(decoded)  # inside a list or dict it is the repr that the model sees
    except RecursionError:
        raise  # the value contains itself: each of its levels would go on with the next form
    except Exception:  # noqa: BLE001  a foreign constructor may raise anything; another form is tried then
        return False
    return texts == (_text(value), repr(value)) and Comparison(_is_private_carried).is_same(value, decoded)


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


def _private_default(attribute: Any, fields: dict[str, Any]) -> Any:
    """As `attribute.get_default`, whose arguments are not the same in all versions of pydantic."""
    if attribute.default_factory is None:
        return attribute.get_default()
    takes_fields = getattr(attribute, "default_factory_takes_validated_data", False)
    return attribute.default_factory(fields) if takes_fields else attribute.default_factory()


def _decode_model_state(value: Mapping[str, Any]) -> Any:
    """The model as it was: no validator and no default factory has a say in it."""
    cls = _decode_class(value)
    made = cls.__new__(cls)
    fields = decode(value["fields"])
    for name, field in cls.model_fields.items():
        if name not in fields and not field.is_required():  # the class has got it since
            fields[name] = field.get_default(call_default_factory=True, validated_data=fields)
    private = None
    if cls.__private_attributes__:
        private = decode(value.get("private", {}))
        missing = {name: item for name, item in cls.__private_attributes__.items() if name not in private}
        defaults = {name: _private_default(attribute, fields) for name, attribute in missing.items()}
        private.update((name, item) for name, item in defaults.items() if item is not PydanticUndefined)
    made.__setstate__(
        {
            "__dict__": fields,
            "__pydantic_fields_set__": set(value["set"]),
            "__pydantic_extra__": decode(value.get("extra")),
            "__pydantic_private__": private,
        }
    )
    return made


def _in_stored_order(value: Any, stored: Any) -> Any:
    """A value of a model with the sets in it as `KeptSet`, in the order that they have in its JSON."""
    if type(value) in (set, frozenset) and isinstance(stored, list):
        known = {_json(item): item for item in value}
        items = [known[text] for text in map(_json, stored) if text in known]
        return kept(type(value), items) if len(items) == len(value) else value
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


def _decode_named_tuple(value: Mapping[str, Any]) -> Any:
    return tuple.__new__(_decode_class(value), decode(value["value"]))


def _decode_default_dict(factory: str | None, pairs: list[Any]) -> collections.defaultdict[Any, Any]:
    return collections.defaultdict(FACTORIES[factory] if factory is not None else None, _from_pairs(pairs))


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

_MAX_PRIVATE_DEPTH: Final = 12
"""How deep a private attribute of a model is looked into."""


def _items(value: Any) -> list[Any]:
    return [_encode(item) for item in value]


def _pairs(value: Mapping[Any, Any]) -> list[Any]:
    return [[_encode(key), _encode(item)] for key, item in value.items()]


def _from_pairs(pairs: list[Any]) -> dict[Any, Any]:
    return {decode(key): decode(item) for key, item in pairs}


def _encode_default_dict(value: collections.defaultdict[Any, Any]) -> list[Any] | None:
    """Its factory and its items; None if the factory is of the user's code."""
    name = factory_name(value)
    return [name, _pairs(value)] if name is not None or value.default_factory is None else None


_ENCODERS: Final[Mapping[type[Any], tuple[str, Any]]] = {
    tuple: ("tuple", _items),
    set: ("set", _items),
    frozenset: ("frozenset", _items),
    KeptSet: ("set", _items),
    KeptFrozenSet: ("frozenset", _items),
    collections.OrderedDict: ("OrderedDict", _pairs),
    collections.Counter: ("Counter", _pairs),
    collections.defaultdict: ("defaultdict", _encode_default_dict),
    collections.deque: ("deque", lambda value: [value.maxlen, _items(value)]),
    bytes: ("bytes", lambda value: base64.b64encode(value).decode()),
    datetime.datetime: (
        "datetime",
        lambda value: [value.isoformat(), value.fold, getattr(value.tzinfo, "key", None)],
    ),
    datetime.date: ("date", datetime.date.isoformat),
    datetime.time: ("time", datetime.time.isoformat),
    datetime.timedelta: ("timedelta", lambda value: [value.days, value.seconds, value.microseconds]),
    decimal.Decimal: ("Decimal", str),
    uuid.UUID: ("UUID", str),
}
_DECODERS: Final[Mapping[str, Any]] = {
    "str": lambda value: base64.b64decode(value["value"]).decode("utf-8", "surrogatepass"),
    "int": lambda value: int(value["value"]),
    "float": lambda value: float(value["value"]),
    "tuple": lambda value: tuple(decode(value["value"])),
    "set": lambda value: kept(set, decode(value["value"])),
    "frozenset": lambda value: kept(frozenset, decode(value["value"])),
    "bytes": lambda value: base64.b64decode(value["value"]),
    "datetime": lambda value: _decode_datetime(*value["value"]),
    "date": lambda value: datetime.date.fromisoformat(value["value"]),
    "time": lambda value: datetime.time.fromisoformat(value["value"]),
    "timedelta": lambda value: datetime.timedelta(*value["value"]),
    "Decimal": lambda value: decimal.Decimal(value["value"]),
    "UUID": lambda value: uuid.UUID(value["value"]),
    "dict": lambda value: _from_pairs(value["items"]),
    "OrderedDict": lambda value: collections.OrderedDict(_from_pairs(value["value"])),
    "Counter": lambda value: collections.Counter(_from_pairs(value["value"])),
    "defaultdict": lambda value: _decode_default_dict(*value["value"]),
    "deque": lambda value: collections.deque(decode(value["value"][1]), value["value"][0]),
    "model": _decode_model,
    "exact_model": lambda value: _decode_model({**value, "value": decode(value["value"])}),
    "model_state": _decode_model_state,
    "namedtuple": _decode_named_tuple,
    "enum": _decode_enum,
    "dataclass": _decode_dataclass,
    "text": _decode_text,
}
