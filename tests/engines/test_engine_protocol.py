"""What plain Inngest functions may rely on, on every engine."""

from __future__ import annotations

import asyncio
import datetime
import threading
import time
from typing import TYPE_CHECKING, Any

import httpx
import inngest

if TYPE_CHECKING:
    from .harness import EngineUnderTest

GO = inngest.TriggerEvent(event="go")


class Calls:
    """Counts what ran, from any thread."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._lock = threading.Lock()

    def step(self, name: str, value: Any = None) -> Any:
        """A step's handler that notes its call and returns a value."""

        async def handler() -> Any:
            self.note(name)
            return value

        return handler

    def note(self, name: str) -> int:
        with self._lock:
            self.names.append(name)
            return self.names.count(name)

    def count(self, name: str) -> int:
        return self.names.count(name)


def test_steps_run_once_and_results_come_back(engine: EngineUnderTest) -> None:
    calls = Calls()

    @engine.client.create_function(fn_id="fn", trigger=GO)
    async def fn(ctx: inngest.Context) -> Any:
        calls.note("function")
        first = await ctx.step.run("first", calls.step("first", {"n": ctx.event.data["n"]}))
        second = await ctx.step.run("second", calls.step("second", [first, None, "ü☃"]))
        return {"second": second}

    engine.serve([fn])
    run_id = engine.send("go", {"n": 1})
    outcome = engine.wait(run_id)
    assert outcome.status == "Completed"
    assert outcome.output == {"second": [{"n": 1}, None, "ü☃"]}
    assert calls.names == ["function", "first", "function", "second", "function"]
    # By name and with patience: a busy server tells of a step's end late, and has told of two in the other order.
    ended = [("first", "COMPLETED"), ("second", "COMPLETED")]
    until(lambda: sorted((step.name, step.status) for step in engine.steps(run_id)) == ended)


def test_a_sync_function_runs(engine: EngineUnderTest) -> None:
    @engine.client.create_function(fn_id="fn", trigger=GO)
    def fn(ctx: inngest.ContextSync) -> Any:
        return ctx.step.run("one", lambda: 1)

    engine.serve([fn])
    assert engine.run("go").output == 1


def test_parallel_steps_overlap_and_join(engine: EngineUnderTest) -> None:
    calls = Calls()
    running: list[float] = []

    def slow(name: str) -> Any:
        async def handler() -> str:
            calls.note(name)
            start = time.monotonic()
            await asyncio.sleep(0.3)
            running.append(time.monotonic() - start)
            return name

        return handler

    @engine.client.create_function(fn_id="fn", trigger=GO)
    async def fn(ctx: inngest.Context) -> Any:
        started = time.monotonic()
        calls.note("function")
        both = await ctx.group.parallel((lambda: ctx.step.run("a", slow("a")), lambda: ctx.step.run("b", slow("b"))))
        return [*both, await ctx.step.run("after", calls.step("after", "after")), started > 0]

    engine.serve([fn])
    start = time.monotonic()
    outcome = engine.run("go")
    took = time.monotonic() - start
    assert outcome.output == ["a", "b", "after", True]
    assert calls.count("a") == calls.count("b") == calls.count("after") == 1
    # Discovery, two targeted requests, one request after both, and the end; not one per step that ended.
    assert calls.count("function") <= 6
    if engine.name == "embedded":
        assert took < 0.6, "the steps did not overlap"


def test_a_failing_step_is_retried_and_its_final_error_can_be_caught(engine: EngineUnderTest) -> None:
    calls = Calls()

    @engine.client.create_function(fn_id="fn", trigger=GO, retries=1)
    async def fn(ctx: inngest.Context) -> Any:
        async def flaky() -> str:
            if calls.note("flaky") == 1:
                raise ValueError("not yet")
            return "at last"

        async def broken() -> None:
            calls.note("broken")
            raise KeyError("gone")

        flaky_result = await ctx.step.run("flaky", flaky)
        try:
            await ctx.step.run("broken", broken)
        except inngest.StepError as error:
            return [flaky_result, error.name, str(error.message)]

    engine.serve([fn])
    outcome = engine.run("go")
    assert outcome.output == ["at last", "KeyError", "'gone'"]
    assert (calls.count("flaky"), calls.count("broken")) == (2, 2)


def test_an_error_of_the_function_is_retried_then_fails_the_run(engine: EngineUnderTest) -> None:
    attempts: list[int] = []

    @engine.client.create_function(fn_id="fn", trigger=GO, retries=1)
    async def fn(ctx: inngest.Context) -> None:
        attempts.append(ctx.attempt)
        raise ValueError("no way")

    engine.serve([fn])
    outcome = engine.run("go")
    assert outcome.status == "Failed"
    assert outcome.output["name"] == "ValueError"
    assert outcome.output["message"] == "no way"
    assert attempts == [0, 1]


