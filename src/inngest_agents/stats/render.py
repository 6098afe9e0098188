"""Statistics for a terminal: tables with rich where it is installed, plain text where it is not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rich.console import RenderableType

    from inngest_agents.stats.breakdown import Breakdown
    from inngest_agents.stats.stats import RunStats

BREAKDOWN_TITLES: Final = (
    ("by_agent", "Agent"),
    ("by_model", "Model"),
    ("by_tool", "Tool"),
    ("by_path", "Path"),
)


@dataclass(frozen=True, slots=True)
class Grid:
    """A table before it is drawn. The first columns are text, the others are figures."""

    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


LOG_WIDTH: Final = 160
"""Columns where there is no terminal: the 80 that rich takes then cut figures in two, as in a worker's log."""


MIN_NAME: Final = 6
"""Columns that a name must have left to be read."""


def money(value: float | None, *, complete: bool = True) -> str:
    """Dollars for a reader: "$0.0123"; "?" if unknown; with "+" where a part of the cost is unknown."""
    if value is None:
        return "?"
    digits = 2 if value >= 100 else 4 if value >= 0.01 or value == 0 else 6
    return f"${value:,.{digits}f}{'' if complete else '+'}"


def seconds(value: float) -> str:
    """A duration for a reader: "840 ms", "2.4 s", "3 min 05 s", "2 h 07 min"."""
    if value < 0.9995:
        return f"{value * 1000:.0f} ms"
    if value < 59.95:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def totals(stats: RunStats) -> list[tuple[str, str]]:
    """The figures of the whole run, each with its name."""
    tokens = f"{stats.input_tokens:,} in ({stats.cached_tokens:,} cached), {stats.output_tokens:,} out"
    lines = [
        ("Agents", " → ".join(stats.agents_involved) or "none"),
        ("Models", ", ".join(stats.models) or "none"),
        ("Model calls", f"{stats.total_model_calls:,}"),
        ("Tool calls", f"{stats.total_tool_calls:,}"),
        ("Handoffs", f"{stats.total_handoffs:,}"),
        ("Tokens", tokens + (", estimated" if stats.estimated else "")),
        ("Cost", money(stats.total_cost_usd, complete=stats.cost_complete)),
        ("Time", f"{seconds(stats.wall_seconds)} ({seconds(stats.model_seconds)} in models)"),
    ]
    if stats.reasoning_tokens:
        lines.insert(6, ("Reasoning", f"{stats.reasoning_tokens:,} of the output tokens"))
    if stats.total.failures or stats.total.retries:
        lines.append(("Trouble", f"{stats.total.failures} failed, {stats.total.retries} retries"))
    lines.extend(("Prices", f"{item.model}: {item.reason}") for item in stats.unpriced)
    return lines


def breakdown_grid(title: str, sums: Mapping[str, Breakdown]) -> Grid:
    """One breakdown as a table; the first column is headed by `title`."""
    columns = (title, "Model calls", "Tool calls", "Failed", "Input", "Cached", "Output", "Cost", "Time")
    rows: list[tuple[str, ...]] = [
        (
            name,
            _figure(item.model_calls),
            _figure(item.tool_calls),
            _figure(item.failures),
            _figure(item.input_tokens),
            _figure(item.cached_tokens),
            _figure(item.output_tokens),
            money(item.cost_usd, complete=item.cost_complete) if item.priced or item.unpriced else "",
            seconds(item.seconds),
        )
        for name, item in sums.items()
    ]
    # The first and the last column always say something; of the figures, only those that anything has.
    last = len(columns) - 1
    kept = [place for place in range(last + 1) if place in {0, last} or any(row[place] for row in rows)]
    shown: list[tuple[str, ...]] = [tuple(row[place] for place in kept) for row in rows]
    return Grid(tuple(columns[place] for place in kept), shown)


def _figure(value: int) -> str:
    return f"{value:,}" if value else ""


def grids(stats: RunStats) -> Iterable[Grid]:
    """The breakdowns that say more than the totals."""
    for name, title in BREAKDOWN_TITLES:
        sums: dict[str, Breakdown] = getattr(stats, name)
        if sums and not (name == "by_path" and len(sums) == 1):
            yield breakdown_grid(title, sums)


def rich_table(grid: Grid, *, width: int, text_columns: int = 1) -> RenderableType:
    """A table of rich, for so many columns of a terminal. Needs rich."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, header_style="bold")
    # A figure that is cut in two reads as two, so the names are folded instead, as long as something is left of them.
    is_whole = _figures_width(grid, text_columns) + MIN_NAME * text_columns <= width
    for place, column in enumerate(grid.columns):
        if place < text_columns:
            table.add_column(column, overflow="fold")
        else:
            table.add_column(column.replace(" ", "\n"), justify="right", overflow="fold", no_wrap=is_whole)
    for row in grid.rows:
        # Text, because rich would read "[…]" in a string as markup.
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table


def _figures_width(grid: Grid, text_columns: int) -> int:
    """What a table takes beside its names: its figures, and the space between all columns."""
    figures = range(text_columns, len(grid.columns))
    widest = [max(map(len, (*grid.columns[at].split(), *(row[at] for row in grid.rows)))) for at in figures]
    return sum(widest) + 3 * len(grid.columns)


def rich_stats(stats: RunStats, *, width: int = 80) -> RenderableType:
    """All of a run's statistics for rich, for so many columns of a terminal. Needs rich."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    head = Table.grid(padding=(0, 2))
    for name, value in totals(stats):
        head.add_row(Text(name, style="bold"), Text(printable(value)))
    return Group(head, *(rich_table(grid, width=width) for grid in grids(stats)))


def text_table(grid: Grid, *, text_columns: int = 1) -> str:
    """A table in plain text."""
    rows = [grid.columns, *grid.rows]
    widths = [max(len(row[place]) for row in rows) for place in range(len(grid.columns))]
    lines = [
        "  ".join(
            cell.ljust(width) if place < text_columns else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join((lines[0], "  ".join("-" * width for width in widths), *lines[1:]))


def text_stats(stats: RunStats) -> str:
    """All of a run's statistics in plain text."""
    named = totals(stats)
    width = max(len(name) for name, _ in named)
    head = "\n".join(f"{name.ljust(width)}  {value}" for name, value in named)
    return printable("\n\n".join((head, *map(text_table, grids(stats)))))


def printable(text: str) -> str:
    """Take out control characters: names and messages come from outside, and a terminal obeys them."""
    return "".join(char if char.isprintable() or char == "\n" else "�" for char in text)


def render(stats: RunStats, *, width: int | None = None, color: bool = False) -> str:
    """A run's statistics as text for a terminal.

    Args:
        stats: what to show.
        width: columns; None for those of the terminal at hand, or for 160 where there is none.
        color: with ANSI colours.
    """
    try:
        from rich.console import Console
    except ImportError:
        return text_stats(stats)
    if width is None and not Console().is_terminal:
        width = LOG_WIDTH
    console = Console(width=width, force_terminal=color, no_color=not color)
    return draw(console, rich_stats(stats, width=console.width))


def draw(console: Any, renderable: RenderableType) -> str:
    """Draw into a string instead of on the console. Needs rich."""
    with console.capture() as capture:
        console.print(renderable)
    text: str = capture.get()
    return "\n".join(line.rstrip() for line in text.splitlines())
