"""Answers the journal's requests: from the memo, by running the step, or by planning it.

There is one driver for each request of the engine; all durable runs that the user's function starts in that request
share it. The SDK's loop of each run is an inner task; the user's own coroutine waits in `drive`. A request of the
engine ends in that coroutine's frame, after the inner task was cancelled, so the SDK never sees Inngest's
interrupts.

With checkpointing, every new step starts at once, is saved when it has finished, and the run goes on; so parallel
steps overlap without planning requests. When a step fails, what is in flight is finished and saved first, then the
request ends with the failed step, so that the engine retries that one alone.

Without it (specification, section 5.3.1): one new step alone is run and ends the request, several are planned, and a
targeted request runs its target only. Which steps belong together is found by waiting until the loop has been idle for
some turns; that decides how wide a plan is and never whether it is right: a step that comes late is simply found by a
later request.
"""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import inngest

from inngest_agents import _inngest_sdk as sdk
from inngest_agents.checkpoint import MAX_OUTPUT, Checkpointer, SaveOutcome, encoded, output_size
from inngest_agents.errors import OutputTooLargeError, message_of, notes_on, qualified_name, rebuild, stored_span_times
from inngest_agents.journal import StepRequest, StepScope, inside_step
from inngest_agents.resources import Resources
from inngest_agents.rewind import Rewind
from inngest_agents.step_ids import OVERTAKEN, id_after, planned_id, tag_of

if TYPE_CHECKING:
    from inngest_agents.stats.records import UsageRecord

logger = logging.getLogger("inngest_agents")

T = TypeVar("T")

IDLE_TURNS: Final = 64
"""Turns of the event loop without a new request after which a batch counts as whole (measured: gaps of 15 to 43)."""

UNDRIVEN_WARNING_SECONDS: Final = 5.0
"""How long a streamed run may wait for its consumer before a warning says that it does."""

TARGET_GRACE_SECONDS: Final = 10.0
"""How long a targeted request waits for a step that no durable run has planned, while one asks for other steps."""

OVERTAKEN_GRACE_SECONDS: Final = 1.0
"""The same for a step that a durable run has planned, before it counts as overtaken."""

POLL_SECONDS: Final = 0.005
"""How often a targeted request looks whether its step is asked for."""


@dataclasses.dataclass(slots=True, eq=False)
class _Asked:
    """A step that was asked for and has no memo."""

    request: StepRequest
    future: asyncio.Future[dict[str, Any]]
    run: _Run | None
    task: asyncio.Task[None] | None = None
    is_withdrawn: bool = False
    """Whether the one who asked has gone."""
    after_replay: bool = False
    """Whether all before it came from memos, so that an earlier request may have begun it."""

    @property
    def is_driven(self) -> bool:
        return self.run is None or self.run.driven


@dataclasses.dataclass(slots=True, eq=False)
class _Run:
    """One loop under way in this request: that of a durable run, or one for its last steps."""

    tag: str
    """Tells which of the planned steps are its run's."""
    inner: asyncio.Task[Any] | None = None
    stop: Callable[[], object] | None = None
    """Cancels the loop and the tasks beside it, where cancelling `inner` is not enough."""
    driven: bool = True
    """Whether the user's own frame waits for this run, so that the end of the request can be raised there. A streamed
    run that nobody consumes starts no steps."""
    is_cancelled: bool = False
    """Whether it was told to stop: it gets no more answers."""


@dataclasses.dataclass(slots=True)
class _Shared:
    """What the drivers of one request share: a sync function has one for each of its durable runs."""

    started: float
    overtaken: set[str]
    """The hashed ids of planned steps that were not needed when their turn came."""
    names: dict[str, int] = dataclasses.field(default_factory=dict)
    """How many runs of each name the function has started, for their ids."""
    is_answered: bool = False
    """Whether the target has begun, or was answered in another way."""


_billed_before: dict[tuple[str, str], list[UsageRecord]] = {}
"""What earlier attempts of a step were billed, by run and step id, where the engine offers no checkpointing."""

BILLED_LIMIT: Final = 1000
"""How many steps are waited for with it: one whose run was cancelled does not come again."""

_run: contextvars.ContextVar[_Run | None] = contextvars.ContextVar("inngest_agents_run", default=None)


