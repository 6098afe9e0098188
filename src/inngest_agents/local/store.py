"""The state of the embedded engine in one SQLite file.

Durability: the file is in WAL mode with `synchronous=NORMAL`. A transaction that was committed survives the
death of the process (SIGKILL included); after a power cut or a crash of the operating system the last
few may be gone, but the file is never corrupt. `synchronous="FULL"` closes that gap and costs an fsync
per saved step.

Several engine processes may share one file. A job is claimed by one of them in one transaction, and every
write of its outcome first checks that it is still owned (`owns`), so that no step runs twice because
of them. An engine writes a heartbeat; one whose heartbeat stops for `LEASE_SECONDS`, or whose process is
gone from this machine, loses its jobs to the others, under a new generation number.

The writing methods belong inside `with store.transaction():`, so that whatever one answer of the app changes
is saved together or not at all. Times are nanoseconds since the epoch.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sqlite3
import time
from typing import TYPE_CHECKING, Literal

from .models import (
    SECOND,
    Function,
    Job,
    JobKind,
    NewJob,
    Request,
    RunState,
    RunStatus,
    StepAttempt,
    StepRecord,
    StepStatus,
    Wait,
)
from .reading import StoreReader
from .schema import JOB, RUN, SCHEMA, SCHEMA_VERSION, WAIT, to_job, to_run, to_wait

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

LEASE_SECONDS = 10.0
"""An engine that writes no heartbeat for so long is taken for dead."""

_live_engines: set[str] = set()
"""Engines of this process that run; a row of this process that is not among them was left by a crash."""


class StoreVersionError(RuntimeError):
    """The file was written by a version of this package with other tables."""


class Store(StoreReader):
    """One connection to the state file, for reading and writing.

    Args:
        path: the SQLite file; created with its tables if it is not there.
        synchronous: SQLite's durability, see the module's docstring.

    Raises:
        StoreVersionError: the file has other tables than this version knows.
    """

    def __init__(self, path: str | Path, *, synchronous: Literal["NORMAL", "FULL"] = "NORMAL") -> None:
        super().__init__(path)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute(f"PRAGMA synchronous = {synchronous}")
        # The log is moved into the file by `tidy`, on a thread; doing it inside a commit stalls a save for 10 ms.
        self._db.execute("PRAGMA wal_autocheckpoint = 20000")
        with self.transaction():
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version not in (0, SCHEMA_VERSION):
                raise StoreVersionError(
                    f"{self.path} has schema version {version}, this package writes {SCHEMA_VERSION}; use another file"
                )
            for statement in SCHEMA.split(";\n"):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def tidy(self) -> None:
        """Move the write-ahead log into the file. Slow (it waits for the disk), and safe on any thread."""
        # A connection of its own: on ours it would hold the lock that every save needs. If it fails, the next may do.
        with (
            contextlib.suppress(sqlite3.Error),
            contextlib.closing(sqlite3.connect(self.path, timeout=0)) as db,
        ):
            db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside is saved together, or not at all if it raises."""
        with self._lock:
            # IMMEDIATE takes the write lock now: no read that a later write rests on can go stale in between.
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _do(self, sql: str, *args: object) -> int:
        with self._lock:
            return self._db.execute(sql, args).rowcount

    # Engines: who is alive -------------------------------------------------------------------------

    def join(self, engine: str) -> None:
        """Announce an engine of this process, which may then claim jobs."""
        _live_engines.add(engine)
        self._do(
            "INSERT OR REPLACE INTO engines VALUES (?, ?, ?, ?)",
            engine,
            os.getpid(),
            socket.gethostname(),
            time.time_ns(),
        )

    def leave(self, engine: str, *, crashed: bool = False) -> None:
        """Take an engine off the list and give its jobs back; if `crashed`, as if its process had died."""
        _live_engines.discard(engine)
        if not crashed:
            with self.transaction():
                self._release([engine])

    def heartbeat(self, engine: str) -> bool:
        """Tell the others that the engine lives. False if they took it for dead and took its jobs."""
        return self._do("UPDATE engines SET heartbeat_ns = ? WHERE id = ?", time.time_ns(), engine) == 1

    def bury(self) -> int:
        """Give back the jobs of engines that died; returns how many engines that were."""
        dead = [row[0] for row in self._all("SELECT id, pid, host, heartbeat_ns FROM engines") if _is_dead(*row)]
        if dead:
            with self.transaction():
                self._release(dead)
        return len(dead)

    def _release(self, engines: Sequence[str]) -> None:
        for engine in engines:
            self._do("UPDATE jobs SET owner = NULL, generation = generation + 1 WHERE owner = ? AND done = 0", engine)
            self._do("DELETE FROM engines WHERE id = ?", engine)

    # Functions -----------------------------------------------------------------------------------------

    def register(self, app_id: str, functions: Sequence[Function]) -> bool:
        """Replace the functions of an app; returns whether anything changed."""
        before = {f for f in self.functions() if f.app_id == app_id}
        self._do("DELETE FROM functions WHERE app_id = ?", app_id)
        for function in functions:
            self._do(
                "INSERT OR REPLACE INTO functions VALUES (?, ?, ?)",
                function.id,
                app_id,
                json.dumps(
                    [
                        function.name,
                        function.url,
                        function.max_attempts,
                        function.triggers,
                        function.cancels,
                        function.concurrency,
                        function.idempotency,
                    ]
                ),
            )
        return before != set(functions)

    # Events and runs -----------------------------------------------------------------------------------

    def add_event(self, event_id: str, name: str, body_json: str, now: int) -> None:
        """Keep an event."""
        self._do("INSERT INTO events VALUES (?, ?, ?, ?)", event_id, name, body_json, now)

    def claim_idempotency(self, function_id: str, key: str, now: int, ttl: int) -> bool:
        """Whether no run of the function has had this key in the last `ttl` nanoseconds; it then has it now."""
        self._do("DELETE FROM idempotency WHERE expires_ns <= ?", now)
        return self._do("INSERT OR IGNORE INTO idempotency VALUES (?, ?, ?)", function_id, key, now + ttl) == 1

    def add_run(
        self, run_id: str, function_id: str, event_id: str, events_json: str, concurrency: Sequence[str], now: int
    ) -> None:
        """Add a run that waits for its first request."""
        self._do(
            "INSERT INTO runs (id, function_id, event_id, status, events, queued_ns, concurrency)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            run_id,
            function_id,
            event_id,
            RunStatus.QUEUED,
            events_json,
            now,
            json.dumps(concurrency),
        )

    def start_run(self, run_id: str, now: int) -> None:
        """Note the first request of a run."""
        self._do(
            "UPDATE runs SET status = ?, started_ns = ? WHERE id = ? AND status = ?",
            RunStatus.RUNNING,
            now,
            run_id,
            RunStatus.QUEUED,
        )

    def end_run(
        self, run_id: str, status: RunStatus, now: int, *, output: str | None = None, error: str | None = None
    ) -> bool:
        """End a run and drop what was still to be done for it. False if it had ended before."""
        ended = self._do(
            "UPDATE runs SET status = ?, ended_ns = ?, output = ?, error = ? WHERE id = ? AND ended_ns IS NULL",
            status,
            now,
            output,
            error,
            run_id,
        )
        self._do("UPDATE jobs SET done = 1, owner = NULL WHERE run_id = ? AND done = 0", run_id)
        self._do("DELETE FROM waits WHERE run_id = ?", run_id)
        self._do("DELETE FROM pending WHERE run_id = ?", run_id)
        return ended == 1

    def set_protocol(self, run_id: str, *, force_step_plan: bool, request_version: int) -> None:
        """Note what later requests of the run must say about planning and the protocol version."""
        self._do(
            "UPDATE runs SET force_step_plan = ?, request_version = ? WHERE id = ?",
            force_step_plan,
            request_version,
            run_id,
        )

    def protocol(self, run_id: str) -> tuple[bool, int] | None:
        """Whether later requests of the run must plan, and the protocol version; None for an unknown run."""
        row = self._one("SELECT force_step_plan, request_version FROM runs WHERE id = ?", run_id)
        return None if row is None else (bool(row[0]), row[1])

    def state(self, run_id: str) -> RunState | None:
        """The run as its next request needs it, memos included."""
        row = self._one(f"SELECT {RUN}, force_step_plan, request_version FROM runs WHERE id = ?", run_id)  # noqa: S608
        if row is None:
            return None
        memos = self._all(
            "SELECT id, memo FROM steps WHERE run_id = ? AND position IS NOT NULL ORDER BY position", run_id
        )
        return RunState(to_run(row[:12]), bool(row[12]), row[13], memos)

    # Steps -------------------------------------------------------------------------------------------------

    def save_step(self, run_id: str, step: StepRecord, now: int) -> bool:
        """Memoize a step. False if it was memoized before: the first memo stays."""
        assert step.memo_json is not None
        saved = self._db.execute(
            "INSERT INTO steps (run_id, id, op, name, status, position, memo, opts, userland, metadata, created_ns,"
            " started_ns, ended_ns, request_id, checkpointed)"
            " VALUES (?, ?, ?, ?, ?, (SELECT step_count FROM runs WHERE id = ?), ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (run_id, id) DO UPDATE SET status = excluded.status, position = excluded.position,"
            " memo = excluded.memo, op = excluded.op, opts = coalesce(excluded.opts, opts),"
            " userland = coalesce(excluded.userland, userland), metadata = excluded.metadata,"
            " started_ns = coalesce(excluded.started_ns, started_ns), ended_ns = excluded.ended_ns,"
            " request_id = coalesce(excluded.request_id, request_id), checkpointed = excluded.checkpointed"
            " WHERE memo IS NULL",
            (
                run_id,
                step.id,
                step.op,
                step.name,
                step.status,
                run_id,
                step.memo_json,
                step.opts_json,
                step.userland_json,
                step.metadata_json,
                now,
                step.started_ns,
                step.ended_ns,
                step.request_id,
                step.checkpointed,
            ),
        ).rowcount
        if saved:
            self._db.execute(
                "UPDATE runs SET step_count = step_count + 1, state_size = state_size + ? WHERE id = ?",
                (len(step.memo_json), run_id),
            )
            self._db.execute("DELETE FROM pending WHERE run_id = ? AND step_id = ?", (run_id, step.id))
        return saved == 1

    def report_step(self, run_id: str, step: StepRecord, now: int) -> None:
        """Note a step that has no memo yet: planned, asleep, waiting, to be retried."""
        self._do(
            "INSERT INTO steps (run_id, id, op, name, status, opts, userland, metadata, created_ns, started_ns,"
            " request_id)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (run_id, id) DO UPDATE SET status = excluded.status,"
            " started_ns = coalesce(excluded.started_ns, started_ns) WHERE memo IS NULL",
            run_id,
            step.id,
            step.op,
            step.name,
            step.status,
            step.opts_json,
            step.userland_json,
            step.metadata_json,
            now,
            step.started_ns,
            step.request_id,
        )

    def resolve_step(self, run_id: str, step_id: str, status: StepStatus, memo_json: str, now: int) -> bool:
        """Memoize a step that was reported before. False if it was memoized already, or is unknown."""
        row = self._one("SELECT op, name, created_ns FROM steps WHERE run_id = ? AND id = ?", run_id, step_id)
        if row is None:
            return False
        record = StepRecord(step_id, row[0], row[1], status, memo_json, started_ns=row[2], ended_ns=now)
        return self.save_step(run_id, record, now)

    def add_attempt(self, run_id: str, attempt: StepAttempt) -> None:
        """Note a failed attempt."""
        self._do(
            "INSERT INTO attempts VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            run_id,
            attempt.step_id,
            attempt.attempt,
            attempt.request_id,
            attempt.started_ns,
            attempt.ended_ns,
            attempt.error_json,
            attempt.will_retry,
        )

    def add_pending(self, run_id: str, step_ids: Sequence[str]) -> None:
        """Note the steps of a parallel plan, all of which must end before the run goes on.

        One that has ended already (a sleep that was over while the request which repeats it was open) ends no more.
        """
        for step_id in step_ids:
            self._do(
                "INSERT OR IGNORE INTO pending SELECT ?1, ?2 WHERE NOT EXISTS"
                " (SELECT 1 FROM steps WHERE run_id = ?1 AND id = ?2 AND memo IS NOT NULL)",
                run_id,
                step_id,
            )

    def has_pending(self, run_id: str) -> bool:
        """Whether a parallel plan of the run has steps that have not ended."""
        return self._one("SELECT 1 FROM pending WHERE run_id = ? LIMIT 1", run_id) is not None

    def dispatch_of(self, run_id: str, job_id: int | None) -> tuple[bool, int, int | None, int]:
        """What a checkpoint must know: whether the run is live, its state size in characters, and the generation (and
        stored attempt) of the job if it is claimed. None otherwise: its request was answered, or is still to be sent.
        """
        row = self._one(
            "SELECT runs.ended_ns IS NULL, state_size, generation, coalesce(attempt, 0) FROM runs LEFT JOIN jobs"
            " ON jobs.id = ? AND jobs.run_id = runs.id AND jobs.done = 0 AND owner IS NOT NULL WHERE runs.id = ?",
            job_id,
            run_id,
        )
        return (False, 0, None, 0) if row is None else (bool(row[0]), row[1], row[2], row[3])

    # Jobs ----------------------------------------------------------------------------------------------------

    def add_job(self, run_id: str, job: NewJob) -> bool:
        """Queue a job. False if the run has had a job with this key."""
        return (
            self._do(
                "INSERT OR IGNORE INTO jobs (run_id, key, kind, step_id, outgoing, due_ns, max_attempts, coalesce_key,"
                " race) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                run_id,
                job.key,
                job.kind,
                job.step_id,
                job.outgoing,
                job.due_ns,
                job.max_attempts,
                job.coalesce_key,
                job.race,
            )
            == 1
        )

    def next_due(self) -> int | None:
        """When the earliest unclaimed job falls due; None if there is none."""
        due: int | None = self._one("SELECT min(due_ns) FROM jobs WHERE done = 0 AND owner IS NULL")[0]
        return due

    def next_timer(self, now: int) -> int | None:
        """When the earliest unclaimed job after `now` falls due; None if there is none."""
        due: int | None = self._one(
            "SELECT min(due_ns) FROM jobs WHERE done = 0 AND owner IS NULL AND due_ns > ?", now
        )[0]
        return due

    def is_idle(self, now: int) -> bool:
        """Whether no job is claimed and none is due."""
        row = self._one("SELECT 1 FROM jobs WHERE done = 0 AND (owner IS NOT NULL OR due_ns <= ?) LIMIT 1", now)
        return row is None

    def claim(self, engine: str, now: int) -> list[Job]:
        """Take the jobs that are due, as far as the functions' concurrency limits allow."""
        claimed: list[Job] = []
        full: set[tuple[str, str]] = set()
        with self.transaction():
            due = self._all(
                "SELECT jobs.id, kind, function_id, concurrency FROM jobs JOIN runs ON runs.id = run_id"
                " WHERE done = 0 AND owner IS NULL AND due_ns <= ? ORDER BY due_ns, jobs.id",
                now,
            )
            for job_id, kind, function_id, concurrency in due:
                group = (function_id, concurrency)
                limited = kind != JobKind.TIMEOUT and concurrency != "[]"
                if limited and (group in full or self._is_full(*group)):
                    full.add(group)
                    continue
                row = self._one(f"UPDATE jobs SET owner = ? WHERE id = ? RETURNING {JOB}", engine, job_id)  # noqa: S608
                claimed.append(to_job(row))
        return claimed

    def _is_full(self, function_id: str, concurrency: str) -> bool:
        """Whether as many steps run as one of the function's limits allows for the run's key."""
        function = self.function(function_id)
        if function is None:
            return False
        running = self._all(
            "SELECT concurrency FROM jobs JOIN runs ON runs.id = run_id"
            " WHERE owner IS NOT NULL AND done = 0 AND kind != ? AND function_id = ?",
            JobKind.TIMEOUT,
            function_id,
        )
        others = [json.loads(row[0]) for row in running]
        limits = zip(function.concurrency, json.loads(concurrency), strict=False)
        return any(
            sum(1 for keys in others if keys[n : n + 1] == [key]) >= limit for n, ((limit, _), key) in enumerate(limits)
        )

    def owns(self, engine: str, job: Job) -> bool:
        """Whether the job is still this engine's: not taken over, and its run not ended."""
        row = self._one("SELECT owner, generation FROM jobs WHERE id = ? AND done = 0", job.id)
        return bool(row == (engine, job.generation))

    def finish_job(self, job_id: int) -> None:
        """Mark a job as done; its key stays taken."""
        self._do("UPDATE jobs SET done = 1, owner = NULL WHERE id = ?", job_id)

    def requeue_job(self, job_id: int, attempt: int, due_ns: int) -> None:
        """Give a job back, to be done again at `due_ns` as attempt number `attempt`."""
        self._do(
            "UPDATE jobs SET owner = NULL, generation = generation + 1, attempt = ?, due_ns = ? WHERE id = ?",
            attempt,
            due_ns,
            job_id,
        )

    def reset_attempts(self, job_id: int) -> None:
        """Set a claimed job's stored attempt to 0 (a checkpoint does; see `server`)."""
        self._db.execute("UPDATE jobs SET attempt = 0 WHERE id = ?", (job_id,))

    def drop_job(self, run_id: str, key: str) -> None:
        """Mark a job that has become needless as done."""
        self._do("UPDATE jobs SET done = 1, owner = NULL WHERE run_id = ? AND key = ?", run_id, key)

    # Requests --------------------------------------------------------------------------------------------------

    def add_request(self, request: Request) -> None:
        """Note a request that is about to be sent."""
        self._do(
            "INSERT INTO requests VALUES (?, ?, ?, ?, ?, ?, ?, NULL, NULL, NULL)",
            request.id,
            request.run_id,
            request.step_id,
            request.attempt,
            request.generation,
            request.engine,
            request.started_ns,
        )

    def end_request(self, request_id: str, now: int, status_code: int | None, outcome: str) -> None:
        """Note what came of a request."""
        self._do(
            "UPDATE requests SET ended_ns = ?, status_code = ?, outcome = ? WHERE id = ?",
            now,
            status_code,
            outcome,
            request_id,
        )

    # Waits -----------------------------------------------------------------------------------------------------

    def add_wait(
        self,
        run_id: str,
        *,
        kind: str,
        event_name: str,
        expires_ns: int,
        step_id: str | None = None,
        expression: str | None = None,
        correlation_id: str | None = None,
        trigger_event_id: str | None = None,
        coalesce_key: str | None = None,
        race: bool = False,
        max_attempts: int = 5,
    ) -> None:
        """Let a run wait for an event. Waiting again for the same step does nothing."""
        self._do(
            "INSERT OR IGNORE INTO waits (run_id, step_id, kind, event_name, expression, correlation_id,"
            " trigger_event_id, expires_ns, coalesce_key, race, max_attempts) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            run_id,
            step_id,
            kind,
            event_name,
            expression,
            correlation_id,
            trigger_event_id,
            expires_ns,
            coalesce_key,
            race,
            max_attempts,
        )

    def waits(self, event_name: str, event_id: str, now: int) -> list[Wait]:
        """Who waits for an event of this name, the run that it started itself left out."""
        rows = self._all(
            f"SELECT {WAIT} FROM waits"  # noqa: S608
            " WHERE event_name = ? AND expires_ns > ? AND trigger_event_id IS NOT ? AND correlation_id IS NULL",
            event_name,
            now,
            event_id,
        )
        return [to_wait(row) for row in rows]

    def invoker(self, correlation_id: str) -> Wait | None:
        """The invocation with this correlation id (`run id.step id`), if it still waits."""
        run_id, _, step_id = correlation_id.partition(".")
        return self.wait_of(run_id, step_id)

    def wait_of(self, run_id: str, step_id: str) -> Wait | None:
        """The wait of a step, if it still waits."""
        row = self._one(
            f"SELECT {WAIT} FROM waits WHERE run_id = ? AND step_id = ?",  # noqa: S608
            run_id,
            step_id,
        )
        return None if row is None else to_wait(row)

    def end_wait(self, wait_id: int) -> None:
        """Wait no longer."""
        self._do("DELETE FROM waits WHERE id = ?", wait_id)


def _is_dead(engine: str, pid: int, host: str, heartbeat_ns: int) -> bool:
    if time.time_ns() - heartbeat_ns > LEASE_SECONDS * SECOND:
        return True
    if host != socket.gethostname():
        return False
    if pid == os.getpid():
        return engine not in _live_engines
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False  # alive, but not ours
    return False
