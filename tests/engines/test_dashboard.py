"""What the engine's own dashboard gets to show of a run: of an Inngest server by its GraphQL API (`runTrace`)."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import inngest
import pytest
from agents import Agent, OpenAIChatCompletionsModel, RunConfig, function_tool
from openai import AsyncAzureOpenAI

from inngest_agents import DurableOptions, DurableRunner

from . import provider
from .harness import EngineUnderTest, StepOutcome

QUIET = RunConfig(tracing_disabled=True)


@pytest.fixture
def base_url() -> Iterator[str]:
    """A provider that orders a tool call and then answers."""
    openai_server = provider.scripted()
    order = openai_server.Reply(call=("stock", {"what": "mugs"}, "call_1"))
    with provider.serving(order, openai_server.Reply(text="7 mugs")) as served:
        yield served.base_url


def shown(engine: EngineUnderTest, run_id: str, count: int) -> dict[str, StepOutcome]:
    """The steps by name, once the engine has written what it shows of them."""
    deadline = time.monotonic() + 15
    while True:
        steps = {step.name: step for step in engine.steps(run_id)}
        if len([step for step in steps.values() if step.metadata]) >= count or time.monotonic() > deadline:
            return steps
        time.sleep(0.1)


@pytest.mark.parametrize("checkpoint", [True, False], ids=["checkpointed", "step by step"])
def test_the_dashboard_shows_tokens_models_and_cost_of_each_step(
    engine: EngineUnderTest, checkpoint: bool, base_url: str
) -> None:
    @function_tool
    async def stock(what: str) -> str:
        return f"7 {what}"

    @engine.client.create_function(fn_id="shown", trigger=inngest.TriggerEvent(event="go"), retries=0)
    async def run(ctx: inngest.Context) -> Any:
        client = AsyncAzureOpenAI(base_url=base_url, api_key="k", api_version="v1", max_retries=0)
        model = OpenAIChatCompletionsModel(model="gpt-4o", openai_client=client)
        clerk = Agent[Any](name="clerk", model=model, tools=[stock])
        options = DurableOptions(checkpoint=checkpoint)
        return (await DurableRunner.run(clerk, "mugs?", step=ctx.step, options=options, run_config=QUIET)).to_dict()

    engine.serve([run])
    run_id = engine.send("go")
    outcome = engine.wait(run_id)
    assert outcome.status == "Completed", outcome.output
    result = json.loads(outcome.output) if isinstance(outcome.output, str) else outcome.output
    steps = shown(engine, run_id, 4)

    for name, reason in (("clerk/1 model clerk", "tool_calls"), ("clerk/2 model clerk", "stop")):
        values = {entry["kind"]: entry["values"] for entry in steps[name].metadata}["inngest.ai"]
        assert values.pop("latency_ms") >= 0
        cost = values.pop("estimated_cost")
        assert cost == pytest.approx(result["stats"]["total_cost_usd"] / 2, abs=1e-9)
        assert values == {
            "operation_name": "chat",
            "provider": "azure",
            "request_model": "gpt-4o",
            "response_model": "gpt-4o-2024-08-06",
            "input_tokens": 1000,
            "output_tokens": 200,
            "total_tokens": 1200,
            "cache_read_tokens": 600,
            "cache_creation_tokens": 0,
            "reasoning_tokens": 50,
            "finish_reasons": [reason],
        }
    (tool,) = steps["clerk/1.1 stock"].metadata
    assert tool["kind"] == "userland.inngest_agents"
    said = tool["values"]
    assert (said["kind"], said["name"], said["agent"], said["call_id"]) == ("tool", "stock", "clerk", "call_1")
    assert (said["attempts"], said["duration_ms"] >= 0) == (1, True)
