"""Budgets of whole runs: what is refused, before what, and what the caller gets."""

from __future__ import annotations

from typing import Any

import inngest
import pytest
from agents import Agent, CustomTool, ModelSettings, RunConfig, Usage, function_tool
from agents.exceptions import AgentsException
from agents.testing import ScriptedModel, assistant_message, function_call
from openai.types.responses import ResponseCustomToolCall
from pydantic import BaseModel

from inngest_agents import Budget, BudgetExceeded, DurableOptions, DurableRunner
from inngest_agents.testing import ReplayedRun, replayed

QUIET = RunConfig(tracing_disabled=True)
DONE: Any = [assistant_message("done")]


class Counting(ScriptedModel):
    """A scripted model that says what it used, and has a price."""

    model = "gpt-4o"

    async def get_response(self, *args: Any, **kwargs: Any) -> Any:
        response = await super().get_response(*args, **kwargs)
        response.usage = Usage(requests=1, input_tokens=100, output_tokens=10, total_tokens=110)
        return response


class Shop:
    """An agent with tools, and what they did."""

    def __init__(self, script: list[Any], **agent: Any) -> None:
        self.did: list[str] = []

        @function_tool
        async def sell(what: str) -> str:
            self.did.append(what)
            return f"sold {what}"

        self.model = Counting(script)
        self.agent = Agent[Any](name="shop", model=self.model, tools=[sell, *agent.pop("tools", ())], **agent)

    async def run(self, budget: Budget, **more: Any) -> ReplayedRun[Any]:
        options = DurableOptions(budget=budget)
        return await replayed(
            lambda step: DurableRunner.run(self.agent, "hi", step=step, options=options, run_config=QUIET, **more)
        )


def sales(*things: str) -> list[Any]:
    return [function_call("sell", {"what": thing}, call_id=f"c-{thing}") for thing in things]


def agent_tool(script: list[Any]) -> tuple[Counting, Any]:
    model = Counting(script)
    inner: Agent[Any] = Agent(name="research", model=model)
    return model, inner.as_tool("ask_research", "asks")


async def test_a_limit_of_tool_calls_ends_the_run_with_its_own_error_and_the_statistics() -> None:
    shop = Shop([sales("mug"), sales("cap"), DONE])
    with pytest.raises(BudgetExceeded, match="max_tool_calls is 1") as caught:
        await shop.run(Budget(max_tool_calls=1))
    assert shop.did == ["mug"]
    assert isinstance(caught.value, inngest.NonRetriableError)
    assert isinstance(caught.value, AgentsException)
    assert caught.value.stats is not None
    assert (caught.value.stats.total_model_calls, caught.value.stats.total_tool_calls) == (2, 1)


async def test_parallel_tool_calls_that_do_not_all_fit_are_not_begun() -> None:
    shop = Shop([sales("mug", "cap", "pen"), DONE])
    with pytest.raises(BudgetExceeded, match="needs at least 3"):
        await shop.run(Budget(max_tool_calls=2))
    assert shop.did == []


async def test_parallel_tool_calls_that_fit_exactly_are_all_made() -> None:
    shop = Shop([sales("mug", "cap", "pen"), DONE])
    run = await shop.run(Budget(max_tool_calls=3, max_model_calls=2))
    assert sorted(shop.did) == ["cap", "mug", "pen"]
    assert run.result.stats.total_tool_calls == 3


async def test_a_callback_answers_for_the_agent_once_instead_of_its_tool_calls() -> None:
    asked: list[str | None] = []

    def answer(error: BudgetExceeded) -> str:
        asked.append(error.limit)
        return "Sorry, no more today."

    shop = Shop([sales("mug"), sales("cap"), DONE])
    run = await shop.run(Budget(max_tool_calls=1, on_exceeded=answer))
    assert run.result.final_output == "Sorry, no more today."
    assert (asked, shop.did) == (["max_tool_calls"], ["mug"])
    assert run.steps[-1] == "shop/2 model shop tools over budget"


async def test_the_answer_of_a_callback_is_read_as_the_agents_output_type() -> None:
    class Receipt(BaseModel):
        total: int

    shop = Shop([sales("mug"), DONE], output_type=Receipt)
    run = await shop.run(Budget(max_tool_calls=0, on_exceeded=lambda _: '{"total": 0}'))
    assert run.result.final_output == Receipt(total=0)


