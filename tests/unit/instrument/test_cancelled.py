"""Code of the user that raises `CancelledError` by itself: a failure like any other, as under plain `Runner`."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from agents import Agent, CustomTool, GuardrailFunctionOutput, InputGuardrail, Runner, SQLiteSession, function_tool
from agents.testing import ScriptedModel, assistant_message, function_call
from agents.tracing import FunctionSpanData, Span, Trace, TracingProcessor
from agents.tracing.setup import get_trace_provider
from openai.types.responses import ResponseCustomToolCall
from oracle import both, seen, shown

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


class ToolErrors(TracingProcessor):
    """Notes the errors of the spans of tool calls."""

    def __init__(self) -> None:
        self.errors: list[Any] = []

    def on_span_end(self, span: Span[Any]) -> None:
        if isinstance(span.span_data, FunctionSpanData):
            self.errors.append(span.error)

    def on_span_start(self, span: Span[Any]) -> None: ...
    def on_trace_start(self, trace: Trace) -> None: ...
    def on_trace_end(self, trace: Trace) -> None: ...
    def shutdown(self) -> None: ...
    def force_flush(self) -> None: ...


@pytest.mark.parametrize("nested", [False, True])
async def test_what_the_user_tells_of_a_tool_that_is_cancelled_from_within_is_a_step(
    nested: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    async def tell(_: Any, error: Exception) -> str:
        told.append(f"{type(error).__name__} {error}")
        return f"told {len(told)}"

    def build(model: ScriptedModel) -> Agent[Any]:
        async def check(*_: Any) -> GuardrailFunctionOutput:
            raise asyncio.CancelledError("lost the connection")

        @function_tool(failure_error_function=tell)
        async def cancelled() -> str:
            raise asyncio.CancelledError("lost the connection")

        guardrail = InputGuardrail(check, name="check", run_in_parallel=False)
        inner: Agent[Any] = Agent(name="inner", model=ScriptedModel([]), input_guardrails=[guardrail])
        tool = inner.as_tool("cancelled", "is cancelled", failure_error_function=tell) if nested else cancelled
        return Agent(name="a", model=model, tools=[tool])

    def script() -> list[Any]:
        arguments = {"input": "x"} if nested else {}
        return [
            [function_call("cancelled", arguments, call_id="c1")],
            [function_call("cancelled", arguments, call_id="c2")],
            [assistant_message("done")],
        ]

    provider: Any = get_trace_provider()
    plain_model, durable_model = ScriptedModel(script()), ScriptedModel(script())
    plain_spans, durable_spans = ToolErrors(), ToolErrors()
    monkeypatch.setattr(provider._multi_processor, "_processors", (plain_spans,))
    plain = await Runner.run(build(plain_model), "hi")
    told_plainly = told.copy()
    told.clear()
    monkeypatch.setattr(provider._multi_processor, "_processors", (durable_spans,))
    agent = build(durable_model)
    run = await replayed(lambda step: DurableRunner.run(agent, "hi", step=step))

    assert told == told_plainly
    assert len(told) == 2
    assert shown(run.result) == shown(plain)
    assert seen(durable_model) == seen(plain_model)
    assert [step for step in run.steps if "error text" in step] == [
        "a/1.1 cancelled error text",
        "a/2.1 cancelled error text",
    ]
    assert durable_spans.errors == plain_spans.errors
    assert [error["message"] for error in plain_spans.errors] == ["Tool execution cancelled"] * 2


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


class Lost(SQLiteSession):
    """A session that is cancelled from within while it writes."""

    async def add_items(self, items: list[Any]) -> None:
        raise asyncio.CancelledError("lost the connection")


async def test_a_session_that_is_cancelled_from_within_ends_the_run_with_its_own_error() -> None:
    def agent() -> Agent[Any]:
        return Agent(name="a", model=ScriptedModel([[assistant_message("done")]]))

    plain = Runner.run(agent(), "hi", session=Lost("s"))
    durable = replayed(lambda step: DurableRunner.run(agent(), "hi", step=step, session=Lost("s")))
    for run in (plain, durable):
        with pytest.raises(asyncio.CancelledError, match="lost the connection"):
            await run


async def test_a_session_that_is_cancelled_from_within_does_not_end_a_stream_as_if_all_were_well() -> None:
    agent = Agent(name="a", model=ScriptedModel([[assistant_message("done")]]))
    session = Lost("s")

    async def handler(step: Any) -> None:
        await DurableRunner.run_streamed(agent, "hi", session=session, step=step).wait()

    with pytest.raises(asyncio.CancelledError, match="lost the connection"):
        await asyncio.wait_for(replayed(handler), 5)


@pytest.mark.parametrize("runner", ["plain", "durable"])
async def test_a_stream_that_its_consumer_cancels_has_written_what_was_said_so_far(runner: str) -> None:
    @function_tool
    def fine() -> str:
        return "ok"

    script = [[function_call("fine", {}, call_id="c1")], *([assistant_message("done")] for _ in range(9))]
    agent = Agent(name="a", model=ScriptedModel(script), tools=[fine])
    session = SQLiteSession("s")

    async def cancelled(result: Any) -> None:
        async for event in result.stream_events():
            if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
                result.cancel()

    if runner == "plain":
        await cancelled(Runner.run_streamed(agent, "hi", session=session))
    else:
        await replayed(lambda step: cancelled(DurableRunner.run_streamed(agent, "hi", session=session, step=step)))
    kinds: list[Any] = [item.get("type", item.get("role")) for item in await session.get_items()]
    assert kinds == ["user", "function_call", "function_call_output"]


@pytest.mark.parametrize("streamed", [False, True])
async def test_what_was_done_beside_a_tool_that_is_cancelled_from_within_is_written(streamed: bool) -> None:
    @function_tool
    def fine() -> str:
        return "ok"

    @function_tool(failure_error_function=None)
    async def cancelled() -> str:
        await asyncio.sleep(0.1)
        raise asyncio.CancelledError("lost the connection")

    def agent() -> Agent[Any]:
        calls = [function_call("fine", {}, call_id="c1"), function_call("cancelled", {}, call_id="c2")]
        return Agent(name="a", model=ScriptedModel([calls]), tools=[fine, cancelled])

    async def run(runner: Any, given: Agent[Any], session: SQLiteSession, **kwargs: Any) -> None:
        if not streamed:
            await runner.run(given, "hi", session=session, **kwargs)
            return
        async for _ in runner.run_streamed(given, "hi", session=session, **kwargs).stream_events():
            pass

    plain, durable = SQLiteSession("plain"), SQLiteSession("durable")
    with pytest.raises(asyncio.CancelledError):
        await run(Runner, agent(), plain)
    tried = agent()

    async def handler(step: Any) -> None:
        await run(DurableRunner, tried, durable, step=step)

    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(replayed(handler), 5)
    assert await durable.get_items() == await plain.get_items()
    assert len(await plain.get_items()) == 3


async def test_a_replay_keeps_what_was_done_beside_a_custom_tool_that_is_cancelled() -> None:
    @function_tool
    def fine() -> str:
        return "ok"

    async def cancel(*_: Any) -> str:
        await asyncio.sleep(0.8)  # longer than `replayed` waits before it begins the request of the other step
        raise asyncio.CancelledError("lost the connection")

    cancelled = CustomTool(name="cancelled", description="", on_invoke_tool=cancel)

    def agent() -> Agent[Any]:
        calls: list[Any] = [
            function_call("fine", {}, call_id="c1"),
            ResponseCustomToolCall(type="custom_tool_call", name="cancelled", call_id="c2", input=""),
        ]
        return Agent(name="a", model=ScriptedModel([calls]), tools=[fine, cancelled])

    plain, durable = SQLiteSession("plain"), SQLiteSession("durable")
    with pytest.raises(asyncio.CancelledError):
        await Runner.run(agent(), "hi", session=plain)
    tried = agent()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(replayed(lambda step: DurableRunner.run(tried, "hi", session=durable, step=step)), 5)
    assert await durable.get_items() == await plain.get_items()
    assert len(await plain.get_items()) == 3
