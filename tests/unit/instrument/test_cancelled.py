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


@pytest.mark.parametrize("durable", [False, True])
async def test_a_cancelled_run_ends_after_what_its_step_has_to_finish(durable: bool) -> None:
    started, told = asyncio.Event(), list[str]()

    class Slow(ScriptedModel):
        async def get_response(self, *_: Any, **__: Any) -> Any:
            started.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await asyncio.sleep(0.02)
                told.append("disconnected")
                raise

    async def run() -> None:
        agent = Agent(name="a", model=Slow([]))
        if durable:
            await replayed(lambda step: DurableRunner.run(agent, "hi", step=step))
        else:
            await Runner.run(agent, "hi")

    running = asyncio.ensure_future(run())
    await started.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert told == ["disconnected"]
