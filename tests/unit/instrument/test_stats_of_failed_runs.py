"""What a run has used that ends with an error: the error says it, as there is no result."""

from __future__ import annotations

from typing import Any

import pytest
from agents import (
    Agent,
    GuardrailFunctionOutput,
    InputGuardrailTripwireTriggered,
    MaxTurnsExceeded,
    OutputGuardrailTripwireTriggered,
    RunConfig,
    function_tool,
    input_guardrail,
    output_guardrail,
)
from agents.testing import ModelStep, ScriptedModel, assistant_message, function_call
from pydantic import BaseModel

from inngest_agents import DurableRunner
from inngest_agents.testing import replayed

QUIET = RunConfig(tracing_disabled=True)


class StatisticalError(Exception):
    """It has `stats` of its own."""

    def __init__(self) -> None:
        super().__init__("bad sample")
        self.stats = {"n": 3}


class Answer(BaseModel):
    text: str


@function_tool
async def pay() -> str:
    return "paid"


@input_guardrail(run_in_parallel=False)
async def closed(*_: Any) -> GuardrailFunctionOutput:
    return GuardrailFunctionOutput(output_info=None, tripwire_triggered=True)


@output_guardrail
async def rude(*_: Any) -> GuardrailFunctionOutput:
    return GuardrailFunctionOutput(output_info=None, tripwire_triggered=True)


@function_tool(failure_error_function=None)
async def sample() -> str:
    raise StatisticalError


@function_tool(failure_error_function=None)
async def validate() -> str:
    return str(Answer.model_validate({}))


def calls(tool: str, number: int) -> Any:
    return [[function_call(tool, {}, call_id=f"c{place}")] for place in range(number)]


async def error_of(agent: Agent[Any], *, streamed: bool = False) -> Any:
    async def handler(step: Any) -> None:
        given: Any = {"step": step, "max_turns": 2, "run_config": QUIET}
        if streamed:
            await DurableRunner.run_streamed(agent, "hi", **given).wait()
        else:
            await DurableRunner.run(agent, "hi", **given)

    with pytest.raises(Exception) as raised:  # noqa: PT011  each test looks at it
        await replayed(handler)
    return raised.value


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("agent", "kind", "used"),
    [
        ({"script": calls("pay", 3), "tools": [pay]}, MaxTurnsExceeded, (2, 2)),
        (
            {"script": [[assistant_message("no")]], "input_guardrails": [closed]},
            InputGuardrailTripwireTriggered,
            (0, 0),
        ),
        (
            {"script": [[assistant_message("no")]], "output_guardrails": [rude]},
            OutputGuardrailTripwireTriggered,
            (1, 0),
        ),
        ({"script": [*calls("pay", 1), ModelStep.raise_error(KeyError("k"))], "tools": [pay]}, KeyError, (2, 1)),
        ({"script": calls("validate", 1), "tools": [validate]}, Exception, (1, 1)),
    ],
    ids=["max turns", "input", "output", "model", "tool"],
)
async def test_the_error_that_ends_a_run_has_its_stats(agent: Any, kind: Any, used: Any, streamed: bool) -> None:
    rest = {name: value for name, value in agent.items() if name != "script"}
    error = await error_of(Agent(name="a", model=ScriptedModel(agent["script"]), **rest), streamed=streamed)

    assert isinstance(error, kind)
    assert (error.stats.total_model_calls, error.stats.total_tool_calls) == used
    assert error.stats is error.stats
    assert error.stats.starting_agent == "a"


async def test_stats_that_the_error_has_of_itself_stay() -> None:
    error = await error_of(Agent(name="a", model=ScriptedModel(calls("sample", 1)), tools=[sample]))
    causes = [error, error.__cause__]
    assert {"n": 3} in [getattr(cause, "stats", None) for cause in causes]
