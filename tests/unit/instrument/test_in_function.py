"""Tools that are no steps: they run in the function itself, again in each request, and may use `ctx.step`."""

from __future__ import annotations

from collections import Counter
from typing import Any

import inngest
import pytest
from agents import (
    Agent,
    CustomTool,
    FunctionTool,
    RunContextWrapper,
    Runner,
    ShellTool,
    function_tool,
    tool_input_guardrail,
)
from agents.testing import ScriptedModel, assistant_message, function_call
from agents.tool_guardrails import ToolGuardrailFunctionOutput
from openai.types.responses import ResponseCustomToolCall
from oracle import both

from inngest_agents import (
    Budget,
    BudgetExceeded,
    DurableOptions,
    DurableRunner,
    ToolOptions,
    UnsupportedError,
    durable,
    get_step,
    tool_options,
)
from inngest_agents.testing import UnsupportedStepError, replayed


def items_of(result: Any) -> list[Any]:
    return list(result.to_input_list())


def agent_with(tools: list[Any], *turns: list[Any]) -> Agent[Any]:
    return Agent(name="a", model=ScriptedModel([*turns, [assistant_message("done")]]), tools=tools)


async def test_its_steps_are_under_its_call_and_run_once_and_the_rest_in_each_request() -> None:
    done: Counter[str] = Counter()

    async def work(x: int) -> int:
        done[f"work {x}"] += 1
        return 2 * x

    async def send() -> str:
        done["send"] += 1
        return "sent"

    @function_tool
    async def order(x: int) -> str:
        done["order"] += 1
        step = get_step()
        values = [await durable("work", work, x), await durable("work", work, x + 10)]
        if step is not None:
            await step.run(f"send {x}", send)
        return f"ordered {values}"

    def build(model: ScriptedModel) -> Agent[Any]:
        return Agent(name="a", model=model, tools=[tool_options(order, in_step=False)])

    def script() -> list[Any]:
        calls = [function_call("order", {"x": x}, call_id=f"c{x}") for x in (1, 2)]
        return [calls, [function_call("order", {"x": 3}, call_id="c3")], [assistant_message("done")]]

    outcome = await both(build, script)
    works = [f"1.{place} order/work{again}" for place in (1, 2) for again in ("", ":1")]
    assert set(outcome.labels("work")) == {*works, "2.1 order/work", "2.1 order/work:1"}
    assert {name: count for name, count in done.items() if name.startswith("work")} == {
        f"work {x}": 2
        for x in (1, 2, 3, 11, 12, 13)  # once by each runner
    }
    assert done["send"] == 3
    assert done["order"] > 6
    stats = outcome.durable.stats
    assert (stats.total_tool_calls, stats.by_tool["order"].tool_calls, stats.by_agent["a"].tool_calls) == (3, 3, 3)


async def test_it_changes_the_context_as_under_the_plain_runner_and_has_its_guardrails() -> None:
    checked: list[str] = []

    @tool_input_guardrail
    def check(data: Any) -> ToolGuardrailFunctionOutput:
        checked.append(data.context.tool_arguments)
        return ToolGuardrailFunctionOutput.allow()

    @function_tool(tool_input_guardrails=[check])
    def count(context: RunContextWrapper[dict[str, int]]) -> str:
        context.context["n"] += 1
        return str(context.context["n"])

    agent = agent_with(
        [tool_options(count, in_step=False)],
        [function_call("count", {}, call_id="c1")],
        [function_call("count", {}, call_id="c2")],
    )

    async def handler(step: Any) -> Any:
        context = {"n": 0}
        result = await DurableRunner.run(agent, "go", step=step, context=context)
        return [context, [item.get("output") for item in items_of(result) if "output" in item]]

    assert (await replayed(handler)).result == [{"n": 2}, ["1", "2"]]
    assert len(checked) == 2


async def test_an_agent_that_it_runs_is_durable_with_tools_of_the_same_kind() -> None:
    done: Counter[str] = Counter()

    async def work() -> str:
        done["work"] += 1
        return "worked"

    @function_tool
    async def inner() -> str:
        await get_step().run("inner step", work)
        return await durable("work", work)

    nested = agent_with([tool_options(inner, in_step=False)], [function_call("inner", {}, call_id="i1")])

    @function_tool
    async def outer() -> str:
        return str((await Runner.run(nested, "go")).final_output)

    agent = agent_with([tool_options(outer, in_step=False)], [function_call("outer", {}, call_id="o1")])
    run = await replayed(lambda step: DurableRunner.run(agent, "go", step=step))
    assert run.steps == [
        "a/1 model a",
        "a/1.1 outer/a nested run:1/1 model a",
        "inner step",
        "a/1.1 outer/a nested run:1/1.1 inner/work",
        "a/1.1 outer/a nested run:1/2 model a",
        "a/2 model a",
    ]
    assert done["work"] == 2
    stats = run.result.stats
    assert (stats.total_model_calls, stats.total_tool_calls) == (4, 2)
    assert (stats.by_tool["outer"].tool_calls, stats.by_tool["inner"].tool_calls) == (1, 1)


