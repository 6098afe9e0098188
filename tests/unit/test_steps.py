"""Steps à la carte around a plain `Runner.run`."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from agents import (
    Agent,
    ModelResponse,
    Runner,
    ToolCallOutputItem,
    ToolGuardrailFunctionOutput,
    Usage,
    function_tool,
    tool_input_guardrail,
)
from agents.testing import ScriptedModel, assistant_message, function_call

from inngest_agents import DurableRunner, as_step, durable, finalize_run, get_step, set_step
from inngest_agents.testing import replayed


def agent(calls: list[str], step: Any = None) -> Agent[None]:
    @function_tool
    async def charge(amount: int) -> str:
        calls.append(f"charge {amount}")
        return f"charged {amount}"

    class Again(ScriptedModel):
        """A plain run asks the model anew on each replay, so the script starts over with each run."""

    script: list[Any] = [[function_call("charge", {"amount": 5}, call_id="c1")], [assistant_message("paid")]]
    return Agent(name="cashier", model=Again(script), tools=[as_step(charge, step=step)])


async def test_a_tool_as_a_step_runs_once_although_a_plain_run_is_replayed() -> None:
    calls: list[str] = []

    async def handler(step: Any) -> dict[str, Any]:
        set_step(step)
        result = await Runner.run(agent(calls), "pay")
        final = await finalize_run(result, "cashier", model="gpt-4o")
        return final.to_dict()

    run = await replayed(handler)

    assert calls == ["charge 5"]
    assert run.steps == ["charge", "run_stats"]
    assert run.result["final_output"] == "paid"
    assert run.result["stats"]["total_tool_calls"] == 1
    assert run.result["stats"]["total_model_calls"] == 2


async def test_durable_memoizes_a_function_and_numbers_repeats() -> None:
    calls: list[int] = []

    async def work(number: int) -> int:
        calls.append(number)
        return number * 2

    async def handler(step: Any) -> list[int]:
        return [await durable("double", work, number, step=step) for number in (1, 2, 3)]

    run = await replayed(handler)

    assert run.result == [2, 4, 6]
    assert calls == [1, 2, 3]
    assert run.steps == ["double", "double:1", "double:2"]


async def test_a_failing_durable_function_keeps_its_type_after_its_last_attempt() -> None:
    attempts: list[int] = []

    async def work() -> None:
        attempts.append(1)
        raise LookupError("no such thing")

    async def handler(step: Any) -> str:
        try:
            await durable("look", work, step=step)
        except LookupError as error:
            return f"{type(error).__name__}: {error}"
        return "found"

    run = await replayed(handler, max_attempts=3)

    assert run.result == "LookupError: no such thing"
    assert len(attempts) == 3


async def test_outside_of_an_inngest_function_the_plain_thing_runs() -> None:
    calls: list[str] = []
    assert get_step() is None

    async def work() -> str:
        return "plain"

    assert await durable("x", work) == "plain"
    result = await Runner.run(agent(calls), "pay")
    final = await finalize_run(result)

    assert calls == ["charge 5"]
    assert final.final_output == "paid"
    assert final.stats.total_model_calls == 2


async def test_under_the_durable_runner_a_tool_as_a_step_is_one_step_and_not_two() -> None:
    calls: list[str] = []
    cashier = agent(calls)

    async def handler(step: Any) -> str:
        result = await DurableRunner.run(cashier, "pay", step=step)
        return str(result.final_output)

    run = await replayed(handler)

    assert calls == ["charge 5"]
    assert run.steps == ["cashier/1 model cashier", "cashier/1.1 charge", "cashier/2 model cashier"]


def test_only_function_tools_can_be_steps() -> None:
    with pytest.raises(TypeError, match="FunctionTool"):
        as_step("charge")  # type: ignore[arg-type]


class Scripted(ScriptedModel):
    """A model with a price that says what it used, and answers by the number of calls it sees: on each replay anew."""

    def __init__(self, script: list[Any], model: str = "gpt-4o", tokens: int = 100) -> None:
        super().__init__([])
        self.answers, self.model, self.tokens = script, model, tokens

    async def get_response(self, *args: Any, **kwargs: Any) -> ModelResponse:
        items = kwargs["input"] if isinstance(kwargs["input"], list) else []
        output = self.answers[sum(item.get("type") == "function_call_output" for item in items)]
        usage = Usage(requests=1, input_tokens=self.tokens, total_tokens=self.tokens)
        return ModelResponse(output=list(output), usage=usage, response_id=None)


def shop() -> Agent[Any]:
    """An agent with a memoized tool that asks another agent, a plain tool, an agent as a tool, and a handoff."""
    helper: Agent[Any] = Agent(name="helper", model=Scripted([[assistant_message("hm")]], "gpt-4o-mini", 1000))
    sales: Agent[Any] = Agent(name="sales", model=Scripted([[]] * 4 + [[assistant_message("sold")]], tokens=50))

    @function_tool
    async def ask() -> str:
        return str((await Runner.run(helper, "q")).final_output)

    @function_tool
    async def look() -> str:
        return "seen"

    order: list[Any] = [
        function_call("ask", {}, call_id="c1"),
        function_call("look", {}, call_id="c2"),
        function_call("research", {"input": "q"}, call_id="c3"),
    ]
    script: list[Any] = [order, [], [], [function_call("transfer_to_sales", {}, call_id="c4")]]
    tools: list[Any] = [as_step(ask), look, helper.as_tool("research", "asks")]
    return Agent(name="boss", model=Scripted(script), tools=tools, handoffs=[sales])


async def test_the_summary_counts_every_call_once_and_says_which_price_is_missing() -> None:
    boss = shop()

    async def handler(step: Any) -> Any:
        set_step(step)
        await durable("before", noop)
        result = await Runner.run(boss, "hi")
        return (await finalize_run(result, "boss")).stats

    stats = (await replayed(handler)).result
    used = {name: (part.model_calls, part.total_tokens) for name, part in stats.by_agent.items()}
    assert used == {"boss": (3, 1200), "helper": (1, 1000), "sales": (1, 50)}  # boss: 2 calls, and 1 as a tool
    assert {name: part.tool_calls for name, part in stats.by_tool.items()} == {"ask": 1, "look": 1, "research": 1}
    assert stats.by_tool["ask"].total_tokens == 1000
    assert (stats.total_tool_calls, stats.total_handoffs, list(stats.by_path)) == (3, 1, ["boss"])
    assert not stats.cost_complete
    assert [item.reason for item in stats.unpriced] == [
        "a plain run does not tell which models its agents as tools have asked"
    ]
    kinds = [record.kind for record in stats.timeline]
    assert kinds == ["other", "model", "tool", "tool", "tool", "model", "model", "other"]


async def test_a_second_summary_in_a_function_is_of_its_own_run_alone() -> None:
    boss = shop()

    async def handler(step: Any) -> Any:
        set_step(step)
        summaries = []
        for _ in range(2):
            result = await Runner.run(boss, "hi")
            summaries.append((await finalize_run(result, "boss")).stats)
        return summaries

    run = await replayed(handler)
    first, second = (stats.to_dict(durations=False, timeline=False) for stats in run.result)
    assert first == second
    assert run.steps == ["ask", "run_stats", "ask:1", "run_stats:1"]


async def noop() -> int:
    return 1


async def test_two_runs_side_by_side_keep_their_steps_apart() -> None:
    seen: dict[str, set[int]] = {"a": set(), "b": set()}

    def handler(name: str) -> Any:
        async def handle(step: Any) -> str:
            set_step(step)
            for place in range(3):
                await durable(f"{name}{place}", noop)
                await asyncio.sleep(0.001)
                assert get_step() is step
                seen[name].add(id(step))
            return name

        return handle

    first, second = await asyncio.gather(replayed(handler("a")), replayed(handler("b")))
    assert (first.result, first.steps) == ("a", ["a0", "a1", "a2"])
    assert (second.result, second.steps) == ("b", ["b0", "b1", "b2"])
    assert get_step() is None


def test_a_thread_is_left_without_the_step_of_its_last_function() -> None:
    step = object()
    with set_step(step):
        assert get_step() is step
    assert get_step() is None


async def test_an_explicit_step_wins_and_needs_no_ambient_one() -> None:
    calls: list[str] = []

    async def handler(step: Any) -> Any:
        cashier = agent(calls, step=step)
        result = await Runner.run(cashier, "pay")
        return (await finalize_run(result, "cashier", model="gpt-4o", step=step)).to_dict()

    run = await replayed(handler)
    assert calls == ["charge 5"]
    assert run.steps == ["charge", "run_stats"]
    assert run.result["stats"]["by_agent"]["cashier"]["tool_calls"] == 1


async def test_a_tool_as_a_step_keeps_its_guardrails_approval_and_failure_text() -> None:
    calls: list[str] = []

    @tool_input_guardrail
    async def only_small(data: Any) -> ToolGuardrailFunctionOutput:
        if "900" in data.context.tool_arguments:
            return ToolGuardrailFunctionOutput.reject_content("too much")
        return ToolGuardrailFunctionOutput.allow()

    @function_tool(
        needs_approval=True,
        tool_input_guardrails=[only_small],
        failure_error_function=lambda context, error: f"sorry: {error}",
    )
    async def pay(amount: int) -> str:
        calls.append(f"pay {amount}")
        if amount == 13:
            raise RuntimeError("no luck")
        return "paid"

    async def outputs(amount: int) -> list[Any]:
        async def handler(step: Any) -> list[Any]:
            set_step(step)
            script: list[Any] = [[function_call("pay", {"amount": amount}, call_id="c1")], [assistant_message("ok")]]
            cashier: Agent[Any] = Agent(name="cashier", model=Scripted(script), tools=[as_step(pay)])
            result = await Runner.run(cashier, "pay")
            assert [item.name for item in result.interruptions] == ["pay"]
            state = result.to_state()
            state.approve(result.interruptions[0])
            result = await Runner.run(cashier, state)
            return [item.output for item in result.new_items if isinstance(item, ToolCallOutputItem)]

        return list((await replayed(handler)).result)

    assert await outputs(5) == ["paid"]
    assert await outputs(900) == ["too much"]
    assert await outputs(13) == ["sorry: no luck"]
    assert calls == ["pay 5", "pay 13"]
