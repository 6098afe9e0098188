"""What only the embedded engine has or can show: its file, its clock, its limits, its keys."""

from __future__ import annotations

import asyncio
import datetime
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import httpx
import inngest
import pytest

from inngest_agents.local import Limits, LocalEngine, RunStatus, StepStatus
from inngest_agents.local.serve import ThreadedServer, functions_app

from .harness import free_port
from .test_engine_protocol import GO, Calls, checkpoint, raw_body, step_run, until

if TYPE_CHECKING:
    from pathlib import Path

    from .harness import EmbeddedEngine

KEY = "signkey-test-" + "0a" * 16
OTHER_KEY = "signkey-test-" + "0b" * 16


def make_client(engine: LocalEngine, **options: Any) -> inngest.Inngest:
    return engine.client("test", **options)


# The file -----------------------------------------------------------------------------------------------


def test_a_crashed_engine_goes_on_from_its_file(embedded: EmbeddedEngine) -> None:
    calls = Calls()
    hold, reached = threading.Event(), threading.Event()

    @embedded.client.create_function(fn_id="fn", trigger=GO)
    async def fn(ctx: inngest.Context) -> Any:
        async def second() -> str:
            if calls.note("second") == 1:
                reached.set()
                await asyncio.to_thread(hold.wait, 10)
            return "two"

        return [await ctx.step.run("first", calls.step("first", "one")), await ctx.step.run("second", second)]

    embedded.serve([fn])
    run_id = embedded.send("go")
    assert reached.wait(10)
    embedded.engine.crash()
    hold.set()
    embedded.engine.start()
    assert embedded.wait(run_id).output == ["one", "two"]
    # The answer of the request that the crash cut off is lost, so the second step ran twice; the first did not.
    assert (calls.count("first"), calls.count("second")) == (1, 2)
    assert [(r.generation, r.outcome) for r in embedded.engine.store.requests(run_id)][1] == (1, None)


def test_a_checkpoint_of_a_request_from_before_the_crash_is_refused(embedded: EmbeddedEngine) -> None:
    answers: list[int] = []
    hold, reached = threading.Event(), threading.Event()

    @embedded.client.create_function(fn_id="fn", trigger=GO)
    async def fn(ctx: inngest.Context) -> Any:
        request = await raw_body(ctx)
        if request["ctx"]["generation_id"] == 1:
            reached.set()
            await asyncio.to_thread(hold.wait, 10)
            answers.append(await checkpoint(embedded, request, [step_run("late", 1)]))
        return "done"

    embedded.serve([fn])
    run_id = embedded.send("go")
    assert reached.wait(10)
    embedded.engine.restart()
    until(lambda: len(embedded.engine.store.requests(run_id)) == 2)
    hold.set()
    until(lambda: answers)
    assert answers[0] in (404, 409)
    assert embedded.wait(run_id).output == "done"
    assert embedded.steps(run_id) == []


def test_a_crash_after_a_checkpoint_starts_the_attempts_anew(embedded: EmbeddedEngine) -> None:
    attempts: list[int] = []
    hold, reached = threading.Event(), threading.Event()

    @embedded.client.create_function(fn_id="fn", trigger=GO, retries=3)
    async def fn(ctx: inngest.Context) -> Any:
        attempts.append(ctx.attempt)
        if len(attempts) == 1:
            raise ValueError("once")
        if len(attempts) == 2:
            await checkpoint(embedded, await raw_body(ctx), [step_run("saved", 1)])
            reached.set()
            await asyncio.to_thread(hold.wait, 10)
        return "done"

    embedded.serve([fn])
    run_id = embedded.send("go")
    assert reached.wait(10)
    embedded.engine.restart()
    assert embedded.wait(run_id).output == "done"
    hold.set()
    assert attempts == [0, 1, 0]


