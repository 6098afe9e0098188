"""Steps à la carte around a plain `Runner.run`."""

from __future__ import annotations

from typing import Any

import pytest
from agents import Agent, Runner, function_tool
from agents.testing import ScriptedModel, assistant_message, function_call

from inngest_agents import DurableRunner, as_step, durable, finalize_run, get_step, set_step
from inngest_agents.testing import replayed


def agent(calls: list[str]) -> Agent[None]:
    @function_tool
    async def charge(amount: int) -> str:
        calls.append(f"charge {amount}")
        return f"charged {amount}"

    class Again(ScriptedModel):
        """A plain run asks the model anew on each replay, so the script starts over with each run."""

    script: list[Any] = [[function_call("charge", {"amount": 5}, call_id="c1")], [assistant_message("paid")]]
    return Agent(name="cashier", model=Again(script), tools=[as_step(charge)])


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
