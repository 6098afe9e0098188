"""The log of what really ran: one row for each time that a tool's body or a model was called, in whatever process.

A row is committed before the work begins and completed after it, so a call that was cut off by a kill stays behind
as one that never finished. Steps answered from their memo leave no row: that is what the demo proves with it.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from inngest_agents.scope import current_step, idempotency_key

_SCHEMA = """
CREATE TABLE IF NOT EXISTS executions (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,         -- "model" or "tool"
    name TEXT NOT NULL,
    step TEXT NOT NULL,         -- the step's id; '' outside of a durable run
    key TEXT NOT NULL,          -- the step's idempotency key
    process INTEGER NOT NULL,
    started REAL NOT NULL,      -- seconds since the epoch
    finished REAL,              -- NULL: still running, or cut off
    error TEXT,
    repeated INTEGER NOT NULL DEFAULT 0  -- 1: a write that found that it had been made already
)
"""


@dataclass(frozen=True, slots=True)
class Execution:
    """One real call of a tool's body or of a model."""

    id: int
    kind: str
    name: str
    step: str
    key: str
    process: int
    started: float
    finished: float | None
    error: str | None
    repeated: bool


class Executions:
    """The log, in a SQLite file that several processes share.

    Args:
        path: the file; made when it is first used.
        prepare: makes what else is in the file, when it is first used.
    """

    def __init__(self, path: str | Path, prepare: Callable[[sqlite3.Connection], None] = lambda _: None) -> None:
        self.path = str(path)
        self._prepare = prepare
        self._ready = False
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        """A connection in autocommit mode, closed at the end."""
        connection = sqlite3.connect(self.path, timeout=30, isolation_level=None)
        connection.row_factory = sqlite3.Row
        try:
            with self._lock:
                if not self._ready:
                    connection.execute("PRAGMA journal_mode=WAL")
                    connection.execute(_SCHEMA)
                    self._prepare(connection)
                    self._ready = True
            yield connection
        finally:
            connection.close()

    @contextlib.contextmanager
    def recorded(self, kind: str, name: str) -> Iterator[int]:
        """Log what runs inside as one execution; gives its id."""
        step = current_step()
        with self.connection() as connection:
            row = connection.execute(
                "INSERT INTO executions (kind, name, step, key, process, started) VALUES (?, ?, ?, ?, ?, ?)",
                (kind, name, step.step_id if step else "", idempotency_key(), os.getpid(), time.time()),
            )
            execution = row.lastrowid or 0
        try:
            yield execution
        except Exception as error:
            self._finish(execution, f"{type(error).__name__}: {error}")
            raise
        self._finish(execution, None)

    def _finish(self, execution: int, error: str | None) -> None:
        with self.connection() as connection:
            connection.execute(
                "UPDATE executions SET finished = ?, error = ? WHERE id = ?", (time.time(), error, execution)
            )

    def all(self) -> list[Execution]:
        """All executions, in the order in which they began."""
        with self.connection() as connection:
            rows = connection.execute("SELECT * FROM executions ORDER BY id").fetchall()
        return [Execution(**{**dict(row), "repeated": bool(row["repeated"])}) for row in rows]
