"""What the steps of one request have opened, to be closed at its end: connections, drivers, processes."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import weakref
from collections.abc import Awaitable, Callable
from typing import Final

logger = logging.getLogger("inngest_agents")

_loops: Final[weakref.WeakSet[asyncio.AbstractEventLoop]] = weakref.WeakSet()
"""Event loops that have served a request."""

_closing: Final[set[asyncio.Task[None]]] = set()
"""What is being closed beside the answers; the event loop itself keeps no task alive."""

_resources: contextvars.ContextVar[Resources | None] = contextvars.ContextVar("inngest_agents_resources", default=None)


class Resources:
    """The open resources of one request of the engine. Steps find them with `current_resources`."""

    def __init__(self) -> None:
        self.loop: Final = asyncio.get_running_loop()
        """The event loop that serves the request; a tool's thread may have another one."""
        self._closers: dict[int, Callable[[], Awaitable[None]]] = {}
        self._owners: dict[int, object] = {}

    def holds(self, owner: object) -> bool:
        """Whether something was opened for `owner` and is to be closed."""
        return id(owner) in self._closers

    def add(self, owner: object, close: Callable[[], Awaitable[None]]) -> None:
        """Have `close` called at the end of the request; once for each owner."""
        self._owners[id(owner)] = owner
        self._closers[id(owner)] = close

    def forget(self, owner: object) -> None:
        """Nothing is to be closed for `owner`: it was never opened."""
        self._closers.pop(id(owner), None)
        self._owners.pop(id(owner), None)

    def close_beside(self) -> None:
        """Close everything without holding up the answer of the request, which holds the result of a step.

        Stopping an MCP server takes a tenth of a second or more, and a worker that is killed meanwhile would have the
        finished step run again.
        """
        if not self._closers:
            return
        task = asyncio.get_running_loop().create_task(self.close(), context=contextvars.Context())
        _closing.add(task)
        task.add_done_callback(_closing.discard)

    async def close(self) -> None:
        """Close everything, last opened first. What fails is logged: the result of the run stands."""
        while self._closers:
            key, close = self._closers.popitem()
            self._owners.pop(key)
            try:
                await close()
            except (Exception, asyncio.CancelledError) as error:
                task = asyncio.current_task()
                if isinstance(error, asyncio.CancelledError) and (task is None or task.cancelling()):
                    raise
                # Nobody cancels this task: the resource was cancelled from within, and has failed like any other.
                logger.warning("closing a resource at the end of the request failed", exc_info=True)


def serves_many_requests(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether an event loop has served an earlier request, so that it most likely outlives the one that asks.

    A synchronous framework makes a loop for each request; what is still open when that ends is cut. The loop of a
    thread (see `inngest_agents.request.thread_loop`) serves many and yet stops in between.
    """
    is_known = loop in _loops
    _loops.add(loop)
    return is_known


async def all_closed() -> None:
    """Wait for what this event loop closes beside its requests."""
    loop = asyncio.get_running_loop()
    while tasks := [task for task in _closing if task.get_loop() is loop]:
        await asyncio.wait(tasks)


def current_resources() -> Resources | None:
    """The resources of the durable run around the caller, inside its steps too; None outside of one."""
    return _resources.get()


def use_resources(resources: Resources | None) -> contextvars.Token[Resources | None]:
    """Make `resources` the current ones, in the current context and all that are copied from it."""
    return _resources.set(resources)


def restore_resources(token: contextvars.Token[Resources | None]) -> None:
    """Undo `use_resources`."""
    _resources.reset(token)
