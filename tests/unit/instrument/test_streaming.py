"""Streamed durable runs: the same events and results as under the plain `Runner`, each model call streamed once."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from agents import (
    Agent,
    GuardrailFunctionOutput,
    InputGuardrail,
    MaxTurnsExceeded,
    OutputGuardrail,
    OutputGuardrailTripwireTriggered,
    RawResponsesStreamEvent,
    RunConfig,
    Runner,
    RunResultStreaming,
    function_tool,
)
from agents.exceptions import InputGuardrailTripwireTriggered, ModelBehaviorError
from agents.testing import ModelStep, ScriptedModel, assistant_message, function_call
from agents.usage import Usage
from openai.types.responses import ResponseCompletedEvent

from inngest_agents import DurableOptions, DurableRunner, is_replayed
from inngest_agents.testing import replayed

Script = list[Any]


def add_agent(script: Script, executed: list[str] | None = None, **more: Any) -> Agent[Any]:
    log = executed if executed is not None else []

    @function_tool
    def add(a: int, b: int) -> int:
        log.append(f"add {a} {b}")
        return a + b

    return Agent(name="adder", model=ScriptedModel(script), tools=[add], **more)


def two_turns() -> Script:
    usage = Usage(requests=1, input_tokens=10, output_tokens=5, total_tokens=15)
    return [
        ModelStep(output=[function_call("add", {"a": 1, "b": 2}, call_id="c1")], usage=usage),
        ModelStep(output=[assistant_message("three")], usage=usage),
    ]


def described(event: Any) -> str:
    if event.type == "raw_response_event":
        return f"raw {event.data.type}"
    if event.type == "run_item_stream_event":
        return f"item {event.name}"
    return f"agent {event.new_agent.name}"


async def consumed(result: RunResultStreaming) -> list[str]:
    return [described(event) async for event in result.stream_events()]


def without_deltas(events: list[str]) -> list[str]:
    return [event for event in events if not event.startswith("raw ") or event == "raw response.completed"]


class Sink:
    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def __call__(self, event: dict[str, Any]) -> None:
        self.events.append(event)

    def of_type(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == kind]


async def test_a_streamed_run_has_the_result_of_the_plain_runner_and_each_call_is_one_step() -> None:
    plain = Runner.run_streamed(add_agent(two_turns()), "1 + 2")
    plain_events = await consumed(plain)
    executed: list[str] = []
    agent = add_agent(two_turns(), executed)
    passes: list[list[str]] = []

    async def handler(step: Any) -> Any:
        result = DurableRunner.run_streamed(agent, "1 + 2", step=step)
        assert isinstance(result, RunResultStreaming)
        passes.append([])
        async for event in result.stream_events():
            passes[-1].append(described(event))
        return result

    run = await replayed(handler)
    result = run.result
    assert result.final_output == plain.final_output == "three"
    assert run.steps == ["adder/1 model adder", "adder/1.1 add", "adder/2 model adder"]
    assert run.requests == 5
    assert executed == ["add 1 2"]
    assert passes[-1] == without_deltas(plain_events)
    assert [item.type for item in result.new_items] == [item.type for item in plain.new_items]
    assert result.to_input_list() == plain.to_input_list()
    assert result.context_wrapper.usage == plain.context_wrapper.usage
    assert result.stats.total_model_calls == 2
    assert result.stats.input_tokens == 20
    assert result.to_dict()["final_output"] == "three"


class Echoing(ScriptedModel):
    """Repeats the question in each response, as OpenAI does."""

    async def stream_response(self, system_instructions: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        async for event in super().stream_response(system_instructions, *args, **kwargs):
            if isinstance(event, ResponseCompletedEvent):
                event.response.instructions = system_instructions
                event.response.metadata = {"a": "b"}
            yield event


async def test_what_the_provider_repeats_of_the_question_is_stored_once() -> None:
    instructions = "Add what you are given. " * 20

    def agent() -> Agent[Any]:
        made = add_agent([*two_turns()[:1] * 3, two_turns()[1]], instructions=instructions)
        made.model = Echoing([*two_turns()[:1] * 3, two_turns()[1]])
        return made

    def echoes(events: list[Any]) -> list[Any]:
        said = [event.data.response for event in events if described(event) == "raw response.completed"]
        return [(response.instructions, response.metadata) for response in said]

    durable = agent()
    passes: list[list[Any]] = []

    async def handler(step: Any) -> Any:
        result = DurableRunner.run_streamed(durable, "1 + 2", step=step)
        passes.append([])
        passes[-1].extend([event async for event in result.stream_events()])
        return result.final_output

    run = await replayed(handler)
    plain = Runner.run_streamed(agent(), "1 + 2")
    expected = echoes([event async for event in plain.stream_events()])
    assert expected == [(instructions, {"a": "b"})] * 4
    assert echoes(passes[-1]) == expected
    assert json.dumps(run.memos).count(instructions) == 1


async def test_live_events_reach_the_caller_in_the_request_in_which_the_model_speaks() -> None:
    plain_events = await consumed(Runner.run_streamed(add_agent(two_turns()), "1 + 2"))
    agent = add_agent(two_turns())
    everything: list[str] = []

    async def handler(step: Any) -> Any:
        result = DurableRunner.run_streamed(agent, "1 + 2", step=step)
        async for event in result.stream_events():
            if not is_replayed(event):
                everything.append(described(event))  # noqa: PERF401  the request may end in the middle of the loop
        return result.final_output

    await replayed(handler)
    assert everything == plain_events


async def test_the_sink_gets_each_event_once_and_in_order() -> None:
    plain_events = await consumed(Runner.run_streamed(add_agent(two_turns()), "1 + 2"))
    agent = add_agent(two_turns())
    sink = Sink()

    async def handler(step: Any) -> Any:
        options = DurableOptions(stream=sink)
        return (await DurableRunner.run_streamed(agent, "1 + 2", step=step, options=options).wait()).final_output

    await replayed(handler)
    shown = [
        f"raw {event['event']['type']}"
        if event["type"] == "raw_response_event"
        else f"item {event['event']['name']}"
        if event["type"] == "run_item_stream_event"
        else f"agent {event['event']['new_agent']}"
        for event in sink.events
    ]
    assert shown == plain_events
    assert len({event["id"] for event in sink.events}) == len(sink.events)
    raw = sink.of_type("raw_response_event")
    assert {event["step_id"] for event in raw} == {"adder/1 model adder", "adder/2 model adder"}
    assert {(event["agent"], event["attempt"]) for event in sink.events} == {("adder", 0)}
    (output,) = [event for event in sink.events if event["event"].get("name") == "tool_output"]
    assert output["event"]["item"]["output"] == 3


def test_what_a_sink_gets_is_json() -> None:
    import json

    sink = Sink()

    async def main() -> None:
        agent = add_agent(two_turns())
        options = DurableOptions(stream=sink)
        await replayed(lambda step: DurableRunner.run_streamed(agent, "1 + 2", step=step, options=options).wait())

    asyncio.run(main())
    assert json.loads(json.dumps(sink.events)) == sink.events


def breaking(times: int, good: ModelStep) -> Callable[[Any], AsyncIterator[Any]]:
    """A stream that breaks off after its first events, the first `times` times."""
    from agents.testing.model import _stream_events_for_step

    tries = iter(range(100))

    async def stream(_: Any) -> AsyncIterator[Any]:
        broken = next(tries) < times
        events = _stream_events_for_step(good, preserve_raw_usage=False)
        for event in events[:4] if broken else events:
            yield event
        if broken:
            raise ConnectionError("the line is dead")

    return stream


async def test_a_retried_turn_is_marked_for_the_sink() -> None:
    first, second = two_turns()
    flaky = breaking(1, second)
    agent = add_agent([first, ModelStep.stream(flaky), ModelStep.stream(flaky)])
    sink = Sink()

    async def handler(step: Any) -> Any:
        options = DurableOptions(stream=sink)
        return (await DurableRunner.run_streamed(agent, "1 + 2", step=step, options=options).wait()).final_output

    run = await replayed(handler, max_attempts=3)
    assert run.result == "three"
    (retry,) = sink.of_type("durable.retry")
    assert (retry["step_id"], retry["attempt"]) == ("adder/2 model adder", 1)
    attempts = [event["attempt"] for event in sink.events if event["step_id"] == retry["step_id"] and "index" in event]
    assert attempts[:4] == [0, 0, 0, 0]
    assert set(attempts[4:]) == {1}
    of_step = [e for e in sink.events if e["step_id"] == retry["step_id"]]
    assert of_step.index(retry) == 4
    items = Counter(event["event"]["name"] for event in sink.of_type("run_item_stream_event"))
    assert items == {"tool_called": 1, "tool_output": 1, "message_output_created": 1}
    assert len(sink.of_type("agent_updated_stream_event")) == 1


async def test_a_model_that_fails_for_good_raises_its_error_out_of_the_stream() -> None:
    agent = add_agent([ModelStep(error=ConnectionError("no line")) for _ in range(2)])

    async def handler(step: Any) -> Any:
        with pytest.raises(ConnectionError, match="no line"):
            await DurableRunner.run_streamed(agent, "hi", step=step).wait()
        return "caught"

    run = await replayed(handler, max_attempts=2)
    assert run.result == "caught"


@pytest.mark.parametrize("kind", ["response.failed", "response.incomplete"])
async def test_a_stream_that_ends_with_a_failure_fails_its_step(kind: str) -> None:
    from agents.testing.model import _stream_events_for_step
    from openai.types.responses import ResponseFailedEvent, ResponseIncompleteEvent

    calls: list[int] = []

    async def stream(_: Any) -> AsyncIterator[Any]:
        calls.append(1)
        *events, last = _stream_events_for_step(two_turns()[1], preserve_raw_usage=False)
        assert isinstance(last, ResponseCompletedEvent)
        for event in events:
            yield event
        cls: Any = ResponseFailedEvent if kind == "response.failed" else ResponseIncompleteEvent
        yield cls(type=kind, response=last.response, sequence_number=99)

    def agent() -> Agent[Any]:
        return add_agent([ModelStep.stream(stream)] * 3)

    async def kinds(result: Any, seen: list[str]) -> None:
        async for event in result.stream_events():
            raw = isinstance(event, RawResponsesStreamEvent)
            seen += [event.data.type if raw else event.type]

    shown: list[str] = []
    with pytest.raises(ModelBehaviorError) as plain:
        await kinds(Runner.run_streamed(agent(), "hi"), shown)
    calls.clear()
    durable = agent()
    requests: list[list[str]] = []

    async def handler(step: Any) -> None:
        requests.append([])
        await kinds(DurableRunner.run_streamed(durable, "hi", step=step), requests[-1])

    with pytest.raises(ModelBehaviorError) as error:
        await replayed(handler, max_attempts=3)
    assert str(error.value) == str(plain.value)
    assert len(calls) == (3 if kind == "response.failed" else 1)
    assert shown[-1] == kind
    assert requests[: len(calls)] == [shown] * len(calls)
    assert all(request == ["agent_updated_stream_event"] for request in requests[len(calls) :])


async def test_a_stream_without_an_end_is_an_error_as_under_the_plain_runner() -> None:
    async def stream(_: Any) -> AsyncIterator[Any]:
        nothing: tuple[Any, ...] = ()
        for event in nothing:
            yield event

    agent = add_agent([ModelStep.stream(stream)])
    with pytest.raises(ModelBehaviorError, match="did not produce a final response"):
        await replayed(lambda step: DurableRunner.run_streamed(agent, "hi", step=step).wait())


async def test_max_turns_and_tripwires_come_out_of_the_stream_and_are_not_retried() -> None:
    import inngest

    endless = [[function_call("add", {"a": i, "b": 0}, call_id=f"c{i}")] for i in range(5)]
    agent = add_agent(endless)
    with pytest.raises(MaxTurnsExceeded) as too_many:
        await replayed(lambda step: DurableRunner.run_streamed(agent, "hi", max_turns=2, step=step).wait())
    assert isinstance(too_many.value, inngest.NonRetriableError)

    async def trip(*_: Any) -> GuardrailFunctionOutput:
        return GuardrailFunctionOutput(output_info={"why": "test"}, tripwire_triggered=True)

    guarded = add_agent([[assistant_message("x")]], input_guardrails=[InputGuardrail(trip, run_in_parallel=False)])
    with pytest.raises(InputGuardrailTripwireTriggered):
        await replayed(lambda step: DurableRunner.run_streamed(guarded, "hi", step=step).wait())
    after = add_agent([[assistant_message("x")]], output_guardrails=[OutputGuardrail(trip)])
    with pytest.raises(OutputGuardrailTripwireTriggered) as tripped:
        await replayed(lambda step: DurableRunner.run_streamed(after, "hi", step=step).wait())
    assert tripped.value.guardrail_result.output.output_info == {"why": "test"}


async def test_cancel_after_the_turn_stops_before_the_next_one() -> None:
    agent = add_agent(two_turns())

    async def handler(step: Any) -> Any:
        result = DurableRunner.run_streamed(agent, "1 + 2", step=step)
        async for event in result.stream_events():
            if event.type == "run_item_stream_event" and event.name == "tool_called":
                result.cancel(mode="after_turn")
        return [item.type for item in result.new_items]

    run = await replayed(handler)
    assert run.result == ["tool_call_item", "tool_call_output_item"]
    assert run.steps == ["adder/1 model adder", "adder/1.1 add"]


async def test_cancel_at_once_ends_the_stream_and_stops_the_model() -> None:
    from agents.testing.model import _stream_events_for_step

    spoken: list[str] = []

    async def slow(_: Any) -> AsyncIterator[Any]:
        for event in _stream_events_for_step(two_turns()[1], preserve_raw_usage=False):
            spoken.append(event.type)
            yield event
            await asyncio.sleep(0.005)

    agent = add_agent([ModelStep.stream(slow)])

    async def handler(step: Any) -> Any:
        result = DurableRunner.run_streamed(agent, "1 + 2", step=step)
        async for event in result.stream_events():
            if isinstance(event, RawResponsesStreamEvent):
                result.cancel()
        return result.final_output

    run = await replayed(handler)
    assert run.result is None
    assert run.steps == []
    assert len(spoken) == 1


async def test_a_run_that_nobody_consumes_makes_no_step_and_is_stopped_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = ScriptedModel(two_turns())
    agent = Agent(name="idle", model=model)

    async def handler(step: Any) -> str:
        DurableRunner.run_streamed(agent, "hi", step=step)
        await asyncio.sleep(0.02)
        return "left"

    with caplog.at_level(logging.WARNING, "inngest_agents"):
        run = await asyncio.create_task(replayed(handler))
        await asyncio.sleep(0.01)
    assert run.result == "left"
    assert run.steps == []
    assert not model.calls
    assert "not consumed to its end" in caplog.text


async def test_a_consumer_that_leaves_pauses_the_run_and_wait_goes_on() -> None:
    agent = add_agent(two_turns())

    async def handler(step: Any) -> Any:
        result = DurableRunner.run_streamed(agent, "1 + 2", step=step)
        async for event in result.stream_events():
            if event.type == "run_item_stream_event":
                break
        gc.collect()
        await asyncio.sleep(0)
        await result.wait()
        return result.final_output

    run = await replayed(handler)
    assert run.result == "three"
    assert run.requests == 5


async def test_a_bad_sink_is_told_of_once_and_harms_nothing(caplog: pytest.LogCaptureFixture) -> None:
    agent = add_agent(two_turns())
    seen: list[str] = []

    async def sink(event: dict[str, Any]) -> None:
        seen.append(event["type"])
        raise RuntimeError("sink is broken")

    options = DurableOptions(stream=sink)

    async def handler(step: Any) -> Any:
        return (await DurableRunner.run_streamed(agent, "1 + 2", step=step, options=options).wait()).final_output

    with caplog.at_level(logging.WARNING, "inngest_agents"):
        run = await replayed(handler)
    assert run.result == "three"
    assert len(seen) > 10
    assert caplog.text.count("sink is broken") <= run.requests


async def test_parallel_tools_and_handoffs_are_the_same_in_a_stream() -> None:
    def agents() -> tuple[Agent[Any], list[str]]:
        executed: list[str] = []
        second = add_agent([[assistant_message("done")]], executed)
        script = [
            [function_call("add", {"a": i, "b": i}, call_id=f"c{i}") for i in range(3)],
            [function_call("transfer_to_adder", {}, call_id="h1")],
        ]
        first = add_agent(script, executed, handoffs=[second])
        first.name = "triage"
        return first, executed

    plain_agent, _ = agents()
    plain_events = await consumed(Runner.run_streamed(plain_agent, "go"))
    agent, executed = agents()
    sink, last = Sink(), [[""]]

    async def handler(step: Any) -> Any:
        result = DurableRunner.run_streamed(agent, "go", step=step, options=DurableOptions(stream=sink))
        last[0] = await consumed(result)
        return result

    run = await replayed(handler)
    assert last[0] == without_deltas(plain_events)
    assert sorted(executed) == ["add 0 0", "add 1 1", "add 2 2"]
    assert run.result.last_agent.name == "adder"
    assert run.result.stats.total_handoffs == 1
    assert Counter(event["event"]["name"] for event in sink.of_type("run_item_stream_event")) == Counter(
        event.removeprefix("item ") for event in plain_events if event.startswith("item ")
    )
    assert [e["event"]["new_agent"] for e in sink.of_type("agent_updated_stream_event")] == ["triage", "adder"]


async def test_the_handler_of_a_nested_stream_is_called_once_for_each_event() -> None:
    def agents(log: list[tuple[str, str]]) -> Agent[Any]:
        inner = add_agent(two_turns())
        tool = inner.as_tool("calc", "adds", on_stream=lambda e: log.append((e["agent"].name, described(e["event"]))))
        script = [[function_call("calc", {"input": "1 + 2"}, call_id="n1")], [assistant_message("so: three")]]
        return Agent(name="outer", model=ScriptedModel(script), tools=[tool])

    plain: list[tuple[str, str]] = []
    await consumed(Runner.run_streamed(agents(plain), "go"))
    durable: list[tuple[str, str]] = []
    agent = agents(durable)
    run = await replayed(lambda step: DurableRunner.run_streamed(agent, "go", step=step).wait())
    assert run.result.final_output == "so: three"
    assert run.steps == [
        "outer/1 model outer",
        "outer/1.1 calc/1 model adder",
        "outer/1.1 calc/1.1 add",
        "outer/1.1 calc/2 model adder",
        "outer/2 model outer",
    ]
    assert durable == plain
    unstreamed: list[tuple[str, str]] = []
    agent = agents(unstreamed)
    again = await replayed(lambda step: DurableRunner.run(agent, "go", step=step))
    assert again.steps == run.steps
    assert unstreamed == plain


async def test_a_streamed_run_inside_a_tool_stays_plain_and_its_usage_is_counted() -> None:
    inner_model = ScriptedModel(two_turns()[1:])

    @function_tool
    async def ask() -> str:
        result = Runner.run_streamed(Agent(name="inner", model=inner_model), "hi")
        async for _ in result.stream_events():
            pass
        return str(result.final_output)

    script = [[function_call("ask", {}, call_id="c1")], [assistant_message("ok")]]
    agent = Agent(name="outer", model=ScriptedModel(script), tools=[ask])
    options = DurableOptions(estimate_tokens=False)
    run = await replayed(lambda step: DurableRunner.run_streamed(agent, "go", step=step, options=options).wait())
    assert run.steps == ["outer/1 model outer", "outer/1.1 ask", "outer/2 model outer"]
    assert len(inner_model.calls) == 1
    assert run.result.stats.input_tokens == 10


async def test_the_provider_s_own_retries_stay_off_and_raw_usage_comes_back() -> None:
    step = ModelStep(
        output=[assistant_message("hi")],
        usage=Usage(requests=1, input_tokens=1, output_tokens=2, total_tokens=3),
        raw_usage={"strange": 1},
        response_id="resp_7",
    )
    from agents import ModelSettings

    def agent() -> Agent[Any]:
        return add_agent([step], model_settings=ModelSettings(preserve_raw_usage=True))

    plain = Runner.run_streamed(agent(), "x")
    await consumed(plain)
    durable = agent()
    run = await replayed(lambda s: DurableRunner.run_streamed(durable, "x", step=s, run_config=RunConfig()).wait())
    (expected,), (found,) = plain.raw_responses, run.result.raw_responses
    assert found.raw_usage == expected.raw_usage == {"strange": 1}
    assert (found.response_id, found.usage) == (expected.response_id, expected.usage)


async def test_a_missing_step_is_a_type_error_that_shows_the_call() -> None:
    with pytest.raises(TypeError, match=r"DurableRunner\.run_streamed\(agent, input, step=ctx\.step\)"):
        DurableRunner.run_streamed(add_agent(two_turns()), "hi")


async def test_a_guardrail_beside_the_model_does_not_hold_up_the_end_of_a_request() -> None:
    ran: list[int] = []

    async def allow(*_: Any) -> GuardrailFunctionOutput:
        ran.append(1)
        await asyncio.sleep(0)
        return GuardrailFunctionOutput(output_info=None, tripwire_triggered=False)

    agent = add_agent(two_turns(), input_guardrails=[InputGuardrail(allow, name="in")])
    run = await asyncio.wait_for(
        replayed(lambda step: DurableRunner.run_streamed(agent, "1 + 2", step=step).wait()), timeout=30
    )
    assert run.result.final_output == "three"
    assert len(ran) == 1
    assert len(run.result.input_guardrail_results) == 1


async def test_a_realtime_sink_publishes_batches_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    import inngest
    from inngest.experimental import realtime

    from inngest_agents import RealtimeSink

    published: list[dict[str, Any]] = []
    where: set[tuple[str, str]] = set()

    async def publish(client: inngest.Inngest, channel: str, topic: str, data: Any) -> None:
        where.add((channel, topic))
        published.extend(data["events"])

    monkeypatch.setattr(realtime, "publish", publish)
    sink = RealtimeSink(inngest.Inngest(app_id="a", is_production=False), channel="chat:1", topic="tokens")
    agent, options = add_agent(two_turns()), DurableOptions(stream=sink)
    await replayed(lambda step: DurableRunner.run_streamed(agent, "1 + 2", step=step, options=options).wait())
    assert where == {("chat:1", "tokens")}
    first = [event["index"] for event in published if event["step_id"] == "adder/1 model adder" and "index" in event]
    assert first == list(range(len(first)))
    assert published[-1]["event"]["name"] == "message_output_created"


async def test_a_sink_that_never_answers_holds_up_the_end_of_a_request_only_so_long(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from inngest_agents import sinks

    monkeypatch.setattr(sinks, "FLUSH_SECONDS", 0.02)

    async def stuck(_: dict[str, Any]) -> None:
        await asyncio.Event().wait()

    agent, options = add_agent(two_turns()), DurableOptions(stream=stuck)
    run = await replayed(lambda step: DurableRunner.run_streamed(agent, "1 + 2", step=step, options=options).wait())
    assert run.result.final_output == "three"
    assert "did not take them within" in caplog.text
