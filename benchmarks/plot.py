"""The picture: overhead per step over the length of the run, and the start latency."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import figures
from .workloads import LENGTHS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from .figures import Row

BASELINE = "Runner (plain)"


def draw(rows: Sequence[Row], path: Path) -> bool:
    """Draw it, if the drawing library is there; says whether it was."""
    try:
        import matplotlib as mpl
    except ImportError:
        return False
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.8), width_ratios=(3, 2))
    shown = [row for row in rows if row.pairs and row.name != BASELINE]
    for row in shown:
        points = [(w.turns, figures.overhead(row.pairs[w.name], w)) for w in LENGTHS if w.name in row.pairs]
        turns = [turn for turn, _ in points]
        medians = [max(spread.median * 1000, 0.01) for _, spread in points]
        below = [median - max(spread.low * 1000, 0.01) for median, (_, spread) in zip(medians, points, strict=True)]
        above = [spread.high * 1000 - median for median, (_, spread) in zip(medians, points, strict=True)]
        errors = [[max(value, 0) for value in side] for side in (below, above)]
        left.errorbar(turns, medians, yerr=errors, marker="o", capsize=3, label=row.name)
    left.set(xscale="log", yscale="log", xlabel="turns (one tool call each)", ylabel="overhead per step, ms")
    left.set_xticks([w.turns for w in LENGTHS], [str(w.turns) for w in LENGTHS])
    left.minorticks_off()
    # A range may reach below nothing where the machine was disturbed; the scale has no place for that.
    left.set_ylim(bottom=0.1)
    left.grid(visible=True, alpha=0.3)
    left.legend(fontsize=8, loc="lower left")
    left.set_title("Overhead per step, against the plain Runner")
    starts = [(row.name, found.median * 1000) for row in shown if (found := figures.latency(row, "start"))]
    bars = right.barh([name for name, _ in starts], [value for _, value in starts])
    right.bar_label(bars, fmt="%.0f", padding=3)
    right.invert_yaxis()
    right.margins(x=0.15)
    right.set(xlabel="ms")
    right.set_title("Start latency: until the first model call")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return True
