"""The tables of the state file, and how their rows become records."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from .models import Function, Job, JobKind, Run, RunStatus, Step, StepAttempt, StepStatus, Wait

if TYPE_CHECKING:
    from collections.abc import Sequence

SCHEMA_VERSION: Final = 1
"""Raised when the tables change; a file of another version is refused."""

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS engines (
  id TEXT PRIMARY KEY, pid INTEGER NOT NULL, host TEXT NOT NULL, heartbeat_ns INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS functions (
  id TEXT PRIMARY KEY, app_id TEXT NOT NULL, record TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS events (
  id TEXT PRIMARY KEY, name TEXT NOT NULL, body TEXT NOT NULL, received_ns INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS runs (
  id TEXT PRIMARY KEY, function_id TEXT NOT NULL, event_id TEXT NOT NULL, status TEXT NOT NULL,
  events TEXT NOT NULL, queued_ns INTEGER NOT NULL, started_ns INTEGER, ended_ns INTEGER,
  output TEXT, error TEXT, step_count INTEGER NOT NULL DEFAULT 0, state_size INTEGER NOT NULL DEFAULT 0,
  force_step_plan INTEGER NOT NULL DEFAULT 0, request_version INTEGER NOT NULL DEFAULT -1,
  concurrency TEXT NOT NULL DEFAULT '[]'
);
CREATE INDEX IF NOT EXISTS runs_by_event ON runs (event_id);
CREATE TABLE IF NOT EXISTS idempotency (
  function_id TEXT NOT NULL, key TEXT NOT NULL, expires_ns INTEGER NOT NULL, PRIMARY KEY (function_id, key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS steps (
  run_id TEXT NOT NULL, id TEXT NOT NULL, op TEXT NOT NULL, name TEXT NOT NULL, status TEXT NOT NULL,
  position INTEGER, memo TEXT, opts TEXT, userland TEXT, metadata TEXT, created_ns INTEGER NOT NULL,
  started_ns INTEGER, ended_ns INTEGER, request_id TEXT, checkpointed INTEGER NOT NULL DEFAULT 0,
  UNIQUE (run_id, id)
);
CREATE TABLE IF NOT EXISTS attempts (
  run_id TEXT NOT NULL, step_id TEXT, attempt INTEGER NOT NULL, request_id TEXT NOT NULL, started_ns INTEGER,
  ended_ns INTEGER NOT NULL, error TEXT NOT NULL, will_retry INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS attempts_by_run ON attempts (run_id);
CREATE TABLE IF NOT EXISTS requests (
  id TEXT PRIMARY KEY, run_id TEXT NOT NULL, step_id TEXT, attempt INTEGER NOT NULL, generation INTEGER NOT NULL,
  engine TEXT NOT NULL, started_ns INTEGER NOT NULL, ended_ns INTEGER, status_code INTEGER, outcome TEXT
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS requests_by_run ON requests (run_id);
CREATE TABLE IF NOT EXISTS pending (
  run_id TEXT NOT NULL, step_id TEXT NOT NULL, PRIMARY KEY (run_id, step_id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS jobs (
  id INTEGER PRIMARY KEY, run_id TEXT NOT NULL, key TEXT NOT NULL, kind TEXT NOT NULL, step_id TEXT, outgoing TEXT,
  due_ns INTEGER NOT NULL, attempt INTEGER NOT NULL DEFAULT 0, max_attempts INTEGER NOT NULL,
  generation INTEGER NOT NULL DEFAULT 1, owner TEXT, done INTEGER NOT NULL DEFAULT 0,
  coalesce_key TEXT, race INTEGER NOT NULL DEFAULT 0, UNIQUE (run_id, key)
);
CREATE INDEX IF NOT EXISTS jobs_due ON jobs (due_ns) WHERE done = 0 AND owner IS NULL;
CREATE INDEX IF NOT EXISTS jobs_owned ON jobs (owner) WHERE done = 0 AND owner IS NOT NULL;
CREATE TABLE IF NOT EXISTS waits (
  id INTEGER PRIMARY KEY, run_id TEXT NOT NULL, step_id TEXT, kind TEXT NOT NULL, event_name TEXT NOT NULL,
  expression TEXT, correlation_id TEXT, trigger_event_id TEXT, expires_ns INTEGER NOT NULL,
  coalesce_key TEXT, race INTEGER NOT NULL, max_attempts INTEGER NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS waits_by_step ON waits (run_id, step_id) WHERE step_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS waits_by_event ON waits (event_name);
CREATE INDEX IF NOT EXISTS waits_by_run ON waits (run_id);
"""

# The columns that each record is made of.
RUN: Final = (
    "id, function_id, event_id, status, events, queued_ns, started_ns, ended_ns, output, error, step_count, state_size"
)
STEP: Final = (
    "run_id, id, op, name, status, position, memo, opts, userland, metadata, created_ns, started_ns, ended_ns, "
    "request_id, checkpointed"
)
JOB: Final = "id, run_id, key, kind, step_id, outgoing, attempt, max_attempts, generation, coalesce_key, race"
ATTEMPT: Final = "step_id, attempt, request_id, started_ns, ended_ns, error, will_retry"
WAIT: Final = "id, run_id, step_id, kind, expression, coalesce_key, race, max_attempts"


def to_function(function_id: str, app_id: str, record: str) -> Function:
    """A registered function."""
    name, url, max_attempts, triggers, cancels, concurrency, idempotency = json.loads(record)
    return Function(
        function_id,
        app_id,
        name,
        url,
        max_attempts,
        tuple((event, expression) for event, expression in triggers),
        tuple((event, expression, timeout) for event, expression, timeout in cancels),
        tuple((limit, key) for limit, key in concurrency),
        idempotency,
    )


def _fields(names: str, row: Sequence[Any]) -> dict[str, Any]:
    """A row by the names of its columns."""
    return dict(zip(names.split(", "), row, strict=True))


def to_run(row: Sequence[Any]) -> Run:
    """A run, of the columns `RUN`."""
    fields = _fields(RUN, row)
    json_texts = {f"{name}_json": fields.pop(name) for name in ("events", "output", "error")}
    return Run(status=RunStatus(fields.pop("status")), **fields, **json_texts)


def to_step(row: Sequence[Any], attempts: Sequence[StepAttempt]) -> Step:
    """A step, of the columns `STEP`, with its failed attempts."""
    fields = _fields(STEP, row)
    json_texts = {f"{name}_json": fields.pop(name) for name in ("memo", "opts", "userland", "metadata")}
    status, checkpointed = StepStatus(fields.pop("status")), bool(fields.pop("checkpointed"))
    return Step(status=status, checkpointed=checkpointed, attempts=tuple(attempts), **fields, **json_texts)


def to_attempt(row: Sequence[Any]) -> StepAttempt:
    """A failed attempt, of the columns `ATTEMPT`."""
    fields = _fields(ATTEMPT, row)
    return StepAttempt(error_json=fields.pop("error"), will_retry=bool(fields.pop("will_retry")), **fields)


def to_job(row: Sequence[Any]) -> Job:
    """A job, of the columns `JOB`."""
    fields = _fields(JOB, row)
    return Job(kind=JobKind(fields.pop("kind")), race=bool(fields.pop("race")), **fields)


def to_wait(row: Sequence[Any]) -> Wait:
    """A wait, of the columns `WAIT`."""
    fields = _fields(WAIT, row)
    return Wait(race=bool(fields.pop("race")), **fields)
