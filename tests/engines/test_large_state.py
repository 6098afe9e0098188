"""Runs whose memos no longer fit into a Call Request, so that the app fetches them by itself (`use_api`)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import inngest
import pytest
from agents import Agent, ModelSettings, RunConfig, function_tool
from agents.testing import ScriptedModel, assistant_message, function_call

from inngest_agents import DurableOptions, DurableRunner

from .test_engine_protocol import GO, Calls, raw_body

if TYPE_CHECKING:
    from .harness import EngineUnderTest

MEGABYTE = 1024 * 1024


def test_the_app_fetches_memos_and_events(engine: EngineUnderTest) -> None:
    seen: list[bool] = []

    @engine.client.create_function(fn_id="fn", trigger=GO)
    async def fn(ctx: inngest.Context) -> Any:
        request = await raw_body(ctx)
        seen.append(request["ctx"]["use_api"])
        assert request["use_api"] is request["ctx"]["use_api"]
        sizes = []
        for n in range(3):
            big = await ctx.step.run(f"big {n}", Calls().step("big", {"text": "x" * MEGABYTE * 2}))
            sizes.append(len(big["text"]))
        api = f"{engine.url}/v0/runs/{ctx.run_id}"
        async with httpx.AsyncClient(timeout=10) as http:
            memos, events = [(await http.get(f"{api}/{part}")).json() for part in ("actions", "batch")]
        assert sorted(memos) == sorted(request["ctx"]["stack"]["stack"])
        assert events[0]["data"] == ctx.event.data == {"n": 3}
        return [*sizes, await ctx.step.run("small", Calls().step("small", 1))]

    engine.serve([fn])
    assert engine.run("go", {"n": 3}).output == [2 * MEGABYTE] * 3 + [1]
    assert seen[:2] == [False, False]
    assert seen[2:] == [True] * (len(seen) - 2)
    assert len(seen) == 5


@pytest.mark.parametrize("checkpoint", [True, False], ids=["checkpointed", "step by step"])
def test_a_durable_run_goes_on_from_a_state_that_does_not_fit_into_a_request(
    engine: EngineUnderTest, checkpoint: bool
) -> None:
    calls = Calls()
    seen: list[bool] = []

    @function_tool
    async def read(number: int) -> str:
        if calls.note(f"read {number}") == 1 and number == 5:
            raise TimeoutError("not now")  # ends the request, also the checkpointed one
        return str(number) * MEGABYTE

    turns: list[Any] = [
        [function_call("read", {"number": n}, call_id=f"c{n}") for n in numbers] for numbers in ((0, 1), (2, 3), (4, 5))
    ]
    agent = Agent(
        name="reader",
        model=ScriptedModel([*turns, [assistant_message("done")]]),
        tools=[read],
        model_settings=ModelSettings(parallel_tool_calls=True),
    )

    @engine.client.create_function(fn_id="fn", trigger=GO, retries=2)
    async def fn(ctx: inngest.Context) -> Any:
        seen.append((await raw_body(ctx))["ctx"]["use_api"])
        result = await DurableRunner.run(
            agent,
            "go",
            step=ctx.step,
            options=DurableOptions(checkpoint=checkpoint),
            run_config=RunConfig(tracing_disabled=True),
        )
        outputs = [str(item.output) for item in result.new_items if item.type == "tool_call_output_item"]
        return {"read": [[text[0], len(text)] for text in outputs], "stats": result.stats.total_tool_calls}

    engine.serve([fn])
    outcome = engine.run("go", timeout=60)
    assert outcome.status == "Completed", json.dumps(outcome.output)[:1000]
    assert outcome.output == {"read": [[str(n), MEGABYTE] for n in range(6)], "stats": 6}
    assert sorted(calls.names) == [*(f"read {n}" for n in range(5)), "read 5", "read 5"]
    assert seen[0] is False
    assert seen[-1] is True