_ATTRIBUTE: Final = "__inngest_agents_driver__"
"""Where a `step` keeps its driver. A table of them would never let go: the driver reaches its `step` through the
frames of the interrupt that ended the request, so only the garbage collector can free both, and only together."""


class Driver:
    """Runs the steps of one request of the engine. Make one with `Driver.for_step`."""

    def __init__(
        self, engine: sdk.EngineRequest, *, checkpoint: bool, max_runtime: float | None, before: Driver | None
    ) -> None:
        self.engine = engine
        self.loop = asyncio.get_running_loop()
        self._asked: dict[str, _Asked] = {}
        self._running: set[_Asked] = set()
        self._runs: list[_Run] = []
        self._end: asyncio.Future[BaseException] = self.loop.create_future()
        self._stopping: list[sdk.StepResponse] | None = None
        self._raised: Exception | None = None
        self._activity = 0
        self._target_name = "overtaken"
        self._started_any = False
        self._settling: asyncio.Task[None] | None = None
        self._concluding: asyncio.Task[None] | None = None
        self.plan_only = engine.in_parallel_group
        self.resources = Resources()
        """What steps have opened; closed when the last run of the request has ended or is cut."""
        self.ambient: Any = None
        """What the steps of this request that belong to no run have in common; see `inngest_agents.steps`."""
        self.rewinds: list[Rewind] = []
        """What the runs of this request have changed in their arguments, those too that have ended already."""
        self.shared: _Shared
        self.shared = before.shared if before is not None else _Shared(time.monotonic(), _drop_markers(engine))
        self._replaying = engine.memo_count > 0
        self._saver = self._make_saver() if checkpoint else None
        self._deadline = None if max_runtime is None or engine.is_connect else self.shared.started + max_runtime
        if engine.is_join and not self.shared.is_answered:
            self.shared.is_answered = True
            self._conclude_with(sdk.ResponseInterrupt(sdk.joined(engine.target)))

    @classmethod
    def for_step(cls, step: Any, *, checkpoint: bool, max_runtime: float | None) -> Driver:
        """The driver of the request that `step` belongs to.

        Raises:
            TypeError: `step` is not the `step` of an Inngest context.
        """
        engine = sdk.EngineRequest(step)
        found: Driver | None = getattr(step, _ATTRIBUTE, None)
        if found is not None and found.serves(engine):
            return found
        driver = cls(engine, checkpoint=checkpoint, max_runtime=max_runtime, before=found)
        setattr(step, _ATTRIBUTE, driver)
        return driver

    def serves(self, engine: sdk.EngineRequest) -> bool:
        """Whether this driver can take one more durable run of its request."""
        if self.loop is not asyncio.get_running_loop():
            return False  # a sync function runs each of its durable runs in an event loop of its own
        if engine.in_parallel_group:
            # `group.parallel` goes on to its next run when one has ended the request, to plan that one's steps too.
            return self.plan_only and not self._end.done()
        return not self.plan_only

    def _make_saver(self) -> Checkpointer | None:
        if self.plan_only or self.engine.disable_immediate_execution:
            return None  # other requests of this run may be under way: only planned steps are safe
        target = self.engine.checkpoint_target()
        if isinstance(target, str):
            logger.debug("run %s: no checkpointing: %s", self.engine.run_id, target)
            return None
        return Checkpointer(target, on_lost=self._lost)

    def unique_name(self, name: str) -> str:
        """The name of a run for its step ids: "triage", and for later runs of that name "triage:1", "triage:2"."""
        names = self.shared.names
        count = names.get(name, 0)
        names[name] = count + 1
        return name if count == 0 else self.unique_name(f"{name}:{count}")  # the user may have named one like this

    async def drive(self, main: Callable[[], Awaitable[T]], tag: str, *, is_last: bool = True) -> T:
        """Run the SDK's loop until it has a result or this request of the engine ends.

        Args:
            main: the loop.
            tag: of the durable run.
            is_last: whether the durable run asks for no more steps after this.

        Raises:
            ResponseInterrupt, SkipInterrupt: the request ends here; Inngest's own, not to be caught.
            Exception: what the loop raised.
        """
        run = _Run(tag)
        inner = self._start_loop(run, lambda: self.loop.create_task(_as_coroutine(main)))
        try:
            await asyncio.wait((inner, self._end), return_when=asyncio.FIRST_COMPLETED)
            await self.conclude(run)
            if is_last:
                await self.leave(tag)
            return inner.result()
        finally:
            await self._forget(run)

    def attach(self, start: Callable[[], asyncio.Task[Any]], stop: Callable[[], object], tag: str) -> _Run:
        """A streamed run, whose loop the SDK starts as a task of its own.

        It starts steps only between `resume` and `pause`. When the request ends, the loop is cancelled; whoever
        consumes its events then finds the stream ended and calls `conclude`, which raises the end in the user's frame.

        Args:
            start: starts the loop and gives its task.
            stop: cancels that task and those beside it.
            tag: of the durable run.
        """
        run = _Run(tag, driven=False, stop=stop)
        self._start_loop(run, start)
        self._end.add_done_callback(lambda _: stop())
        return run

    def resume(self, run: _Run) -> None:
        """Someone waits for a streamed run: its steps may start."""
        run.driven = True
        for asked in [asked for asked in self._asked.values() if asked.run is run and asked.task is None]:
            self._begin(asked)

    def pause(self, run: _Run) -> None:
        """Nobody waits for a streamed run any more: what runs is finished, but nothing new starts."""
        run.driven = False

    async def conclude(self, run: _Run) -> None:
        """The loop of a run has ended, or the request: save what is not saved yet.

        Raises:
            ResponseInterrupt, SkipInterrupt: the request ends here; Inngest's own, not to be caught.
        """
        try:
            if not self._end.done():
                await self._finish(run)
            if self._end.done():
                raise self._end.result()
        finally:
            await self._forget(run)

    async def leave(self, tag: str) -> None:
        """A durable run has ended, with a result or an error, and asks for no more steps.

        If the request is for a step that it has planned, nobody will ask for that one any more. If it is for a step of
        another run that is under way, the caller waits for that one: he would go on to steps which this request may
        not run.

        Raises:
            ResponseInterrupt, SkipInterrupt: the request ends here; Inngest's own, not to be caught.
        """
        target = self.engine.target
        owner = tag_of(target) if target is not None else None
        if self._stopping is None and target is not None and owner == tag:
            self._stop([self._overtaken(target)])
        elif self._stopping is None and owner is not None:
            started = time.monotonic()
            while self._is_under_way(owner) and time.monotonic() - started < TARGET_GRACE_SECONDS:
                await asyncio.wait((self._end,), timeout=POLL_SECONDS)
        if self._stopping is not None:
            await asyncio.wait((self._end,))
            raise self._end.result()

    def _is_under_way(self, tag: str | None) -> bool:
        return any(run.tag == tag and run.driven for run in self._runs)

    def abandon(self, run: _Run) -> None:
        """Stop a streamed run that nobody will consume."""
        run.is_cancelled = True
        if run.stop is not None:
            run.stop()

    @property
    def has_ended(self) -> bool:
        """Whether the request of the engine is over."""
        return self._end.done()

    @property
    def makes_news(self) -> bool:
        """Whether what the loops do now was not done by an earlier request already.

        A memo that nobody has asked for yet lies ahead, so an earlier request was here. A targeted request only
        repeats what led to its plan, and a repeated attempt what led to the step that failed.
        """
        if self.engine.target is not None:
            return False
        return self._started_any or (self.engine.attempt == 0 and self.engine.memo_count == 0)

    @property
    def asks_for_news(self) -> bool:
        """Whether a step that has no memo is asked for by this request first, so that what led to it is new."""
        if self.engine.target is not None or self._stopping is not None:
            return False
        return self._started_any or self.engine.attempt == 0

    def rewind(self) -> None:
        """The request has ended: give the arguments of its runs their former contents, for the next one."""
        while self.rewinds:
            self.rewinds.pop().undo()

    def _start_loop(self, run: _Run, start: Callable[[], asyncio.Task[T]]) -> asyncio.Task[T]:
        token = _run.set(run)
        try:
            inner = start()
        finally:
            _run.reset(token)
        run.inner = inner
        self._runs.append(run)
        return inner

    async def _forget(self, run: _Run) -> None:
        await self._cancel(run)
        if run.inner is not None and not run.inner.cancelled():
            run.inner.exception()  # looked at, also where the request has ended with another answer
        if run in self._runs:
            self._runs.remove(run)
        if not self._runs:
            await self.resources.close()

    async def _finish(self, run: _Run) -> None:
        """A loop has ended: nothing of it may run on, and all its steps must be saved."""
        await self._cancel(run)
        if self._saver is not None and await self._saver.flush() is not SaveOutcome.SAVED:
            self._stop([])
            await asyncio.wait((self._end,))

    async def _cancel(self, run: _Run) -> None:
        run.is_cancelled = True
        if run.inner is not None and not run.inner.done():
            await _end_task(run.inner, run.stop or run.inner.cancel)
        for asked in [asked for asked in self._asked.values() if asked.run is run]:
            await self._withdraw(asked)

    def memo(self, request: StepRequest) -> dict[str, Any] | None:
        """The stored JSON object of a finished step; None if it has to be run.

        Raises:
            Exception: the error of a step that failed for good.
        """
        self._activity += 1
        if self.shared.overtaken:
            self._rename_overtaken(request)
        memo = self.engine.take_memo(request.hashed_id, request.planned_id)
        if memo is None:
            return None
        if memo.error is not None:
            request.span_times = stored_span_times(memo.error)
            raise rebuild(memo.error)
        value: dict[str, Any] = memo.value
        return value

    def _rename_overtaken(self, request: StepRequest) -> None:
        tag = tag_of(request.planned_id) or ""
        while found := self.shared.overtaken.intersection((request.hashed_id, request.planned_id)):
            request.hashed_id = id_after(request.step_id, found.pop())
            request.planned_id = planned_id(tag, request.hashed_id)

    async def ask(self, request: StepRequest) -> dict[str, Any]:
        """Wait for a step that has no memo. If the request of the engine ends first, the wait is cancelled.

        Raises:
            RuntimeError: two steps of the same id at the same time.
            CancelledError: the run that asks was cancelled already. The SDK takes the cancellation of an output
                guardrail or a tool as a reason to save to the session, and would wait for that forever.
        """
        run = _run.get()
        if self._end.done() or (run is not None and run.is_cancelled):
            raise asyncio.CancelledError
        if self.engine.target in (request.hashed_id, request.planned_id):
            request.hashed_id, self._target_name = self.engine.target, request.step_id
        if request.hashed_id in self._asked:
            raise RuntimeError(
                f"two concurrent steps have the id {request.step_id!r}; give concurrent durable runs of the same agent "
                "names of their own: DurableOptions(name='…')"
            )
        asked = _Asked(request, self.loop.create_future(), run)
        # Without checkpointing each request has one step of its own, and a cut one comes back as another attempt.
        asked.after_replay = (self._replaying and self._saver is not None) or self.engine.attempt > 0
        self._asked[request.hashed_id] = asked
        self._activity += 1
        warning = None
        if asked.is_driven:
            self._begin(asked)
        else:
            warning = self.loop.call_later(UNDRIVEN_WARNING_SECONDS, _warn_undriven, request.step_id)
        try:
            return await asked.future
        except asyncio.CancelledError:
            await self._withdraw(asked)
            raise
        finally:
            if warning is not None:
                warning.cancel()

    async def ask_undriven(self, request: StepRequest) -> dict[str, Any]:
        """`ask` for a step outside of any loop: if the request of the engine ends, the interrupt leaves from here.

        Raises:
            ResponseInterrupt, SkipInterrupt: the request ends here; Inngest's own, not to be caught.
        """
        asking = self.loop.create_task(self.ask(request))
        try:
            await asyncio.wait((asking, self._end), return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                raise self._end.result()
            payload = asking.result()
            # There is no loop whose end waits for the save, and the user's own next step may end the request.
            if self._saver is not None and await self._saver.flush() is not SaveOutcome.SAVED:
                self._stop([])
                await asyncio.wait((self._end,))
                raise self._end.result()
            return payload
        finally:
            asking.cancel()

    def _begin(self, asked: _Asked) -> None:
        if self._stopping is not None:
            return
        if self._saver is not None and not self._replaying:
            self._start(asked)
        elif self._settling is None:
            self._settling = self.loop.create_task(self._settle())

    async def _withdraw(self, asked: _Asked) -> None:
        """The one who asked has gone: a step that has not ended yet is cancelled, as under the plain runner."""
        self._asked.pop(asked.request.hashed_id, None)
        if asked.task is not None and not asked.task.done() and not asked.is_withdrawn:
            asked.is_withdrawn = True
            await _end_task(asked.task, asked.task.cancel)

    async def _settle(self) -> None:
        """Wait until the loop asks for nothing more, then start, run or plan what it has asked for."""
        idle, seen = 0, self._activity
        while idle < IDLE_TURNS:
            await asyncio.sleep(0)
            idle = idle + 1 if seen == self._activity else 0
            seen = self._activity
        self._settling = None
        waiting = self._waiting()
        if self._stopping is not None or not waiting:
            return
        if self._saver is not None:
            self._replaying = False
            for asked in waiting:
                self._start(asked)
        elif self.engine.target is not None:
            await self._run_target(self.engine.target)
        elif len(waiting) > 1 or self.plan_only or self.engine.disable_immediate_execution:
            self._stop([_planned(asked.request) for asked in waiting])
        elif not self._running:
            self._start(waiting[0])

    def _waiting(self) -> list[_Asked]:
        return [asked for asked in self._asked.values() if asked.task is None and asked.is_driven]

    async def _run_target(self, target: str) -> None:
        """Run the target once it is asked for, or answer for those who ask for other steps instead."""
        started = time.monotonic()
        while (asked := self._asked.get(target)) is None:
            if self._stopping is not None or not self._waiting():
                return
            self._give_up(target, waited=time.monotonic() - started)
            await asyncio.sleep(POLL_SECONDS)
        if asked.task is None:
            self._start(asked)

    def _give_up(self, target: str, *, waited: float) -> None:
        """End the request if the target is not to be found here, or if that has been waited for long enough.

        A step that was planned together with the target may have taken the run another way (a guardrail of a nested
        agent has tripped, say). The engine goes on only when the target has ended too.
        """
        owner = tag_of(target)
        if self.plan_only and not self._is_under_way(owner):
            # Another function's of the group, which asks each of them in turn.
            self._conclude_with(sdk.SkipInterrupt(target) if owner is None else self._missed(target))
        elif owner is not None and waited > OVERTAKEN_GRACE_SECONDS:
            self._stop([self._overtaken(target)])
        elif waited > TARGET_GRACE_SECONDS:
            self._conclude_with(sdk.SkipInterrupt(target))

    def _overtaken(self, target: str) -> sdk.StepResponse:
        self.shared.is_answered = True
        info = sdk.step_info(self._target_name, target, sdk.Opcode.STEP_RUN)
        return sdk.StepResponse(output=OVERTAKEN, step=info)

    def _missed(self, target: str) -> sdk.ResponseInterrupt:
        """The end of a function in `group.parallel` that does not ask for the target; maybe no other does either."""
        return sdk.missed(lambda: None if self.shared.is_answered else self._overtaken(target))

    def _start(self, asked: _Asked) -> None:
        self._running.add(asked)
        self._started_any = self.shared.is_answered = True
        asked.task = self.loop.create_task(self._execute(asked), context=asked.request.context)
        asked.task.add_done_callback(lambda _: self._left(asked))

    def _left(self, asked: _Asked) -> None:
        """A step's task has ended, in whatever way."""
        self._running.discard(asked)
        task = asked.task
        assert task is not None
        if not task.cancelled() and (error := task.exception()) is not None:
            # Not the step's own error, but one of the driver: it must end the run and not be lost.
            self._conclude_with(error)
        if self._stopping is not None:
            self._conclude()

    async def _execute(self, asked: _Asked) -> None:
        request = asked.request
        if self._saver is not None:
            outcome = await self._saver.flush() if request.after_save else self._saver.outcome
            if outcome is not SaveOutcome.SAVED:
                self._stop([])
                return
        if self._stopping is not None:
            return  # the request is ending; this step is asked for again in the next one
        await self.engine.before_execution()
        attempt = self.engine.attempt
        # Not of the hashed id, which is another one for a step that was taken for overtaken.
        key = sdk.hash_step_id(request.step_id)[:20]
        scope = StepScope(request.step_id, f"{self.engine.run_id}-{key}", attempt)
        scope.maybe_repeated = asked.after_replay
        scope.nested_usage.extend(_billed_before.pop((self.engine.run_id, request.step_id), ()))
        started, start = time.time_ns(), time.perf_counter_ns()
        token = sdk.mark_in_step()
        try:
            with inside_step(scope):
                payload = await request.run(scope)
        except sdk.NestedStepInterrupt:
            self._failed(asked, _nested_step(request), attempt, started, start)
        except Exception as error:  # noqa: BLE001  whatever the user's code raises is the step's error
            self._failed(asked, error, attempt, started, start, await self._billed(request, scope, error))
        except asyncio.CancelledError as error:
            if asked.task is None or asked.task.cancelling():
                raise
            # Raised by the user's code: nobody cancels this step.
            self._failed(asked, error, attempt, started, start, await self._billed(request, scope, error))
        else:
            await self._finished(asked, payload, started, start)
        finally:
            sdk.unmark_in_step(token)

    async def _finished(self, asked: _Asked, payload: dict[str, Any], started: int, start: int) -> None:
        request = asked.request
        response = _response(
            request,
            sdk.Opcode.STEP_RUN,
            output=payload,
            timing={"a": started, "b": time.perf_counter_ns() - start},
            metadata=request.metadata(payload) if request.metadata is not None else None,
        )
        overdue = self._deadline is not None and time.monotonic() > self._deadline
        # A checkpoint does not reset the attempts of the request that is open, an answer does: without one, a step that
        # fails later would share the attempts of the step for which this request is a retry.
        yields = overdue or self.engine.attempt > 0
        # Beside a step that still runs it must be saved at once: the answer comes only when that one has ended.
        alone = self._running == {asked}
        saver = None if yields and alone and self._stopping is None else self._saver
        opcode = await self.engine.opcode(response) if saver is not None else None
        text = encoded(opcode if opcode is not None else payload)
        size = output_size(text)
        if size > MAX_OUTPUT and opcode is not None:
            size = output_size(encoded(opcode["data"]))  # without the step's names and its input
        if size > MAX_OUTPUT:
            # Answered all the same, it would be refused and the step run again, as often as there are attempts.
            error = OutputTooLargeError(request.step_id, size, MAX_OUTPUT)
            self._failed(asked, error, self.engine.attempt, started, start)
            return
        if saver is None:
            self._stop([response])
            return
        saver.add(text, response)
        self._asked.pop(request.hashed_id, None)
        if not asked.future.done():
            asked.future.set_result(payload)

    async def _billed(
        self, request: StepRequest, scope: StepScope, error: BaseException
    ) -> tuple[sdk.StepResponse, list[UsageRecord]] | None:
        """What a failed attempt was billed: saved as a step of its own, so that whoever goes on from here counts it.

        Returns:
            The step and what it counts, if it can't be saved while the request is open.
        """
        made = await request.billed(scope, error) if request.billed is not None else None
        if made is None:
            return None
        info = sdk.step_info(made.step_id, made.hashed_id, sdk.Opcode.STEP_RUN, metadata=made.metadata)
        response = sdk.StepResponse(output=made.stored, step=info)
        if self._saver is None:
            return response, scope.nested_usage
        self._saver.add(encoded(await self.engine.opcode(response)), response)
        return None

    def _failed(
        self,
        asked: _Asked,
        error: BaseException,
        attempt: int,
        started: int,
        start: int,
        billed: tuple[sdk.StepResponse, list[UsageRecord]] | None = None,
    ) -> None:
        request = asked.request
        final = (
            isinstance(error, inngest.NonRetriableError)
            or getattr(error, "is_retriable", True) is False
            or (request.is_final is not None and isinstance(error, Exception) and request.is_final(error))
        )
        limits = [limit for limit in (request.max_attempts, self.engine.max_attempts) if limit is not None]
        last = bool(limits) and attempt + 1 >= min(limits)
        if not final and not last:
            delay = _retry_after(request, error)
            if delay is not None and self._raised is None:
                self._raised = inngest.RetryAfterError(
                    f"step {request.step_id!r}: {message_of(error)}", retry_after=round(delay * 1000)
                )
                self._raised.__cause__ = error
        more: list[sdk.StepResponse] = []
        if billed is not None and (final or last):
            more = [billed[0]]
        elif billed is not None:
            # Answered with a finished step, the failed one would have all its attempts again. So the next attempt takes
            # it along, if it is made by this process.
            _billed_before[self.engine.run_id, request.step_id] = billed[1]
            while len(_billed_before) > BILLED_LIMIT:
                del _billed_before[next(iter(_billed_before))]
        self._stop(
            [
                *more,
                _response(
                    request,
                    sdk.Opcode.STEP_FAILED if final or last else sdk.Opcode.STEP_ERROR,
                    error=sdk.step_error(
                        error, qualified_name(error), message_of(error), notes_on(error, request.span_times)
                    ),
                    timing={"a": started, "b": time.perf_counter_ns() - start},
                ),
            ]
        )

    def _stop(self, responses: list[sdk.StepResponse]) -> None:
        """Start nothing more; end the request with `responses` once what is in flight has finished."""
        if self._stopping is None:
            self._stopping = []
        self._stopping.extend(responses)
        if not self._running:
            self._conclude()

    def _lost(self) -> None:
        """The run has ended or belongs to another worker: stop at once, start nothing, report nothing."""
        self._stopping = []
        for asked in list(self._running):
            if asked.task is not None:
                asked.task.cancel()
        self._conclude_with(sdk.end_quietly())

    def fail(self, error: Exception) -> None:
        """End the run with an error that the SDK must not see, as it would tell it to the model as a tool's failure."""
        self._conclude_with(error)

    def _conclude_with(self, end: BaseException) -> None:
        if self._stopping is None:
            self._stopping = []
        if not self._end.done():
            self._end.set_result(end)

    def _conclude(self) -> None:
        if not self._running and not self._end.done() and self._concluding is None:
            self._concluding = self.loop.create_task(self._conclude_now())

    async def _conclude_now(self) -> None:
        responses = self._stopping or []
        retried = [response for response in responses if response.step.op == sdk.Opcode.STEP_ERROR]
        ended = [response for response in responses if response.step.op != sdk.Opcode.STEP_ERROR]
        unsaved: list[sdk.StepResponse] = []
        if self._saver is not None:
            await self._saver.flush()
            unsaved = self._saver.unsaved
        if self._end.done():
            return
        if unsaved or ended:
            # A step that is to be retried is found again by the next request; one that has ended must not be.
            self._conclude_with(sdk.ResponseInterrupt(sdk.with_join([*unsaved, *ended])))
        elif self._raised is not None:
            self._conclude_with(self._raised)
        elif retried:
            self._conclude_with(sdk.ResponseInterrupt(retried[:1]))
        else:
            self._conclude_with(RuntimeError("the request ended without anything to report; please report this bug"))


def _warn_undriven(step_id: str) -> None:
    logger.warning(
        "step %r waits: a streamed durable run goes on only while it is consumed. Write: async for event in "
        "result.stream_events(): … or: await result.wait()",
        step_id,
    )


async def _end_task(task: asyncio.Task[Any], cancel: Callable[[], object]) -> None:
    """Cancel a task and wait until it has ended: its code may have something to finish first (a transaction, say).

    Raises:
        CancelledError: the caller was cancelled meanwhile, and with it the task once more.
    """
    is_told_again = False
    cancel()
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError:
            is_told_again = True
            cancel()
    if is_told_again:
        raise asyncio.CancelledError


async def _as_coroutine(main: Callable[[], Awaitable[T]]) -> T:
    return await main()


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


def _planned(request: StepRequest) -> sdk.StepResponse:
    info = sdk.step_info(request.step_id, request.planned_id, sdk.Opcode.PLANNED, opts=request.opts)
    return sdk.StepResponse(step=info)


def _drop_markers(engine: sdk.EngineRequest) -> set[str]:
    """Take the memos away that are no step's, so that only those count which somebody may ask for.

    Returns:
        the hashed ids of planned steps that were not needed.
    """
    engine.drop_memos(lambda hashed_id, _: sdk.is_join(hashed_id))
    return engine.drop_memos(lambda hashed_id, value: tag_of(hashed_id) is not None and value == OVERTAKEN)


def _retry_after(request: StepRequest, error: BaseException) -> float | None:
    if isinstance(error, inngest.RetryAfterError):
        import datetime

        now = datetime.datetime.now(error.retry_after.tzinfo)
        return max(0.0, (error.retry_after - now).total_seconds())
    if request.retry_after is None or not isinstance(error, Exception):
        return None
    return request.retry_after(error)


def _nested_step(request: StepRequest) -> inngest.NonRetriableError:
    return inngest.NonRetriableError(
        f"step {request.step_id!r} used step.run (or another method of ctx.step) inside itself. What runs in a step "
        "is one unit for Inngest: call the function directly, or move the inner step out of the tool."
    )
