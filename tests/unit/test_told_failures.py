"""With checkpointing, what the SDK cancels for a step that has failed for good is cancelled at once."""

from __future__ import annotations

import asyncio
from typing import Any

import inngest
import pytest
from agents import (
    Agent,
    GuardrailFunctionOutput,
    RunConfig,
    RunHooks,
    Runner,
    SQLiteSession,
    UserError,
    function_tool,
    input_guardrail,
)
from agents.testing import ScriptedModel, assistant_message, function_call
from agents.tracing import Span, TracingProcessor, set_trace_processors
from checkpoint_api import Api, Engine

from inngest_agents import DurableRunner, durable, set_step

QUIET = RunConfig(tracing_disabled=True)


class Pair:
    """A tool that never ends, beside one that fails once the other has begun."""

    def __init__(self) -> None:
        self.done: list[str] = []
        begun = asyncio.Event()

        @function_tool
        async def endless() -> str:
            self.done.append("begun")
            begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.done.append("cancelled")
                raise
            return "never"

        @function_tool(failure_error_function=None)
        async def fail() -> str:
            await begun.wait()
            self.done.append("failed")
            raise ValueError("no more paper")

        calls = [function_call("endless", {}, call_id="1"), function_call("fail", {}, call_id="2")]
        self.agent = Agent(name="p", model=ScriptedModel([calls]), tools=[endless, fail])

    async def run(self, step: Any, *, streamed: bool = False, run_config: RunConfig = QUIET) -> Any:
        if streamed:
            return await DurableRunner.run_streamed(self.agent, "go", step=step, run_config=run_config).wait()
        return await DurableRunner.run(self.agent, "go", step=step, run_config=run_config)


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_tool_that_fails_for_good_cancels_the_one_beside_it(streamed: bool) -> None:
    pair = Pair()
    async with Api() as api:
        engine = Engine(api, max_attempts=1)
        with pytest.raises(UserError, match="no more paper"):
            await engine.run(lambda step: pair.run(step, streamed=streamed))
    assert pair.done == ["begun", "failed", "cancelled"]
    assert engine.answered == ["p/1.2 fail"]


@pytest.mark.parametrize("streamed", [False, True])
async def test_what_a_tool_raises_as_it_is_cancelled_does_not_take_the_place_of_the_failure(streamed: bool) -> None:
    begun = asyncio.Event()

    @function_tool(failure_error_function=None)
    async def endless() -> str:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ConnectionError("no rollback") from None
        return "never"

    @function_tool(failure_error_function=None)
    async def fail() -> str:
        await begun.wait()
        raise ValueError("no more paper")

    pair = Pair()
    pair.agent.tools = [endless, fail]
    with pytest.raises(UserError, match="no more paper"):
        await Runner.run(pair.agent, "go", run_config=QUIET)
    pair.agent.model = Pair().agent.model
    async with Api() as api:
        engine = Engine(api, max_attempts=1)
        with pytest.raises(UserError, match="no more paper"):
            await engine.run(lambda step: pair.run(step, streamed=streamed))
    assert engine.answered == ["p/1.2 fail"]


async def test_its_spans_are_told_once() -> None:
    ends: list[str] = []

    class Ends(TracingProcessor):
        def on_trace_start(self, trace: Any) -> None: ...
        def on_trace_end(self, trace: Any) -> None:
            ends.append(trace.trace_id)

        def on_span_start(self, span: Span[Any]) -> None: ...
        def on_span_end(self, span: Span[Any]) -> None:
            ends.append(span.span_id)

        def shutdown(self) -> None: ...
        def force_flush(self) -> None: ...

    pair = Pair()
    set_trace_processors([Ends()])
    try:
        async with Api() as api:
            with pytest.raises(UserError):
                await Engine(api, max_attempts=1).run(lambda step: pair.run(step, run_config=RunConfig()))
    finally:
        set_trace_processors([])
    assert len(ends) >= 4  # the trace, its agent, and the two tools at least
    assert len(ends) == len(set(ends))


async def test_a_tool_that_is_tried_again_cancels_nothing() -> None:
    done: list[str] = []
    failed = asyncio.Event()

    @function_tool
    async def slow() -> str:
        await failed.wait()
        await asyncio.sleep(0.01)
        done.append("slow")
        return "done"

    @function_tool(failure_error_function=None)
    async def fail() -> str:
        done.append("failed")
        if failed.is_set():
            return "done"
        failed.set()
        raise ValueError("paper jam")

    calls = [function_call("slow", {}, call_id="1"), function_call("fail", {}, call_id="2")]
    agent = Agent(name="p", model=ScriptedModel([calls, [assistant_message("ok")]]), tools=[slow, fail])
    async with Api() as api:
        engine = Engine(api, max_attempts=2)
        result = await engine.run(lambda step: DurableRunner.run(agent, "go", step=step, run_config=QUIET))
    assert result.final_output == "ok"
    assert done == ["failed", "slow", "failed"]


