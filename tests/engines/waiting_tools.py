"""What the tests of tools that run in the function itself (`in_step=False`) share."""

from __future__ import annotations

import datetime
import time
from typing import Any

from agents import Agent, function_tool
from agents.testing import ScriptedModel, assistant_message, function_call

from inngest_agents import get_step

MINUTE = datetime.timedelta(minutes=1)


def wait_until(condition: Any, seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def outputs_of(result: Any) -> list[str]:
    return [str(item["output"]) for item in result.to_input_list() if "output" in item]


@function_tool
async def wait() -> str:
    answer = await get_step().wait_for_event("wait", event="answered", timeout=MINUTE)
    return str(answer.data["x"])


def agent_that_calls(*tools: Any) -> Agent[Any]:
    calls = [function_call(tool.name, {}, call_id=tool.name) for tool in tools]
    return Agent(name="a", model=ScriptedModel([calls, [assistant_message("done")]]), tools=list(tools))
