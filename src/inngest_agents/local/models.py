"""The records of the embedded engine: what the store hands out and what the executor works on.

All times are integers, nanoseconds since the Unix epoch (the unit of the protocol's `timing`).
JSON that the engine only passes on is kept as the text that came in (`*_json`), never parsed.
"""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass, field
from typing import Any

SECOND = 1_000_000_000
"""Nanoseconds in a second."""


class RunStatus(enum.StrEnum):
    """Where a run stands. The last three are final."""

    QUEUED = "Scheduled"
    RUNNING = "Running"
    COMPLETED = "Completed"
    FAILED = "Failed"
    CANCELLED = "Cancelled"

    @property
    def ended(self) -> bool:
        """Whether the run can never change again."""
        return self in _ENDED


_ENDED = frozenset({RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED})


class StepStatus(enum.StrEnum):
    """Where a step stands. The last three are final: the step has a memo."""

    PLANNED = "Planned"
    RETRYING = "Retrying"
    SLEEPING = "Sleeping"
    WAITING = "Waiting"
    INVOKING = "Invoking"
    COMPLETED = "Completed"
    FAILED = "Failed"
    TIMED_OUT = "TimedOut"


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a function."""

    id: str
    function_id: str
    event_id: str
    status: RunStatus
    events_json: str
    queued_ns: int
    started_ns: int | None
    ended_ns: int | None
    output_json: str | None
    error_json: str | None
    step_count: int
    state_size: int

    @property
    def output(self) -> Any:
        """What the function returned; None until it has, and where it failed."""
        return None if self.output_json is None else json.loads(self.output_json)

    @property
    def error(self) -> dict[str, Any] | None:
        """Name, message and stack of the error that ended the run, if one did."""
        return None if self.error_json is None else json.loads(self.error_json)

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events that started the run."""
        events: list[dict[str, Any]] = json.loads(self.events_json)
        return events


@dataclass(frozen=True, slots=True)
class StepAttempt:
    """One failed attempt at a step, or (with `step_id` None) at a request of the run."""

    step_id: str | None
    attempt: int
    request_id: str
    started_ns: int | None
    ended_ns: int
    error_json: str
    will_retry: bool

    @property
    def error(self) -> dict[str, Any]:
        """Name, message and stack of the error."""
        error: dict[str, Any] = json.loads(self.error_json)
        return error


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a run, with the failed attempts before its result."""

    run_id: str
    id: str
    op: str
    name: str
    status: StepStatus
    position: int | None
    """Place in the order in which the steps were memoized; None while there is no memo."""
    memo_json: str | None
    opts_json: str | None
    userland_json: str | None
    metadata_json: str | None
    created_ns: int
    started_ns: int | None
    ended_ns: int | None
    request_id: str | None
    """The Call Request that ran the step (see `Request`)."""
    checkpointed: bool
    attempts: tuple[StepAttempt, ...] = ()

    @property
    def memo(self) -> Any:
        """What a replay gets: `{"data": …}`, `{"error": …}`, an event, or None."""
        return None if self.memo_json is None else json.loads(self.memo_json)

    @property
    def data(self) -> Any:
        """The result of the step; None if there is none."""
        memo = self.memo
        return memo["data"] if isinstance(memo, dict) and set(memo) == {"data"} else None

    @property
    def error(self) -> dict[str, Any] | None:
        """The final error of the step, if it failed."""
        memo = self.memo
        return memo["error"] if isinstance(memo, dict) and set(memo) == {"error"} else None

    @property
    def metadata(self) -> list[dict[str, Any]]:
        """The metadata entries that the worker sent with the step (tokens, cost, …)."""
        return [] if self.metadata_json is None else json.loads(self.metadata_json)

    @property
    def opts(self) -> dict[str, Any]:
        """The options of the step's opcode."""
        return {} if self.opts_json is None else json.loads(self.opts_json)


@dataclass(frozen=True, slots=True)
class Request:
    """One Call Request to the app."""

    id: str
    run_id: str
    step_id: str | None
    """The step it was targeted at; None for a request that discovers."""
    attempt: int
    generation: int
    engine: str
    """The engine process that sent it."""
    started_ns: int
    ended_ns: int | None
    status_code: int | None
    outcome: str | None
    """What came of it: `ops`, `result`, `error`, `dropped`; None while it runs or if its engine died."""


@dataclass(frozen=True, slots=True)
class Function:
    """A registered function."""

    id: str
    app_id: str
    name: str
    url: str
    max_attempts: int
    triggers: tuple[tuple[str, str | None], ...]
    """Event name (may end in `*`) and expression."""
    cancels: tuple[tuple[str, str | None, str | None], ...] = ()
    """Event name, expression, timeout."""
    concurrency: tuple[tuple[int, str | None], ...] = ()
    """Limit on steps at once, and the expression of the key it is counted by."""
    idempotency: str | None = None


class JobKind(enum.StrEnum):
    """What is to be done when a job falls due."""

    CALL = "call"
    """Send a Call Request."""
    SLEEP = "sleep"
    """A sleep is over: memoize it, then go on as a call."""
    TIMEOUT = "timeout"
    """A wait or an invocation ran out of time."""


@dataclass(frozen=True, slots=True)
class Job:
    """A claimed job: this process owns it until it is finished, requeued or its lease runs out."""

    id: int
    run_id: str
    key: str
    kind: JobKind
    step_id: str | None
    outgoing: str | None
    """The step after which the job was queued: the SDK's stack pointer."""
    attempt: int
    max_attempts: int
    generation: int
    coalesce_key: str | None
    race: bool


@dataclass(frozen=True, slots=True)
class Wait:
    """A run that waits for an event: to resume a step, or to be cancelled."""

    id: int
    run_id: str
    step_id: str | None
    kind: str
    """`event`, `invoke` or `cancel`."""
    expression: str | None
    coalesce_key: str | None
    race: bool
    max_attempts: int


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to be queued. A run has at most one job per key, ever: queueing it again does nothing."""

    key: str
    kind: JobKind = JobKind.CALL
    step_id: str | None = None
    outgoing: str | None = None
    due_ns: int = 0
    max_attempts: int = 5
    coalesce_key: str | None = None
    race: bool = False


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What is stored of a step when it is memoized or reported."""

    id: str
    op: str
    name: str
    status: StepStatus
    memo_json: str | None = None
    opts_json: str | None = None
    userland_json: str | None = None
    metadata_json: str | None = None
    started_ns: int | None = None
    ended_ns: int | None = None
    request_id: str | None = None
    checkpointed: bool = False


@dataclass(slots=True)
class RunState:
    """What a Call Request needs to know about a run."""

    run: Run
    force_step_plan: bool
    request_version: int
    memos: list[tuple[str, str]] = field(default_factory=list)
    """Step id and memo as JSON text, in the order of the stack."""
