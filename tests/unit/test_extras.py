"""What is said where an extra is not installed. Its modules are hidden from a new process."""

from __future__ import annotations

import subprocess
import sys

import pytest

HIDE = """
import sys

sys.modules.update(dict.fromkeys({hidden!r}))  # found by nobody
sys.argv = ["x"]
"""
EXTRAS = ("cel", "fastapi", "litellm", "rich", "tiktoken", "typer")


def run(code: str, *hidden: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", HIDE.format(hidden=hidden) + code], capture_output=True, text=True, timeout=60
    )


def test_the_runner_needs_no_extra() -> None:
    code = """
import asyncio
from agents import Agent, set_tracing_disabled
from agents.testing import ScriptedModel, assistant_message
from inngest_agents import DurableRunner
from inngest_agents.testing import replayed

set_tracing_disabled(True)
agent = Agent(name="a", model=ScriptedModel([[assistant_message("hi")]]))
run = asyncio.run(replayed(lambda step: DurableRunner.run(agent, "go", step=step)))
print(run.result.to_dict()["final_output"])
print(run.result.stats.table())
"""
    done = run(code, *EXTRAS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("hi\n")
    assert "LiteLLM is not installed; pip install 'inngest-agents[cost]'" in done.stdout


@pytest.mark.parametrize(
    ("code", "hidden", "message"),
    [
        ("import inngest_agents.cli", "typer", "the command line needs more packages: pip install"),
        ("from inngest_agents.local import LocalEngine", "cel", "the embedded engine needs cel: pip install"),
        ("from inngest_agents.demo.__main__ import main; main([])", "rich", "the demo needs rich: pip install"),
    ],
)
def test_a_missing_extra_is_named(code: str, hidden: str, message: str) -> None:
    done = run(code, hidden)
    assert done.returncode != 0
    assert message in done.stderr
    assert "'inngest-agents[" in done.stderr
