"""What many runs cost: sums by day, function, agent and model, as table, CSV and plot."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from decimal import Decimal
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from inngest_agents.stats.breakdown import EXACT, Breakdown, decimal_text
from inngest_agents.stats.render import Grid, draw, money, printable, rich_table, text_table

if TYPE_CHECKING:
    from inngest_agents.stats.stats import RunStats

Dimension: TypeAlias = Literal["day", "function", "agent", "model"]
DIMENSIONS: Final[tuple[Dimension, ...]] = ("day", "function", "agent", "model")

_UNKNOWN: Final = "unknown"
_COLUMNS: Final = ("Runs", "Model calls", "Input", "Cached", "Output", "Cost")
_BLOCKS: Final = " ▏▎▍▌▋▊▉█"


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What a sum needs to know about a run besides its statistics."""

    run_id: str
    function: str = ""
    started_at: float = 0.0
    """Seconds since the epoch."""


@dataclass(slots=True)
class CostRow:
    """The sum of some runs, or of a part of them."""

    keys: tuple[str, ...]
    """One per dimension."""
    runs: set[str] = field(default_factory=set)
    """Ids of the runs that took part."""
    total: Breakdown = field(default_factory=Breakdown)


def sum_costs(
    runs: Iterable[tuple[RunInfo, RunStats]],
    by: Sequence[Dimension] = ("day",),
    *,
    timezone: tzinfo = UTC,
) -> list[CostRow]:
    """Sum runs up.

    Args:
        runs: each with its statistics; for "agent" and "model" together, with their timelines.
        by: the dimensions; a row for each combination that occurs. A run counts in every row it takes part in.
        timezone: decides to which day a run belongs, by its start.

    Returns:
        The rows by their keys, days first to last.

    Raises:
        ValueError: an unknown dimension, or none.
    """
    unknown = [name for name in by if name not in DIMENSIONS]
    if unknown or not by:
        raise ValueError(f"costs can be summed by {', '.join(DIMENSIONS)}; not by {', '.join(unknown) or 'nothing'}")
    rows: dict[tuple[str, ...], CostRow] = {}
    for info, stats in runs:
        day = datetime.fromtimestamp(info.started_at, timezone).date().isoformat() if info.started_at else _UNKNOWN
        for agent, model, part in _parts(stats, by):
            known = {"day": day, "function": info.function, "agent": agent, "model": model}
            keys = tuple(known[name] or _UNKNOWN for name in by)
            row = rows.setdefault(keys, CostRow(keys))
            row.runs.add(info.run_id)
            row.total.add(part)
    return [rows[keys] for keys in sorted(rows)]


def _parts(stats: RunStats, by: Sequence[Dimension]) -> Iterable[tuple[str, str, Breakdown]]:
    """Split a run's sums as far as the dimensions ask for it: (agent, model, sums)."""
    if "agent" in by and "model" in by:
        for record in stats.timeline:
            for usage in record.usages:
                part = Breakdown(model_calls=record.kind == "model" and usage is record.usage)
                part.add_usage(usage, record.calls_of(usage))
                yield usage.agent or record.agent, usage.billed_model, part
    elif "agent" in by:
        yield from ((name, "", part) for name, part in stats.by_agent.items())
    elif "model" in by:
        yield from (("", name, part) for name, part in stats.by_model.items())
    else:
        yield "", "", stats.total


def grand_total(rows: Iterable[CostRow]) -> CostRow:
    """All rows together."""
    total = CostRow(("Total",))
    for row in rows:
        total.runs |= row.runs
        total.total.add(row.total)
    return total


def cost_grid(rows: Sequence[CostRow], by: Sequence[Dimension]) -> Grid:
    """The rows as a table with a line for the total."""
    lines = [_cells(row, row.keys) for row in rows]
    lines.append(_cells(grand_total(rows), ("Total", *[""] * (len(by) - 1))))
    return Grid((*(name.capitalize() for name in by), *_COLUMNS), lines)


def _cells(row: CostRow, keys: tuple[str, ...]) -> tuple[str, ...]:
    sums = row.total
    figures = (len(row.runs), sums.model_calls, sums.input_tokens, sums.cached_tokens, sums.output_tokens)
    return (*keys, *(f"{value:,}" for value in figures), money(sums.cost_usd, complete=sums.cost_complete))


def cost_table(rows: Sequence[CostRow], by: Sequence[Dimension], *, width: int | None = None) -> str:
    """The rows for a terminal: by rich where it is installed, else in plain text.

    Args:
        rows: from `sum_costs`.
        by: the dimensions given to it.
        width: columns of the terminal; None for that of the terminal at hand.
    """
    grid = cost_grid(rows, by)
    try:
        from rich.console import Console
    except ImportError:
        return printable(text_table(grid, text_columns=len(by)))
    console = Console(width=width, no_color=True)
    return draw(console, rich_table(grid, width=console.width, text_columns=len(by)))


