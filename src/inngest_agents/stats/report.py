"""A run as one can look at it: the neutral form from which the HTML page is made.

The embedded engine fills it from its store, an Inngest server's runs from its API, and `RunStats` from its own
timeline (then without inputs and outputs).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from inngest_agents.stats.records import StepRecord
from inngest_agents.stats.stats import RunStats

Status: TypeAlias = Literal["completed", "failed", "running", "waiting", "cancelled"]


class _Nothing:
    """Marks a value that there is none of: None is a value of its own."""

    def __repr__(self) -> str:
        return "NOTHING"


NOTHING: Any = _Nothing()


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of a step, in seconds since the epoch."""

    started_at: float
    ended_at: float
    error: str = ""
    """Why it failed; "" for the attempt that succeeded or is under way."""


@dataclass(slots=True)
class ReportStep:
    """One step of a run."""

    step_id: str
    title: str = ""
    """What a reader should see; the step id if empty."""
    kind: str = "other"
    """A `StepKind`, or what the engine calls its own steps: "sleep", "wait", "invoke"."""
    status: Status = "completed"
    path: tuple[str, ...] = ()
    """The nesting, as in `StepRecord.path`."""
    queued_at: float | None = None
    """When the step was asked for, in seconds since the epoch."""
    attempts: Sequence[Attempt] = ()
    """In order; empty for a step that has not begun."""
    input: Any = NOTHING
    """JSON, or NOTHING."""
    output: Any = NOTHING
    error: str = ""
    """The final failure."""
    record: StepRecord | None = None
    """What the step used, where it is known."""

    @property
    def begin(self) -> float | None:
        """When the step was asked for, or else began."""
        first = self.attempts[0].started_at if self.attempts else None
        known = [at for at in (self.queued_at, first) if at]
        return min(known) if known else None

    @property
    def end(self) -> float | None:
        """When the last attempt ended."""
        return self.attempts[-1].ended_at if self.attempts else self.queued_at

    @classmethod
    def from_record(cls, record: StepRecord, **values: Any) -> ReportStep:
        """A step as its record tells it.

        Args:
            record: what the step used. Only its last attempt is known, so there is one.
            values: further fields, or better ones than the record has.
        """
        error = record.error
        failure = f"{error.type}: {error.message}" if error else ""
        fields: dict[str, Any] = {
            "step_id": record.step_id,
            "title": record.name or record.agent,
            "kind": record.kind,
            "status": "failed" if error else "completed",
            "path": record.path,
            "queued_at": record.started_at - record.waited,
            "attempts": (Attempt(record.started_at, record.ended_at, failure),),
            "error": failure,
            "record": record,
        }
        return cls(**{**fields, **values})


@dataclass(slots=True)
class RunReport:
    """A run and its steps."""

    run_id: str = ""
    title: str = "Run"
    """The function's or the agent's name."""
    status: Status = "completed"
    started_at: float | None = None
    ended_at: float | None = None
    input: Any = NOTHING
    output: Any = NOTHING
    error: str = ""
    steps: list[ReportStep] = field(default_factory=list)
    stats: RunStats | None = None
    """Taken from the records of the steps where it is None."""
    note: str = ""
    """For instance where the run ran."""

    @classmethod
    def from_stats(cls, stats: RunStats, **values: Any) -> RunReport:
        """A report of what statistics know: everything but inputs and outputs.

        Args:
            stats: with their timeline.
            values: further fields of the report.
        """
        steps = [ReportStep.from_record(record) for record in stats.timeline]
        fields = {"title": stats.starting_agent or "Run", "steps": steps, "stats": stats}
        return cls(**{**fields, **values})

    def statistics(self) -> RunStats:
        """`stats`, or the sums over the steps' records."""
        if self.stats is not None:
            return self.stats
        return RunStats.from_records(step.record for step in self.steps if step.record is not None)

    def span(self) -> tuple[float, float]:
        """From the first to the last moment of the run, in seconds since the epoch."""
        begins = [at for at in (self.started_at, *(step.begin for step in self.steps)) if at]
        ends = [at for at in (self.ended_at, *(step.end for step in self.steps)) if at]
        if not begins:
            return 0.0, 0.0
        return min(begins), max([*ends, min(begins)])


@dataclass(slots=True)
class Row:
    """A line of the waterfall: a step, or the group of all steps below a path."""

    depth: int
    begin: float
    end: float
    step: ReportStep | None = None
    group: str = ""
    """The last part of the path, for a group."""


def rows(report: RunReport) -> list[Row]:
    """The lines of the waterfall: by time, with the steps of a nested agent under a line of their own."""
    default = report.span()[0]
    return _rows_below((), sorted(report.steps, key=lambda step: step.begin or default), 0, default)


def _rows_below(
    prefix: tuple[str, ...],
    steps: Iterable[ReportStep],
    depth: int,
    default: float,
) -> list[Row]:
    groups: dict[str, list[ReportStep]] = {}
    blocks: list[list[Row]] = []
    # The first part of a path is the outermost agent: a level only where there are several.
    level = max(len(prefix), 1)
    for step in steps:
        if len(step.path) > level:
            groups.setdefault(step.path[level], []).append(step)
        else:
            begin = step.begin or default
            blocks.append([Row(depth, begin, step.end or begin, step)])
    for name, members in groups.items():
        inner = _rows_below((*(prefix or members[0].path[:1]), name), members, depth + 1, default)
        head = Row(depth, min(row.begin for row in inner), max(row.end for row in inner), group=name)
        blocks.append([head, *inner])
    blocks.sort(key=lambda block: block[0].begin)
    return [row for block in blocks for row in block]
