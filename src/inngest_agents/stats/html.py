"""A run as one HTML page that needs nothing else: no script, no font, no picture, no connection.

Whatever comes from a run (names, inputs, outputs, errors) was written by others. All of it passes through `text`,
which escapes it, and the page carries a Content-Security-Policy that forbids scripts and every kind of loading, so
that a mistake here would still run nothing. Values in `style` attributes are only ever numbers made here.
"""

from __future__ import annotations

import html
import json
import unicodedata
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib import resources
from typing import Any, Final

from inngest_agents.stats.breakdown import Breakdown
from inngest_agents.stats.render import BREAKDOWN_TITLES, breakdown_grid, money, seconds
from inngest_agents.stats.report import NOTHING, ReportStep, Row, RunReport, rows
from inngest_agents.stats.stats import RunStats

VALUE_LIMIT: Final = 100_000
"""Characters of an input or output that are shown."""

_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_COLORS: Final = {
    "model": "model",
    "guardrail": "guardrail",
    "session": "session",
    "handoff": "handoff",
    "tool": "tool",
    "agent_tool": "tool",
    "mcp": "tool",
    "mcp_list": "session",
    "shell": "tool",
    "computer": "tool",
    "patch": "tool",
}
_TICKS: Final = 5


def text(value: object) -> str:
    """Escape anything for HTML, in text and in quoted attributes.

    Control characters and those that turn the direction of the text around are shown as their code, because they
    could make a page look like what it is not; lone surrogates, because they cannot be written as UTF-8.
    """
    shown = "".join(char if _harmless(char) else f"\\u{ord(char):04x}" for char in str(value))
    return html.escape(shown, quote=True)


def _harmless(char: str) -> bool:
    return char in "\n\t\u200d" or unicodedata.category(char) not in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


