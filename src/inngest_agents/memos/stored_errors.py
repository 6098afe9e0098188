"""The error of a failed step as the engine stores it, and the same error made of that again.

The server keeps nothing of an error but name, message and stack. What else there is to it (its arguments, its plain
attributes, what it was raised from, the errors of a group, the lines of a `ValidationError`) is written as JSON after
the stack, so that `error.errno`, `error.args[0]` and `error.errors()` in a `failure_error_function` are what they are
under `Runner`. A later version may write more there: what a reader does not know, it leaves alone.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import functools
import inspect
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, TypeVar, cast

import inngest
from agents.exceptions import AgentsException
from pydantic_core import ValidationError

from inngest_agents._inngest_sdk import MemoError
from inngest_agents.errors import message_of, native_args, native_copy, qualified_name, text_of
from inngest_agents.memos import codec, stored_responses, validation_errors

E = TypeVar("E", bound=BaseException)

_CANCELLED: Final = "asyncio.exceptions.CancelledError"
"""What is raised inside a step and is no request to stop it: the one error that is no `Exception`."""

_NOTES: Final = "\ninngest-agents: "
"""What comes after the stack of a stored error: JSON of what its name and message do not tell."""

_MAX_PART: Final = 8_000
"""How large, as JSON, a part of what is stored with an error may be: its attributes, its arguments, all its causes."""

_MAX_CAUSES: Final = 10
"""How many of them are stored; a cause may lead back to the error itself."""

_MAX_DEPTH: Final = 3
"""How deep errors inside of errors are stored: those of a group, and attributes such as SQLAlchemy's `orig`."""


def rebuild(memo: MemoError) -> Exception | asyncio.CancelledError:
    """The error of a failed step, with its original type where that is loaded, and its message.

    Nothing is imported for it, and no constructor of the user's runs. A type that is unknown, or that cannot be made of
    what is stored, becomes an `inngest.StepError` of that name.
    """
    if memo.name == _CANCELLED:
        return _memoized(asyncio.CancelledError(*([memo.message] if memo.message else [])))
    notes = _notes(memo.stack)
    cls = _find_class(memo.name)
    error = None if cls is None else _made(cls, memo.message, notes)
    if error is None:
        error = inngest.StepError(memo.message, memo.name.rpartition(".")[2], memo.stack)
    _attach_causes(error, notes.get("causes", []))
    return _memoized(error)


def notes_on(error: BaseException, span_times: Mapping[str, str], *, is_encrypted: bool = False) -> str:
    """What is stored after the stack of a step's error, and when its spans began.

    What is neither JSON nor one of the types that steps carry (a client, say) is left out, and so is what is large.

    Args:
        error: of the step.
        span_times: when the spans around it began, by their ids.
        is_encrypted: middleware encrypts what steps give, but no errors: of these, nothing that they were about is
            stored then (the bytes that can't be decoded, the body of a response, the input that is not valid) but what
            the message shows.
    """
    notes: dict[str, Any] = _details(error, _MAX_DEPTH, is_encrypted)
    if causes := _causes(error):
        notes["causes"] = causes
    if span_times:
        notes["spans"] = dict(span_times)
    return f"{_NOTES}{json.dumps(notes)}" if notes else ""


def stored_span_times(memo: MemoError) -> dict[str, str]:
    """When the spans around a failed step began, by their ids."""
    times: dict[str, str] = _notes(memo.stack).get("spans", {})
    return times


def _notes(stack: str | None) -> dict[str, Any]:
    _, separator, text = (stack or "").rpartition(_NOTES)
    if not separator:
        return {}
    try:
        found: dict[str, Any] = json.loads(text)
    except ValueError:  # cut off by somebody on the way
        return {}
    return found


# How an error becomes JSON.


