"""What a streamed run has added to its session when its consumer cancels it, with checkpointing."""

from __future__ import annotations

import asyncio
import functools
from typing import Any

import pytest
from agents import (
    Agent,
    GuardrailFunctionOutput,
    RunConfig,
    Runner,
    RunResultStreaming,
    SQLiteSession,
    StreamEvent,
    function_tool,
    handoff,
    input_guardrail,
)
from agents.testing import ModelStep, ScriptedModel, assistant_message, function_call
from checkpoint_api import Api, Engine

from inngest_agents import DurableOptions, DurableRunner
from inngest_agents.testing import replayed

QUIET = RunConfig(tracing_disabled=True)


def desk() -> Agent[Any]:
    @function_tool
    async def look() -> str:
        return "looked"

    clerk = Agent(name="clerk", model=ScriptedModel([[assistant_message("done")]]))
    turns = [
        [function_call("look", {}, call_id="1")],
        [function_call("look", {}, call_id="2")],
        [function_call("transfer_to_clerk", {}, call_id="3")],
    ]
    return Agent(name="desk", model=ScriptedModel(turns), tools=[look], handoffs=[handoff(clerk)])


def is_handoff(event: StreamEvent) -> bool:
    return event.type == "run_item_stream_event" and event.name == "handoff_occured"


async def consume(result: RunResultStreaming) -> None:
    async for event in result.stream_events():
        if is_handoff(event):
            result.cancel()


def kinds(items: list[Any]) -> list[str]:
    return [item.get("type") or item["role"] for item in items]


@pytest.mark.parametrize("durable", [False, True])
async def test_a_run_that_is_cancelled_at_a_handoff_keeps_the_turns_before_it(durable: bool) -> None:
    """The SDK reads the session there, which writes first what was added; the cancellation hits that write."""
    session = SQLiteSession("desk")
    if durable:
        async with Api() as api:

            async def handler(step: Any) -> None:
                await consume(DurableRunner.run_streamed(desk(), "go", step=step, session=session, run_config=QUIET))

            await Engine(api).run(handler)
        assert api.saved.count("desk/session write") == 1
    else:
        await consume(Runner.run_streamed(desk(), "go", session=session, run_config=QUIET))
    turn = ["function_call", "function_call_output"]
    assert kinds(await session.get_items()) == ["user", *turn, *turn]


@pytest.mark.parametrize("place", [0, 1, 2, 3])
async def test_a_replay_is_not_ahead_of_its_consumer_who_ends_the_run_after_a_turn(place: int) -> None:
    agent = desk()

    async def handler(step: Any) -> int:
        result = DurableRunner.run_streamed(agent, "go", step=step, run_config=QUIET)
        await asyncio.sleep(0.02)  # as for a message to the user's client
        seen = 0
        async for _ in result.stream_events():
            if seen == place:
                result.cancel("after_turn")
            seen += 1
        return len(result.raw_responses)

    run = await replayed(handler)
    assert run.result == 1
    assert run.steps == ["desk/1 model desk", "desk/1.1 look"]


@pytest.mark.parametrize("durable", [False, True])
async def test_a_run_with_a_session_that_is_cancelled_at_its_first_event_makes_no_turn(durable: bool) -> None:
    session, agent = SQLiteSession("first"), desk()

    async def handler(step: Any) -> int:
        runner: Any = functools.partial(DurableRunner.run_streamed, step=step) if durable else Runner.run_streamed
        result = runner(agent, "go", session=session, run_config=QUIET)
        async for _ in result.stream_events():
            result.cancel("after_turn")
        return len(result.raw_responses)

    assert (await replayed(handler)).result == 0
    assert not await session.get_items()


class SlowSession(SQLiteSession):
    """Its first write has an end that can be cancelled, after it was made."""

    def __init__(self) -> None:
        super().__init__("slow")
        self.writing = asyncio.Event()
        self.writes = 0

    async def add_items(self, items: list[Any], **kwargs: Any) -> None:
        self.writes += 1
        await super().add_items(items, **kwargs)
        if self.writes == 1:
            self.writing.set()
            await asyncio.Event().wait()


