"""What each source of runs gives, and how the memos of durable steps become steps of a report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from inngest_agents.stats.memo import answer_of, failed_step, identity, unpack
from inngest_agents.stats.records import StepRecord
from inngest_agents.stats.report import NOTHING, Attempt, ReportStep, RunReport, Status
from inngest_agents.stats.stats import RunFacts, RunStats

_SUMMARY = ("other", "run_stats")
"""Kind and name of the step that shows the statistics at the end of a run."""


class SourceError(Exception):
    """Runs can't be read; the message is for the person at the terminal."""


class MissingRunError(SourceError):
    """There is no such run, or nothing is known of its steps."""


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A run in a list."""

    run_id: str
    function: str
    status: Status
    queued_at: float = 0.0
    """Seconds since the epoch, like the others."""
    started_at: float | None = None
    ended_at: float | None = None


class RunSource(Protocol):
    """Where runs are read."""

    def runs(self, *, since: float | None = None, until: float | None = None) -> Iterator[RunSummary]:
        """Runs, the newest first, as they are read.

        Args:
            since: only those that were queued then or later, in seconds since the epoch.
            until: only those that were queued before.
        """

    def find(self, text: str) -> Sequence[RunSummary]:
        """The runs that a person may mean by an id, or by its beginning or end where the source can find those."""

    def report(self, run: RunSummary) -> RunReport:
        """All of a run."""


@dataclass(slots=True)
class FoundStep:
    """A step as an engine knows it."""

    name: str
    kind: str
    """Of the engine's own steps: "sleep", "wait", "invoke", …; "other" for what ran in the app."""
    status: Status
    queued_at: float | None
    attempts: Sequence[Attempt]
    input: Any = NOTHING
    output: Any = NOTHING
    """What the step returned: for a durable step, its memo."""
    error: Mapping[str, Any] | None = None
    """The final error: its `name` and `message`."""


def error_text(error: Mapping[str, Any]) -> str:
    """An error of an engine in a line."""
    name, message = str(error.get("name") or "Error"), str(error.get("message") or error.get("error") or "")
    return f"{name}: {message}" if message else name


def assemble(report: RunReport, found: Sequence[FoundStep]) -> RunReport:
    """Add the steps to a report, and the statistics if any of them is a durable one.

    Args:
        report: the run.
        found: its steps, in the order in which they ended.
    """
    steps = [_step(step, place) for place, step in enumerate(found)]
    known = {step.step_id.rpartition("/")[0]: step.path for step in steps if step.record is not None}
    for place, (step, origin) in enumerate(zip(steps, found, strict=True)):
        if step.record is None and origin.error is not None:
            _recognize(step, origin, known, place)
    report.steps.extend(steps)
    report.stats = _statistics(steps, found)
    return report


def is_durable(report: RunReport) -> bool:
    """Whether a step of the run has a record, or the run has statistics of its own."""
    return report.stats is not None and bool(report.stats.timeline)


def _step(found: FoundStep, place: int) -> ReportStep:
    plain = ReportStep(
        step_id=found.name,
        title=found.name,
        kind=found.kind,
        status=found.status,
        queued_at=found.queued_at,
        attempts=found.attempts,
        input=found.input,
        output=found.output,
        error=error_text(found.error) if found.error else "",
    )
    record = _record(found.output, place)
    if record is None:
        return plain
    label = record.step_id.rpartition("/")[2]
    return replace(
        plain,
        step_id=record.step_id,
        title=label or plain.title,
        kind=record.kind,
        path=record.path,
        attempts=_with_duration(plain.attempts, record),
        output=answer_of(found.output),
        record=record,
    )


def _record(output: Any, place: int) -> StepRecord | None:
    if not isinstance(output, Mapping) or identity(output) is None:
        return None
    try:
        return unpack(output, {"order": place})
    except (KeyError, TypeError, ValueError):
        return None  # it looks like a memo, and is the user's own; or a newer version wrote it


def _with_duration(attempts: Sequence[Attempt], record: StepRecord) -> Sequence[Attempt]:
    """The record's own times for the last attempt: a server rounds to milliseconds."""
    if not attempts or not record.started_at:
        return attempts
    return (*attempts[:-1], replace(attempts[-1], started_at=record.started_at, ended_at=record.ended_at))


def _recognize(step: ReportStep, found: FoundStep, known: Mapping[str, tuple[str, ...]], place: int) -> None:
    """A durable step that failed for good has an error and no memo: its id tells that it is one, as those beside it do.

    Args:
        step: what it becomes.
        found: as the engine knows it.
        known: the paths of the steps that have memos, by the beginnings of their ids.
        place: among all steps.
    """
    path = known.get(step.step_id.rpartition("/")[0])
    if path is None:
        return
    error = found.error or {}
    record = failed_step(step.step_id, str(error.get("name") or ""), str(error.get("message") or ""))
    if record is None:
        return
    if step.attempts:
        last = step.attempts[-1]
        took = max(0.0, last.ended_at - last.started_at)
        record = replace(record, started_at=last.started_at, duration=took, attempts=len(step.attempts))
    step.record = replace(record, order=place, path=path)
    step.title, step.kind, step.path = step.step_id.rpartition("/")[2], record.kind, path


def _statistics(steps: Sequence[ReportStep], found: Sequence[FoundStep]) -> RunStats:
    summaries, records = [], []
    for step, origin in zip(steps, found, strict=True):
        if step.record is None:
            continue
        if (step.record.kind, step.record.name) == _SUMMARY:
            summaries.append(answer_of(origin.output))
            step.record = None  # it counts for nothing itself
        else:
            records.append(step.record)
    own = {record.step_id for record in records}
    for summary in summaries:
        if isinstance(summary, list):  # of `finalize_run`: model calls that are no steps
            listed = [StepRecord.from_dict(item) for item in summary if isinstance(item, Mapping)]
            records.extend(record for record in listed if record.step_id not in own)
    return RunStats.from_records(records, _facts(summaries))


def _facts(summaries: Sequence[Any]) -> RunFacts | None:
    """What the records alone do not tell, from the summaries of the runs in the function."""
    told = [summary for summary in summaries if isinstance(summary, Mapping)]
    if not told:
        return None
    return RunFacts(
        starting_agent=told[0].get("starting_agent"),
        final_agent=told[-1].get("final_agent"),
        handoffs=sum(int(summary.get("total_handoffs") or 0) for summary in told),
    )
