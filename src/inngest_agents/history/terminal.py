"""Draws runs of any source in a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from inngest_agents.history.source import RunSummary, is_durable
from inngest_agents.stats.breakdown import Breakdown
from inngest_agents.stats.render import money, printable, rich_stats, seconds
from inngest_agents.stats.report import ReportStep, Row, RunReport, rows

_BAR_WIDTH: Final = 32
_STYLES: Final = {
    "completed": ("✓", "green"),
    "failed": ("✗", "red"),
    "running": ("·", "cyan"),
    "waiting": ("…", "blue"),
    "cancelled": ("-", "yellow"),
}


def runs_table(runs: Iterable[RunSummary]) -> RenderableType:
    """The runs, one a line."""
    table = Table(box=None, pad_edge=False)
    for name, width in (("run", 26), ("function", 6), ("state", 9), ("started", 15), ("took", 7)):
        table.add_column(name, header_style="bold dim", no_wrap=True, min_width=width)
    for run in runs:
        start = run.started_at or run.queued_at
        table.add_row(
            Text(printable(run.run_id)),
            Text(printable(run.function)),
            Text(run.status, style=_STYLES[run.status][1]),
            time.strftime("%d %b %H:%M:%S", time.localtime(start)),
            _took(run, start),
        )
    return table


def _took(run: RunSummary, start: float) -> str:
    """How long a run took, or takes so far; a server may know that it has ended, and not when."""
    is_open = run.status in ("running", "waiting")
    end = run.ended_at or (time.time() if is_open else None)
    return "" if end is None else seconds(max(0.0, end - start))


def run_view(report: RunReport) -> RenderableType:
    """One run: its steps as bars over time, how it ended, and what it used."""
    start, end = report.span()
    mark, style = _STYLES[report.status]
    head = Text.assemble(
        (printable(report.run_id), "bold"),
        f"  {printable(report.title)}  ",
        (f"{mark} {report.status}", style),
        f"  {seconds(end - start)}",
    )
    table = Table(box=None, pad_edge=False, show_header=False)
    for justify in ("left", "left", "right", "left"):
        table.add_column(justify=justify, no_wrap=justify == "right")
    for row in rows(report):
        table.add_row(*_line(row, start, max(end - start, 1e-3)))
    parts: list[RenderableType] = [head, table]
    if report.error:
        parts.append(Text(printable(f"✗ {report.error}"), style="red"))
    if is_durable(report):
        parts += [Text(""), rich_stats(report.statistics())]
    return Group(*parts)


def _line(row: Row, start: float, length: float) -> tuple[RenderableType, ...]:
    indent = "  " * row.depth
    bar = _bar(row.begin - start, row.end - start, length)
    took = seconds(max(0.0, row.end - row.begin))
    if row.step is None:
        return Text(printable(f"{indent}▾ {row.group}"), style="bold"), Text(bar, style="dim"), took, ""
    mark, style = _STYLES[row.step.status]
    title = printable(row.step.title or row.step.step_id)
    return Text.assemble(indent, (f"{mark} ", style), title), Text(bar, style=style), took, Text(_notes(row.step))


def _bar(begin: float, end: float, length: float) -> str:
    left = min(_BAR_WIDTH - 1, max(0, int(begin / length * _BAR_WIDTH)))
    width = min(_BAR_WIDTH - left, max(1, round((end - begin) / length * _BAR_WIDTH)))
    return (" " * left + "━" * width).ljust(_BAR_WIDTH)


def _notes(step: ReportStep) -> str:
    """Failed attempts, the final error, tokens and cost."""
    failed = sum(bool(attempt.error) for attempt in step.attempts) - (step.status == "failed")
    notes = [f"{failed} failed attempt{'s' if failed > 1 else ''}"] if failed > 0 else []
    notes += [step.error] if step.error else []
    usages = step.record.usages if step.record else ()
    if usages:
        total = Breakdown()
        for usage in usages:
            total.add_usage(usage)
        known = money(total.cost_usd, complete=total.cost_complete)
        notes.append(f"{usages[0].billed_model} {total.total_tokens:,} tokens {known}".strip())
    return printable("  ".join(" ".join(note.split()) for note in notes))
