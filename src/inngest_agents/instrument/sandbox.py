"""Sandbox agents: a sandbox is opened in a step, each operation in it is a step, and it is closed in a step.

| what | its step | steps |
|---|---|---|
| creating or resuming the sandbox, and filling it from its manifest | "open sandbox coder" | one a run and agent |
| instructions, which the SDK makes of manifest and capabilities | "3 prepare coder" | one a turn |
| looking for `SandboxRunConfig.cwd` | "3 sandbox directory" | one a turn, if it is set |
| a command, a patch, an image, … | "2.1 exec_command" | one a call, as of any tool |
| memories, snapshot, shutdown, deletion | "close sandbox" | one a run; none for a session that the user has opened |

The step that opens a sandbox stores the state that the sandbox's client makes of it, as a `RunState` does. A later
request attaches to that sandbox when code of the user first runs in one of its steps, and never for a replay alone.
Where the SDK cleans up because the request of the engine ends, nothing is closed: the sandbox stays, and the process
keeps it open for a while, so that commands which run in the background live on. In another process those are gone,
which the SDK tells the model. It is closed, though outside of any step, where the engine has said that the run is over
(it was cancelled, and a save was refused for that). A cancellation from inside of the user's function tells nothing:
the next attempt may go on.

An agent tool that runs out of time is cancelled for good: the step that says so closes its sandboxes. A step that opens
a sandbox and is made again in the same process, as its result was lost, deletes the sandbox of the first attempt.

A sandbox that cannot be found again (it was deleted, or is a directory of another machine) ends the run with a
`SandboxLostError`: an empty one in its place would contradict what the model has been told.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import logging
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final

from agents.tracing import custom_span, get_current_span

from inngest_agents import _agents_sdk as sdk
from inngest_agents.errors import SandboxLostError, ends_a_run
from inngest_agents.instrument.dynamic import user_step
from inngest_agents.instrument.sandbox_session import AttachedLater, DurableSandbox, open_sandboxes
from inngest_agents.instrument.tools import current_time_limit
from inngest_agents.instrument.tracing import NO_OP_ID
from inngest_agents.journal import Journal
from inngest_agents.scope import Scope, current_journal, current_scope, inside_journal, is_in_loop

logger = logging.getLogger("inngest_agents")

_ATTRIBUTE: Final = "__durable_sandboxes__"

CLOSE_SECONDS: Final = 20.0
"""How long the closing of a cancelled run's sandboxes may take: the request is held up by it."""


class _Sandboxes:
    """The sandboxes of one loop of the SDK; its session manager holds on to this."""

    def __init__(self, journal: Journal, scope: Scope, manager: Any) -> None:
        self.journal = journal
        self.scope = scope
        self.memories: list[Callable[[], Awaitable[None]]] = []
        """What the SDK wants to remember of the run in its sandbox, before that is closed."""
        self.is_streamed = False
        """Whether they are closed after the loop of a streamed run."""
        self._manager = manager

    @property
    def is_cut(self) -> bool:
        """Whether the loop ends only in this request of the engine, and goes on in another one."""
        task = asyncio.current_task()
        return self.journal.driver.has_ended or (task is not None and task.cancelling() > 0)

    def is_tried_again(self, error: BaseException | None) -> bool:
        """Whether the error that a run ends with lets Inngest try again, which takes up the sandboxes then."""
        engine = self.journal.driver.engine
        is_last = engine.max_attempts is not None and engine.attempt + 1 >= engine.max_attempts
        return error is not None and not self.scope.path and not is_last and not ends_a_run(error)

    async def close(self, cleanup: Callable[[Any], Awaitable[Any]]) -> Any:
        """Close all in one step.

        Args:
            cleanup: the SDK's own.

        Returns:
            What a `RunState` keeps of them.
        """
        if all(sandbox.is_users for sandbox in self.scope.sandboxes) and not self.memories:
            return await cleanup(self._manager)
        call = functools.partial(self.close_in_step, cleanup)
        with inside_journal(self.journal, self.scope):
            payload = await user_step(self.scope.repeated("close sandbox"), call, by_agent=False)
        self.release()
        return payload

    async def close_in_step(self, cleanup: Callable[[Any], Awaitable[Any]]) -> Any:
        """What the step does that closes them."""
        for sandbox in list(self.scope.sandboxes):
            await sandbox.close_next()
        for remember in self.memories:
            try:
                await remember()
            except Exception as error:  # noqa: BLE001  as under the plain runner, the run has its result
                sdk.warn_of_memory_error(error, is_streamed=self.is_streamed)
        return await cleanup(self._manager)

    def release(self) -> None:
        """Forget all of them; they stay open."""
        self.scope.sandboxes.clear()
        sdk.release_sandboxes(self._manager)


