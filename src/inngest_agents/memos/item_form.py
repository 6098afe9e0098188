"""How an output item of a model lies in the output of its step: without what every usual item of its type says.

A call of a function that is complete, and a message of one text without annotations, are stored without the fields that
are the same in all of them; the lack of a `type` tells that they are. Every other item is stored whole.

    {"arguments": "{\\"id\\": 7}", "call_id": "call_1", "name": "lookup_order", "id": "fc_1"}
    {"id": "msg_1", "text": "It is on its way."}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

CALL: Final = "function_call"
MESSAGE: Final = "message"

_CALL: Final[Mapping[str, Any]] = {"type": CALL, "status": "completed"}
_MESSAGE: Final[Mapping[str, Any]] = {"role": "assistant", "status": "completed", "type": MESSAGE}
_TEXT: Final[Mapping[str, Any]] = {"annotations": [], "type": "output_text"}
_TOLD_BY: Final = frozenset({"arguments", "text", "logprobs"})
"""What tells a call from a message, and a message's text from what stands beside it."""


def short(item: Any) -> Any:
    """An item, as JSON, in the form in which it is stored; itself where it says more than a usual one."""
    kind = item.get("type") if isinstance(item, dict) else None
    if kind == CALL:
        found = _without(item, _CALL)
        # A message is told from a call by its lack of arguments.
        return item if found is None or "arguments" not in found else found
    if kind == MESSAGE:
        found = _short_message(item)
        return item if found is None else found
    return item


def _short_message(item: dict[str, Any]) -> dict[str, Any] | None:
    found = _without(item, _MESSAGE)
    content = found.pop("content", None) if found is not None else None
    if found is None or not _TOLD_BY.isdisjoint(found) or not isinstance(content, list) or len(content) != 1:
        return None
    text = _without(content[0], _TEXT) if isinstance(content[0], dict) else None
    if text is None or "text" not in text or not text.keys() <= {"text", "logprobs"} or text.get("logprobs"):
        return None
    return {**found, **text}


def _without(item: dict[str, Any], usual: Mapping[str, Any]) -> dict[str, Any] | None:
    """What an item says besides `usual`; None if it does not say all of that."""
    if any(item.get(name, usual) != value for name, value in usual.items()):
        return None
    return {name: value for name, value in item.items() if name not in usual}


def type_of(item: Any) -> str:
    """The type of an item in its short or long form; "" if it has none."""
    if not isinstance(item, dict):
        return ""
    if "type" in item:
        return str(item["type"])
    return CALL if "arguments" in item else MESSAGE if "text" in item else ""


def long(item: Any) -> Any:
    """Undo `short`."""
    kind = type_of(item)
    if not kind or "type" in item:
        return item
    if kind == CALL:
        return {**item, **_CALL}
    said = {name: item[name] for name in ("text", "logprobs") if name in item}
    others = {name: value for name, value in item.items() if name not in said}
    return {**others, "content": [{**_TEXT, "annotations": [], **said}], **_MESSAGE}
