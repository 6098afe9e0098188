"""Methods of `ctx.step`, and steps à la carte, inside of what is a step itself."""

from __future__ import annotations

import datetime
from collections.abc import Awaitable, Callable
from typing import Any

import inngest
import pytest
from agents import Agent, GuardrailFunctionOutput, InputGuardrail, Runner, function_tool
from agents.testing import ScriptedModel, assistant_message, function_call

from inngest_agents import DurableRunner, UnsupportedError, as_step, durable, finalize_run
from inngest_agents.testing import replayed

HOUR = datetime.timedelta(hours=1)


def items_of(result: Any) -> list[Any]:
    return list(result.to_input_list())


async def nothing() -> str:
    return "x"


USES: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "run": lambda step: step.run("inner", nothing),
    "sleep": lambda step: step.sleep("inner", HOUR),
    "wait_for_event": lambda step: step.wait_for_event("inner", event="e", timeout=HOUR),
    "send_event": lambda step: step.send_event("inner", inngest.Event(name="e")),
    "invoke": lambda step: step.invoke_by_id("inner", function_id="f"),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
async def test_a_method_of_the_step_inside_a_tool_fails_the_run_and_is_not_told_to_the_model(use: Any) -> None:
    given: list[Any] = []

    @function_tool
    async def work() -> str:
        return str(await use(given[-1]))

    model = ScriptedModel([[function_call("work", {}, call_id="c1")]])
    agent: Agent[Any] = Agent(name="a", model=model, tools=[work])

    async def handler(step: Any) -> Any:
        given.append(step)
        return await DurableRunner.run(agent, "go", step=step)

    with pytest.raises(UnsupportedError, match=r"step 'a/1\.1 work' used a method of ctx\.step"):
        await replayed(handler, max_attempts=3)
    assert len(model.calls) == 1


async def test_a_method_of_the_step_inside_a_guardrail_fails_the_run() -> None:
    given: list[Any] = []

    async def check(context: Any, agent: Any, input: Any) -> GuardrailFunctionOutput:
        await given[-1].sleep("inner", HOUR)
        return GuardrailFunctionOutput(output_info=None, tripwire_triggered=False)

    guardrail: InputGuardrail[Any] = InputGuardrail(guardrail_function=check, name="slow", run_in_parallel=False)
    agent: Agent[Any] = Agent(name="a", model=ScriptedModel([[assistant_message("hi")]]), input_guardrails=[guardrail])

    async def handler(step: Any) -> Any:
        given.append(step)
        return await DurableRunner.run(agent, "go", step=step)

    with pytest.raises(UnsupportedError, match="guardrail slow"):
        await replayed(handler)


async def test_steps_a_la_carte_that_are_given_the_step_inside_a_tool_are_part_of_the_tools_own() -> None:
    given: list[Any] = []

    @function_tool
    async def inner() -> str:
        return "x"

    @function_tool
    async def work() -> str:
        step = given[-1]
        model = ScriptedModel([[function_call("inner", {}, call_id="i1")], [assistant_message("done")]])
        nested: Agent[Any] = Agent(name="n", model=model, tools=[as_step(inner, step=step)])
        result = await Runner.run(nested, "go")
        output: str = (await finalize_run(result, step=step)).final_output
        return await durable("more", nothing, step=step) + output

    model = ScriptedModel([[function_call("work", {}, call_id="c1")], [assistant_message("end")]])
    agent: Agent[Any] = Agent(name="a", model=model, tools=[work])

    async def handler(step: Any) -> Any:
        given.append(step)
        return await DurableRunner.run(agent, "go", step=step)

    run = await replayed(handler)
    assert run.steps == ["a/1 model a", "a/1.1 work", "a/2 model a"]
    assert items_of(run.result)[2]["output"] == "xdone"
