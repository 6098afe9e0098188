"""What cannot be made durable is refused before the first step."""

from __future__ import annotations

from typing import Any

import pytest
from agents import Agent, RunConfig
from agents.run_config import SandboxRunConfig
from agents.sandbox import SandboxAgent
from agents.testing import ScriptedModel, assistant_message

from inngest_agents import DurableRunner, UnsupportedError
from inngest_agents.testing import replayed


def silent() -> ScriptedModel:
    """A model that fails the test if it is called."""
    return ScriptedModel([])


def sandbox() -> SandboxAgent[Any]:
    return SandboxAgent(name="coder", model=silent())


def through_a_handoff() -> Agent[Any]:
    back: Agent[Any] = Agent(name="front", model=silent(), handoffs=[sandbox()])
    back.handoffs.append(back)  # a circular graph is no reason to hang
    return back


def through_a_tool() -> Agent[Any]:
    return Agent(name="front", model=silent(), tools=[sandbox().as_tool("code", "Writes code")])


@pytest.mark.parametrize("make", [sandbox, through_a_handoff, through_a_tool])
async def test_a_sandbox_agent_is_refused_wherever_a_run_can_reach_it(make: Any) -> None:
    agent = make()
    with pytest.raises(UnsupportedError, match=r"sandbox agent 'coder'.*durable"):
        await replayed(lambda step: DurableRunner.run(agent, "write", step=step))


async def test_a_sandbox_configuration_is_refused() -> None:
    config = RunConfig(sandbox=SandboxRunConfig())
    with pytest.raises(UnsupportedError, match="sandbox"):
        await replayed(
            lambda step: DurableRunner.run(Agent(name="a", model=silent()), "x", step=step, run_config=config)
        )


async def test_a_streamed_run_is_refused_in_the_same_way() -> None:
    async def handler(step: Any) -> None:
        DurableRunner.run_streamed(sandbox(), "write", step=step)

    with pytest.raises(UnsupportedError, match="coder"):
        await replayed(handler)


async def test_a_plain_agent_is_not_refused() -> None:
    agent = Agent(name="a", model=ScriptedModel([[assistant_message("hello")]]))
    run = await replayed(lambda step: DurableRunner.run(agent, "hi", step=step))
    assert run.result.final_output == "hello"
