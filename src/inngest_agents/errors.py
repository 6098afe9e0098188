"""The errors of durable runs.

```
inngest.NonRetriableError
├── UnsupportedError     something that cannot be made durable was asked for: before the first step, or inside of one
├── DivergenceError      a replay asked for another step than the one that was remembered
├── BudgetExceeded       a call would have gone beyond a limit of `DurableOptions(budget=…)`
├── UnpricedModelError   a limit in dollars can't be kept, as a model has no known price
├── OutputTooLargeError  a step's output is over Inngest's limit
├── SandboxLostError     the sandbox of a run is not there any more
└── ContextConflictError parallel steps changed the same field of the user's context
```

Everything else that leaves a durable run is what `Runner.run` would have raised. Where a retry can never go better (a
tripwire, `MaxTurnsExceeded`, a step that failed for good), the error is at the same time an
`inngest.NonRetriableError`, so that the run fails once and not five times; `except MaxTurnsExceeded` still catches it.
Its `stats` say what the run has used.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

import inngest
from agents.exceptions import AgentsException
from openai import OpenAIError

from inngest_agents._inngest_sdk import ErrorCode

__all__ = ["ContextConflictError", "DivergenceError", "OutputTooLargeError", "SandboxLostError", "UnsupportedError"]

if TYPE_CHECKING:
    from collections.abc import Callable

    from inngest_agents.stats.stats import RunStats

_STATS: Final = "stats"
_LATER: Final = "__durable_stats__"
"""Where an error keeps what its `stats` are made of."""


class UnsupportedError(inngest.NonRetriableError):
    """Something was asked for that cannot be made durable; the message says what to do instead."""


class DivergenceError(inngest.NonRetriableError):
    """A replay asked for another step than the one that was remembered under the same id.

    The code, the agents or their input changed while the run was under way. Attributes: `step_id`, `expected` (what the
    memo was made for), `found` (what the replay asks for).
    """

    def __init__(self, step_id: str, expected: str, found: str) -> None:
        super().__init__(
            f"the replay of step {step_id!r} asks for {found}, but the step was run for {expected}. "
            "The code or the input of the run changed under way: deploy the old code until the run has ended, start "
            "the run anew, or pass DurableOptions(divergence='warn') to go on with what was remembered. If nothing was "
            "deployed, something in it is made anew by each request (the time, a random number, what a database "
            "answers): make that in a step, such as ctx.step.run('now', …)."
        )
        self.step_id = step_id
        self.expected = expected
        self.found = found


class OutputTooLargeError(inngest.NonRetriableError):
    """A step has run, but its output is larger than Inngest takes. It fails for good, as a retry would run it again.

    A tool's goes the way of all its failures: to its `failure_error_function`, which tells the model.
    """

    def __init__(self, step_id: str, size: int, limit: int) -> None:
        super().__init__(
            f"the output of step {step_id!r} is {size:,} bytes of JSON, and Inngest takes at most {limit:,}: store it "
            "elsewhere and return a reference to it, or less of it"
        )


class SandboxLostError(inngest.NonRetriableError):
    """The sandbox that earlier steps of a run have worked in is not there any more, and their work is lost with it."""

    def __init__(self, agent: str, backend: str) -> None:
        super().__init__(
            f"the sandbox of agent {agent!r} ({backend}) is not there any more, and with it what finished steps did in "
            "it: it was deleted, or it is on another machine. Let the function run where the sandbox can be reached, "
            "or take a sandbox client whose sandboxes all machines reach."
        )


class ContextConflictError(inngest.NonRetriableError):
    """Two steps that ran in parallel changed the same field of the user's context to different values."""


class StoredVersionError(ValueError):
    """A memo is of a newer version, or of other code. The engine retries: a worker of that version may get the run."""

    def __init__(self, found: int | None, known: int) -> None:
        super().__init__(
            f"a stored step has the schema version {found!r}, this inngest-agents knows {known}: the run was begun by "
            "a newer version or by other code; deploy that version until the run has ended"
        )


def qualified_name(error: BaseException) -> str:
    """The name under which an error is stored: bare for a builtin ("ValueError"), else with its module."""
    cls = getattr(type(error), "__durable_origin__", type(error))
    return cls.__name__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def is_memoized(error: BaseException) -> bool:
    """Whether an error came out of the memo of a failed step, so that a replay would only raise it again."""
    return bool(getattr(error, "__durable_memoized__", False))


def is_lasting(error: BaseException) -> bool:
    """Whether the next try of the function would come to the same end, as all steps that led to it are memoized.

    What the SDK itself raises is such, a TypeError (about a wrong argument), and OpenAI's plain error: where no step is
    around, only a client that has no key raises it.
    """
    return isinstance(error, (AgentsException, TypeError)) or type(error) is OpenAIError or is_memoized(error)


