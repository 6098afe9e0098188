"""What events are, when they start runs, and which ones the engine sends by itself."""

from __future__ import annotations

import datetime
import threading
import time
from typing import TYPE_CHECKING, Any

import httpx
import inngest
import pytest

from .test_engine_protocol import GO, until

if TYPE_CHECKING:
    from .harness import EngineUnderTest


def post(engine: EngineUnderTest, body: Any) -> httpx.Response:
    """Send events as a sender does that knows no SDK."""
    return httpx.post(f"{engine.url}/e/test", json=body, timeout=10)


def millis(seconds_from_now: float) -> int:
    return int((time.time() + seconds_from_now) * 1000)


class Heard:
    """The events that reached a function."""

    def __init__(self) -> None:
        self.events: list[inngest.Event] = []
        self._lock = threading.Lock()

    def add(self, event: inngest.Event) -> None:
        with self._lock:
            self.events.append(event)


def listener(engine: EngineUnderTest, heard: Heard, *names: str, **options: Any) -> inngest.Function[Any]:
    triggers: list[inngest.TriggerCron | inngest.TriggerEvent] = [inngest.TriggerEvent(event=name) for name in names]

    @engine.client.create_function(fn_id="listener", trigger=triggers, **options)
    async def listen(ctx: inngest.Context) -> None:
        heard.add(ctx.event)

    return listen


@pytest.mark.parametrize(
    "event",
    [
        {"data": {}},
        {"name": "", "data": {}},
        {"name": 7, "data": {}},
        {"name": "go", "data": [1]},
        {"name": "go", "data": "x"},
        {"name": "go", "data": {}, "ts": 1},
        {"name": "go", "data": {}, "ts": 5_000_000_000_000},
        {"name": "go", "data": {}, "ts": "yesterday"},
        {"name": "go", "data": {}, "ts": 1.5},
        {"name": "go", "data": {}, "user": "ann"},
        {"name": "go", "data": {}, "id": 7},
        {"name": "inngest/function.failed", "data": {}},
        {"name": "Inngest/Function.Failed", "data": {}},
        "go",
        7,
    ],
    ids=str,
)
def test_what_is_no_event_is_refused_and_starts_nothing(engine: EngineUnderTest, event: Any) -> None:
    heard = Heard()
    engine.serve([listener(engine, heard, "go")])
    response = post(engine, event)
    assert response.status_code == 400
    assert response.json()["error"]
    engine.run("go", {"n": 1})
    assert [event.data for event in heard.events] == [{"n": 1}]


def test_an_event_comes_as_it_was_sent(engine: EngineUnderTest) -> None:
    heard = Heard()
    engine.serve([listener(engine, heard, "go")])
    before = millis(0)
    full = {"name": "go", "data": {"n": [1, None, "ü"], "_inngest": {"fn_id": "x"}}, "id": "mine"}
    for event in ({"name": "go"}, full | {"ts": before - 5000}):
        answer = post(engine, event).json()
        assert answer["status"] == 200
        assert len(answer["ids"]) == 1
    until(lambda: len(heard.events) == 2)
    bare, whole = sorted(heard.events, key=lambda event: len(event.data))
    assert bare.data == {}
    assert bare.id
    assert before <= bare.ts <= millis(0)
    assert whole.data == {"n": [1, None, "ü"]}, "what only the engine may say is taken out"
    assert (whole.id, whole.ts) == ("mine", before - 5000)


def test_a_run_waits_for_the_time_that_its_event_names(engine: EngineUnderTest) -> None:
    started: list[float] = []

    @engine.client.create_function(fn_id="fn", trigger=GO)
    async def fn(ctx: inngest.Context) -> str:
        started.append(time.time())
        return "done"

    engine.serve([fn])
    due = millis(2)
    event_id = post(engine, {"name": "go", "ts": due}).json()["ids"][0]
    until(lambda: engine.event_runs(event_id))
    assert engine.wait(engine.event_runs(event_id)[0]).output == "done"
    assert started[0] * 1000 >= due


