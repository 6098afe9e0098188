"""The run loop: claims jobs that are due, calls the app, and hands its answers on.

Nothing polls for work: whoever queues a job in this process calls `wake`, and a timer is set for the job that is due
next. Once in `POLL_SECONDS` the executor writes its heartbeat, looks for engines that died and for jobs that
another process left.

How attempts are counted (read off the real server, where the words "reset" and "attempt" mislead):

- A job has an attempt, starting at 0, and a Call Request carries the attempt of its job.
- A failed step (`StepError`), a failed function (a status other than 2xx) and an app that does not answer each
  requeue the same job with *the attempt that was sent* + 1. There are `retries` + 1 attempts.
- A step that ends in an answer (206 with `StepRun`, or the last `StepFailed`) queues a new job: its attempt is 0. So
  does each planned step.
- A saved checkpoint sets the *stored* attempt of the job to 0. The request that is open keeps the attempt it was sent
  with: if a later step of it fails, the job goes on with that attempt + 1, whatever was saved in between. The reset
  only counts where nobody answers the request in the end because the engine died: the job is then
  sent again with the stored attempt.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import socket
import sqlite3
import time
from typing import TYPE_CHECKING, Any, Final

from . import protocol
from .app_client import AppError, AppResponse
from .events import EventRouter
from .models import SECOND, JobKind, Request, RunStatus, StepAttempt, StepStatus
from .opcodes import Answer, FailRunError, OpcodeHandler
from .protocol import dump, new_ulid
from .times import parse_retry_after

if TYPE_CHECKING:
    from collections.abc import Callable

    from .app_client import AppClient
    from .models import Job, RunState
    from .store import Store
    from .times import Clock

logger = logging.getLogger("inngest_agents.local")

POLL_SECONDS: Final = 1.0
"""How often a heartbeat is written and the jobs of dead engines are looked for."""


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """What a run may not exceed; the defaults are the real server's."""

    max_steps: int = protocol.MAX_STEPS
    max_state: int = protocol.MAX_STATE
    """Bytes of all memos."""
    max_request: int = protocol.MAX_REQUEST
    """Bytes of a Call Request above which the app fetches events and memos by itself."""


