"""Steps that end together, an API that is away, and runs inside `group.parallel`: each step once, on each engine."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import time
from typing import TYPE_CHECKING, Any

import inngest
import pytest
from agents import (
    Agent,
    GuardrailFunctionOutput,
    InputGuardrailTripwireTriggered,
    OpenAIChatCompletionsModel,
    RunConfig,
    UserError,
    function_tool,
    input_guardrail,
)
from agents.testing import ScriptedModel, assistant_message, function_call
from openai import AsyncOpenAI

from inngest_agents import DurableOptions, DurableRunner
from inngest_agents._inngest_sdk import CheckpointTarget, EngineRequest

from . import provider

if TYPE_CHECKING:
    from .harness import EngineUnderTest

QUIET = RunConfig(tracing_disabled=True)


class Executions:
    """Agents whose calls are counted, and how often the function was requested."""

    def __init__(self) -> None:
        self.requests = 0
        self.events: list[str] = []
        self.fails: dict[str, list[Exception]] = collections.defaultdict(list)

    @property
    def counts(self) -> dict[str, int]:
        return dict(collections.Counter(event for event in self.events if not event.startswith("end")))

    def agent(self, name: str, turns: list[list[str]], **options: Any) -> Agent[Any]:
        """An agent that calls the tool with these names in each turn, and is done then."""
        executions = self

        @function_tool
        async def work(name: str) -> str:
            executions.events.append(name)
            await asyncio.sleep(0.05)
            executions.events.append(f"end {name}")
            if executions.fails[name]:
                raise executions.fails[name].pop()
            return name

        class Model(ScriptedModel):
            async def get_response(self, *args: Any, **kwargs: Any) -> Any:
                executions.events.append(f"model {name}")
                await asyncio.sleep(0.1)
                return await super().get_response(*args, **kwargs)

        calls = [[function_call("work", {"name": call}, call_id=call) for call in turn] for turn in turns]
        # More than is needed, so that a call too many is seen as one and not as an error.
        ends = [[assistant_message(f"{name} done")] for _ in range(3)]
        return Agent(name=name, model=Model([*calls, *ends]), tools=[work], **options)


async def run(agent: Agent[Any], ctx: inngest.Context, **options: Any) -> str:
    chosen = DurableOptions(**options)
    result = await DurableRunner.run(agent, "go", step=ctx.step, run_config=QUIET, options=chosen)
    return str(result.final_output)


def test_parallel_tools_that_fail_for_good_together_lead_to_one_request(engine: EngineUnderTest) -> None:
    executions = Executions()
    agent = executions.agent("w", [["a", "b"]])
    for name in "ab":
        executions.fails[name] = [inngest.NonRetriableError(f"no {name}")]

    @engine.client.create_function(fn_id="fn", trigger=inngest.TriggerEvent(event="go"), retries=3)
    async def fn(ctx: inngest.Context) -> Any:
        executions.requests += 1
        return await run(agent, ctx)

    engine.serve([fn])
    assert engine.run("go").output == "w done"
    time.sleep(0.3)
    assert executions.counts == {"model w": 2, "a": 1, "b": 1}
    assert executions.requests == 3


def test_a_tool_that_fails_for_good_cancels_the_one_beside_it(engine: EngineUnderTest) -> None:
    events: list[str] = []
    begun = asyncio.Event()

    @function_tool
    async def endless() -> str:
        events.append("begun")
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            events.append("cancelled")
        return "never"

    @function_tool(failure_error_function=None)
    async def fail() -> str:
        await begun.wait()
        raise inngest.NonRetriableError("no more paper")

    calls = [function_call("endless", {}, call_id="1"), function_call("fail", {}, call_id="2")]
    agent = Agent(name="p", model=ScriptedModel([calls]), tools=[endless, fail])

    @engine.client.create_function(fn_id="fn", trigger=inngest.TriggerEvent(event="go"), retries=3)
    async def fn(ctx: inngest.Context) -> Any:
        return await run(agent, ctx)

    engine.serve([fn])
    outcome = engine.run("go")
    assert outcome.status == "Failed"
    assert "no more paper" in str(outcome.output)
    assert events == ["begun", "cancelled"]


def test_without_the_api_each_step_still_runs_once(engine: EngineUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    find = EngineRequest.checkpoint_target

    def nowhere(request: EngineRequest) -> CheckpointTarget | str:
        found = find(request)
        return found if isinstance(found, str) else dataclasses.replace(found, url="http://127.0.0.1:9/")

    monkeypatch.setattr(EngineRequest, "checkpoint_target", nowhere)
    monkeypatch.setattr("inngest_agents.request.checkpoint.RETRY_DELAYS", (0.01,))
    monkeypatch.setattr("inngest_agents.request.checkpoint.RESTART_DELAYS", ())
    executions = Executions()
    agent = executions.agent("w", [["a1", "b1"], ["a2", "b2"], ["c"]])

    @engine.client.create_function(fn_id="fn", trigger=inngest.TriggerEvent(event="go"), retries=3)
    async def fn(ctx: inngest.Context) -> Any:
        executions.requests += 1
        return await run(agent, ctx)

    engine.serve([fn])
    assert engine.run("go").output == "w done"
    time.sleep(0.3)
    assert executions.counts == {"model w": 4, "a1": 1, "b1": 1, "a2": 1, "b2": 1, "c": 1}


@pytest.mark.parametrize("run_before", [False, True])
def test_runs_of_a_parallel_group_go_on_together(engine: EngineUnderTest, run_before: bool) -> None:
    executions = Executions()
    first = executions.agent("first", [["f"]])
    left, right = executions.agent("left", [["l"]]), executions.agent("right", [["r"]])
    executions.fails["r"] = [ConnectionError("no line")]

    @engine.client.create_function(fn_id="fn", trigger=inngest.TriggerEvent(event="go"), retries=3)
    async def fn(ctx: inngest.Context) -> Any:
        if run_before:
            await run(first, ctx)
        both = await ctx.group.parallel((lambda: run(left, ctx), lambda: run(right, ctx)))
        return [*both, await run(first, ctx, name="again")] if run_before else list(both)

    engine.serve([fn])
    run_id = engine.send("go")
    outcome = engine.wait(run_id, timeout=60)
    expected = {"model left": 2, "model right": 2, "l": 1, "r": 2}
    if run_before:
        expected |= {"model first": 3, "f": 1}  # the second run finds the end of the script
        assert outcome.output == ["left done", "right done", "first done"]
    else:
        assert outcome.output == ["left done", "right done"]
    assert executions.counts == expected
    assert executions.events.index("model right") < executions.events.index("end l"), "they did not run together"
    assert len([step for step in engine.steps(run_id) if step.id]) >= 8


def test_a_guardrail_that_trips_in_a_parallel_group_is_found(engine: EngineUnderTest) -> None:
    @input_guardrail
    async def strict(context: Any, agent: Any, given: Any) -> GuardrailFunctionOutput:
        return GuardrailFunctionOutput(output_info="no", tripwire_triggered=True)

    executions = Executions()
    left, right = executions.agent("left", [["l"]]), executions.agent("right", [["r"]], input_guardrails=[strict])

    async def guarded(ctx: inngest.Context) -> str:
        try:
            return await run(right, ctx)
        except InputGuardrailTripwireTriggered:
            return "tripped"

    @engine.client.create_function(fn_id="fn", trigger=inngest.TriggerEvent(event="go"), retries=1)
    async def fn(ctx: inngest.Context) -> Any:
        return list(await ctx.group.parallel((lambda: run(left, ctx), lambda: guarded(ctx))))

    engine.serve([fn])
    outcome = engine.run("go", timeout=60)
    assert outcome.output == ["left done", "tripped"]
    assert executions.counts["l"] == 1


@pytest.mark.parametrize("checkpoint", [True, False], ids=["checkpointed", "step by step"])
@pytest.mark.parametrize("in_group", [False, True], ids=["alone", "in a group"])
def test_a_run_goes_on_where_a_planned_step_is_not_needed_when_its_turn_comes(
    engine: EngineUnderTest, in_group: bool, checkpoint: bool
) -> None:
    """One step at a time: the guardrail trips before the model call that was planned beside it is asked for."""

    @input_guardrail
    async def strict(context: Any, agent: Any, given: Any) -> GuardrailFunctionOutput:
        executions.events.append("strict")
        return GuardrailFunctionOutput(output_info="no", tripwire_triggered=True)

    executions = Executions()
    teams: dict[str, tuple[Agent[Any], Agent[Any]]] = {}
    one = [inngest.Concurrency(limit=1)]

    @engine.client.create_function(fn_id="fn", trigger=inngest.TriggerEvent(event="go"), retries=1, concurrency=one)
    async def fn(ctx: inngest.Context) -> Any:
        if ctx.run_id not in teams:
            guarded = executions.agent("right", [["r"]], input_guardrails=[strict])
            teams[ctx.run_id] = executions.agent("left", [["l"]]), guarded
        left, right = teams[ctx.run_id]

        async def tripping() -> str:
            try:
                return await run(right, ctx, checkpoint=checkpoint)
            except InputGuardrailTripwireTriggered:
                return "tripped"

        if in_group:
            return list(await ctx.group.parallel((lambda: run(left, ctx, checkpoint=checkpoint), tripping)))
        return [await run(left, ctx, checkpoint=checkpoint), await tripping()]

    engine.serve([fn])
    for _ in range(3):  # which of the steps comes first is the engine's choice
        assert engine.run("go", timeout=30).output == ["left done", "tripped"]
    once = {name: executions.counts[name] for name in ("strict", "l", "model left")}
    assert once == {"strict": 3, "l": 3, "model left": 6}
    assert executions.counts.get("model right", 0) <= 3


def test_named_runs_go_on_together_in_one_request(engine: EngineUnderTest) -> None:
    executions = Executions()
    agents = [executions.agent("same", [["a"]]), executions.agent("same", [["b"]])]

    @engine.client.create_function(fn_id="fn", trigger=inngest.TriggerEvent(event="go"))
    async def fn(ctx: inngest.Context) -> Any:
        executions.requests += 1
        return list(await asyncio.gather(*(run(agent, ctx, name=f"n{n}") for n, agent in enumerate(agents))))

    engine.serve([fn])
    assert engine.run("go").output == ["same done", "same done"]
    assert executions.counts == {"model same": 4, "a": 1, "b": 1}
    assert executions.requests == 1


def test_the_users_own_steps_go_before_between_and_after(engine: EngineUnderTest) -> None:
    executions = Executions()
    one, two = executions.agent("one", [["a", "b"]]), executions.agent("two", [["c"]])

    async def note(name: str) -> str:
        executions.events.append(name)
        return name

    @engine.client.create_function(fn_id="fn", trigger=inngest.TriggerEvent(event="go"), retries=3)
    async def fn(ctx: inngest.Context) -> Any:
        executions.requests += 1
        before = await ctx.step.run("before", note, "before")
        first = await run(one, ctx)
        await ctx.step.sleep("nap", 50)
        event = await ctx.step.wait_for_event("wait", event="more", timeout=20_000)
        assert event is not None
        second = await run(two, ctx)
        after = await ctx.step.run("after", note, f"after {event.data['x']}")
        return [before, first, second, after]

    engine.serve([fn])
    run_id = engine.send("go")
    deadline = time.monotonic() + 20
    while "wait" not in {step.name for step in engine.steps(run_id)} and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.2)
    engine.send_event("more", {"x": 1})
    assert engine.wait(run_id, timeout=30).output == ["before", "one done", "two done", "after 1"]
    assert executions.counts == {
        "before": 1,
        "model one": 2,
        "a": 1,
        "b": 1,
        "model two": 2,
        "c": 1,
        "after 1": 1,
    }
    # One for each of the user's own steps, and the one that ends.
    assert executions.requests == 5


class OutOfStockError(Exception):
    """What a tool's service says, with facts that the caller reads."""

    def __init__(self, left: int) -> None:
        super().__init__(f"{left} left")
        self.left = left