def test_a_non_retriable_error_fails_the_run_at_once(engine: EngineUnderTest) -> None:
    attempts: list[int] = []

    @engine.client.create_function(fn_id="fn", trigger=GO, retries=3)
    async def fn(ctx: inngest.Context) -> None:
        attempts.append(ctx.attempt)
        raise inngest.NonRetriableError("never")

    engine.serve([fn])
    outcome = engine.run("go")
    assert outcome.status == "Failed"
    assert outcome.output["message"] == "never"
    assert attempts == [0]


def test_retry_after_decides_when_to_retry(engine: EngineUnderTest) -> None:
    times: list[float] = []

    @engine.client.create_function(fn_id="fn", trigger=GO, retries=1)
    async def fn(ctx: inngest.Context) -> str:
        times.append(time.monotonic())
        if ctx.attempt == 0:
            raise inngest.RetryAfterError("later", 1100)
        return "done"

    engine.serve([fn])
    assert engine.run("go").output == "done"
    assert 0.8 < times[1] - times[0] < 4


def test_sleep_wakes_after_its_time(engine: EngineUnderTest) -> None:
    @engine.client.create_function(fn_id="fn", trigger=GO)
    async def fn(ctx: inngest.Context) -> Any:
        await ctx.step.sleep("nap", datetime.timedelta(milliseconds=700))
        return ["slept", await ctx.step.run("after", Calls().step("after", 1))]

    engine.serve([fn])
    start = time.monotonic()
    assert engine.run("go").output == ["slept", 1]
    assert time.monotonic() - start >= 0.5


def test_wait_for_event_takes_the_event_that_matches(engine: EngineUnderTest) -> None:
    @engine.client.create_function(fn_id="fn", trigger=GO)
    async def fn(ctx: inngest.Context) -> Any:
        event = await ctx.step.wait_for_event(
            "approval", event="approve", if_exp="async.data.id == event.data.id", timeout=datetime.timedelta(minutes=1)
        )
        return None if event is None else [event.name, event.data["by"]]

    engine.serve([fn])
    run_id = engine.send("go", {"id": "x"})
    until(lambda: any(step.name == "approval" for step in engine.steps(run_id)))
    time.sleep(0.3 if engine.name == "server" else 0)
    engine.send_event("approve", {"id": "other", "by": "eve"})
    engine.send_event("approve", {"id": "x", "by": "ann"})
    assert engine.wait(run_id).output == ["approve", "ann"]


def test_parallel_functions_go_on_after_sleeps_that_end_at_about_the_same_time(engine: EngineUnderTest) -> None:
    calls = Calls()

    @engine.client.create_function(fn_id="fn", trigger=GO, retries=0)
    async def fn(ctx: inngest.Context) -> Any:
        async def nap_and_work(name: str) -> Any:
            await ctx.step.sleep(f"nap {name}", datetime.timedelta(milliseconds=100))
            return await ctx.step.run(f"work {name}", calls.step(name, name))

        return list(await ctx.group.parallel((lambda: nap_and_work("a"), lambda: nap_and_work("b"))))

    engine.serve([fn])
    for _ in range(3):
        assert engine.run("go").output == ["a", "b"]
    assert sorted(calls.names) == ["a", "a", "a", "b", "b", "b"]


def test_wait_for_event_times_out_with_none(engine: EngineUnderTest) -> None:
    @engine.client.create_function(fn_id="fn", trigger=GO)
    async def fn(ctx: inngest.Context) -> Any:
        return [await ctx.step.wait_for_event("w", event="never", timeout=datetime.timedelta(seconds=1))]

    engine.serve([fn])
    assert engine.run("go").output == [None]


def test_invoke_returns_the_result_or_raises_the_error(engine: EngineUnderTest) -> None:
    @engine.client.create_function(fn_id="double", trigger=inngest.TriggerEvent(event="unused"), retries=0)
    async def double(ctx: inngest.Context) -> Any:
        n: Any = ctx.event.data["n"]
        if n < 0:
            raise ValueError("negative")
        return n * 2

    @engine.client.create_function(fn_id="fn", trigger=GO)
    async def fn(ctx: inngest.Context) -> Any:
        four = await ctx.step.invoke("call", function=double, data={"n": 2})
        try:
            await ctx.step.invoke("bad", function=double, data={"n": -1})
        except inngest.StepError as error:
            return [four, error.name, error.message]

    engine.serve([double, fn])
    assert engine.run("go").output == [4, "ValueError", "negative"]


def test_invoking_an_unknown_function_fails_the_step(engine: EngineUnderTest) -> None:
    @engine.client.create_function(fn_id="fn", trigger=GO)
    async def fn(ctx: inngest.Context) -> Any:
        try:
            await ctx.step.invoke_by_id("call", function_id="nobody")
        except inngest.StepError as error:
            return error.message

    engine.serve([fn])
    assert "could not find function" in engine.run("go").output