def page(report: RunReport) -> str:
    """Make the page of a run.

    Args:
        report: the run.

    Returns:
        A whole HTML document, to be written as UTF-8.
    """
    stats = report.statistics()
    css = resources.files(__package__).joinpath("report.css").read_text(encoding="utf-8")
    body = "\n".join(
        part
        for part in (
            _header(report),
            _tiles(report, stats),
            _notes(report, stats),
            _waterfall(report),
            _tables(stats),
            _run_values(report),
            "<footer>Made by inngest-agents. Times are of each step's attempts; a dashed line is waiting.</footer>",
        )
        if part
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{text(_POLICY)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(report.title)}</title>\n<style>\n{css}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _header(report: RunReport) -> str:
    start, _ = report.span()
    when = datetime.fromtimestamp(start, UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if start else ""
    meta = " · ".join(text(part) for part in (report.run_id, when, report.note) if part)
    status = f'<span class="status {text(report.status)}">{text(report.status)}</span>'
    return f'<header><h1>{text(report.title)}</h1>{status}<span class="meta">{meta}</span></header>'


def _tiles(report: RunReport, stats: RunStats) -> str:
    start, end = report.span()
    estimated = " (estimated)" if stats.estimated else ""
    cost = money(stats.total_cost_usd, complete=stats.cost_complete)
    known = "known cost: not all prices are known" if not stats.cost_complete else "cost in US dollars"
    tiles = (
        (cost, known),
        (f"{stats.total_tokens:,}", f"tokens{estimated}: {stats.input_tokens:,} in, {stats.output_tokens:,} out"),
        (f"{stats.cached_tokens:,}", f"cached input tokens; {stats.reasoning_tokens:,} of reasoning"),
        (f"{stats.total_model_calls:,}", f"model calls by {_plural(stats.num_agents, 'agent')}"),
        (f"{stats.total_tool_calls:,}", f"tool calls; {_plural(stats.total_handoffs, 'handoff')}"),
        (seconds(end - start), f"from start to end; {seconds(stats.model_seconds)} in models"),
    )
    boxes = "".join(f'<div class="card tile"><b>{text(a)}</b><span>{text(b)}</span></div>' for a, b in tiles)
    return f'<section class="tiles">{boxes}</section>'


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _notes(report: RunReport, stats: RunStats) -> str:
    notes = [f'<p class="card note bad">{text(report.error)}</p>'] if report.error else []
    notes.extend(
        f'<p class="card note">{text(_plural(item.usages, "call"))} of {text(item.model)}: {text(item.reason)}</p>'
        for item in stats.unpriced
    )
    return "".join(notes)


def _waterfall(report: RunReport) -> str:
    start, end = report.span()
    length = max(end - start, 1e-3)
    lines = "".join(_line(row, start, length) for row in rows(report))
    if not lines:
        return '<h2>Steps</h2><p class="card empty">No steps.</p>'
    ticks = "".join(
        f'<span style="left:{100 * tick / (_TICKS - 1):.2f}%">{text(_tick(length * tick / (_TICKS - 1)))}</span>'
        for tick in range(_TICKS)
    )
    axis = (
        f'<div class="axis"><span>Step</span><div class="ticks">{ticks}</div>'
        "<span>Time</span><span>Tokens</span><span>Cost</span></div>"
    )
    return f'<h2>Steps</h2><section class="card waterfall">{axis}{lines}</section>'


def _tick(value: float) -> str:
    return "0" if not value else seconds(value)


def _line(row: Row, start: float, length: float) -> str:
    indent = f' style="padding-left:{20 * min(row.depth, 8)}px"'
    if row.step is None:
        bar = f'<div class="span"{_place(row.begin, row.end, start, length)}></div>'
        return (
            f'<div class="group"><div class="row"><div class="name"{indent}><span class="arrow"></span>'
            f'<span class="label">{text(row.group)}</span></div><div class="track">{bar}</div>'
            f"<span>{text(seconds(row.end - row.begin))}</span><span></span><span></span></div></div>"
        )
    step = row.step
    color = _COLORS.get(step.kind, "other")
    title = step.title or step.step_id
    took = sum(attempt.ended_at - attempt.started_at for attempt in step.attempts)
    agent = step.record.agent if step.record and step.record.agent != title else ""
    failed = '<span class="bad-text">failed</span>' if step.status == "failed" else ""
    return (
        f'<details class="step k-{color}"><summary class="row"><div class="name"{indent}>'
        f'<span class="arrow">▶</span><span class="kind">{text(step.kind)}</span>'
        f'<span class="label" title="{text(step.step_id)}">{text(title)}'
        f'<span class="agent">{text(agent)}</span></span>{failed}</div>'
        f'<div class="track">{_bars(step, start, length)}</div>'
        f"<span>{text(seconds(took))}</span><span>{text(_tokens(step))}</span><span>{text(_cost(step))}</span>"
        f"</summary>{_inside(step)}</details>"
    )


def _place(begin: float, end: float, start: float, length: float) -> str:
    left = min(max(100 * (begin - start) / length, 0.0), 100.0)
    width = min(max(100 * (end - begin) / length, 0.0), 100.0 - left)
    return f' style="left:{left:.3f}%;width:{width:.3f}%"'


def _bars(step: ReportStep, start: float, length: float) -> str:
    parts = []
    before = step.queued_at
    for attempt in step.attempts:
        if before is not None and attempt.started_at > before:
            parts.append(f'<div class="wait"{_place(before, attempt.started_at, start, length)}></div>')
        kind = " bad" if attempt.error else " running" if step.status == "running" else ""
        parts.append(
            f'<div class="bar{kind}"{_place(attempt.started_at, attempt.ended_at, start, length)}></div>',
        )
        before = attempt.ended_at
    return "".join(parts)


def _tokens(step: ReportStep) -> str:
    usages = step.record.usages if step.record else ()
    total = sum(usage.total_tokens for usage in usages)
    return f"{'≈ ' if any(usage.estimated for usage in usages) else ''}{total:,}" if total else ""


def _cost(step: ReportStep) -> str:
    if step.record is None or not step.record.usages:
        return ""
    total = Breakdown()
    for usage in step.record.usages:
        total.add_usage(usage)
    return money(total.cost_usd, complete=total.cost_complete)


def _inside(step: ReportStep) -> str:
    facts = "".join(f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in _facts(step))
    values = "".join(
        f'<div class="value"><h3>{name}</h3>{_value(value)}</div>'
        for name, value in (("Input", step.input), ("Output", step.output))
        if value is not NOTHING
    )
    error = f'<p class="card note bad">{text(step.error)}</p>' if step.error else ""
    attempts = ""
    if len(step.attempts) > 1:
        items = "".join(
            f"<li>{text(seconds(attempt.ended_at - attempt.started_at))}: {text(attempt.error or 'succeeded')}</li>"
            for attempt in step.attempts
        )
        attempts = f'<ol class="attempts">{items}</ol>'
    return (
        f'<div class="inside"><dl class="facts">{facts}</dl>{error}{attempts}<div class="values">{values}</div></div>'
    )


def _facts(step: ReportStep) -> Iterable[tuple[str, object]]:
    yield "step", step.step_id
    record = step.record
    if record is None:
        return
    if record.agent:
        yield "agent", record.agent
    if record.attempts > 1:
        yield "attempts", record.attempts
    if record.waited > 0:
        yield "waited", seconds(record.waited)
    for usage in record.usages:
        tokens = usage.tokens
        yield "model", usage.billed_model or "unknown"
        yield "input", f"{tokens.input_tokens:,} ({tokens.cached_input_tokens:,} cached)"
        yield "output", f"{tokens.output_tokens:,} ({tokens.reasoning_tokens:,} reasoning)"
        if usage.estimated:
            yield "estimated by", usage.estimate_note
        if usage.price is not None:
            yield "price", f"${usage.price.usd}" if usage.price.usd else f"unknown: {usage.price.reason}"
    if record.finish_reasons:
        yield "finished", ", ".join(record.finish_reasons)
    if record.call_id:
        yield "call", record.call_id


def _value(value: Any) -> str:
    shown = value if isinstance(value, str) else _json(value)
    rest = len(shown) - VALUE_LIMIT
    more = f"\n… {rest:,} more characters" if rest > 0 else ""
    return f"<pre>{text(shown[:VALUE_LIMIT] + more)}</pre>"


def _json(value: Any) -> str:
    try:
        return json.dumps(value, indent=2, ensure_ascii=False, default=str)
    except (TypeError, ValueError):
        return repr(value)


def _tables(stats: RunStats) -> str:
    tables = []
    for name, title in BREAKDOWN_TITLES:
        sums: Mapping[str, Breakdown] = getattr(stats, name)
        if sums and not (name == "by_path" and len(sums) == 1):
            tables.append(_table(title, sums))
    return f'<h2>What it used</h2><section class="tables">{"".join(tables)}</section>' if tables else ""


def _table(title: str, sums: Mapping[str, Breakdown]) -> str:
    grid = breakdown_grid(title, sums)
    most = max((item.cost for item in sums.values()), default=0)
    head = "".join(f"<th>{text(column)}</th>" for column in grid.columns)
    lines = []
    for row, item in zip(grid.rows, sums.values(), strict=True):
        share = f'<i class="share" style="width:{float(100 * item.cost / most):.1f}%"></i>' if most else ""
        cells = "".join(f"<td>{text(cell)}</td>" for cell in row[1:])
        lines.append(f"<tr><td>{text(row[0])}{share}</td>{cells}</tr>")
    return (
        f'<div class="card scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
    )


def _run_values(report: RunReport) -> str:
    parts = [
        f'<details class="card run-values"><summary>{name}</summary>{_value(value)}</details>'
        for name, value in (("Input of the run", report.input), ("Output of the run", report.output))
        if value is not NOTHING
    ]
    return f'<h2>Input and output</h2><section class="tables">{"".join(parts)}</section>' if parts else ""
