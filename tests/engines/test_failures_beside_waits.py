"""Tools in the function itself (`in_step=False`), and what fails in or beside them."""

from __future__ import annotations

import asyncio
import datetime
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import inngest
import pytest
from agents import Agent, function_tool, tool_input_guardrail
from agents.testing import ScriptedModel, assistant_message, function_call
from agents.tool_guardrails import ToolGuardrailFunctionOutput

from inngest_agents import DurableOptions, DurableRunner, durable, get_step, tool_options

from .waiting_tools import MINUTE, agent_that_calls, outputs_of, wait, wait_until

if TYPE_CHECKING:
    from .harness import EngineUnderTest


@pytest.mark.parametrize("checkpoint", [True, False])
def test_a_step_that_such_a_tool_runs_is_tried_again_while_another_waits(
    engine: EngineUnderTest, checkpoint: bool
) -> None:
    done: Counter[str] = Counter()

    async def shaky() -> str:
        done["shaky"] += 1
        if done["shaky"] == 1:
            raise OSError("not yet")
        return "held"

    @function_tool
    async def work() -> str:
        return str(await get_step().run("shaky", shaky))

    agent = agent_that_calls(tool_options(wait, in_step=False), tool_options(work, in_step=False))

    @engine.client.create_function(fn_id="fn", trigger=inngest.TriggerEvent(event="go"), retries=1)
    async def fn(ctx: inngest.Context) -> Any:
        options = DurableOptions(checkpoint=checkpoint)
        return outputs_of(await DurableRunner.run(agent, "go", step=ctx.step, options=options))

    engine.serve([fn])
    run_id = engine.send("go")
    wait_until(lambda: done["shaky"] == 2)
    engine.send_event("answered", {"x": 5})
    assert engine.wait(run_id).output == ["5", "held"]
    assert done["shaky"] == 2


@pytest.mark.parametrize("checkpoint", [True, False])
def test_a_tool_that_asks_for_a_later_try_does_not_cut_off_the_one_beside_it(
    engine: EngineUnderTest, checkpoint: bool
) -> None:
    done: Counter[str] = Counter()

    async def busy() -> str:
        done["busy"] += 1
        await asyncio.sleep(0.1)
        if done["busy"] == 1:
            raise inngest.RetryAfterError("busy", retry_after=datetime.timedelta(seconds=1))
        return "free"

    @function_tool
    async def work() -> str:
        return str(await get_step().run("busy", busy))

    inner = Agent(
        name="inner",
        model=ScriptedModel([[function_call("work", {}, call_id="i1")], [assistant_message("inner done")]]),
        tools=[tool_options(work, in_step=False)],
    )

    @function_tool
    async def outer() -> str:
        return str((await DurableRunner.run(inner, "go", step=get_step())).final_output)

    @function_tool
    async def charge() -> str:
        done["charge begun"] += 1
        await asyncio.sleep(0.6)
        done["charge"] += 1
        return "charged"

    agent = agent_that_calls(tool_options(outer, in_step=False), charge)

    @engine.client.create_function(fn_id="fn", trigger=inngest.TriggerEvent(event="go"), retries=2)
    async def fn(ctx: inngest.Context) -> Any:
        options = DurableOptions(checkpoint=checkpoint)
        return outputs_of(await DurableRunner.run(agent, "go", step=ctx.step, options=options))

    engine.serve([fn])
    assert engine.run("go").output == ["inner done", "charged"]
    assert done == {"busy": 2, "charge begun": 1, "charge": 1}


def test_what_a_cancelled_tool_waited_for_is_not_waited_for(engine: EngineUnderTest) -> None:
    done: Counter[str] = Counter()
    begun = asyncio.Event()

    @function_tool
    async def wait_beside() -> str:
        await begun.wait()  # what has not begun by now runs while the engine waits
        return str(await get_step().wait_for_event("wait", event="answered", timeout=MINUTE))

    @function_tool(failure_error_function=None)
    async def fail() -> str:
        done["fail"] += 1
        begun.set()
        await asyncio.sleep(0.1)
        raise ValueError("broken")

    agent = agent_that_calls(tool_options(wait_beside, in_step=False), fail)
    fallback = Agent(name="b", model=ScriptedModel([[assistant_message("fallback")]]))

    @engine.client.create_function(fn_id="fn", trigger=inngest.TriggerEvent(event="go"), retries=0)
    async def fn(ctx: inngest.Context) -> Any:
        try:
            return (await DurableRunner.run(agent, "go", step=ctx.step)).final_output
        except Exception:  # noqa: BLE001  as users write it
            return (await DurableRunner.run(fallback, "go", step=ctx.step)).final_output

    engine.serve([fn])
    assert engine.run("go").output == "fallback"
    assert done == {"fail": 1}


