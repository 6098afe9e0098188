"""Tracing of durable runs: the processors see in total what the plain `Runner` gives them, once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from agents import (
    Agent,
    GuardrailFunctionOutput,
    InputGuardrail,
    InputGuardrailTripwireTriggered,
    MaxTurnsExceeded,
    Model,
    ModelProvider,
    ModelSettings,
    OutputGuardrail,
    RunConfig,
    Runner,
    custom_span,
    function_tool,
    set_trace_processors,
)
from agents.exceptions import ModelTimeoutError
from agents.run_config import SandboxRunConfig
from agents.sandbox import SandboxAgent
from agents.sandbox.sandboxes.unix_local import UnixLocalSandboxClient
from agents.testing import ModelStep, ScriptedModel, assistant_message, function_call
from agents.tracing import Span, Trace, TracingProcessor, trace
from agents.tracing.provider import DefaultTraceProvider
from agents.tracing.setup import get_trace_provider

from inngest_agents import DurableRunner
from inngest_agents.testing import replayed


class Recorder(TracingProcessor):
    """Notes what a user's processor is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.traces: dict[str, Trace] = {}
        self.spans: dict[str, dict[str, Any]] = {}

    def on_trace_start(self, trace: Trace) -> None:
        self.told.append(("trace start", trace.trace_id))
        self.traces[trace.trace_id] = trace

    def on_trace_end(self, trace: Trace) -> None:
        self.told.append(("trace end", trace.trace_id))

    def on_span_start(self, span: Span[Any]) -> None:
        self.told.append(("start", span.span_id))

    def on_span_end(self, span: Span[Any]) -> None:
        self.told.append(("end", span.span_id))
        exported = span.export()
        assert exported is not None
        self.spans[span.span_id] = exported

    def shutdown(self) -> None: ...

    def force_flush(self) -> None: ...

    def picture(self) -> Counter[tuple[str, str, str]]:
        """How many spans there are of each type, name and parent."""
        names = {key: str(span["span_data"].get("name", "")) for key, span in self.spans.items()}
        return Counter(
            (span["span_data"]["type"], names[key], names.get(span["parent_id"], "the trace"))
            for key, span in self.spans.items()
        )


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    provider = get_trace_provider()
    assert isinstance(provider, DefaultTraceProvider)
    before = list(provider._multi_processor._processors)
    recorder = Recorder()
    set_trace_processors([recorder])
    yield recorder
    set_trace_processors(before)


async def allow(*_: Any) -> GuardrailFunctionOutput:
    with custom_span("guardrail work"):
        await asyncio.sleep(0)
    return GuardrailFunctionOutput(output_info=None, tripwire_triggered=False)


def shop(*, streamed_tool: bool = False) -> Agent[Any]:
    """A triage agent with parallel tools, an agent as a tool, guardrails and a handoff; models make spans."""

    @function_tool
    async def look_up(n: int) -> int:
        with custom_span(f"database {n}"):
            await asyncio.sleep(0)
        return n

    def model(*script: list[Any]) -> ScriptedModel:
        return ScriptedModel([ModelStep(output=items) for items in script], emit_traces=True)

    expert = Agent(
        name="expert",
        model=model([function_call("look_up", {"n": 9}, call_id="e1")], [assistant_message("nine")]),
        tools=[look_up],
    )
    on_stream = (lambda _: None) if streamed_tool else None
    sales = Agent(
        name="sales",
        model=model([assistant_message("sold")]),
        output_guardrails=[OutputGuardrail(allow, name="out")],
    )
    return Agent(
        name="triage",
        model=model(
            [
                *(function_call("look_up", {"n": n}, call_id=f"c{n}") for n in range(3)),
                function_call("ask_expert", {"input": "?"}, call_id="x1"),
            ],
            [function_call("transfer_to_sales", {}, call_id="h1")],
        ),
        tools=[look_up, expert.as_tool("ask_expert", "asks", on_stream=on_stream)],
        handoffs=[sales],
        input_guardrails=[InputGuardrail(allow, name="in")],
    )


Durable = Callable[[Agent[Any], Any], Awaitable[Any]]


async def run(agent: Agent[Any], step: Any) -> Any:
    return (await DurableRunner.run(agent, "buy", step=step)).final_output


async def run_streamed(agent: Agent[Any], step: Any) -> Any:
    return (await DurableRunner.run_streamed(agent, "buy", step=step).wait()).final_output


