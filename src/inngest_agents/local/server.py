"""The HTTP side of the engine: the endpoints that Inngest SDKs call, and a few for reading.

The checkpoint endpoint is called once a step, so it is a bare ASGI function in front of the router: it parses
the body once, keeps each step's data as text, and saves all in one transaction.

A checkpoint is answered as the real server does: 200 saved (a step that was saved before keeps its first memo), 400
for what can't be read or is no finished step, 401 for a wrong key, 409 when the job was given to another dispatch
(another engine took it over, or its request was answered), 413 for too large outputs. Where the real server says 400
for a run that is unknown or over, this one says 404, as its documentation does: apps must take both for an end.

A checkpoint sets the stored attempt of its job to 0, which matters less than it seems: see `executor`.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from . import events, protocol, registration
from .models import SECOND, RunStatus, StepRecord, StepStatus
from .protocol import MAX_EVENT, function_uuid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

    from .executor import Executor
    from .models import Run, Step
    from .store import Store

logger = logging.getLogger("inngest_agents.local")

_CHECKPOINT: Final = "/v1/checkpoint/"


class _RefusedError(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class EngineServer:
    """The engine as an ASGI app.

    Args:
        store: where all is kept.
        executor: runs what events start.
        signing_keys: if there are any, apps must prove that they have one (`Authorization: Bearer …`).
        event_keys: if there are any, events are only taken under one of them.
    """

    def __init__(
        self,
        store: Store,
        executor: Executor,
        *,
        signing_keys: Sequence[str] = (),
        event_keys: Sequence[str] = (),
    ) -> None:
        self._store = store
        self._executor = executor
        self._kind = "cloud" if signing_keys else "dev"
        self._tokens = [protocol.bearer_of(key) for key in signing_keys]
        self._event_keys = tuple(event_keys)
        self.warnings: dict[str, tuple[str, ...]] = {}
        """By app, what the engine does not do of what its functions ask for."""
        self._router: ASGIApp = Starlette(routes=self._routes(), exception_handlers={HTTPException: _refuse})

    def _routes(self) -> list[Route]:
        return [
            Route("/health", self._health),
            Route("/dev", self._dev),
            Route("/fn/register", self._register, methods=["POST", "PUT"]),
            Route("/v0/connect/start", self._connect, methods=["POST"]),
            Route("/e/{key}", self._receive, methods=["POST"]),
            Route("/v1/events/{event_id}/runs", self._event_runs),
            Route("/v1/runs/{run_id}", self._run),
            Route("/v1/runs/{run_id}", self._cancel, methods=["DELETE"]),
            Route("/v1/runs/{run_id}/jobs", self._jobs),
            Route("/v0/runs/{run_id}/actions", self._actions),
            Route("/v0/runs/{run_id}/batch", self._batch),
            Route("/local/runs", self._list),
            Route("/local/runs/{run_id}", self._trace),
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        path: str = scope.get("path", "")
        if scope["type"] == "http" and path.startswith(_CHECKPOINT) and path.endswith("/async"):
            await self._checkpoint(scope, receive, send)
        else:
            await self._router(scope, receive, send)

    # Checkpoints ------------------------------------------------------------------------------------------

    async def _checkpoint(self, scope: Scope, receive: Receive, send: Send) -> None:
        status, answer = 200, b""
        try:
            self._authorize(dict(scope["headers"]).get(b"authorization", b"").decode())
            body = await _read(receive)
            self._save(scope["path"][len(_CHECKPOINT) : -len("/async")], body)
        except _RefusedError as refused:
            status = refused.status
            answer = json.dumps({"error": str(refused), "status": status}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    def _save(self, run_id: str, body: bytes) -> None:
        """Save the steps of a checkpoint.

        Raises:
            _RefusedError: they are not saved, none of them.
        """
        try:
            message = json.loads(body)
            steps = [protocol.parse_opcode(step) for step in message["steps"]]
        except protocol.TooLargeError as error:
            raise _RefusedError(413, str(error)) from error
        except (ValueError, KeyError, TypeError) as error:
            raise _RefusedError(400, f"invalid request body: {error}") from error
        records = [_checkpointed(op, message.get("request_id")) for op in steps]
        size = sum(len(record.memo_json or "") for record in records)
        job_id = protocol.parse_queue_ref(message.get("qi_id"))
        now = self._executor.now()
        with self._store.transaction():
            live, state_size, generation, attempt = self._store.dispatch_of(run_id, job_id)
            if not live:
                raise _RefusedError(404, "run not found, or it has ended")
            expected = message.get("generation_id")
            if job_id is not None and (generation is None or (expected and generation != expected)):
                raise _RefusedError(409, "stale dispatch")
            if state_size + size > self._executor.limits.max_state:
                raise _RefusedError(413, "run state size limit exceeded")
            for record in records:
                if record.memo_json is None:
                    self._store.report_step(run_id, record, now)
                else:
                    self._store.save_step(run_id, record, now)
            if job_id is not None and attempt:
                self._store.reset_attempts(job_id)

    def _authorize(self, header: str) -> None:
        if not self._tokens:
            return
        token = header.removeprefix("Bearer ").rpartition("-")[2]
        if not any(hmac.compare_digest(token, known) for known in self._tokens):
            raise _RefusedError(401, "Unauthorized")

    # What SDKs call -----------------------------------------------------------------------------------------

    async def _health(self, _: Request) -> Response:
        return JSONResponse({"status": 200, "message": "OK"})

    async def _dev(self, _: Request) -> Response:
        functions = [
            {"id": function_uuid(f.id), "slug": f.id, "name": f.name, "url": f.url, "appID": f.app_id}
            for f in self._store.functions()
        ]
        return JSONResponse({"version": "embedded", "functions": functions, "isSingleNodeService": True})

    async def _register(self, request: Request) -> Response:
        self._guard(request)
        expected = request.headers.get("x-inngest-expected-server-kind")
        if expected and expected != self._kind:
            return JSONResponse({"error": f"Expected server kind {expected}, got {self._kind}"}, 400)
        try:
            registered = registration.parse(await _json(request))
        except registration.RegistrationError as error:
            return JSONResponse({"error": str(error)}, 400)
        with self._store.transaction():
            modified = self._store.register(registered.app_id, registered.functions)
        if modified:
            logger.info("app %s registered: %s", registered.app_id, ", ".join(f.id for f in registered.functions))
        self._warn(registered)
        self._executor.wake()
        answer = {"ok": True, "modified": modified, "warnings": registered.warnings}
        return JSONResponse(answer, headers={"x-inngest-server-kind": self._kind})

    def _warn(self, registered: registration.Registration) -> None:
        """Log what the engine does not do for an app; once, as apps are asked to register again and again."""
        known = self.warnings.get(registered.app_id, ())
        self.warnings[registered.app_id] = registered.warnings
        for warning in registered.warnings:
            if warning not in known:
                logger.warning(warning)

    async def _connect(self, _: Request) -> Response:
        """The SDK tells its user only the status, so the reason goes into our log."""
        reason = "the embedded engine has no Connect: serve the functions over HTTP, or use an Inngest server"
        logger.warning(reason)
        return JSONResponse({"error": reason}, 501)

    async def _receive(self, request: Request) -> Response:
        if self._event_keys and request.path_params["key"] not in self._event_keys:
            return JSONResponse({"ids": [], "status": 401, "error": "Event key not found"}, 401)
        try:
            raw = await _json(request)
            items = raw if isinstance(raw, list) else [raw]
            received = [events.normalize(item, self._executor.now()) for item in items]
            if any(len(protocol.dump(event)) > MAX_EVENT for event in received):
                raise events.EventError(f"event is too large: the limit is {MAX_EVENT} bytes")
        except (HTTPException, events.EventError) as error:
            message = error.detail if isinstance(error, HTTPException) else str(error)
            return JSONResponse({"ids": [], "status": 400, "error": message}, 400)
        ids = self.send(received, seed=request.headers.get("x-inngest-event-id-seed"))
        return JSONResponse({"ids": ids, "status": 200})

    def send(self, received: Sequence[dict[str, Any]], *, seed: str | None = None) -> list[str]:
        """Take normalized events in, all or none; returns their ids.

        Args:
            received: the events.
            seed: what their ids are made from, so that a sender that repeats itself is recognized.
        """
        ids = []
        with self._store.transaction():
            for n, event in enumerate(received):
                event_id = _seeded_id(seed, n)
                if event_id is None or not self._store.event_exists(event_id):
                    event_id = self._executor.events.receive(event, event_id)
                ids.append(event_id)
        self._executor.wake()
        return ids

    async def _actions(self, request: Request) -> Response:
        self._guard(request)
        state = self._store.state(request.path_params["run_id"])
        if state is None or state.run.status.ended:
            return _gone(request)
        memos = ",".join(f'"{step_id}":{memo}' for step_id, memo in state.memos)
        return Response("{" + memos + "}", media_type="application/json")

    async def _batch(self, request: Request) -> Response:
        self._guard(request)
        run = self._store.run(request.path_params["run_id"])
        if run is None or run.status.ended:
            return _gone(request)
        return Response(run.events_json, media_type="application/json")

    # Reading --------------------------------------------------------------------------------------------------

    async def _event_runs(self, request: Request) -> Response:
        self._guard(request)
        return _data([_run_json(run) for run in self._store.event_runs(request.path_params["event_id"])])

    async def _run(self, request: Request) -> Response:
        self._guard(request)
        return _data(_run_json(self._find(request)))

    async def _jobs(self, request: Request) -> Response:
        self._guard(request)
        self._find(request)
        return _data([])

    async def _cancel(self, request: Request) -> Response:
        self._guard(request)
        run = self._find(request)
        with self._store.transaction():
            self._executor.events.finish(run.id, RunStatus.CANCELLED)
        self._executor.wake()
        return Response(status_code=204)

    async def _list(self, request: Request) -> Response:
        self._guard(request)
        limit = request.query_params.get("limit", "50")
        runs = self._store.runs(limit=min(int(limit), 1000) if limit.isdigit() else 50)
        return _data([_run_json(run) for run in runs])

    async def _trace(self, request: Request) -> Response:
        self._guard(request)
        run = self._find(request)
        return _data(_run_json(run) | {"steps": [_step_json(step) for step in self._store.steps(run.id)]})

    def _find(self, request: Request) -> Run:
        run = self._store.run(request.path_params["run_id"])
        if run is None:
            raise HTTPException(404, "run not found")
        return run

    def _guard(self, request: Request) -> None:
        try:
            self._authorize(request.headers.get("authorization", ""))
        except _RefusedError as refused:
            raise HTTPException(refused.status, str(refused)) from refused


def _checkpointed(op: protocol.Opcode, request_id: str | None) -> StepRecord:
    if op.op == "StepPlanned":
        # The app only says that it begins the step, for the console.
        return op.record(StepStatus.PLANNED, request_id)
    if op.op not in ("StepRun", "Step"):
        raise _RefusedError(400, f"cannot checkpoint opcode: {op.op}")
    return op.record(StepStatus.COMPLETED, request_id, memo_json=op.memo(), checkpointed=True)


def _seeded_id(seed: str | None, n: int) -> str | None:
    """The id that an event has by its sender's seed (`milliseconds,entropy`), its n-th of one message."""
    if not seed:
        return None
    millis, _, entropy = seed.partition(",")
    if not millis.isdigit() or not entropy:
        return None
    digest = hashlib.sha256(f"{seed}:{n}".encode()).digest()
    return protocol.new_ulid(int(millis) * 1_000_000, digest[:10])


