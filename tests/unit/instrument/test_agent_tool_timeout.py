"""The timeout of an agent as a tool: a decision that is remembered."""

from __future__ import annotations

import asyncio
from typing import Any

from agents import Agent, Runner, function_tool
from agents.testing import ScriptedModel, assistant_message, function_call

from inngest_agents import DurableRunner
from inngest_agents.testing import replayed


def build(seconds: float, events: list[str]) -> Agent[Any]:
    @function_tool
    async def think(long: bool) -> str:
        events.append(f"think {long}")
        await asyncio.sleep(5 if long else 0)
        events.append("thought")
        return "deep"

    thinker = Agent(
        name="thinker",
        model=ScriptedModel(
            [
                [function_call("think", {"long": False}, call_id="t1")],
                [function_call("think", {"long": True}, call_id="t2")],
                [assistant_message("42")],
            ]
        ),
        tools=[think],
    )
    tool = thinker.as_tool("ask", "Asks the thinker")
    tool.timeout_seconds = seconds
    front = ScriptedModel([[function_call("ask", {"input": "why"}, call_id="f1")], [assistant_message("no answer")]])
    return Agent(name="front", model=front, tools=[tool])


async def test_an_agent_that_takes_too_long_is_given_up_once_and_for_all() -> None:
    plain_events: list[str] = []
    plain = await Runner.run(build(1.0, plain_events), "hi")
    events: list[str] = []
    agent = build(1.0, events)

    run = await replayed(lambda step: DurableRunner.run(agent, "hi", step=step))

    assert events == plain_events == ["think False", "thought", "think True"]
    assert [getattr(item, "output", None) for item in run.result.new_items] == [
        getattr(item, "output", None) for item in plain.new_items
    ]
    assert run.steps.count("front/1.1 ask timed out") == 1
    assert run.result.final_output == "no answer"
    assert run.result.context_wrapper.usage == plain.context_wrapper.usage


async def test_an_agent_that_is_in_time_takes_no_further_step() -> None:
    events: list[str] = []
    agent = build(30, events)
    thinker: Any = agent.tools[0]._agent_instance  # type: ignore[union-attr]
    thinker.model = ScriptedModel([[assistant_message("42")]])

    run = await replayed(lambda step: DurableRunner.run(agent, "hi", step=step))

    assert not [step for step in run.steps if "timed out" in step]
    assert "42" in [getattr(item, "output", None) for item in run.result.new_items]
