"""Answers that the Python SDK does not give, or not yet: several opcodes at once, the end of a run as an opcode, …

A scripted app stands in for the SDK.
"""

from __future__ import annotations

import datetime
import email.utils
import hashlib
import json
import threading
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from inngest_agents.local.serve import ThreadedServer

from .test_engine_protocol import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .harness import EngineUnderTest

Answer = tuple[int, Any] | tuple[int, Any, dict[str, str]]
"""Status, body, and perhaps more headers."""


class ScriptedApp:
    """Answers Call Requests by a function of the request's body and its step; keeps the requests."""

    def __init__(self, answer: Callable[[dict[str, Any], str], Answer]) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.steps: list[str] = []
        self._answer = answer
        self._lock = threading.Lock()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        raw = message["body"]
        while message.get("more_body"):
            message = await receive()
            raw += message["body"]
        body = json.loads(raw)
        step = dict(part.split("=") for part in scope["query_string"].decode().split("&"))["stepId"]
        with self._lock:
            self.requests.append(body)
            self.headers.append({name.decode(): value.decode() for name, value in scope["headers"]})
            self.times.append(time.time())
            self.steps.append(step)
            status, answer, *more = self._answer(body, step)
        headers = [(b"x-inngest-sdk", b"inngest-py:v0.5.19"), (b"x-inngest-req-version", b"2")]
        headers += [(name.encode(), value.encode()) for name, value in (more[0] if more else {}).items()]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})


@pytest.fixture
def serve(engine: EngineUnderTest) -> Iterator[Callable[..., ScriptedApp]]:
    servers: list[ThreadedServer] = []

    def serve(answer: Callable[[dict[str, Any], str], Answer], retries: int = 2) -> ScriptedApp:
        app = ScriptedApp(answer)
        server = ThreadedServer(app)
        server.start()
        servers.append(server)
        url = f"{server.url}/api"
        function = {
            "id": "raw-fn",
            "name": "fn",
            "triggers": [{"event": "go"}],
            "steps": {
                "step": {
                    "id": "step",
                    "name": "step",
                    "retries": {"attempts": retries},
                    "runtime": {"type": "http", "url": f"{url}?fnId=raw-fn&stepId=step"},
                }
            },
        }
        body = {"appName": "raw", "url": url, "functions": [function], "sdk": "py:v0.5.19", "v": "0.1"}
        response = httpx.post(f"{engine.url}/fn/register", json=body | {"deployType": "ping", "framework": "x"})
        assert response.status_code == 200, response.text
        return app

    yield serve
    for server in servers:
        server.stop(force=True)


def hashed(name: str) -> str:
    return hashlib.sha1(name.encode()).hexdigest()


def ran(name: str, data: Any = None) -> dict[str, Any]:
    return {"op": "StepRun", "id": hashed(name), "name": name, "displayName": name, "data": data}


def failed(name: str) -> dict[str, Any]:
    return ran(name) | {"op": "StepError", "error": {"name": "ValueError", "message": "no"}}


def planned(name: str) -> dict[str, Any]:
    return {"op": "StepPlanned", "id": hashed(name), "name": name, "displayName": name}


def test_the_end_of_a_run_may_come_as_an_opcode(engine: EngineUnderTest, serve: Any) -> None:
    app = serve(lambda body, step: (206, [{"op": "RunComplete", "id": hashed("end"), "data": {"x": 2}}]))
    outcome = engine.run("go")
    assert outcome.status == "Completed"
    # The real server's REST API shows the output of such a run only later, if at all.
    assert outcome.output == {"x": 2} or engine.name == "server"
    time.sleep(0.2)
    assert len(app.requests) == 1


def test_a_discovery_request_goes_on_in_a_new_request(engine: EngineUnderTest, serve: Any) -> None:
    def answer(body: dict[str, Any], step: str) -> tuple[int, Any]:
        return (200, "done") if len(app.requests) > 1 else (206, [{"op": "DiscoveryRequest", "id": hashed("more")}])

    app: ScriptedApp = serve(answer)
    assert engine.run("go").output == "done"


def test_an_answer_without_opcodes_is_asked_again(engine: EngineUnderTest, serve: Any) -> None:
    app: ScriptedApp = serve(lambda body, step: (200, "done") if len(app.requests) > 1 else (206, []))
    assert engine.run("go").output == "done"


def test_several_finished_steps_in_one_answer_are_all_saved(engine: EngineUnderTest, serve: Any) -> None:
    """Each of them asks for a request of its own: a worker that answers so is called twice."""

    def answer(body: dict[str, Any], step: str) -> tuple[int, Any]:
        if body["steps"]:
            return 200, sorted(memo["data"] for memo in body["steps"].values())
        return 206, [ran("a", 1), ran("b", 2)]

    app: ScriptedApp = serve(answer)
    assert engine.run("go").output == [1, 2]
    assert len(app.requests) in (2, 3)


