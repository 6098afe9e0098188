"""What had ended beside a guardrail that has tripped is there on each replay, too."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from agents import (
    Agent,
    AgentsException,
    GuardrailFunctionOutput,
    OutputGuardrail,
    RunConfig,
    RunHooks,
    Runner,
    ToolGuardrailFunctionOutput,
    function_tool,
    tool_input_guardrail,
)
from agents.testing import ScriptedModel, assistant_message, function_call
from checkpoint_api import Api, Engine

from inngest_agents import DurableRunner

QUIET = RunConfig(tracing_disabled=True)


class Signal(RunHooks[Any]):
    """Tells when a tool has ended."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()

    async def on_tool_end(self, *_: Any) -> None:
        self.ended.set()


def with_tools() -> tuple[Agent[Any], RunHooks[Any]]:
    """A tool that ends, beside one whose guardrail ends the run then."""
    signal = Signal()

    @function_tool
    async def look() -> str:
        return "looked"

    @tool_input_guardrail
    async def block(_: Any) -> ToolGuardrailFunctionOutput:
        await signal.ended.wait()
        return ToolGuardrailFunctionOutput.raise_exception("not today")

    @function_tool(tool_input_guardrails=[block])
    async def pay() -> str:
        return "paid"

    calls = [function_call("pay", {}, call_id="1"), function_call("look", {}, call_id="2")]
    return Agent(name="shop", model=ScriptedModel([calls]), tools=[look, pay]), signal


def with_checks() -> tuple[Agent[Any], RunHooks[Any]]:
    """Two checks of the output that end, and the second trips."""
    ended = asyncio.Event()

    async def fine(*_: Any) -> GuardrailFunctionOutput:
        ended.set()
        return GuardrailFunctionOutput("fine", tripwire_triggered=False)

    async def trip(*_: Any) -> GuardrailFunctionOutput:
        await ended.wait()
        return GuardrailFunctionOutput("bad", tripwire_triggered=True)

    checks = [OutputGuardrail(trip, name="trip"), OutputGuardrail(fine, name="fine")]
    agent = Agent(name="shop", model=ScriptedModel([[assistant_message("x")]]), output_guardrails=list(checks))
    return agent, RunHooks()


def told(error: AgentsException) -> tuple[list[str], list[str]]:
    assert error.run_data is not None
    checks = [result.guardrail.get_name() for result in error.run_data.output_guardrail_results]
    return [item.type for item in error.run_data.new_items], checks


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("make", [with_tools, with_checks])
async def test_the_error_tells_the_same_of_the_run_on_a_replay(
    make: Callable[[], tuple[Agent[Any], RunHooks[Any]]], streamed: bool
) -> None:
    agent, hooks = make()
    with pytest.raises(AgentsException) as plain:
        await Runner.run(agent, "go", hooks=hooks, run_config=QUIET)

    agent, hooks = make()
    passes: list[Any] = []

    async def handler(step: Any) -> None:
        try:
            if streamed:
                await DurableRunner.run_streamed(agent, "go", step=step, hooks=hooks, run_config=QUIET).wait()
            else:
                await DurableRunner.run(agent, "go", step=step, hooks=hooks, run_config=QUIET)
        except AgentsException as error:
            passes.append(told(error))
        await step.run("after", later)

    async with Api() as api:
        await Engine(api).run(handler)
    assert passes == [told(plain.value)] * 2


async def later() -> None:
    """A step of the user's own, which ends the request."""