def test_on_failure_gets_the_event_and_the_error(engine: EngineUnderTest) -> None:
    failures: list[Any] = []

    async def on_failure(ctx: inngest.Context) -> None:
        failures.append(ctx.event.data)

    @engine.client.create_function(fn_id="fn", trigger=GO, retries=0, on_failure=on_failure)
    async def fn(ctx: inngest.Context) -> None:
        raise ValueError("broken")

    engine.serve([fn])
    assert engine.run("go", {"n": 7}).status == "Failed"
    until(lambda: failures)
    assert failures[0]["error"]["message"] == "broken"
    assert failures[0]["event"]["data"] == {"n": 7}
    assert failures[0]["function_id"] == "test-fn"


def test_a_step_can_send_events(engine: EngineUnderTest) -> None:
    got: list[Any] = []

    @engine.client.create_function(fn_id="listener", trigger=inngest.TriggerEvent(event="said"))
    async def listener(ctx: inngest.Context) -> None:
        got.append(ctx.event.data)

    @engine.client.create_function(fn_id="fn", trigger=GO)
    async def fn(ctx: inngest.Context) -> int:
        ids = await ctx.step.send_event("say", [inngest.Event(name="said", data={"n": 1})])
        return len(ids)

    engine.serve([fn, listener])
    assert engine.run("go").output == 1
    until(lambda: got)
    assert got == [{"n": 1}]


def test_a_trigger_expression_filters_events(engine: EngineUnderTest) -> None:
    seen: list[Any] = []

    @engine.client.create_function(fn_id="fn", trigger=inngest.TriggerEvent(event="go", expression="event.data.n > 1"))
    async def fn(ctx: inngest.Context) -> None:
        seen.append(ctx.event.data["n"])

    engine.serve([fn])
    engine.send_event("go", {"n": 1})
    engine.run("go", {"n": 2})
    assert seen == [2]


def test_cancel_on_ends_the_run(engine: EngineUnderTest) -> None:
    @engine.client.create_function(
        fn_id="fn", trigger=GO, cancel=[inngest.Cancel(event="stop", if_exp="async.data.id == event.data.id")]
    )
    async def fn(ctx: inngest.Context) -> None:
        await ctx.step.sleep("long", datetime.timedelta(minutes=5))

    engine.serve([fn])
    run_id = engine.send("go", {"id": 1})
    until(lambda: engine.steps(run_id))
    engine.send_event("stop", {"id": 2})
    time.sleep(0.05)
    assert engine.status(run_id) is None
    engine.send_event("stop", {"id": 1})
    assert engine.wait(run_id).status == "Cancelled"


def test_a_worker_that_is_down_is_called_again(engine: EngineUnderTest) -> None:
    @engine.client.create_function(fn_id="fn", trigger=GO, retries=10)
    async def fn(ctx: inngest.Context) -> str:
        return "up"

    engine.serve([fn])
    engine.stop_worker()
    run_id = engine.send("go")
    time.sleep(0.1)
    assert engine.status(run_id) is None
    engine.start_worker()
    assert engine.wait(run_id).output == "up"


def test_a_checkpointed_step_is_memoized_while_the_request_is_open(engine: EngineUnderTest) -> None:
    answers: list[int] = []
    calls = Calls()

    @engine.client.create_function(fn_id="fn", trigger=GO, retries=0)
    async def fn(ctx: inngest.Context) -> Any:
        request = await raw_body(ctx)
        if not request["steps"]:
            answers.append(await checkpoint(engine, request, [step_run("by-hand", {"v": 1})]))
            await ctx.step.run("next", calls.step("next", 2))
        return [
            await ctx.step.run("by-hand", calls.step("by-hand", "wrong")),
            await ctx.step.run("next", calls.step("next", 2)),
        ]

    engine.serve([fn])
    run_id = engine.send("go")
    assert engine.wait(run_id).output == [{"v": 1}, 2]
    assert answers == [200]
    assert calls.names == ["next"]
    assert [step.name for step in engine.steps(run_id)] == ["by-hand", "next"]


def test_a_checkpoint_does_not_give_the_open_request_new_attempts(engine: EngineUnderTest) -> None:
    """The stored attempt is reset, but a request that is answered goes on from the attempt it was sent with."""
    attempts: list[int] = []

    @engine.client.create_function(fn_id="fn", trigger=GO, retries=2)
    async def fn(ctx: inngest.Context) -> Any:
        request = await raw_body(ctx)
        attempts.append(ctx.attempt)
        await checkpoint(engine, request, [step_run(f"saved-{ctx.attempt}", 1)])

        async def broken() -> None:
            raise ValueError("broken")

        try:
            await ctx.step.run("broken", broken)
        except inngest.StepError as error:
            return error.message

    engine.serve([fn])
    assert engine.run("go").output == "broken"
    assert attempts == [0, 1, 2, 0]