async def test_its_failure_is_told_to_the_model_and_what_ends_a_function_ends_the_run() -> None:
    @function_tool(failure_error_function=lambda _, error: f"told {error}")
    async def fail(final: bool) -> str:
        raise inngest.NonRetriableError("never") if final else ValueError("broken")

    tool = tool_options(fail, in_step=False)
    agent = agent_with([tool], [function_call("fail", {"final": False}, call_id="c1")])
    run = await replayed(lambda step: DurableRunner.run(agent, "go", step=step))
    assert items_of(run.result)[2]["output"] == "told broken"
    assert run.steps == ["a/1 model a", "a/1.1 fail error text", "a/2 model a"]

    agent = agent_with([tool], [function_call("fail", {"final": True}, call_id="c1")])
    with pytest.raises(inngest.NonRetriableError, match="never"):
        await replayed(lambda step: DurableRunner.run(agent, "go", step=step))


async def test_a_budget_that_an_agent_in_it_exceeds_is_that_of_the_run() -> None:
    nested = Agent(name="n", model=ScriptedModel([[assistant_message("done")]]))

    @function_tool
    async def outer() -> str:
        return str((await Runner.run(nested, "go")).final_output)

    agent = agent_with([tool_options(outer, in_step=False)], [function_call("outer", {}, call_id="o1")])
    options = DurableOptions(budget=Budget(max_model_calls=1))
    with pytest.raises(BudgetExceeded):
        await replayed(lambda step: DurableRunner.run(agent, "go", step=step, options=options))


async def test_it_waits_in_a_streamed_run_too() -> None:
    @function_tool
    async def nap() -> str:
        await get_step().sleep("nap", 1000)
        return "slept"

    agent = agent_with([tool_options(nap, in_step=False)], [function_call("nap", {}, call_id="n1")])

    async def handler(step: Any) -> Any:
        result = DurableRunner.run_streamed(agent, "go", step=step)
        async for _ in result.stream_events():
            pass
        return result.final_output

    with pytest.raises(UnsupportedStepError, match="'nap' needs a real engine"):
        await replayed(handler)


async def test_the_step_is_there_in_it_alone() -> None:
    seen: dict[str, Any] = {}

    @function_tool
    def in_function() -> str:
        seen["in function"] = get_step()
        return ""

    @function_tool
    def in_step() -> str:
        seen["in step"] = get_step()
        return ""

    calls = [function_call("in_function", {}, call_id="f1"), function_call("in_step", {}, call_id="s1")]
    agent = agent_with([tool_options(in_function, in_step=False), in_step], calls)

    async def handler(step: Any) -> Any:
        await DurableRunner.run(agent, "go", step=step)
        return [seen["in function"] is step, seen["in step"], get_step()]

    assert (await replayed(handler)).result == [True, None, None]


async def test_a_timeout_is_refused() -> None:
    @function_tool(timeout=1.0)
    async def wait() -> str:
        return ""

    agent = agent_with([tool_options(wait, in_step=False)], [function_call("wait", {}, call_id="w1")])
    with pytest.raises(UnsupportedError, match="tool 'wait' has a timeout"):
        await replayed(lambda step: DurableRunner.run(agent, "go", step=step))


async def test_other_tools_cannot_be_without_a_step() -> None:
    made: Any = CustomTool(name="sql", description="asks", on_invoke_tool=lambda context, given: "1")
    with pytest.raises(TypeError, match="for a FunctionTool, not CustomTool"):
        tool_options(made, in_step=False)
    with pytest.raises(TypeError, match="for a FunctionTool, not ShellTool"):
        tool_options(ShellTool(executor=lambda _: ""), in_step=False)
    call = ResponseCustomToolCall(type="custom_tool_call", name="sql", call_id="q1", input="select 1")
    agent = agent_with([made], [call])
    options = DurableOptions(tools={"sql": ToolOptions(in_step=False)})
    with pytest.raises(UnsupportedError, match="'sql' is a CustomTool"):
        await replayed(lambda step: DurableRunner.run(agent, "go", step=step, options=options))


def test_attempts_are_of_steps() -> None:
    with pytest.raises(ValueError, match="give one of the two"):
        ToolOptions(max_attempts=1, in_step=False)
    tool: FunctionTool = function_tool(lambda x: x, name_override="t", strict_mode=False)
    with pytest.raises(ValueError, match="give one of the two"):
        tool_options(tool, max_attempts=1, in_step=False)