def test_one_event_id_starts_a_function_once(engine: EngineUnderTest) -> None:
    heard = Heard()
    engine.serve([listener(engine, heard, "go", "other")])
    for name, event_id in (("go", "a"), ("go", "a"), ("go", "b"), ("other", "c")):
        engine.send_event(name, {"id": event_id}, id=event_id)
    until(lambda: len(heard.events) == 3)
    time.sleep(0.3)
    assert {event.data["id"] for event in heard.events} == {"a", "b", "c"}
    assert len(heard.events) == 3


def test_a_message_sent_twice_with_one_seed_counts_once(engine: EngineUnderTest) -> None:
    """As the SDK does it when it repeats a request whose answer was lost."""
    heard = Heard()
    engine.serve([listener(engine, heard, "go")])
    headers = {"x-inngest-event-id-seed": f"{millis(0)},eii2YKXRVTJPuA=="}
    body = [{"name": "go", "data": {"n": 1}}, {"name": "go", "data": {"n": 2}}]
    ids = []
    for _ in range(2):
        answer = httpx.post(f"{engine.url}/e/test", json=body, headers=headers, timeout=10).json()
        ids.append(answer["ids"])
        time.sleep(0.3)
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == 2
    until(lambda: len(heard.events) >= 2)
    time.sleep(0.5)
    assert len(heard.events) == 2
    assert {event.data["n"] for event in heard.events} == {1, 2}


def test_a_run_is_read_and_cancelled_by_the_api(engine: EngineUnderTest) -> None:
    @engine.client.create_function(fn_id="fn", trigger=GO)
    async def fn(ctx: inngest.Context) -> None:
        await ctx.step.sleep("long", datetime.timedelta(minutes=5))

    engine.serve([fn])
    run_id = engine.send("go")
    until(lambda: engine.steps(run_id))
    address = f"{engine.url}/v1/runs/{run_id}"
    shown = httpx.get(address, timeout=10).json()["data"]
    assert shown["run_id"] == run_id
    assert shown["status"] == "Running"
    assert {"event_id", "function_id", "run_started_at", "ended_at"} <= shown.keys()
    time.sleep(0.5)
    assert httpx.delete(address, timeout=10).status_code in (200, 204)
    assert engine.wait(run_id).status == "Cancelled"


def test_the_idempotency_option_starts_a_function_once_per_key(engine: EngineUnderTest) -> None:
    heard = Heard()
    engine.serve([listener(engine, heard, "go", idempotency="event.data.order")])
    for order in (1, 1, 2):
        engine.send_event("go", {"order": order})
        time.sleep(0.05)
    until(lambda: len(heard.events) == 2)
    time.sleep(0.3)
    assert {event.data["order"] for event in heard.events} == {1, 2}
    assert len(heard.events) == 2


def test_an_event_may_be_met_by_a_pattern(engine: EngineUnderTest) -> None:
    heard = Heard()
    engine.serve([listener(engine, heard, "shop/*")])
    for name in ("shop/order.placed", "shopping", "other", "shop/return"):
        engine.send_event(name)
    until(lambda: len(heard.events) == 2)
    time.sleep(0.2)
    assert sorted(event.name for event in heard.events) == ["shop/order.placed", "shop/return"]


def test_the_end_of_a_run_is_an_event(engine: EngineUnderTest) -> None:
    heard = Heard()
    names = ["inngest/function.finished", "inngest/function.failed", "inngest/function.cancelled"]

    @engine.client.create_function(
        fn_id="fn", trigger=GO, retries=0, cancel=[inngest.Cancel(event="stop", if_exp="async.data.n == event.data.n")]
    )
    async def fn(ctx: inngest.Context) -> Any:
        if ctx.event.data["end"] == "fail":
            raise ValueError("broken")
        if ctx.event.data["end"] == "wait":
            await ctx.step.sleep("long", datetime.timedelta(minutes=5))
        return {"x": 1}

    engine.serve([fn, listener(engine, heard, *names)])
    engine.run("go", {"end": "well"})
    engine.run("go", {"end": "fail"})
    cancelled = engine.send("go", {"end": "wait", "n": 1})
    until(lambda: engine.steps(cancelled))
    time.sleep(0.3)
    engine.send_event("stop", {"n": 1})
    assert engine.wait(cancelled).status == "Cancelled"

    def of_fn() -> list[inngest.Event]:
        return [event for event in heard.events if event.data["function_id"] == "test-fn"]

    until(lambda: len(of_fn()) == 5)
    ends: Any = [(event.name.removeprefix("inngest/function."), event.data["_inngest"]) for event in of_fn()]
    found = sorted((kind, meta["status"]) for kind, meta in ends)
    assert found == [
        ("cancelled", "Cancelled"),
        ("failed", "Failed"),
        ("finished", "Cancelled"),
        ("finished", "Completed"),
        ("finished", "Failed"),
    ]
    for event in of_fn():
        data: Any = event.data
        assert data["event"]["name"] == "go"
        assert data["events"][0]["data"] == data["event"]["data"]
        assert data["run_id"]
        status = data["_inngest"]["status"]
        assert ("error" in data) is (status == "Failed")
        if status == "Completed":
            assert data["result"] == {"x": 1}
        if status == "Failed":
            assert (data["error"]["name"], data["error"]["message"]) == ("ValueError", "broken")


