"""The main job on the engines, with and without checkpoints: tools, handoffs, nested agents, retries and errors."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import httpx
import inngest
import openai
import pydantic
import pytest
from agents import (
    Agent,
    GuardrailFunctionOutput,
    InputGuardrail,
    MaxTurnsExceeded,
    OutputGuardrail,
    RunConfig,
    SQLiteSession,
    function_tool,
)
from agents.testing import ScriptedModel, assistant_message, function_call

from inngest_agents import DurableOptions, DurableRunner, ToolOptions, idempotency_key, tool_options

if TYPE_CHECKING:
    from collections.abc import Callable

    from .harness import EngineUnderTest, RunOutcome

QUIET = RunConfig(tracing_disabled=True)

both_ways = pytest.mark.parametrize("checkpoint", [True, False], ids=["checkpointed", "step by step"])


def serve(engine: EngineUnderTest, agent: Agent[Any], *, requests: list[float] | None = None, **options: Any) -> None:
    """Serve a function that runs `agent` and counts its requests."""
    chosen = DurableOptions(**options)

    @engine.client.create_function(fn_id="run", trigger=inngest.TriggerEvent(event="run"), retries=3)
    async def run(ctx: inngest.Context) -> Any:
        if requests is not None:
            requests.append(time.monotonic())
        result = await DurableRunner.run(
            agent, str(ctx.event.data["prompt"]), step=ctx.step, options=chosen, run_config=QUIET, max_turns=4
        )
        return result.to_dict()

    engine.serve([run])


def run(engine: EngineUnderTest) -> RunOutcome:
    return engine.run("run", {"prompt": "go"}, timeout=60)


@both_ways
async def test_parallel_tools_overlap_in_time_and_run_once(engine: EngineUnderTest, checkpoint: bool) -> None:
    spans: dict[str, tuple[float, float]] = {}
    count: list[str] = []

    @function_tool
    async def slow(name: str) -> str:
        begun = time.monotonic()
        count.append(name)
        await asyncio.sleep(0.3)
        spans[name] = (begun, time.monotonic())
        return f"{name} done"

    names = ["a", "b", "c"]
    calls: list[Any] = [function_call("slow", {"name": name}, call_id=name) for name in names]
    agent = Agent(name="worker", model=ScriptedModel([calls, [assistant_message("all done")]]), tools=[slow])
    serve(engine, agent, checkpoint=checkpoint)

    outcome = run(engine)

    assert outcome.status == "Completed"
    assert outcome.output["final_output"] == "all done"
    assert sorted(count) == names
    assert max(begun for begun, _ in spans.values()) < min(ended for _, ended in spans.values())


@both_ways
async def test_a_checkpointed_run_takes_one_request_and_another_one_for_each_step(
    engine: EngineUnderTest, checkpoint: bool
) -> None:
    requests: list[float] = []

    @function_tool
    async def add(a: int, b: int) -> int:
        return a + b

    script: list[Any] = [[function_call("add", {"a": i, "b": 1}, call_id=f"c{i}")] for i in range(3)]
    agent = Agent(name="adder", model=ScriptedModel([*script, [assistant_message("3")]]), tools=[add])
    serve(engine, agent, requests=requests, checkpoint=checkpoint)

    run_id = engine.send("run", {"prompt": "go"})
    assert engine.wait(run_id, timeout=60).output["final_output"] == "3"
    assert len(engine.steps(run_id)) >= 7
    assert len(requests) == (1 if checkpoint else len(engine.steps(run_id)) + 1)


@both_ways
async def test_handoffs_and_nested_agents_have_steps_of_their_own(engine: EngineUnderTest, checkpoint: bool) -> None:
    @function_tool
    async def look(what: str) -> str:
        return f"{what} found"

    deep = Agent(
        name="deep",
        model=ScriptedModel([[function_call("look", {"what": "gold"}, call_id="d1")], [assistant_message("gold!")]]),
        tools=[look],
    )
    middle = Agent(
        name="middle",
        model=ScriptedModel([[function_call("dig", {"input": "deeper"}, call_id="m1")], [assistant_message("dug")]]),
        tools=[deep.as_tool("dig", "Digs")],
    )
    boss = Agent(
        name="boss",
        model=ScriptedModel([[function_call("ask", {"input": "dig"}, call_id="b1")], [assistant_message("rich")]]),
        tools=[middle.as_tool("ask", "Asks")],
    )
    front = Agent(
        name="front", model=ScriptedModel([[function_call("transfer_to_boss", {}, call_id="f1")]]), handoffs=[boss]
    )
    serve(engine, front, checkpoint=checkpoint)

    run_id = engine.send("run", {"prompt": "go"})
    outcome = engine.wait(run_id, timeout=60)

    assert outcome.output["final_output"] == "rich"
    stats = outcome.output["stats"]
    assert stats["agents_involved"] == ["front", "boss", "middle", "deep"]
    assert (stats["total_handoffs"], stats["final_agent"]) == (1, "boss")
    names = {step.name for step in engine.steps(run_id)}
    assert {
        "front/1 model front",
        "front/2 model boss",
        "front/2.1 ask/1 model middle",
        "front/2.1 ask/1.1 dig/1 model deep",
        "front/2.1 ask/1.1 dig/1.1 look",
        "front/3 model boss",
    } <= names


@both_ways
async def test_a_raising_tool_is_retried_by_the_engine_under_one_key(engine: EngineUnderTest, checkpoint: bool) -> None:
    keys: list[str] = []

    @function_tool
    async def flaky() -> str:
        keys.append(idempotency_key())
        if len(keys) < 3:
            raise ConnectionError("no line")
        return "through"

    agent = Agent(
        name="caller",
        model=ScriptedModel([[function_call("flaky", {}, call_id="c1")], [assistant_message("done")]]),
        tools=[flaky],
    )
    serve(engine, agent, checkpoint=checkpoint)

    outcome = run(engine)

    assert outcome.output["final_output"] == "done"
    assert len(keys) == 3
    assert len(set(keys)) == 1


def _by_marker(tool: Any) -> dict[str, Any]:
    tool_options(tool, max_attempts=1)
    return {}


def _by_options(tool: Any) -> dict[str, Any]:
    return {"tools": {tool.name: ToolOptions(max_attempts=1)}}


@both_ways
@pytest.mark.parametrize("mark", [_by_marker, _by_options])
async def test_a_tool_may_be_tried_only_once(
    engine: EngineUnderTest, checkpoint: bool, mark: Callable[[Any], dict[str, Any]]
) -> None:
    tried: list[int] = []
    told: list[str] = []

    def explain(context: Any, error: Exception) -> str:
        told.append(f"{type(error).__name__}: {error}")
        return "it did not work"

    @function_tool(failure_error_function=explain)
    async def charge() -> str:
        tried.append(1)
        raise PermissionError("card refused")

    agent = Agent(
        name="till",
        model=ScriptedModel([[function_call("charge", {}, call_id="c1")], [assistant_message("sorry")]]),
        tools=[charge],
    )
    serve(engine, agent, checkpoint=checkpoint, **mark(charge))

    outcome = run(engine)

    assert outcome.output["final_output"] == "sorry"
    assert tried == [1]
    assert told == ["PermissionError: card refused"]
    assert outcome.output["stats"]["by_tool"]["charge"]["failures"] == 1


@both_ways
async def test_what_can_never_go_better_fails_the_run_once(engine: EngineUnderTest, checkpoint: bool) -> None:
    caught: list[str] = []
    executed: list[int] = []

    @function_tool
    async def again() -> str:
        executed.append(1)
        return "again"

    script: list[Any] = [[function_call("again", {}, call_id=f"c{i}")] for i in range(9)]
    agent = Agent(name="loop", model=ScriptedModel(script), tools=[again])

    @engine.client.create_function(fn_id="loop", trigger=inngest.TriggerEvent(event="run"), retries=3)
    async def loop(ctx: inngest.Context) -> Any:
        try:
            return await DurableRunner.run(
                agent,
                "go",
                step=ctx.step,
                max_turns=2,
                run_config=QUIET,
                options=DurableOptions(checkpoint=checkpoint),
            )
        except MaxTurnsExceeded as error:
            caught.append(type(error).__name__)
            raise

    engine.serve([loop])
    outcome = run(engine)

    assert outcome.status == "Failed"
    assert outcome.output["name"] == "MaxTurnsExceeded"
    assert caught == ["MaxTurnsExceeded"]
    assert executed == [1, 1]


def _scripted(*turns: Any, **fields: Any) -> Agent[Any]:
    return Agent(name="sure", model=ScriptedModel(list(turns)), **fields)


async def _trip(*_: Any) -> GuardrailFunctionOutput:
    return GuardrailFunctionOutput(None, tripwire_triggered=True)


class _Refusing(ScriptedModel):
    async def get_response(self, *args: Any, **kwargs: Any) -> Any:
        answer: Any = httpx.Response(401, request=httpx.Request("POST", "http://provider"))
        raise openai.AuthenticationError("bad key", response=answer, body=None)


LASTING: dict[str, tuple[Callable[[], Agent[Any]], dict[str, Any], int]] = {
    # The error; the agent, arguments of `run`, and the requests that a checkpointed run takes.
    "MaxTurnsExceeded": (lambda: _scripted([assistant_message("hi")]), {"max_turns": 0}, 1),
    "ModelBehaviorError": (lambda: _scripted([function_call("missing", {}, call_id="c1")]), {}, 1),
    "InputGuardrailTripwireTriggered": (
        lambda: _scripted([assistant_message("hi")], input_guardrails=[InputGuardrail(_trip)]),
        {},
        1,
    ),
    "OutputGuardrailTripwireTriggered": (
        lambda: _scripted([assistant_message("hi")], output_guardrails=[OutputGuardrail(_trip)]),
        {},
        1,
    ),
    "UserError": (lambda: _scripted(), {"session": SQLiteSession("s"), "conversation_id": "c"}, 1),
    "TypeError": (lambda: _scripted(), {"step": None}, 1),
    # A step that has failed for good is an answer, and the run ends in the request after it.
    "AuthenticationError": (lambda: Agent(name="sure", model=_Refusing([])), {}, 2),
}


@both_ways
@pytest.mark.parametrize(("name", "case"), LASTING.items(), ids=LASTING.keys())
def test_an_error_that_stays_is_not_retried(engine: EngineUnderTest, checkpoint: bool, name: str, case: Any) -> None:
    make, given, requests = case
    agent = make()
    attempts: list[int] = []

    @engine.client.create_function(fn_id="sure", trigger=inngest.TriggerEvent(event="run"))
    async def sure(ctx: inngest.Context) -> None:
        attempts.append(ctx.attempt)
        options = DurableOptions(checkpoint=checkpoint)
        await DurableRunner.run(agent, "go", **{"step": ctx.step, "run_config": QUIET, "options": options} | given)

    engine.serve([sure])
    outcome = run(engine)

    assert outcome.status == "Failed"
    assert outcome.output["name"] == name
    assert set(attempts) == {0}
    if checkpoint:
        assert len(attempts) == requests


class Verdict(pydantic.BaseModel):
    guilty: bool
    reason: str


@both_ways
async def test_structured_output_comes_back_as_its_type_and_as_json(engine: EngineUnderTest, checkpoint: bool) -> None:
    agent = Agent(
        name="judge",
        model=ScriptedModel([[assistant_message('{"guilty": false, "reason": "no proof"}')]]),
        output_type=Verdict,
    )
    seen: list[Any] = []

    @engine.client.create_function(fn_id="judge", trigger=inngest.TriggerEvent(event="run"))
    async def judge(ctx: inngest.Context) -> Any:
        options = DurableOptions(checkpoint=checkpoint)
        result = await DurableRunner.run(agent, "judge", step=ctx.step, run_config=QUIET, options=options)
        seen.append(result.final_output)
        return result.to_dict()

    engine.serve([judge])

    assert run(engine).output["final_output"] == {"guilty": False, "reason": "no proof"}
    assert seen[-1] == Verdict(guilty=False, reason="no proof")


async def test_a_step_that_was_kept_from_another_call_is_told_and_not_waited_for(engine: EngineUnderTest) -> None:
    """By an object that several runs share, say. Its run is over, and nobody would answer for this one."""
    kept: list[Any] = []

    @engine.client.create_function(fn_id="keep", trigger=inngest.TriggerEvent(event="keep"))
    async def keep(ctx: inngest.Context) -> Any:
        kept.append(ctx.step)
        agent = Agent(name="worker", model=ScriptedModel([[assistant_message("done")]]))
        return (await DurableRunner.run(agent, "go", step=kept[0])).final_output

    engine.serve([keep])
    assert engine.run("keep").output == "done"
    outcome = engine.run("keep")

    assert outcome.status == "Failed"
    assert "of another call of the function" in outcome.output["message"]