def _details(error: BaseException, depth: int, is_encrypted: bool) -> dict[str, Any]:
    """What an error has besides name and message."""
    plain, typed, errors, responses = {}, {}, {}, {}
    for name, value in _attributes(error):
        if isinstance(value, Exception):
            if depth > 0:
                errors[name] = _nested(value, depth, is_encrypted)
        elif _is_plain(value):
            plain[name] = value
        elif (response := _response(value, is_encrypted)) is not None:
            responses[name] = response
        elif (encoded := _encoded(value)) is not None and not (is_encrypted and isinstance(value, bytes)):
            typed[name] = encoded
    parts = {"attributes": plain, "typed": typed, "errors": errors, "responses": responses}
    found: dict[str, Any] = {name: small for name, part in parts.items() if (small := _small(part))}
    if isinstance(error, ValidationError):
        found["validation"] = validation_errors.encode(error, shown_only=is_encrypted)
    elif isinstance(error, ExceptionGroup):
        nested = [_nested(one, depth, is_encrypted) for one in error.exceptions] if depth > 0 else None
        found["group"] = None if nested is None else [error.message, nested]
    else:
        found["args"] = _arguments(error, is_encrypted)
    rest = {name for name in found if name not in parts and (found[name] is None or _size(found[name]) > _MAX_PART)}
    return {name: part for name, part in found.items() if name not in rest}


def _attributes(error: BaseException) -> Iterator[tuple[str, Any]]:
    hidden = {"run_data"} if isinstance(error, AgentsException) else set()  # all of the run, which the SDK fills in
    if vars(error).get("hide_parameters") is True:
        hidden.add("params")  # SQLAlchemy's way of saying that they belong into no log
    for name, value in vars(error).items():
        if not name.startswith("__durable") and name not in hidden:
            yield name, value


def _arguments(error: BaseException, is_encrypted: bool) -> list[Any] | None:
    """Its `args`, as its builtin base would pickle them (a file's name is not in `args`), if its message is not all."""
    args, message = native_args(error), message_of(error)
    if len(args) == 1 and type(args[0]) is str and args[0] == message:
        return None
    if is_encrypted and not all(arg is None or message_of(arg) in message for arg in args):
        return None
    encoded = [_encoded(arg) for arg in args]
    return encoded if all(item is not None or arg is None for item, arg in zip(encoded, args, strict=True)) else None


def _nested(error: BaseException, depth: int, is_encrypted: bool) -> list[Any]:
    """An error inside of another: its name, its message and what else there is to it."""
    return [qualified_name(error), message_of(error), _details(error, depth - 1, is_encrypted)]


def _causes(error: BaseException) -> list[tuple[str, str]]:
    """The names and messages of what the error was raised from, the nearest first."""
    found: list[tuple[str, str]] = []
    cause = error.__cause__
    while cause is not None and len(found) < _MAX_CAUSES:
        found.append((qualified_name(cause), message_of(cause)))
        cause = cause.__cause__
    return found if _size(found) <= _MAX_PART else []


def _small(values: dict[str, Any]) -> dict[str, Any]:
    """The values without the largest of them, such that what is left has room."""
    sizes = {name: _size({name: value}) for name, value in values.items()}
    left = dict(values)
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        if sum(sizes[kept] for kept in left) <= _MAX_PART:
            break
        del left[name]
    return left


def _size(value: Any) -> int:
    return len(json.dumps(value))


def _is_plain(value: Any) -> bool:
    """Whether a value is JSON, and nothing that only looks like it (a member of an enum of strings, say)."""
    if type(value) in (dict, list):
        items = [*value.keys(), *value.values()] if type(value) is dict else value
        try:
            return all(map(_is_plain, items)) and bool(json.loads(json.dumps(value)) == value)
        except (TypeError, ValueError, RecursionError):
            return False
    return value is None or type(value) in (bool, str, int) or (type(value) is float and value == value)


def _encoded(value: Any) -> Any:
    """A value of the types that steps carry, as JSON; None for anything else."""
    try:
        encoded = codec.encode(value) if codec.is_carriable(value) else None
    except Exception:  # noqa: BLE001  a foreign type may refuse in any way, and this is about an error already
        return None
    return None if codec.is_text(encoded) else encoded


def _response(value: Any, is_encrypted: bool) -> dict[str, Any] | None:
    try:
        return stored_responses.encode(value, with_body=not is_encrypted)
    except Exception:  # noqa: BLE001  as above
        return None


# How it is made of that again.


def _made(cls: type[Exception], message: str, notes: Mapping[str, Any]) -> Exception | None:
    """An error of this type and text; None where the type forbids it."""
    if issubclass(cls, ValidationError):  # can be made by pydantic alone
        refused = validation_errors.decode(notes.get("validation"), message)
        return None if refused is None else _filled(refused, message, notes)
    args = _stored_args(cls, message, notes)
    error = _blank(cls, args)
    if error is None:
        return None
    if text_of(_filled(error, message, notes)) == message:
        return error
    shown = _blank(_shown_as(cast("Any", cls)), args)
    if shown is not None:
        vars(shown)["__durable_text__"] = message
        _filled(shown, message, notes)
    return shown


