"""Whatever happens to the saves, no step is lost or run twice, and no run hangs."""

from __future__ import annotations

import asyncio
import collections
import itertools
import random
import time
from pathlib import Path
from typing import Any

import inngest
import pytest
from agents import (
    Agent,
    GuardrailFunctionOutput,
    InputGuardrail,
    InputGuardrailTripwireTriggered,
    RunConfig,
    Runner,
    SQLiteSession,
    ToolCallOutputItem,
    Usage,
    function_tool,
)
from agents.testing import ScriptedModel, assistant_message, function_call
from checkpoint_api import OK, Api, Engine, Trouble, answer, late, raw

from inngest_agents import DurableOptions, DurableRunner
from inngest_agents._inngest_sdk import CheckpointTarget, Opcode, StepResponse, step_info
from inngest_agents.request import checkpoint

QUIET = RunConfig(tracing_disabled=True)

STEPS = [
    "w/1 model w",
    "w/1.1 work",
    "w/1.2 work",
    "w/2 model w",
    "w/2.1 work",
    "w/3 model w",
    "w/run_stats",
]


class Work:
    """An agent with two parallel tool calls in its first turn and one in its second, and what was executed."""

    def __init__(self, api: Api, *, seconds: float = 0.01, model_seconds: float = 0.0) -> None:
        self.executed: list[str] = []
        self.seconds: dict[str, float] = collections.defaultdict(lambda: seconds)
        self.raises: dict[str, Exception] = {}
        log = api.log

        @function_tool
        async def work(name: str) -> str:
            self.executed.append(name)
            log.append(f"start {name}")
            await asyncio.sleep(self.seconds[name])
            log.append(f"end {name}")
            if name in self.raises:
                raise self.raises[name]
            return f"{name} done"

        class Model(ScriptedModel):
            async def get_response(self, *args: Any, **kwargs: Any) -> Any:
                log.append("start model")
                await asyncio.sleep(model_seconds)
                return await super().get_response(*args, **kwargs)

        def call(name: str) -> Any:
            return function_call("work", {"name": name}, call_id=name)

        # A model call that ran twice would find the script at its end.
        model = Model([[call("a"), call("b")], [call("c")], [assistant_message("done")]])
        self.agent = Agent(name="w", model=model, tools=[work])

    async def __call__(self, step: Any, **options: Any) -> str:
        result = await DurableRunner.run(
            self.agent, "go", step=step, run_config=QUIET, options=DurableOptions(**options)
        )
        return str(result.final_output)


class Billing(ScriptedModel):
    """A scripted model that says what it used."""

    async def get_response(self, *args: Any, **kwargs: Any) -> Any:
        response = await super().get_response(*args, **kwargs)
        response.usage = Usage(requests=1, input_tokens=100, total_tokens=100)
        return response


def assert_once(api: Api, engine: Engine, work: Work) -> None:
    """Each step was run once, and is known to the engine from a save or from an answer."""
    assert sorted(work.executed) == ["a", "b", "c"]
    assert sorted({*api.saved, *engine.answered}) == STEPS
    assert len(engine.answered) == len(set(engine.answered))


def tries(api: Api) -> list[int]:
    """How often each save after the first was asked for."""
    return [len(list(group)) for _, group in itertools.groupby(api.saves[1:])]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "RETRY_DELAYS", (0.002, 0.005))
    monkeypatch.setattr(checkpoint, "RESTART_DELAYS", (0.01, 0.01, 0.01, 0.01))
    monkeypatch.setattr(checkpoint, "_away", set())


# Troubles that last --------------------------------------------------------------------------------------------

