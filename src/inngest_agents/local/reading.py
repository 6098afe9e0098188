"""Reading the state file: for the console, the command line, reports and tests."""

from __future__ import annotations

import sqlite3
import threading
from typing import TYPE_CHECKING, Any

from .models import Function, Request, Run, RunStatus, Step, StepAttempt
from .schema import ATTEMPT, RUN, STEP, to_attempt, to_function, to_run, to_step

if TYPE_CHECKING:
    from pathlib import Path


class StoreReader:
    """What is in a state file. All methods may be called from any thread.

    Args:
        path: the SQLite file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        # One connection for all threads of the process: the executor's event loop writes, users' threads read.
        self._lock = threading.RLock()
        self._db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=10)

    def close(self) -> None:
        """Close the connection. The object can't be used afterwards."""
        with self._lock:
            self._db.close()

    def _all(self, sql: str, *args: object) -> list[Any]:
        with self._lock:
            return self._db.execute(sql, args).fetchall()

    def _one(self, sql: str, *args: object) -> Any:
        with self._lock:
            return self._db.execute(sql, args).fetchone()

    def functions(self) -> list[Function]:
        """All registered functions."""
        return [to_function(*row) for row in self._all("SELECT id, app_id, record FROM functions ORDER BY id")]

    def function(self, function_id: str) -> Function | None:
        """One function by its full id (`app-function`)."""
        row = self._one("SELECT id, app_id, record FROM functions WHERE id = ?", function_id)
        return None if row is None else to_function(*row)

    def runs(self, *, limit: int = 50, status: RunStatus | None = None, function_id: str | None = None) -> list[Run]:
        """Runs, the newest first.

        Args:
            limit: at most so many.
            status: only those that stand so.
            function_id: only those of this function (full id).
        """
        rows = self._all(
            f"SELECT {RUN} FROM runs WHERE (?1 IS NULL OR status = ?1) AND (?2 IS NULL OR function_id = ?2)"  # noqa: S608
            " ORDER BY id DESC LIMIT ?3",
            status,
            function_id,
            limit,
        )
        return [to_run(row) for row in rows]

    def run(self, run_id: str) -> Run | None:
        """One run; None if there is none with this id."""
        row = self._one(f"SELECT {RUN} FROM runs WHERE id = ?", run_id)  # noqa: S608
        return None if row is None else to_run(row)

    def find_runs(self, prefix: str) -> list[Run]:
        """Runs whose id starts so, or ends so: what a person types."""
        rows = self._all(
            f"SELECT {RUN} FROM runs WHERE substr(id, 1, length(?1)) = ?1 OR substr(id, -length(?1)) = ?1"  # noqa: S608
            " ORDER BY id DESC LIMIT 20",
            prefix.upper(),
        )
        return [to_run(row) for row in rows]

    def event_runs(self, event_id: str) -> list[Run]:
        """The runs that an event started, in the order in which they were queued."""
        return [to_run(r) for r in self._all(f"SELECT {RUN} FROM runs WHERE event_id = ? ORDER BY id", event_id)]  # noqa: S608

    def event_exists(self, event_id: str) -> bool:
        """Whether the event was received."""
        return self._one("SELECT 1 FROM events WHERE id = ?", event_id) is not None

    def steps(self, run_id: str) -> list[Step]:
        """The steps of a run: memoized ones in their order, then those under way; failed attempts included."""
        failed: dict[str | None, list[StepAttempt]] = {}
        for attempt in self.attempts(run_id):
            failed.setdefault(attempt.step_id, []).append(attempt)
        rows = self._all(
            f"SELECT {STEP} FROM steps WHERE run_id = ? ORDER BY position IS NULL, position, rowid",  # noqa: S608
            run_id,
        )
        return [to_step(row, failed.get(row[1], [])) for row in rows]

    def attempts(self, run_id: str) -> list[StepAttempt]:
        """All failed attempts of a run, of its steps and (with `step_id` None) of its requests, in order."""
        rows = self._all(f"SELECT {ATTEMPT} FROM attempts WHERE run_id = ? ORDER BY rowid", run_id)  # noqa: S608
        return [to_attempt(row) for row in rows]

    def requests(self, run_id: str) -> list[Request]:
        """The Call Requests of a run, in order."""
        rows = self._all(
            "SELECT id, run_id, step_id, attempt, generation, engine, started_ns, ended_ns, status_code, outcome"
            " FROM requests WHERE run_id = ? ORDER BY started_ns, id",
            run_id,
        )
        return [Request(*row) for row in rows]
