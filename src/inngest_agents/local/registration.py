"""Reads what an app registers, and says plainly what the embedded engine does not do."""

from __future__ import annotations

import logging
from typing import Any, Final

from . import expressions
from .models import Function
from .protocol import DEFAULT_RETRIES, MAX_RETRIES

logger = logging.getLogger("inngest_agents.local")

_REFUSED: Final = {
    "batchEvents": "batch_events",
    "debounce": "debounce",
    "rateLimit": "rate_limit",
    "singleton": "singleton",
    "throttle": "throttle",
    "timeouts": "timeouts",
}
"""Options without which a function would run at other times or more often than its author meant."""


class RegistrationError(ValueError):
    """A registration that makes no sense; the message says why."""


def parse(raw: object) -> tuple[str, list[Function]]:
    """Read a registration: the app's id, and those of its functions that the engine can run.

    What it can't run is left out with a warning in the log. `priority` is ignored: it only orders a busy queue.

    Raises:
        RegistrationError: it is no registration.
    """
    if not isinstance(raw, dict):
        raise RegistrationError("registration must be an object")
    app_id = str(raw.get("appName") or raw.get("appname") or "")
    configs = raw.get("functions")
    if not app_id or not isinstance(configs, list):
        raise RegistrationError("registration must have an app name and functions")
    try:
        functions = [_function(app_id, config) for config in configs]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise RegistrationError(f"invalid function: {error!r}") from error
    return app_id, [function for function in functions if function is not None]


def _function(app_id: str, config: dict[str, Any]) -> Function | None:
    function_id = config["id"]
    limits = config.get("concurrency") or []
    if isinstance(limits, int):
        limits = [{"limit": limits}]
    refused = [name for key, name in _REFUSED.items() if config.get(key)]
    refused += ["concurrency scope"] if any(limit.get("scope") not in (None, "", "fn") for limit in limits) else []
    triggers = [(t["event"], t.get("expression") or None) for t in config.get("triggers") or [] if t.get("event")]
    crons = [t["cron"] for t in config.get("triggers") or [] if t.get("cron")]
    if crons:
        logger.warning("function %s: the embedded engine has no cron triggers; ignored: %s", function_id, crons)
    if refused:
        logger.warning(
            "function %s is not registered: the embedded engine does not support %s; use an Inngest server for it",
            function_id,
            ", ".join(refused),
        )
        return None
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