@pytest.mark.parametrize(("checkpoint", "max_runtime"), [(True, None), (True, 0.0), (False, None)])
def test_what_leads_to_another_wait_does_not_stand_still_while_one_tool_waits(
    engine: EngineUnderTest, checkpoint: bool, max_runtime: float | None
) -> None:
    asked: Counter[str] = Counter()

    async def ask(name: str) -> str:
        asked[name] += 1
        return name

    def tool_of(name: str, questions: int) -> Any:
        @tool_input_guardrail
        async def check(data: Any) -> ToolGuardrailFunctionOutput:
            asked[f"check {name}"] += 1
            await asyncio.sleep(questions / 20)
            return ToolGuardrailFunctionOutput.allow()

        @function_tool(name_override=name, tool_input_guardrails=[check])
        async def ask_boss() -> str:
            for _ in range(questions):
                await durable("ask", ask, name)
            answer = await get_step().wait_for_event(
                f"answer {name}", event="answered", if_exp=f"async.data.name == '{name}'", timeout=MINUTE
            )
            await durable("note", ask, f"noted {name}")
            return str(answer.data["name"])

        return tool_options(ask_boss, in_step=False)

    @function_tool
    async def look_up() -> str:
        asked["look up"] += 1
        return "found"

    agent = agent_that_calls(tool_of("none", 0), look_up, tool_of("one", 1), tool_of("three", 3))

    @engine.client.create_function(fn_id="fn", trigger=inngest.TriggerEvent(event="go"), retries=0)
    async def fn(ctx: inngest.Context) -> Any:
        options = DurableOptions(checkpoint=checkpoint, max_runtime=max_runtime)
        return outputs_of(await DurableRunner.run(agent, "go", step=ctx.step, options=options))

    engine.serve([fn])
    run_id = engine.send("go")
    wait_until(lambda: asked["three"] == 3 and asked["look up"])
    time.sleep(0.5)  # the waits are under way then
    for name in ("three", "none", "one"):
        engine.send_event("answered", {"name": name})
    assert engine.wait(run_id).output == ["none", "found", "one", "three"]
    assert asked == Counter({"one": 1, "three": 3, "look up": 1}) + Counter(
        {f"{what} {name}": 1 for what in ("check", "noted") for name in ("none", "one", "three")}
    )


def test_nor_does_it_after_a_plan(engine: EngineUnderTest) -> None:
    done: Counter[str] = Counter()

    async def work(name: str) -> str:
        done[name] += 1
        return name

    async def event(name: str) -> str:
        answer = await get_step().wait_for_event(
            name, event="answered", if_exp=f"async.data.name == '{name}'", timeout=MINUTE
        )
        return str(answer.data["name"])

    @function_tool
    async def first() -> str:
        return await event("first 1") + await event("first 2")

    @function_tool
    async def second() -> str:
        before = await event("second 1")
        await durable("work", work, "durable")
        await get_step().run("work", work, "run")
        return before + await event("second 2")

    @function_tool
    async def look_up() -> str:
        return await work("look up")

    @function_tool
    async def look_on() -> str:
        return await work("look on")

    waiting = (tool_options(first, in_step=False), tool_options(second, in_step=False))
    agent = agent_that_calls(*waiting, look_up, look_on)

    @engine.client.create_function(fn_id="fn", trigger=inngest.TriggerEvent(event="go"), retries=0)
    async def fn(ctx: inngest.Context) -> Any:
        return outputs_of(await DurableRunner.run(agent, "go", step=ctx.step))

    engine.serve([fn])
    run_id = engine.send("go")
    wait_until(lambda: done["look up"] and done["look on"])
    time.sleep(0.5)
    for name in ("first 1", "second 1"):
        engine.send_event("answered", {"name": name})
    wait_until(lambda: done["run"])
    time.sleep(0.5)
    for name in ("second 2", "first 2"):
        engine.send_event("answered", {"name": name})
    assert engine.wait(run_id).output == ["first 1first 2", "second 1second 2", "look up", "look on"]
    assert done == {"look up": 1, "look on": 1, "durable": 1, "run": 1}


@pytest.mark.parametrize(("checkpoint", "in_group"), [(True, False), (False, False), (True, True)])
def test_a_tool_waits_while_the_one_beside_it_is_to_be_tried_later(
    engine: EngineUnderTest, checkpoint: bool, in_group: bool
) -> None:
    done: Counter[str] = Counter()

    async def ask() -> None:
        done["ask"] += 1

    @function_tool
    async def ask_boss() -> str:
        await durable("ask", ask)
        timeout = datetime.timedelta(seconds=10)
        answer = await get_step().wait_for_event("answer", event="answered", timeout=timeout)
        return "nobody answered" if answer is None else str(answer.data["x"])

    @function_tool
    async def busy() -> str:
        done["busy"] += 1
        if done["busy"] < 3:
            raise inngest.RetryAfterError("busy", retry_after=datetime.timedelta(seconds=3))
        return "free"

    agent = agent_that_calls(tool_options(ask_boss, in_step=False), busy)

    @engine.client.create_function(fn_id="fn", trigger=inngest.TriggerEvent(event="go"), retries=2)
    async def fn(ctx: inngest.Context) -> Any:
        async def run() -> list[str]:
            options = DurableOptions(checkpoint=checkpoint)
            return outputs_of(await DurableRunner.run(agent, "go", step=ctx.step, options=options))

        return (await ctx.group.parallel((run,)))[0] if in_group else await run()

    engine.serve([fn])
    run_id = engine.send("go")
    wait_until(lambda: done["ask"])
    time.sleep(1)
    engine.send_event("answered", {"x": 5})
    assert engine.wait(run_id).output == ["5", "free"]
    assert done == {"ask": 1, "busy": 3}
