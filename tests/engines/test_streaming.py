"""Streamed durable runs on the engines, with and without checkpointing."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import inngest
import pytest
from agents import Agent, function_tool
from agents.testing import ScriptedModel, assistant_message, function_call

from inngest_agents import DurableOptions, DurableRunner

if TYPE_CHECKING:
    from .harness import EngineUnderTest


@pytest.mark.parametrize("checkpoint", [True, False])
def test_a_stream_reaches_its_sink_once_and_each_call_runs_once(engine: EngineUnderTest, checkpoint: bool) -> None:
    executed: list[int] = []
    shown: list[dict[str, Any]] = []
    requests: list[int] = []

    @function_tool
    async def double(n: int) -> int:
        executed.append(n)
        return 2 * n

    script: list[Any] = [
        [function_call("double", {"n": n}, call_id=f"c{n}") for n in range(3)],
        [assistant_message("0, 2 and 4")],
    ]
    model = ScriptedModel(script)
    agent = Agent(name="doubler", model=model, tools=[double])
    options = DurableOptions(checkpoint=checkpoint, stream=shown.append)

    @engine.client.create_function(fn_id="stream", trigger=inngest.TriggerEvent(event="go"))
    async def fn(ctx: inngest.Context) -> Any:
        requests.append(1)
        result = DurableRunner.run_streamed(agent, "double", step=ctx.step, options=options)
        async for _ in result.stream_events():
            pass
        return result.to_dict()

    engine.serve([fn])
    outcome = engine.run("go")
    assert outcome.status == "Completed"
    assert outcome.output["final_output"] == "0, 2 and 4"
    assert outcome.output["stats"]["total_model_calls"] == 2
    assert sorted(executed) == [0, 1, 2]
    assert len(model.calls) == 2
    assert (len(requests) == 1) is checkpoint
    items = Counter(event["event"]["name"] for event in shown if event["type"] == "run_item_stream_event")
    assert items == {"tool_called": 3, "tool_output": 3, "message_output_created": 1}
    assert len({event["id"] for event in shown}) == len(shown)
    indexes = [event["index"] for event in shown if event["step_id"] == "doubler/2 model doubler" and "index" in event]
    assert indexes == list(range(len(indexes)))
