"""What failed attempts of a tool were billed, on each engine: counted once each, and no attempt more for it."""

from __future__ import annotations

import json
from typing import Any

import inngest
import pytest
from agents import Agent, RunConfig, Runner, Usage, function_tool
from agents.testing import ScriptedModel, assistant_message, function_call

from inngest_agents import DurableOptions, DurableRunner

from .harness import EngineUnderTest

QUIET = RunConfig(tracing_disabled=True)


class Counting(ScriptedModel):
    """A scripted model that says what it used."""

    async def get_response(self, *args: Any, **kwargs: Any) -> Any:
        response = await super().get_response(*args, **kwargs)
        response.usage = Usage(requests=1, input_tokens=100, total_tokens=100)
        return response


@pytest.mark.parametrize("checkpoint", [True, False], ids=["checkpointed", "step by step"])
def test_a_tool_that_always_fails_has_its_attempts_and_each_is_counted(
    engine: EngineUnderTest, checkpoint: bool
) -> None:
    attempts: list[int] = []
    helper: Agent[Any] = Agent(name="helper", model=Counting([[assistant_message("hm")]] * 9))

    @function_tool
    async def ask() -> str:
        attempts.append(1)
        await Runner.run(helper, "q", run_config=QUIET)
        raise RuntimeError("never works")

    script: list[Any] = [[function_call("ask", {}, call_id="c1")], [assistant_message("done")]]
    boss: Agent[Any] = Agent(name="boss", model=Counting(script), tools=[ask])

    @engine.client.create_function(fn_id="billed", trigger=inngest.TriggerEvent(event="go"), retries=2)
    async def billed(ctx: inngest.Context) -> Any:
        options = DurableOptions(checkpoint=checkpoint)
        return (await DurableRunner.run(boss, "hi", step=ctx.step, options=options, run_config=QUIET)).to_dict()

    engine.serve([billed])
    outcome = engine.run("go", timeout=60)
    result = json.loads(outcome.output) if isinstance(outcome.output, str) else outcome.output

    assert outcome.status == "Completed", result
    assert result["final_output"] == "done"
    assert len(attempts) == 3
    stats = result["stats"]
    assert stats["by_agent"]["helper"]["total_tokens"] == 300
    assert stats["by_tool"]["ask"]["model_calls"] == 3
    assert (stats["total_model_calls"], stats["total_tokens"], stats["total_tool_calls"]) == (5, 500, 1)
