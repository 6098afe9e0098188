"""What an event sets off: runs that it starts, waits that it ends, runs that it cancels. And how a run ends, since
that is an event too.

Everything here runs inside the caller's transaction.
"""

from __future__ import annotations

import fnmatch
import json
import logging
from typing import TYPE_CHECKING, Any, Final

from . import expressions
from .models import SECOND, NewJob, RunStatus, StepStatus
from .protocol import dump, new_ulid
from .times import YEAR_NS, parse_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from .models import Function, Run, Wait
    from .store import Store
    from .times import Clock

logger = logging.getLogger("inngest_agents.local")

INVOKED: Final = "inngest/function.invoked"
FINISHED: Final = "inngest/function.finished"
FAILED: Final = "inngest/function.failed"
CANCELLED: Final = "inngest/function.cancelled"

_IDEMPOTENCY_NS: Final = 24 * 3600 * SECOND

_FIRST_MS: Final = 315_532_800_000
_LAST_MS: Final = 4_102_444_800_000
"""The times that an event may have: from 1980 to 2100."""


_FIELDS: Final[dict[str, type]] = {"name": str, "data": dict, "user": dict, "id": str, "ts": int, "v": str}
_KINDS: Final[dict[type, str]] = {str: "a string", dict: "an object", int: "an integer"}


class EventError(ValueError):
    """An event that the engine does not take; the message says why."""


def normalize(raw: object, now: int) -> dict[str, Any]:
    """An event as it was sent, checked and completed.

    Raises:
        EventError: it is no event, or one that only the engine may send.
    """
    if not isinstance(raw, dict):
        raise EventError("event must be an object")
    for field, kind in _FIELDS.items():
        # `true` is an int for Python, but no time for anybody else.
        if raw.get(field) is not None and type(raw[field]) is not kind:
            raise EventError(f"event {field} must be {_KINDS[kind]}, not {type(raw[field]).__name__}")
    name, ts = raw.get("name"), raw.get("ts") or now // 1_000_000
    if not name:
        raise EventError("event name is empty")
    if name.lower().startswith("inngest/"):
        raise EventError(f"event name is reserved for internal use: {name}")
    if not _FIRST_MS <= ts <= _LAST_MS:
        raise EventError(f"event ts must be milliseconds since 1970 that name a time from 1980 to 2100: {ts}")
    event = {
        "data": {k: v for k, v in (raw.get("data") or {}).items() if k != "_inngest"},
        "id": raw.get("id") or "",
        "name": name,
        "ts": ts,
        "user": raw.get("user") or {},
    }
    if raw.get("v"):
        event["v"] = raw["v"]
    return event


