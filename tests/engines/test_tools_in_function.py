"""Tools that are no steps (`in_step=False`): they wait for events and time, and invoke functions, in mid-run."""

from __future__ import annotations

import asyncio
import datetime
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import inngest
import pytest
from agents import Agent, RunContextWrapper, function_tool
from agents.testing import ScriptedModel, assistant_message, function_call
from agents.tool_context import ToolContext

from inngest_agents import DurableOptions, DurableRunner, durable, get_step, tool_options

from .waiting_tools import MINUTE, agent_that_calls, outputs_of, wait, wait_until

if TYPE_CHECKING:
    from .harness import EngineUnderTest


@pytest.mark.parametrize("checkpoint", [True, False])
def test_a_tool_asks_somebody_and_waits_for_the_answer(engine: EngineUnderTest, checkpoint: bool) -> None:
    done: Counter[str] = Counter()

    async def ask(question: str) -> str:
        done[f"ask {question}"] += 1
        return question

    @function_tool
    async def ask_boss(context: ToolContext[Any], question: str) -> str:
        await durable("ask", ask, question)
        answer = await get_step().wait_for_event(
            f"answer {context.tool_call_id}",
            event="answered",
            if_exp=f"async.data.question == '{question}'",
            timeout=MINUTE,
        )
        return "nobody answered" if answer is None else str(answer.data["answer"])

    @function_tool
    async def look_up(thing: str) -> str:
        done[f"look up {thing}"] += 1
        return f"the {thing}"

    model = ScriptedModel(
        [
            [
                function_call("ask_boss", {"question": "pay"}, call_id="b1"),
                function_call("look_up", {"thing": "price"}, call_id="l1"),
                function_call("ask_boss", {"question": "ship"}, call_id="b2"),
            ],
            [assistant_message("all done")],
        ]
    )
    agent: Agent[Any] = Agent(name="a", model=model, tools=[tool_options(ask_boss, in_step=False), look_up])

    @engine.client.create_function(fn_id="fn", trigger=inngest.TriggerEvent(event="go"), retries=0)
    async def fn(ctx: inngest.Context) -> Any:
        options = DurableOptions(checkpoint=checkpoint)
        result = await DurableRunner.run(agent, "go", step=ctx.step, options=options)
        return [outputs_of(result), result.stats.total_tool_calls, result.stats.by_tool["ask_boss"].tool_calls]

    engine.serve([fn])
    run_id = engine.send("go")
    wait_until(lambda: len(done) == 3)
    time.sleep(0.5)  # the waits are under way then
    engine.send_event("answered", {"question": "ship", "answer": "not yet"})
    time.sleep(0.3)
    engine.send_event("answered", {"question": "pay", "answer": "yes"})

    assert engine.wait(run_id).output == [["yes", "the price", "not yet"], 3, 2]
    assert done == {"ask pay": 1, "ask ship": 1, "look up price": 1}
    assert len(model.calls) == 2


@pytest.mark.parametrize("checkpoint", [True, False])
def test_a_tool_sleeps_invokes_another_function_sends_events_and_runs_steps(
    engine: EngineUnderTest, checkpoint: bool
) -> None:
    done: Counter[str] = Counter()

    @engine.client.create_function(fn_id="other", trigger=inngest.TriggerEvent(event="other"))
    async def other(ctx: inngest.Context) -> str:
        return f"other got {ctx.event.data['x']}"

    @engine.client.create_function(fn_id="heard", trigger=inngest.TriggerEvent(event="heard"))
    async def heard(ctx: inngest.Context) -> None:
        done["heard"] += 1

    async def work() -> str:
        done["work"] += 1
        if done["work"] == 1:
            raise OSError("not yet")
        return "worked"

    @function_tool
    async def everything(context: RunContextWrapper[dict[str, int]], x: int) -> list[Any]:
        step = get_step()
        await step.sleep("nap", datetime.timedelta(milliseconds=50))
        context.context["x"] = x
        invoked = await step.invoke("invoke", function=other, data={"x": x})
        await step.send_event("send", inngest.Event(name="heard"))
        return [invoked, await step.run("work", work), await durable("more", twice, x)]

    async def twice(x: int) -> int:
        done["twice"] += 1
        return 2 * x

    @function_tool
    def seen(context: RunContextWrapper[dict[str, int]]) -> str:
        return str(context.context)

    model = ScriptedModel(
        [
            [function_call("everything", {"x": 7}, call_id="e1")],
            [function_call("seen", {}, call_id="s1")],
            [assistant_message("all done")],
        ]
    )
    agent: Agent[Any] = Agent(name="a", model=model, tools=[tool_options(everything, in_step=False), seen])

    @engine.client.create_function(fn_id="fn", trigger=inngest.TriggerEvent(event="go"), retries=1)
    async def fn(ctx: inngest.Context) -> Any:
        options = DurableOptions(checkpoint=checkpoint)
        result = await DurableRunner.run(agent, "go", step=ctx.step, options=options, context={})
        return outputs_of(result)

    engine.serve([fn, other, heard])
    assert engine.run("go").output == ["['other got 7', 'worked', 14]", "{'x': 7}"]
    wait_until(lambda: done["heard"])
    assert done == {"heard": 1, "work": 2, "twice": 1}
    assert len(model.calls) == 3


