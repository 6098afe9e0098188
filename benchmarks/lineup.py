"""Who is measured, and how each one's process is started."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import environments
from .environments import CACHE, ROOT, Environment, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from .measure import Plan

INNGEST = "INNGEST_CLI"
"""The environment variable with the path of the Inngest command line tool; without it, `inngest` on the PATH."""


def inngest() -> str:
    """Where the dev server is."""
    found = os.environ.get(INNGEST) or shutil.which("inngest")
    if not found:
        raise UnavailableError(f"no Inngest dev server: set {INNGEST}, or put `inngest` on the PATH")
    return found


@dataclass(frozen=True)
class Entry:
    """One row of the line-up."""

    name: str
    module: str
    row: str = ""
    """Which of the module's rows."""
    environment: Environment | None = None
    """Its own, or else this project's."""
    server: Callable[[], str] | None = None
    """Finds the server that it needs."""
    longest: int = 10_000
    """Longer runs than so many turns are left out."""
    memory_rounds: int = 0
    """How often many runs at a time are made, at most."""
    extras: bool = False

    def lines(self, plan: Plan, say: Callable[[dict[str, Any]], None]) -> list[dict[str, Any]]:
        """Measure it, in a process of its own; gives the lines that the process printed."""
        try:
            python, variables = self.environment.prepare() if self.environment else (Path(sys.executable), {})
            if self.server:
                variables[INNGEST] = self.server()
        except UnavailableError as problem:
            return [{"kind": "failed", "reason": str(problem)}]
        CACHE.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE, prefix="run-") as directory:
            fitted = replace(
                plan,
                workloads=[w for w in plan.workloads if w.turns <= self.longest],
                directory=directory,
                row=self.row,
                memory_rounds=min(plan.memory_rounds, self.memory_rounds),
                extras=self.extras,
            )
            return _run([str(python), "-m", self.module, fitted.dump()], variables, Path(directory), say)


PLAIN = Entry("Runner (plain)", "benchmarks.rows.plain", memory_rounds=10)
OURS = (
    Entry("DurableRunner, embedded engine", "benchmarks.rows.durable", "embedded", memory_rounds=10, extras=True),
    Entry("DurableRunner, embedded engine, fsync", "benchmarks.rows.durable", "embedded-fsync"),
    Entry(
        "DurableRunner, embedded engine, standard",
        "benchmarks.rows.durable",
        "embedded-standard",
        longest=50,
        extras=True,
    ),
    Entry(
        "DurableRunner, Inngest dev server",
        "benchmarks.rows.durable",
        "server",
        server=inngest,
        memory_rounds=4,  # one to two minutes each
        extras=True,
    ),
    Entry(
        "DurableRunner, Inngest dev server, standard",
        "benchmarks.rows.durable",
        "server-standard",
        server=inngest,
        longest=50,
    ),
)
PEERS = (
    Entry("Restate", "benchmarks.peers.restate_server", environment=environments.RESTATE),
    Entry("DBOS (SQLite)", "benchmarks.peers.dbos_sqlite", environment=environments.DBOS),
    Entry("Temporal (dev server)", "benchmarks.peers.temporal_dev", environment=environments.TEMPORAL),
)


def _run(
    command: list[str], variables: dict[str, str], directory: Path, say: Callable[[dict[str, Any]], None]
) -> list[dict[str, Any]]:
    """Run a row's script and read its lines."""
    errors = directory / "stderr.log"
    # The plain baseline must not pay for traces that nobody collects, nor may a proxy stand between local processes.
    quiet = {"OPENAI_AGENTS_DISABLE_TRACING": "1", "NO_PROXY": "*", "PYTHONPATH": str(ROOT)}
    lines: list[dict[str, Any]] = []
    with errors.open("w") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT, env={**os.environ, **quiet, **variables}
        )
        assert process.stdout is not None
        try:
            for text in process.stdout:
                if text.startswith("{"):
                    lines.append(json.loads(text))
                    say(lines[-1])
            code = process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if code and not any(line["kind"] == "failed" for line in lines):
        said = errors.read_text().strip().splitlines()
        lines.append({"kind": "failed", "reason": said[-1] if said else f"exit code {code}"})
    return lines