def test_a_failed_step_gives_its_error_to_the_function_with_its_plain_attributes(engine: EngineUnderTest) -> None:

    @function_tool(failure_error_function=None)
    def order() -> str:
        raise OutOfStockError(2)

    agent = Agent(name="clerk", model=ScriptedModel([[function_call("order", {}, call_id="c1")]]), tools=[order])

    @engine.client.create_function(fn_id="order", retries=0, trigger=inngest.TriggerEvent(event="stock/order"))
    async def order_one(ctx: inngest.Context) -> str:
        try:
            await DurableRunner.run(agent, "one mug", step=ctx.step, run_config=QUIET)
        except UserError as error:
            cause: Any = error.__cause__
            return f"{type(cause).__name__}: {cause.left}"
        return "sold"

    engine.serve([order_one])
    assert engine.run("stock/order").output == "OutOfStockError: 2"


@pytest.mark.parametrize("checkpoint", [True, False], ids=["checkpointed", "step by step"])
def test_a_rate_limit_waits_as_the_provider_says_and_is_no_error_for_the_function(
    engine: EngineUnderTest, checkpoint: bool
) -> None:
    reply = provider.scripted().Reply
    requests: list[float] = []
    with provider.serving(reply(status=429, headers={"retry-after": "3"}), reply(text="hello")) as asked:
        client = AsyncOpenAI(api_key="k", base_url=asked.base_url, max_retries=0)
        agent = Agent(name="clerk", model=OpenAIChatCompletionsModel("gpt-4o", client))

        @engine.client.create_function(fn_id="busy", retries=2, trigger=inngest.TriggerEvent(event="busy"))
        async def busy(ctx: inngest.Context) -> Any:
            requests.append(time.monotonic())
            try:
                options = DurableOptions(checkpoint=checkpoint)
                result = await DurableRunner.run(agent, "go", step=ctx.step, run_config=QUIET, options=options)
            except Exception as error:  # noqa: BLE001  as users write it
                return f"failed: {error!r}"
            return result.final_output

        engine.serve([busy])
        assert engine.run("busy").output == "hello"
        assert len(asked.requests) == 2
    # A retry without it comes after ten seconds and more.
    assert 1.5 < requests[1] - requests[0] < 8
