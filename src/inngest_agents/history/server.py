"""Runs of an Inngest server, by its REST API v2: the dev server, a server of one's own, Inngest Cloud.

The API is documented at https://api-docs.inngest.com (there called a beta). It gives a run's whole trace with the
outputs of its steps in one answer.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlsplit

from inngest_agents.history.source import (
    FoundStep,
    MissingRunError,
    RunSummary,
    SourceError,
    assemble,
    error_text,
)
from inngest_agents.stats.report import NOTHING, Attempt, RunReport, Status

PAGE_SIZE: Final = 100
"""Runs in an answer; the API's own limit."""

_CLOUD: Final = "api.inngest.com"
_TIMEOUT: Final = 30.0
_STATUS: Final[dict[str, Status]] = {
    "COMPLETED": "completed",
    "FAILED": "failed",
    "CANCELLED": "cancelled",
    "RUNNING": "running",
    "WAITING": "waiting",
    "QUEUED": "waiting",
    "SKIPPED": "cancelled",
}
_OPEN_AT_THE_END: Final[dict[Status, Status]] = {
    "completed": "completed",
    "failed": "cancelled",
    "cancelled": "cancelled",
}
"""What has become of a step that is called open in a run that has ended so."""
_KINDS: Final = {
    "SLEEP": "sleep",
    "WAIT_FOR_EVENT": "wait",
    "WAIT_FOR_SIGNAL": "wait",
    "INVOKE": "invoke",
    "AI_GATEWAY": "infer",
    "SEND_EVENT": "send",
}


class ServerRuns:
    """The runs of a server.

    Args:
        url: the server's, e.g. "http://127.0.0.1:8288" or "https://api.inngest.com".
        key: an API key or the signing key; "" for a dev server.
        environment: the name of an environment of Inngest Cloud; "" for the one of the key.

    Raises:
        SourceError: in all methods: the server can't be reached, refuses, or answers with something else.
    """

    def __init__(self, url: str, *, key: str = "", environment: str = "") -> None:
        import httpx

        parts = urlsplit(url if "://" in url else f"http://{url}")
        self._origin = f"{parts.scheme}://{parts.netloc}"
        headers = {"authorization": f"Bearer {key}"} if key else {}
        if environment:
            headers["x-inngest-env"] = environment
        base = "/v2" if parts.hostname == _CLOUD else "/api/v2"
        try:
            self._http = httpx.Client(base_url=f"{self._origin}{base}", headers=headers, timeout=_TIMEOUT)
        except (httpx.InvalidURL, UnicodeError, ValueError) as error:
            raise SourceError(f"{url} is no address of a server: {error}") from error

    def runs(self, *, since: float | None = None, until: float | None = None) -> Iterator[RunSummary]:
        """See `RunSource`."""
        query: dict[str, Any] = {"limit": PAGE_SIZE}
        query |= {name: _iso(at) for name, at in (("from", since), ("until", until)) if at is not None}
        while True:
            answer = self._get("/runs", query)
            data = answer.get("data")
            for run in data if isinstance(data, list) else ():
                summary = _summary(run)
                if (since is None or summary.queued_at >= since) and (until is None or summary.queued_at < until):
                    yield summary
            page = answer.get("page") or {}
            if not page.get("hasMore") or not page.get("cursor") or page["cursor"] == query.get("cursor"):
                return
            query["cursor"] = page["cursor"]

    def find(self, text: str) -> Sequence[RunSummary]:
        """The run with this id, or the latest if it is "last"; parts of an id can't be looked up."""
        if text == "last":
            data = self._get("/runs", {"limit": 1}).get("data") or ()
            return [_summary(run) for run in data]
        if not text.isalnum() or len(text) != 26:
            raise SourceError(f"{text} is no id of a run: a server is asked by the whole id (26 characters), or `last`")
        answer = self._get(f"/runs/{text.upper()}", {}, missing=f"no run {text} on {self._origin}")
        return [self._as_listed(_summary(answer.get("data") or {}))]

    def _as_listed(self, run: RunSummary) -> RunSummary:
        """A run with its status in the list of runs: asked for one, the server tells what its trace is thought to say,
        and calls a run completed that is under way, or queued that has ended."""
        near = self.runs(since=run.queued_at - 1, until=run.queued_at + 1)
        listed = next((other for other in near if other.run_id == run.run_id), None)
        return run if listed is None else replace(run, status=listed.status)

    def report(self, run: RunSummary) -> RunReport:
        """See `RunSource`."""
        missing = f"{self._origin} has no trace of run {run.run_id}"
        answer = self._get(f"/runs/{run.run_id}/trace", {"includeOutput": "true"}, missing=missing)
        root = (answer.get("data") or {}).get("rootSpan") or {}
        failed = run.status == "failed"
        found = _found(root, run.status)
        report = RunReport(
            run_id=run.run_id,
            title=run.function,
            status=run.status,
            started_at=run.started_at or run.queued_at,
            ended_at=run.ended_at or _time(root.get("endedAt")),
            input=_plain(root.get("input", NOTHING)),
            output=NOTHING if failed else _plain(root.get("output", NOTHING)),
            error=error_text(root.get("output") or {}) if failed else "",
            note=self._origin,
        )
        return assemble(report, found)

    def _get(self, path: str, query: Mapping[str, Any], *, missing: str = "") -> dict[str, Any]:
        import httpx

        try:
            response = self._http.get(path, params=query)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise SourceError(f"can't reach {self._origin}: {error or type(error).__name__}") from error
        if response.status_code in (401, 403):
            raise SourceError(
                f"{self._origin} refuses ({response.status_code}): set INNGEST_API_KEY or INNGEST_SIGNING_KEY to a key "
                "of this server and environment"
            )
        said = _json(response)
        if response.status_code == 404 and missing and "errors" in said:
            raise MissingRunError(missing)
        # An answer with an empty list leaves `data` out.
        if response.status_code != 200 or not {"data", "metadata"} & said.keys():
            errors = said.get("errors")
            reason = errors[0].get("message", "") if isinstance(errors, list) and errors else response.reason_phrase
            raise SourceError(
                f"{self._origin}{urlsplit(str(response.url)).path} answered {response.status_code} {reason}; "
                "this needs a server with Inngest's REST API v2"
            )
        return said


