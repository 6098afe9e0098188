"""What the runs of a source cost."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from inngest_agents.history.source import MissingRunError, RunSource, is_durable
from inngest_agents.stats.costs import DIMENSIONS, CostRow, Dimension, RunInfo, sum_costs
from inngest_agents.stats.render import printable
from inngest_agents.stats.stats import RunStats

_AGO = re.compile(r"(\d+)\s*([mhdw])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@dataclass(slots=True)
class Costs:
    """Sums, and what they leave out."""

    rows: list[CostRow] = field(default_factory=list)
    counted: int = 0
    """Runs with durable steps."""
    without: int = 0
    """Runs without: they are in no sum."""
    unpriced: dict[tuple[str, str], int] = field(default_factory=dict)
    """Usages of no known price, by model and reason."""

    def notes(self) -> list[str]:
        """What the sums leave out, in words."""
        lines = []
        if self.without:
            runs = "1 run" if self.without == 1 else f"{self.without:,} runs"
            lines.append(f"left out: {runs} without durable steps")
        for (model, reason), usages in sorted(self.unpriced.items()):
            calls = "1 call" if usages == 1 else f"{usages:,} calls"
            lines.append(printable(f"not in the dollars: {calls} of {model}: {reason}"))
        return lines


def read_costs(
    source: RunSource, by: Sequence[Dimension], *, since: float | None = None, until: float | None = None
) -> Costs:
    """Sum the runs of a source.

    Args:
        source: where they are read.
        by: the dimensions, see `sum_costs`.
        since: only runs that were queued then or later, in seconds since the epoch.
        until: only runs that were queued before.

    Raises:
        SourceError: the source can't be read.
    """
    costs = Costs()

    def runs() -> Iterator[tuple[RunInfo, RunStats]]:
        for run in source.runs(since=since, until=until):
            try:
                report = source.report(run)
            except MissingRunError:  # its trace is not kept any more, or not there yet
                costs.without += 1
                continue
            if not is_durable(report):
                costs.without += 1
                continue
            costs.counted += 1
            stats = report.statistics()
            for item in stats.unpriced:
                key = (item.model, item.reason)
                costs.unpriced[key] = costs.unpriced.get(key, 0) + item.usages
            yield RunInfo(run.run_id, run.function, run.started_at or run.queued_at), stats

    costs.rows = sum_costs(runs(), by)
    return costs


def parse_dimensions(text: str) -> list[Dimension]:
    """Dimensions as a person writes them: "day,model".

    Raises:
        ValueError: one is unknown or given twice, or there is none.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    found = [dimension for name in names for dimension in DIMENSIONS if dimension == name]
    if not names or len(found) != len(names) or len(set(names)) != len(names):
        raise ValueError(f"costs are summed by some of {', '.join(DIMENSIONS)}, e.g. day,model; not by {text!r}")
    return found


def parse_moment(text: str, *, now: float, is_end: bool = False) -> float:
    """A moment as a person writes it: "2026-11-23", "2026-11-23T10:00", "7d" (ago); in UTC unless it says otherwise.

    Args:
        text: what was written.
        now: in seconds since the epoch.
        is_end: whether a day stands for its end instead of its beginning.

    Returns:
        Seconds since the epoch.

    Raises:
        ValueError: it is none.
    """
    ago = _AGO.fullmatch(text.strip())
    try:
        if ago:
            return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])}).total_seconds()
        moment = datetime.fromisoformat(text.strip())
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        if is_end and re.fullmatch(r"\d{4}-\d\d-\d\d", text.strip()):
            moment += timedelta(days=1)
        return moment.timestamp()
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is no moment: write 2026-11-23, 2026-11-23T10:00 or 7d (m, h, d, w: ago)") from None