async def _read(receive: Receive) -> bytes:
    message = await receive()
    body: bytes = message.get("body", b"")
    while message.get("more_body"):
        message = await receive()
        body += message.get("body", b"")
    return body


async def _json(request: Request) -> Any:
    with contextlib.suppress(ValueError):
        return json.loads(await request.body())
    raise HTTPException(400, "the body is not JSON")


async def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail, "status": error.status_code}, error.status_code)


def _gone(request: Request) -> Response:
    message = f"runtime state is no longer available for runID: {request.path_params['run_id']}"
    return JSONResponse({"error": message, "status": 410}, 410)


def _data(value: object) -> Response:
    return JSONResponse({"data": value, "metadata": {"fetched_at": datetime.now(UTC).isoformat()}})


def _iso(ns: int | None) -> str | None:
    return None if ns is None else datetime.fromtimestamp(ns / SECOND, UTC).isoformat()


def _run_json(run: Run) -> dict[str, Any]:
    return {
        "run_id": run.id,
        "run_started_at": _iso(run.started_ns or run.queued_ns),
        "function_id": function_uuid(run.function_id),
        "function_slug": run.function_id,
        "function_version": 1,
        "event_id": run.event_id,
        "status": run.status,
        "ended_at": _iso(run.ended_ns),
        "output": run.error if run.error_json is not None else run.output,
    }


def _step_json(step: Step) -> dict[str, Any]:
    return {
        "id": step.id,
        "name": step.name,
        "op": step.op,
        "status": step.status,
        "started_ns": step.started_ns,
        "ended_ns": step.ended_ns,
        "memo": step.memo,
        "metadata": step.metadata,
        "attempts": [{"attempt": a.attempt, "error": a.error, "will_retry": a.will_retry} for a in step.attempts],
        "request_id": step.request_id,
        "checkpointed": step.checkpointed,
    }
