"""What each opcode of an answer makes of its run.

Everything here runs inside the caller's transaction. The order of things, the keys of the jobs (which make repeated
answers harmless) and the flags follow the real server's executor.
"""

from __future__ import annotations

import hashlib
import re
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from . import expressions, protocol
from .events import INVOKED
from .models import JobKind, NewJob, RunStatus, StepAttempt, StepStatus
from .protocol import Opcode, dump
from .times import YEAR_NS, parse_date, parse_duration, parse_until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .events import EventRouter
    from .models import Job, Request, RunState, StepRecord
    from .store import Store
    from .times import Clock


class FailRunError(Exception):
    """An opcode that ends its run at once.

    Args:
        name: the name of the error that the run gets.
        message: its message.
    """

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.error = {"error": f"{name}: {message}", "name": name, "message": message}


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer with opcodes, and what it was the answer to."""

    job: Job
    request: Request
    state: RunState
    opcodes: Sequence[Opcode]
    no_retry: bool
    version: int
    max_state: int


class OpcodeHandler:
    """Carries out opcodes.

    Args:
        store: where all is kept.
        clock: the time that sleeps and timeouts go by.
        events: starts invoked functions and ends runs.
    """

    def __init__(self, store: Store, clock: Clock, events: EventRouter) -> None:
        self._store = store
        self._clock = clock
        self._events = events

    def carry_out(self, answer: Answer) -> bool:
        """Carry out all opcodes but inference requests.

        Returns:
            whether the request is to be sent again, as its step failed and has attempts left.

        Raises:
            FailRunError: the run can't go on.
            protocol.OpcodeError: an opcode can't be carried out; the request is to be retried.
        """
        if all(op.op == "None" and not op.id for op in answer.opcodes):
            self._redrive(answer)
            return False
        coalesce_key = self._plan(answer)
        retry = False
        # Waits come first, so that an event that a step beside them sends finds them.
        for op in sorted(answer.opcodes, key=lambda op: op.op != "WaitForEvent"):
            handler = _HANDLERS.get(op.op)
            if handler is None:
                raise protocol.OpcodeError(
                    f"unknown opcode: {op.op} is nothing that the embedded engine can do; an Inngest server may"
                )
            retry |= handler(self, answer, op, coalesce_key)
        return retry

    def _redrive(self, answer: Answer) -> None:
        """An answer without anything to do: ask again."""
        memos = self._store.state(answer.job.run_id)
        after = memos.memos[-1][0] if memos is not None and memos.memos else None
        self._store.add_job(
            answer.job.run_id,
            NewJob(
                f"redrive-{answer.request.id}",
                outgoing=after,
                due_ns=self._clock.now(),
                max_attempts=answer.job.max_attempts,
            ),
        )

    def _plan(self, answer: Answer) -> str | None:
        """Note what parallel steps mean for later requests; returns the key that steps of one plan share."""
        state, ops = answer.state, answer.opcodes
        parallel = len(ops) > 1
        version = answer.version if state.request_version == -1 else state.request_version
        if version != state.request_version or (parallel and not state.force_step_plan):
            self._store.set_protocol(
                state.run.id, force_step_plan=state.force_step_plan or parallel, request_version=version
            )
        if len(ops) > protocol.MAX_STEPS:
            raise FailRunError(
                "InngestErrFunctionOverflowed",
                f"The function run exceeded the step limit of {protocol.MAX_STEPS} steps.",
            )
        if not parallel or version < 2 or not any(op.op == "StepPlanned" for op in ops):
            return None
        ids = sorted(op.id for op in ops)
        self._store.add_pending(state.run.id, ids)
        return hashlib.sha256("\0".join([state.run.id, *ids]).encode()).hexdigest()[:16]

    # Steps that ended -----------------------------------------------------------------------------------------

    def _none(self, _answer: Answer, _op: Opcode, _key: str | None) -> bool:
        return False

    def _step_run(self, answer: Answer, op: Opcode, _key: str | None) -> bool:
        """A step ended well. A memo that is there already stays, and the run goes on all the same: the
        engine may have died between saving the memo and queueing the next request.

        The next request is a new job, so its attempt is 0 (other than after a checkpoint: see `server`).
        """
        memo = op.memo()
        if answer.state.run.state_size + len(memo) > answer.max_state:
            raise FailRunError(
                "InngestErrStateOverflowed",
                f"The function run exceeded the state size limit of {answer.max_state} bytes.",
            )
        self._save(answer, op, StepStatus.COMPLETED, memo)
        self._go_on(answer, op, op.id)
        return False

    def _step_error(self, answer: Answer, op: Opcode, key: str | None) -> bool:
        """A step failed: try again while the job has attempts left, else memoize the error."""
        job = answer.job
        if answer.no_retry or job.attempt + 1 >= job.max_attempts:
            return self._step_failed(answer, op, key)
        record = op.record(StepStatus.RETRYING, answer.request.id)
        self._store.report_step(job.run_id, record, self._clock.now())
        self._add_attempt(answer, op, will_retry=True)
        return True

    def _step_failed(self, answer: Answer, op: Opcode, _key: str | None) -> bool:
        """A step failed for good: its error becomes its memo, and the function decides what to make of it."""
        self._add_attempt(answer, op, will_retry=False)
        self._save(answer, op, StepStatus.FAILED, op.memo())
        self._go_on(answer, op, f"{op.id}-failure")
        return False

    def _save(self, answer: Answer, op: Opcode, status: StepStatus, memo: str) -> None:
        record = op.record(status, answer.request.id, memo_json=memo)
        self._store.save_step(answer.job.run_id, _timed(record, answer, self._clock.now()), self._clock.now())

    def _go_on(self, answer: Answer, op: Opcode, key: str) -> None:
        job = answer.job
        race = op.race or job.race
        self._events.go_on(job.run_id, op.id, key, job.coalesce_key, job.max_attempts, race=race)

    def _add_attempt(self, answer: Answer, op: Opcode, *, will_retry: bool) -> None:
        attempt = StepAttempt(
            op.id,
            answer.job.attempt,
            answer.request.id,
            op.started_ns or answer.request.started_ns,
            op.ended_ns or self._clock.now(),
            dump(op.error),
            will_retry,
        )
        self._store.add_attempt(answer.job.run_id, attempt)

    # Steps that are only beginning ------------------------------------------------------------------------------

    def _step_planned(self, answer: Answer, op: Opcode, key: str | None) -> bool:
        """A step to be run by a request of its own."""
        self._report(answer, op, StepStatus.PLANNED)
        self._store.add_job(
            answer.job.run_id,
            NewJob(
                f"{op.id}-plan",
                step_id=op.id,
                outgoing=answer.job.outgoing,
                due_ns=self._clock.now(),
                max_attempts=answer.job.max_attempts,
                coalesce_key=key,
                race=op.race,
            ),
        )
        return False

    def _sleep(self, answer: Answer, op: Opcode, key: str | None) -> bool:
        """The SDK writes the time into `opts.duration`, older ones into the name."""
        now = self._clock.now()
        until = _sleep_until(str(op.opts.get("duration") or op.raw_name), now)
        if until > now + YEAR_NS:
            raise FailRunError(
                "InngestErrTimeoutTooLong", "The sleep ends more than one year in the future; a year is the most."
            )
        self._report(answer, op, StepStatus.SLEEPING)
        self._add_timer(answer, op, JobKind.SLEEP, until, key)
        return False

    def _wait_for_event(self, answer: Answer, op: Opcode, key: str | None) -> bool:
        event_name = str(op.opts.get("event") or op.raw_name)
        expression = op.opts.get("if")
        if expression is not None:
            try:
                expressions.check(str(expression))
            except expressions.ExpressionError as error:
                raise FailRunError("InvalidExpression", f"Wait for event If expression failed: {error}") from error
        expires = self._expires(op)
        self._report(answer, op, StepStatus.WAITING)
        self._store.add_wait(
            answer.job.run_id,
            kind="event",
            step_id=op.id,
            event_name=event_name,
            expression=None if expression is None else str(expression),
            expires_ns=expires,
            coalesce_key=key,
            race=op.race,
            max_attempts=answer.job.max_attempts,
        )
        self._add_timer(answer, op, JobKind.TIMEOUT, expires, key)
        return False

    def _invoke(self, answer: Answer, op: Opcode, key: str | None) -> bool:
        """Start another function and wait for its end."""
        run_id = answer.job.run_id
        correlation_id = f"{run_id}.{op.id}"
        expires = self._expires(op)
        self._report(answer, op, StepStatus.INVOKING)
        if not self._add_timer(answer, op, JobKind.TIMEOUT, expires, key):
            return False  # the same invocation reported twice: it is under way
        self._store.add_wait(
            run_id,
            kind="invoke",
            step_id=op.id,
            event_name="inngest/function.finished",
            correlation_id=correlation_id,
            expires_ns=expires,
            coalesce_key=key,
            race=op.race,
            max_attempts=answer.job.max_attempts,
        )
        payload: dict[str, Any] = op.opts.get("payload") or {}
        meta = {
            "fn_id": str(op.opts.get("function_id") or ""),
            "correlation_id": correlation_id,
            "source_fn_id": protocol.function_uuid(answer.state.run.function_id),
            "expire": expires // 1_000_000,
            "name": op.name,
        }
        event: dict[str, Any] = {
            "data": {**(payload.get("data") or {}), "_inngest": meta},
            "id": "",
            "name": INVOKED,
            "ts": self._clock.now() // 1_000_000,
            "user": payload.get("user") or {},
        }
        if payload.get("v"):
            event["v"] = payload["v"]
        self._events.receive(event)
        return False

    def _report(self, answer: Answer, op: Opcode, status: StepStatus) -> None:
        self._store.report_step(answer.job.run_id, op.record(status, answer.request.id), self._clock.now())

    def _add_timer(self, answer: Answer, op: Opcode, kind: JobKind, due: int, key: str | None) -> bool:
        timer = NewJob(
            op.id,
            kind=kind,
            step_id=op.id,
            outgoing=op.id,
            due_ns=due,
            max_attempts=answer.job.max_attempts,
            coalesce_key=key,
            race=op.race,
        )
        return self._store.add_job(answer.job.run_id, timer)

    def _expires(self, op: Opcode) -> int:
        now = self._clock.now()
        timeout = op.opts.get("timeout")
        try:
            return parse_until(str(timeout), now) if timeout else now + YEAR_NS
        except ValueError as error:
            raise protocol.OpcodeError(str(error)) from error

    # Others -----------------------------------------------------------------------------------------------------

    def _run_complete(self, answer: Answer, op: Opcode, _key: str | None) -> bool:
        self._events.finish(answer.job.run_id, RunStatus.COMPLETED, output_json=op.data_json)
        return False

    def _discovery_request(self, answer: Answer, op: Opcode, _key: str | None) -> bool:
        """The app wants to go on in a new request."""
        job = answer.job
        key = op.id or f"discover-{answer.request.id}"
        self._events.go_on(job.run_id, op.id, key, job.coalesce_key, job.max_attempts, race=True)
        return False

    def _inference(self, answer: Answer, op: Opcode, _key: str | None) -> bool:
        """Only noted here: the executor makes the request, outside the transaction, and calls `infer`."""
        self._report(answer, op, StepStatus.PLANNED)
        return False

    def inferred(self, answer: Answer, op: Opcode, started: int, memo_json: str, error: dict[str, Any] | None) -> bool:
        """Take the outcome of an inference request in; returns whether the request of the app is to be retried."""
        job, now = answer.job, self._clock.now()
        retry = error is not None and not answer.no_retry and job.attempt + 1 < job.max_attempts
        if error is not None:
            attempt = StepAttempt(op.id, job.attempt, answer.request.id, started, now, dump(error), retry)
            self._store.add_attempt(job.run_id, attempt)
        if retry:
            return True
        status = StepStatus.COMPLETED if error is None else StepStatus.FAILED
        self._store.resolve_step(job.run_id, op.id, status, memo_json, now)
        self._go_on(answer, op, op.id)
        return False


_HANDLERS: Final[dict[str, Callable[[OpcodeHandler, Answer, Opcode, str | None], bool]]] = {
    "None": OpcodeHandler._none,  # noqa: SLF001  the table of this class's own methods
    "Step": OpcodeHandler._step_run,  # noqa: SLF001
    "StepRun": OpcodeHandler._step_run,  # noqa: SLF001
    "StepError": OpcodeHandler._step_error,  # noqa: SLF001
    "StepFailed": OpcodeHandler._step_failed,  # noqa: SLF001
    "StepPlanned": OpcodeHandler._step_planned,  # noqa: SLF001
    "Sleep": OpcodeHandler._sleep,  # noqa: SLF001
    "WaitForEvent": OpcodeHandler._wait_for_event,  # noqa: SLF001
    "InvokeFunction": OpcodeHandler._invoke,  # noqa: SLF001
    "AIGateway": OpcodeHandler._inference,  # noqa: SLF001
    "RunComplete": OpcodeHandler._run_complete,  # noqa: SLF001
    "DiscoveryRequest": OpcodeHandler._discovery_request,  # noqa: SLF001
}


def _timed(record: StepRecord, answer: Answer, now: int) -> StepRecord:
    """A step without timing of its own took from the start of its request until now."""
    if record.started_ns is not None:
        return record
    return replace(record, started_ns=answer.request.started_ns, ended_ns=now)


def _sleep_until(text: str, now: int) -> int:
    try:
        if re.match(r"\d{4}-\d\d-\d\d", text):
            # The SDK adds the duration to the real clock, which the engine's own may be ahead of.
            return now + max(0, parse_date(text) - time.time_ns())
        return now + (parse_duration(text) if text else 0)
    except ValueError as error:
        raise protocol.OpcodeError(str(error)) from error
