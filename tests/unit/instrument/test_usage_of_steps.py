"""What is billed inside of steps: each model call once, for the agent and tool that made it, also if the step fails."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from typing import Any

from agents import (
    Agent,
    GuardrailFunctionOutput,
    ModelResponse,
    RunConfig,
    Runner,
    Usage,
    function_tool,
    input_guardrail,
    output_guardrail,
)
from agents.testing import ScriptedModel, assistant_message, function_call

from inngest_agents import DurableOptions, DurableRunner
from inngest_agents.stats import RunStats
from inngest_agents.stats.pricing import ModelPrices
from inngest_agents.testing import ReplayedRun, replayed

QUIET = RunConfig(tracing_disabled=True)
DONE: Any = [assistant_message("done")]
PRICES: dict[str, ModelPrices] = {
    "big": {"input_cost_per_token": 1e-3, "output_cost_per_token": 0.0},
    "small": {"input_cost_per_token": 1e-6, "output_cost_per_token": 0.0},
}


class Counting(ScriptedModel):
    """A scripted model of a name that says what it used."""

    def __init__(self, script: list[Any], model: str = "big", tokens: int = 100) -> None:
        super().__init__(script)
        self.model = model
        self.tokens = tokens

    async def get_response(self, *args: Any, **kwargs: Any) -> ModelResponse:
        response: ModelResponse = await super().get_response(*args, **kwargs)
        response.usage = Usage(requests=1, input_tokens=self.tokens, total_tokens=self.tokens)
        return response


def helper(*, calls: int = 9, name: str = "helper", script: list[Any] | None = None, **agent: Any) -> Agent[Any]:
    return Agent(name=name, model=Counting(script or [DONE] * calls, "small", 1000), **agent)


def boss(tool: Any, **agent: Any) -> Agent[Any]:
    script: list[Any] = [[function_call(tool.name, {}, call_id="c1")], DONE]
    return Agent(name="boss", model=Counting(script), tools=[tool], **agent)


async def run(agent: Agent[Any], *, max_attempts: int = 1, **options: Any) -> ReplayedRun[Any]:
    chosen = DurableOptions(prices=PRICES, **options)
    return await replayed(
        lambda step: DurableRunner.run(agent, "hi", step=step, options=chosen, run_config=QUIET),
        max_attempts=max_attempts,
    )


def used(stats: RunStats, breakdown: str) -> dict[str, tuple[int, int]]:
    return {name: (part.model_calls, part.total_tokens) for name, part in getattr(stats, breakdown).items()}


async def test_a_plain_run_inside_a_tool_is_counted_and_priced_by_its_own_model() -> None:
    inner = helper()

    @function_tool
    async def ask() -> str:
        return str((await Runner.run(inner, "q", run_config=QUIET)).final_output)

    stats = (await run(boss(ask))).result.stats
    assert used(stats, "by_agent") == {"boss": (2, 200), "helper": (1, 1000)}
    assert used(stats, "by_tool") == {"ask": (1, 1000)}
    assert used(stats, "by_model") == {"big": (2, 200), "small": (1, 1000)}
    assert used(stats, "by_path") == {"boss": (3, 1200)}
    assert (stats.total_cost, stats.cost_complete) == (Decimal("0.201"), True)


async def test_a_model_that_the_run_config_gives_as_an_object_is_not_named_by_the_agents() -> None:
    """The SDK asks the run's model, so that is what was billed."""
    config = RunConfig(model=Counting([DONE], "small", 1000), tracing_disabled=True)
    agent = Agent(name="boss", model="big")
    run = await replayed(
        lambda step: DurableRunner.run(agent, "hi", step=step, options=DurableOptions(prices=PRICES), run_config=config)
    )
    assert used(run.result.stats, "by_model") == {"small": (1, 1000)}
    assert run.result.stats.total_cost == Decimal("0.001")


