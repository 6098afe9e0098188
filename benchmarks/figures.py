"""The arithmetic: from timed runs to the figures of the tables."""

from __future__ import annotations

import itertools
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from .measure import Sample
from .workloads import INSTANT, LENGTHS, REALISTIC, Workload

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

WORKLOADS = {w.name: w for w in (*INSTANT, REALISTIC)}
SHORT, LONG = Workload(10, 1), Workload(100, 1)
"""The two run lengths whose difference gives the slope."""


class Pair(NamedTuple):
    """The plain run and the durable run of one repeat, made right after each other."""

    plain: Sample
    durable: Sample


class State(NamedTuple):
    """What an engine keeps of a run."""

    bytes: int
    json: int
    """The JSON of what the model and the tools answered, by itself, without what nobody has set."""
    full: int
    """The same with all fields of the model's answers."""
    steps: int


class Spread(NamedTuple):
    """The median of some measurements, and their range."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Make it of at least one value."""
        data = list(values)
        return cls(statistics.median(data), min(data), max(data))


@dataclass
class Row:
    """Everything that was measured of one contender."""

    name: str
    durability: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    pairs: dict[str, list[Pair]] = field(default_factory=dict)
    state: dict[str, State] = field(default_factory=dict)
    """By workload."""
    memory: list[dict[str, Any]] = field(default_factory=list)
    extras: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """What only some rows can be asked for, by kind."""
    missing: str = ""
    """Why it was not measured, or not to the end."""


def collect(name: str, lines: Iterable[dict[str, Any]]) -> Row:
    """Put the lines that a row's script printed into a row."""
    row = Row(name)
    waiting: dict[tuple[str, int], Sample] = {}
    for line in lines:
        values = dict(line)
        kind = values.pop("kind")
        if kind == "meta":
            row.durability, row.versions = values["durability"], values["versions"]
        elif kind == "sample":
            workload, mode, repeat = (values.pop(key) for key in ("workload", "mode", "repeat"))
            found = Sample(**values)
            if mode == "plain":
                waiting[workload, repeat] = found
            else:
                row.pairs.setdefault(workload, []).append(Pair(waiting.pop((workload, repeat)), found))
        elif kind == "state":
            workload = values.pop("workload")
            row.state[workload] = State(**values)
        elif kind == "memory":
            row.memory.append(values)
        elif kind == "failed":
            row.missing = values["reason"]
        else:
            row.extras.setdefault(kind, []).append(values)
    return row


def overhead(pairs: Sequence[Pair], workload: Workload) -> Spread:
    """Seconds per step between the first and the last model call, more than plain: no start, no finish in it."""
    return Spread.of((pair.durable.span - pair.plain.span) / (workload.steps - 1) for pair in pairs)


def overhead_like_for_like(row: Row, workload: Workload) -> Spread | None:
    """The same beside plain runs that keep the identities of function calls, as durable ones do."""
    found = [entry for entry in row.extras.get("kept", []) if entry["workload"] == workload.name]
    return Spread.of((e["durable"] - e["plain"]) / (workload.steps - 1) for e in found) if found else None


def starts(row: Row, mode: str) -> Spread | None:
    """The seconds before the first model call of an Inngest function that runs `durable`, or the `plain` Runner."""
    found = [entry["start"] for entry in row.extras.get("start", []) if entry["mode"] == mode]
    return Spread.of(found) if found else None


def slope(row: Row, short: Workload = SHORT, long: Workload = LONG) -> float | None:
    """Seconds per step, from the walls of two run lengths: what a run costs once does not count.

    The start is taken off each wall and reported by itself: where an engine looks into its queue every 150 ms, it
    differs by more from run to run than the steps of a short run take together.
    """
    if short.name not in row.pairs or long.name not in row.pairs:
        return None
    extra = {
        workload: statistics.median(_started(pair.durable) - _started(pair.plain) for pair in row.pairs[workload.name])
        for workload in (short, long)
    }
    return (extra[long] - extra[short]) / (long.steps - short.steps)


def _started(sample: Sample) -> float:
    return sample.wall - sample.start


def flatness(row: Row) -> float | None:
    """The largest overhead per step by the smallest, over the run lengths; 1 is flat.

    Of `further_steps` it would be the noise: two long plain runs differ by more than what is compared there.
    """
    if any(workload.name not in row.pairs for workload in LENGTHS):
        return None
    medians = [overhead(row.pairs[workload.name], workload).median for workload in LENGTHS]
    return max(medians) / min(medians) if min(medians) > 0 else None


def further_steps(row: Row) -> list[float]:
    """Seconds that each further step costs from one run length to the next: without what a run costs once."""
    found = [workload for workload in LENGTHS if workload.name in row.pairs]
    whole = [overhead(row.pairs[workload.name], workload).median * (workload.steps - 1) for workload in found]
    steps = [workload.steps for workload in found]
    pairs = zip(itertools.pairwise(whole), itertools.pairwise(steps), strict=True)
    return [(after - before) / (more - fewer) for (before, after), (fewer, more) in pairs]


def growth(row: Row) -> float | None:
    """The overhead per step of the longest run by that of the shortest; below 1, a step costs less in a long run."""
    if any(workload.name not in row.pairs for workload in (LENGTHS[0], LENGTHS[-1])):
        return None
    short, long = (overhead(row.pairs[workload.name], workload).median for workload in (LENGTHS[0], LENGTHS[-1]))
    return long / short if short > 0 else None


def ratio(pairs: Sequence[Pair]) -> Spread:
    """How many times as long as plain the whole took."""
    return Spread.of(pair.durable.wall / pair.plain.wall for pair in pairs)


def latency(row: Row, part: str) -> Spread | None:
    """The seconds before the first (`start`) or after the last (`finish`) model call, over the instant workloads."""
    values = [
        getattr(pair.durable, part)
        for name, pairs in row.pairs.items()
        if not WORKLOADS[name].model_ms
        for pair in pairs
    ]
    return Spread.of(values) if values else None


def executions(row: Row) -> str:
    """Whether every call of every run was executed exactly once, or where it was not."""
    for name, pairs in row.pairs.items():
        for pair in pairs:
            if not pair.durable.exact:
                wanted, got = WORKLOADS[name], pair.durable
                return (
                    f"NOT exactly once: {got.models} model calls for {wanted.models}, "
                    f"{got.tools} tool calls for {wanted.tool_calls} in {name}"
                )
    if not all(entry["exact"] for entry in row.memory):
        return "NOT exactly once in the concurrent runs"
    runs = sum(len(pairs) for pairs in row.pairs.values()) + sum(entry["runs"] for entry in row.memory)
    return f"exactly once ({runs} runs)" if runs else "none"