def test_a_failed_step_beside_a_finished_one_is_retried_and_the_finished_one_kept(
    engine: EngineUnderTest, serve: Any
) -> None:
    def answer(body: dict[str, Any], step: str) -> tuple[int, Any]:
        steps = body["steps"]
        if not steps:
            return 206, [ran("a", 1), failed("b")]
        if hashed("b") in steps:
            return 200, [memo["data"] for memo in steps.values()]
        if step == "step" and body["ctx"]["disable_immediate_execution"]:
            return 206, [planned("b")]
        return 206, [ran("b", 2)]

    app: ScriptedApp = serve(answer)
    assert engine.run("go").output == [1, 2]
    until(lambda: len(app.requests) >= 3)


def test_parallel_plans_disable_immediate_execution_until_they_end(engine: EngineUnderTest, serve: Any) -> None:
    def answer(body: dict[str, Any], step: str) -> tuple[int, Any]:
        for name in ("a", "b"):
            if step == hashed(name):
                return 206, [ran(name, name)]
        return (200, "done") if body["steps"] else (206, [planned("a"), planned("b")])

    app: ScriptedApp = serve(answer)
    assert engine.run("go").output == "done"
    flags = [
        (step, body["ctx"]["disable_immediate_execution"]) for step, body in zip(app.steps, app.requests, strict=True)
    ]
    assert flags[0] == ("step", False)
    assert sorted(flags[1:3]) == sorted([(hashed("a"), True), (hashed("b"), True)])
    assert flags[3:] == [("step", False)], "one request after both, which may run a step at once again"
    stack = app.requests[3]["ctx"]["stack"]
    assert sorted(stack["stack"]) == sorted([hashed("a"), hashed("b")])
    assert stack["current"] in (1, 2)
    assert [body["version"] for body in app.requests] == [-1, 2, 2, 2]


def test_an_unknown_opcode_fails_the_run_after_its_attempts(engine: EngineUnderTest, serve: Any) -> None:
    app = serve(lambda body, step: (206, [{"op": "Nonsense", "id": "x"}]), retries=1)
    assert engine.run("go").status == "Failed"
    assert [body["ctx"]["attempt"] for body in app.requests] == [0, 1]


@pytest.mark.parametrize("output", ["x" * 4_194_300, "ü" * 700_000, "<" * 700_000], ids=["x", "ü", "<"])
def test_a_too_large_output_fails_the_run_after_its_attempts(engine: EngineUnderTest, serve: Any, output: str) -> None:
    """Characters count as they are written in JSON: these take up to six bytes."""
    app = serve(lambda body, step: (206, [ran("a", output)]), retries=1)
    outcome = engine.run("go")
    assert outcome.status == "Failed"
    assert "step output size is greater than the limit" in json.dumps(outcome.output)
    assert len(app.requests) == 2


@pytest.mark.parametrize("output", ["x" * 4_194_293, "ü" * 690_000, "<" * 690_000], ids=["x", "ü", "<"])
def test_an_output_that_is_just_not_too_large_is_taken(engine: EngineUnderTest, serve: Any, output: str) -> None:
    def answer(body: dict[str, Any], step: str) -> Answer:
        return (200, "done") if hashed("a") in body["ctx"]["stack"]["stack"] else (206, [ran("a", output)])

    app: ScriptedApp = serve(answer)
    assert engine.run("go").output == "done"
    assert len(app.requests) == 2


def test_an_answer_of_nothing_with_an_id_ends_the_request_and_asks_for_no_other(
    engine: EngineUnderTest, serve: Any
) -> None:
    """What a worker answers that has lost its run; without an id, the engine would send a request anew."""
    app: ScriptedApp = serve(lambda body, step: (206, [{"op": "None", "id": "stale"}]))
    run_id = engine.send("go")
    until(lambda: len(app.requests) == 1)
    time.sleep(0.5)
    assert len(app.requests) == 1
    assert engine.status(run_id) is None


def test_an_answer_of_nothing_without_an_id_is_asked_anew(engine: EngineUnderTest, serve: Any) -> None:
    app: ScriptedApp = serve(
        lambda body, step: (200, "done") if len(app.requests) > 1 else (206, [{"op": "None", "id": ""}])
    )
    assert engine.run("go").output == "done"


def test_ended_steps_beside_a_planned_one_lead_to_one_request(engine: EngineUnderTest, serve: Any) -> None:
    def answer(body: dict[str, Any], step: str) -> tuple[int, Any]:
        if step == hashed("join"):
            return 206, [ran("join")]
        if body["steps"]:
            return 200, len(body["steps"])
        lost = failed("b") | {"op": "StepFailed"}
        return 206, [ran("a", 1), lost, planned("join")]

    app: ScriptedApp = serve(answer)
    assert engine.run("go").output == 3
    time.sleep(0.3)
    assert app.steps == ["step", hashed("join"), "step"]


# Failures of a function and when they are tried again -------------------------------------------------------