class Executor:
    """Runs functions.

    Args:
        store: where all is kept.
        apps: calls the apps.
        clock: the time that timers go by.
        backoff: seconds to wait after a failed attempt (0, 1, …).
        limits: what a run may not exceed.
        on_end: called with the id of each run that ended in this process.
    """

    def __init__(
        self,
        store: Store,
        apps: AppClient,
        clock: Clock,
        *,
        backoff: Callable[[int], float] = protocol.default_backoff,
        limits: Limits | None = None,
        on_end: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.id = f"{socket.gethostname()}-{os.getpid()}-{new_ulid()[-8:]}"
        self.limits = limits or Limits()
        self.events = EventRouter(store, clock, on_end)
        self._store = store
        self._apps = apps
        self._clock = clock
        self._backoff = backoff
        self._opcodes = OpcodeHandler(store, clock, self.events)
        self._work = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def now(self) -> int:
        """The time that timers go by, in nanoseconds since the epoch."""
        return self._clock.now()

    def wake(self) -> None:
        """Look for due jobs now. To be called on the executor's event loop after a job was queued."""
        self._work.set()

    async def run(self) -> None:
        """Run until cancelled. Requests that are open then are dropped, and their jobs given back."""
        self._store.join(self.id)
        beat = asyncio.create_task(self._beat())
        try:
            while True:
                self._work.clear()
                now = self._clock.now()
                for job in self._claim(now):
                    task = asyncio.create_task(self._do(job))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
                await self._wait_for_work(now)
        finally:
            beat.cancel()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(beat, *self._tasks, return_exceptions=True)

    def _claim(self, now: int) -> list[Job]:
        try:
            due = self._store.next_due()
            return [] if due is None or due > now else self._store.claim(self.id, now)
        except sqlite3.OperationalError as error:
            # Somebody else holds the file for long; the jobs stay due.
            logger.warning("can't claim jobs now: %s", error)
            return []

    async def _wait_for_work(self, claimed_until: int) -> None:
        """Until `wake` is called or the next job falls due. One that was due before and was not claimed is held back
        by a concurrency limit: the end of another wakes us.
        """
        timer = self._store.next_timer(claimed_until)
        delay = POLL_SECONDS
        if timer is not None:
            delay = min(delay, max(0.0, (timer - self._clock.now()) / SECOND / self._clock.scale))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._work.wait(), delay)

    async def _beat(self) -> None:
        while True:
            try:
                self._show_life()
            except sqlite3.OperationalError as error:
                logger.warning("can't write a heartbeat now: %s", error)
            await asyncio.to_thread(self._store.tidy)
            await asyncio.sleep(POLL_SECONDS)

    def _show_life(self) -> None:
        if not self._store.heartbeat(self.id):
            logger.warning("this engine was taken for dead (was the process suspended?); its requests go on elsewhere")
            self._store.join(self.id)
        if self._store.bury():
            self.wake()

    # Jobs -----------------------------------------------------------------------------------------------------

    async def _do(self, job: Job) -> None:
        try:
            if job.kind is JobKind.TIMEOUT:
                self._time_out(job)
            elif job.kind is not JobKind.SLEEP or self._end_sleep(job):
                await self._call(job)
        except Exception:
            # A bug of ours must not leave a run hanging: the job is tried again, like after a crash.
            logger.exception("run %s: job %s failed inside the engine", job.run_id, job.key)
            with self._store.transaction():
                if self._store.owns(self.id, job):
                    self._store.requeue_job(job.id, job.attempt, self._clock.now() + SECOND)
        self.wake()

    def _time_out(self, job: Job) -> None:
        """A wait ends with null, an invocation with an error."""
        with self._store.transaction():
            if not self._store.owns(self.id, job):
                return
            self._store.finish_job(job.id)
            wait = self._store.wait_of(job.run_id, job.step_id or "")
            if wait is None:
                return
            memo = "null"
            if wait.kind == "invoke":
                name, message = "InngestInvokeTimeoutError", "Timed out waiting for invoked function to complete"
                memo = dump({"error": {"error": f"{name}: {message}", "name": name, "message": message}})
            self.events.resume(wait, StepStatus.TIMED_OUT, memo, "timeout")

    def _end_sleep(self, job: Job) -> bool:
        """Memoize a sleep that is over; returns whether the run goes on at once, in the same job."""
        assert job.step_id is not None
        with self._store.transaction():
            if not self._store.owns(self.id, job):
                return False
            now = self._clock.now()
            slept = self._store.resolve_step(job.run_id, job.step_id, StepStatus.COMPLETED, "null", now)
            if slept and self._store.has_pending(job.run_id) and not job.race:
                self._store.finish_job(job.id)
                return False
            if slept:
                self.events.allow_immediate(job.run_id)
        return True

    async def _call(self, job: Job) -> None:
        begun = self._begin(job)
        if begun is None:
            return
        state, request, url = begun
        body = protocol.call_request(state, job, request.id, max_request=self.limits.max_request)
        # They are in the body now, and nobody looks at them here again while the request is open.
        state = dataclasses.replace(state, memos=[])
        headers = {
            "x-inngest-req-version": str(state.request_version),
            "x-inngest-generation-id": str(job.generation),
            "x-inngest-job-id": str(job.id),
            "x-request-id": request.id,
            "x-run-id": job.run_id,
            "traceparent": protocol.traceparent(job.run_id, request.id),
        }
        target = job.step_id if job.kind is JobKind.CALL else None
        response: AppResponse | AppError
        try:
            response = await self._apps.call(url, target, body, headers)
        except AppError as error:
            response = error
        await self._take(job, request, state, response)

    def _begin(self, job: Job) -> tuple[RunState, Request, str] | None:
        """Note the request, unless the run is over or has too many steps."""
        with self._store.transaction():
            state = self._store.state(job.run_id)
            if state is None or not self._store.owns(self.id, job):
                return None
            if state.run.step_count >= self.limits.max_steps:
                name = "InngestErrFunctionOverflowed"
                message = f"The function run exceeded the step limit of {self.limits.max_steps} steps."
                error = {"error": f"{name}: {message}", "name": name, "message": message}
                self.events.finish(job.run_id, RunStatus.FAILED, error=error)
                return None
            function = self._store.function(state.run.function_id)
            if function is None:
                # Its app is not registered (yet), e.g. after a restart with another app: keep the run.
                logger.warning("run %s waits: function %s is not registered", job.run_id, state.run.function_id)
                self._store.requeue_job(job.id, job.attempt, self._clock.now() + 5 * SECOND)
                return None
            now = self._clock.now()
            target = job.step_id if job.kind is JobKind.CALL else None
            request = Request(
                new_ulid(), job.run_id, target, job.attempt, job.generation, self.id, now, None, None, None
            )
            self._store.start_run(job.run_id, now)
            self._store.add_request(request)
            return state, request, function.url

    # Answers ------------------------------------------------------------------------------------------------------

    async def _take(self, job: Job, request: Request, state: RunState, response: AppResponse | AppError) -> None:
        """Take an answer in: all that it changes, in one transaction."""
        status = None if isinstance(response, AppError) else response.status
        with self._store.transaction():
            now = self._clock.now()
            if not self._store.owns(self.id, job):
                # The run ended meanwhile, or another engine took the job over: this answer counts no more.
                self._store.end_request(request.id, now, status, "dropped")
                return
            answer = self._understand(job, request, state, response)
            self._store.end_request(request.id, now, status, answer if isinstance(answer, str) else "ops")
            if isinstance(answer, str):
                return
            retry = self._carry_out(answer, response)
            inferences = [op for op in answer.opcodes if op.op == "AIGateway"]
            if retry is not None and (retry or not inferences):
                self._close(job, response, retry=retry)
                return
        if retry is not None:
            self.wake()
            await self._infer(answer, inferences, response)

    def _understand(
        self, job: Job, request: Request, state: RunState, response: AppResponse | AppError
    ) -> Answer | str:
        """Deal with all answers but opcodes; returns those, or the outcome."""
        if isinstance(response, AppError):
            return self._fail(job, request, {"error": str(response), "name": "Error", "message": str(response)}, None)
        if response.is_sdk and response.status == 206:
            try:
                ops = protocol.parse_opcodes(response.body)
            except protocol.OpcodeError as error:
                return self._fail(job, request, {"error": str(error), "name": "Error", "message": str(error)}, response)
            return Answer(job, request, state, ops, response.no_retry, response.version, self.limits.max_state)
        if response.is_sdk and 200 <= response.status < 300 and not response.no_retry:
            output = response.body.decode() or "null"
            self.events.finish(job.run_id, RunStatus.COMPLETED, output_json=output)
            return "result"
        return self._fail(job, request, _error_of(response), response)

    def _fail(self, job: Job, request: Request, error: dict[str, Any], response: AppResponse | None) -> str:
        """The function failed, or the app did: try again, or end the run."""
        retry = job.attempt + 1 < job.max_attempts and not (response is not None and response.no_retry)
        now = self._clock.now()
        attempt = StepAttempt(None, job.attempt, request.id, request.started_ns, now, dump(error), retry)
        self._store.add_attempt(job.run_id, attempt)
        if retry:
            self._store.requeue_job(job.id, job.attempt + 1, self._retry_at(job, response))
        else:
            self.events.finish(job.run_id, RunStatus.FAILED, error=error)
        return "error"

    def _retry_at(self, job: Job, response: AppResponse | AppError | None) -> int:
        now = self._clock.now()
        if isinstance(response, AppResponse):
            # A date in the header is by the real clock, which the engine's own may be ahead of.
            real = time.time_ns()
            at = parse_retry_after(response.headers.get("retry-after"), real)
            if at is not None:
                return now + at - real
        return now + int(self._backoff(job.attempt) * SECOND)

    def _carry_out(self, answer: Answer, response: AppResponse | AppError) -> bool | None:
        """Whether to retry; None if the job is dealt with already."""
        try:
            return self._opcodes.carry_out(answer)
        except FailRunError as failure:
            self.events.finish(answer.job.run_id, RunStatus.FAILED, error=failure.error)
        except protocol.OpcodeError as bad:
            error = {"error": str(bad), "name": "Error", "message": str(bad)}
            self._fail(answer.job, answer.request, error, response if isinstance(response, AppResponse) else None)
        return None

    def _close(self, job: Job, response: AppResponse | AppError, *, retry: bool) -> None:
        if retry:
            self._store.requeue_job(job.id, job.attempt + 1, self._retry_at(job, response))
        else:
            self._store.finish_job(job.id)

    async def _infer(self, answer: Answer, inferences: list[protocol.Opcode], response: AppResponse | AppError) -> None:
        """Make the inference requests of an answer, at once; no request to the app is open meanwhile."""

        async def one(op: protocol.Opcode) -> tuple[int, str, dict[str, Any] | None]:
            started = self._clock.now()
            try:
                reply = await self._apps.infer(op.opts)
            except AppError as error:
                return started, *_inference_error(str(error), "")
            text = reply.body.decode("utf-8", "replace")
            if not 200 <= reply.status < 300:
                return started, *_inference_error(f"unsuccessful status code: {reply.status}", text)
            return started, f'{{"data":{text or "null"}}}', None

        outcomes = await asyncio.gather(*(one(op) for op in inferences))
        with self._store.transaction():
            if not self._store.owns(self.id, answer.job):
                return
            retry = False
            for op, (started, memo, error) in zip(inferences, outcomes, strict=True):
                retry |= self._opcodes.inferred(answer, op, started, memo, error)
            self._close(answer.job, response, retry=retry)


def _inference_error(reason: str, body: str) -> tuple[str, dict[str, Any]]:
    error: dict[str, Any] = {
        "name": "AIGatewayError",
        "message": f"Error making AI request: {reason}",
        "stack": body or '{"error":"Error making AI request"}',
    }
    return dump({"error": error}), error


def _error_of(response: AppResponse) -> dict[str, Any]:
    """The error of an answer that is no success."""
    if response.is_sdk:
        reason = "NonRetriableError" if response.no_retry else f"invalid status code: {response.status}"
        return protocol.standard_error(response.body, reason)
    if 200 <= response.status < 300:
        message = "The response did not come from an Inngest SDK"
        return {"error": f"not_sdk: {message}", "name": "not_sdk", "message": message}
    message = f"Your server returned HTTP {response.status} before the SDK responded."
    body = response.body[:8192].decode("utf-8", "replace")
    return {"error": message, "name": "Server returned a fatal error", "message": message, "stack": body}
