"""An error leaves a durable run with the cause and the context that it has when it leaves `Runner`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import inngest
import pytest
from agents import (
    Agent,
    GuardrailFunctionOutput,
    InputGuardrail,
    OutputGuardrail,
    RunConfig,
    Runner,
    function_tool,
)
from agents.testing import ScriptedModel, assistant_message, function_call
from pydantic import BaseModel

from inngest_agents import DurableRunner
from inngest_agents.local import LocalEngine
from inngest_agents.testing import replayed

QUIET = RunConfig(tracing_disabled=True)


class Answer(BaseModel):
    """An output that no text is."""

    number: int


async def trip(*_: Any) -> GuardrailFunctionOutput:
    return GuardrailFunctionOutput(output_info=None, tripwire_triggered=True)


@function_tool(failure_error_function=None)
async def broken() -> str:
    raise RuntimeError("out of order")


@function_tool(timeout=0.01, timeout_behavior="raise_exception")
async def slow() -> str:
    await asyncio.sleep(10)
    return ""


@function_tool
async def busy() -> str:
    return "again"


def calling(tool: Any, **options: Any) -> Agent[Any]:
    turns = [[function_call(tool.name, {}, call_id=f"c{turn}")] for turn in range(20)]
    return Agent(name="a", model=ScriptedModel(turns), tools=[tool], **options)


def saying(**options: Any) -> Agent[Any]:
    return Agent(name="a", model=ScriptedModel([[assistant_message("text")]]), **options)


AGENTS: dict[str, Callable[[], Agent[Any]]] = {
    "a tool raises": lambda: calling(broken),
    "a tool runs out of time": lambda: calling(slow),
    "the model raises": lambda: Agent(name="a", model=ScriptedModel([ValueError("no")])),
    "max turns": lambda: calling(busy),
    "an input guardrail trips": lambda: saying(input_guardrails=[InputGuardrail(trip)]),
    "an output guardrail trips": lambda: saying(output_guardrails=[OutputGuardrail(trip)]),
    "an output whose text the SDK hides": lambda: saying(output_type=Answer),
    "a tool that there is not": lambda: Agent(
        name="a", model=ScriptedModel([[function_call("nothing", {}, call_id="c1")]])
    ),
}


async def run_plainly(agent: Agent[Any], *, streamed: bool) -> None:
    if streamed:
        async for _ in Runner.run_streamed(agent, "go", run_config=QUIET).stream_events():
            pass
    else:
        await Runner.run(agent, "go", run_config=QUIET)


async def run_durably(agent: Agent[Any], step: Any, *, streamed: bool) -> None:
    if streamed:
        await DurableRunner.run_streamed(agent, "go", step=step, run_config=QUIET).wait()
    else:
        await DurableRunner.run(agent, "go", step=step, run_config=QUIET)


async def error_of(run: Callable[[], Awaitable[None]], *, handling: bool) -> Exception:
    """What a run raises that is started while an error is handled, or not."""
    try:
        if not handling:
            await run()
        try:
            raise LookupError("handled by the caller")
        except LookupError:
            await run()
    except Exception as error:  # noqa: BLE001  whatever it is
        return error
    raise AssertionError("the run has not failed")


def picture(error: Exception) -> list[Any]:
    """The error and what is beside it."""
    beside = error.__cause__, error.__context__
    return [type(error).__name__, str(error), *map(repr, beside), error.__suppress_context__]


@pytest.mark.parametrize("streamed", [False, True], ids=["", "streamed"])
@pytest.mark.parametrize("make", AGENTS.values(), ids=AGENTS)
async def test_an_error_has_the_context_that_it_has_under_runner(
    make: Callable[[], Agent[Any]], streamed: bool
) -> None:
    first, again = make(), make()
    plain = await error_of(lambda: run_plainly(first, streamed=streamed), handling=True)
    durable = await replayed(lambda step: error_of(lambda: run_durably(again, step, streamed=streamed), handling=True))

    assert picture(durable.result) == picture(plain)


@pytest.mark.parametrize("streamed", [False, True], ids=["", "streamed"])
@pytest.mark.parametrize("make", AGENTS.values(), ids=AGENTS)
async def test_its_cause_is_shown_or_hidden_as_under_runner(make: Callable[[], Agent[Any]], streamed: bool) -> None:
    first, again = make(), make()
    plain = await error_of(lambda: run_plainly(first, streamed=streamed), handling=False)
    durable = await replayed(lambda step: error_of(lambda: run_durably(again, step, streamed=streamed), handling=False))

    assert repr(durable.result.__cause__) == repr(plain.__cause__)
    assert durable.result.__suppress_context__ == plain.__suppress_context__


@pytest.mark.parametrize("make", AGENTS.values(), ids=AGENTS)
def test_an_error_of_run_sync_has_the_context_that_it_has_under_runner(make: Callable[[], Agent[Any]]) -> None:
    pictures: list[list[Any]] = []

    def note(run: Callable[[], object]) -> None:
        try:
            raise LookupError("handled by the caller")
        except LookupError:
            with pytest.raises(Exception) as caught:  # noqa: PT011  whatever it is
                run()
        pictures.append(picture(caught.value))

    with LocalEngine() as engine:
        client = inngest.Inngest(
            app_id="app", is_production=False, api_base_url=engine.url, event_api_base_url=engine.url
        )

        @client.create_function(fn_id="fn", trigger=inngest.TriggerEvent(event="go"), retries=0)
        def fn(ctx: inngest.ContextSync) -> str:
            first, again = make(), make()
            if not pictures:
                note(lambda: Runner.run_sync(first, "go", run_config=QUIET))
            note(lambda: DurableRunner.run_sync(again, "go", step=ctx.step, run_config=QUIET))
            return "noted"

        engine.serve(client, [fn])
        assert engine.run("go").output == "noted"
    assert pictures == [pictures[0]] * 2