def cost_csv(rows: Iterable[CostRow], by: Sequence[Dimension]) -> str:
    """The rows as CSV with a header; dollars exactly, empty where no price is known.

    A name that a spreadsheet would take for a formula gets an apostrophe in front.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    fields = (
        "model_calls",
        "tool_calls",
        "input_tokens",
        "cached_tokens",
        "cache_write_tokens",
        "output_tokens",
        "reasoning_tokens",
        "total_tokens",
    )
    writer.writerow([*by, "runs", *fields, "cost_usd", "cost_complete"])
    for row in rows:
        sums = row.total
        dollars = "" if sums.cost_usd is None else decimal_text(sums.cost)
        figures = [getattr(sums, name) for name in fields]
        complete = str(sums.cost_complete).lower()
        writer.writerow([*map(_cell, row.keys), len(row.runs), *figures, dollars, complete])
    return out.getvalue()


def _cell(name: str) -> str:
    return f"'{name}" if name.startswith(("=", "+", "-", "@", "\t", "\r")) else name


def cost_bars(rows: Sequence[CostRow], *, width: int = 100) -> str:
    """The rows as bars of text for a terminal, one line each.

    Args:
        rows: from `sum_costs`.
        width: columns of the terminal.
    """
    if not rows:
        return "no runs"
    labels = [printable(" · ".join(row.keys)) for row in rows]
    prices = [money(row.total.cost_usd, complete=row.total.cost_complete) for row in rows]
    label_width = min(max(map(len, labels)), width // 3)
    room = max(10, width - label_width - max(map(len, prices)) - 4)
    most = max(row.total.cost for row in rows)
    lines = []
    for row, label, shown in zip(rows, labels, prices, strict=True):
        eighths = round(8 * room * _share(row.total.cost, most))
        bar = _BLOCKS[-1] * (eighths // 8) + _BLOCKS[eighths % 8].strip()
        lines.append(f"{_fit(label, label_width)}  {bar} {shown}")
    return "\n".join(lines)


def _fit(label: str, width: int) -> str:
    return label.ljust(width) if len(label) <= width else f"{label[: width - 1]}…"


def _share(value: Decimal, most: Decimal) -> float:
    return float(EXACT.divide(value, most)) if most else 0.0


def cost_svg(rows: Sequence[CostRow], *, title: str = "Cost in US dollars") -> str:
    """The rows as a bar chart: an SVG picture that needs nothing else, light and dark.

    Args:
        rows: from `sum_costs`.
        title: the heading.
    """
    width, bar, gap, left, right, top = 860, 22, 10, 240, 90, 52
    room = width - left - right
    height = top + len(rows) * (bar + gap) + 20
    most = max((row.total.cost for row in rows), default=Decimal(0))
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            'role="img" font-family="system-ui, sans-serif" font-size="13">'
        ),
        (
            "<style>.page{fill:#fff}.t{fill:#1b1f27}.s{fill:#646d7c}.b{fill:#5b5bd6}"
            "@media (prefers-color-scheme: dark){.page{fill:#191c23}.t{fill:#e8eaef}.s{fill:#98a1b2}.b{fill:#8f8ff5}}"
            "</style>"
        ),
        f'<rect class="page" width="{width}" height="{height}" rx="10"/>',
        f'<text class="t" x="20" y="30" font-size="16" font-weight="600">{_svg_text(title)}</text>',
    ]
    for place, row in enumerate(rows):
        y = top + place * (bar + gap)
        label = " · ".join(row.keys)
        length = room * _share(row.total.cost, most)
        shown = money(row.total.cost_usd, complete=row.total.cost_complete)
        middle = y + bar * 0.7
        parts.append(
            f'<text class="s" x="{left - 12}" y="{middle:.1f}" text-anchor="end">{_svg_text(_fit(label, 32).strip())}'
            f"<title>{_svg_text(label)}</title></text>"
            f'<rect class="b" x="{left}" y="{y}" width="{max(length, 1.5):.1f}" height="{bar}" rx="4"/>'
            f'<text class="t" x="{left + length + 8:.1f}" y="{middle:.1f}">{_svg_text(shown)}</text>',
        )
    return "\n".join((*parts, "</svg>")) + "\n"


def cost_plot(rows: Sequence[CostRow], by: Sequence[Dimension], *, is_html: bool = False) -> str:
    """`cost_svg` with a heading that names the dimensions; or as an HTML page that needs nothing else.

    Args:
        rows: from `sum_costs`.
        by: the dimensions given to it.
        is_html: a page instead of the bare picture.
    """
    title = f"Cost in US dollars by {', '.join(by)}"
    picture = cost_svg(rows, title=title)
    if not is_html:
        return picture
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{title}</title>\n</head>\n<body>\n{picture}</body>\n</html>\n"
    )


def _svg_text(value: str) -> str:
    # XML allows no control characters and no lone surrogates, not even escaped.
    return html.escape(printable(value).replace("\n", " "), quote=True)
