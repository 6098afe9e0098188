"""Values of classes that were made in a function come back as such, where the user's function shows the class."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import pydantic
import pytest
from agents import Agent, GuardrailFunctionOutput, InputGuardrail, Runner, function_tool
from agents.testing import ScriptedModel, assistant_message, function_call

from inngest_agents import DurableRunner
from inngest_agents.memos import codec
from inngest_agents.memos.local_classes import classes_of, find_local
from inngest_agents.testing import replayed


def make_verdict(reason: str) -> Any:
    class Source(pydantic.BaseModel):
        url: str

    class Verdict(pydantic.BaseModel):
        reason: str
        source: Source

    def check(*_: Any) -> GuardrailFunctionOutput:
        found = Verdict(reason=reason, source=Source(url="https://example.com"))
        return GuardrailFunctionOutput(output_info=found, tripwire_triggered=False)

    return Verdict, check


async def test_what_a_guardrail_found_is_of_its_own_class_though_that_was_made_in_a_function() -> None:
    verdict, check = make_verdict("fine")
    other, _ = make_verdict("other")
    agent = Agent(
        name="a", model=ScriptedModel([[assistant_message("hello")]]), input_guardrails=[InputGuardrail(check)]
    )
    run = await replayed(lambda step: DurableRunner.run(agent, "hi", step=step))
    [result] = run.result.input_guardrail_results
    assert type(result.output.output_info) is verdict is not other
    assert result.output.output_info.source.url == "https://example.com"


async def test_what_a_tool_gave_is_of_its_own_class_and_shown_to_the_model_as_ever() -> None:
    @dataclasses.dataclass
    class Weather:
        city: str
        degrees: int

    @function_tool
    def weather(city: str) -> Any:
        return Weather(city, 20)

    def agent() -> Agent[Any]:
        script = [[function_call("weather", {"city": "Rome"}, call_id="c1")], [assistant_message("warm")]]
        return Agent(name="a", model=ScriptedModel(script), tools=[weather], tool_use_behavior="stop_on_first_tool")

    plain = await Runner.run(agent(), "hi")
    durable = agent()
    run = await replayed(lambda step: DurableRunner.run(durable, "hi", step=step))
    assert run.result.final_output == plain.final_output
    assert run.result.new_items[1].output == Weather("Rome", 20)
    assert run.result.to_input_list() == plain.to_input_list()


def test_a_class_that_no_function_shows_or_that_is_not_the_only_one_of_its_name_stays_text() -> None:
    verdict, check = make_verdict("fine")
    other, other_check = make_verdict("other")
    reference = f"{verdict.__module__}:{verdict.__qualname__}"
    assert find_local(reference) is None
    with classes_of(check):
        assert find_local(reference) is verdict
        assert find_local("builtins:dict") is None
    with classes_of(check, other_check):
        assert find_local(reference) is None
    with classes_of(other_check):
        value = other(reason="x", source={"url": "y"})
        assert codec.decode(codec.encode(value)) == value
    assert codec.is_text(codec.encode(value))


@pytest.mark.parametrize("kind", ["partial", "method", "callable", "wrapped"])
def test_the_class_is_found_through_what_stands_around_a_function(kind: str) -> None:
    verdict, check = make_verdict("fine")

    class Holder:
        def method(self) -> Any:
            return check()

        def __call__(self) -> Any:
            return check()

    @functools.wraps(check)
    def wrapped() -> Any:
        return None

    around: dict[str, Any] = {"partial": functools.partial(check, 1), "method": Holder().method, "callable": Holder()}
    with classes_of(around.get(kind, wrapped)):
        assert find_local(f"{verdict.__module__}:{verdict.__qualname__}") is verdict