@pytest.mark.parametrize("checkpoint", [True, False])
def test_a_step_of_a_tool_that_fails_for_good_is_told_to_the_model_and_what_is_final_ends_the_run(
    engine: EngineUnderTest, checkpoint: bool
) -> None:
    done: Counter[str] = Counter()

    async def fail(kind: str) -> str:
        done[kind] += 1
        raise inngest.NonRetriableError("never") if kind == "final" else OSError("broken")

    @function_tool(failure_error_function=lambda _, error: f"told: {type(error).__name__} {error}")
    async def work(kind: str) -> str:
        return str(await get_step().run("work", fail, kind))

    def agent(kind: str) -> Agent[Any]:
        model = ScriptedModel([[function_call("work", {"kind": kind}, call_id="w1")], [assistant_message("done")]])
        return Agent(name="a", model=model, tools=[tool_options(work, in_step=False)])

    agents = {kind: agent(kind) for kind in ("final", "broken")}

    @engine.client.create_function(fn_id="fn", trigger=inngest.TriggerEvent(event="go"), retries=1)
    async def fn(ctx: inngest.Context) -> Any:
        options = DurableOptions(checkpoint=checkpoint)
        kind = str(ctx.event.data["kind"])
        result = await DurableRunner.run(agents[kind], "go", step=ctx.step, options=options)
        return outputs_of(result)

    engine.serve([fn])
    assert engine.run("go", {"kind": "broken"}).output == ["told: StepError broken"]
    outcome = engine.run("go", {"kind": "final"})
    assert outcome.status == "Failed"
    assert "never" in str(outcome.output)
    assert done == {"broken": 2, "final": 1}


def test_a_tool_in_a_parallel_group_and_a_streamed_one_wait(engine: EngineUnderTest) -> None:
    done: Counter[str] = Counter()

    @function_tool
    async def nap(context: ToolContext[Any]) -> str:
        await get_step().sleep(f"nap {context.tool_call_id}", datetime.timedelta(milliseconds=200))
        return str(await durable("work", work, context.tool_call_id))

    async def work(name: str) -> str:
        done[name] += 1
        return f"{name} worked"

    def agent(name: str) -> Agent[Any]:
        model = ScriptedModel([[function_call("nap", {}, call_id=name)], [assistant_message(f"{name} done")]])
        return Agent(name=name, model=model, tools=[tool_options(nap, in_step=False)])

    first, second, third = agent("first"), agent("second"), agent("third")

    async def plain() -> str:
        done["plain"] += 1
        return "plain"

    @engine.client.create_function(fn_id="fn", trigger=inngest.TriggerEvent(event="go"), retries=0)
    async def fn(ctx: inngest.Context) -> Any:
        async def run(agent: Agent[Any]) -> str:
            return str((await DurableRunner.run(agent, "go", step=ctx.step)).final_output)

        outputs = await ctx.group.parallel(
            (lambda: run(first), lambda: run(second), lambda: ctx.step.run("plain", plain))
        )
        streamed = DurableRunner.run_streamed(third, "go", step=ctx.step)
        async for _ in streamed.stream_events():
            pass
        return [*outputs, streamed.final_output]

    engine.serve([fn])
    assert engine.run("go").output == ["first done", "second done", "plain", "third done"]
    assert done == {"first": 1, "second": 1, "third": 1, "plain": 1}
    assert [len(each.model.calls) for each in (first, second, third)] == [2, 2, 2]  # type: ignore[union-attr]


