"""Pydantic's `ValidationError` as JSON, and made of that again by pydantic itself, as its type is final.

Of an input no more is stored than pydantic shows where it is large or no JSON, and nothing where the model hides it
(`hide_input_in_errors`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, Final, get_args

from pydantic_core import PydanticCustomError, ValidationError
from pydantic_core.core_schema import ErrorType

from inngest_agents.memos import codec

_TYPES: Final = frozenset(get_args(ErrorType))
"""The kinds of lines whose text pydantic itself writes; the others are of the user's validators."""

_MAX_INPUT: Final = 1_000
"""How large, as JSON, an input may be to be stored as it is."""

_MAX_SHOWN: Final = 50
"""What pydantic shows of one."""


def encode(error: ValidationError, *, shown_only: bool = False) -> dict[str, Any] | None:
    """What `decode` needs; None where that could not make the same of it.

    Args:
        error: to store.
        shown_only: store no more of any input than pydantic shows.
    """
    try:
        pickled: Any = error.__reduce__()
        title, _, mode, hidden = pickled[1]
        lines = error.errors(include_url=False, include_input=not hidden)
        stored = {
            "title": title,
            "mode": mode,
            "hidden": hidden,
            "lines": [_encode_line(line, shown_only) for line in lines],
        }
        return stored if decode(stored, str(error)) is not None else None
    except Exception:  # noqa: BLE001  the parts are the user's, and of another version of pydantic perhaps
        return None


def decode(stored: Any, message: str) -> ValidationError | None:
    """The error of that text; None if there is nothing stored that gives it."""
    if not stored:
        return None
    for make in (_known, _custom):
        error = _made(stored, make)
        if error is not None and str(error) == message:
            return error
    return None


def _made(stored: Any, make: Callable[[Any, dict[str, Any]], Any]) -> ValidationError | None:
    try:
        lines: Any = list(_decode_lines(stored["lines"], make))
        error = ValidationError.from_exception_data(stored["title"], lines, stored["mode"], stored["hidden"])
    except Exception:  # noqa: BLE001  as above; the other way of making its lines is tried then
        return None
    error.args = ()  # as pydantic raises it
    return error


def _encode_line(line: Any, shown_only: bool) -> dict[str, Any]:
    context = dict(line.get("ctx", {}))
    raised = context.pop("error") if isinstance(context.get("error"), Exception) else None
    stored = {"type": line["type"], "loc": list(line["loc"]), "msg": line["msg"], "ctx": codec.encode(context)}
    if raised is not None:
        stored["raised"] = [isinstance(raised, AssertionError), str(raised)]
    if "input" in line:
        stored.update(_encode_input(line["input"], shown_only))
    return stored


def _encode_input(value: Any, shown_only: bool) -> dict[str, Any]:
    if not shown_only and codec.is_carriable(value):
        encoded = codec.encode(value)
        if not codec.is_text(encoded) and len(json.dumps(encoded)) <= _MAX_INPUT:
            return {"input": encoded}
    shown = repr(value)
    if len(shown) > _MAX_SHOWN:
        shown = f"{shown[: _MAX_SHOWN // 2]}...{shown[-(_MAX_SHOWN // 2 - 1) :]}"
    return {"shown": [type(value).__qualname__, shown]}


def _decode_lines(lines: list[Any], make: Callable[[Any, dict[str, Any]], Any]) -> Iterator[dict[str, Any]]:
    for line in lines:
        context: dict[str, Any] = codec.decode(line["ctx"])
        if "raised" in line:
            is_assertion, text = line["raised"]
            context["error"] = (AssertionError if is_assertion else ValueError)(text)
        given = _Shown.of(*line["shown"]) if "shown" in line else codec.decode(line.get("input"))
        made = {"type": make(line, context), "loc": tuple(line["loc"]), "input": given}
        yield {**made, "ctx": context} if context else made


def _known(line: Any, context: dict[str, Any]) -> Any:
    return line["type"] if line["type"] in _TYPES else _custom(line, context)


def _custom(line: Any, context: dict[str, Any]) -> Any:
    """A line of a user's `PydanticCustomError`, whose template is not known any more but filled in."""
    return PydanticCustomError(line["type"], line["msg"], context or None)


class _Shown:
    """An input of which only what pydantic shows of it is stored."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text

    @classmethod
    def of(cls, name: str, text: str) -> _Shown:
        shown: type[_Shown] = type(name, (cls,), {})  # pydantic shows the name of its type
        return shown(text)
