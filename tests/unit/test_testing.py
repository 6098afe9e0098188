"""`replayed` is an engine in small: it overlaps planned steps that wait for each other."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, cast

import inngest
from agents import Agent, function_tool
from agents.testing import ScriptedModel, assistant_message, function_call
from inngest.experimental import mocked

from inngest_agents import DurableRunner
from inngest_agents.testing import replayed


async def test_parallel_steps_that_wait_for_each_other_are_overlapped() -> None:
    arrived: list[str] = []
    both = asyncio.Event()

    @function_tool
    async def meet(who: str) -> str:
        arrived.append(who)
        if len(arrived) == 2:
            both.set()
        await both.wait()
        return f"{who} was there"

    script: list[Any] = [
        [function_call("meet", {"who": "Ann"}, call_id="c1"), function_call("meet", {"who": "Bob"}, call_id="c2")],
        [assistant_message("done")],
    ]
    agent = Agent(name="a", model=ScriptedModel(script), tools=[meet])
    run = await asyncio.wait_for(replayed(lambda step: DurableRunner.run(agent, "hi", step=step)), 5)
    assert run.result.final_output == "done"
    assert arrived == ["Ann", "Bob"]
    assert sorted(run.steps) == ["a/1 model a", "a/1.1 meet", "a/1.2 meet", "a/2 model a"]


async def test_the_mock_engine_of_inngest_runs_a_durable_agent() -> None:
    done: list[str] = []

    @function_tool
    def note(what: str) -> str:
        done.append(what)
        return "noted"

    script: list[Any] = [
        [function_call("note", {"what": "a"}, call_id="c1"), function_call("note", {"what": "b"}, call_id="c2")],
        [assistant_message("done")],
    ]
    model = ScriptedModel(script)
    agent = Agent(name="clerk", model=model, tools=[note])
    client = inngest.Inngest(app_id="mocked", is_production=False)

    @client.create_function(fn_id="run", trigger=inngest.TriggerEvent(event="run"))
    async def run(ctx: inngest.Context) -> Any:
        return (await DurableRunner.run(agent, "hi", step=ctx.step)).to_dict()

    def trigger() -> Any:
        # The mock takes the loop of its thread; where there is none it makes one for each request, and closes none.
        with contextlib.closing(asyncio.new_event_loop()) as loop:
            asyncio.set_event_loop(loop)
            return mocked.trigger(run, inngest.Event(name="run"), mocked.Inngest(app_id="mocked"))

    ended = await asyncio.to_thread(trigger)
    assert ended.status is mocked.Status.COMPLETED
    assert cast("Any", ended.output)["final_output"] == "done"
    assert sorted(done) == ["a", "b"]
    assert len(model.calls) == 2
