"""What an app registers, and what of it is refused."""

from __future__ import annotations

from typing import Any

import pytest

from inngest_agents.local import registration


def config(**more: Any) -> dict[str, Any]:
    step = {"retries": {"attempts": 2}, "runtime": {"type": "http", "url": "http://x/api?fnId=a-f&stepId=step"}}
    return {"id": "a-f", "name": "F", "triggers": [{"event": "go"}], "steps": {"step": step}} | more


def parse(*configs: dict[str, Any]) -> list[Any]:
    app_id, functions = registration.parse({"appname": "a", "functions": list(configs)})
    assert app_id == "a"
    return functions


def test_a_function_is_read() -> None:
    (function,) = parse(
        config(
            triggers=[{"event": "go", "expression": "event.data.x == 1"}, {"event": "more/*"}],
            cancel=[{"event": "stop", "if": "async.data.x == 1", "timeout": "1h"}],
            concurrency=[{"limit": 3, "key": "event.data.k", "scope": "fn"}],
            idempotency="event.data.id",
            priority={"run": "100"},
        )
    )
    assert function.max_attempts == 3
    assert function.triggers == (("go", "event.data.x == 1"), ("more/*", None))
    assert function.cancels == (("stop", "async.data.x == 1", "1h"),)
    assert function.concurrency == ((3, "event.data.k"),)
    assert function.idempotency == "event.data.id"


def test_without_retries_there_are_five_attempts() -> None:
    bare = config()
    del bare["steps"]["step"]["retries"]
    assert parse(bare)[0].max_attempts == 5


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ({"batchEvents": {"maxSize": 3}}, "batch_events"),
        ({"debounce": {"period": "1s"}}, "debounce"),
        ({"rateLimit": {"limit": 1, "period": "1s"}}, "rate_limit"),
        ({"throttle": {"limit": 1, "period": "1s"}}, "throttle"),
        ({"singleton": {"mode": "skip"}}, "singleton"),
        ({"timeouts": {"finish": "1s"}}, "timeouts"),
        ({"concurrency": [{"limit": 1, "scope": "account"}]}, "concurrency scope"),
    ],
)
def test_a_function_that_can_not_run_as_meant_is_left_out(
    option: dict[str, Any], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    functions = parse(config(**option), config(id="a-g"))
    assert [f.id for f in functions] == ["a-g"]
    assert f"function a-f is not registered: the embedded engine does not support {name};" in caplog.text


@pytest.mark.parametrize(
    "raw",
    [
        None,
        {},
        {"appName": "a"},
        {"appName": "a", "functions": [{}]},
        {"appName": "a", "functions": [config(idempotency="event. ==")]},
    ],
)
def test_what_is_no_registration(raw: object) -> None:
    with pytest.raises(registration.RegistrationError):
        registration.parse(raw)
