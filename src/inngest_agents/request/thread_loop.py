"""The event loop of a thread whose Inngest function is synchronous."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
import warnings
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

_is_here: contextvars.ContextVar[bool] = contextvars.ContextVar("inngest_agents_thread_loop", default=False)


def is_in_thread_loop() -> bool:
    """Whether the caller runs inside `run_in_thread_loop`: other threads have other loops at the same time."""
    return _is_here.get()


def run_in_thread_loop(main: Callable[[], Awaitable[T]]) -> T:
    """Run a coroutine in this thread's event loop, as `Runner.run_sync` does: what sessions bound to it stays usable.

    Where that loop is running (Tornado calls sync functions from it), the coroutine gets a thread and a loop of its
    own; the caller's waits, as for anything else that a sync function does.
    """
    if _is_loop_running():
        context = contextvars.copy_context()
        with ThreadPoolExecutor(1, "inngest-agents-run-sync") as threads:
            return threads.submit(context.run, lambda: asyncio.run(_coroutine(main))).result()
    loop = _loop_of_thread()
    task = loop.create_task(_coroutine(main))
    try:
        return loop.run_until_complete(task)
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())


def _loop_of_thread() -> asyncio.AbstractEventLoop:
    policy = asyncio.get_event_loop_policy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            loop = policy.get_event_loop()
        except RuntimeError:  # a thread other than the main one that has none yet
            return _new_loop(policy)
    return _new_loop(policy) if loop.is_closed() else loop


def _new_loop(policy: asyncio.AbstractEventLoopPolicy) -> asyncio.AbstractEventLoop:
    loop = policy.new_event_loop()
    policy.set_event_loop(loop)
    _thread.loop = _ClosedWithThread(loop)
    return loop


class _ClosedWithThread:
    """Closes a loop when its thread ends, or is given another one.

    Flask's own server takes a new thread for each request. A loop that is left to the garbage collector holds its
    selector, its socket pair and its pool of threads until then, and is often told as an "Exception ignored in
    BaseEventLoop.__del__", where its sockets were collected before itself. What others have left running in it
    (LiteLLM has a task in each loop that writes its logs) is cancelled first, as `asyncio.run` does at its end.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def __del__(self) -> None:
        if self._loop.is_running():
            return
        try:
            if not (self._loop.is_closed() or _is_loop_running() or sys.is_finalizing()):
                _cancel_tasks(self._loop)
        finally:
            self._loop.close()


def _cancel_tasks(loop: asyncio.AbstractEventLoop) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks))


class _Thread(threading.local):
    loop: _ClosedWithThread | None = None


_thread = _Thread()


def _is_loop_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def _coroutine(main: Callable[[], Awaitable[T]]) -> T:
    _is_here.set(True)  # for this task, and for all that it starts
    return await main()