def _json(response: Any) -> dict[str, Any]:
    try:
        said = response.json()
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _summary(run: Mapping[str, Any]) -> RunSummary:
    names = ((run.get("app") or {}).get("id"), (run.get("function") or {}).get("id"))
    return RunSummary(
        str(run.get("id", "")),
        "-".join(name for name in names if name),
        _STATUS.get(run.get("status", ""), "running"),
        _time(run.get("queuedAt")) or 0.0,
        _time(run.get("startedAt")),
        _time(run.get("endedAt")),
    )


def _found(root: Mapping[str, Any], run_status: Status) -> list[FoundStep]:
    """The steps below a run's span, in the order in which they ended.

    An attempt of a step may have several spans: one of the request that ran it, one with the step's own times, and one
    above all attempts. Each attempt is taken once, from the shortest span, which is the step's own.
    """
    spans: dict[str, list[Mapping[str, Any]]] = {}
    for span in root.get("children") or ():
        if span.get("stepId"):
            spans.setdefault(span["stepId"], []).append(span)
    steps = [_found_step(members, run_status) for members in spans.values()]
    steps.sort(key=lambda step: step.attempts[-1].ended_at if step.attempts else float("inf"))
    ends = [step.attempts[-1].ended_at for step in steps if step.attempts]
    for step in steps:
        if step.attempts and step.queued_at is not None:
            # A step that is not the first of its request has the time at which the request was queued.
            before = bisect.bisect_right(ends, step.attempts[0].started_at)
            step.queued_at = max(step.queued_at, ends[before - 1] if before else 0.0)
    return steps


def _found_step(spans: Sequence[Mapping[str, Any]], run_status: Status) -> FoundStep:
    whole = next((span for span in spans if span.get("children")), spans[-1])
    # The step's own span of an attempt may be missing, and only the one below the whole tell of it.
    tries = _tries([*(span for span in spans if not span.get("children")), *(whole.get("children") or ())])
    last = tries[-1]
    output = next((span["output"] for span in (last, *reversed(spans)) if span.get("output") is not None), NOTHING)
    given = next((span["input"] for span in (last, *spans) if span.get("input") is not None), NOTHING)
    status = _status(spans, last, run_status)
    failed = status == "failed"
    queued = [at for span in spans if (at := _time(span.get("queuedAt")))]
    attempts = [made for span in tries if (made := _attempt(span)) is not None]
    if last.get("status") == "FAILED" and not failed:
        output = NOTHING
    given = _plain(given)
    return FoundStep(
        name=str(whole.get("name", "")),
        kind=_KINDS.get(last.get("stepOp") or whole.get("stepOp") or "", "other"),
        status=status,
        queued_at=max([at for at in queued if not attempts or at <= attempts[0].started_at], default=None),
        attempts=attempts,
        input=given[0] if isinstance(given, list) and len(given) == 1 else given,
        output=NOTHING if failed else _plain(output),
        error=(output if isinstance(output, Mapping) else {}) if failed else None,
    )


def _status(spans: Sequence[Mapping[str, Any]], last: Mapping[str, Any], run_status: Status) -> Status:
    """How a step is. Of its spans any may still be called running or waiting when it, and even the run, has ended."""
    told = {span.get("status") for span in spans}
    if "COMPLETED" in told:
        return "completed"
    is_over = run_status in ("completed", "failed", "cancelled")
    if last.get("status") == "FAILED":
        # Where the run goes on and another span is open, it will be tried again.
        return "failed" if is_over or not told & {"RUNNING", "QUEUED", "WAITING"} else "waiting"
    status = _STATUS.get(last.get("status") or "", "running")
    return status if status not in ("running", "waiting") or not is_over else _OPEN_AT_THE_END[run_status]


def _tries(leaves: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """One span for each attempt, in order: of those that lie in one another, the innermost."""
    ordered = sorted(leaves, key=lambda span: (_time(span.get("endedAt")) or float("inf"), -_begin(span)))
    kept: list[Mapping[str, Any]] = []
    for span in ordered:
        begun = _begin(span)
        if kept and _time(kept[-1].get("endedAt")) is None:
            continue  # only the latest attempt may be open
        if kept and (before := _time(kept[-1].get("endedAt"))) is not None and begun < before:
            continue  # it began before the one that ended first had: the request around it
        if kept and begun == _begin(kept[-1]):
            continue
        kept.append(span)
    return kept


def _begin(span: Mapping[str, Any]) -> float:
    return _time(span.get("startedAt")) or _time(span.get("queuedAt")) or 0.0


def _attempt(span: Mapping[str, Any]) -> Attempt | None:
    begun = _time(span.get("startedAt"))
    if begun is None:
        return None
    ended = _time(span.get("endedAt")) or begun
    output = span.get("output")
    failed = span.get("status") == "FAILED"
    return Attempt(begun, ended, error_text(output if isinstance(output, Mapping) else {}) if failed else "")


def _plain(value: Any) -> Any:
    """Undo what the API does to JSON that is no object: it puts it under `data`."""
    if isinstance(value, Mapping) and set(value) == {"data"} and not isinstance(value["data"], Mapping):
        return value["data"]
    return value


def _time(text: Any) -> float | None:
    if not isinstance(text, str):
        return None
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")
