"""The tables, for a terminal and as Markdown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import figures
from .workloads import API, API_LARGE, INSTANT, LARGE, LENGTHS, PAYLOAD, REALISTIC, Workload

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from .figures import Row, Spread

MILLI = 1000
MEGA = 1_000_000
SMALL = Workload(50, 1)
"""The workload whose state is compared with that of the others."""


@dataclass(frozen=True)
class Table:
    """A title, columns and cells."""

    title: str
    columns: tuple[str, ...]
    cells: Sequence[tuple[str, ...]]
    note: str = ""

    def markdown(self) -> str:
        """The table in Markdown."""
        lines = [f"**{self.title}**", "", _line(self.columns), _line(("---",) * len(self.columns))]
        lines += [_line(row) for row in self.cells]
        return "\n".join([*lines, *(["", self.note] if self.note else [])])

    def show(self, console: Console) -> None:
        """Print the table."""
        from rich.table import Table as RichTable

        table = RichTable(*self.columns, title=self.title, title_justify="left", caption=self.note or None)
        for row in self.cells:
            table.add_row(*row)
        console.print(table)


def tables(rows: Sequence[Row], machine: str) -> list[Table]:
    """All tables of a run."""
    measured = [row for row in rows if row.pairs]
    found = [
        _steps(measured),
        _summary(measured),
        _like_for_like(measured),
        _walls(measured),
        _replays(measured),
        _state(measured),
        _memory(measured),
    ]
    found.append(_versions(rows, machine))
    return [table for table in found if table.cells]


def _steps(rows: Sequence[Row]) -> Table:
    """The overhead per step of each workload."""
    cells = []
    for row in rows:
        cell = [_spread(figures.overhead(row.pairs[w.name], w)) if w.name in row.pairs else "-" for w in INSTANT]
        cells.append((row.name, *cell))
    return Table(
        "Overhead per step, ms: median (range)",
        ("durable runner", *(f"({w.turns},{w.tools})" for w in INSTANT)),
        cells,
        "(turns, tool calls a turn), instant model. A step is a model or a tool call. From the first model call to "
        "the last, less the plain Runner's in the same process right before.",
    )


def _summary(rows: Sequence[Row]) -> Table:
    """One line for each row."""
    cells = []
    for row in rows:
        slope, flat, growth = figures.slope(row), figures.flatness(row), figures.growth(row)
        real = row.pairs.get(REALISTIC.name)
        cells.append(
            (
                row.name,
                row.durability,
                f"{slope * MILLI:.2f}" if slope is not None else "-",
                f"{flat:.2f}" if flat is not None else "-",
                f"{growth:.2f}" if growth is not None else "-",
                ", ".join(f"{further * MILLI:.2f}" for further in figures.further_steps(row)) or "-",
                _spread(figures.latency(row, "start"), digits=0),
                _spread(figures.latency(row, "finish"), digits=0),
                f"{figures.ratio(real).median:.3f}" if real else "-",
                figures.executions(row),
            )
        )
    return Table(
        "Side by side",
        (
            "durable runner",
            "a finished step is in",
            "slope, ms per step",
            "flatness",
            "growth",
            "further steps, ms",
            "start, ms",
            "finish, ms",
            "real, × plain",
            "executions",
        ),
        cells,
        "slope: ((wall(100) - plain(100)) - (wall(10) - plain(10))) / 180, each without its start. flatness: largest "
        "by smallest overhead per step, (10,1) to (200,1). growth: that of (200,1) by that of (10,1). further steps: "
        "what each costs from one of these lengths to the next. start: until the first model call. finish: from the "
        "last model call to the result. real: "
        f"{REALISTIC.turns} turns, model {REALISTIC.model_ms} ms, {REALISTIC.tools} parallel tools of "
        f"{REALISTIC.tool_ms} ms.",
    )


def _like_for_like(rows: Sequence[Row]) -> Table:
    """What is left of overhead and start beside what has the same saving, and the same wait."""
    cells = []
    for row in rows:
        overheads = [figures.overhead_like_for_like(row, w) for w in LENGTHS]
        starts = [figures.starts(row, mode) for mode in ("durable", "plain")]
        if any((*overheads, *starts)):
            cells.append((row.name, *map(_spread, overheads), *(_spread(start, digits=0) for start in starts)))
    return Table(
        "Like for like: overhead per step, and start, ms: median (range)",
        (
            "durable runner",
            *(f"({w.turns},{w.tools})" for w in LENGTHS),
            "start",
            "start of a function with the plain Runner",
        ),
        cells,
        "The steps beside a plain Runner that keeps the identities of function calls, as a durable run does; the start "
        "beside that of another Inngest function of the same app, in turns.",
    )


def _walls(rows: Sequence[Row]) -> Table:
    """The whole times, as they were measured."""
    names = [w.name for w in (*INSTANT, REALISTIC)]
    cells = []
    for row in rows:
        cell = [
            _spread(figures.Spread.of(p.durable.wall for p in row.pairs[name]), digits=0, low_high=False)
            + " / "
            + _spread(figures.Spread.of(p.plain.wall for p in row.pairs[name]), digits=0, low_high=False)
            if name in row.pairs
            else "-"
            for name in names
        ]
        cells.append((row.name, *cell))
    heads = [f"({w.turns},{w.tools})" for w in INSTANT] + ["real"]
    return Table("Wall time, ms: the runner's / plain Runner's, medians", ("durable runner", *heads), cells)


def _replays(rows: Sequence[Row]) -> Table:
    """What a replay costs."""
    cells = [
        (
            row.name,
            entry["workload"],
            str(entry["steps"]),
            f"{entry['replay']:.2f}",
            f"{entry['deepest']:.2f}",
            str(entry["requests"]),
            f"{entry['cpu_per_request'] * MILLI:.1f}",
            f"{entry['cpu_ratio']:.2f}",
            f"{entry['cpu_ratio_served']:.2f}",
        )
        for row in rows
        for entry in row.extras.get("replay", [])
    ]
    return Table(
        "Replays",
        (
            "durable runner",
            "workload",
            "memoized steps",
            "replay, × plain",
            "its CPU, × plain",
            "requests",
            "CPU a request, ms",
            "CPU of all, × plain",
            "× plain in a request",
        ),
        cells,
        "replay: the request in which every step is memoized, from the ASGI call to its answer, by one plain pass of "
        "the same turns. CPU of all: every request of the run in the standard way, by plain passes that are cut after "
        "the step which each has done; in a request: by the same passes made by an Inngest function of the same app.",
    )


def _state(rows: Sequence[Row]) -> Table:
    """How much is kept of a run."""
    cells = []
    for row in rows:
        if not row.state:
            continue
        growth = [f"{row.state[w.name].bytes / w.steps:.0f}" if w.name in row.state else "-" for w in LENGTHS]
        ratios = [
            f"{(held := row.state[w.name]).bytes / held.full:.2f}, {held.bytes / held.json:.2f}"
            if w.name in row.state
            else "-"
            for w in (SMALL, LARGE, API, API_LARGE)
        ]
        cells.append((row.name, *growth, *ratios))
    return Table(
        "State: bytes a step, and bytes by the JSON of what model and tools answered",
        (
            "durable runner",
            *(f"({w.turns},{w.tools})" for w in LENGTHS),
            f"× outputs, tools answer {PAYLOAD} characters",
            f"× outputs, tools answer {LARGE.payload}",
            f"× outputs, {PAYLOAD}, OpenAI's model",
            f"× outputs, {LARGE.payload}, OpenAI's model",
        ),
        cells,
        "50 turns. First by the JSON of the tools' outputs and of the SDK's `ModelResponse`s with all their fields, as "
        "pydantic writes it; then by that without the fields that nobody has set. "
        "OpenAI's model: the SDK's adapter and OpenAI's client, with ids as long as the API's.",
    )


def _memory(rows: Sequence[Row]) -> Table:
    """What many runs at a time need."""
    cells = [
        (
            row.name,
            str(row.memory[0]["runs"]),
            *(f"{row.memory[i]['rss'] / MEGA:.0f}" for i in (0, len(row.memory) // 2, -1)),
            f"{row.memory[-1]['peak'] / MEGA:.0f}",
            _spread(figures.Spread.of(entry["seconds"] for entry in row.memory), scale=1, digits=1),
        )
        for row in rows
        if row.memory
    ]
    count = max((len(row.memory) for row in rows), default=0)
    return Table(
        f"Memory of the worker process, MB, over {count} rounds of concurrent runs of 10 turns",
        ("durable runner", "runs at a time", "first round", "middle", "last", "peak", "seconds a round"),
        cells,
    )


def _versions(rows: Sequence[Row], machine: str) -> Table:
    """What was measured, on what; and what was not, why."""
    cells = []
    for row in rows:
        if row.versions:
            said = ", ".join(f"{name} {version}" for name, version in row.versions.items())
            cells.append((row.name, said + (f"; stopped early: {row.missing}" if row.missing else "")))
        else:
            cells.append((row.name, f"not measured: {row.missing or 'said nothing'}"))
    return Table("Versions", ("durable runner", "versions and settings"), cells, machine)


def _spread(spread: Spread | None, *, scale: float = MILLI, digits: int = 2, low_high: bool = True) -> str:
    """The median, with the range behind it."""
    if spread is None:
        return "-"
    median, low, high = (f"{value * scale:.{digits}f}" for value in spread)
    return f"{median} ({low} to {high})" if low_high and low != high else median


def _line(cells: Sequence[str]) -> str:
    """One line of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def to_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows and their derived figures, for the results file."""
    return [
        {
            "row": row.name,
            "durability": row.durability,
            "versions": row.versions,
            "missing": row.missing,
            "slope_ms": None if (found := figures.slope(row)) is None else found * MILLI,
            "flatness": figures.flatness(row),
            "overhead_ms": {
                w.name: [value * MILLI for value in figures.overhead(row.pairs[w.name], w)]
                for w in INSTANT
                if w.name in row.pairs
            },
            "executions": figures.executions(row),
        }
        for row in rows
    ]
