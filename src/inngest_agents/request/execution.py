"""Runs the steps of one request: each in a task of its own, to a saved output, an answer, or a failure."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from typing import TYPE_CHECKING, Any, Final

import inngest

from inngest_agents import _inngest_sdk as sdk
from inngest_agents.errors import OutputTooLargeError, UnsupportedError, message_of, qualified_name
from inngest_agents.memos.stored_errors import notes_on, rebuild
from inngest_agents.request.checkpoint import ASK_SECONDS, MAX_OUTPUT, SaveOutcome, encoded, output_size
from inngest_agents.request.process_end import is_of_exit
from inngest_agents.request.step_request import StepRequest, StepScope
from inngest_agents.scope import inside_step

if TYPE_CHECKING:
    from collections.abc import Callable

    from inngest_agents.request.asked import Asked, Shared
    from inngest_agents.request.checkpoint import Checkpointer
    from inngest_agents.request.request_end import RequestEnd
    from inngest_agents.stats.records import UsageRecord

_billed_before: dict[tuple[str, str], list[UsageRecord]] = {}
"""What earlier attempts of a step were billed, by run and step id, where the engine offers no checkpointing."""

BILLED_LIMIT: Final = 1000
"""How many steps are waited for with it: one whose run was cancelled does not come again."""


@dataclasses.dataclass(slots=True)
class _Attempt:
    """One execution of a step."""

    scope: StepScope
    started: int = dataclasses.field(default_factory=time.time_ns)
    _start: int = dataclasses.field(default_factory=time.perf_counter_ns)

    def timing(self) -> dict[str, int]:
        """When it began and what it has taken so far, in nanoseconds, as in an opcode."""
        return {"a": self.started, "b": time.perf_counter_ns() - self._start}


class StepRunner:
    """Runs the steps of one request.

    Args:
        engine: the request.
        end: how it ends.
        asked: the steps that wait for an answer, by hashed id; one that was saved is taken out.
        shared: what the drivers of the request share.
        deadline: the time after which the request ends with the next step that does; None for never.
    """

    def __init__(
        self,
        engine: sdk.EngineRequest,
        end: RequestEnd,
        asked: dict[str, Asked],
        shared: Shared,
        deadline: float | None,
    ) -> None:
        self.has_started = False
        """Whether a step was started in this request."""
        self.on_idle: Callable[[], None]
        """Called when nothing runs any more; what has been held back may start then."""
        self._engine = engine
        self._end = end
        self._asked = asked
        self._shared = shared
        self._deadline = deadline

    def start(self, asked: Asked) -> None:
        """Run a step that was asked for."""
        self._end.tell_of(asked.request.hashed_id)
        self._end.running.add(asked)
        self.has_started = self._shared.is_answered = True
        asked.task = self._end.loop.create_task(self._run(asked), context=asked.request.context)
        asked.task.add_done_callback(lambda _: self._left(asked))

    @property
    def is_overdue(self) -> bool:
        """Whether the request is to end with the step that ends next."""
        return self._deadline is not None and time.monotonic() > self._deadline

    def _left(self, asked: Asked) -> None:
        """A step's task has ended, in whatever way."""
        self._end.running.discard(asked)
        task = asked.task
        assert task is not None
        if not task.cancelled() and (error := task.exception()) is not None:
            # Not the step's own error, but one of ours: it must end the run and not be lost.
            self._end.at_once(error)
        self._end.conclude()
        if not self._end.running:
            self.on_idle()

    async def _run(self, asked: Asked) -> None:
        request, saver = asked.request, self._end.saver
        if saver is not None:
            # A slow step makes what follows doubtful, too; the save that is waited for then takes little of that time.
            is_late = request.after_save or saver.is_doubtful
            outcome = await saver.flush_and_own() if is_late else saver.outcome
            if outcome is not SaveOutcome.SAVED:
                self._end.answer()
                return
        elif self._end.asker is not None:
            await self._end.asker.confirm(ASK_SECONDS)
        if self._end.is_over:
            return  # this step is asked for again in the next request
        await self._engine.before_execution()
        attempt = _Attempt(self._scope(asked))
        token = sdk.mark_in_step()
        try:
            with inside_step(attempt.scope):
                payload = await request.run(attempt.scope)
        except (sdk.NestedStepInterrupt, sdk.ResponseInterrupt, sdk.SkipInterrupt):
            # Of a method of `ctx.step`; those that only wait don't look whether they are inside of a step.
            self._failed(asked, _nested_step(request), attempt)
        except Exception as error:  # noqa: BLE001  whatever the user's code raises is the step's error
            await self._failed_and_billed(asked, error, attempt)
        except asyncio.CancelledError as error:
            if asked.is_withdrawn or self._end.is_over:
                raise
            # Raised or made by the user's code (a cancel scope that it has left open, say): nobody cancels this step.
            await self._failed_and_billed(asked, error, attempt)
        else:
            await self._finished(asked, payload, attempt)
        finally:
            sdk.unmark_in_step(token)

    def _scope(self, asked: Asked) -> StepScope:
        run_id, step_id = self._engine.run_id, asked.request.step_id
        # Not of the hashed id, which is another one for a step that was taken for overtaken.
        key = sdk.hash_step_id(step_id)[:20]
        scope = StepScope(step_id, f"{run_id}-{key}", self._engine.attempt)
        scope.maybe_repeated = asked.after_replay
        scope.nested_usage.extend(_billed_before.pop((run_id, step_id), ()))
        return scope

    # Finished ---------------------------------------------------------------------------------------------------

    async def _finished(self, asked: Asked, payload: dict[str, Any], attempt: _Attempt) -> None:
        request = asked.request
        metadata = request.metadata(payload) if request.metadata is not None else None
        response = _response(request, sdk.Opcode.STEP_RUN, output=payload, timing=attempt.timing(), metadata=metadata)
        saver = self._end.saver
        opcode = await self._engine.opcode(response) if saver is not None else None
        text = encoded(opcode if opcode is not None else payload)
        size = output_size(text)
        if size > MAX_OUTPUT and opcode is not None:
            size = output_size(encoded(opcode["data"]))  # without the step's names and its input
        if size > MAX_OUTPUT:
            # Answered all the same, it would be refused and the step run again, as often as there are attempts.
            self._failed(asked, OutputTooLargeError(request.step_id, size, MAX_OUTPUT), attempt)
            return
        if saver is None:
            self._end.answer(response)
            return
        self._end.planned_ids[request.hashed_id] = request.planned_id
        if self._is_to_be_last(asked):
            await self._save_last(request, text, response, saver)
            return
        saver.add(text, response)
        request.record = attempt.scope.record
        self._asked.pop(request.hashed_id, None)
        if not asked.future.done():
            asked.future.set_result(payload)

    async def _save_last(
        self, request: StepRequest, text: bytes, response: sdk.StepResponse, saver: Checkpointer
    ) -> None:
        """Save a step, and end the request with it.

        Answered without a save, it would take the run on even if another worker owns that by now (an engine that was
        held up sends a request once more while the first is open), and both would do all that follows.
        """
        self._end.answer()  # nothing new starts
        saver.add(text, response)
        if await saver.flush() is SaveOutcome.SAVED:
            self._end.answer(sdk.go_on_after(request.hashed_id))

    def _is_to_be_last(self, asked: Asked) -> bool:
        """Whether the request ends with this step, though it could go on."""
        # A checkpoint does not reset the attempts of the request that is open, an answer does: without one, a step that
        # fails later would share the attempts of the step for which this request is a retry.
        yields = self.is_overdue or self._engine.attempt > 0
        # Beside a step that still runs it must be saved at once: the answer comes only when that one has ended.
        is_alone = all(other is asked or other.future.done() for other in self._end.running)
        return yields and is_alone and not self._end.is_answered

    # Failed -----------------------------------------------------------------------------------------------------

    async def _failed_and_billed(self, asked: Asked, error: BaseException, attempt: _Attempt) -> None:
        """A step has failed that may have been billed: that is a step of its own, so that it is counted."""
        request = asked.request
        made = await request.billed(attempt.scope, error) if request.billed is not None else None
        if made is None:
            self._failed(asked, error, attempt)
            return
        info = sdk.step_info(made.step_id, made.hashed_id, sdk.Opcode.STEP_RUN, metadata=made.metadata)
        response = sdk.StepResponse(output=made.stored, step=info)
        self._end.planned_ids[made.hashed_id] = made.planned_id
        if self._end.saver is not None:
            self._end.saver.add(encoded(await self._engine.opcode(response)), response)
            self._failed(asked, error, attempt)
        elif self._is_last(request, error, attempt):
            self._failed(asked, error, attempt, response)
        else:
            # Answered with a finished step, the failed one would have all its attempts again. So the next attempt takes
            # it along, if it is made by this process.
            _billed_before[self._engine.run_id, request.step_id] = attempt.scope.nested_usage
            while len(_billed_before) > BILLED_LIMIT:
                del _billed_before[next(iter(_billed_before))]
            self._failed(asked, error, attempt)

    def _failed(self, asked: Asked, error: BaseException, attempt: _Attempt, *answers: sdk.StepResponse) -> None:
        request = asked.request
        if asked.is_withdrawn and asked.loop is not None and asked.loop.knows_end:
            return  # what it raised as it was cancelled for the failure that its loop ends with: no replay may find it
        is_last = self._is_last(request, error, attempt)
        if not is_last and self._end.retry is None and (delay := _retry_after(request, error)) is not None:
            self._end.retry = inngest.RetryAfterError(
                f"step {request.step_id!r}: {message_of(error)}", retry_after=round(delay * 1000)
            )
            self._end.retry.__cause__ = error
        notes = notes_on(error, request.span_times, is_encrypted=not self._engine.shows_inputs)
        stored = sdk.step_error(error, qualified_name(error), message_of(error), notes)
        op = sdk.Opcode.STEP_FAILED if is_last else sdk.Opcode.STEP_ERROR
        self._end.answer(*answers, _response(request, op, error=stored, timing=attempt.timing()))
        if is_last:
            self._tell(asked, stored)

    def _tell(self, asked: Asked, stored: Exception) -> None:
        """Give a loop its step's last error while it has other steps under way.

        The request ends with these, and the next one has the error in a memo. But as under the plain runner the SDK may
        want to cancel them for it, and they may wait for that. Only for that it is told: nothing new starts any more.
        """
        beside = (other for other in self._end.running if other is not asked and other.loop is asked.loop)
        if asked.loop is None or asked.future.done() or not any(beside):
            return  # a step à la carte has no loop: its error would go on in the user's own frame
        asked.loop.knows_end = True
        self._asked.pop(asked.request.hashed_id, None)
        asked.future.set_exception(rebuild(sdk.memo_error(stored)))
        asked.future.exception()  # looked at, also where the one who asked is cancelled before he gets it

    def _is_last(self, request: StepRequest, error: BaseException, attempt: _Attempt) -> bool:
        """Whether a step that has failed is not tried again."""
        if isinstance(error, inngest.NonRetriableError) or getattr(error, "is_retriable", True) is False:
            return True
        if request.is_final is not None and isinstance(error, Exception) and request.is_final(error):
            return True
        limits = [self._engine.max_attempts]
        if not is_of_exit(error):  # else the work has not begun, and as for a killed process the engine's limit counts
            limits.append(request.max_attempts)
        known = [limit for limit in limits if limit is not None]
        return bool(known) and attempt.scope.attempt + 1 >= min(known)


def _response(
    request: StepRequest,
    op: sdk.Opcode,
    *,
    output: Any = None,
    error: Exception | None = None,
    timing: dict[str, int] | None = None,
    metadata: list[dict[str, Any]] | None = None,
) -> sdk.StepResponse:
    info = sdk.step_info(request.step_id, request.hashed_id, op, opts=request.opts, timing=timing, metadata=metadata)
    return sdk.StepResponse(output=output, original_error=error, step=info)


def _retry_after(request: StepRequest, error: BaseException) -> float | None:
    if isinstance(error, inngest.RetryAfterError):
        import datetime

        now = datetime.datetime.now(error.retry_after.tzinfo)
        return max(0.0, (error.retry_after - now).total_seconds())
    if request.retry_after is None or not isinstance(error, Exception):
        return None
    return request.retry_after(error)


def _nested_step(request: StepRequest) -> UnsupportedError:
    return UnsupportedError(
        f"step {request.step_id!r} used a method of ctx.step (run, sleep, wait_for_event, invoke, …) inside itself. "
        "What runs in a step is one unit for Inngest: call the function directly, or use ctx.step in the Inngest "
        "function itself, as a tool may that is marked by tool_options(tool, in_step=False)."
    )