def _of(manager: Any) -> _Sandboxes | None:
    found: _Sandboxes | None = getattr(manager, _ATTRIBUTE, None)
    return found


@sdk.around("agents.sandbox.runtime_session_manager", "SandboxRuntimeSessionManager.acquire_agent", ("self", "agent"))
def _acquire_agent(original: Callable[..., Any], self: Any, agent: Any) -> None:
    journal = current_journal()
    if journal is None:
        original(self, agent)
        return
    if _of(self) is None:
        setattr(self, _ATTRIBUTE, _Sandboxes(journal, current_scope(), self))
    # The SDK lets one run at a time have an agent. The requests of a run may overlap, and so do the runs of a worker.
    sdk.take_sandbox_agent(self, agent)


@sdk.around(
    "agents.sandbox.runtime_session_manager",
    "SandboxRuntimeSessionManager._create_resources",
    ("self", "agent", "capabilities", "is_resumed_state"),
)
async def _create_resources(original: Callable[..., Any], self: Any, *, agent: Any, **kwargs: Any) -> Any:
    sandboxes = _of(self)
    if sandboxes is None:
        return await original(self, agent=agent, **kwargs)
    scope, client = sandboxes.scope, sdk.sandbox_client(self)
    label = scope.repeated(f"open sandbox {agent.name}")
    key = f"{sandboxes.journal.run_id} {sandboxes.journal.step_id(label)}"
    made: list[Any] = []

    async def create() -> Any:
        made[:] = [await original(self, agent=agent, **kwargs)]
        try:
            await made[0].ensure_started()
        except BaseException:
            await made[0].cleanup()
            raise
        if client is None:
            return None
        await _delete(open_sandboxes().forget(key), client)
        open_sandboxes().keep(key, made[0].session)
        state = client.serialize_session_state(made[0].state)
        return {"state": state, "pty": made[0].session.supports_pty()}

    stored = await user_step(label, create, name=agent.name)
    if client is None:
        sandbox = _users_sandbox(made[0] if made else sdk.users_sandbox(self, agent, **kwargs), key)
    else:
        state = sdk.sandbox_state(self, agent, client, copy.deepcopy(stored["state"]), **kwargs)
        session = AttachedLater(state, supports_pty=stored["pty"])
        sandbox = DurableSandbox(session, client, key=key, open=lambda: _reopen(self, client, agent, state))
    scope.sandboxes.append(sandbox)
    return sandbox


async def _delete(session: Any, client: Any) -> None:
    """Delete the sandbox of an earlier attempt of the same step, in which nothing was done."""
    if session is not None:
        try:
            await sdk.SandboxResources(session=session, client=client, owns_session=True).cleanup()
        except Exception:
            logger.warning("the sandbox of an attempt whose result was lost stays open", exc_info=True)


def _users_sandbox(resources: Any, key: str) -> DurableSandbox:
    return DurableSandbox(resources.session, None, key=key, open=resources.ensure_started)


async def _reopen(manager: Any, client: Any, agent: Any, state: Any) -> Any:
    """Attach to a sandbox that another process has opened.

    Raises:
        SandboxLostError: the client has made a new one instead.
    """
    known = sdk.without_snapshot(state)
    session = await client.resume(known.model_copy(deep=True))
    sdk.configure_sandbox(manager, session)
    if not sdk.is_same_sandbox(session, known):
        with contextlib.suppress(Exception):  # the error below matters more
            await client.delete(session)
        raise SandboxLostError(agent.name, client.backend_id)
    await session.start()
    session.state.snapshot = state.snapshot
    return session