LASTING: dict[str, Trouble] = {
    "an error of the server": answer(500),
    "too many requests": answer(429),
    "not authorized": answer(401),
    "too large": answer(413),
    "a body that it does not understand": answer(400, '{"error": "failed to save step"}'),
    "a redirect": answer(302),
    "no such path": answer(404, "404 page not found"),
    "no such path behind a proxy": answer(404, "<HTML><body>Not Found</body></HTML>"),
    "garbage": raw(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"),
    "nothing": raw(b""),
    "half an answer": raw(b"HTTP/1.1 200 OK\r\ncontent-length: 200\r\n\r\n{"),
    "half an answer to what it saved": raw(b"HTTP/1.1 200 OK\r\ncontent-length: 200\r\n\r\n{", saves=True),
    "endless headers": raw(b"HTTP/1.1 200 OK\r\n" + b"x" * 300_000),
}


@pytest.mark.parametrize("trouble", LASTING.values(), ids=LASTING.keys())
async def test_what_can_not_be_saved_is_answered(trouble: Trouble) -> None:
    async with Api(forever=trouble) as api:
        engine, work = Engine(api), Work(api)
        assert await engine.run(work) == "done"
        assert_once(api, engine, work)
        assert sorted(engine.answered) == STEPS


async def test_an_api_that_is_down_is_done_without() -> None:
    async with Api() as api:
        engine, work = Engine(api), Work(api)
        api.stop()
        assert await engine.run(work) == "done"
        assert_once(api, engine, work)


@pytest.mark.parametrize("saves", [True, False])
async def test_an_api_that_is_too_slow_is_done_without(monkeypatch: pytest.MonkeyPatch, saves: bool) -> None:
    monkeypatch.setattr(checkpoint, "TIMEOUT_SECONDS", 0.02)
    async with Api(forever=late(0.5, saves=saves)) as api:
        engine, work = Engine(api), Work(api)
        assert await engine.run(work) == "done"
        assert sorted(work.executed) == ["a", "b", "c"]
        assert sorted(engine.answered) == STEPS


async def test_a_save_that_is_cancelled_with_the_event_loop_is_none() -> None:
    arrived = asyncio.Event()

    async def hang(_api: Api, _names: list[str], _writer: asyncio.StreamWriter) -> bool:
        arrived.set()
        await asyncio.sleep(30)
        return False

    async with Api(hang) as api:
        target = CheckpointTarget(f"{api.url}/v1/checkpoint/run/async", {"run_id": "run"}, (), {})
        saver = checkpoint.Checkpointer(target, on_lost=lambda _: None)
        before = asyncio.all_tasks()
        response = StepResponse(step=step_info("a", "a", Opcode.STEP_RUN))
        saver.add(b'{"displayName":"a"}', response)
        [saving] = asyncio.all_tasks() - before
        await arrived.wait()
        saving.cancel()  # as `asyncio.run` does
        assert await saver.flush() is checkpoint.SaveOutcome.FAILED
        assert saver.unsaved == [response]


async def test_an_api_that_is_slower_than_the_steps_costs_time_only() -> None:
    async with Api(forever=late(0.05)) as api:
        engine, work = Engine(api), Work(api)
        assert await engine.run(work) == "done"
        assert_once(api, engine, work)
        assert engine.answers == []


async def test_a_slow_save_of_the_session_does_not_let_tools_overtake_the_input_guardrail(tmp_path: Path) -> None:
    async with Api(forever=late(0.05)) as api:
        engine, work = Engine(api), Work(api)

        async def refuse(*_: Any) -> GuardrailFunctionOutput:
            await asyncio.sleep(0.02)
            return GuardrailFunctionOutput(None, tripwire_triggered=True)

        work.agent.input_guardrails = [InputGuardrail(refuse)]

        async def handler(step: Any) -> Any:
            session = SQLiteSession("s", tmp_path / "session.db")
            options = DurableOptions(prices_on=False, estimate_tokens=False)
            await DurableRunner.run(work.agent, "go", step=step, session=session, run_config=QUIET, options=options)

        with pytest.raises(InputGuardrailTripwireTriggered):
            await engine.run(handler)
        assert work.executed == []


# Troubles that pass --------------------------------------------------------------------------------------------

PASSING: dict[str, Trouble] = {
    "an error": answer(500),
    "an error that closes": raw(b"HTTP/1.1 502 Bad\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"),
    "nothing": raw(b""),
    "half an answer": raw(OK[:-1], saves=True),
    "garbage": raw(b"\x00\x01\x02\r\n\r\n"),
    "an answer that closes": raw(OK.replace(b"OK\r\n", b"OK\r\nconnection: close\r\n"), saves=True),
    "an answer and the end": raw(OK, saves=True),
    "an answer of unknown length": raw(b"HTTP/1.1 200 OK\r\n\r\n{}", saves=True),
    "more than an answer": raw(OK + OK, saves=True, close=False),
    "an early hint": raw(b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK, saves=True, close=False),
}


@pytest.mark.parametrize("place", [0, 1, 3])
@pytest.mark.parametrize("trouble", PASSING.values(), ids=PASSING.keys())
async def test_a_trouble_that_passes_costs_no_request(trouble: Trouble, place: int) -> None:
    async with Api(*[None] * place, trouble) as api:
        engine, work = Engine(api), Work(api)
        assert await engine.run(work) == "done"
        assert_once(api, engine, work)
        assert engine.answers == []


@pytest.mark.parametrize("trouble", [raw(b""), answer(503), answer(429)], ids=["refused", "unavailable", "busy"])
@pytest.mark.parametrize("place", [0, 1])
async def test_an_api_that_restarts_is_waited_for(trouble: Trouble, place: int) -> None:
    """The engine restarts with it: it has lost the request that is open, whose answer would arrive nowhere."""
    async with Api(*[None] * place, *[trouble] * 6) as api:
        engine, work = Engine(api), Work(api)
        assert await engine.run(work) == "done"
        assert_once(api, engine, work)
        assert engine.answers == []


def busy(retry_after: str) -> Trouble:
    """Too many requests; come back later."""
    return raw(f"HTTP/1.1 429 Busy\r\nretry-after: {retry_after}\r\ncontent-length: 0\r\n\r\n".encode(), close=False)


async def test_a_busy_api_is_asked_again_no_sooner_than_it_says() -> None:
    async with Api(busy("0.3")) as api:
        engine, work = Engine(api), Work(api)
        began = time.monotonic()
        assert await engine.run(work) == "done"
        assert time.monotonic() - began >= 0.3
        assert_once(api, engine, work)
        assert (api.saves[0], engine.answers) == (api.saves[1], [])


async def test_an_api_that_is_busy_for_long_is_not_waited_for() -> None:
    async with Api(None, busy("30")) as api:
        engine, work = Engine(api), Work(api)
        assert await engine.run(work) == "done"
        assert_once(api, engine, work)
        assert set(tries(api)) == {1}
        assert engine.answers


async def test_an_api_that_is_away_for_longer_is_waited_for_once() -> None:
    async with Api(None, forever=answer(503)) as api:
        engine, work = Engine(api), Work(api)
        assert await engine.run(work) == "done"
        assert_once(api, engine, work)
        first, *later = tries(api)
        assert first == 7
        assert set(later) == {3}


async def test_an_api_that_has_stopped_to_answer_is_not_waited_for_that_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "PATIENCE_SECONDS", 0.3)

    async def tired(_api: Api, _names: list[str], writer: asyncio.StreamWriter) -> bool:
        monkeypatch.setattr(checkpoint, "TIMEOUT_SECONDS", 0.2)
        writer.write(OK)
        return True

    async with Api(tired, forever=late(1.0)) as api:
        engine, work = Engine(api), Work(api)
        assert await engine.run(work) == "done"
        assert tries(api)[0] <= 2