@pytest.mark.parametrize("durable", [run, run_streamed])
@pytest.mark.parametrize("streamed_tool", [False, True])
async def test_every_span_comes_once_and_under_its_parent(
    recorder: Recorder, durable: Durable, streamed_tool: bool
) -> None:
    if durable is run:
        plain = (await Runner.run(shop(streamed_tool=streamed_tool), "buy")).final_output
    else:
        result = Runner.run_streamed(shop(streamed_tool=streamed_tool), "buy")
        async for _ in result.stream_events():
            pass
        plain = result.final_output
    expected, told = recorder.picture(), Counter(kind for kind, _ in recorder.told)
    assert sum(count for (kind, name, _), count in expected.items() if (kind, name) == ("function", "look_up")) == 4
    recorder.__init__()  # type: ignore[misc]
    agent = shop(streamed_tool=streamed_tool)
    outcome = await replayed(lambda step: durable(agent, step))
    assert outcome.result == plain == "sold"
    assert outcome.requests > 10
    assert recorder.picture() == expected
    assert Counter(kind for kind, _ in recorder.told) == told
    assert max(Counter(recorder.told).values()) == 1
    assert {span["trace_id"] for span in recorder.spans.values()} == set(recorder.traces)


async def test_a_span_starts_before_its_children_and_when_it_first_started(recorder: Recorder) -> None:
    agent = shop()
    await replayed(lambda step: run(agent, step))
    position = {entry: place for place, entry in enumerate(recorder.told)}
    for key, span in recorder.spans.items():
        assert position["start", key] < position["end", key]
        if span["parent_id"] is not None:
            assert position["start", span["parent_id"]] < position["start", key]
            assert recorder.spans[span["parent_id"]]["started_at"] <= span["started_at"]
    assert recorder.told[0][0] == "trace start"
    assert recorder.told[-1][0] == "trace end"


async def test_the_trace_id_comes_from_the_run_unless_the_user_names_one(recorder: Recorder) -> None:
    agent = Agent(name="one", model=ScriptedModel([[assistant_message("a")], [assistant_message("b")]]))
    await replayed(lambda step: DurableRunner.run(agent, "x", step=step))
    (derived,) = recorder.traces
    assert len(derived) == len("trace_") + 32
    recorder.traces.clear()
    mine = RunConfig(trace_id="trace_" + "7" * 32, workflow_name="mine")
    await replayed(lambda step: DurableRunner.run(agent, "x", step=step, run_config=mine))
    assert [(key, trace.name) for key, trace in recorder.traces.items()] == [("trace_" + "7" * 32, "mine")]


async def test_a_retried_step_and_a_failed_run_leave_each_span_told_once(recorder: Recorder) -> None:
    tries: list[int] = []

    @function_tool
    async def flaky() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise ConnectionError("again")
        return "ok"

    script: list[Any] = [[function_call("flaky", {}, call_id=f"c{i}")] for i in range(4)]
    agent = Agent(name="loop", model=ScriptedModel(script), tools=[flaky])

    async def handler(step: Any) -> None:
        await DurableRunner.run(agent, "x", step=step, max_turns=2)

    with pytest.raises(MaxTurnsExceeded):
        await replayed(handler, max_attempts=4)
    assert max(Counter(recorder.told).values()) == 1
    (agent_span,) = [span for span in recorder.spans.values() if span["span_data"]["type"] == "agent"]
    assert agent_span["error"]["message"] == "Max turns exceeded"
    assert Counter(span["span_data"]["type"] for span in recorder.spans.values())["function"] == 2
    assert recorder.told[-1][0] == "trace end"


async def test_a_function_that_goes_on_after_the_run_does_not_tell_of_it_again(recorder: Recorder) -> None:
    agent = Agent(name="one", model=ScriptedModel([[assistant_message("a")]]))

    async def note() -> str:
        return "noted"

    async def handler(step: Any) -> str:
        await DurableRunner.run(agent, "x", step=step)
        return str(await step.run("note", note))

    outcome = await replayed(handler)
    assert outcome.result == "noted"
    assert max(Counter(recorder.told).values()) == 1
    assert Counter(kind for kind, _ in recorder.told)["trace end"] == 1


async def test_disabled_tracing_stays_disabled_and_stores_nothing(recorder: Recorder) -> None:
    agent = Agent(name="one", model=ScriptedModel([[assistant_message("a")]]))
    config = RunConfig(tracing_disabled=True)
    outcome = await replayed(lambda step: DurableRunner.run(agent, "x", step=step, run_config=config))
    assert recorder.told == []
    assert all("spans" not in memo["data"] for memo in outcome.memos.values())


async def test_the_spans_around_a_step_that_failed_began_before_those_inside_it(recorder: Recorder) -> None:
    agent = Agent(name="a", model=ScriptedModel([ValueError("no")], emit_traces=True))
    with pytest.raises(ValueError, match="no"):
        await replayed(lambda step: DurableRunner.run(agent, "hi", step=step))
    spans = recorder.spans.values()
    [generation] = [span for span in spans if span["span_data"]["type"] == "generation"]
    assert all(span["started_at"] <= generation["started_at"] for span in spans)


