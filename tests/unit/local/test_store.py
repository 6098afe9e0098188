"""The SQLite store: what is claimed, what is kept, and who is alive."""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from inngest_agents.local import store as store_module
from inngest_agents.local.models import SECOND, Function, Job, JobKind, NewJob, RunStatus, StepRecord, StepStatus
from inngest_agents.local.store import Store, StoreVersionError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "s.db")
    store.join("me")
    yield store
    store.leave("me")
    store.close()


def add_run(store: Store, run_id: str = "R", groups: tuple[str, ...] = ()) -> None:
    with store.transaction():
        store.add_run(run_id, "app-fn", "E", '[{"name":"go"}]', groups, 1)
        store.add_job(run_id, NewJob("start", max_attempts=3))


def memo(step_id: str, text: str = '{"data":1}') -> StepRecord:
    return StepRecord(step_id, "StepRun", step_id, StepStatus.COMPLETED, text)


def claim(store: Store, engine: str = "me", now: int = 10) -> Job:
    (job,) = store.claim(engine, now)
    return job


def test_a_job_is_claimed_by_one_engine_only(store: Store, tmp_path: Path) -> None:
    for n in range(50):
        add_run(store, f"R{n:02}")
    other = Store(tmp_path / "s.db")
    claimed: list[list[str]] = [[], []]

    def take(which: int, its: Store) -> None:
        claimed[which] = [job.run_id for job in its.claim(f"e{which}", 10)]

    threads = [threading.Thread(target=take, args=[n, s]) for n, s in enumerate([store, other])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed[0] + claimed[1]) == [f"R{n:02}" for n in range(50)]
    other.close()


def test_a_job_is_claimed_when_it_is_due_and_queued_once_per_key(store: Store) -> None:
    add_run(store)
    claim(store)
    with store.transaction():
        assert store.add_job("R", NewJob("later", due_ns=100, step_id="s", coalesce_key="c", race=True))
        assert not store.add_job("R", NewJob("later", due_ns=5))
    assert store.claim("me", 99) == []
    assert (store.next_due(), store.next_timer(99), store.next_timer(100)) == (100, 100, None)
    job = claim(store, now=100)
    assert (job.key, job.kind, job.step_id, job.coalesce_key, job.race) == ("later", JobKind.CALL, "s", "c", True)


def test_a_requeued_job_belongs_to_nobody_and_has_another_generation(store: Store) -> None:
    add_run(store)
    job = claim(store)
    assert store.owns("me", job)
    assert not store.owns("you", job)
    with store.transaction():
        store.requeue_job(job.id, 1, 20)
    assert not store.owns("me", job)
    again = claim(store, now=20)
    assert (again.attempt, again.generation) == (1, 2)
    with store.transaction():
        store.reset_attempts(again.id)
        store.finish_job(again.id)
    assert not store.owns("me", again)
    assert store.next_due() is None


def test_the_first_memo_of_a_step_stays(store: Store) -> None:
    add_run(store)
    with store.transaction():
        assert store.save_step("R", memo("a"), 5)
        assert not store.save_step("R", memo("a", '{"data":2}'), 6)
        store.report_step("R", StepRecord("b", "Sleep", "nap", StepStatus.SLEEPING, opts_json="{}"), 7)
        assert store.resolve_step("R", "b", StepStatus.COMPLETED, "null", 8)
        assert not store.resolve_step("R", "b", StepStatus.COMPLETED, "null", 9)
        assert not store.resolve_step("R", "unknown", StepStatus.COMPLETED, "null", 9)
    state = store.state("R")
    assert state is not None
    assert state.memos == [("a", '{"data":1}'), ("b", "null")]
    assert (state.run.step_count, state.run.state_size) == (2, 14)
    first, second = store.steps("R")
    assert (first.data, first.position, second.name, second.status) == (1, 0, "nap", "Completed")
    assert (second.started_ns, second.ended_ns, second.opts) == (7, 8, {})


def test_a_transaction_that_fails_leaves_nothing(store: Store) -> None:
    add_run(store)

    def save_and_fail() -> None:
        with store.transaction():
            store.save_step("R", memo("a"), 5)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        save_and_fail()
    assert store.steps("R") == []


def test_the_end_of_a_run_drops_what_was_to_be_done(store: Store) -> None:
    add_run(store)
    with store.transaction():
        store.add_wait("R", kind="event", step_id="w", event_name="e", expires_ns=100)
        store.add_pending("R", ["w"])
        assert store.end_run("R", RunStatus.COMPLETED, 9, output="[1]")
        assert not store.end_run("R", RunStatus.FAILED, 10, error='{"name": "late"}')
    assert store.claim("me", 100) == []
    assert store.waits("e", "other", 1) == []
    assert not store.has_pending("R")
    run = store.run("R")
    assert run is not None
    assert (run.status, run.output, run.error, run.ended_ns) == ("Completed", [1], None, 9)
    assert store.dispatch_of("R", 1) == (False, 0, None, 0)


