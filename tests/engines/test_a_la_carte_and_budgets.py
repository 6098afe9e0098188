"""Plain runs with steps à la carte, and budgets, on each engine."""

from __future__ import annotations

import json
from typing import Any

import inngest
import pytest
from agents import Agent, ModelResponse, RunConfig, Runner, Usage, function_tool
from agents.testing import ScriptedModel, assistant_message, function_call

from inngest_agents import (
    Budget,
    DurableOptions,
    DurableRunner,
    as_step,
    durable,
    finalize_run,
    get_step,
    set_step,
)

from .harness import EngineUnderTest

QUIET = RunConfig(tracing_disabled=True)


class Scripted(ScriptedModel):
    """A model that says what it used, and answers by the number of results it sees: on each replay anew."""

    model = "gpt-4o"

    def __init__(self, answers: list[Any]) -> None:
        super().__init__([])
        self.answers = answers

    async def get_response(self, *args: Any, **kwargs: Any) -> ModelResponse:
        items = kwargs["input"] if isinstance(kwargs["input"], list) else []
        output = self.answers[sum(item.get("type") == "function_call_output" for item in items)]
        usage = Usage(requests=1, input_tokens=100, total_tokens=100)
        return ModelResponse(output=list(output), usage=usage, response_id=None)


def cashier(charged: list[str], *, as_steps: bool) -> Agent[Any]:
    @function_tool
    async def charge(who: str) -> str:
        charged.append(who)
        return f"charged {who}"

    order = [function_call("charge", {"who": "Ann"}, call_id="c1")]
    return Agent(
        name="cashier",
        model=Scripted([order, [assistant_message("paid")]]),
        tools=[as_step(charge) if as_steps else charge],
    )


def result_of(outcome: Any) -> Any:
    assert outcome.status == "Completed", outcome.output
    return json.loads(outcome.output) if isinstance(outcome.output, str) else outcome.output


def test_a_plain_run_has_its_tools_and_functions_memoized(engine: EngineUnderTest) -> None:
    charged: list[str] = []
    loaded: list[str] = []

    @engine.client.create_function(fn_id="plain", trigger=inngest.TriggerEvent(event="go"), retries=0)
    async def plain(ctx: inngest.Context) -> Any:
        set_step(ctx.step)

        async def load(name: str) -> str:
            loaded.append(name)
            return name

        async def own() -> int:
            return 1

        await durable("load", load, "Ann")
        await ctx.step.run("own", own)
        result = await Runner.run(cashier(charged, as_steps=True), "pay", run_config=QUIET)
        await ctx.step.run("own again", own)
        return (await finalize_run(result, "cashier")).to_dict()

    engine.serve([plain])
    run_id = engine.send("go")
    result = result_of(engine.wait(run_id))
    assert result["final_output"] == "paid"
    assert (charged, loaded) == (["Ann"], ["Ann"])
    stats = result["stats"]
    assert (stats["total_model_calls"], stats["total_tool_calls"], stats["total_tokens"]) == (2, 1, 200)
    assert stats["total_cost_usd"] == pytest.approx(200 * 2.5e-6)
    assert {"load", "charge", "run_stats"} <= {step.name for step in engine.steps(run_id)}
    assert get_step() is None


def test_a_synchronous_function_has_them_too(engine: EngineUnderTest) -> None:
    charged: list[str] = []
    left: list[Any] = []

    @engine.client.create_function(fn_id="plain-sync", trigger=inngest.TriggerEvent(event="go"), retries=0)
    def plain(ctx: inngest.ContextSync) -> Any:
        try:
            with set_step(ctx.step):
                result = Runner.run_sync(cashier(charged, as_steps=True), "pay", run_config=QUIET)
                return {"final_output": result.final_output}
        finally:
            left.append(get_step())

    engine.serve([plain])
    assert result_of(engine.run("go"))["final_output"] == "paid"
    assert charged == ["Ann"]
    assert set(left) == {None}


@pytest.mark.parametrize("checkpoint", [True, False], ids=["checkpointed", "step by step"])
def test_a_run_over_its_budget_fails_once_and_the_function_can_plan_for_it(
    engine: EngineUnderTest, checkpoint: bool
) -> None:
    charged: list[str] = []
    ends: list[str] = []

    @engine.client.create_function(fn_id="limited", trigger=inngest.TriggerEvent(event="go"), retries=3)
    async def limited(ctx: inngest.Context) -> Any:
        options = DurableOptions(budget=Budget(max_model_calls=1), checkpoint=checkpoint)
        try:
            agent = cashier(charged, as_steps=False)
            result = await DurableRunner.run(agent, "pay", step=ctx.step, options=options, run_config=QUIET)
        except Exception as error:
            ends.append(type(error).__name__)
            raise
        return result.to_dict()

    engine.serve([limited])
    outcome = engine.run("go", timeout=60)
    assert outcome.status == "Failed"
    assert "max_model_calls is 1" in json.dumps(outcome.output)
    assert (charged, ends) == (["Ann"], ["BudgetExceeded"])
