"""The course of the demo: a run on the embedded engine, whose worker is killed at the worst moments."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from inngest_agents.demo.executions import Execution
from inngest_agents.demo.order_book import OrderBook
from inngest_agents.demo.processes import WorkerError, Workers
from inngest_agents.demo.proof import WRITES, Check, Kill, prove
from inngest_agents.local import LocalEngine, Run, Step, StepAttempt
from inngest_agents.stats.memo import identity

RUN_SECONDS: Final = 600.0
"""How long a run may take, with a slow real model."""

_POLL_SECONDS: Final = 0.02

_IN_FLIGHT_SECONDS: Final = 0.25
"""How long a tool must have been at work before the worker is killed under it: the quick ones beside it have ended."""


class Audience(Protocol):
    """Whoever is told what happens."""

    def worker_started(self, process: int, seconds: float) -> None:
        """A worker is up."""

    def step_saved(self, step: Step, execution: Execution | None) -> None:
        """A step has ended and is in the engine's state."""

    def worker_killed(self, kill: Kill, cut: list[Execution], written: int) -> None:
        """A worker was killed under some tools, of which some had written into the order book."""

    def attempt_failed(self, attempt: StepAttempt) -> None:
        """A step or a request failed, and nobody had killed the worker."""

    def waited(self, seconds: float) -> None:
        """The engine would have waited so long before it tried again."""


@dataclass(slots=True)
class Outcome:
    """What came of it."""

    run: Run
    steps: list[Step]
    executions: list[Execution]
    kills: list[Kill]
    processes: list[int]
    seconds: float
    checks: list[Check] = field(default_factory=list)

    @property
    def kinds(self) -> dict[str, str]:
        """The kinds of the saved steps, by id."""
        return {step.name: kind_of(step) for step in self.steps}


def kind_of(step: Step) -> str:
    """The kind of a durable step, as it is in its record; "" for another step."""
    known = identity(step.data) if isinstance(step.data, dict) else None
    return known[0] if known else ""


class Scenario:
    """Plays the demo once.

    Args:
        folder: where the order book and the engine's state are kept.
        audience: is told what happens.
    """

    def __init__(self, folder: Path, audience: Audience) -> None:
        self.book = OrderBook(folder / "order_book.db")
        self._engine = LocalEngine(path=folder / "engine.db")
        self._audience = audience
        self._folder = folder
        self._kills: list[Kill] = []
        self._struck: set[str] = set()
        self._failures = 0

    def play(self, prompt: str) -> Outcome:
        """Send the customer's message, kill the worker twice, and prove what came of it.

        Raises:
            WorkerError: a worker did not come up.
            TimeoutError: the run did not end.
        """
        began = time.monotonic()
        with self._engine as engine:
            # The Inngest SDK takes the engine's address from INNGEST_DEV, as it takes that of Inngest's dev server.
            workers = Workers({"INNGEST_DEV": engine.url, "INNGEST_AGENTS_DEMO_DB": self.book.executions.path})
            try:
                self._start(workers)
                engine.register(workers.url)
                run = self._follow(engine.send("shop/message", {"prompt": prompt}), workers)
            finally:
                workers.close()
            steps = self._saved(run.id)
            executions = self.book.executions.all()
        outcome = Outcome(run, steps, executions, self._kills, workers.pids, time.monotonic() - began)
        tables = {table: self.book.rows(table) for table in ("products", *WRITES.values())}
        outcome.checks = prove(outcome.kinds, executions, self._kills, tables)
        return outcome

    def _start(self, workers: Workers) -> None:
        began = time.monotonic()
        process = workers.start()
        self._audience.worker_started(process, time.monotonic() - began)

    def _saved(self, run_id: str) -> list[Step]:
        return [step for step in self._engine.steps(run_id) if step.memo_json is not None]

    def _follow(self, run_id: str, workers: Workers) -> Run:
        told: set[str] = set()
        deadline = time.monotonic() + RUN_SECONDS
        while time.monotonic() < deadline:
            run = self._engine.store.run(run_id)
            assert run is not None
            steps, executions = self._saved(run_id), self.book.executions.all()
            for step in steps:
                if step.id not in told:
                    told.add(step.id)
                    self._audience.step_saved(step, _execution_of(step, executions))
            self._tell_failures(run_id)
            if run.status.ended:
                return run
            if not workers.alive:
                raise WorkerError("the worker ended, and nobody had killed it; see its output above")
            cut = self._moment(steps, executions)
            if cut:
                self._strike(run_id, workers, steps, cut)
            time.sleep(_POLL_SECONDS)
        raise TimeoutError(f"the run did not end within {RUN_SECONDS:.0f} s")

    def _tell_failures(self, run_id: str) -> None:
        attempts = self._engine.store.attempts(run_id)
        for attempt in attempts[self._failures :]:
            self._audience.attempt_failed(attempt)
        self._failures = len(attempts)

    def _moment(self, steps: list[Step], executions: list[Execution]) -> list[Execution]:
        """The tools to kill the worker under, if now is the moment: once under tools that read, once under tools that
        have written already and have not said so. Never under a call of the model, which a provider might bill, nor
        while something that has ended is still being saved.
        """
        known, gone = {step.name for step in steps}, {kill.process for kill in self._kills}
        flying = [e for e in executions if e.finished is None and e.process not in gone]
        landed = [e for e in executions if e.finished is not None and e.error is None and e.step not in known]
        if not flying or landed or any(e.kind != "tool" for e in flying):
            return []
        if time.time() - min(e.started for e in flying) < _IN_FLIGHT_SECONDS:
            return []
        kind = "write" if any(e.name in WRITES for e in flying) else "read"
        if kind in self._struck or (kind == "read" and "write" in self._struck):
            return []
        if kind == "write" and not self._written(flying):
            return []
        self._struck.add(kind)
        return flying

    def _written(self, executions: list[Execution]) -> int:
        keys = {row["key"] for table in WRITES.values() for row in self.book.rows(table)}
        return sum(e.key in keys for e in executions if e.name in WRITES)

    def _strike(self, run_id: str, workers: Workers, steps: list[Step], cut: list[Execution]) -> None:
        process = workers.kill()
        kill = Kill(process, time.time(), frozenset(step.name for step in steps))
        self._kills.append(kill)
        self._audience.worker_killed(kill, cut, self._written(cut))
        self._start(workers)
        # Inngest backs off for some 15 to 45 s before it calls again; nobody wants to watch that.
        self._failures = len(self._engine.store.attempts(run_id))  # the request that the kill cut off is one of them
        self._audience.waited(self._engine.fast_forward())


def _execution_of(step: Step, executions: list[Execution]) -> Execution | None:
    """The execution that ended a step."""
    ended = [e for e in executions if e.step == step.name and e.finished is not None and e.error is None]
    return ended[-1] if ended else None


def stats_of(run: Run) -> dict[str, Any]:
    """The statistics in what the function returned; empty if it failed."""
    output = run.output
    stats = output.get("stats") if isinstance(output, dict) else None
    return stats if isinstance(stats, dict) else {}