@pytest.mark.parametrize("seed", range(12))
async def test_any_troubles_in_any_order(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(seed)
    monkeypatch.setattr(checkpoint, "TIMEOUT_SECONDS", 0.05)
    troubles = [*LASTING.values(), *PASSING.values(), late(0.2), late(0.2, saves=False), None, None, None]
    async with Api(*[chance.choice(troubles) for _ in range(30)]) as api:
        engine, work = Engine(api), Work(api)
        work.seconds.update(a=chance.random() / 50, b=chance.random() / 50)
        if chance.random() < 0.3:
            work.raises["a"] = inngest.NonRetriableError("no")
        limit = chance.choice([None, 0.0, 0.02])
        assert await engine.run(lambda step: work(step, max_runtime=limit)) == "done"
        assert_once(api, engine, work)


# Keys ----------------------------------------------------------------------------------------------------------


async def test_the_fallback_key_is_taken_once_and_for_all() -> None:
    async with Api(answer(401)) as api:
        engine, work = Engine(api, keys=("signkey-test-00", "signkey-test-11")), Work(api)
        assert await engine.run(work) == "done"
        assert_once(api, engine, work)
        assert engine.answers == []
        first, *later = api.authorization
        assert len({first, *later}) == 2
        assert len(set(later)) == 1


@pytest.mark.parametrize("fallback", [None, "signkey-test-11"])
async def test_where_no_key_is_good_the_steps_are_answered(fallback: str | None) -> None:
    async with Api(forever=answer(401)) as api:
        engine, work = Engine(api, keys=("signkey-test-00", fallback)), Work(api)
        assert await engine.run(work) == "done"
        assert_once(api, engine, work)


# A run that is lost --------------------------------------------------------------------------------------------

LOST = {
    "another worker owns it": answer(409, '{"error": "stale dispatch"}'),
    "unknown": answer(404),
    "gone": answer(410),
    "ended": answer(400, '{"error": "run not found in state store"}'),
    "its state is gone": answer(400, '{"error": "metadata not found"}'),
}


@pytest.mark.parametrize("trouble", LOST.values(), ids=LOST.keys())
async def test_a_lost_run_stops_at_once_and_reports_nothing(trouble: Trouble) -> None:
    # Saved: the first response. Not saved: tool a. Under way then: tool b, which would take long.
    async with Api(None, trouble) as api:
        engine, work = Engine(api), Work(api)
        work.seconds["b"] = 10.0
        begun = time.monotonic()
        assert await engine.run(work) is None
        assert time.monotonic() - begun < 2
        assert engine.answers == [[("None", "")]]
        assert sorted(work.executed) == ["a", "b"]
        done = list(api.log)
        await asyncio.sleep(0.05)
        assert api.log == done, "something ran on"
        assert "end b" not in done


async def test_a_run_that_is_lost_while_the_model_is_asked_stops_at_once() -> None:
    async with Api(None, None, answer(409)) as api:
        engine, work = Engine(api), Work(api, model_seconds=0.1)
        work.seconds["b"] = 0.05
        assert await engine.run(work) is None
        assert engine.answers == [[("None", "")]]
        await asyncio.sleep(0.15)
        assert sorted(work.executed) == ["a", "b"]
        assert api.log.count("start model") <= 2


# Steps that fail -----------------------------------------------------------------------------------------------


async def test_beside_a_tool_that_fails_the_other_is_saved_and_only_the_failing_one_is_retried() -> None:
    async with Api() as api:
        engine, work = Engine(api), Work(api)
        work.raises["a"] = ConnectionError("no line")
        work.seconds["b"] = 0.05

        async def handler(step: Any) -> str:
            if engine.answers:
                work.raises.clear()
            return await work(step)

        assert await engine.run(handler) == "done"
        assert work.executed == ["a", "b", "a", "c"]
        assert engine.answers[0] == [("StepError", "w/1.1 work")]
        assert "w/1.2 work" in api.saved
        assert sorted({*api.saved, *engine.answered}) == STEPS


async def test_several_that_fail_at_once_are_all_retried_as_often_as_may_be() -> None:
    async with Api() as api:
        engine, work = Engine(api, max_attempts=3), Work(api)
        work.raises["a"] = work.raises["b"] = ConnectionError("no line")
        assert await engine.run(work) == "done"
        assert collections.Counter(work.executed) == {"a": 3, "b": 3, "c": 1}
        ops = [sorted(op for op, _ in answer) for answer in engine.answers[:3]]
        assert ops == [["StepError"], ["StepError"], ["StepFailed", "StepFailed", "StepPlanned"]]


async def test_a_final_failure_beside_one_that_is_to_be_retried_is_told_once() -> None:
    async with Api() as api:
        engine, work = Engine(api, max_attempts=3), Work(api)
        work.raises["a"] = inngest.NonRetriableError("never")
        work.raises["b"] = ConnectionError("no line")
        assert await engine.run(work) == "done"
        assert engine.answers[0] == [("StepFailed", "w/1.1 work")]
        assert collections.Counter(work.executed) == {"a": 1, "b": 4, "c": 1}


async def test_what_failed_for_good_is_answered_beside_what_could_not_be_saved() -> None:
    async with Api(None, forever=answer(500)) as api:
        engine, work = Engine(api), Work(api)
        work.raises["a"] = inngest.NonRetriableError("never")
        assert await engine.run(work) == "done"
        assert_once(api, engine, work)
        assert [op for op, _ in engine.answers[0]] == ["StepRun", "StepFailed", "StepPlanned"]


async def test_tools_that_start_together_are_tried_together() -> None:
    """One that fails at once must not cost the other, which has not begun yet, the first of its two attempts."""
    async with Api(forever=late(0.03)) as api:
        engine, executed = Engine(api, max_attempts=2), collections.Counter[str]()

        @function_tool(failure_error_function=None)
        async def work(name: str) -> str:
            executed[name] += 1
            if executed[name] == 1:
                raise ConnectionError(f"no line to {name}")
            return name

        calls = [function_call("work", {"name": name}, call_id=name) for name in "ab"]
        agent = Agent(name="w", model=ScriptedModel([calls, [assistant_message("done")]]), tools=[work])
        result = await engine.run(lambda step: DurableRunner.run(agent, "go", step=step, run_config=QUIET))

    assert result.final_output == "done"
    assert executed == {"a": 2, "b": 2}
    assert engine.answers[0] == [("StepError", "w/1.1 work")]


async def test_what_a_failed_attempt_was_billed_hangs_nothing_where_only_the_answer_to_its_save_was_lost() -> None:
    async with Api(None, forever=raw(b"", saves=True)) as api:
        engine = Engine(api)
        helper: Agent[Any] = Agent(name="helper", model=Billing([[assistant_message("hm")]]))

        @function_tool
        async def ask() -> str:
            await Runner.run(helper, "q", run_config=QUIET)
            raise inngest.NonRetriableError("never")

        script: Any = [[function_call("ask", {}, call_id="c")], [assistant_message("done")]]
        agent = Agent(name="w", model=ScriptedModel(script), tools=[ask])
        result = await engine.run(lambda step: DurableRunner.run(agent, "go", step=step, run_config=QUIET))

    assert engine.answers[0] == [
        ("StepRun", "w/1.1 ask failed attempt 1"),
        ("StepFailed", "w/1.1 ask"),
        ("StepPlanned", "join"),
    ]
    assert result.stats.by_agent["helper"].total_tokens == 100


async def test_a_tool_that_cancels_itself_has_failed_and_hangs_nothing() -> None:
    @function_tool
    async def work() -> str:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(10)
        return "never"

    def agent() -> Agent[Any]:
        script: Any = [[function_call("work", {}, call_id="c")], [assistant_message("done")]]
        return Agent(name="w", model=ScriptedModel(script), tools=[work])

    one, two = agent(), agent()
    plain = await Runner.run(one, "go", run_config=QUIET)
    async with Api() as api:
        engine = Engine(api, max_attempts=1)
        durable = await engine.run(lambda step: DurableRunner.run(two, "go", step=step, run_config=QUIET))

    outputs = [[x.output for x in result.new_items if isinstance(x, ToolCallOutputItem)] for result in (plain, durable)]
    assert outputs[0] == outputs[1]
    assert "An error occurred" in outputs[0][0]


@pytest.mark.parametrize("trouble", [None, answer(500)], ids=["saved", "answered together"])
async def test_middleware_sees_each_step_whether_it_is_saved_or_answered_beside_others(trouble: Trouble | None) -> None:
    seen: list[str] = []

    class Observer(inngest.MiddlewareSync):
        def transform_output(self, result: inngest.TransformOutputResult) -> None:
            assert result.step is not None
            seen.append(result.step.id)

    async with Api(None, forever=trouble) as api:
        engine, work = Engine(api), Work(api)
        engine.client = inngest.Inngest(
            app_id="faults", is_production=False, api_base_url=api.url, middleware=[Observer]
        )
        assert await engine.run(work) == "done"
        alone = [name for answer in engine.answers if len(answer) == 1 for _, name in answer]  # the SDK shows these

    # A step that could not be saved was shown before that was tried, too.
    assert {*seen, *alone} - {"join"} == set(STEPS)
    together = [name for answer in engine.answers if len(answer) > 1 for op, name in answer if op == "StepRun"]
    assert [seen.count(name) for name in together] == [2] * len(together)
    assert bool(together) is (trouble is not None)


# Order and time ------------------------------------------------------------------------------------------------


async def test_past_its_time_a_request_ends_with_the_next_step() -> None:
    async with Api() as api:
        engine, work = Engine(api), Work(api)
        work.seconds["a"] = 0.05
        assert await engine.run(lambda step: work(step, max_runtime=0.0)) == "done"
        assert_once(api, engine, work)
        # All are saved; of the parallel tools the first ends no request, as the other still runs.
        assert engine.answers == [[("DiscoveryRequest", "")]] * 6
        assert sorted(api.saved) == STEPS


@pytest.mark.parametrize(("attempt", "max_runtime"), [(1, 50.0), (0, 0.0)], ids=["a retry", "past its time"])
async def test_a_request_that_ends_with_its_step_reports_nothing_of_a_lost_run(
    attempt: int, max_runtime: float
) -> None:
    """Answered with the step, the engine would go on from here, and the owner of the run beside it."""
    async with Api(answer(409)) as api:
        engine, work = Engine(api), Work(api)
        engine.attempt = attempt
        assert await engine.run(lambda step: work(step, max_runtime=max_runtime)) is None
        assert [op for [(op, _)] in engine.answers] == ["None"]
        assert work.executed == []


async def test_past_its_time_what_can_not_be_saved_is_answered() -> None:
    async with Api(forever=answer(413)) as api:
        engine, work = Engine(api), Work(api)
        assert await engine.run(lambda step: work(step, max_runtime=0.0)) == "done"
        assert_once(api, engine, work)


async def test_past_its_time_a_request_ends_though_nested_agents_run_in_turns() -> None:
    """While one of them has a step under way, the other must not start its next, or the request would not end."""
    saved: list[int] = []
    async with Api() as api:

        @function_tool
        async def work(name: str) -> str:
            await asyncio.sleep(0.02 if name == "a" else 0.03)
            return name

        def nested(name: str) -> Any:
            turns: Any = [[function_call("work", {"name": name}, call_id=f"{name}{turn}")] for turn in range(4)]
            model = ScriptedModel([*turns, [assistant_message(name)]])
            return Agent(name=name, model=model, tools=[work]).as_tool(name, "helps")

        calls: Any = [function_call(name, {"input": "go"}, call_id=name) for name in "ab"]
        boss = Agent(
            name="boss", model=ScriptedModel([calls, [assistant_message("done")]]), tools=[nested("a"), nested("b")]
        )
        engine = Engine(api)

        async def handler(step: Any) -> Any:
            saved.append(len(api.saved))
            options = DurableOptions(max_runtime=0.0)
            return await DurableRunner.run(boss, "go", step=step, run_config=QUIET, options=options)

        result = await engine.run(handler)
        saved.append(len(api.saved))

    assert result.final_output == "done"
    # In each request at most the two that start together.
    assert max(after - before for before, after in itertools.pairwise(saved)) == 2


async def test_a_tool_starts_only_when_the_response_that_ordered_it_is_saved() -> None:
    async with Api(forever=late(0.03)) as api:
        engine, work = Engine(api), Work(api)
        assert await engine.run(work) == "done"
        log = api.log
        assert log.index("saved w/1 model w") < min(log.index("start a"), log.index("start b"))
        assert max(log.index("saved w/1.1 work"), log.index("saved w/1.2 work")) < log.index("start c")
        assert log.index("saved w/2 model w") < log.index("start c")


async def test_the_next_model_call_overlaps_with_the_save_of_the_tools_result() -> None:
    async with Api(None, late(0.05), late(0.05)) as api:
        engine, work = Engine(api), Work(api)
        assert await engine.run(work) == "done"
        second = [place for place, event in enumerate(api.log) if event == "start model"][1]
        assert second < api.log.index("saved w/1.2 work")


async def test_steps_that_wait_for_a_save_go_out_as_one_over_one_connection() -> None:
    async with Api(forever=late(0.05)) as api:
        engine, work = Engine(api), Work(api)
        work.seconds.update(a=0.0, b=0.01)
        assert await engine.run(work) == "done"
        # While tool a is saved, tool b and the model's second response end.
        assert api.saves[:3] == [["w/1 model w"], ["w/1.1 work"], ["w/1.2 work", "w/2 model w"]]
        assert api.connections == 1
