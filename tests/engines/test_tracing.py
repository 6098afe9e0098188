"""Traces of durable runs on the engines: the same spans, once, with and without checkpointing."""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import inngest
import pytest
from agents import Agent, MaxTurnsExceeded, function_tool, set_trace_processors
from agents.testing import ModelStep, ScriptedModel, assistant_message, function_call
from agents.tracing import Span, Trace, TracingProcessor
from agents.tracing.provider import DefaultTraceProvider
from agents.tracing.setup import get_trace_provider

from inngest_agents import DurableOptions, DurableRunner

if TYPE_CHECKING:
    from .harness import EngineUnderTest


class Recorder(TracingProcessor):
    """Notes what a user's processor is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.names: dict[str, tuple[str, str | None]] = {}

    def on_trace_start(self, trace: Trace) -> None:
        self.told.append(("trace start", trace.trace_id))

    def on_trace_end(self, trace: Trace) -> None:
        self.told.append(("trace end", trace.trace_id))

    def on_span_start(self, span: Span[Any]) -> None:
        self.told.append(("start", span.span_id))

    def on_span_end(self, span: Span[Any]) -> None:
        self.told.append(("end", span.span_id))
        self.names[span.span_id] = (span.span_data.type, getattr(span.span_data, "name", None))

    def shutdown(self) -> None: ...

    def force_flush(self) -> None: ...


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    provider = get_trace_provider()
    assert isinstance(provider, DefaultTraceProvider)
    before, recorder = list(provider._multi_processor._processors), Recorder()
    set_trace_processors([recorder])
    yield recorder
    set_trace_processors(before)


@pytest.mark.parametrize("checkpoint", [True, False])
def test_each_span_ends_once_and_the_trace_is_one(
    engine: EngineUnderTest, recorder: Recorder, checkpoint: bool
) -> None:
    @function_tool
    async def double(n: int) -> int:
        return 2 * n

    script: list[Any] = [
        [function_call("double", {"n": n}, call_id=f"c{n}") for n in range(3)],
        [assistant_message("ok")],
    ]
    model = ScriptedModel([ModelStep(output=items) for items in script], emit_traces=True)
    agent = Agent(name="doubler", model=model, tools=[double])

    @engine.client.create_function(fn_id="trace", trigger=inngest.TriggerEvent(event="go"))
    async def fn(ctx: inngest.Context) -> Any:
        options = DurableOptions(checkpoint=checkpoint)
        return (await DurableRunner.run(agent, "double", step=ctx.step, options=options)).to_dict()

    engine.serve([fn])
    assert engine.run("go").status == "Completed"
    told = Counter(recorder.told)
    assert all(count == 1 for (kind, _), count in told.items() if kind != "start")
    kinds = Counter(kind for kind, _ in told)
    assert kinds["trace start"] == kinds["trace end"] == 1
    assert kinds["start"] == kinds["end"]
    names = Counter(recorder.names.values())
    assert names["function", "double"] == 3
    assert names["agent", "doubler"] == 1
    assert sum(count for (kind, _), count in names.items() if kind == "generation") == 2


@pytest.mark.parametrize("first", ["long", "short"])
@pytest.mark.parametrize("ends", ["failed", "without a summary"])
def test_the_end_of_a_run_is_told_once_while_another_goes_on_beside_it(
    engine: EngineUnderTest, recorder: Recorder, ends: str, first: str
) -> None:
    @function_tool
    async def look() -> str:
        return "seen"

    def agent(name: str, turns: int) -> Agent[Any]:
        calls: list[Any] = [[function_call("look", {}, call_id=f"{name}{turn}")] for turn in range(turns)]
        return Agent(name=name, model=ScriptedModel([*calls, [assistant_message("ok")]]), tools=[look])

    both = [agent("long", 4), agent("short", 3 if ends == "failed" else 1)]
    agents = both if first == "long" else both[::-1]

    async def run(ctx: inngest.Context, agent: Agent[Any]) -> Any:
        options = DurableOptions(stats_step=ends == "failed")
        max_turns = 2 if ends == "failed" and agent.name == "short" else 10
        try:
            return (
                await DurableRunner.run(agent, "go", step=ctx.step, options=options, max_turns=max_turns)
            ).final_output
        except MaxTurnsExceeded:
            return "too long"

    @engine.client.create_function(fn_id="beside", trigger=inngest.TriggerEvent(event="go"))
    async def fn(ctx: inngest.Context) -> Any:
        return await ctx.group.parallel(tuple(functools.partial(run, ctx, agent) for agent in agents))

    engine.serve([fn])
    outcome = engine.run("go")
    assert outcome.status == "Completed"
    assert sorted(outcome.output) == ["ok", "too long" if ends == "failed" else "ok"]
    told = Counter(recorder.told)
    assert {kind: count for (kind, _), count in told.items() if kind != "start" and count > 1} == {}
    assert {kind for kind, _ in told} == {"trace start", "start", "end", "trace end"}
    assert {span for kind, span in told if kind == "start"} == {span for kind, span in told if kind == "end"}


@pytest.mark.parametrize("checkpoint", [True, False])
def test_what_ends_beside_a_tool_that_is_tried_again_is_told(
    engine: EngineUnderTest, recorder: Recorder, checkpoint: bool
) -> None:
    failed = asyncio.Event()

    @function_tool
    async def look() -> str:
        await failed.wait()
        return "seen"

    @function_tool
    async def flaky() -> str:
        if failed.is_set():
            return "better"
        failed.set()
        raise ConnectionError("no line")

    helping = [[function_call("look", {}, call_id=f"h{turn}")] for turn in range(2)]
    helper = Agent[Any](
        name="helper", model=ScriptedModel([*helping, [assistant_message("helped")]], emit_traces=True), tools=[look]
    )
    calls = [function_call("ask", {"input": "help"}, call_id="t1"), function_call("flaky", {}, call_id="t2")]
    model = ScriptedModel([calls, [assistant_message("ok")]], emit_traces=True)
    agent = Agent[Any](name="top", model=model, tools=[helper.as_tool("ask", "Ask the helper"), flaky])

    @engine.client.create_function(fn_id="again", trigger=inngest.TriggerEvent(event="go"))
    async def fn(ctx: inngest.Context) -> Any:
        options = DurableOptions(checkpoint=checkpoint)
        return (await DurableRunner.run(agent, "go", step=ctx.step, options=options)).final_output

    engine.serve([fn])
    outcome = engine.run("go")
    assert (outcome.status, outcome.output) == ("Completed", "ok")
    told = Counter(recorder.told)
    assert {kind: count for (kind, _), count in told.items() if kind != "start" and count > 1} == {}
    assert {span for kind, span in told if kind == "start"} == {span for kind, span in told if kind == "end"}
    kinds = Counter(kind for kind, _ in recorder.names.values())
    assert {kind: kinds[kind] for kind in ("turn", "generation", "agent")} == {"turn": 5, "generation": 5, "agent": 2}
    functions = Counter(name for kind, name in recorder.names.values() if kind == "function")
    assert functions == {"ask": 1, "flaky": 1, "look": 2}