def in_two_seconds(form: str) -> str:
    """A time two seconds from now, as a `Retry-After` header may write it."""
    at = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=2)
    return {"seconds": "2", "ISO 8601": at.isoformat(), "HTTP": email.utils.format_datetime(at, usegmt=True)}[form]


@pytest.mark.parametrize("form", ["seconds", "ISO 8601", "HTTP"])
@pytest.mark.parametrize("failing", ["function", "step"])
def test_retry_after_is_read_in_its_three_forms(engine: EngineUnderTest, serve: Any, form: str, failing: str) -> None:
    def answer(body: dict[str, Any], step: str) -> Answer:
        if len(app.requests) > 1:
            return 200, "done"
        headers = {"retry-after": in_two_seconds(form), "x-inngest-no-retry": "false"}
        if failing == "step":
            return 206, [failed("a")], headers
        return 500, {"name": "E", "message": "later"}, headers

    app: ScriptedApp = serve(answer)
    assert engine.run("go").output == "done"
    # The header counts in whole seconds, and the engines would try again earlier without it.
    assert 0.9 < app.times[1] - app.times[0] < 4


@pytest.mark.parametrize(
    ("status", "headers", "attempts"),
    [
        (500, {}, [0, 1]),
        (500, {"x-inngest-no-retry": "false"}, [0, 1]),
        (500, {"x-inngest-no-retry": "true"}, [0]),
        (400, {"x-inngest-no-retry": "true"}, [0]),
        (400, {}, [0, 1]),
        (404, {}, [0, 1]),
        (200, {"x-inngest-no-retry": "true"}, [0]),
    ],
)
def test_the_no_retry_header_alone_decides_whether_a_failure_is_final(
    engine: EngineUnderTest, serve: Any, status: int, headers: dict[str, str], attempts: list[int]
) -> None:
    app = serve(lambda body, step: (status, {"name": "Lost", "message": "no way", "stack": "s"}, headers), retries=1)
    outcome = engine.run("go")
    assert outcome.status == "Failed"
    assert (outcome.output["name"], outcome.output["message"]) == ("Lost", "no way")
    assert [body["ctx"]["attempt"] for body in app.requests] == attempts
    assert {body["ctx"]["max_attempts"] for body in app.requests} == {2}


def test_a_step_whose_answer_says_no_retry_fails_at_once(engine: EngineUnderTest, serve: Any) -> None:
    def answer(body: dict[str, Any], step: str) -> Answer:
        if body["steps"]:
            return 200, body["steps"][hashed("a")]["error"]["message"]
        return 206, [failed("a")], {"x-inngest-no-retry": "true"}

    app: ScriptedApp = serve(answer)
    assert engine.run("go").output == "no"
    assert len(app.requests) == 2


# What a Call Request says ---------------------------------------------------------------------------------


def test_a_call_request_has_all_that_the_specification_names(engine: EngineUnderTest, serve: Any) -> None:
    app = serve(lambda body, step: (200, "done") if body["steps"] else (206, [ran("a", {"x": [1, None]})]))
    run_id = engine.send("go", {"n": 1})
    assert engine.wait(run_id).output == "done"
    first, second = app.requests
    assert set(first) == {"ctx", "defers", "event", "events", "steps", "use_api", "version"}
    assert set(first["ctx"]) == {
        "attempt",
        "disable_immediate_execution",
        "env",
        "fn_id",
        "generation_id",
        "job_id",
        "max_attempts",
        "qi_id",
        "request_id",
        "run_id",
        "stack",
        "step_id",
        "use_api",
    }
    assert first["events"] == [first["event"]]
    assert set(first["event"]) == {"data", "id", "name", "ts", "user"}
    assert (first["event"]["name"], first["event"]["data"], first["event"]["user"]) == ("go", {"n": 1}, {})
    assert first["ctx"] | {"run_id": run_id, "attempt": 0, "max_attempts": 3, "use_api": False} == first["ctx"]
    assert first["ctx"]["step_id"] == "step"
    assert (first["version"], second["version"]) == (-1, 2)
    assert first["ctx"]["stack"] == {"stack": [], "current": 0}
    assert second["ctx"]["stack"] == {"stack": [hashed("a")], "current": 1}
    assert second["steps"] == {hashed("a"): {"data": {"x": [1, None]}}}
    assert first["ctx"]["request_id"] != second["ctx"]["request_id"]
    assert app.steps == ["step", "step"]
    for body, headers in zip(app.requests, app.headers, strict=True):
        assert headers["x-run-id"] == run_id
        assert headers["x-request-id"] == body["ctx"]["request_id"]
        assert headers["x-inngest-job-id"] == body["ctx"]["job_id"]
        assert headers["x-inngest-generation-id"] == str(body["ctx"]["generation_id"])
        assert headers.get("x-inngest-server-kind", "dev") == "dev"  # the real server does not send it here
        assert headers["x-inngest-req-version"] == str(body["version"])
        assert headers["x-inngest-step-id"] == "step"
        assert headers["content-type"] == "application/json"
        assert headers["traceparent"].startswith("00-")
        assert "x-inngest-signature" not in headers