def test_waits_expire_and_do_not_take_the_event_that_started_them(store: Store) -> None:
    add_run(store)
    with store.transaction():
        store.add_wait("R", kind="event", step_id="w", event_name="e", expires_ns=100)
        store.add_wait("R", kind="cancel", event_name="e", expires_ns=100, trigger_event_id="E")
        store.add_wait("R", kind="invoke", step_id="i", event_name="f", expires_ns=100, correlation_id="R.i")
    assert [wait.kind for wait in store.waits("e", "other", 1)] == ["event", "cancel"]
    assert [wait.kind for wait in store.waits("e", "E", 1)] == ["event"]
    assert store.waits("e", "other", 100) == []
    assert store.waits("f", "other", 1) == []
    invoker = store.invoker("R.i")
    assert invoker is not None
    store.end_wait(invoker.id)
    assert store.invoker("R.i") is None


def test_concurrency_holds_jobs_back_until_one_ends(store: Store) -> None:
    store.register("app", [Function("app-fn", "app", "fn", "http://x", 5, (), concurrency=((1, "event.data.k"),))])
    add_run(store, "R1", ("a",))
    add_run(store, "R2", ("a",))
    add_run(store, "R3", ("b",))
    first, other = store.claim("me", 10)
    assert (first.run_id, other.run_id) == ("R1", "R3")
    assert store.claim("me", 10) == []
    store.finish_job(first.id)
    assert claim(store).run_id == "R2"


def test_functions_are_registered_per_app(store: Store) -> None:
    one = Function("a-1", "a", "one", "http://x", 5, (("go", "event.data.x == 1"),), (("stop", None, "1h"),), (), "k")
    two = Function("b-2", "b", "two", "http://y", 1, (("go", None),))
    assert store.register("a", [one])
    assert store.register("b", [two])
    assert not store.register("a", [one])
    assert store.functions() == [one, two]
    assert store.register("a", [])
    assert store.functions() == [two]
    assert store.function("a-1") is None


def test_idempotency_keys_expire(store: Store) -> None:
    assert store.claim_idempotency("f", "k", 0, 10)
    assert not store.claim_idempotency("f", "k", 9, 10)
    assert store.claim_idempotency("g", "k", 9, 10)
    assert store.claim_idempotency("f", "k", 10, 10)


def test_an_engine_that_is_gone_gives_its_jobs_back(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    add_run(store)
    store.join("crashed")
    job = claim(store, "crashed")
    assert store.bury() == 0
    store.leave("crashed", crashed=True)
    assert store.bury() == 1
    assert claim(store).generation == job.generation + 1


def test_an_engine_without_a_heartbeat_or_a_process_is_dead(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    is_dead = store_module._is_dead
    now = time.time_ns()
    here = socket.gethostname()
    assert is_dead("x", process.pid, here, now)
    assert not is_dead("x", process.pid, "elsewhere", now)
    assert is_dead("x", process.pid, "elsewhere", now - 11 * SECOND)
    assert not is_dead("me", os.getpid(), here, now)
    assert is_dead("x", os.getpid(), here, now)
    assert not is_dead("x", os.getppid(), here, now)
    assert store.heartbeat("me")
    assert not store.heartbeat("nobody")


def test_runs_are_found_by_part_of_their_id(store: Store) -> None:
    for run_id in ("01AAA111", "01AAA222"):
        add_run(store, run_id)
    assert [run.id for run in store.runs()] == ["01AAA222", "01AAA111"]
    assert [run.id for run in store.runs(limit=1)] == ["01AAA222"]
    assert store.runs(status=RunStatus.FAILED) == []
    assert len(store.runs(function_id="app-fn", status=RunStatus.QUEUED)) == 2
    assert [run.id for run in store.find_runs("a222")] == ["01AAA222"]
    assert len(store.find_runs("01a")) == 2
    assert [run.id for run in store.event_runs("E")] == ["01AAA111", "01AAA222"]


def test_a_file_of_another_version_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "s.db") as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreVersionError, match="schema version 99"):
        Store(tmp_path / "s.db")


def test_the_file_is_in_wal_mode(store: Store) -> None:
    assert store._one("PRAGMA journal_mode") == ("wal",)
    assert store._one("PRAGMA synchronous") == (1,)
