"""What the parts of a driver hand each other: steps that were asked for, the loops that ask, and what drivers share."""

from __future__ import annotations

import asyncio
import dataclasses
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inngest_agents.request.step_request import StepRequest


@dataclasses.dataclass(slots=True, eq=False)
class Loop:
    """One loop of the SDK under way in this request: that of a durable run, or one for its last steps."""

    tag: str
    """Tells which of the planned steps are its run's."""
    inner: asyncio.Task[Any] | None = None
    stop: Callable[[], object] | None = None
    """Cancels the loop and the tasks beside it, where cancelling `inner` is not enough."""
    driven: bool = True
    """Whether the user's own frame waits for this loop, so that the end of the request can be raised there. A streamed
    run that nobody consumes starts no steps."""
    parked: list[asyncio.Future[None]] = dataclasses.field(default_factory=list)
    """Those who have found their step's memo and wait until the loop is driven."""
    is_cancelled: bool = False
    """Whether it was told to stop: it gets no more answers."""
    knows_end: bool = False
    """Whether it has got the failure that the request ends with. What it does now, the next request does again."""


@dataclasses.dataclass(slots=True, eq=False)
class Asked:
    """A step that was asked for and has no memo."""

    request: StepRequest
    future: asyncio.Future[dict[str, Any]]
    loop: Loop | None
    """Who asks; None for a step à la carte."""
    task: asyncio.Task[None] | None = None
    """Set once the step has started."""
    is_withdrawn: bool = False
    """Whether the one who asked has gone."""
    after_replay: bool = False
    """Whether all before it came from memos, so that an earlier request may have begun it."""

    @property
    def is_waiting(self) -> bool:
        """Whether it may start and has not."""
        return self.task is None and (self.loop is None or self.loop.driven)

    @property
    def has_failed(self) -> bool:
        """Whether it has ended without an answer for who asks, and could not be saved either."""
        return self.task is not None and self.task.done() and not self.future.done()


@dataclasses.dataclass(slots=True)
class Shared:
    """What the drivers of one request share: a sync function has one for each of its durable runs."""

    started: float
    overtaken: set[str]
    """The hashed ids of planned steps that were not needed when their turn came."""
    names: dict[str, int] = dataclasses.field(default_factory=dict)
    """How many runs of each name the function has started, for their ids."""
    is_answered: bool = False
    """Whether the target has begun, or was answered in another way."""


async def end_task(task: asyncio.Task[Any], cancel: Callable[[], object]) -> None:
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


def free_frames(task: asyncio.Task[Any]) -> None:
    """Let go of what the frames of a cancelled task hold.

    The error that ended it has them, and through them nearly all of the run, the error included. The garbage collector
    would find that only when it looks at everything, which takes it longer than ten requests do.
    """
    try:
        task.result()
    except asyncio.CancelledError as cancelled:
        error: BaseException | None = cancelled
        while isinstance(error, asyncio.CancelledError):
            traceback.clear_frames(error.__traceback__)
            error = error.__context__
