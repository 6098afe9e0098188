"""Code of the user that runs beside the SDK's loop in no step: a tool that is marked by `in_step=False`.

It runs in the Inngest function itself, from the top in each request, and may use `ctx.step`, whose interrupts end the
request from inside of it. They must not pass through the SDK's frames, so they are caught around the code, and the
driver raises them in the user's own frame. What such code does meanwhile is no step of the journal, so the driver is
told when it is at work: it must not be cut off in the middle of a `ctx.step.run`.
"""

from __future__ import annotations

import contextvars
import dataclasses
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import inngest

from inngest_agents import _inngest_sdk as sdk
from inngest_agents.errors import is_memoized
from inngest_agents.request.checkpoint import SaveOutcome

if TYPE_CHECKING:
    from inngest_agents.request.request_end import RequestEnd

T = TypeVar("T")


@dataclasses.dataclass(slots=True, eq=False)
class _Body:
    """One call of such code."""

    asking: int = 0
    """How many steps of the journal it waits for."""


_body: contextvars.ContextVar[_Body | None] = contextvars.ContextVar("inngest_agents_body", default=None)


class Bodies:
    """Those of one request.

    Args:
        end: how the request ends.
    """

    def __init__(self, end: RequestEnd) -> None:
        self._end = end
        self._under_way: set[_Body] = set()

    @property
    def are_under_way(self) -> bool:
        """Whether there is one that has begun and has not ended."""
        return bool(self._under_way)

    @property
    def are_busy(self) -> bool:
        """Whether one of them does something, and does not only wait for a step of the journal."""
        return any(not body.asking for body in self._under_way)

    async def run(self, call: Callable[[], Awaitable[T]]) -> T:
        """Call the code. If `ctx.step` ends the request in it, this never comes back, but is cancelled.

        What led to it is saved before, as before a tool that is a step.
        """
        saver = self._end.saver
        is_saved = saver is None or await saver.flush_and_own() is SaveOutcome.SAVED
        if not is_saved:
            self._end.answer()
        if not is_saved or self._end.is_over:
            await self._end.loop.create_future()
        with self.asking():  # of the code around this one, if there is any
            body = _Body()
            answers: list[sdk.StepResponse] = []
            self._under_way.add(body)
            token = _body.set(body)
            try:
                return await call()
            except (sdk.ResponseInterrupt, sdk.SkipInterrupt) as interrupt:
                if isinstance(interrupt, sdk.ResponseInterrupt):
                    answers = interrupt.responses
                    self._end.wait_for(*answers)
                else:
                    self._end.skip()
            except inngest.RetryAfterError as error:
                if is_memoized(error):
                    raise
                self._end.try_again(error)
            finally:
                _body.reset(token)
                self._under_way.discard(body)
                self._end.conclude()
            try:
                await self._end.loop.create_future()
            finally:
                self._end.wait_no_more(*answers)
            raise AssertionError("only a cancellation comes here")

    @contextmanager
    def asking(self) -> Iterator[None]:
        """The caller waits for a step of the journal."""
        body = _body.get()
        if body is None:
            yield
            return
        body.asking += 1
        self._end.conclude()
        try:
            yield
        finally:
            body.asking -= 1