async def test_each_agent_of_a_plain_run_is_counted_for_itself_however_deep() -> None:
    other = helper(name="other")
    inner = helper(
        script=[
            [function_call("ask_other", {"input": "?"}, call_id="i1")],
            [function_call("transfer_to_last", {}, call_id="i2")],
        ],
        tools=[other.as_tool("ask_other", "asks")],
        handoffs=[helper(name="last")],
    )

    @function_tool
    async def ask() -> str:
        return str((await Runner.run(inner, "q", run_config=QUIET)).final_output)

    stats = (await run(boss(ask))).result.stats
    assert used(stats, "by_agent") == {"boss": (2, 200), "helper": (2, 2000), "other": (1, 1000), "last": (1, 1000)}
    assert used(stats, "by_tool") == {"ask": (4, 4000)}


async def test_a_plain_run_that_is_streamed_is_counted_with_an_estimate() -> None:
    inner = helper()

    @function_tool
    async def ask() -> str:
        result = Runner.run_streamed(inner, "q", run_config=QUIET)
        async for _ in result.stream_events():
            pass
        return str(result.final_output)

    stats = (await run(boss(ask))).result.stats
    calls, tokens = used(stats, "by_agent")["helper"]
    assert calls == 1
    assert tokens > 0  # the scripted stream tells none
    assert stats.estimated


async def test_an_estimate_of_a_plain_run_can_be_turned_off() -> None:
    silent: Agent[Any] = Agent(name="helper", model=ScriptedModel([DONE]))

    @function_tool
    async def ask() -> str:
        return str((await Runner.run(silent, "q", run_config=QUIET)).final_output)

    stats = (await run(boss(ask), estimate_tokens=False)).result.stats
    assert used(stats, "by_agent") == {"boss": (2, 200), "helper": (1, 0)}
    assert not stats.estimated


async def test_guardrails_that_ask_a_model_are_counted_when_they_pass_and_when_they_trip() -> None:
    judge = helper(name="judge")

    @input_guardrail
    async def on_topic(context: Any, agent: Any, given: Any) -> GuardrailFunctionOutput:
        await Runner.run(judge, "on topic?", run_config=QUIET)
        return GuardrailFunctionOutput(output_info=None, tripwire_triggered=False)

    @output_guardrail
    async def polite(context: Any, agent: Any, given: Any) -> GuardrailFunctionOutput:
        await Runner.run(judge, "polite?", run_config=QUIET)
        return GuardrailFunctionOutput(output_info=None, tripwire_triggered=False)

    guarded: Agent[Any] = Agent(
        name="boss", model=Counting([DONE]), input_guardrails=[on_topic], output_guardrails=[polite]
    )
    stats = (await run(guarded)).result.stats
    assert used(stats, "by_agent") == {"boss": (1, 100), "judge": (2, 2000)}
    assert used(stats, "by_path") == {"boss": (3, 2100)}


def failing(inner: Agent[Any], failures: int, *, fails_before: bool = False) -> Any:
    """A tool that asks an agent and then raises, so many times."""
    tries: list[int] = []

    @function_tool
    async def ask() -> str:
        tries.append(1)
        result = await Runner.run(inner, "q", run_config=QUIET)
        if len(tries) <= failures:
            raise RuntimeError(f"failure {len(tries)}")
        return str(result.final_output)

    return ask


async def test_failed_attempts_of_a_tool_are_counted_with_the_one_that_succeeds() -> None:
    done = await run(boss(failing(helper(), 2)), max_attempts=3)
    stats = done.result.stats
    assert used(stats, "by_tool") == {"ask": (3, 3000)}
    assert (stats.total_tool_calls, stats.by_tool["ask"].failures) == (1, 0)
    assert stats.total_cost == Decimal("0.203")


async def test_a_tool_that_fails_for_good_is_counted_with_all_its_attempts() -> None:
    done = await run(boss(failing(helper(), 9)), max_attempts=3)
    stats = done.result.stats
    assert used(stats, "by_agent") == {"boss": (2, 200), "helper": (3, 3000)}
    assert (stats.total_tool_calls, stats.by_tool["ask"].failures) == (1, 1)
    assert "boss/1.1 ask failed attempt 1" in done.steps


