"""A model's response and its usage as JSON, exactly as the provider sent them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, Final

import pydantic
from agents import ModelResponse, Usage
from openai import BaseModel as OpenAIModel
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputItem, ResponseOutputMessage

from inngest_agents.memos import item_form
from inngest_agents.memos.codec import MAX_INT, SURROGATE
from inngest_agents.memos.usage_form import usage_fields, usage_in


class _Output(OpenAIModel):
    """Only the output of a response: `Response` itself has forty fields, which cost more to make than the items."""

    output: list[ResponseOutputItem]


_USUAL_ITEMS: Final[Mapping[str, type[OpenAIModel]]] = {
    item_form.CALL: ResponseFunctionToolCall,
    item_form.MESSAGE: ResponseOutputMessage,
}

_USAGE_ADAPTER: Final = pydantic.TypeAdapter(Usage)
_COUNTS: Final = frozenset({"requests", "input_tokens", "output_tokens", "total_tokens"})
_DETAILS: Final = ("input_tokens_details", "output_tokens_details")
_NO_USAGE: Final[Mapping[str, Any]] = _USAGE_ADAPTER.dump_python(Usage(), mode="json")


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
        "output": [item_form.short(as_written(encode_item(item))) for item in response.output],
        **usage_fields(encode_usage(response.usage)),
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


def as_written(item: Any) -> Any:
    """A model's item as it comes back from the server: a logprob of 0.0 as 0, and no lone surrogates.

    What is asked of the model next contains it, so it must be the same on the first pass already.
    """
    if type(item) is dict:
        return {key: as_written(value) for key, value in item.items()}
    if type(item) is list:
        return [as_written(value) for value in item]
    if type(item) is float and item.is_integer() and abs(item) <= MAX_INT:
        return int(item)
    return without_surrogates(item) if type(item) is str else item


def without_surrogates(text: str) -> str:
    """A text as a server's parser reads it: halves of a pair are nothing in UTF-8."""
    return text if text.isascii() else SURROGATE.sub("\ufffd", text)


def encode_usage(usage: Usage) -> Any:
    """A usage of the SDK as JSON, without what is as in `Usage()`: mostly the details, at zero."""
    dumped: dict[str, Any] = _USAGE_ADAPTER.dump_python(usage, mode="json")
    return {
        name: _besides(value, _NO_USAGE.get(name)) for name, value in dumped.items() if value != _NO_USAGE.get(name)
    }


def _besides(value: Any, usual: Any) -> Any:
    """The details of a usage without those that are as usual."""
    if not isinstance(value, dict) or not isinstance(usual, dict) or not usual.keys() <= value.keys():
        return value
    return {name: part for name, part in value.items() if name not in usual or part != usual[name]}


def decode_usage(value: Any) -> Usage:
    """The usage that `encode_usage` stored."""
    if _COUNTS.issuperset(value):
        return Usage(**value)  # the usual case, at a third of the cost
    details = ((name, value[name]) for name in _DETAILS if isinstance(value.get(name), dict))
    whole = {name: {**_NO_USAGE[name], **said} for name, said in details}
    return _USAGE_ADAPTER.validate_python({**value, **whole})


def decode_item(item: Any) -> Any:
    """An output item that `encode_item` stored.

    `construct` takes what is newer than the SDK, but looks for the type of each field and costs ten times as much. So
    it is for what strict validation does not accept, or would change: the logprob 0 of a message to 0.0.
    """
    known = _USUAL_ITEMS.get(str(item.get("type"))) if isinstance(item, dict) else None
    if known is not None and not _has_numbers(item):
        with contextlib.suppress(pydantic.ValidationError):
            return known.model_validate(item, strict=True)
    return _Output.construct(output=[item]).output[0]


def _has_numbers(item: Mapping[str, Any]) -> bool:
    content = item.get("content")
    return isinstance(content, list) and any(isinstance(part, dict) and part.get("logprobs") for part in content)


def decode_response(value: Mapping[str, Any]) -> ModelResponse:
    """The response that `encode_response` stored."""
    items = [item_form.long(item) for item in value["output"]]
    output = [decode_item(item) for item in items]
    for index in value.get("dict_items", ()):
        output[index] = items[index]
    return ModelResponse(
        output=output,
        usage=decode_usage(usage_in(value)),
        response_id=value.get("response_id"),
        request_id=value.get("request_id"),
        raw_usage=value.get("raw_usage"),
    )