def test_a_step_that_ends_in_an_answer_starts_the_count_of_attempts_anew(engine: EngineUnderTest) -> None:
    attempts: dict[str, list[int]] = {"one": [], "two": []}

    @engine.client.create_function(fn_id="fn", trigger=GO, retries=1)
    async def fn(ctx: inngest.Context) -> Any:
        def flaky(name: str) -> Any:
            async def handler() -> str:
                attempts[name].append(ctx.attempt)
                if len(attempts[name]) == 1:
                    raise ValueError("not yet")
                return name

            return handler

        return [await ctx.step.run("one", flaky("one")), await ctx.step.run("two", flaky("two"))]

    engine.serve([fn])
    assert engine.run("go").output == ["one", "two"]
    assert attempts == {"one": [0, 1], "two": [0, 1]}


def test_checkpoints_that_are_stale_or_wrong_are_refused(engine: EngineUnderTest) -> None:
    answers: dict[str, int] = {}

    @engine.client.create_function(fn_id="fn", trigger=GO, retries=0)
    async def fn(ctx: inngest.Context) -> Any:
        request = await raw_body(ctx)
        if not request["steps"]:
            early = {"request_started_at": 1}  # the real server does not look at dispatches younger than 10 s
            big = "x" * (4 * 1024 * 1024 + 1)
            stale = {"generation_id": 99, **early}
            answers["other generation"] = await checkpoint(engine, request, [step_run("a", 1)], **stale)
            answers["no step, other generation"] = await checkpoint(engine, request, [], **stale)
            answers["no step"] = await checkpoint(engine, request, [])
            answers["too large"] = await checkpoint(engine, request, [step_run("a", big)])
            answers["not a finished step"] = await checkpoint(
                engine, request, [step_run("a", None) | {"op": "Sleep", "opts": {"duration": "1s"}}]
            )
            answers["no such run"] = await checkpoint(
                engine, request, [step_run("a", 1)], run_id="01ARZ3NDEKTSV4RRFFQ69G5FAV"
            )
            answers["good"] = await checkpoint(engine, request, [step_run("a", 1)])
            answers["again"] = await checkpoint(engine, request, [step_run("a", 2)])
        return await ctx.step.run("a", Calls().step("a", "wrong"))

    engine.serve([fn])
    # The SDK has no memo of "a" yet and runs it; the memo that was saved first stays.
    assert engine.run("go").output == 1
    gone = answers.pop("no such run")
    assert gone in (400, 404)
    assert answers == {
        "other generation": 409,
        "no step, other generation": 409,
        "no step": 200,
        "too large": 413,
        "not a finished step": 400,
        "good": 200,
        "again": 200,
    }


def test_a_killed_worker_loses_only_the_step_it_was_in(engine: EngineUnderTest) -> None:
    log = engine.folder / "log"
    log.touch()
    worker = engine.spawn("killable.py:build", env={"LOG": str(log), "HANG": "60"})
    run_id = engine.send("go")
    until(lambda: "second" in log.read_text())
    worker.kill()
    engine.spawn("killable.py:build", env={"LOG": str(log)})
    assert engine.wait(run_id).output == ["first", "second"]
    assert log.read_text().split() == ["first", "second", "second"]


# Helpers ----------------------------------------------------------------------------------------------------


def until(condition: Any, timeout: float = 15) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


async def raw_body(ctx: inngest.Context) -> dict[str, Any]:
    """The Call Request as it came in, with what the SDK drops of it."""
    body: dict[str, Any] = await ctx.step._middleware._raw_request.json()  # type: ignore[attr-defined]
    return body


def step_run(name: str, data: Any, **more: Any) -> dict[str, Any]:
    """An opcode of a finished step."""
    import hashlib

    step_id = hashlib.sha1(name.encode()).hexdigest()
    return {"op": "StepRun", "id": step_id, "name": name, "displayName": name, "data": data} | more


async def checkpoint(engine: EngineUnderTest, request: dict[str, Any], steps: list[dict[str, Any]], **more: Any) -> int:
    """Save steps by the checkpoint endpoint; returns the status of the answer."""
    ctx = request["ctx"]
    body = {key: ctx[key] for key in ("run_id", "fn_id", "qi_id", "request_id", "generation_id")}
    body |= {"steps": steps, "ts": int(time.time() * 1000)} | more
    async with httpx.AsyncClient() as http:
        response = await http.post(f"{engine.url}/v1/checkpoint/{body['run_id']}/async", json=body)
    return response.status_code
