"""What is imported, and when: nobody pays for a library that is not used."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

HEAVY = {"litellm", "tiktoken", "rich", "typer", "uvicorn", "starlette", "fastapi", "django", "sqlite3", "hypothesis"}


def loaded_by(code: str, *, beside: str = "") -> set[str]:
    """The top-level modules that `code` imports besides those that `beside` does, in a new process."""
    program = f"{beside}\nimport json, sys\nbefore = set(sys.modules)\n{code}\n"
    program += "print(json.dumps(sorted({name.partition('.')[0] for name in set(sys.modules) - before})))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return set(found)


def test_the_package_alone_imports_neither_of_the_sdks() -> None:
    assert not {"agents", "inngest", "openai"} & loaded_by("import inngest_agents")


def test_all_public_names_need_little_more_than_the_sdks_themselves() -> None:
    more = loaded_by("from inngest_agents import *", beside="import agents, inngest")
    assert not HEAVY & more
    assert "opentelemetry" not in more


RUN = """
import asyncio
from agents import Agent, RunConfig, Usage
from agents.testing import ScriptedModel, assistant_message
from inngest_agents import Budget, DurableOptions, DurableRunner
from inngest_agents.testing import replayed

class Counting(ScriptedModel):
    model = "gpt-4o"
    async def get_response(self, *args, **kwargs):
        response = await super().get_response(*args, **kwargs)
        response.usage = Usage(requests=1, input_tokens=10, output_tokens=1, total_tokens=11)
        return response

agent = Agent(name="a", model=Counting([[assistant_message("done")]]))
async def handler(step):
    result = await DurableRunner.run(
        agent, "hi", step=step, options=DurableOptions(), run_config=RunConfig(tracing_disabled=True)
    )
    return result.to_dict()
done = asyncio.run(replayed(handler))
assert done.result["stats"]["total_cost_usd"] > 0
"""


def test_a_priced_run_imports_no_library_of_prices_or_tokens() -> None:
    assert not {"litellm", "tiktoken", "rich", "typer"} & loaded_by(RUN, beside="import agents, inngest")


def test_the_table_of_statistics_imports_rich_and_nothing_else() -> None:
    code = "from inngest_agents.stats import RunStats\nRunStats.from_records([]).table()"
    more: Any = loaded_by(code)
    assert "rich" in more
    assert not {"litellm", "tiktoken", "typer", "agents"} & more
