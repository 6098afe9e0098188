"""Guardrails run once, wherever the run is cut, and end it as under the plain Runner."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import inngest
import pytest
from agents import (
    Agent,
    GuardrailFunctionOutput,
    InputGuardrail,
    InputGuardrailTripwireTriggered,
    OutputGuardrail,
    OutputGuardrailTripwireTriggered,
    Runner,
    ToolGuardrailFunctionOutput,
    ToolInputGuardrailTripwireTriggered,
    function_tool,
    input_guardrail,
    output_guardrail,
    tool_input_guardrail,
    tool_output_guardrail,
)
from agents.testing import ScriptedModel, assistant_message, function_call

from inngest_agents import DurableRunner
from inngest_agents.testing import replayed


@dataclasses.dataclass
class Verdict:
    score: int
    words: tuple[str, ...]


def passing(calls: list[str], name: str, **kwargs: Any) -> InputGuardrail[Any]:
    async def check(ctx: Any, agent: Any, input: Any) -> GuardrailFunctionOutput:
        calls.append(name)
        return GuardrailFunctionOutput(Verdict(3, ("a", "b")), tripwire_triggered=False)

    return InputGuardrail(check, name=name, **kwargs)


async def test_each_guardrail_is_one_step_that_runs_once() -> None:
    calls: list[str] = []

    @output_guardrail
    def short(ctx: Any, agent: Any, output: Any) -> GuardrailFunctionOutput:
        calls.append("short")
        return GuardrailFunctionOutput({"length": len(output)}, tripwire_triggered=False)

    agent = Agent(
        name="triage",
        model=ScriptedModel([[assistant_message("done")]]),
        input_guardrails=[
            passing(calls, "blocking", run_in_parallel=False),
            passing(calls, "polite"),
            passing(calls, "polite"),
        ],
        output_guardrails=[short],
    )
    run = await replayed(lambda step: DurableRunner.run(agent, "hi", step=step))

    assert calls == ["blocking", "polite", "polite", "short"]
    assert sorted(run.steps) == [
        "triage/1 guardrail blocking",
        "triage/1 guardrail polite",
        "triage/1 guardrail polite:1",
        "triage/1 model triage",
        "triage/1 output guardrail short",
    ]
    assert [result.output.output_info for result in run.result.input_guardrail_results] == [Verdict(3, ("a", "b"))] * 3
    assert run.result.input_guardrail_results[0].guardrail is agent.input_guardrails[0]
    assert run.result.output_guardrail_results[0].output.output_info == {"length": 4}
    assert run.result.output_guardrail_results[0].agent is agent


@pytest.mark.parametrize("parallel", [True, False])
async def test_a_tripped_input_guardrail_keeps_its_type_and_payload_and_ends_the_run_once(parallel: bool) -> None:
    calls: list[str] = []

    @input_guardrail(run_in_parallel=parallel)
    async def profanity(ctx: Any, agent: Any, input: Any) -> GuardrailFunctionOutput:
        calls.append(input)
        return GuardrailFunctionOutput(Verdict(9, ("damn",)), tripwire_triggered=True)

    agent = Agent(name="triage", model=ScriptedModel([[assistant_message("done")]]), input_guardrails=[profanity])
    with pytest.raises(InputGuardrailTripwireTriggered) as caught:
        await replayed(lambda step: DurableRunner.run(agent, "damn", step=step), max_attempts=4)

    assert calls == ["damn"]
    assert isinstance(caught.value, inngest.NonRetriableError)
    assert caught.value.guardrail_result.guardrail is profanity
    assert caught.value.guardrail_result.output.output_info == Verdict(9, ("damn",))
    assert caught.value.run_data is not None


async def test_a_remembered_tripwire_never_lets_the_model_be_called_again() -> None:
    memos: dict[str, Any] = {}
    model_calls = 0

    class CountingModel(ScriptedModel):
        async def get_response(self, *args: Any, **kwargs: Any) -> Any:
            nonlocal model_calls
            model_calls += 1
            return await super().get_response(*args, **kwargs)

    async def check(ctx: Any, agent: Any, input: Any) -> GuardrailFunctionOutput:
        return GuardrailFunctionOutput(None, tripwire_triggered=True)

    blocking = Agent(
        name="triage",
        model=CountingModel([[assistant_message("done")]]),
        input_guardrails=[InputGuardrail(check, name="profanity", run_in_parallel=False)],
    )

    async def handler(agent: Agent[Any], step: Any) -> None:
        # Catching it makes the handler return, so that the memos can be looked at.
        with pytest.raises(InputGuardrailTripwireTriggered):
            await DurableRunner.run(agent, "hi", step=step)

    first = await replayed(lambda step: handler(blocking, step))
    memos = first.memos
    assert first.steps == ["triage/1 guardrail profanity"]
    assert model_calls == 0

    # The same memo, now of a parallel guardrail: as if the process had died after the guardrail and before the model.
    parallel = Agent(
        name="triage",
        model=CountingModel([[assistant_message("done")]]),
        input_guardrails=[InputGuardrail(check, name="profanity")],
    )
    second = await replayed(lambda step: handler(parallel, step), memos=memos)
    assert second.steps == []
    assert model_calls == 0


async def test_a_parallel_guardrail_that_trips_late_stops_the_tools_of_the_first_turn_on_replay() -> None:
    tool_calls: list[int] = []

    @function_tool
    async def charge(amount: int) -> str:
        tool_calls.append(amount)
        return "charged"

    async def check(ctx: Any, agent: Any, input: Any) -> GuardrailFunctionOutput:
        await asyncio.sleep(0.01)
        return GuardrailFunctionOutput(None, tripwire_triggered=True)

    agent = Agent(
        name="shop",
        model=ScriptedModel([[function_call("charge", {"amount": 5}, call_id="c1")], [assistant_message("done")]]),
        tools=[charge],
        input_guardrails=[InputGuardrail(check, name="fraud")],
    )
    with pytest.raises(InputGuardrailTripwireTriggered):
        await replayed(lambda step: DurableRunner.run(agent, "hi", step=step))
    assert tool_calls == []


async def test_a_tripped_output_guardrail_keeps_its_payload() -> None:
    calls: list[str] = []

    async def check(ctx: Any, agent: Any, output: Any) -> GuardrailFunctionOutput:
        calls.append(output)
        return GuardrailFunctionOutput({"leak": output}, tripwire_triggered=True)

    guardrail = OutputGuardrail(check, name="leaks")
    agent = Agent(name="triage", model=ScriptedModel([[assistant_message("secret")]]), output_guardrails=[guardrail])
    with pytest.raises(OutputGuardrailTripwireTriggered) as caught:
        await replayed(lambda step: DurableRunner.run(agent, "hi", step=step))
    assert calls == ["secret"]
    assert caught.value.guardrail_result.output.output_info == {"leak": "secret"}
    assert caught.value.guardrail_result.agent_output == "secret"


def tool_agent(calls: list[str], behavior: ToolGuardrailFunctionOutput) -> Agent[Any]:
    @tool_input_guardrail
    async def amount_ok(data: Any) -> ToolGuardrailFunctionOutput:
        calls.append(f"before {data.context.tool_call_id}")
        return behavior if data.context.tool_call_id == "c2" else ToolGuardrailFunctionOutput.allow()

    @tool_output_guardrail
    def redact(data: Any) -> ToolGuardrailFunctionOutput:
        calls.append(f"after {data.context.tool_call_id}")
        return ToolGuardrailFunctionOutput.reject_content(f"{data.output}, redacted", output_info={"n": 1})

    @function_tool
    async def charge(amount: int) -> str:
        calls.append(f"charge {amount}")
        return f"charged {amount}"

    charge.tool_input_guardrails = [amount_ok]
    charge.tool_output_guardrails = [redact]
    return Agent(
        name="shop",
        model=ScriptedModel(
            [
                [
                    function_call("charge", {"amount": 5}, call_id="c1"),
                    function_call("charge", {"amount": 9}, call_id="c2"),
                ],
                [assistant_message("done")],
            ]
        ),
        tools=[charge],
    )


async def test_tool_guardrails_are_steps_of_their_call() -> None:
    rejected = ToolGuardrailFunctionOutput.reject_content("too much", output_info=("why", 9))
    plain = await Runner.run(tool_agent([], rejected), "hi")
    calls: list[str] = []
    agent = tool_agent(calls, rejected)
    run = await replayed(lambda step: DurableRunner.run(agent, "hi", step=step))

    assert sorted(calls) == ["after c1", "before c1", "before c2", "charge 5"]
    assert sorted(run.steps) == [
        "shop/1 model shop",
        "shop/1.1 charge",
        "shop/1.1 charge input guardrail amount_ok",
        "shop/1.1 charge output guardrail redact",
        "shop/1.2 charge input guardrail amount_ok",
        "shop/2 model shop",
    ]
    outputs = [item.output for item in run.result.new_items if item.type == "tool_call_output_item"]
    assert outputs == [item.output for item in plain.new_items if item.type == "tool_call_output_item"]
    assert outputs == ["charged 5, redacted", "too much"]
    infos = sorted(str(result.output.output_info) for result in run.result.tool_input_guardrail_results)
    assert infos == ["('why', 9)", "None"]


async def test_a_tool_guardrail_that_raises_ends_the_run_with_its_payload() -> None:
    agent = tool_agent([], ToolGuardrailFunctionOutput.raise_exception({"reason": "fraud"}))
    with pytest.raises(ToolInputGuardrailTripwireTriggered) as caught:
        await replayed(lambda step: DurableRunner.run(agent, "hi", step=step), max_attempts=3)
    assert caught.value.output.output_info == {"reason": "fraud"}
    assert isinstance(caught.value, inngest.NonRetriableError)


async def test_a_guardrail_that_raises_is_retried_by_the_engine_and_keeps_its_error() -> None:
    attempts = 0

    async def check(ctx: Any, agent: Any, input: Any) -> GuardrailFunctionOutput:
        nonlocal attempts
        attempts += 1
        raise LookupError("the word list is away")

    agent = Agent(
        name="triage",
        model=ScriptedModel([[assistant_message("done")]]),
        input_guardrails=[InputGuardrail(check, name="words", run_in_parallel=False)],
    )
    with pytest.raises(LookupError, match="the word list is away"):
        await replayed(lambda step: DurableRunner.run(agent, "hi", step=step), max_attempts=3)
    assert attempts == 3


async def test_what_an_agent_inside_a_guardrail_used_is_counted() -> None:
    judge_calls = 0

    async def check(ctx: Any, agent: Any, input: Any) -> GuardrailFunctionOutput:
        nonlocal judge_calls
        judge_calls += 1
        judge = Agent(name="judge", model=ScriptedModel([[assistant_message("fine")]]))
        verdict = await Runner.run(judge, input)
        return GuardrailFunctionOutput(verdict.final_output, tripwire_triggered=False)

    agent = Agent(
        name="triage",
        model=ScriptedModel([[assistant_message("done")]]),
        input_guardrails=[InputGuardrail(check, name="judge")],
    )
    run = await replayed(lambda step: DurableRunner.run(agent, "hi", step=step))
    assert judge_calls == 1
    assert len(run.steps) == 2
    assert run.result.stats.total_model_calls == 2
    assert run.result.input_guardrail_results[0].output.output_info == "fine"