def test_two_engines_on_one_file_share_the_work_and_run_no_step_twice(tmp_path: Path) -> None:
    calls = Calls()
    with LocalEngine(path=tmp_path / "s.db") as one, LocalEngine(path=tmp_path / "s.db") as two:
        client = make_client(one)

        @client.create_function(fn_id="fn", trigger=GO)
        async def fn(ctx: inngest.Context) -> Any:
            n: Any = ctx.event.data["n"]
            first = await ctx.step.run("a", calls.step(f"a{n}", n))
            return await ctx.step.run("b", calls.step(f"b{n}", first))

        one.serve(client, [fn])
        runs = [engine.send("go", {"n": n}) for n in range(20) for engine in ((one, two)[n % 2],)]
        assert [one.wait(run).output for run in runs] == list(range(20))
    assert sorted(calls.names) == sorted(f"{step}{n}" for step in "ab" for n in range(20))


def test_a_dead_process_loses_its_jobs_to_a_living_one(tmp_path: Path) -> None:
    """The process that started the run is killed while its request is open."""
    with LocalEngine(path=tmp_path / "s.db") as engine:
        client = make_client(engine)
        calls = Calls()
        reached = threading.Event()

        @client.create_function(fn_id="fn", trigger=GO)
        async def fn(ctx: inngest.Context) -> str:
            if calls.note("fn") == 1:
                reached.set()
                await asyncio.sleep(30)
            return "done"

        engine.serve(client, [fn])
        script = (
            "import sys, time; from inngest_agents.local import LocalEngine\n"
            "e = LocalEngine(path=sys.argv[1]).start(); print(e.send('go'), flush=True); time.sleep(60)"
        )
        # The living engine must not take the job before the other one has: it sleeps through the event, since
        # nobody wakes it, and the killed one starts its run at once.
        command = [sys.executable, "-c", script, str(tmp_path / "s.db")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        run_id = process.stdout.readline().strip()
        assert reached.wait(10)
        process.kill()
        process.wait()
        assert engine.wait(run_id, 10).output == "done"
    assert calls.count("fn") == 2


# The clock --------------------------------------------------------------------------------------------


def test_fast_forward_skips_sleeps_and_timeouts(embedded: EmbeddedEngine) -> None:
    @embedded.client.create_function(fn_id="fn", trigger=GO)
    async def fn(ctx: inngest.Context) -> Any:
        await ctx.step.sleep("day", datetime.timedelta(days=1))
        await ctx.step.sleep("week", datetime.timedelta(days=7))
        return [await ctx.step.wait_for_event("w", event="never", timeout=datetime.timedelta(hours=1))]

    embedded.serve([fn])
    engine = embedded.engine
    run_id = engine.send("go")
    assert engine.fast_forward() == pytest.approx(86_400, abs=5)
    assert engine.fast_forward() == pytest.approx(7 * 86_400, abs=5)
    assert engine.fast_forward() == pytest.approx(3600, abs=5)
    assert engine.wait(run_id).output == [None]
    assert [step.status for step in engine.steps(run_id)][1:] == [StepStatus.COMPLETED, StepStatus.TIMED_OUT]
    with pytest.raises(LookupError, match="nothing is to fall due"):
        engine.fast_forward()


def test_time_scale_makes_time_fly(tmp_path: Path) -> None:
    with LocalEngine(time_scale=1000) as engine:
        client = make_client(engine)

        @client.create_function(fn_id="fn", trigger=GO)
        async def fn(ctx: inngest.Context) -> str:
            return str(await ctx.step.wait_for_event("w", event="never", timeout=datetime.timedelta(minutes=1)))

        engine.serve(client, [fn])
        start = time.monotonic()
        assert engine.run("go").output == "None"
        assert time.monotonic() - start < 5


def test_wait_says_what_a_run_that_hangs_is_doing(embedded: EmbeddedEngine) -> None:
    @embedded.client.create_function(fn_id="fn", trigger=GO)
    async def fn(ctx: inngest.Context) -> None:
        await ctx.step.sleep("a long nap", datetime.timedelta(days=1))

    embedded.serve([fn])
    run_id = embedded.send("go")
    until(lambda: embedded.steps(run_id))
    with pytest.raises(TimeoutError, match="a long nap sleeping"):
        embedded.engine.wait(run_id, 0.01)
    with pytest.raises(LookupError, match="no run"):
        embedded.engine.wait("nonsense")
    with pytest.raises(LookupError, match="started no run; registered functions: test-fn"):
        embedded.engine.send("nobody listens")


# How apps are reached ---------------------------------------------------------------------------------


def test_an_asgi_app_is_called_in_process() -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    client = inngest.Inngest(app_id="test", is_production=False, api_base_url=url, event_api_base_url=url)
    threads: set[str] = set()

    @client.create_function(fn_id="fn", trigger=GO)
    async def fn(ctx: inngest.Context) -> Any:
        threads.add(threading.current_thread().name)
        return await ctx.step.run("one", Calls().step("one", 1))

    with LocalEngine(functions_app(client, [fn]), port=port) as engine:
        assert engine.run("go").output == 1
    assert threads == {"inngest-agents-local"}


async def test_the_engine_is_an_async_context_manager() -> None:
    async with LocalEngine() as engine:
        client = make_client(engine)

        @client.create_function(fn_id="fn", trigger=GO)
        async def fn(ctx: inngest.Context) -> int:
            return 1

        await asyncio.to_thread(engine.serve, client, [fn])
        assert (await engine.run_async("go")).output == 1


@pytest.mark.parametrize("app_key", [KEY, OTHER_KEY])
def test_with_signing_keys_both_sides_prove_themselves(app_key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with LocalEngine(signing_key=KEY, signing_key_fallback=OTHER_KEY, backoff=0.01) as engine:
        client = engine.client("test", signing_key=app_key)

        @client.create_function(fn_id="fn", trigger=GO)
        async def fn(ctx: inngest.Context) -> Any:
            return await ctx.step.run("ü", Calls().step("one", 1.0))

        engine.serve(client, [fn])
        assert engine.run("go").output == 1.0
        assert httpx.get(f"{engine.url}/v1/runs/x").status_code == 401
        assert httpx.post(f"{engine.url}/v1/checkpoint/x/async", json={}).status_code == 401


def test_an_app_with_another_key_can_not_register() -> None:
    with LocalEngine(signing_key=KEY) as engine:
        client = engine.client("test", signing_key=OTHER_KEY)

        @client.create_function(fn_id="fn", trigger=GO)
        async def fn(ctx: inngest.Context) -> None: ...

        with pytest.raises(RuntimeError, match="Unauthorized"):
            engine.serve(client, [fn])


def test_events_are_only_taken_under_a_known_key() -> None:
    with LocalEngine(event_keys=["secret"]) as engine:
        event = {"name": "go", "data": {}}
        assert httpx.post(f"{engine.url}/e/other", json=event).status_code == 401
        assert httpx.post(f"{engine.url}/e/secret", json=event).json()["status"] == 200


def test_a_streamed_answer_is_understood(embedded: EmbeddedEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INNGEST_STREAMING", "force")

    @embedded.client.create_function(fn_id="fn", trigger=GO)
    async def fn(ctx: inngest.Context) -> Any:
        return await ctx.step.run("one", Calls().step("one", 1))

    embedded.serve([fn])
    assert embedded.run("go").output == 1


def test_what_answers_and_is_no_sdk_is_an_error(embedded: EmbeddedEngine) -> None:
    async def teapot(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 418, "headers": []})
        await send({"type": "http.response.body", "body": b"short and stout"})

    @embedded.client.create_function(fn_id="fn", trigger=GO, retries=0)
    async def fn(ctx: inngest.Context) -> None: ...

    url = embedded.serve([fn])
    embedded.stop_worker()
    imposter = ThreadedServer(teapot, port=int(url.split(":")[2].split("/")[0]))
    imposter.start()
    try:
        outcome = embedded.run("go")
    finally:
        imposter.stop(force=True)
    assert outcome.status == "Failed"
    assert "HTTP 418 before the SDK responded" in outcome.output["message"]


# Limits -------------------------------------------------------------------------------------------------


def test_large_states_are_fetched_by_the_app(tmp_path: Path) -> None:
    seen: list[bool] = []
    with LocalEngine(limits=Limits(max_request=4000)) as engine:
        client = make_client(engine)

        @client.create_function(fn_id="fn", trigger=GO)
        async def fn(ctx: inngest.Context) -> Any:
            request = await raw_body(ctx)
            seen.append(request["ctx"]["use_api"])
            assert request["use_api"] is request["ctx"]["use_api"]
            big = await ctx.step.run("big", Calls().step("big", "x" * 5000))
            return [len(big), await ctx.step.run("small", Calls().step("small", 1)), ctx.event.data["n"]]

        engine.serve(client, [fn])
        assert engine.run("go", {"n": 3}).output == [5000, 1, 3]
    assert seen == [False, True, True]


def test_a_run_with_too_much_state_fails(tmp_path: Path) -> None:
    with LocalEngine(limits=Limits(max_state=1000)) as engine:
        client = make_client(engine)

        @client.create_function(fn_id="fn", trigger=GO)
        async def fn(ctx: inngest.Context) -> Any:
            return await ctx.step.run("big", Calls().step("big", "x" * 2000))

        engine.serve(client, [fn])
        run = engine.run("go")
    assert run.status is RunStatus.FAILED
    assert run.error is not None
    assert run.error["name"] == "InngestErrStateOverflowed"


def test_a_run_with_too_many_steps_fails(tmp_path: Path) -> None:
    with LocalEngine(limits=Limits(max_steps=3)) as engine:
        client = make_client(engine)

        @client.create_function(fn_id="fn", trigger=GO)
        async def fn(ctx: inngest.Context) -> None:
            for n in range(5):
                await ctx.step.run(f"step {n}", Calls().step("x"))

        engine.serve(client, [fn])
        run = engine.run("go")
        assert run.error is not None
        assert run.error["name"] == "InngestErrFunctionOverflowed"
        assert run.step_count == 3


def test_concurrency_limits_steps_per_key(embedded: EmbeddedEngine) -> None:
    running: dict[Any, int] = {}
    most: dict[Any, int] = {}

    @embedded.client.create_function(
        fn_id="fn", trigger=GO, concurrency=[inngest.Concurrency(limit=2, key="event.data.group")]
    )
    async def fn(ctx: inngest.Context) -> None:
        group = ctx.event.data["group"]
        running[group] = running.get(group, 0) + 1
        most[group] = max(most.get(group, 0), running[group])
        await asyncio.sleep(0.03)
        running[group] -= 1

    embedded.serve([fn])
    runs = [embedded.send("go", {"group": n % 2}) for n in range(10)]
    for run in runs:
        assert embedded.wait(run).status == "Completed"
    assert most == {0: 2, 1: 2}


def test_idempotency_and_event_ids_start_a_run_once(embedded: EmbeddedEngine) -> None:
    @embedded.client.create_function(fn_id="keyed", trigger=GO, idempotency="event.data.order")
    async def keyed(ctx: inngest.Context) -> None: ...

    @embedded.client.create_function(fn_id="plain", trigger=inngest.TriggerEvent(event="other"))
    async def plain(ctx: inngest.Context) -> None: ...

    embedded.serve([keyed, plain])
    sent = [embedded.send_event("go", {"order": order}) for order in (1, 1, 2)]
    assert [len(embedded.event_runs(event)) for event in sent] == [1, 0, 1]
    sent = [embedded.send_event("other", id=id_) for id_ in ("a", "a", "b", "", "")]
    assert [len(embedded.event_runs(event)) for event in sent] == [1, 0, 1, 1, 1]


def test_what_is_not_supported_is_refused_by_name(embedded: EmbeddedEngine, caplog: pytest.LogCaptureFixture) -> None:
    @embedded.client.create_function(
        fn_id="debounced", trigger=GO, debounce=inngest.Debounce(period=datetime.timedelta(seconds=5))
    )
    async def debounced(ctx: inngest.Context) -> None: ...

    @embedded.client.create_function(fn_id="cron", trigger=[inngest.TriggerCron(cron="* * * * *"), GO])
    async def cron(ctx: inngest.Context) -> None: ...

    url = embedded.serve([debounced, cron])
    assert [f.id for f in embedded.engine.store.functions()] == ["test-cron"]
    left_out = "test-debounced is not registered: the embedded engine does not support debounce"
    cronless = "test-cron does not run at * * * * *: the embedded engine has no cron triggers"
    told = embedded.engine.register(url)
    assert [left_out in told[0], cronless in told[1], len(told)] == [True, True, 2]
    assert [caplog.text.count(left_out), caplog.text.count(cronless)] == [1, 1], "once, however often it registers"
    with pytest.raises(LookupError, match=left_out):
        embedded.send("nothing-listens")


def test_a_worker_that_wants_to_connect_is_told_that_it_can_not(
    embedded: EmbeddedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    response = httpx.post(f"{embedded.url}/v0/connect/start", content=b"")
    assert response.status_code == 501
    assert "the embedded engine has no Connect: serve the functions over HTTP" in response.json()["error"]
    assert "the embedded engine has no Connect" in caplog.text


# Opcodes in other mixtures ------------------------------------------------------------------------------


def test_parallel_branches_race_on_demand(embedded: EmbeddedEngine) -> None:
    calls = Calls()

    @embedded.client.create_function(fn_id="fn", trigger=GO)
    async def fn(ctx: inngest.Context) -> Any:
        async def slow() -> str:
            await asyncio.sleep(0.4)
            calls.note("slow")
            return "slow"

        async def quick_then_more() -> str:
            first: str = await ctx.step.run("quick", calls.step("quick", "quick"))
            second: str = await ctx.step.run("more", calls.step("more", "-more"))
            return first + second

        both = await ctx.group.parallel(
            (lambda: ctx.step.run("slow", slow), quick_then_more), parallel_mode=inngest.ParallelMode.RACE
        )
        return list(both)

    embedded.serve([fn])
    assert embedded.run("go").output == ["slow", "quick-more"]
    assert calls.names == ["quick", "more", "slow"], "`more` did not wait for `slow`"


def test_sleeps_waits_and_steps_in_parallel_join(embedded: EmbeddedEngine) -> None:
    @embedded.client.create_function(fn_id="fn", trigger=GO)
    async def fn(ctx: inngest.Context) -> Any:
        step, wait, _ = await ctx.group.parallel(
            (
                lambda: ctx.step.run("step", Calls().step("step", 1)),
                lambda: ctx.step.wait_for_event("wait", event="ok", timeout=datetime.timedelta(hours=1)),
                lambda: ctx.step.sleep("sleep", datetime.timedelta(hours=2)),
            )
        )
        return [step, wait.data["x"], await ctx.step.run("after", Calls().step("after", 2))]

    embedded.serve([fn])
    run_id = embedded.send("go")
    until(lambda: len(embedded.steps(run_id)) == 3)
    embedded.send_event("ok", {"x": "yes"})
    embedded.engine.fast_forward()
    assert embedded.wait(run_id).output == [1, "yes", 2]


def test_invocations_time_out(embedded: EmbeddedEngine) -> None:
    @embedded.client.create_function(fn_id="slow", trigger=inngest.TriggerEvent(event="unused"))
    async def slow(ctx: inngest.Context) -> None:
        await ctx.step.sleep("day", datetime.timedelta(days=1))

    @embedded.client.create_function(fn_id="fn", trigger=GO)
    async def fn(ctx: inngest.Context) -> Any:
        try:
            await ctx.step.invoke("call", function=slow, timeout=datetime.timedelta(minutes=1))
        except inngest.StepError as error:
            return error.name

    embedded.serve([fn, slow])
    run_id = embedded.send("go")
    until(lambda: len(embedded.engine.store.runs()) == 2)
    embedded.engine.fast_forward()
    assert embedded.wait(run_id).output == "InngestInvokeTimeoutError"


def test_a_wait_with_a_bad_expression_fails_the_run(embedded: EmbeddedEngine) -> None:
    @embedded.client.create_function(fn_id="fn", trigger=GO)
    async def fn(ctx: inngest.Context) -> None:
        await ctx.step.wait_for_event("w", event="e", if_exp="async.data. ==", timeout=datetime.timedelta(hours=1))

    embedded.serve([fn])
    assert embedded.run("go").output["name"] == "InvalidExpression"


def test_a_run_can_be_cancelled_by_hand(embedded: EmbeddedEngine) -> None:
    @embedded.client.create_function(fn_id="fn", trigger=GO)
    async def fn(ctx: inngest.Context) -> None:
        await ctx.step.sleep("day", datetime.timedelta(days=1))

    embedded.serve([fn])
    first, second = embedded.send("go"), embedded.send("go")
    until(lambda: embedded.steps(first) and embedded.steps(second))
    embedded.engine.cancel(first)
    assert httpx.delete(f"{embedded.url}/v1/runs/{second}").status_code == 204
    assert {embedded.wait(run).status for run in (first, second)} == {"Cancelled"}


# What is kept for the console -----------------------------------------------------------------------------


def test_steps_keep_their_timing_metadata_attempts_and_request(embedded: EmbeddedEngine) -> None:
    metadata = [{"scope": "step", "kind": "inngest.ai", "op": "merge", "values": {"total_tokens": 7}}]

    @embedded.client.create_function(fn_id="fn", trigger=GO, retries=1)
    async def fn(ctx: inngest.Context) -> Any:
        request = await raw_body(ctx)
        if not request["steps"]:
            saved = step_run("saved", 1, metadata=metadata, timing={"a": 1_700_000_000_000_000_000, "b": 5_000_000})
            await checkpoint(embedded, request, [saved])

        async def flaky() -> int:
            if ctx.attempt == 0:
                raise ValueError("once")
            return 2

        return await ctx.step.run("flaky", flaky)

    embedded.serve([fn])
    run_id = embedded.send("go")
    assert embedded.wait(run_id).output == 2
    saved, flaky = embedded.engine.steps(run_id)
    requests = embedded.engine.store.requests(run_id)
    assert (saved.name, saved.checkpointed, saved.data, saved.metadata) == ("saved", True, 1, metadata)
    assert (saved.started_ns, saved.ended_ns) == (1_700_000_000_000_000_000, 1_700_000_000_005_000_000)
    assert saved.request_id == requests[0].id
    assert (flaky.checkpointed, flaky.data, flaky.request_id) == (False, 2, requests[1].id)
    assert [(a.attempt, a.error["message"], a.will_retry) for a in flaky.attempts] == [(0, "once", True)]
    assert flaky.started_ns is not None
    assert flaky.ended_ns is not None
    assert requests[1].started_ns <= flaky.started_ns <= flaky.ended_ns
    assert [(r.attempt, r.generation, r.outcome) for r in requests] == [(0, 1, "ops"), (1, 2, "ops"), (0, 1, "result")]


def test_runs_and_steps_can_be_read_over_http(embedded: EmbeddedEngine) -> None:
    @embedded.client.create_function(fn_id="fn", trigger=GO)
    async def fn(ctx: inngest.Context) -> Any:
        return await ctx.step.run("one", Calls().step("one", 1))

    embedded.serve([fn])
    event_id = embedded.send_event("go")
    (run_id,) = embedded.event_runs(event_id)
    embedded.wait(run_id)

    def get(path: str) -> Any:
        return httpx.get(embedded.url + path).json()

    assert get(f"/v1/runs/{run_id}")["data"]["output"] == 1
    assert get(f"/v1/events/{event_id}/runs")["data"][0]["run_id"] == run_id
    assert get("/local/runs")["data"][0]["status"] == "Completed"
    assert get(f"/local/runs/{run_id}")["data"]["steps"][0]["memo"] == {"data": 1}
    assert get("/dev")["functions"][0]["slug"] == "test-fn"
    assert get("/health")["status"] == 200
    assert httpx.get(f"{embedded.url}/v0/runs/{run_id}/actions").status_code == 410
    assert httpx.get(f"{embedded.url}/v1/runs/unknown").status_code == 404


def test_the_pytest_fixture_serves_users(inngest_engine: LocalEngine) -> None:
    client = inngest.Inngest(app_id="users", is_production=False)

    @client.create_function(fn_id="fn", trigger=GO)
    async def fn(ctx: inngest.Context) -> Any:
        return ctx.event.data["x"]

    inngest_engine.serve(client, [fn])
    assert inngest_engine.run("go", {"x": 1}).output == 1
