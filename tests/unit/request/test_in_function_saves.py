"""A tool that is no step starts only where what led to it is saved, and not in a request that is over."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from agents import Agent, RunConfig, function_tool, tool_input_guardrail
from agents.testing import ScriptedModel, assistant_message, function_call
from agents.tool_guardrails import ToolGuardrailFunctionOutput
from checkpoint_api import Api, Engine, answer, late

from inngest_agents import DurableRunner, durable, get_step, tool_options
from inngest_agents._inngest_sdk import hash_step_id
from inngest_agents.request import checkpoint


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "RETRY_DELAYS", (0.002, 0.005))
    monkeypatch.setattr(checkpoint, "RESTART_DELAYS", (0.01, 0.01, 0.01, 0.01))


class Work:
    """An agent with two parallel calls of such a tool, each with two steps."""

    def __init__(self, api: Api) -> None:
        log = api.log

        async def first(name: str) -> str:
            log.append(f"first {name}")
            return name

        async def second(name: str) -> str:
            log.append(f"second {name}")
            return f"{name} done"

        @function_tool
        async def work(name: str) -> str:
            log.append(f"start {name}")
            return str(await get_step().run(f"second {name}", second, await durable("first", first, name)))

        calls = [function_call("work", {"name": name}, call_id=name) for name in ("a", "b")]
        model = ScriptedModel([calls, [assistant_message("done")]])
        self.agent = Agent(name="w", model=model, tools=[tool_options(work, in_step=False)])

    async def __call__(self, step: Any) -> str:
        result = await DurableRunner.run(self.agent, "go", step=step, run_config=RunConfig(tracing_disabled=True))
        return str(result.final_output)


async def test_it_starts_when_the_response_that_ordered_it_is_saved() -> None:
    async with Api(forever=late(0.03)) as api:
        engine = Engine(api)
        assert await engine.run(Work(api)) == "done"
    log = api.log
    assert log.index("saved w/1 model w") < min(log.index("start a"), log.index("start b"))
    assert [log.count(f"{part} {name}") for part in ("first", "second") for name in ("a", "b")] == [1, 1, 1, 1]


@pytest.mark.parametrize("place", range(4))
async def test_where_saves_fail_its_steps_run_once(place: int) -> None:
    async with Api(*[None] * place, forever=answer(500)) as api:
        assert await Engine(api).run(Work(api)) == "done"
    assert [api.log.count(f"{part} {name}") for part in ("first", "second") for name in ("a", "b")] == [1, 1, 1, 1]


async def test_it_does_not_start_in_a_run_that_another_worker_owns() -> None:
    async with Api(answer(409)) as api:
        engine = Engine(api)
        assert await engine.run(Work(api)) is None
        assert engine.answers == [[("None", "")]]
        await asyncio.sleep(0.05)
    assert "start a" not in api.log


async def test_what_begins_while_the_last_steps_are_saved_is_not_cut_off() -> None:
    log: list[str] = []
    begun, checked = asyncio.Event(), asyncio.Event()

    @tool_input_guardrail
    async def check(data: Any) -> ToolGuardrailFunctionOutput:
        await begun.wait()
        checked.set()
        return ToolGuardrailFunctionOutput.allow()

    async def charge() -> str:
        log.append("charge begun")
        await asyncio.sleep(0.05)
        log.append("charged")
        return "charged"

    @function_tool(tool_input_guardrails=[check])
    async def pay() -> str:
        return str(await get_step().run("charge", charge))

    @function_tool
    async def shaky() -> str:
        begun.set()
        await checked.wait()
        await asyncio.sleep(0.05)  # `pay` waits for its guardrail to be saved by then
        log.append("shaky")
        if log.count("shaky") == 1:
            raise OSError("not yet")
        return "held"

    calls = [function_call("pay", {}, call_id="p1"), function_call("shaky", {}, call_id="s1")]
    model = ScriptedModel([calls, [assistant_message("done")]])
    agent = Agent(name="w", model=model, tools=[tool_options(pay, in_step=False), shaky])
    quiet = RunConfig(tracing_disabled=True)
    async with Api(None, late(0.3)) as api:
        result = await Engine(api).run(lambda step: DurableRunner.run(agent, "go", step=step, run_config=quiet))
        assert result.final_output == "done"
    assert log == ["shaky", "charge begun", "charged", "shaky"]


async def test_its_steps_come_before_a_wait_where_an_older_engine_has_every_step_planned() -> None:
    async with Api() as api:

        async def ask() -> str:
            api.memos[hash_step_id("answer")] = {"data": {"name": "answered", "data": {"text": "yes"}}}
            return "asked"

        @function_tool
        async def wait() -> str:
            answer = await get_step().wait_for_event("answer", event="answered", timeout=1000)
            return str(answer.data["text"])

        @function_tool
        async def work() -> str:
            return str(await durable("ask", ask))

        calls = [function_call(name, {}, call_id=name) for name in ("wait", "work")]
        tools = [tool_options(tool, in_step=False) for tool in (wait, work)]
        agent = Agent(name="w", model=ScriptedModel([calls, [assistant_message("done")]]), tools=list(tools))

        async def handler(step: Any) -> Any:
            step._execution._request.ctx.disable_immediate_execution = True
            return await DurableRunner.run(agent, "go", step=step, run_config=RunConfig(tracing_disabled=True))

        engine = Engine(api)
        assert (await engine.run(handler)).final_output == "done"
    assert not any("WaitForEvent" in op for answer in engine.answers for op, _ in answer)
    assert [("StepPlanned", "w/1.2 work/ask")] in engine.answers