class EventRouter:
    """Takes events in and ends runs.

    Args:
        store: where all is kept.
        clock: the time that timeouts go by.
        on_end: called with the id of each run that ends, still inside the transaction.
    """

    def __init__(self, store: Store, clock: Clock, on_end: Callable[[str], None] = lambda _: None) -> None:
        self._store = store
        self._clock = clock
        self._on_end = on_end

    def receive(self, event: dict[str, Any], event_id: str | None = None) -> str:
        """Take a (normalized) event; returns its internal id, under which its runs are found."""
        event_id = event_id or new_ulid()
        dedupe = event["id"]
        event["id"] = dedupe or event_id
        body = dump(event)
        now = self._clock.now()
        self._store.add_event(event_id, event["name"], body, now)
        if event["name"] == INVOKED:
            self._invoke(event_id, event, body)
        for function in self._store.functions():
            if any(_triggers(trigger, event) for trigger in function.triggers):
                self._schedule(function, event_id, event, body, dedupe)
        for wait in self._store.waits(event["name"], event_id, now):
            self._meet(wait, event_id, event, body)
        return event_id

    # Starting --------------------------------------------------------------------------------------------

    def _invoke(self, event_id: str, event: dict[str, Any], body: str) -> None:
        """Start the function that a run (or a user) calls by name, or fail the caller if there is none."""
        meta = event["data"]["_inngest"]
        function = self._store.function(meta["fn_id"])
        if function is not None:
            self._schedule(function, event_id, event, body, "")
            return
        message = f"could not find function with ID: {meta['fn_id']}"
        error = {"name": "Error", "message": message}
        logger.warning("invocation failed: %s", message)
        if meta.get("correlation_id"):
            self._resume_invoker(meta["correlation_id"], {"error": error})

    def _schedule(self, function: Function, event_id: str, event: dict[str, Any], body: str, dedupe: str) -> None:
        now = self._clock.now()
        key = dedupe
        if function.idempotency:
            key = str(expressions.evaluate(function.idempotency, event=event))
        if key and not self._store.claim_idempotency(function.id, key, now, _IDEMPOTENCY_NS):
            return
        groups = [
            "" if expression is None else dump(str(expressions.evaluate(expression, event=event)))
            for _, expression in function.concurrency
        ]
        run_id = new_ulid()
        self._store.add_run(run_id, function.id, event_id, f"[{body}]", groups, now)
        due = max(now, event["ts"] * 1_000_000)  # an event of the future starts its run then
        self._store.add_job(run_id, NewJob("start", due_ns=due, max_attempts=function.max_attempts))
        for name, expression, timeout in function.cancels:
            expires = parse_until(timeout, now) if timeout else now + YEAR_NS
            self._store.add_wait(
                run_id,
                kind="cancel",
                event_name=name,
                expression=expression,
                expires_ns=expires,
                trigger_event_id=event_id,
            )

    # Waits ------------------------------------------------------------------------------------------------

    def _meet(self, wait: Wait, event_id: str, event: dict[str, Any], body: str) -> None:
        """End a wait if the event is what it waits for."""
        if wait.expression is not None:
            run = self._store.run(wait.run_id)
            if run is None or not expressions.matches(wait.expression, **{"event": run.events[0], "async": event}):
                return
        if wait.kind == "cancel":
            self.finish(wait.run_id, RunStatus.CANCELLED)
        else:
            self.resume(wait, StepStatus.COMPLETED, body, "event")
        logger.debug("event %s (%s) met the wait of run %s", event["name"], event_id, wait.run_id)

    def resume(self, wait: Wait, status: StepStatus, memo_json: str, reason: str) -> None:
        """Memoize the step that waited, and go on with its run unless steps beside it are still under way."""
        assert wait.step_id is not None
        now = self._clock.now()
        self._store.end_wait(wait.id)
        self._store.drop_job(wait.run_id, wait.step_id)  # the timeout
        if self._store.resolve_step(wait.run_id, wait.step_id, status, memo_json, now):
            key = f"{wait.step_id}-{reason}"
            self.go_on(wait.run_id, wait.step_id, key, wait.coalesce_key, wait.max_attempts, race=wait.race)

    def go_on(
        self, run_id: str, after: str, key: str, coalesce_key: str | None, max_attempts: int, *, race: bool
    ) -> None:
        """Queue the request that discovers what comes after a step that ended, if it is time for it.

        Steps of one parallel plan share a key, so that the last of them queues one request and not each its own.
        """
        if self._store.has_pending(run_id) and not race:
            return
        self.allow_immediate(run_id)
        if coalesce_key and not race:
            key = f"{coalesce_key}-discover"
        self._store.add_job(
            run_id, NewJob(key, outgoing=after, due_ns=self._clock.now(), max_attempts=max_attempts, race=race)
        )

    def allow_immediate(self, run_id: str) -> None:
        """Parallelism is over: later requests may run a step at once again (protocol version 2 and newer)."""
        state = self._store.protocol(run_id)
        if state is not None and state[0] and state[1] >= 2:
            self._store.set_protocol(run_id, force_step_plan=False, request_version=state[1])

    def _resume_invoker(self, correlation_id: str, memo: dict[str, Any]) -> None:
        wait = self._store.invoker(correlation_id)
        if wait is not None and wait.kind == "invoke":
            status = StepStatus.FAILED if "error" in memo else StepStatus.COMPLETED
            self.resume(wait, status, dump(memo), "event")

    # Ending -----------------------------------------------------------------------------------------------

    def finish(
        self, run_id: str, status: RunStatus, *, output_json: str | None = None, error: dict[str, Any] | None = None
    ) -> None:
        """End a run and tell those who listen: `on_failure` functions, the run that invoked it, waits."""
        run = self._store.run(run_id)
        error_json = None if error is None else dump(error)
        now = self._clock.now()
        if run is None or not self._store.end_run(run_id, status, now, output=output_json, error=error_json):
            return
        self._on_end(run_id)
        event = run.events[0]
        if event["name"] in (FINISHED, FAILED):
            return  # a run started by the end of a run must not go on like that for ever
        data = _finished_data(run, event, status, output_json, error)
        if data.get("correlation_id"):
            self._resume_invoker(data["correlation_id"], self._memo_of_invocation(data))
        self._announce(FINISHED, "", data)
        if status is RunStatus.FAILED:
            self._announce(FAILED, run_id, data)
        elif status is RunStatus.CANCELLED:
            self._announce(CANCELLED, run_id, data)

    def _memo_of_invocation(self, data: dict[str, Any]) -> dict[str, Any]:
        """What the caller of a run gets. Of one that was cancelled it is the event of its end, neither `data` nor
        `error`: the specification has no such case, but the real server does it.
        """
        for field, key in (("error", "error"), ("result", "data")):
            if field in data:
                return {key: data[field]}
        return self._internal(FINISHED, new_ulid(), data)

    def _announce(self, name: str, event_id: str, data: dict[str, Any]) -> None:
        self.receive(self._internal(name, event_id, data))

    def _internal(self, name: str, event_id: str, data: dict[str, Any]) -> dict[str, Any]:
        return {"data": data, "id": event_id, "name": name, "ts": self._clock.now() // 1_000_000, "user": {}}


def _triggers(trigger: tuple[str, str | None], event: dict[str, Any]) -> bool:
    name, expression = trigger
    named = fnmatch.fnmatchcase(event["name"], name) if "*" in name else event["name"] == name
    return named and expressions.matches(expression, event=event)


def _finished_data(
    run: Run, event: dict[str, Any], status: RunStatus, output_json: str | None, error: dict[str, Any] | None
) -> dict[str, Any]:
    """What the events of a run's end say. One that was cancelled has neither a result nor an error."""
    data: dict[str, Any] = {
        "_inngest": {"status": status},
        "event": event,
        "events": [event],
        "function_id": run.function_id,
        "run_id": run.id,
    }
    if error is not None:
        data["error"] = error
    if output_json is not None:
        data["result"] = json.loads(output_json)
    meta = event["data"].get("_inngest")
    if isinstance(meta, dict) and meta.get("correlation_id"):
        data["correlation_id"] = meta["correlation_id"]
    return data
