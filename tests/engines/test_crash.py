"""A worker that is killed at every step boundary and in the middle of every step ends as an unbroken run does."""

from __future__ import annotations

import collections
import json
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from .harness import EngineUnderTest

ONCE = {
    "triage model 0": 1,
    "stock apple": 1,
    "stock kiwi": 1,
    "stock fig": 1,
    "triage model 1": 1,
    "sales model 0": 1,
    "research model 0": 1,
    "stock pear": 1,
    "research model 1": 1,
    "sales model 1": 1,
    "order pear": 1,
    "order fig": 1,
    "sales model 2": 1,
}


TOGETHER = {"stock apple", "stock kiwi", "stock fig"}
"""The tools of one turn: they run at the same time in one process."""


class Book:
    """What the worker executed, ordered and where it died."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def query(self, sql: str) -> list[Any]:
        with sqlite3.connect(self.path, timeout=30) as connection:
            return [row[0] if len(row) == 1 else row for row in connection.execute(sql)]

    @property
    def executed(self) -> dict[str, int]:
        return dict(collections.Counter(self.query("SELECT what FROM executed")))

    @property
    def deaths(self) -> list[str]:
        return self.query("SELECT place FROM died")

    @property
    def orders(self) -> list[tuple[str, int]]:
        return sorted(self.query("SELECT item, amount FROM orders"))


def spawn(
    engine: EngineUnderTest, folder: Path, crash_at: str, *, checkpoint: bool = True, spans: bool = False
) -> Book:
    """Start the worker that dies, and give its book."""
    book = Book(folder / f"{crash_at}-{checkpoint}.db")
    engine.spawn(
        "crash_target.py:build",
        env={
            "CRASH_DB": str(book.path),
            "CRASH_AT": crash_at,
            "CRASH_CHECKPOINT": str(int(checkpoint)),
            "CRASH_SPANS": str(int(spans)),
        },
    )
    return book


def run_team(engine: EngineUnderTest, folder: Path, crash_at: str, **how: Any) -> tuple[Any, Book]:
    book = spawn(engine, folder, crash_at, **how)
    outcome = engine.run("team/run", {}, timeout=120)
    assert outcome.status == "Completed", outcome.output
    return outcome.output, book


_unbroken: dict[str, Any] = {}


@pytest.fixture
def unbroken(engine: EngineUnderTest, tmp_path: Path) -> Any:
    """The result of the run in a worker that is never killed; once for each engine."""
    if engine.name not in _unbroken:
        result, book = run_team(engine, tmp_path, "none")
        assert book.executed == ONCE
        assert book.orders == [("fig", 2), ("pear", 4)]
        engine.stop_workers()
        _unbroken[engine.name] = result
    return _unbroken[engine.name]


def test_killed_after_each_save_nothing_that_was_saved_runs_again(
    engine: EngineUnderTest, tmp_path: Path, unbroken: Any
) -> None:
    result, book = run_team(engine, tmp_path, "after-save")

    assert json.dumps(result) == json.dumps(unbroken), "byte for byte"
    assert len(book.deaths) >= 7
    assert book.orders == [("fig", 2), ("pear", 4)]
    # A step that was running when the process died runs again: a parallel branch of what was saved, or the model call
    # that begins while a tool's result is being saved.
    repeated = {what for what, count in book.executed.items() if count > 1 and "model" not in what}
    assert repeated <= TOGETHER
    assert book.executed.keys() == ONCE.keys()


def test_killed_before_each_save_only_the_unsaved_steps_run_again(
    engine: EngineUnderTest, tmp_path: Path, unbroken: Any
) -> None:
    result, book = run_team(engine, tmp_path, "before-save")

    assert json.dumps(result) == json.dumps(unbroken), "byte for byte"
    assert len(book.deaths) >= 7
    assert book.executed.keys() == ONCE.keys()
    # Each step can be lost before its own save, and once more where it lingered with the step after it.
    assert max(book.executed.values()) <= 3


def test_killed_in_the_middle_of_each_step_the_run_ends_the_same(
    engine: EngineUnderTest, tmp_path: Path, unbroken: Any
) -> None:
    result, book = run_team(engine, tmp_path, "inside-step")

    assert json.dumps(result) == json.dumps(unbroken), "byte for byte"
    assert sorted(book.deaths) == sorted(ONCE)
    assert book.orders == [("fig", 2), ("pear", 4)], "an order that died before its side effect happens once"


def test_killed_in_the_middle_of_each_step_without_checkpointing(
    engine: EngineUnderTest, tmp_path: Path, unbroken: Any
) -> None:
    result, book = run_team(engine, tmp_path, "inside-step", checkpoint=False)

    assert json.dumps(result) == json.dumps(unbroken), "byte for byte"
    assert sorted(book.deaths) == sorted(ONCE)
    assert book.orders == [("fig", 2), ("pear", 4)]
    # One request is one step, so only steps that ran at the same time in the same process are lost with another.
    alone = {what: count for what, count in book.executed.items() if what not in TOGETHER}
    assert alone == {what: 1 if what.startswith("order") else 2 for what in ONCE if what not in TOGETHER}
    assert max(book.executed.values()) <= 1 + len(TOGETHER)


def test_spans_for_opentelemetry_are_exported_once_however_often_the_worker_was_killed(
    engine: EngineUnderTest, tmp_path: Path
) -> None:
    _, book = run_team(engine, tmp_path, "after-save", spans=True)

    assert len(book.deaths) >= 7
    spans = book.query("SELECT id, parent, trace, name FROM spans")
    names = collections.Counter(name for _, _, _, name in spans)
    tools = sum(what.startswith(("stock", "order")) for what in ONCE)
    assert sum(count for name, count in names.items() if name.startswith("chat ")) == len(ONCE) - tools
    assert sum(count for name, count in names.items() if name.startswith("execute_tool ")) == tools
    assert names["invoke_agent triage"] == names["invoke_agent research"] == 1
    ids = [span_id for span_id, _, _, _ in spans]
    assert len(set(ids)) == len(ids)
    # All hang together below one span of the engine's, in its trace of the run.
    assert len({trace for _, _, trace, _ in spans}) == 1
    outside = {(parent, name) for _, parent, _, name in spans if parent not in ids}
    assert [name for _, name in outside] == ["invoke_agent triage"]


@pytest.mark.parametrize("checkpoint", [True, False])
@pytest.mark.parametrize("crash_at", ["before-save", "after-save", "inside-step"])
def test_killed_around_a_tool_that_waits_the_run_ends_the_same(
    engine: EngineUnderTest, tmp_path: Path, crash_at: str, checkpoint: bool
) -> None:
    if not checkpoint and crash_at != "inside-step":
        pytest.skip("nothing is saved while a request is open")
    book = spawn(engine, tmp_path, crash_at, checkpoint=checkpoint)
    run_id = engine.send("waiting/run")
    deadline = time.monotonic() + 60
    # Again and again, as nobody knows from outside when the engine has begun to wait.
    while (outcome := engine.status(run_id)) is None:
        assert time.monotonic() < deadline, book.executed
        time.sleep(0.3)
        if "question" in book.executed:
            engine.send_event("answered", {"text": "yes"})
    assert outcome.status == "Completed", outcome.output
    assert outcome.output == {"final_output": "all done", "outputs": ["yes", "ordered 2 fig", "4 pears"], "tools": 4}
    assert len(book.deaths) >= 7
    assert max(book.executed.values()) <= 4, "as often as it was cut off before it was saved, and once"
    assert book.orders == [("fig", 2)]
    if crash_at == "after-save":
        done = {what: count for what, count in book.executed.items() if "model" not in what}
        assert done == {"question": 1, "order fig": 1, "stock pear": 1}