async def test_the_spans_of_a_run_are_closed_that_a_guardrail_ends_in_a_request_for_another_step(
    recorder: Recorder,
) -> None:
    def check(*_: Any) -> GuardrailFunctionOutput:
        return GuardrailFunctionOutput(output_info=None, tripwire_triggered=True)

    agent = Agent(
        name="a", model=ScriptedModel([[assistant_message("hi")]]), input_guardrails=[InputGuardrail(check, name="c")]
    )
    with pytest.raises(InputGuardrailTripwireTriggered):
        await replayed(lambda step: DurableRunner.run(agent, "hi", step=step))
    started = [key for what, key in recorder.told if what == "start"]
    ended = [key for what, key in recorder.told if what == "end"]
    assert sorted(ended) == sorted(started)
    assert {span["span_data"]["type"] for span in recorder.spans.values()} >= {"agent", "guardrail"}


@pytest.mark.parametrize("durable", [False, True])
async def test_the_span_of_a_model_call_that_took_too_long_says_so(recorder: Recorder, durable: bool) -> None:
    async def respond(_: Any) -> Any:
        await asyncio.Event().wait()

    model = ScriptedModel([ModelStep.respond(respond)], emit_traces=True)
    agent = Agent(name="a", model=model, model_settings=ModelSettings(timeout=0.01))

    async def run() -> None:
        if durable:
            await replayed(lambda step: DurableRunner.run(agent, "hi", step=step))
        else:
            await Runner.run(agent, "hi")

    with pytest.raises(ModelTimeoutError):
        await run()
    [generation] = [span for span in recorder.spans.values() if span["span_data"]["type"] == "generation"]
    assert generation["error"] == {
        "message": "Error",
        "data": {"error": "Model call timed out after 0.01 seconds."},
    }


async def test_a_trace_of_the_user_around_two_runs_is_one_trace_if_its_id_is_made_of_the_runs_id(
    recorder: Recorder,
) -> None:
    @function_tool
    def add(a: int, b: int) -> int:
        with custom_span("adding"):
            return a + b

    def agent(name: str) -> Agent[Any]:
        script = [[function_call("add", {"a": 1, "b": 2}, call_id="c1")], [assistant_message("three")]]
        return Agent(name=name, model=ScriptedModel(script), tools=[add])

    async def both_of(first: Agent[Any], second: Agent[Any], run: Any, trace_id: str) -> None:
        with trace("two runs", trace_id=trace_id):
            await run(first, "1 + 2")
            await run(second, "again")

    await both_of(agent("a"), agent("b"), Runner.run, "trace_plain")
    plain = recorder.picture()
    recorder.spans.clear()
    recorder.told.clear()
    agents = agent("a"), agent("b")
    run = await replayed(
        lambda step: both_of(
            *agents, lambda *args: DurableRunner.run(*args, step=step), f"trace_{'01JABCDEFG'.lower():0>32}"
        )
    )
    assert recorder.picture() == plain
    assert len(run.steps) == 6
    assert {span["trace_id"] for span in recorder.spans.values()} == {"trace_000000000000000000000001jabcdefg"}
    ends = [told for told in recorder.told if told[0] == "end"]
    assert len(ends) == len(set(ends))


@pytest.mark.parametrize("durable", [False, True])
async def test_an_untraced_stream_tells_nothing_of_the_closing_of_its_sandbox_to_the_trace_around_it(
    recorder: Recorder, durable: bool
) -> None:
    agent = SandboxAgent(name="coder", model=ScriptedModel([[assistant_message("done")]]), instructions="Code.")
    quiet = RunConfig(tracing_disabled=True, sandbox=SandboxRunConfig(client=UnixLocalSandboxClient()))

    async def main(step: Any) -> Any:
        with trace("mine", trace_id=f"trace_{1:0>32}"):
            if durable:
                return await DurableRunner.run_streamed(agent, "x", step=step, run_config=quiet).wait()
            result = Runner.run_streamed(agent, "x", run_config=quiet)
            async for _ in result.stream_events():
                pass
            return result

    assert (await replayed(main)).result.final_output == "done"
    assert recorder.spans == {}


@pytest.mark.parametrize("durable", [False, True])
async def test_a_stream_that_cannot_start_tells_of_what_it_has_tried(recorder: Recorder, durable: bool) -> None:
    class Provider(ModelProvider):
        def get_model(self, _: str | None) -> Model:
            with custom_span("look for it"):
                raise ValueError("no such model")

    allow = OutputGuardrail(lambda *_: GuardrailFunctionOutput(None, tripwire_triggered=False))
    agent = Agent(name="a", model="x", output_guardrails=[allow])  # for which the SDK looks at the model at once
    config = RunConfig(model_provider=Provider())

    async def main(step: Any) -> None:
        with trace("mine", trace_id=f"trace_{1:0>32}"):
            more = {"previous_response_id": "r", "run_config": config, **({"step": step} if durable else {})}
            (DurableRunner if durable else Runner).run_streamed(agent, "x", **more)

    with pytest.raises(ValueError, match="no such model"):
        await replayed(main)
    assert recorder.picture() == {("custom", "look for it", "the trace"): 1}