async def test_a_plain_run_that_fails_itself_was_billed_for_what_it_had_asked() -> None:
    confused = helper(script=[[function_call("no_such_tool", {}, call_id="x")]] * 3)
    stats = (await run(boss(failing(confused, 0)))).result.stats
    assert used(stats, "by_agent") == {"boss": (2, 200), "helper": (1, 1000)}
    assert stats.by_tool["ask"].failures == 1


async def test_the_sums_are_the_same_after_any_replay_of_a_run_with_failures() -> None:
    seen: list[str] = []
    agent = boss(failing(helper(), 9))

    async def handler(step: Any) -> Any:
        options = DurableOptions(prices=PRICES)
        result = await DurableRunner.run(agent, "hi", step=step, options=options, run_config=QUIET)
        seen.append(json.dumps(result.stats.to_dict(durations=False), sort_keys=True))
        return result

    done = await replayed(handler, max_attempts=2)
    await replayed(handler, memos=done.memos)
    assert len(seen) == 2
    assert seen[0] == seen[1]


class Breaking(Counting):
    """A provider's answer arrives and is billed, and its adapter cannot make sense of it: so many times."""

    def __init__(self, script: list[Any], failures: int) -> None:
        super().__init__(script)
        self.failures = failures

    async def _fetch_response(self) -> Any:
        from openai.types.completion_usage import CompletionUsage

        class Answer:
            model = "big"
            usage = CompletionUsage(prompt_tokens=70, completion_tokens=5, total_tokens=75)

        return Answer()

    async def get_response(self, *args: Any, **kwargs: Any) -> ModelResponse:
        await self._fetch_response()
        if self.failures:
            self.failures -= 1
            raise RuntimeError("unreadable answer")
        return await super().get_response(*args, **kwargs)


async def test_a_model_call_that_fails_after_its_answer_was_billed_is_counted() -> None:
    stats = (await run(Agent(name="boss", model=Breaking([DONE], 1)), max_attempts=3)).result.stats
    assert stats.total_model_calls == 1  # the failed attempt is one of the same call
    assert stats.total_tokens == 100 + 75
    assert used(stats, "by_model") == {"big": (1, 175)}
    assert [usage.origin for usage in stats.timeline[0].nested] == ["failed_attempt"]


async def test_a_model_call_of_a_plain_run_that_fails_after_its_answer_is_counted() -> None:
    inner: Agent[Any] = Agent(name="helper", model=Breaking([DONE], 9))

    @function_tool
    async def ask() -> str:
        return str((await Runner.run(inner, "q", run_config=QUIET)).final_output)

    stats = (await run(boss(ask))).result.stats
    assert used(stats, "by_agent") == {"boss": (2, 200), "helper": (1, 75)}


async def test_parallel_tools_with_plain_runs_keep_their_usage_apart() -> None:
    models = {name: helper(name=name, calls=1) for name in ("ann", "bob", "cid")}

    @function_tool
    async def ask(who: str) -> str:
        await asyncio.sleep(0.01)
        return str((await Runner.run(models[who], "q", run_config=QUIET)).final_output)

    script: list[Any] = [[function_call("ask", {"who": who}, call_id=f"c-{who}") for who in models], DONE]
    stats = (await run(Agent(name="boss", model=Counting(script), tools=[ask]))).result.stats
    assert used(stats, "by_agent") == {"boss": (2, 200), **dict.fromkeys(models, (1, 1000))}
    assert [len(record.nested) for record in stats.timeline if record.kind == "tool"] == [1, 1, 1]


async def test_a_plain_run_outside_of_steps_is_left_alone() -> None:
    model = Counting([DONE])
    result = await Runner.run(Agent(name="a", model=model), "hi", run_config=QUIET)
    assert result.final_output == "done"
    assert len(model.calls) == 1