@sdk.around("agents.sandbox.runtime", "_validate_workspace_scope", ("session", "scope", "run_as"))
async def _look_for_directory(original: Callable[..., Any], *, session: Any, scope: Any, run_as: Any) -> None:
    turn = current_scope() if current_journal() is not None else None
    sandbox = next((known for known in turn.sandboxes if known.session is session), None) if turn is not None else None
    if turn is None or sandbox is None or scope.cwd is None:
        await original(session=session, scope=scope, run_as=run_as)
        return

    async def call() -> None:
        await sandbox.ready()
        await original(session=session, scope=scope, run_as=run_as)

    await user_step(turn.repeated(f"{turn.turn + 1} sandbox directory"), call)


@sdk.around("agents.sandbox.runtime", "SandboxRuntime.enqueue_memory_result", ("self", "result"))
async def _remember_result(original: Callable[..., Any], self: Any, *args: Any, **kwargs: Any) -> None:
    await _remember(original, self, args, kwargs)


@sdk.around("agents.sandbox.runtime", "SandboxRuntime.enqueue_memory_payload", ("self", "input"))
async def _remember_payload(original: Callable[..., Any], self: Any, *args: Any, **kwargs: Any) -> None:
    await _remember(original, self, args, kwargs)


async def _remember(original: Callable[..., Any], runtime: Any, args: Any, kwargs: Any) -> None:
    """Make the memories of a run in the step that closes its sandbox."""
    sandboxes = _of(sdk.sandbox_manager(runtime))
    if sandboxes is None:
        await original(runtime, *args, **kwargs)
    elif sdk.makes_memories(runtime):
        sandboxes.memories.append(lambda: original(runtime, *args, **kwargs))


@sdk.around("agents.sandbox.runtime_session_manager", "SandboxRuntimeSessionManager.cleanup", ("self",))
async def _cleanup(original: Callable[..., Any], self: Any) -> Any:
    sandboxes = _of(self)
    if sandboxes is None:
        return await original(self)
    limit = current_time_limit()
    if limit is not None and limit.is_over and not sandboxes.journal.driver.has_ended:
        limit.left_to_do.append(functools.partial(_close_overdue, sandboxes, original))
        return None
    if sandboxes.journal.driver.run_is_over:
        await _close_without_step(sandboxes, original)
        return None
    if sandboxes.is_cut or sandboxes.is_tried_again(sys.exception()):
        sandboxes.release()
        return None
    if is_in_loop():
        return await sandboxes.close(original)
    # The loop of a streamed run has ended; its last steps are made in the frame of whoever consumes it.
    sandboxes.is_streamed = True
    span = get_current_span()
    is_traced = span is None or span.span_id != NO_OP_ID
    sandboxes.journal.last_steps.append(functools.partial(_close_at_end, sandboxes, original, is_traced))
    return None


async def _close_without_step(sandboxes: _Sandboxes, cleanup: Callable[[Any], Awaitable[Any]]) -> None:
    """Close the sandboxes of a run that was cancelled, for which the engine takes no more steps."""
    sandboxes.memories.clear()  # nobody will read them, and models are asked to make them
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await sandboxes.close_in_step(cleanup)
    except Exception:
        logger.warning("the sandbox of a cancelled run stays open", exc_info=True)
    sandboxes.release()


async def _close_overdue(sandboxes: _Sandboxes, cleanup: Callable[[Any], Awaitable[Any]]) -> None:
    """Close the sandboxes of an agent tool that has run out of time. That is its outcome, whatever happens here."""
    try:
        await sandboxes.close_in_step(cleanup)
    except Exception:
        logger.warning("the sandbox of an agent tool that ran out of time stays open", exc_info=True)
    sandboxes.release()


async def _close_at_end(
    sandboxes: _Sandboxes, cleanup: Callable[[Any], Awaitable[Any]], is_traced: bool, error: Exception | None
) -> Any:
    if sandboxes.is_tried_again(error):
        sandboxes.release()
        return None
    try:
        # Whoever consumes the run may have a trace of his own, which a run with `tracing_disabled` is to leave alone.
        with contextlib.nullcontext() if is_traced else custom_span("sandbox.cleanup", disabled=True):
            return await sandboxes.close(cleanup)
    except Exception as caught:  # noqa: BLE001  as under the plain runner, the run has ended as it has
        sdk.warn_of_cleanup_error(caught)
        sandboxes.release()
        return None