async def test_custom_tools_count_too() -> None:
    did: list[str] = []

    async def query(context: Any, given: str) -> str:
        did.append(given)
        return "1 row"

    tool = CustomTool(name="sql", description="", on_invoke_tool=query)
    call = [ResponseCustomToolCall(call_id="c1", input="select 1", name="sql", type="custom_tool_call")]
    shop = Shop([call, DONE], tools=[tool])
    assert (await shop.run(Budget(max_tool_calls=1))).result.final_output == "done"
    refused = Shop([call, DONE], tools=[tool])
    with pytest.raises(BudgetExceeded):
        await refused.run(Budget(max_tool_calls=0))
    assert did == ["select 1"]


async def test_handoffs_are_no_tool_calls_but_agents_as_tools_are() -> None:
    _, ask = agent_tool([DONE] * 2)
    order: Any = [function_call("ask_research", {"input": "q"}, call_id="c1")]
    other: Agent[Any] = Agent(name="other", model=Counting([order, order, DONE]), tools=[ask])
    shop = Shop([[function_call("transfer_to_other", {}, call_id="h1")]], handoffs=[other])
    with pytest.raises(BudgetExceeded, match="max_tool_calls is 1, 1 is used"):
        await shop.run(Budget(max_tool_calls=1))


async def test_a_nested_agent_shares_the_budget_and_its_refusal_is_not_told_to_the_model() -> None:
    model, ask = agent_tool([DONE])
    shop = Shop([[function_call("ask_research", {"input": "q"}, call_id="c1")], DONE], tools=[ask])
    with pytest.raises(BudgetExceeded, match="next call of 'research'"):
        await shop.run(Budget(max_model_calls=1))
    assert len(model.calls) == 0
    assert len(shop.model.calls) == 1


async def test_the_limit_of_a_nested_agent_ends_the_run_or_is_answered_for_that_agent() -> None:
    def shop_and_model() -> tuple[Shop, Counting]:
        model, ask = agent_tool([DONE])
        return Shop([[function_call("ask_research", {"input": "q"}, call_id="c1")], DONE], tools=[ask]), model

    shop, model = shop_and_model()
    with pytest.raises(BudgetExceeded, match="of agent 'research'") as caught:
        await shop.run(Budget(per_agent={"research": Budget(max_tokens=1)}))
    assert caught.value.for_agent
    assert not model.calls

    shop, model = shop_and_model()
    limit = Budget(max_tokens=1, on_exceeded=lambda error: "I may not look that up.")
    run = await shop.run(Budget(per_agent={"research": limit}))
    assert run.result.final_output == "done"
    assert shop.model.calls[1].input[-1]["output"] == "I may not look that up."


async def test_parallel_nested_agents_cannot_overrun_the_budget_together() -> None:
    model, ask = agent_tool([DONE] * 3)
    calls: Any = [function_call("ask_research", {"input": "q"}, call_id=f"c{place}") for place in range(3)]
    shop = Shop([calls, DONE], tools=[ask])
    with pytest.raises(BudgetExceeded):
        await shop.run(Budget(max_model_calls=3))
    assert len(shop.model.calls) + len(model.calls) <= 3


async def test_one_long_prompt_is_refused_before_the_model_sees_it() -> None:
    shop = Shop([DONE], instructions="word " * 20_000)
    with pytest.raises(BudgetExceeded, match="max_cost_usd"):
        await shop.run(Budget(max_cost_usd=0.01))
    assert not shop.model.calls


async def test_the_longest_answer_that_the_model_may_give_is_held_too() -> None:
    shop = Shop([DONE], model_settings=ModelSettings(max_tokens=4000))
    with pytest.raises(BudgetExceeded, match="max_tokens is 4000"):
        await shop.run(Budget(max_tokens=4000))
    assert not shop.model.calls


async def test_what_is_remembered_is_not_refused_by_a_replay() -> None:
    """The budget is just enough; each of the requests of the run replays what came before."""
    shop = Shop([sales("mug", "cap"), sales("pen"), DONE])
    run = await shop.run(Budget(max_tool_calls=3, max_model_calls=3, max_tokens=400))
    assert run.requests > 5
    assert run.result.stats.total_tokens == 330
    assert sorted(shop.did) == ["cap", "mug", "pen"]


async def test_a_streamed_run_ends_with_the_error_too() -> None:
    shop = Shop([sales("mug"), DONE])

    async def handler(step: Any) -> Any:
        result = DurableRunner.run_streamed(
            shop.agent, "hi", step=step, options=DurableOptions(budget=Budget(max_tool_calls=0)), run_config=QUIET
        )
        await result.wait()
        return result.final_output

    with pytest.raises(BudgetExceeded):
        await replayed(handler)
    assert shop.did == []
