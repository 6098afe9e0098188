"""Decides which of the steps that were asked for start in this request, and which are planned for one of their own.

With checkpointing, every new step starts at once. Without it (specification, section 5.3.1): one new step alone is run
and ends the request, several are planned, and a targeted request runs its target only. Which steps belong together is
found by waiting until the loop has been idle for some turns; that decides how wide a plan is and never whether it is
right: a step that comes late is simply found by a later request.

The engine goes on only when each planned step has ended. One that its run no longer needs, as the steps beside it have
taken the run another way, is answered here with `OVERTAKEN`.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import time
from typing import TYPE_CHECKING, Final

from inngest_agents import _inngest_sdk as sdk
from inngest_agents.request.checkpoint import SaveOutcome
from inngest_agents.request.step_ids import OVERTAKEN, tag_of

if TYPE_CHECKING:
    from inngest_agents.request.asked import Asked, Loop, Shared
    from inngest_agents.request.execution import StepRunner
    from inngest_agents.request.request_end import RequestEnd
    from inngest_agents.request.step_request import StepRequest

IDLE_TURNS: Final = 64
"""Turns of the event loop without a new request after which a batch counts as whole (measured: gaps of 15 to 43)."""

QUIET_TURNS: Final = 48
"""The same before a memo that cancels others: fewer, so that nothing starts meanwhile that it will cancel."""

TARGET_GRACE_SECONDS: Final = 10.0
"""How long a targeted request waits for a step that no durable run has planned, while one asks for other steps."""

OVERTAKEN_GRACE_SECONDS: Final = 1.0
"""The same for a step that a durable run has planned, before it counts as overtaken."""

POLL_SECONDS: Final = 0.005
"""How often a targeted request looks whether its step is asked for."""

LEADING_KINDS: Final = frozenset({"guardrail", "hook", "other"})
"""What may lead to something to wait for, and is short; a tool leads to the model, once all tools have ended."""

PLANNED_LIMIT: Final = 1000
"""How many planned steps a process remembers by name: the engine may send their requests to other processes."""

_planned_here: Final[dict[tuple[str, str], str]] = {}
"""The readable ids of steps that this process has planned, by run and hashed id, which is all that a target tells."""


class Scheduler:
    """Starts or plans the steps of one request.

    Args:
        engine: the request.
        end: how it ends.
        steps: runs them.
        asked: those that wait for an answer, by hashed id.
        loops: those under way.
        shared: what the drivers of the request share.
        is_in_group: whether the request is inside of `group.parallel`, where steps are planned and not run.
    """

    def __init__(
        self,
        engine: sdk.EngineRequest,
        end: RequestEnd,
        steps: StepRunner,
        asked: dict[str, Asked],
        loops: list[Loop],
        shared: Shared,
        *,
        is_in_group: bool,
    ) -> None:
        self.activity = 0
        """Counts what the loops ask for."""
        self.is_replaying = engine.memo_count > 0
        """Whether no step that is new was started yet."""
        self._engine = engine
        self._end = end
        self._steps = steps
        self._asked = asked
        self._loops = loops
        self._shared = shared
        self._is_in_group = is_in_group
        self._settling: asyncio.Task[None] | None = None
        self._skipping: asyncio.Task[None] | None = None
        self._target = engine.target
        self._owner = tag_of(engine.target) if engine.target is not None else None
        """The tag of the durable run that has planned the target."""
        self._target_name = _planned_here.get((engine.run_id, engine.target or ""), "overtaken")
        self._left_paths: list[str] = []
        steps.on_idle = self._begin_waiting
        end.rest, end.skip, end.go_on = self._planned_rest, self._skip, self._begin_waiting
        end.settle = functools.partial(self._quiet, IDLE_TURNS)

    def adopt(self, request: StepRequest) -> None:
        """Give the step that this request is for the id under which it was planned."""
        if self._target in (request.hashed_id, request.planned_id):
            request.hashed_id, self._target_name = self._target, request.step_id

    def begin(self, asked: Asked) -> None:
        """Start a step at once, or together with others that are asked for now."""
        if self._end.is_near:
            return
        if self._end.saver is not None and not self.is_replaying:
            # The request ends with a step that nothing runs beside: several loops in turns would never come to that.
            if not (self._steps.is_overdue and self._end.running):
                self._steps.start(asked)
        elif self._settling is None:
            self._settling = self._end.loop.create_task(self._settle())

    def _begin_waiting(self) -> None:
        for asked in self._waiting():
            self.begin(asked)

    async def _settle(self) -> None:
        """Wait until the loops ask for nothing more, then start, run or plan what they have asked for."""
        await self._quiet(IDLE_TURNS)
        self._settling = None
        waiting = self._waiting()
        if self._end.is_near or not waiting:
            return
        if self._end.saver is None and self._end.bodies.are_under_way:
            # What is planned with a tool that fails is waited for until that has had its last attempt, and a tool that
            # has asked somebody would not wait for the answer until then.
            waiting = _leading(waiting) or waiting
        if self._end.saver is not None:
            self.is_replaying = False
            for asked in waiting:
                self._steps.start(asked)
        elif self._target is not None:
            await self._run_target(self._target)
        elif len(waiting) > 1 or self._is_in_group or self._engine.disable_immediate_execution:
            self._end.answer(*self._planned([asked.request for asked in waiting]))
        elif not self._end.running:
            self._steps.start(waiting[0])

    def _planned(self, requests: list[StepRequest]) -> list[sdk.StepResponse]:
        for request in requests:
            self._end.tell_of(request.hashed_id)
            _planned_here[self._engine.run_id, request.planned_id] = request.step_id
        while len(_planned_here) > PLANNED_LIMIT:
            del _planned_here[next(iter(_planned_here))]
        return list(map(_planned, requests))

    async def _planned_rest(self) -> tuple[list[sdk.StepResponse], bool]:
        """The steps that are asked for while the request is about to end: not begun yet, or to be tried again.

        The engine goes on only when all that it waits for is over. So what is short and may lead to something else to
        wait for comes first: the event that answers one tool would be missed while another one waits.
        """
        await self._quiet(IDLE_TURNS)
        saver = self._end.saver
        can_start = saver is None or saver.outcome is SaveOutcome.SAVED
        if can_start and self._end.only_waits and not self._end.running and not self._is_in_group:
            first = _leading(self._waiting())
            if first and self._engine.disable_immediate_execution:
                return self._planned([asked.request for asked in first]), True
            for asked in first if saver is not None else first[:1]:
                self.is_replaying = False
                self._steps.start(asked)
        rest = [asked.request for asked in self._asked.values() if asked.is_waiting or asked.has_failed]
        return ([] if self._end.running else self._planned(rest)), False

    async def let_others_ask(self) -> None:
        """Let all who have memos get them, before a memo is handed out that makes the SDK cancel them.

        What had ended beside a step that was cancelled is in the history of the run; a replay must not lose it.
        """
        await self._quiet(QUIET_TURNS)
        self.activity += 1  # the SDK has its time to cancel those who have none, before they start

    async def _quiet(self, turns: int) -> None:
        """Wait for so many turns of the event loop in which nothing is asked for."""
        await _Quiet(self, turns).reached

    def _waiting(self) -> list[Asked]:
        return [asked for asked in self._asked.values() if asked.is_waiting]

    # A request for one planned step -----------------------------------------------------------------------------

    async def _run_target(self, target: str) -> None:
        """Run the target once it is asked for, or answer for those who ask for other steps instead."""
        started = time.monotonic()
        while (asked := self._asked.get(target)) is None:
            if self._end.is_near or not self._waiting():
                return
            if self._end.bodies.are_busy:
                started = time.monotonic()  # it may be what runs the target, or be about to ask for it
            else:
                self._give_up(target, waited=time.monotonic() - started)
            await asyncio.sleep(POLL_SECONDS)
        if asked.task is None:
            self._steps.start(asked)

    def _skip(self) -> None:
        if self._skipping is None:
            self._skipping = self._end.loop.create_task(self._give_up_at_rest())

    async def _give_up_at_rest(self) -> None:
        """Give the target up if nobody asks for any step of the journal, for which `_run_target` would do it."""
        await self._quiet(IDLE_TURNS)
        started = time.monotonic()
        while not self._end.is_near:
            if self._waiting() or self._end.running or self._end.bodies.are_busy:
                started = time.monotonic()
            else:
                self._give_up(self._target or "", waited=time.monotonic() - started)
            await asyncio.sleep(POLL_SECONDS)
        self._skipping = None

    def _give_up(self, target: str, *, waited: float) -> None:
        """End the request if the target is not to be found here, or if that has been waited for long enough.

        Its run may go on without it where the guardrail of a nested agent has tripped, say. Where this process knows
        the name of the target, that is seen at once; else it could still be asked for.
        """
        if self._is_in_group and not self._is_owner_under_way():
            # Another function's of the group, which asks each of them in turn.
            self._end.at_once(sdk.SkipInterrupt(target) if self._owner is None else self._missed(target))
        elif self._owner is not None and (self._is_left() or waited > OVERTAKEN_GRACE_SECONDS):
            self._end.answer(self._overtaken(target))
        elif waited > TARGET_GRACE_SECONDS:
            self._end.at_once(sdk.SkipInterrupt(target))

    def _is_left(self) -> bool:
        """Whether the target is known as a step of a nested run that has ended."""
        return any(self._target_name.startswith(f"{path}/") for path in self._left_paths)

    def leave_path(self, path: str) -> None:
        """A nested run has ended, whose steps' ids begin so, and asks for no more of them."""
        self._left_paths.append(path)

    async def leave(self, tag: str) -> None:
        """A durable run has ended, with a result or an error, and asks for no more steps.

        If the request is for a step that it has planned, nobody will ask for that one any more. If it is for a step of
        another run that is under way, the caller waits for that one: he would go on to steps which this request may
        not run.

        Raises:
            ResponseInterrupt, SkipInterrupt: the request ends here; Inngest's own, not to be caught.
        """
        if self._target is not None and self._owner is not None and not self._end.is_near:
            if self._owner == tag:
                self._end.answer(self._overtaken(self._target))
            else:
                await self._wait_for_owner()
        if self._end.is_near:
            await self._end.reached()

    async def _wait_for_owner(self) -> None:
        started = time.monotonic()
        while self._is_owner_under_way() and not self._end.is_near:
            if time.monotonic() - started > TARGET_GRACE_SECONDS:
                return  # it waits for the caller, perhaps
            await asyncio.wait((self._end.future,), timeout=POLL_SECONDS)

    def _is_owner_under_way(self) -> bool:
        return any(loop.tag == self._owner and loop.driven for loop in self._loops)

    def _overtaken(self, target: str) -> sdk.StepResponse:
        self._shared.is_answered = True
        info = sdk.step_info(self._target_name, target, sdk.Opcode.STEP_RUN)
        return sdk.StepResponse(output=OVERTAKEN, step=info)

    def _missed(self, target: str) -> sdk.ResponseInterrupt:
        """The end of a function in `group.parallel` that does not ask for the target; maybe no other does either."""
        return sdk.missed(lambda: None if self._shared.is_answered else self._overtaken(target))


