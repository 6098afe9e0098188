"""A request that has nothing to save when it ends asks first whether the run is still its own.

An engine that was held up sends a request once more while the first is open, and takes the answers of both.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import pytest
from agents import Agent, RunConfig, function_tool
from agents.testing import ScriptedModel, assistant_message, function_call
from checkpoint_api import Api, Engine, Trouble, answer, late, raw

from inngest_agents import DurableOptions, DurableRunner, durable, set_step, tool_options
from inngest_agents._inngest_sdk import CheckpointTarget
from inngest_agents.local.protocol import new_ulid
from inngest_agents.request import checkpoint, driver
from inngest_agents.request.checkpoint import Checkpointer, SaveOutcome, made_at

QUIET = RunConfig(tracing_disabled=True)

RETRIED = pytest.mark.parametrize("max_attempts", [None, 1], ids=["to be tried again", "for good"])


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "RETRY_DELAYS", (0.002, 0.005))
    monkeypatch.setattr(checkpoint, "RESTART_DELAYS", (0.01, 0.01, 0.01, 0.01))


def slept(monkeypatch: pytest.MonkeyPatch) -> Trouble:
    """A good answer, while the process sleeps: from then on what it knows is old."""

    async def trouble(*call: Any) -> bool:
        monkeypatch.setattr(checkpoint, "FRESH_SECONDS", -1.0)
        return await answer(200)(*call)

    return trouble


class Breaking:
    """A run whose tool fails once."""

    def __init__(self, max_attempts: int | None) -> None:
        self.calls = 0

        @function_tool
        async def work() -> str:
            self.calls += 1
            if self.calls == 1:
                raise ValueError("broken")
            return "worked"

        self.model = ScriptedModel([[function_call("work", {}, call_id="c")], [assistant_message("done")]])
        self.agent = Agent(name="w", model=self.model, tools=[tool_options(work, max_attempts=max_attempts)])

    async def __call__(self, step: Any, **options: Any) -> str:
        result = await DurableRunner.run(
            self.agent, "go", step=step, run_config=QUIET, options=DurableOptions(stats_step=False, **options)
        )
        return str(result.final_output)


@RETRIED
@pytest.mark.parametrize("status", [409, 404], ids=["another has the run", "the run is over"])
async def test_a_failed_step_of_a_lost_run_is_not_reported(max_attempts: int | None, status: int) -> None:
    """Its owner is about to have a result of that step; both would do all that follows."""
    async with Api(None, answer(status, '{"error": "stale dispatch"}')) as api:
        engine, work = Engine(api), Breaking(max_attempts)
        assert await engine.run(work) is None
        assert engine.answers == [[("None", "")]]
        assert api.saves == [["w/1 model w"], []]


@RETRIED
async def test_a_failed_step_of_an_own_run_is_reported(max_attempts: int | None) -> None:
    async with Api() as api:
        engine, work = Engine(api), Breaking(max_attempts)
        assert await engine.run(work) == "done"
        assert engine.answers[0] == [("StepError" if max_attempts is None else "StepFailed", "w/1.1 work")]
        assert api.saves[:2] == [["w/1 model w"], []]
        assert api.saves.count([]) == 1


@pytest.mark.parametrize(
    "troubles",
    [[answer(500)] * 3, [answer(400)], [raw(b"")] * 3],
    ids=["an error", "refused", "no answer"],
)
async def test_a_failed_step_is_reported_if_nobody_says_whose_the_run_is(
    troubles: list[Trouble], caplog: pytest.LogCaptureFixture
) -> None:
    async with Api(None, *troubles) as api:
        engine, work = Engine(api), Breaking(None)
        assert await engine.run(work) == "done"
        assert engine.answers[0] == [("StepError", "w/1.1 work")]
    ours = [
        record for record in caplog.records if record.name == "inngest_agents"
    ]  # the SDK's exporter warns at any time
    assert [record for record in ours if record.levelno >= logging.WARNING] == []


async def test_a_saver_that_has_failed_does_not_ask() -> None:
    lost: list[SaveOutcome] = []
    async with Api(forever=answer(413)) as api:
        saver = Checkpointer(CheckpointTarget(f"{api.url}/save", {"run_id": "r"}, (), {}), on_lost=lost.append)
        saver.add(b'{"id": "1", "displayName": "s", "data": 1}', None)  # type: ignore[arg-type]
        assert await saver.flush() is SaveOutcome.FAILED
        await saver.confirm()
        assert api.saves == [["s"]]
        assert saver.outcome is SaveOutcome.FAILED
        assert lost == []


async def test_no_tool_starts_on_an_answer_that_has_waited_while_the_process_slept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Meanwhile the engine has given the run to another worker, which has run the tools, or to none as it has ended."""
    async with Api(slept(monkeypatch), answer(409)) as api:
        engine, work = Engine(api), Breaking(None)
        assert await engine.run(work) is None
        assert work.calls == 0
        assert engine.answers == [[("None", "")]]
        assert api.saves == [["w/1 model w"], []]


async def test_a_slow_api_is_asked_once_for_all_tools_of_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    @function_tool
    async def work(name: str) -> str:
        calls.append(name)
        return name

    async def run(step: Any) -> str:
        turn = [function_call("work", {"name": name}, call_id=name) for name in "abc"]
        agent = Agent(name="w", model=ScriptedModel([turn, [assistant_message("done")]]), tools=[work])
        result = await DurableRunner.run(
            agent, "go", step=step, run_config=QUIET, options=DurableOptions(stats_step=False)
        )
        return str(result.final_output)

    async with Api(slept(monkeypatch)) as api:
        assert await Engine(api).run(run) == "done"
        assert sorted(calls) == ["a", "b", "c"]
        assert api.saves[:3] == [["w/1 model w"], [], ["w/1.1 work", "w/1.2 work", "w/1.3 work"]]