@pytest.mark.parametrize("checkpoint", [True, False])
def test_a_tool_of_a_synchronous_function_waits(engine: EngineUnderTest, checkpoint: bool) -> None:
    done: Counter[str] = Counter()

    def work() -> str:
        done["work"] += 1
        return "worked"

    @function_tool
    def in_thread(context: ToolContext[Any]) -> str:
        step = get_step()
        step.sleep(f"nap {context.tool_call_id}", datetime.timedelta(milliseconds=20))
        return str(step.run(f"work {context.tool_call_id}", work))

    calls = [function_call("in_thread", {}, call_id=call_id) for call_id in ("t1", "t2")]
    model = ScriptedModel([calls, [assistant_message("done")]])
    agent: Agent[Any] = Agent(name="a", model=model, tools=[tool_options(in_thread, in_step=False)])

    @engine.client.create_function(fn_id="fn", trigger=inngest.TriggerEvent(event="go"), retries=0)
    def fn(ctx: inngest.ContextSync) -> Any:
        options = DurableOptions(checkpoint=checkpoint)
        return DurableRunner.run_sync(agent, "go", step=ctx.step, options=options).final_output

    engine.serve([fn])
    assert engine.run("go").output == "done"
    assert done == {"work": 2}
    assert len(model.calls) == 2


@pytest.mark.parametrize("checkpoint", [True, False])
def test_a_step_beside_one_that_a_tool_runs_is_not_cut_off_by_its_end(
    engine: EngineUnderTest, checkpoint: bool
) -> None:
    done: Counter[str] = Counter()

    async def slow() -> str:
        await asyncio.sleep(0.4)
        done["slow"] += 1
        return "slow"

    @function_tool
    async def outer() -> str:
        return str(await get_step().run("slow", slow))

    @function_tool
    async def quick() -> str:
        done["quick"] += 1
        return "quick"

    @function_tool
    async def steady() -> str:
        await asyncio.sleep(0.2)
        done["steady"] += 1
        return "steady"

    calls = [function_call(name, {}, call_id=name) for name in ("outer", "quick", "steady")]
    model = ScriptedModel([calls, [assistant_message("done")]])
    agent: Agent[Any] = Agent(name="a", model=model, tools=[tool_options(outer, in_step=False), quick, steady])

    @engine.client.create_function(fn_id="fn", trigger=inngest.TriggerEvent(event="go"), retries=0)
    async def fn(ctx: inngest.Context) -> Any:
        options = DurableOptions(checkpoint=checkpoint)
        return (await DurableRunner.run(agent, "go", step=ctx.step, options=options)).final_output

    engine.serve([fn])
    assert engine.run("go").output == "done"
    assert done == {"slow": 1, "quick": 1, "steady": 1}
    assert len(model.calls) == 2


@pytest.mark.parametrize("checkpoint", [True, False])
def test_a_step_beside_a_tool_that_waits_is_tried_again_meanwhile(engine: EngineUnderTest, checkpoint: bool) -> None:
    done: Counter[str] = Counter()

    @function_tool
    async def shaky() -> str:
        done["shaky"] += 1
        if done["shaky"] == 1:
            raise OSError("not yet")
        return "held"

    agent = agent_that_calls(tool_options(wait, in_step=False), shaky)

    @engine.client.create_function(fn_id="fn", trigger=inngest.TriggerEvent(event="go"), retries=1)
    async def fn(ctx: inngest.Context) -> Any:
        options = DurableOptions(checkpoint=checkpoint)
        return outputs_of(await DurableRunner.run(agent, "go", step=ctx.step, options=options))

    engine.serve([fn])
    run_id = engine.send("go")
    wait_until(lambda: done["shaky"] == 2)
    time.sleep(0.3)
    engine.send_event("answered", {"x": 5})
    assert engine.wait(run_id).output == ["5", "held"]
