"""CEL expressions in triggers, waits and cancellations, with the variables `event` and `async`."""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

if importlib.util.find_spec("cel") is None:  # imported where an expression is met, as that takes a third of a second
    raise ModuleNotFoundError("No module named 'cel'", name="cel")


class ExpressionError(ValueError):
    """The expression does not compile."""


@functools.lru_cache(maxsize=512)
def _compiled(expression: str) -> Any:
    import cel

    try:
        return cel.compile(expression)
    except Exception as error:
        raise ExpressionError(f"can't compile {expression!r}: {error}") from error


def check(expression: str) -> None:
    """Compile an expression.

    Raises:
        ExpressionError: it is none.
    """
    _compiled(expression)


def evaluate(expression: str, **variables: Any) -> Any:
    """The value of an expression; None where it can't be computed, e.g. since a field is not there.

    Raises:
        ExpressionError: it does not compile.
    """
    program = _compiled(expression)
    try:
        return program.execute(variables)
    except Exception:  # noqa: BLE001  a missing key or a wrong type: the real server takes it for no match
        return None


def matches(expression: str | None, **variables: Any) -> bool:
    """Whether an expression is true; a missing one is. One that does not compile is not."""
    if expression is None:
        return True
    try:
        return evaluate(expression, **variables) is True
    except ExpressionError:
        return False
