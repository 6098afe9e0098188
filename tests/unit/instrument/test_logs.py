"""What the SDK's loop logs is said once, however often the run is replayed."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from agents import Agent, Runner, function_tool
from agents.testing import ScriptedModel, assistant_message, function_call

from inngest_agents import DurableRunner
from inngest_agents.testing import replayed


def agent() -> Agent[Any]:
    """An agent whose handoffs have the same name, of which the SDK warns once a turn."""

    @function_tool
    def look_up() -> str:
        logging.getLogger("openai.agents").warning("looked up")
        return "found"

    script: list[Any] = [[function_call("look_up", {}, call_id="c1")], [assistant_message("done")]]
    return Agent(
        name="a", model=ScriptedModel(script), tools=[look_up], handoffs=[Agent(name="b b"), Agent(name="b_b")]
    )


async def test_a_warning_comes_as_often_as_under_runner(caplog: pytest.LogCaptureFixture) -> None:
    async def warnings(run: Callable[[], Awaitable[Any]]) -> list[str]:
        caplog.clear()
        await run()
        # The exporter of traces speaks up in a thread of its own, whenever it wakes up.
        records = [record for record in caplog.records if record.module != "processors"]
        return [record.getMessage() for record in records if record.name == "openai.agents"]

    plain = await warnings(lambda: Runner.run(agent(), "hi"))
    durable = agent()
    assert await warnings(lambda: replayed(lambda step: DurableRunner.run(durable, "hi", step=step))) == plain
    assert plain.count("looked up") == 1
    assert len(plain) > 1
