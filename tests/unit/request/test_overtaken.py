"""A planned step that nobody asks for when its turn comes: what is stored in its place, and that it can still run."""

from __future__ import annotations

import asyncio
from typing import Any

import inngest
import pytest
from agents import Agent, GuardrailFunctionOutput, InputGuardrail, RunConfig
from agents.testing import ScriptedModel, assistant_message, function_call
from inngest._internal.step_lib import Group

from inngest_agents import DurableRunner, durable, idempotency_key, set_step
from inngest_agents._inngest_sdk import ResponseInterrupt, SkipInterrupt, hash_step_id, make_step
from inngest_agents.request import scheduling
from inngest_agents.request.step_ids import OVERTAKEN, planned_id, run_tag
from inngest_agents.testing import replayed

QUIET = RunConfig(tracing_disabled=True)


async def test_a_step_that_was_only_late_runs_once_and_under_its_own_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduling, "OVERTAKEN_GRACE_SECONDS", 0.01)
    executed: list[str] = []
    keys: list[str] = []
    targets: list[str | None] = []

    async def work(name: str) -> str:
        executed.append(name)
        if name == "b":
            keys.append(idempotency_key())
        return name

    async def handler(step: Any) -> list[str]:
        set_step(step)
        targets.append(step._target_hashed_id)

        async def late() -> str:
            if targets[-1] is not None:
                await asyncio.sleep(0.1)
            return await durable("b", work, "b")

        return list(await asyncio.gather(durable("a", work, "a"), late(), durable("c", work, "c")))

    run = await replayed(handler)
    assert run.result == ["a", "b", "c"]
    assert sorted(executed) == ["a", "b", "c"]
    assert sorted(run.steps) == ["a", "b", "c"]
    overtaken = [hashed for hashed, memo in run.memos.items() if memo.get("data") == OVERTAKEN]
    assert len(overtaken) == 1
    assert overtaken[0] in targets
    assert keys[0].endswith(hash_step_id("b")[:20])


async def test_a_step_planned_under_its_plain_id_by_an_earlier_version_is_run_and_read() -> None:
    executed: list[str] = []

    async def work(name: str) -> str:
        executed.append(name)
        return name

    async def handler(step: Any) -> list[str]:
        set_step(step)
        return list(await asyncio.gather(durable("a", work, "a"), durable("b", work, "b")))

    client = inngest.Inngest(app_id="app", is_production=False)
    memos: dict[str, Any] = {}
    for name in "ba":
        target = hash_step_id(name)
        step = make_step(client, dict(memos), run_id="r", attempt=0, max_attempts=1, target=target)
        with pytest.raises(ResponseInterrupt) as ended:
            await handler(step)
        [response] = ended.value.responses
        assert response.step.id == target
        memos[target] = {"data": response.output}

    run = await replayed(handler, memos=memos)
    assert run.result == ["a", "b"]
    assert executed == ["b", "a"]


async def test_a_step_of_the_users_own_may_return_what_marks_an_overtaken_one() -> None:
    calls: list[str] = []

    async def own() -> Any:
        calls.append("own")
        return dict(OVERTAKEN)

    async def work() -> str:
        return "done"

    async def handler(step: Any) -> Any:
        set_step(step)
        first = await durable("first", work)
        return [first, await step.run("own", own), await durable("last", work)]

    assert (await replayed(handler)).result == ["done", OVERTAKEN, "done"]
    assert calls == ["own"]


async def test_a_step_of_the_users_own_is_never_taken_for_overtaken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduling, "TARGET_GRACE_SECONDS", 0.05)
    monkeypatch.setattr(scheduling, "OVERTAKEN_GRACE_SECONDS", 0.0)

    async def work() -> str:
        return "done"

    client = inngest.Inngest(app_id="app", is_production=False)
    target = hash_step_id("own")
    step = make_step(client, {}, run_id="r", attempt=0, max_attempts=1, target=target)
    with pytest.raises(SkipInterrupt) as ended:  # which Inngest reports as an unexpected step
        await durable("first", work, step=step)
    assert ended.value.step_id == target


async def test_a_group_answers_for_a_step_that_comes_too_late_to_be_found() -> None:
    async def work(name: str) -> str:
        return name

    async def late(step: Any) -> str:
        await asyncio.sleep(0.2)
        return await durable("b", work, "b", step=step)

    client = inngest.Inngest(app_id="app", is_production=False)
    target = planned_id(run_tag(""), hash_step_id("b"))
    step = make_step(client, {}, run_id="r", attempt=0, max_attempts=1, target=target)

    async def both() -> Any:
        return await asyncio.gather(durable("a", work, "a", step=step), late(step))

    with pytest.raises(ResponseInterrupt) as ended:
        await Group().parallel((both, lambda: durable("c", work, "c", step=step)))
    answered = [response for response in ended.value.responses if response.step.id]
    assert [(response.step.id, response.output) for response in answered] == [(target, OVERTAKEN)]


async def test_a_step_of_a_nested_agent_whose_guardrail_has_tripped_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scheduling, "OVERTAKEN_GRACE_SECONDS", 60.0)

    async def trip(*_: Any) -> GuardrailFunctionOutput:
        return GuardrailFunctionOutput(output_info=None, tripwire_triggered=True)

    guarded = Agent(
        name="guarded", model=ScriptedModel([[assistant_message("no")]]), input_guardrails=[InputGuardrail(trip)]
    )
    order = [function_call("ask", {"input": "go"}, call_id="c1")]
    model = ScriptedModel([order, [assistant_message("done")]])
    agent = Agent(name="asker", model=model, tools=[guarded.as_tool("ask", "Ask.")])

    async with asyncio.timeout(20):
        run = await replayed(lambda step: DurableRunner.run(agent, "go", step=step, run_config=QUIET))
    assert run.result.final_output == "done"
    assert OVERTAKEN in [memo["data"] for memo in run.memos.values()]
