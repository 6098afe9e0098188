"""Answers the journal's requests: from the memo, or once the step has run.

There is one driver for each request of the engine; all durable runs that the user's function starts in that request
share it. The SDK's loop of each run is an inner task; the user's own coroutine waits in `drive`. A request of the
engine ends in that coroutine's frame, after the inner task was cancelled, so the SDK never sees Inngest's
interrupts.

With checkpointing, every new step starts at once, is saved when it has finished, and the run goes on; so parallel
steps overlap without planning requests. When a step fails, what is in flight is finished and saved first, then the
request ends with the failed step, so that the engine retries that one alone. One that has failed for good is told to
its loop before, so that the SDK can cancel what it would cancel under the plain runner. Without checkpointing, each new
step ends the request, or is planned.

A driver has three parts: `scheduling` decides which steps start, `execution` runs them, `request_end` ends the request.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
import weakref
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from inngest_agents import _inngest_sdk as sdk
from inngest_agents.errors import non_retriable
from inngest_agents.memos.stored_errors import rebuild, stored_span_times
from inngest_agents.request.asked import Asked, Loop, Shared, end_task, free_frames
from inngest_agents.request.checkpoint import Checkpointer, SaveOutcome, is_old, made_at
from inngest_agents.request.execution import StepRunner
from inngest_agents.request.request_end import RequestEnd
from inngest_agents.request.resources import Resources, serves_many_requests
from inngest_agents.request.rewind import Rewind
from inngest_agents.request.scheduling import Scheduler, drop_markers
from inngest_agents.request.step_ids import id_after, planned_id, tag_of
from inngest_agents.request.step_request import StepRequest
from inngest_agents.request.thread_loop import is_in_thread_loop

logger = logging.getLogger("inngest_agents")

T = TypeVar("T")

UNDRIVEN_WARNING_SECONDS: Final = 5.0
"""How long a streamed run may wait for its consumer before a warning says that it does."""

_ATTRIBUTE: Final = "__inngest_agents_driver__"
"""Where a `step` keeps its driver. A table of them would never let go: the driver reaches its `step` through the
frames of the interrupt that ended the request, so only the garbage collector can free both, and only together."""

_loop: contextvars.ContextVar[Loop | None] = contextvars.ContextVar("inngest_agents_loop", default=None)


class Driver:
    """Runs the steps of one request of the engine. Make one with `Driver.for_step`."""

    def __init__(self, step: Any, *, checkpoint: bool, max_runtime: float | None, before: Driver | None) -> None:
        self._step = weakref.ref(step)  # which has its driver
        self.engine = engine = sdk.EngineRequest(step)
        self.plan_only = engine.in_parallel_group
        self.resources = Resources()
        """What steps have opened; closed when the last loop of the request has ended or is cut."""
        self.ambient: Any = None
        """What the steps of this request that belong to no run have in common; see `inngest_agents.steps`."""
        self.rewinds: list[Rewind] = []
        """What the runs of this request have changed in their arguments, those too that have ended already."""
        self.shared: Shared
        self.shared = before.shared if before is not None else Shared(time.monotonic(), drop_markers(engine))
        self._asked: dict[str, Asked] = {}
        self._loops: list[Loop] = []
        self._end = RequestEnd(engine)
        # The loop of a sync function's thread stops with each run: what is done beside the answer would stay half done.
        self.loop_lasts: bool = not is_in_thread_loop() and (
            before.loop_lasts if before is not None else serves_many_requests(self._end.loop)
        )
        deadline = None if max_runtime is None or engine.is_connect else self.shared.started + max_runtime
        self._steps = StepRunner(engine, self._end, self._asked, self.shared, deadline)
        self._scheduler = Scheduler(
            engine, self._end, self._steps, self._asked, self._loops, self.shared, is_in_group=self.plan_only
        )
        self._end.saver = self._make_saver() if checkpoint else None
        self._end.asker = self._make_asker() if self._end.saver is None else None
        if engine.is_join and not self.shared.is_answered:
            self.shared.is_answered = True
            self._end.at_once(sdk.ResponseInterrupt(sdk.joined(engine.target)))

    @classmethod
    def for_step(cls, step: Any, *, checkpoint: bool, max_runtime: float | None) -> Driver:
        """The driver of the request that `step` belongs to.

        Raises:
            TypeError: `step` is not the `step` of an Inngest context, or of another call; the latter is not retried.
        """
        if sdk.is_of_another_call(step):
            # Its steps would go to another run, and the answer to this one's request might have none, for ever.
            told = "this step is of another call of the function: it was kept. Pass the ctx.step of this call each time"
            raise non_retriable(TypeError(told))
        engine = sdk.EngineRequest(step)
        found: Driver | None = getattr(step, _ATTRIBUTE, None)
        if found is not None and found.serves(engine):
            return found
        driver = cls(step, checkpoint=checkpoint, max_runtime=max_runtime, before=found)
        setattr(step, _ATTRIBUTE, driver)
        return driver

    def serves(self, engine: sdk.EngineRequest) -> bool:
        """Whether this driver can take one more durable run of its request."""
        if self._end.loop is not asyncio.get_running_loop():
            return False  # a sync function runs each of its durable runs in an event loop of its own
        if engine.in_parallel_group:
            # `group.parallel` goes on to its next run when one has ended the request, to plan that one's steps too.
            return self.plan_only and not self._end.is_over
        return not self.plan_only

    def _make_saver(self) -> Checkpointer | None:
        if self.plan_only or self.engine.disable_immediate_execution:
            return None  # other requests of this run may be under way: only planned steps are safe
        target = self.engine.checkpoint_target()
        if isinstance(target, str):
            logger.debug("run %s: no checkpointing: %s", self.engine.run_id, target)
            return None
        return Checkpointer(target, on_lost=self._end.lost)

    def _make_asker(self) -> Checkpointer | None:
        """What asks whose the run is, for a request that saves nothing; mostly it is a new one, and needs none."""
        if not is_old(made_at(self.engine.request_id)):
            return None
        target = self.engine.api_target()
        return None if isinstance(target, str) else Checkpointer(target, on_lost=self._end.lost)

    def unique_name(self, name: str) -> str:
        """The name of a run for its step ids: "triage", and for later runs of that name "triage:1", "triage:2"."""
        names = self.shared.names
        count = names.get(name, 0)
        names[name] = count + 1
        return name if count == 0 else self.unique_name(f"{name}:{count}")  # the user may have named one like this

    # Loops ------------------------------------------------------------------------------------------------------

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
        loop = Loop(tag)
        inner = self._start_loop(loop, lambda: self._end.loop.create_task(_as_coroutine(main)))
        try:
            await asyncio.wait((inner, self._end.future), return_when=asyncio.FIRST_COMPLETED)
            await self.conclude(loop)
            if is_last:
                await self.leave(tag)
            return inner.result()
        finally:
            await self._forget(loop)

    def attach(self, start: Callable[[], asyncio.Task[Any]], stop: Callable[[], object], tag: str) -> Loop:
        """A streamed run, whose loop the SDK starts as a task of its own.

        It starts steps only between `resume` and `pause`. When the request ends, the loop is cancelled; whoever
        consumes its events then finds the stream ended and calls `conclude`, which raises the end in the user's frame.

        Args:
            start: starts the loop and gives its task.
            stop: cancels that task and those beside it.
            tag: of the durable run.
        """
        loop = Loop(tag, driven=False, stop=stop)
        self._start_loop(loop, start)
        self._end.future.add_done_callback(lambda _: stop())
        return loop

    def resume(self, loop: Loop) -> None:
        """Someone waits for a streamed run: its steps may start."""
        loop.driven = True
        parked, loop.parked = loop.parked, []
        for waiting in parked:
            if not waiting.done():  # the one who waits may be cancelled
                waiting.set_result(None)
        for asked in [asked for asked in self._asked.values() if asked.loop is loop and asked.is_waiting]:
            self._scheduler.begin(asked)

    def pause(self, loop: Loop) -> None:
        """Nobody waits for a streamed run any more: what runs is finished, but nothing new starts."""
        loop.driven = False

    async def conclude(self, loop: Loop) -> None:
        """A loop has ended, or the request: nothing of it may run on, and all its steps must be saved.

        Raises:
            ResponseInterrupt, SkipInterrupt: the request ends here; Inngest's own, not to be caught.
        """
        try:
            # A loop that has failed may leave steps behind, which go on under the plain runner, too.
            if not self._end.is_over and not loop.knows_end:
                await self._cancel(loop)
                await self._save()
            if self._end.is_over or loop.knows_end:
                await self._end.reached()
        finally:
            await self._forget(loop)

    async def leave(self, tag: str) -> None:
        """A durable run has ended and asks for no more steps: `drive` does it; a stream has more than one loop.

        Raises:
            ResponseInterrupt, SkipInterrupt: the request ends here; Inngest's own, not to be caught.
        """
        await self._scheduler.leave(tag)

    def leave_path(self, path: str) -> None:
        """See `Scheduler.leave_path`."""
        self._scheduler.leave_path(path)

    def abandon(self, loop: Loop) -> None:
        """Stop a streamed run that nobody will consume."""
        loop.is_cancelled = True
        if loop.stop is not None:
            loop.stop()

    def rewind(self) -> None:
        """The request has ended: give the arguments of its runs their former contents, for the next one."""
        while self.rewinds:
            self.rewinds.pop().undo()

    def _start_loop(self, loop: Loop, start: Callable[[], asyncio.Task[T]]) -> asyncio.Task[T]:
        token = _loop.set(loop)
        try:
            inner = start()
        finally:
            _loop.reset(token)
        loop.inner = inner
        self._loops.append(loop)
        return inner

    async def _forget(self, loop: Loop) -> None:
        is_cut = self._end.is_over or (loop.inner is not None and not loop.inner.done())
        await self._cancel(loop)
        if loop.inner is not None:
            if not loop.inner.cancelled():
                loop.inner.exception()  # looked at, also where the request has ended with another answer
            elif is_cut:  # else the user's code has raised this, and the caller gets it
                free_frames(loop.inner)
        # Its context has the loop in it: the run's result, and all that it holds, would wait for the garbage collector.
        loop.inner = None
        if loop in self._loops:
            self._loops.remove(loop)
        if self._loops:
            return
        if self._end.is_over and self.loop_lasts:
            self.resources.close_beside()
        else:
            await self.resources.close()

    async def _cancel(self, loop: Loop) -> None:
        loop.is_cancelled = True
        if loop.inner is not None and not loop.inner.done():
            await end_task(loop.inner, loop.stop or loop.inner.cancel)
        for asked in [asked for asked in self._asked.values() if asked.loop is loop]:
            if loop.knows_end and asked.task is not None:
                asked.is_withdrawn = True  # the SDK has left it behind, perhaps as it does not let itself be cancelled
                asked.task.cancel()
            else:
                await self._withdraw(asked)
            if loop.knows_end:
                asked.future.cancel()  # who waits for it was left behind, and would do so for ever

    async def _save(self) -> None:
        """Wait until all finished steps are saved; if they can't be, the request ends with them."""
        if self._end.saver is not None and await self._end.saver.flush() is not SaveOutcome.SAVED:
            self._end.answer()
            await asyncio.wait((self._end.future,))

    # What is new ------------------------------------------------------------------------------------------------

    @property
    def has_ended(self) -> bool:
        """Whether the request of the engine is over."""
        return self._end.is_over

    @property
    def run_is_over(self) -> bool:
        """Whether the engine has said that the run has ended (it was cancelled), so that no request goes on with it."""
        return self._end.run_is_over

    @property
    def is_cut(self) -> bool:
        """Whether the run around the caller was told to stop: a `CancelledError` there is not the user's own."""
        loop = _loop.get()
        return self._end.is_over or (loop is not None and loop.is_cancelled)

    @property
    def makes_news(self) -> bool:
        """Whether what the loops do now was not done by an earlier request already.

        A memo that nobody has asked for yet lies ahead, so an earlier request was here; in `group.parallel` it may be
        of a run beside this one, and tells nothing. A targeted request only repeats what led to its plan, and a
        repeated attempt what led to the step that failed. What follows a failure is new to the request that finds it in
        a memo.
        """
        loop = _loop.get()
        if self.engine.target is not None or (loop is not None and loop.knows_end):
            return False
        lies_behind = self.engine.memo_count > 0 and not self.plan_only
        return self._steps.has_started or (self.engine.attempt == 0 and not lies_behind)

    def lead_up_to(self, request: StepRequest, tell: Callable[[bool], None]) -> None:
        """Tell of what led to a step that has no memo, and whether it is new.

        It is not where an earlier request asked for the step. One that is asked for when this request can't begin it
        any more is asked for again: by the next request, to which it is new, or by a repeated attempt, to which it is
        not.

        Args:
            request: the step.
            tell: tells of it.
        """
        is_new = self.engine.target is None and (self._steps.has_started or self.engine.attempt == 0)
        is_late = self._end.is_near or (self._end.saver is None and self._steps.has_started)
        if is_new and is_late:
            self._end.untold[request.hashed_id] = tell
        else:
            tell(is_new)

    # Steps ------------------------------------------------------------------------------------------------------

    def memo(self, request: StepRequest) -> dict[str, Any] | None:
        """The stored JSON object of a finished step; None if it has to be run.

        Raises:
            Exception: the error of a step that failed for good.
        """
        self._scheduler.activity += 1
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

    async def until_driven(self, step_id: str) -> None:
        """Wait until somebody consumes the loop around the caller: memos are given no sooner than new steps.

        A replay would be turns ahead of its consumer, and one that cancels the run after a turn would end it elsewhere.
        """
        loop = _loop.get()
        while loop is not None and not loop.driven:
            warning = self._end.loop.call_later(UNDRIVEN_WARNING_SECONDS, _warn_undriven, step_id)
            parked = self._end.loop.create_future()
            loop.parked.append(parked)
            try:
                await parked
            finally:
                warning.cancel()

    async def let_others_ask(self) -> None:
        """See `Scheduler.let_others_ask`."""
        await self._scheduler.let_others_ask()

    def _rename_overtaken(self, request: StepRequest) -> None:
        tag = tag_of(request.planned_id) or ""
        while found := self.shared.overtaken.intersection((request.hashed_id, request.planned_id)):
            request.hashed_id = id_after(request.step_id, found.pop())
            request.planned_id = planned_id(tag, request.hashed_id)

    async def ask(self, request: StepRequest) -> dict[str, Any]:
        """Wait for a step that has no memo. If the request of the engine ends first, the wait is cancelled.

        Raises:
            RuntimeError: two steps of the same id at the same time.
            CancelledError: the loop that asks was cancelled already. The SDK takes the cancellation of an output
                guardrail or a tool as a reason to save to the session, and would wait for that forever.
        """
        loop = _loop.get()
        if self.is_cut:
            raise asyncio.CancelledError
        asked = self._register(request, loop)
        warning = None
        if asked.is_waiting:
            self._scheduler.begin(asked)
        else:
            warning = self._end.loop.call_later(UNDRIVEN_WARNING_SECONDS, _warn_undriven, request.step_id)
        try:
            with self._end.bodies.asking():
                return await asked.future
        except asyncio.CancelledError:
            await self._withdraw(asked)
            raise
        finally:
            if warning is not None:
                warning.cancel()

    def _register(self, request: StepRequest, loop: Loop | None) -> Asked:
        self._scheduler.activity += 1
        self._scheduler.adopt(request)
        if request.hashed_id in self._asked:
            raise RuntimeError(
                f"two concurrent steps have the id {request.step_id!r}; give concurrent durable runs of the same agent "
                "names of their own: DurableOptions(name='…')"
            )
        asked = Asked(request, self._end.loop.create_future(), loop)
        # Without checkpointing each request has one step of its own, and a cut one comes back as another attempt.
        is_cut = self._end.saver is not None and self._scheduler.is_replaying
        asked.after_replay = is_cut or self.engine.attempt > 0
        self._asked[request.hashed_id] = asked
        return asked

    async def run_in_function(self, call: Callable[[], Awaitable[T]]) -> T:
        """See `Bodies.run`."""
        return await self._end.bodies.run(call)

    @property
    def step(self) -> Any:
        """The user's `step`."""
        return self._step()

    async def ask_undriven(self, request: StepRequest) -> dict[str, Any]:
        """`ask` for a step outside of any loop: if the request of the engine ends, the interrupt leaves from here.

        Raises:
            ResponseInterrupt, SkipInterrupt: the request ends here; Inngest's own, not to be caught.
        """
        asking = self._end.loop.create_task(self.ask(request))
        try:
            await asyncio.wait((asking, self._end.future), return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                await self._end.reached()
            payload = asking.result()
            # There is no loop whose end waits for the save, and the user's own next step may end the request.
            await self._save()
            if self._end.is_over:
                await self._end.reached()
            return payload
        finally:
            asking.cancel()

    async def _withdraw(self, asked: Asked) -> None:
        """The one who asked has gone: a step that has not ended yet is cancelled, as under the plain runner."""
        self._asked.pop(asked.request.hashed_id, None)
        if asked.task is not None and not asked.task.done() and not asked.is_withdrawn:
            asked.is_withdrawn = True
            await end_task(asked.task, asked.task.cancel)

    def fail(self, error: Exception) -> None:
        """End the run with an error that the SDK must not see, as it would tell it to the model as a tool's failure."""
        self._end.at_once(error)


def _warn_undriven(step_id: str) -> None:
    logger.warning(
        "step %r waits: a streamed durable run goes on only while it is consumed. Write: async for event in "
        "result.stream_events(): … or: await result.wait()",
        step_id,
    )


async def _as_coroutine(main: Callable[[], Awaitable[T]]) -> T:
    return await main()