class _Quiet:
    """Waits for turns of the event loop in which nothing is asked for; by callbacks, as turns of a task cost more.

    Args:
        scheduler: counts what is asked for.
        turns: how many there shall be, one after the other.
    """

    __slots__ = ("_context", "_idle", "_loop", "_scheduler", "_seen", "_turns", "reached")

    def __init__(self, scheduler: Scheduler, turns: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._scheduler = scheduler
        self._turns = turns
        self._idle, self._seen = 0, scheduler.activity
        self.reached: asyncio.Future[None] = self._loop.create_future()
        self._next()

    def _next(self) -> None:
        self._loop.call_soon(self._turn, context=self._context)

    def _turn(self) -> None:
        activity = self._scheduler.activity
        self._idle = self._idle + 1 if activity == self._seen else 0
        self._seen = activity
        if self.reached.done():  # who waited was cancelled
            return
        if self._idle < self._turns:
            self._next()
        else:
            self.reached.set_result(None)


def _leading(waiting: list[Asked]) -> list[Asked]:
    return [asked for asked in waiting if asked.request.about["kind"] in LEADING_KINDS]


def _planned(request: StepRequest) -> sdk.StepResponse:
    info = sdk.step_info(request.step_id, request.planned_id, sdk.Opcode.PLANNED, opts=request.opts)
    return sdk.StepResponse(step=info)


def drop_markers(engine: sdk.EngineRequest) -> set[str]:
    """Take the memos away that are no step's, so that only those count which somebody may ask for.

    Returns:
        the hashed ids of planned steps that were not needed.
    """
    engine.drop_memos(lambda hashed_id, _: sdk.is_join(hashed_id))
    return engine.drop_memos(lambda hashed_id, value: tag_of(hashed_id) is not None and value == OVERTAKEN)
