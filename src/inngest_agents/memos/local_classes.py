"""Classes that no import finds, as they were made in a function: found through the user's functions that use them.

A guardrail or a tool that gives an object of such a class refers to the class, by its closure, its annotations or a
function that it calls. Those are there in every process and on every pass, so a value is stored typed only where the
class will be found again on a replay, and what is found does not depend on where the step ran.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import inspect
from collections.abc import Iterator
from typing import Any, Final

MAX_DEPTH: Final = 8
"""How deep functions are followed: the SDK wraps that of a tool into some of its own."""

_sources: contextvars.ContextVar[tuple[Any, ...]] = contextvars.ContextVar("inngest_agents_local_classes", default=())


def reference_to(cls: type[Any]) -> str:
    """How a class is named in what is stored: "module:Outer.Inner"."""
    return f"{cls.__module__}:{cls.__qualname__}"


@contextlib.contextmanager
def classes_of(*functions: Any) -> Iterator[None]:
    """Let `find_local` look into these functions."""
    token = _sources.set(functions)
    try:
        yield
    finally:
        _sources.reset(token)


def find_local(reference: str) -> type[Any] | None:
    """The class of this reference that the functions use; None if they use none, or several."""
    if "<locals>" not in reference:
        return None
    found: dict[int, type[Any]] = {}
    for source in _sources.get():
        for cls in _classes_in(source, 0, set()):
            if reference_to(cls) == reference:
                found[id(cls)] = cls
    return next(iter(found.values())) if len(found) == 1 else None


def _classes_in(value: Any, depth: int, seen: set[int]) -> Iterator[type[Any]]:
    if depth > MAX_DEPTH or id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, type):
        if "<locals>" in value.__qualname__:
            yield value
            for part in (*vars(value).values(), *getattr(value, "__annotations__", {}).values()):
                if isinstance(part, type):
                    yield from _classes_in(part, depth + 1, seen)
        return
    for part in _parts(value):
        yield from _classes_in(part, depth + 1, seen)


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, functools.partial):
        yield value.func
        return
    function = inspect.unwrap(value) if callable(value) else value
    function = getattr(function, "__func__", function)
    if not inspect.isfunction(function):
        if callable(function) and hasattr(function, "__dict__"):  # such as the SDK makes of a tool's function
            yield type(function).__call__
            yield from filter(callable, vars(function).values())
        return
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # not bound yet
            yield cell.cell_contents
    yield from (part for part in function.__annotations__.values() if isinstance(part, type))
