"""The session of a sandbox in a durable run: known from what a step stored, attached when a step needs it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import weakref
from collections.abc import Awaitable, Callable
from typing import Any, Final

from agents.sandbox.session import SandboxSession

from inngest_agents import _agents_sdk as sdk
from inngest_agents.errors import SandboxLostError
from inngest_agents.request.resources import current_resources

KEPT_SECONDS: Final = 600.0
"""How long a process keeps a sandbox open after a request, for the next request of the same run."""


class AttachedLater(SandboxSession):
    """The session of a sandbox that some step has opened. Its methods can be called once it is attached."""

    def __init__(self, state: Any, *, supports_pty: bool) -> None:
        # Not the constructor of the class above, as there is no inner session yet.
        self._remembered = state
        self._pty = supports_pty

    @property
    def is_attached(self) -> bool:
        """Whether it is attached."""
        return "_inner" in self.__dict__

    def attach(self, session: Any) -> None:
        """Become another handle of the sandbox that `session` is open for."""
        skipped = sdk.take_skipped_paths(self)
        for name, value in sdk.sandbox_handle(session).items():
            self.__dict__.setdefault(name, value)
        for path in skipped:
            self.register_persist_workspace_skip_path(path)

    @property
    def state(self) -> Any:
        """What is known of the sandbox."""
        return self._inner.state if self.is_attached else self._remembered

    @state.setter
    def state(self, value: Any) -> None:
        if self.is_attached:
            self._inner.state = value
        else:
            self._remembered = value

    def supports_pty(self) -> bool:
        """What the sandbox said of itself when it was opened."""
        return self._pty

    def normalize_path(self, path: Any, *, for_write: bool = False) -> Any:
        """See `BaseSandboxSession`; links in the workspace are followed once it is attached."""
        if self.is_attached:
            return super().normalize_path(path, for_write=for_write)
        return super(SandboxSession, self).normalize_path(path, for_write=for_write)

    def register_persist_workspace_skip_path(self, path: Any) -> Any:
        """See `BaseSandboxSession`."""
        if self.is_attached:
            return super().register_persist_workspace_skip_path(path)
        return super(SandboxSession, self).register_persist_workspace_skip_path(path)


class DurableSandbox(sdk.SandboxResources):  # type: ignore[misc]
    """What the SDK holds of a sandbox: a session that is made ready inside of steps, and closed in one."""

    def __init__(self, session: Any, client: Any, *, key: str, open: Callable[[], Awaitable[Any]]) -> None:
        super().__init__(session=session, client=client, owns_session=client is not None)
        self.is_users = client is None
        """Whether the user has opened the session, and closes it."""
        self._key = key
        self._open = open
        self._lock = asyncio.Lock()
        self._is_ready = False

    async def ensure_started(self) -> None:
        """Nothing: the SDK asks before each turn, on a replay too."""

    async def ready(self) -> None:
        """Make the session ready; only a step may ask.

        Raises:
            SandboxLostError: the sandbox is not there any more.
        """
        async with self._lock:
            if not self._is_ready:
                if self.is_users:
                    await self._open()
                else:
                    self.session.attach(await self._live())
                self._is_ready = True

    async def _live(self) -> Any:
        sandboxes = open_sandboxes()
        if not sandboxes.has(self._key):
            sandboxes.keep(self._key, await self._open())
        resources = current_resources()
        if resources is not None:
            resources.add(self, self._leave)
        return sandboxes.use(self._key)

    async def _leave(self) -> None:
        open_sandboxes().leave(self._key)

    async def close_next(self) -> None:
        """Make ready for the SDK's own closing, which does nothing with a sandbox that is gone."""
        if self.is_users:
            return
        try:
            await self.ready()
        except SandboxLostError:
            self._cleaned = True
        open_sandboxes().forget(self._key)


@dataclasses.dataclass(eq=False)
class _Kept:
    session: Any
    users: int = 0
    expiry: asyncio.TimerHandle | None = None


class OpenSandboxes:
    """The sandboxes that are open in one event loop, by the run and the step that opened them.

    The requests of a run that reach the same process share them, so that the processes in them live on.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._kept: dict[str, _Kept] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def has(self, key: str) -> bool:
        """Whether the sandbox of this key is open."""
        return key in self._kept

    def keep(self, key: str, session: Any) -> None:
        """Keep a sandbox that nobody uses yet."""
        self._drop(key)
        self._kept[key] = kept = _Kept(session)
        self._expire_later(key, kept)

    def use(self, key: str) -> Any:
        """The session of this key, which must be open; until `leave`, it stays."""
        kept = self._kept[key]
        kept.users += 1
        if kept.expiry is not None:
            kept.expiry.cancel()
        return kept.session

    def leave(self, key: str) -> None:
        """One user less."""
        kept = self._kept.get(key)
        if kept is not None:
            kept.users -= 1
            if kept.users == 0:
                self._expire_later(key, kept)

    def forget(self, key: str) -> Any:
        """The sandbox of this key is closed, or somebody else's from now on."""
        kept = self._kept.pop(key, None)
        if kept is None:
            return None
        if kept.expiry is not None:
            kept.expiry.cancel()
        return kept.session

    def _expire_later(self, key: str, kept: _Kept) -> None:
        loop = self._loop()
        if loop is not None:
            kept.expiry = loop.call_later(KEPT_SECONDS, self._drop, key)

    def _drop(self, key: str) -> None:
        session, loop = self.forget(key), self._loop()
        if session is not None and loop is not None:
            task = loop.create_task(_let_go(session))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


async def _let_go(session: Any) -> None:
    """End what runs in a sandbox, and let the sandbox itself be."""
    with contextlib.suppress(Exception):  # nobody waits for it, and the sandbox may be gone
        await session.pty_terminate_all()
        await sdk.close_sandbox_dependencies(session)


_open: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, OpenSandboxes] = weakref.WeakKeyDictionary()


def open_sandboxes() -> OpenSandboxes:
    """The sandboxes that are open in the running event loop."""
    loop = asyncio.get_running_loop()
    found = _open.get(loop)
    if found is None:
        found = _open[loop] = OpenSandboxes(loop)
    return found
