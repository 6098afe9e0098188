"""Reads what an app registers, and says plainly what the embedded engine does not do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from . import expressions
from .models import Function
from .protocol import DEFAULT_RETRIES, MAX_RETRIES

_REFUSED: Final = {
    "batchEvents": "batch_events",
    "debounce": "debounce",
    "rateLimit": "rate_limit",
    "singleton": "singleton",
    "throttle": "throttle",
    "timeouts": "timeouts",
}
"""Options without which a function would run at other times or more often than its author meant."""

_HONOURED: Final = {"cancel", "concurrency", "id", "idempotency", "name", "steps", "triggers"}
_NOT_ASKED: Final = {"checkpoint"}
"""What only tells the server how the app goes about its work."""


class RegistrationError(ValueError):
    """A registration that makes no sense; the message says why."""


@dataclass(frozen=True, slots=True)
class Registration:
    """What an app registered."""

    app_id: str
    functions: tuple[Function, ...]
    """Those that the engine can run."""
    warnings: tuple[str, ...]
    """What the engine does not do of what was asked for, a sentence each."""


def parse(raw: object) -> Registration:
    """Read a registration. A function that would not run as its author meant is left out, with a warning.

    Raises:
        RegistrationError: it is no registration.
    """
    if not isinstance(raw, dict):
        raise RegistrationError("registration must be an object")
    app_id = str(raw.get("appName") or raw.get("appname") or "")
    configs = raw.get("functions")
    if not app_id or not isinstance(configs, list):
        raise RegistrationError("registration must have an app name and functions")
    functions: list[Function] = []
    warnings: list[str] = []
    try:
        for config in configs:
            function = _function(app_id, config)
            refused = _refused(config)
            warnings += _warnings(config, refused)
            functions += [] if refused else [function]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise RegistrationError(f"invalid function: {error!r}") from error
    return Registration(app_id, tuple(functions), tuple(warnings))


def _refused(config: dict[str, Any]) -> list[str]:
    """The options of a function for which the engine does not run it."""
    refused = [name for key, name in _REFUSED.items() if config.get(key)]
    return refused + [
        "a concurrency limit of this scope" for limit in _limits(config) if limit.get("scope") not in (None, "", "fn")
    ]


def _warnings(config: dict[str, Any], refused: list[str]) -> list[str]:
    """What to tell the author of a function."""
    name = f"function {config['id']}"
    if refused:
        why = f"the embedded engine does not support {', '.join(refused)}"
        remedy = "run it on an Inngest server (`npx inngest-cli dev`), or leave that out while you develop"
        return [f"{name} is not registered: {why}; {remedy}"]
    warnings = []
    crons = [trigger["cron"] for trigger in config.get("triggers") or [] if trigger.get("cron")]
    if crons:
        warnings.append(
            f"{name} does not run at {', '.join(crons)}: the embedded engine has no cron triggers; run it on an Inngest"
            " server, or give it an event as a second trigger while you develop"
        )
    if config.get("priority"):
        warnings.append(f"{name}: the embedded engine ignores priority; its queue goes by time alone")
    unknown = {key for key, value in config.items() if value} - _HONOURED - _NOT_ASKED - _REFUSED.keys() - {"priority"}
    if unknown:
        warnings.append(
            f"{name}: the embedded engine does not know {', '.join(sorted(unknown))} and ignores it; run the function"
            " on an Inngest server if it matters"
        )
    return warnings


def _limits(config: dict[str, Any]) -> list[dict[str, Any]]:
    limits = config.get("concurrency") or []
    return [{"limit": limits}] if isinstance(limits, int) else limits


def _function(app_id: str, config: dict[str, Any]) -> Function:
    function_id = config["id"]
    limits = _limits(config)
    triggers = [(t["event"], t.get("expression") or None) for t in config.get("triggers") or [] if t.get("event")]
    step = config["steps"]["step"]
    retries = (step.get("retries") or {}).get("attempts", DEFAULT_RETRIES)
    function = Function(
        id=function_id,
        app_id=app_id,
        name=config.get("name") or function_id,
        url=step["runtime"]["url"],
        max_attempts=min(int(retries), MAX_RETRIES) + 1,
        triggers=tuple(triggers),
        cancels=tuple((c["event"], c.get("if") or None, c.get("timeout")) for c in config.get("cancel") or []),
        concurrency=tuple((int(limit["limit"]), limit.get("key")) for limit in limits if limit.get("limit")),
        idempotency=config.get("idempotency") or None,
    )
    _check_expressions(function)
    return function


def _check_expressions(function: Function) -> None:
    keys = [key for _, key in function.concurrency]
    others = [expression for _, expression in function.triggers]
    cancels = [expression for _, expression, _ in function.cancels]
    for expression in [*keys, *others, *cancels, function.idempotency]:
        if expression is not None:
            expressions.check(expression)