def _stored_args(cls: type[Exception], message: str, notes: Mapping[str, Any]) -> tuple[Any, ...]:
    try:
        if issubclass(cls, ExceptionGroup) and "group" in notes:
            text, errors = notes["group"]
            return text, [_inner(*error) for error in errors]
        return tuple(map(codec.decode, notes["args"])) if "args" in notes else (message,)
    except Exception:  # noqa: BLE001  of a class that is gone, or of a later version; the message says it, too
        return (message,)


def _inner(name: str, message: str, details: Mapping[str, Any]) -> Exception:
    cls = _find_class(name)
    error = None if cls is None else _made(cls, message, details)
    return inngest.StepError(message, name.rpartition(".")[2], None) if error is None else error


def _blank(cls: type[Exception], args: tuple[Any, ...]) -> Exception | None:
    """An error of this type with nothing but its arguments; None where the type forbids it."""
    try:
        return native_copy(cls, args)
    except Exception:  # noqa: BLE001  a foreign type may refuse in any way
        return None


def _filled(error: Exception, message: str, notes: Mapping[str, Any]) -> Exception:
    """The error with its attributes, set where neither a setter of the user's nor a frozen class is asked."""
    held = vars(error)
    if isinstance(error, AgentsException):
        held["run_data"] = None  # as its constructor does; the SDK fills it in
    for name, value in notes.get("attributes", {}).items():
        held.setdefault(name, value)
    for name, value in notes.get("typed", {}).items():
        with contextlib.suppress(Exception):  # its class is gone, say; the error is worth more than one attribute
            held.setdefault(name, codec.decode(value))
    for name, value in notes.get("responses", {}).items():
        with contextlib.suppress(Exception):  # its library is not loaded here
            held.setdefault(name, stored_responses.decode(value))
    for name, inner in notes.get("errors", {}).items():
        held.setdefault(name, _inner(*inner))
    if inspect.getattr_static(error, "message", inspect.Parameter.empty) is inspect.Parameter.empty:
        held["message"] = message
    return error


def _attach_causes(error: Exception, causes: Iterable[tuple[str, str]]) -> None:
    """Make each the cause of the one before: what `raise … from …` had made them."""
    for name, message in causes:
        cause = rebuild(MemoError(name, message, None))
        error.__cause__ = cause
        if not isinstance(cause, Exception):  # a cancellation, which nothing has caused
            return
        error = cause


def _memoized(error: E) -> E:
    vars(error)["__durable_memoized__"] = True
    return error


def _find_class(name: str) -> type[Exception] | None:
    module_name, _, qualname = name.rpartition(".")
    module = sys.modules.get(module_name) if module_name else builtins
    while module is None and "." in module_name:  # a nested class: module.Outer.Inner
        module_name, _, outer = module_name.rpartition(".")
        qualname = f"{outer}.{qualname}"
        module = sys.modules.get(module_name)
    found: Any = module
    for part in qualname.split("."):
        found = getattr(found, part, None)
    if isinstance(found, type) and issubclass(found, Exception):
        return found
    if "<locals>" not in name:
        return None
    # Made inside of a function: no module has it, but it is among the subclasses while it is in use.
    return next((cls for cls in _subclasses(Exception) if f"{cls.__module__}.{cls.__qualname__}" == name), None)


def _subclasses(cls: type[Exception]) -> Iterator[type[Exception]]:
    """All classes below one, the newest first."""
    for below in reversed(cls.__subclasses__()):
        if "__durable_origin__" not in vars(below):
            yield below
        yield from _subclasses(below)


@functools.lru_cache(maxsize=None)
def _shown_as(cls: type[Exception]) -> type[Exception]:
    """`cls` with a `__str__` that needs nothing but the message."""
    return type(
        cls.__name__,
        (cls,),
        {
            "__str__": lambda self: str(self.__durable_text__),
            "__module__": cls.__module__,
            "__qualname__": cls.__qualname__,
            "__durable_origin__": cls,
        },
    )