def made(seconds_ago: float) -> str:
    return new_ulid(time.time_ns() - int(seconds_ago * 1e9))


async def test_nothing_starts_in_a_request_that_has_waited_while_the_process_slept() -> None:
    """It has the memos of then. Meanwhile another worker has asked the model and run the tools."""
    async with Api(answer(409)) as api:
        engine, work = Engine(api), Breaking(None)
        engine.request_id = made(seconds_ago=60)
        assert await engine.run(work) is None
        assert work.model.remaining_steps == 2
        assert engine.answers == [[("None", "")]]
        assert api.saves == [[]]


@pytest.mark.parametrize("seconds_ago", [0, -3600], ids=["now", "by a clock that is ahead"])
async def test_a_request_that_has_just_been_made_asks_for_nothing(seconds_ago: float) -> None:
    async with Api() as api:
        engine, work = Engine(api), Breaking(None)
        work.calls = 1  # it does not fail
        engine.request_id = made(seconds_ago)
        assert await engine.run(work) == "done"
        assert [] not in api.saves


async def test_a_request_that_has_waited_and_is_still_the_runs_goes_on() -> None:
    """As in a busy worker's queue, or on a machine whose clock is ahead of the engine's."""
    async with Api() as api:
        engine, work = Engine(api), Breaking(None)
        work.calls = 1
        engine.request_id = made(seconds_ago=60)
        assert await engine.run(work) == "done"
        assert api.saves == [[], ["w/1 model w"], ["w/1.1 work"], ["w/2 model w"]]


async def test_no_model_is_asked_after_a_tool_in_which_the_process_slept(monkeypatch: pytest.MonkeyPatch) -> None:
    @function_tool
    async def work() -> str:
        monkeypatch.setattr(checkpoint, "FRESH_SECONDS", -1.0)
        return "worked"

    model = ScriptedModel([[function_call("work", {}, call_id="c")], [assistant_message("done")]])
    agent = Agent(name="w", model=model, tools=[work])

    async def slowly_refused(*call: Any) -> bool:
        await asyncio.sleep(0.05)
        return await answer(409)(*call)

    async with Api(None, slowly_refused) as api:
        engine = Engine(api)
        assert await engine.run(lambda step: DurableRunner.run(agent, "go", step=step, run_config=QUIET)) is None
        assert model.remaining_steps == 1
        assert api.saves == [["w/1 model w"], ["w/1.1 work"]]


@pytest.mark.parametrize("request_id", [None, 7, "", "request", "01ARZ3NDEKTSV4RRFFQ69G5FAU", "b" * 26])
def test_a_request_id_that_is_no_ulid_tells_no_time(request_id: object) -> None:
    assert made_at(request_id) == float("inf")


def test_a_ulid_tells_when_it_was_made() -> None:
    assert made_at("01ARZ3NDEKTSV4RRFFQ69G5FAV") == 1469922850.259


# Without checkpointing -----------------------------------------------------------------------------------------


async def test_nothing_starts_in_an_old_request_of_a_lost_run_without_checkpointing_either() -> None:
    async with Api(answer(409)) as api:
        engine, work = Engine(api), Breaking(None)
        engine.request_id = made(seconds_ago=60)
        assert await engine.run(lambda step: work(step, checkpoint=False)) is None
        assert work.model.remaining_steps == 2
        assert engine.answers == [[("None", "")]]
        assert api.saves == [[]]


async def test_a_planned_step_does_not_start_in_an_old_request_of_a_lost_run() -> None:
    calls: list[str] = []

    async def work(name: str) -> str:
        calls.append(name)
        return name

    async with Api(answer(409)) as api:
        engine = Engine(api)

        async def both(step: Any) -> Any:
            set_step(step)
            driver.Driver.for_step(step, checkpoint=False, max_runtime=None)
            engine.request_id = made(seconds_ago=60)
            return await asyncio.gather(durable("a", work, "a"), durable("b", work, "b"))

        assert await engine.run(both) is None
        assert calls == []
        assert engine.answers == [[("StepPlanned", "a"), ("StepPlanned", "b")], [("None", "")]]


@pytest.mark.parametrize("seconds_ago", [0, 60], ids=["new", "old"])
async def test_a_run_without_checkpointing_asks_only_where_a_request_is_old(seconds_ago: float) -> None:
    async with Api() as api:
        engine, work = Engine(api), Breaking(None)
        work.calls = 1
        engine.request_id = made(seconds_ago)
        assert await engine.run(lambda step: work(step, checkpoint=False)) == "done"
        assert api.saves == [[]] * (3 if seconds_ago else 0)


async def test_an_api_that_cannot_be_reached_holds_up_no_run_that_saves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("inngest_agents.request.execution.ASK_SECONDS", 0.02)
    async with Api(forever=late(5.0)) as api:
        engine, work = Engine(api), Breaking(None)
        work.calls = 1
        engine.request_id = made(seconds_ago=60)
        async with asyncio.timeout(5):
            assert await engine.run(lambda step: work(step, checkpoint=False)) == "done"