async def test_a_model_call_that_fails_for_good_cancels_the_guardrail_beside_it() -> None:
    done: list[str] = []
    begun = asyncio.Event()

    @input_guardrail
    async def endless(context: Any, agent: Any, given: Any) -> GuardrailFunctionOutput:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            done.append("cancelled")
        return GuardrailFunctionOutput(None, tripwire_triggered=False)

    class Model(ScriptedModel):
        async def get_response(self, *args: Any, **kwargs: Any) -> Any:
            await begun.wait()
            done.append("asked")
            raise inngest.NonRetriableError("the model was retired")

    agent = Agent(name="g", model=Model(), input_guardrails=[endless])
    async with Api() as api:
        with pytest.raises(inngest.NonRetriableError, match="retired"):
            await Engine(api).run(lambda step: DurableRunner.run(agent, "go", step=step, run_config=QUIET))
    assert done == ["asked", "cancelled"]


async def test_a_hook_that_the_sdk_waits_for_no_longer_runs_to_its_end_once() -> None:
    """Under the plain runner, too, it goes on after the run has failed."""
    done: list[str] = []
    in_hook = asyncio.Event()

    @function_tool
    async def work() -> str:
        return "done"

    @function_tool(failure_error_function=None)
    async def fail() -> str:
        await in_hook.wait()
        raise ValueError("no more paper")

    class Hooks(RunHooks[Any]):
        async def on_tool_end(self, context: Any, agent: Any, tool: Any, result: Any) -> None:
            done.append("begun")
            in_hook.set()
            await asyncio.sleep(0.5)  # the SDK gives it a tenth of a second
            done.append("ended")

    calls = [function_call("work", {}, call_id="1"), function_call("fail", {}, call_id="2")]
    agent = Agent(name="h", model=ScriptedModel([calls]), tools=[work, fail])
    async with Api() as api:
        engine = Engine(api, max_attempts=1)
        with pytest.raises(UserError, match="no more paper"):
            await engine.run(lambda step: DurableRunner.run(agent, "go", step=step, hooks=Hooks(), run_config=QUIET))
    assert done == ["begun", "ended"]
    assert "h/1.1 work on_tool_end" in api.saved


async def test_what_the_sdk_has_left_behind_does_not_wait_for_ever() -> None:
    """An agent that is cancelled as a tool writes to its own session then: a step that this request starts no more."""
    begun = asyncio.Event()

    @function_tool
    async def endless() -> str:
        begun.set()
        await asyncio.Event().wait()
        return "never"

    @function_tool(failure_error_function=None)
    async def fail() -> str:
        await begun.wait()
        raise ValueError("no more paper")

    nested = Agent(name="n", model=ScriptedModel([[function_call("endless", {}, call_id="n1")]]), tools=[endless])
    calls = [function_call("ask", {"input": "x"}, call_id="1"), function_call("fail", {}, call_id="2")]
    tools: list[Any] = [nested.as_tool("ask", "asks", session=SQLiteSession("n")), fail]
    agent = Agent(name="p", model=ScriptedModel([calls]), tools=tools)
    async with Api() as api:

        async def handler(step: Any) -> None:
            await asyncio.sleep(0.01)  # the last of what was cancelled may end a few turns of the loop later
            assert not [task for task in asyncio.all_tasks() if task.cancelling()]
            await DurableRunner.run(agent, "go", step=step, run_config=QUIET)

        engine = Engine(api, max_attempts=1)
        with pytest.raises(UserError, match="no more paper"):
            await engine.run(handler)
    assert engine.answered == ["p/1.2 fail"]


async def test_the_users_own_frame_learns_of_a_failure_only_when_it_is_stored() -> None:
    seen: list[str] = []
    begun = asyncio.Event()

    async def slow() -> str:
        begun.set()
        await asyncio.sleep(0.01)
        return "done"

    async def fail() -> str:
        await begun.wait()
        raise inngest.NonRetriableError("no more paper")

    async def caught() -> str:
        try:
            return await durable("fail", fail)
        except inngest.NonRetriableError:
            seen.append("caught")
            return "none"

    async def handler(step: Any) -> list[str]:
        set_step(step)
        return list(await asyncio.gather(durable("slow", slow), caught()))

    async with Api() as api:
        assert await Engine(api).run(handler) == ["done", "none"]
    assert seen == ["caught"]
