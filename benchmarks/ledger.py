"""Counts what was executed, over all processes of a run.

Every model call and tool call appends one line to a file. `O_APPEND` makes a short write atomic, so workers in
other processes count too, at the price of a microsecond. The clock is the machine's monotonic one, which processes
share.
"""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

ENV = "BENCH_LEDGER"
"""The environment variable with the path of the ledger."""

_files: dict[str, int] = {}


def note(run: str, call: str) -> None:
    """Write down that `call` of `run` is executed now."""
    path = os.environ[ENV]
    file = _files.get(path)
    if file is None:
        file = _files[path] = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(file, f"{run}\t{call}\t{time.monotonic():.6f}\n".encode())


@dataclass(frozen=True)
class Executions:
    """What one run executed, and when."""

    counts: Counter[str]
    """How often each call ran, by its name: `model:0`, `tool:0.0`, …"""
    first_model: float
    """When the first model call started."""
    last_model: float
    """When the last model call started for the first time."""

    @property
    def models(self) -> int:
        """How many model calls were executed."""
        return sum(n for call, n in self.counts.items() if call.startswith("model:"))

    @property
    def tools(self) -> int:
        """How many tool calls were executed."""
        return sum(n for call, n in self.counts.items() if call.startswith("tool:"))

    def exactly_once(self, models: int, tools: int) -> bool:
        """Whether each of so many calls ran, and none of them twice."""
        return self.models == models and self.tools == tools and set(self.counts.values()) == {1}


def read(path: str | Path) -> dict[str, Executions]:
    """Everything that the ledger holds, by run."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    models: dict[str, dict[str, float]] = defaultdict(dict)
    for line in Path(path).read_text().splitlines():
        run, call, at = line.split("\t")
        counts[run][call] += 1
        if call.startswith("model:"):
            models[run].setdefault(call, float(at))
    return {
        run: Executions(counts[run], min(at.values(), default=0.0), max(at.values(), default=0.0))
        for run, at in ((run, models[run]) for run in counts)
    }
