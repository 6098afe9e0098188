"""What an app registers, and what of it is refused."""

from __future__ import annotations

from typing import Any

import pytest

from inngest_agents.local import registration


def config(**more: Any) -> dict[str, Any]:
    step = {"retries": {"attempts": 2}, "runtime": {"type": "http", "url": "http://x/api?fnId=a-f&stepId=step"}}
    return {"id": "a-f", "name": "F", "triggers": [{"event": "go"}], "steps": {"step": step}} | more


def parse(*configs: dict[str, Any]) -> list[Any]:
    registered = registration.parse({"appname": "a", "functions": list(configs)})
    assert registered.app_id == "a"
    return list(registered.functions)


def warnings_of(*configs: dict[str, Any]) -> list[str]:
    return list(registration.parse({"appname": "a", "functions": list(configs)}).warnings)


def test_a_function_is_read() -> None:
    (function,) = parse(
        config(
            triggers=[{"event": "go", "expression": "event.data.x == 1"}, {"event": "more/*"}],
            cancel=[{"event": "stop", "if": "async.data.x == 1", "timeout": "1h"}],
            concurrency=[{"limit": 3, "key": "event.data.k", "scope": "fn"}],
            idempotency="event.data.id",
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
        ({"concurrency": [{"limit": 1, "scope": "account"}]}, "a concurrency limit of this scope"),
    ],
)
def test_a_function_that_can_not_run_as_meant_is_left_out(option: dict[str, Any], name: str) -> None:
    configs = config(**option), config(id="a-g")
    assert [f.id for f in parse(*configs)] == ["a-g"]
    [warning] = warnings_of(*configs)
    assert f"function a-f is not registered: the embedded engine does not support {name}; run it on" in warning


@pytest.mark.parametrize(
    ("option", "warning"),
    [
        ({"priority": {"run": "100"}}, "function a-f: the embedded engine ignores priority"),
        ({"triggers": [{"cron": "* * * * *"}, {"event": "go"}]}, "function a-f does not run at * * * * *"),
        ({"brandNew": {"x": 1}}, "function a-f: the embedded engine does not know brandNew and ignores it"),
    ],
)
def test_what_is_not_done_for_a_function_that_runs_all_the_same_is_said(option: dict[str, Any], warning: str) -> None:
    [function] = parse(config(**option))
    assert function.triggers == (("go", None),)
    [found] = warnings_of(config(**option))
    assert found.startswith(warning)


def test_what_is_done_needs_no_warning() -> None:
    options = {
        "cancel": [{"event": "stop"}],
        "concurrency": 3,
        "idempotency": "event.data.id",
        "checkpoint": {"batch_steps": 1},
        "debounce": None,
    }
    assert warnings_of(config(**options)) == []


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
