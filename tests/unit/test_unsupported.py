"""What cannot be made durable is refused before the first step."""

from __future__ import annotations

from typing import Any

import pytest
from agents import Agent
from agents.realtime import RealtimeAgent
from agents.testing import ScriptedModel, assistant_message

from inngest_agents import DurableRunner, UnsupportedError
from inngest_agents.testing import replayed


async def test_a_realtime_agent_is_refused() -> None:
    agent: Any = RealtimeAgent(name="voice")
    with pytest.raises(UnsupportedError, match=r"RealtimeAgent 'voice' cannot be made durable: .*live connection"):
        await replayed(lambda step: DurableRunner.run(agent, "hi", step=step))


async def test_a_streamed_run_is_refused_in_the_same_way() -> None:
    agent: Any = RealtimeAgent(name="voice")

    async def handler(step: Any) -> None:
        DurableRunner.run_streamed(agent, "hi", step=step)

    with pytest.raises(UnsupportedError, match="'voice'"):
        await replayed(handler)


async def test_a_plain_agent_is_not_refused() -> None:
    agent = Agent(name="a", model=ScriptedModel([[assistant_message("hello")]]))
    run = await replayed(lambda step: DurableRunner.run(agent, "hi", step=step))
    assert run.result.final_output == "hello"
