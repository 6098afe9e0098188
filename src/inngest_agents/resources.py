"""What the steps of one request have opened, to be closed at its end: connections, drivers, processes."""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Awaitable, Callable

logger = logging.getLogger("inngest_agents")

_resources: contextvars.ContextVar[Resources | None] = contextvars.ContextVar("inngest_agents_resources", default=None)


class Resources:
    """The open resources of one request of the engine. Steps find them with `current_resources`."""

    def __init__(self) -> None:
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

    async def close(self) -> None:
        """Close everything, last opened first. What fails is logged: the result of the run stands."""
        while self._closers:
            key, close = self._closers.popitem()
            self._owners.pop(key)
            try:
                await close()
            except Exception:
                logger.warning("closing a resource at the end of the request failed", exc_info=True)


def current_resources() -> Resources | None:
    """The resources of the durable run around the caller, inside its steps too; None outside of one."""
    return _resources.get()


def use_resources(resources: Resources | None) -> contextvars.Token[Resources | None]:
    """Make `resources` the current ones, in the current context and all that are copied from it."""
    return _resources.set(resources)


def restore_resources(token: contextvars.Token[Resources | None]) -> None:
    """Undo `use_resources`."""
    _resources.reset(token)
