"""Runs of the embedded engine, from its file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from inngest_agents.history.source import FoundStep, RunSummary, assemble, error_text
from inngest_agents.local.models import SECOND, Run, RunStatus, Step, StepStatus
from inngest_agents.local.reading import StoreReader
from inngest_agents.stats.report import NOTHING, Attempt, RunReport, Status

_RUN: Final[dict[RunStatus, Status]] = {
    RunStatus.QUEUED: "waiting",
    RunStatus.RUNNING: "running",
    RunStatus.COMPLETED: "completed",
    RunStatus.FAILED: "failed",
    RunStatus.CANCELLED: "cancelled",
}
_STEP: Final[dict[StepStatus, Status]] = {
    StepStatus.COMPLETED: "completed",
    StepStatus.FAILED: "failed",
    StepStatus.TIMED_OUT: "completed",
    StepStatus.RETRYING: "waiting",
    StepStatus.PLANNED: "waiting",
    StepStatus.SLEEPING: "waiting",
    StepStatus.WAITING: "waiting",
    StepStatus.INVOKING: "waiting",
}
_KINDS: Final = {"Sleep": "sleep", "WaitForEvent": "wait", "InvokeFunction": "invoke", "AIGateway": "infer"}


class EmbeddedRuns:
    """The runs in a state file.

    Args:
        store: the open file.
    """

    def __init__(self, store: StoreReader) -> None:
        self._store = store

    def runs(self, *, since: float | None = None, until: float | None = None) -> Iterator[RunSummary]:
        """See `RunSource`."""
        for run in self._store.runs(limit=-1):
            queued = run.queued_ns / SECOND
            if (since is None or queued >= since) and (until is None or queued < until):
                yield _summary(run)

    def find(self, text: str) -> Sequence[RunSummary]:
        """See `RunSource`."""
        found = self._store.runs(limit=1) if text == "last" else self._store.find_runs(text)
        return [_summary(run) for run in found]

    def report(self, run: RunSummary) -> RunReport:
        """See `RunSource`."""
        stored = self._store.run(run.run_id)
        assert stored is not None, "a run is never deleted"
        report = RunReport(
            run_id=stored.id,
            title=stored.function_id,
            status=run.status,
            started_at=run.started_at or run.queued_at,
            ended_at=run.ended_at,
            input=stored.events,
            output=NOTHING if stored.output_json is None else stored.output,
            error=error_text(stored.error) if stored.error else "",
            note="embedded engine",
        )
        return assemble(report, [_found(step) for step in self._store.steps(stored.id)])


def _summary(run: Run) -> RunSummary:
    return RunSummary(
        run.id,
        run.function_id,
        _RUN[run.status],
        run.queued_ns / SECOND,
        None if run.started_ns is None else run.started_ns / SECOND,
        None if run.ended_ns is None else run.ended_ns / SECOND,
    )


def _found(step: Step) -> FoundStep:
    attempts = [
        Attempt((failed.started_ns or failed.ended_ns) / SECOND, failed.ended_ns / SECOND, error_text(failed.error))
        for failed in step.attempts
    ]
    begun = step.started_ns or step.created_ns
    if step.status is not StepStatus.FAILED and step.ended_ns is not None:
        attempts.append(Attempt(begun / SECOND, step.ended_ns / SECOND))
    return FoundStep(
        name=step.name,
        kind=_KINDS.get(step.op, "other"),
        status=_STEP[step.status],
        # A checkpoint tells the engine of a step only when it has ended.
        queued_at=min(step.created_ns, begun) / SECOND,
        attempts=attempts,
        input=_input(step),
        output=_output(step),
        error=step.error,
    )


def _input(step: Step) -> Any:
    given = step.opts.get("input", NOTHING) if step.op not in _KINDS else step.opts or NOTHING
    # The SDK gives the arguments of a step as a list; ours have one.
    return given[0] if isinstance(given, list) and len(given) == 1 else given


def _output(step: Step) -> Any:
    if step.error is not None or step.memo_json is None:
        return NOTHING
    memo = step.memo
    return memo["data"] if isinstance(memo, dict) and set(memo) == {"data"} else memo
