"""Lossless JSON for what steps return.

Whatever is given to the SDK's loop is the decoded value, on the first pass as on every replay; so a run behaves the
same wherever it is cut. JSON's own types stay as they are (a dashboard reads them); everything else is an object with
the key `$type`:

- `tuple`, `set`, `frozenset`, `bytes`, `datetime`, `date`, `time`, `timedelta`, `Decimal`, `UUID`, `dict` with other
  keys than strings: the values of Python's standard library;
- `model`, `dataclass`, `enum`: pydantic models, dataclasses and enums, found again by module and name among what is
  imported already (nothing is imported for it);
- `text`: anything else, as the text that the model would have seen, with a JSON picture of the value for people.

A value is stored typed only if decoding it gives an equal text; else as `text`. So what the model sees is always the
same. The module says nothing about model responses; see `encode_response`.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import decimal
import enum
import sys
import uuid
import zoneinfo
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import pydantic
from agents import ModelResponse, Usage
from openai import BaseModel as OpenAIModel
from openai.types.responses import ResponseOutputItem

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"

TYPE_KEY: Final = "$type"


class _Output(OpenAIModel):
    """Only the output of a response: `Response` itself has forty fields, which cost more to make than the items."""

    output: list[ResponseOutputItem]


_USAGE_ADAPTER: Final = pydantic.TypeAdapter(Usage)


class SeenText(str):
    """The text of a value that JSON cannot carry, as the model saw it; `picture` is the value's JSON for people."""

    picture: Any = None


def encode(value: Any) -> Any:
    """A value as JSON that `decode` turns into an equal one (for exotic types: into the text the model would see)."""
    if value is None or (isinstance(value, (bool, str)) and type(value) in (bool, str)):
        return value
    if type(value) in (int, float):
        return value
    if type(value) is list:
        return [encode(item) for item in value]
    if type(value) is dict:
        return _encode_dict(value)
    encoded = _encode_typed(value)
    if encoded is not None and _same_text(value, encoded):
        return encoded
    return {TYPE_KEY: "text", "text": _text(value), "picture": _picture(value)}


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
    if all(type(key) is str for key in value) and TYPE_KEY not in value:
        return {key: encode(item) for key, item in value.items()}
    return {TYPE_KEY: "dict", "items": [[encode(key), encode(item)] for key, item in value.items()]}


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
            field.name: encode(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if hasattr(value, field.name)
        }
        return {TYPE_KEY: "dataclass", "class": reference, "value": fields}
    return None


def _same_text(value: Any, encoded: dict[str, Any]) -> bool:
    """Whether the model would see the same after decoding; a value is stored typed only then."""
    try:
        decoded = decode(encoded)
    except Exception:  # noqa: BLE001  a foreign constructor may raise anything; the text is stored then
        return False
    # Inside a list or dict it is the repr that the model sees.
    return type(decoded) is type(value) and _text(decoded) == _text(value) and repr(decoded) == repr(value)


def _text(value: Any) -> str:
    """What `ItemHelpers.tool_call_output_item` would show of a value: its `str`."""
    return str(value)


def _picture(value: Any) -> Any:
    try:
        return pydantic.TypeAdapter(Any).dump_python(value, mode="json", fallback=str, warnings=False)
    except Exception:  # noqa: BLE001  a picture for people must not fail the step
        return None


def _class_reference(cls: type[Any]) -> str | None:
    reference = f"{cls.__module__}:{cls.__qualname__}"
    return reference if _find_class(reference) is cls else None


def _find_class(reference: str) -> Any:
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
    return _decode_class(value).model_validate(value["value"])


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
    seen = SeenText(value["text"])
    seen.picture = value.get("picture")
    return seen


_ENCODERS: Final[tuple[tuple[type[Any], str, Any], ...]] = (
    (tuple, "tuple", lambda value: [encode(item) for item in value]),
    (set, "set", lambda value: [encode(item) for item in value]),
    (frozenset, "frozenset", lambda value: [encode(item) for item in value]),
    (bytes, "bytes", lambda value: base64.b64encode(value).decode()),
    (datetime.datetime, "datetime", lambda value: [value.isoformat(), value.fold, getattr(value.tzinfo, "key", None)]),
    (datetime.date, "date", datetime.date.isoformat),
    (datetime.time, "time", datetime.time.isoformat),
    (datetime.timedelta, "timedelta", lambda value: [value.days, value.seconds, value.microseconds]),
    (decimal.Decimal, "Decimal", str),
    (uuid.UUID, "UUID", str),
)
_DECODERS: Final[Mapping[str, Any]] = {
    "tuple": lambda value: tuple(decode(value["value"])),
    "set": lambda value: set(decode(value["value"])),
    "frozenset": lambda value: frozenset(decode(value["value"])),
    "bytes": lambda value: base64.b64decode(value["value"]),
    "datetime": lambda value: _decode_datetime(*value["value"]),
    "date": lambda value: datetime.date.fromisoformat(value["value"]),
    "time": lambda value: datetime.time.fromisoformat(value["value"]),
    "timedelta": lambda value: datetime.timedelta(*value["value"]),
    "Decimal": lambda value: decimal.Decimal(value["value"]),
    "UUID": lambda value: uuid.UUID(value["value"]),
    "dict": lambda value: {decode(key): decode(item) for key, item in value["items"]},
    "model": _decode_model,
    "enum": _decode_enum,
    "dataclass": _decode_dataclass,
    "text": _decode_text,
}


def encode_item(item: Any) -> Any:
    """An output item of a model as JSON, exactly as the provider sent it (unset fields stay unset).

    The SDK's models mostly return pydantic objects, some adapters plain dicts.
    """
    if isinstance(item, pydantic.BaseModel):
        return item.model_dump(mode="json", by_alias=True, exclude_unset=True, warnings=False)
    return item


def encode_response(response: ModelResponse) -> dict[str, Any]:
    """A model's response as JSON.

    `TypeAdapter` would refuse item types and enum values that are newer than the SDK; `construct` on the way
    back takes them all (28 types, 112 cases were exact).
    """
    encoded: dict[str, Any] = {
        "output": [encode_item(item) for item in response.output],
        "usage": _USAGE_ADAPTER.dump_python(response.usage, mode="json"),
    }
    for field in ("response_id", "request_id", "raw_usage"):
        value = getattr(response, field)
        if value is not None:
            encoded[field] = value
    items: list[Any] = list(response.output)
    dict_items = [index for index, item in enumerate(items) if isinstance(item, dict)]
    if dict_items:
        encoded["dict_items"] = dict_items
    return encoded


def encode_usage(usage: Usage) -> Any:
    """A usage of the SDK as JSON."""
    return _USAGE_ADAPTER.dump_python(usage, mode="json")


def decode_usage(value: Any) -> Usage:
    """The usage that `encode_usage` stored."""
    return _USAGE_ADAPTER.validate_python(value)


def decode_response(value: Mapping[str, Any]) -> ModelResponse:
    """The response that `encode_response` stored."""
    output: list[Any] = list(_Output.construct(output=value["output"]).output)
    for index in value.get("dict_items", ()):
        output[index] = value["output"][index]
    return ModelResponse(
        output=output,
        usage=_USAGE_ADAPTER.validate_python(value["usage"]),
        response_id=value.get("response_id"),
        request_id=value.get("request_id"),
        raw_usage=value.get("raw_usage"),
    )
