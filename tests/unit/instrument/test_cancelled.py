"""Code of the user that raises `CancelledError` by itself: a failure like any other, as under plain `Runner`."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from agents import Agent, GuardrailFunctionOutput, InputGuardrail, Runner, function_tool
from agents.testing import ScriptedModel, assistant_message, function_call
from oracle import both

from inngest_agents import DurableRunner
from inngest_agents.testing import replayed


def two_calls() -> list[Any]:
    return [
        [function_call("cancelled", {}, call_id="c1"), function_call("fine", {}, call_id="c2")],
        [assistant_message("done")],
    ]


async def test_a_tool_that_is_cancelled_from_within_is_tried_again_and_then_told_to_the_model() -> None:
    tried = 0

    @function_tool
    async def cancelled() -> str:
        nonlocal tried
        tried += 1
        raise asyncio.CancelledError("lost the connection")

    @function_tool
    def fine() -> str:
        return "ok"

    await both(lambda model: Agent(name="a", model=model, tools=[cancelled, fine]), two_calls, max_attempts=3)
    assert tried == 1 + 3


async def test_a_cancelled_guardrail_ends_the_run_as_under_runner() -> None:
    async def check(*_: Any) -> GuardrailFunctionOutput:
        raise asyncio.CancelledError

    def agent() -> Agent[Any]:
        guardrail = InputGuardrail(check, name="check", run_in_parallel=False)
        return Agent(name="a", model=ScriptedModel([[assistant_message("done")]]), input_guardrails=[guardrail])

    with pytest.raises(asyncio.CancelledError):
        await Runner.run(agent(), "hi")
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(replayed(lambda step: DurableRunner.run(agent(), "hi", step=step)), 5)