def ends_a_run(error: BaseException) -> bool:
    """Whether an error that leaves a run ends it, so that Inngest does not try the function again."""
    is_final = isinstance(error, inngest.NonRetriableError) or getattr(error, "is_retriable", True) is False
    return is_final or is_lasting(error)


def message_of(error: object) -> str:
    """The text of an error or another object, also where its own `__str__` fails."""
    text = text_of(error)
    return "<exception str() failed>" if text is None else text  # as tracebacks say


def text_of(error: object) -> str | None:
    """Its text; None where it has none."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001  a foreign __str__ may need attributes that only its __init__ sets
        return None


def non_retriable(error: Exception) -> Exception:
    """The same error, but such that Inngest does not retry the function; the original type still catches it.

    The object stays the same where its type allows it (every class written in Python does), so that its attributes,
    its traceback and what holds on to it are unharmed. Of a type that can have no subtypes (pydantic's
    `ValidationError`) it is the cause of an `inngest.StepError` of that name.
    """
    if isinstance(error, inngest.NonRetriableError) or getattr(error, "is_retriable", True) is False:
        return error
    try:
        cls = _as_non_retriable(cast("Any", type(error)))
    except TypeError:
        told = inngest.StepError(message_of(error), type(error).__name__, None)
        told.__cause__ = error
        return told.with_traceback(error.__traceback__)
    try:
        error.__class__ = cls
    except TypeError:  # a builtin such as ValueError has another memory layout
        twin = native_copy(cls, native_args(error))
        twin.args = error.args
        twin.__dict__.update(error.__dict__)
        twin.__cause__, twin.__context__ = error.__cause__, error.__context__
        twin.__suppress_context__ = error.__suppress_context__  # which a cause sets, even None
        return twin.with_traceback(error.__traceback__)
    return error


def native_args(error: BaseException) -> tuple[Any, ...]:
    """What its builtin base would be pickled with: its `args`, and the file's name, which is not among them."""
    reduced: Any = _native(type(error)).__reduce__(error)
    args: tuple[Any, ...] = reduced[1]
    return args


def native_copy(cls: type[Exception], args: tuple[Any, ...]) -> Exception:
    """An error of this type with what its builtin base makes of these arguments; no constructor of the user's runs."""
    error = cls.__new__(cls, *args)
    try:
        _native(cls).__init__(error, *args)
    except Exception:  # noqa: BLE001  a UnicodeDecodeError, say, of whose arguments nothing is known but what it showed
        cast("Any", BaseException.args).__set__(error, args)
    return error


def _native(cls: type[BaseException]) -> Any:
    """The nearest builtin class: what its constructor does is known."""
    return next(base for base in cls.__mro__ if base.__module__ == "builtins")


def with_stats(error: Exception, make_stats: Callable[[], RunStats]) -> Exception:
    """The error that ends a run, with `stats`: what the run has used so far, as there is no result to say it."""
    if _STATS in vars(type(error)):
        vars(error)[_LATER] = make_stats
    elif not hasattr(error, _STATS):
        vars(error)[_STATS] = make_stats()
    return error


class _StatsOfRun:
    """`error.stats`, made when it is asked for: a run that goes on past the error asks for none in each of its replays.

    An attribute of the error itself that is called so comes first.
    """

    def __get__(self, error: Exception | None, _: type[Exception]) -> Any:
        make_stats = None if error is None else vars(error).get(_LATER)
        if make_stats is None:
            raise AttributeError(_STATS)
        return vars(error).setdefault(_STATS, make_stats())


def raise_again(error: BaseException) -> NoReturn:
    """Raise an error that was raised here before, with the context that it has.

    Python makes what the caller handles its context once more, also where the SDK has taken that away so that nothing
    of the model's text is to be seen.
    """
    context = error.__context__
    try:
        raise error
    finally:
        error.__context__ = context


@functools.lru_cache(maxsize=None)
def _as_non_retriable(cls: type[Exception]) -> type[Exception]:
    return type(
        cls.__name__,
        (cls, inngest.NonRetriableError),
        {
            "__module__": cls.__module__,
            "__qualname__": cls.__qualname__,
            "__durable_origin__": getattr(cls, "__durable_origin__", cls),
            "is_retriable": False,
            **({} if hasattr(cls, _STATS) else {_STATS: _StatsOfRun()}),
            "quiet": False,
            # Inngest puts `code` into the answer; classes such as openai's APIError have a `code` of their own.
            "code": property(lambda _self: ErrorCode.NON_RETRIABLE_ERROR, lambda _self, _value: None),
            "message": property(str, lambda _self, _value: None),
        },
    )
