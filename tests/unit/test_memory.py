"""What a run has held is freed as soon as it has ended, by its reference counts; its memos once they were asked for.

A cycle through it would keep all of it until the garbage collector looks at the oldest objects, which it does seldom:
among a thousand runs at a time there would be many more that have ended already.
"""

from __future__ import annotations

import collections
import functools
import gc
from collections.abc import Iterator
from typing import Any

import inngest
import pytest
from agents import Agent, ModelResponse, RunConfig, function_tool
from agents.testing import ScriptedModel, assistant_message, function_call
from agents.tool_context import ToolContext
from agents.tracing import TracingProcessor, get_trace_provider
from agents.tracing.spans import SpanImpl
from checkpoint_api import Api, Engine

from inngest_agents import DurableOptions, DurableRunner, DurableRunResult
from inngest_agents.instrument.model import DurableModel
from inngest_agents.instrument.tracing import SpanLedger
from inngest_agents.journal import Journal
from inngest_agents.local import LocalEngine
from inngest_agents.request.asked import Asked, Loop
from inngest_agents.request.step_request import StepRequest
from inngest_agents.scope import Scope
from inngest_agents.stats.records import StepRecord
from inngest_agents.testing import replayed

HELD = (
    *(Asked, DurableModel, DurableRunResult, Journal, Loop, ModelResponse, Scope),
    *(SpanImpl, SpanLedger, StepRecord, StepRequest, ToolContext),
)
"""Not the driver, which the SDK's `Step` holds: that one and its `ai` hold each other."""


ALONE = DurableOptions(estimate_tokens=False, prices_on=False)
"""Both ask a thread at first, which lets go of the question a moment after it has answered."""


@pytest.fixture
def without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def count() -> collections.Counter[type[Any]]:
    types = (type(found) for found in gc.get_objects())
    return collections.Counter(cls for cls in types if cls in HELD)


class Unkept(TracingProcessor):
    """Is told of all spans and keeps none."""

    def on_trace_start(self, trace: Any) -> None: ...
    def on_trace_end(self, trace: Any) -> None: ...
    def on_span_start(self, span: Any) -> None: ...
    def on_span_end(self, span: Any) -> None: ...
    def shutdown(self) -> None: ...
    def force_flush(self) -> None: ...


@function_tool
def add(context: ToolContext[Any], a: int, b: int) -> int:
    return a + b


async def run(step: Any, *, traced: bool) -> str:
    script = [
        [function_call("add", {"a": 1, "b": 2}, call_id="1"), function_call("add", {"a": 3, "b": 4}, call_id="2")],
        [function_call("add", {"a": 3, "b": 7}, call_id="3")],
        [assistant_message("ten")],
    ]
    agent = Agent(name="adder", model=ScriptedModel(script), tools=[add])
    config = RunConfig(tracing_disabled=not traced)
    result = await DurableRunner.run(agent, "1 + 2 + 3 + 4", step=step, options=ALONE, run_config=config)
    return str(result.final_output)


@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize("traced", [False, True])
async def test_a_run_that_has_ended_leaves_nothing_for_the_garbage_collector(traced: bool) -> None:
    provider = get_trace_provider()
    provider.set_processors([Unkept()])
    async with Api() as api:
        before = count()
        assert await Engine(api).run(functools.partial(run, traced=traced)) == "ten"
        assert len(api.saved) == 7
        assert count() - before == {}


@pytest.mark.usefixtures("without_collector")
async def test_a_request_that_ends_with_a_model_call_leaves_nothing_for_the_garbage_collector() -> None:
    """One that ends within a tool leaves the SDK's own tasks for that tool, which hold each other."""
    before = count()
    requests: list[collections.Counter[type[Any]]] = []

    async def handler(step: Any) -> str:
        requests.append(count() - before)
        agent = Agent(name="teller", model=ScriptedModel([[assistant_message("ten")]]))
        config = RunConfig(tracing_disabled=True)
        result = await DurableRunner.run(agent, "?", step=step, options=ALONE, run_config=config)
        return str(result.final_output)

    assert (await replayed(handler)).result == "ten"
    assert requests == [{}, {}, {}]
    assert count() - before == {}


def memos(text: str) -> int:
    """How many memos there are with this text in their answer."""
    found = [each for each in gc.get_objects() if type(each) is dict and "step" in each and "output" in each]
    return sum(text in str(each["output"]) for each in found)


def test_a_run_under_way_holds_no_memo_that_it_has_been_answered_with() -> None:
    held: list[int] = []

    @function_tool
    def look() -> str:
        gc.collect()  # what the SDK's loop leaves of a request that has ended, its tasks and their errors
        held.append(memos("a tool's answer"))
        return "seen"

    @function_tool
    def find() -> str:
        return "a tool's answer"

    calls = [[function_call(name, {}, call_id=name)] for name in ("find", "look")]
    model = ScriptedModel([*calls, [assistant_message("done")]])
    with LocalEngine() as engine:
        client = engine.client("app")

        @client.create_function(fn_id="run", trigger=inngest.TriggerEvent(event="run"))
        async def run_it(ctx: inngest.Context) -> str:
            agent = Agent(name="finder", model=model, tools=[find, look])
            result = await DurableRunner.run(agent, "go", step=ctx.step, options=DurableOptions(checkpoint=False))
            return str(result.final_output)

        engine.serve(client, [run_it])
        assert engine.run("run").output == "done"
    assert held == [0]