def test_an_event_does_not_meet_the_waits_of_the_run_that_it_started(engine: EngineUnderTest) -> None:
    @engine.client.create_function(fn_id="fn", trigger=GO)
    async def fn(ctx: inngest.Context) -> Any:
        found = await ctx.step.wait_for_event("again", event="go", timeout=datetime.timedelta(minutes=1))
        return found and found.data

    engine.serve([fn])
    first = engine.send("go", {"n": 1})
    until(lambda: engine.steps(first))
    time.sleep(0.5)
    assert engine.status(first) is None
    engine.send_event("go", {"n": 2})
    assert engine.wait(first).output == {"n": 2}


def test_one_event_meets_all_the_waits_that_it_matches(engine: EngineUnderTest) -> None:
    @engine.client.create_function(fn_id="fn", trigger=GO)
    async def fn(ctx: inngest.Context) -> Any:
        minute = datetime.timedelta(minutes=1)
        both = await ctx.group.parallel(
            (
                lambda: ctx.step.wait_for_event("any", event="said", timeout=minute),
                lambda: ctx.step.wait_for_event("big", event="said", if_exp="async.data.n > 5", timeout=minute),
            )
        )
        return [event.data["n"] for event in both if event is not None]

    engine.serve([fn])
    run_id = engine.send("go")
    until(lambda: len(engine.steps(run_id)) == 2)
    time.sleep(0.5)
    engine.send_event("said", {"n": 1})
    time.sleep(0.5)
    engine.send_event("said", {})  # what the expression asks for is not there
    engine.send_event("said", {"n": 7})
    assert engine.wait(run_id).output == [1, 7]


def test_an_invocation_gives_the_event_of_its_end_where_the_invoked_run_is_cancelled(engine: EngineUnderTest) -> None:
    @engine.client.create_function(
        fn_id="slow", trigger=inngest.TriggerEvent(event="unused"), cancel=[inngest.Cancel(event="stop")]
    )
    async def slow(ctx: inngest.Context) -> None:
        await ctx.step.sleep("long", datetime.timedelta(minutes=5))

    @engine.client.create_function(fn_id="fn", trigger=GO)
    async def fn(ctx: inngest.Context) -> Any:
        return await ctx.step.invoke("call", function=slow)

    engine.serve([slow, fn])
    run_id = engine.send("go")
    until(lambda: engine.steps(run_id))
    time.sleep(1)
    engine.send_event("stop")
    end = engine.wait(run_id).output
    assert (end["name"], end["data"]["_inngest"]) == ("inngest/function.finished", {"status": "Cancelled"})
    assert end["data"]["function_id"] == "test-slow"


def test_an_invocation_times_out(engine: EngineUnderTest) -> None:
    @engine.client.create_function(fn_id="slow", trigger=inngest.TriggerEvent(event="unused"))
    async def slow(ctx: inngest.Context) -> None:
        await ctx.step.sleep("long", datetime.timedelta(minutes=5))

    @engine.client.create_function(fn_id="fn", trigger=GO)
    async def fn(ctx: inngest.Context) -> Any:
        try:
            await ctx.step.invoke("call", function=slow, timeout=datetime.timedelta(seconds=1))
        except inngest.StepError as error:
            return [error.name, error.message]

    engine.serve([slow, fn])
    name, message = engine.run("go").output
    assert name == "InngestInvokeTimeoutError"
    assert "Timed out" in message