async def test_what_a_write_that_was_cancelled_has_left_undone_is_added_once() -> None:
    session = SlowSession()
    async with Api() as api:

        async def handler(step: Any) -> None:
            result = DurableRunner.run_streamed(desk(), "go", step=step, session=session, run_config=QUIET)
            consuming = asyncio.ensure_future(result.wait())
            await session.writing.wait()
            result.cancel()
            await consuming

        await Engine(api).run(handler)
    turn = ["function_call", "function_call_output"]
    assert kinds(await session.get_items()) == ["user", *turn, *turn]
    assert api.saved[-1] == "desk/session write"


class StuckSession(SQLiteSession):
    """Its write of an answer never ends."""

    def __init__(self) -> None:
        super().__init__("stuck")
        self.writing = asyncio.Event()
        self.stuck = 0

    async def add_items(self, items: list[Any], **kwargs: Any) -> None:
        if any(item.get("type") == "message" for item in items):
            self.stuck += 1
            self.writing.set()
            await asyncio.Event().wait()
        await super().add_items(items, **kwargs)


async def test_a_write_of_one_turn_alone_that_was_cancelled_is_not_tried_again() -> None:
    session = StuckSession()
    agent = Agent(name="desk", model=ScriptedModel([[assistant_message("done")]]))
    options = DurableOptions(session_writes="turn")
    async with Api() as api:

        async def handler(step: Any) -> None:
            result = DurableRunner.run_streamed(
                agent, "go", step=step, session=session, run_config=QUIET, options=options
            )
            consuming = asyncio.ensure_future(result.wait())
            await session.writing.wait()
            result.cancel()
            await consuming

        await Engine(api).run(handler)
    assert kinds(await session.get_items()) == ["user"]
    assert session.stuck == 1


async def test_memos_that_wait_for_the_consumer_are_given_in_the_order_in_which_they_were_asked_for() -> None:
    @input_guardrail
    async def first(_context: Any, _agent: Any, _input: Any) -> GuardrailFunctionOutput:
        return GuardrailFunctionOutput("first", tripwire_triggered=False)

    @input_guardrail
    async def second(_context: Any, _agent: Any, _input: Any) -> GuardrailFunctionOutput:
        return GuardrailFunctionOutput("second", tripwire_triggered=False)

    model = ScriptedModel([[assistant_message("done")]])
    agent = Agent(name="guarded", model=model, input_guardrails=[first, second])

    async def handler(step: Any) -> list[str]:
        result = DurableRunner.run_streamed(agent, "go", step=step, run_config=QUIET)
        await asyncio.sleep(0.02)  # the loop has asked for all of its memos by now
        await result.wait()
        return [found.output.output_info for found in result.input_guardrail_results]

    assert (await replayed(handler)).result == ["first", "second"]


async def test_a_stream_that_is_cancelled_earlier_on_a_replay_has_not_diverged() -> None:
    """Who cancels for a reason of his own (a button) does so as early as he can in the next request."""
    stopped = asyncio.Event()

    async def wait(_: Any) -> Any:
        stopped.set()
        await asyncio.Event().wait()

    @function_tool
    async def look() -> str:
        return "looked"

    turns: Any = [[function_call("look", {}, call_id="2")], ModelStep.respond(wait)]
    clerk = Agent(name="clerk", model=ScriptedModel(turns), tools=[look])
    desk = Agent(
        name="desk", model=ScriptedModel([[function_call("transfer_to_clerk", {}, call_id="1")]]), handoffs=[clerk]
    )
    session = SQLiteSession("button")

    async def handler(step: Any) -> int:
        result = DurableRunner.run_streamed(desk, "go", step=step, session=session, run_config=QUIET)

        async def cancel() -> None:
            await stopped.wait()
            while result.last_agent is not clerk:  # noqa: ASYNC110  the SDK tells nobody
                await asyncio.sleep(0)
            for _ in range(8):  # while it reads the session, of the 20 that this takes
                await asyncio.sleep(0)
            result.cancel()

        cancelling = asyncio.create_task(cancel())
        await result.wait()
        await cancelling
        return len(result.raw_responses)

    run = await replayed(handler)
    assert run.result == 1
    assert run.steps.count("desk/session write:1") == 1
    turn = ["function_call", "function_call_output"]
    assert kinds(await session.get_items()) == ["user", *turn, *turn]
