"""Draws runs and their steps for people: a table, a waterfall, and a live view of both."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from .models import SECOND, RunStatus, StepStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import Console, RenderableType

    from .models import Run, Step
    from .store import Store

_BAR_WIDTH = 36
_REFRESH_SECONDS = 0.2

_RUN_STYLES = {
    RunStatus.QUEUED: "dim",
    RunStatus.RUNNING: "cyan",
    RunStatus.COMPLETED: "green",
    RunStatus.FAILED: "red",
    RunStatus.CANCELLED: "yellow",
}
_STEP_MARKS = {
    StepStatus.COMPLETED: ("✓", "green"),
    StepStatus.FAILED: ("✗", "red"),
    StepStatus.TIMED_OUT: ("⏱", "yellow"),
    StepStatus.RETRYING: ("↻", "yellow"),
    StepStatus.SLEEPING: ("z", "blue"),
    StepStatus.WAITING: ("…", "blue"),
    StepStatus.INVOKING: ("→", "blue"),
    StepStatus.PLANNED: ("·", "dim"),
}


def format_duration(ns: int) -> str:
    """A duration in nanoseconds as a person reads it: `340 µs`, `1.2 s`, `3 min 5 s`."""
    seconds = ns / SECOND
    if seconds < 0.001:
        return f"{ns / 1000:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms" if seconds >= 0.01 else f"{seconds * 1000:.1f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def runs_table(runs: Sequence[Run], now: int) -> RenderableType:
    """The runs, one a line, with their state and duration.

    Args:
        runs: the runs, in the order to show.
        now: nanoseconds since the epoch, for the duration of those that still run.
    """
    table = Table(box=None, pad_edge=False)
    for name in ("run", "function", "state", "steps", "started", "took"):
        # On a narrow terminal a long function name gives way first.
        table.add_column(
            name,
            header_style="bold dim",
            no_wrap=True,
            justify="right" if name == "steps" else "left",
            min_width={"run": 26, "state": 9, "steps": 5, "started": 15, "took": 7}.get(name, 6),
        )
    for run in runs:
        start = run.started_ns or run.queued_ns
        table.add_row(
            run.id,
            run.function_id,
            Text(run.status, style=_RUN_STYLES[run.status]),
            str(run.step_count),
            time.strftime("%d %b %H:%M:%S", time.localtime(start / SECOND)),
            format_duration(max(0, (run.ended_ns or now) - start)),
        )
    return table


def waterfall(run: Run, steps: Sequence[Step], now: int) -> RenderableType:
    """One run: its head, its steps as bars over time with their failed attempts, and how it ended.

    Args:
        run: the run.
        steps: its steps.
        now: nanoseconds since the epoch, for what is still under way.
    """
    start = min([run.started_ns or run.queued_ns, *(s.started_ns or s.created_ns for s in steps)])
    end = max([run.ended_ns or now, *(s.ended_ns or 0 for s in steps)])
    head = Text.assemble(
        (run.id, "bold"),
        f"  {run.function_id}  ",
        (run.status, _RUN_STYLES[run.status]),
        f"  {format_duration(end - start)}",
    )
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, justify="right")
    table.add_column(style="dim")
    for step in steps:
        table.add_row(*_step_row(step, start, end, now))
    parts: list[RenderableType] = [head, table]
    if run.error is not None:
        parts.append(Text(f"✗ {run.error.get('name')}: {run.error.get('message')}", style="red"))
    elif run.output_json is not None:
        parts.append(Text(f"= {_shorten(run.output_json, 400)}"))
    return Group(*parts)


def _step_row(step: Step, start: int, end: int, now: int) -> tuple[RenderableType, ...]:
    mark, style = _STEP_MARKS[step.status]
    begin = step.started_ns or step.created_ns
    finish = step.ended_ns or now
    return (
        Text.assemble((f"{mark} ", style), step.name),
        Text(_bar(begin - start, finish - start, end - start), style=style),
        format_duration(max(0, finish - begin)),
        "  ".join(_notes(step)),
    )


def _bar(begin: int, finish: int, total: int) -> str:
    """A bar from `begin` to `finish` on a line that is `total` long; never shorter than one mark."""
    scale = _BAR_WIDTH / max(total, 1)
    left = min(_BAR_WIDTH - 1, max(0, int(begin * scale)))
    width = min(_BAR_WIDTH - left, max(1, round((finish - begin) * scale)))
    return (" " * left + "━" * width).ljust(_BAR_WIDTH)


def _notes(step: Step) -> list[str]:
    """What there is to say of a step beside its time: failed attempts, the final error, tokens and cost."""
    notes = []
    failed = len(step.attempts) - (step.status is StepStatus.FAILED)
    if failed > 0:
        notes.append(f"{failed} failed attempt{'s' if failed > 1 else ''}")
    if step.status in (StepStatus.FAILED, StepStatus.RETRYING) and step.attempts:
        error = step.attempts[-1].error
        notes.append(_shorten(f"{error.get('name')}: {error.get('message')}", 80))
    return notes + [note for entry in step.metadata if (note := _usage_note(entry))]


def _usage_note(entry: dict[str, Any]) -> str:
    values = entry.get("values")
    if entry.get("kind") != "inngest.ai" or not isinstance(values, dict):
        return ""
    tokens = values.get("total_tokens")
    cost = values.get("estimated_cost")
    parts = [str(values.get("response_model") or values.get("request_model") or "")]
    parts += [f"{tokens} tokens"] if tokens else []
    parts += [f"${cost:.4f}"] if isinstance(cost, int | float) else []
    return " ".join(part for part in parts if part)


def _shorten(text: str, limit: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def live_view(store: Store, now: int, *, apps: Sequence[str] = (), recent: int = 8) -> RenderableType:
    """The console's picture: what is registered, the latest runs, and the steps of those under way (or the latest)."""
    functions = [f.id for f in store.functions()]
    head = Text.assemble(("functions ", "bold dim"), ", ".join(functions) or Text("none yet", style="dim"))
    parts: list[RenderableType] = [*(Text(app, style="dim") for app in apps), head, Text("")]
    runs = store.runs(limit=recent)
    if not runs:
        return Group(*parts, Text("no runs yet: send an event", style="dim"))
    parts.append(runs_table(runs, now))
    shown = [run for run in runs if not run.status.ended][:3] or runs[:1]
    for run in reversed(shown):
        parts += [Text(""), waterfall(run, store.steps(run.id)[-15:], now)]
    return Group(*parts)


def watch(store: Store, console: Console, *, apps: Callable[[], Sequence[str]], stop: Callable[[], bool]) -> None:
    """Show the live view until `stop` says so.

    Args:
        store: the state to show.
        console: where to.
        apps: a line on each app.
        stop: asked five times a second.
    """
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while not stop():
            live.update(live_view(store, time.time_ns(), apps=apps()), refresh=True)
            time.sleep(_REFRESH_SECONDS)
