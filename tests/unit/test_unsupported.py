"""What cannot be made durable is refused before the first step."""

from __future__ import annotations

from typing import Any

import inngest
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


GREETER: Any = Agent(name="a", model=ScriptedModel([[assistant_message("hello")]]))


@pytest.mark.parametrize(
    ("agent", "given", "told"),
    [
        (GREETER, None, "the input must be the user's message, .*, not None"),
        (GREETER, 42, "the input must be .*, not an object of type int"),
        ("hi", GREETER, "the input must be .*, not an object of type Agent"),
        (None, "hi", "the first argument must be the agent to start with, not None"),
        ("a", "hi", "the first argument must be the agent to start with, not an object of type str"),
    ],
    ids=["no input", "a number", "swapped", "no agent", "a name"],
)
async def test_what_is_no_agent_or_no_input_is_told_at_once(agent: Any, given: Any, told: str) -> None:
    with pytest.raises(TypeError, match=told) as caught:
        await replayed(lambda step: DurableRunner.run(agent, given, step=step))
    assert isinstance(caught.value, inngest.NonRetriableError)
