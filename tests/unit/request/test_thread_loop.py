"""The loop of a sync function's thread: the same for each run of the thread, closed when the thread ends."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

from inngest_agents.request.thread_loop import run_in_thread_loop

T = TypeVar("T")


async def current_loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


def in_thread(main: Callable[[], T]) -> T:
    told: list[T] = []
    thread = threading.Thread(target=lambda: told.append(main()))
    thread.start()
    thread.join(20)
    assert told, "the thread did not end well"
    return told[0]


def test_runs_of_a_thread_share_a_loop_that_closes_with_it_and_not_with_the_garbage() -> None:
    def main() -> tuple[asyncio.AbstractEventLoop, bool]:
        loop = run_in_thread_loop(current_loop)
        assert run_in_thread_loop(current_loop) is loop
        return loop, loop.is_closed()

    gc.disable()
    try:
        loop, was_closed = in_thread(main)
        assert not was_closed
        assert loop.is_closed()
    finally:
        gc.enable()


def test_what_was_left_running_in_the_loop_is_cancelled_at_the_end_of_the_thread() -> None:
    told: list[str] = []

    async def write_logs() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)  # it may have something to finish
            told.append("finished")
            raise

    async def leave_it() -> asyncio.Task[None]:
        task = asyncio.create_task(write_logs())
        await asyncio.sleep(0)
        return task

    def main() -> asyncio.Task[None]:
        task = run_in_thread_loop(leave_it)
        assert run_in_thread_loop(is_running(task))
        return task

    def is_running(task: asyncio.Task[None]) -> Callable[[], Awaitable[bool]]:
        async def look() -> bool:
            await asyncio.sleep(0)
            return not task.done()

        return look

    task = in_thread(main)

    assert task.cancelled()
    assert told == ["finished"]


def test_a_loop_that_the_thread_lost_is_closed_once_it_has_another() -> None:
    def main() -> list[bool]:
        first = run_in_thread_loop(current_loop)
        asyncio.run(current_loop())  # leaves the thread without a loop
        second = run_in_thread_loop(current_loop)
        return [first.is_closed(), second.is_closed()]

    assert in_thread(main) == [True, False]


def test_a_loop_of_the_users_own_is_used_and_stays_open() -> None:
    own = asyncio.new_event_loop()

    def main() -> asyncio.AbstractEventLoop:
        asyncio.set_event_loop(own)
        return run_in_thread_loop(current_loop)

    try:
        assert in_thread(main) is own
        assert not own.is_closed()
    finally:
        own.close()


def test_where_the_loop_is_running_the_coroutine_gets_one_of_its_own() -> None:
    async def main() -> tuple[asyncio.AbstractEventLoop, asyncio.AbstractEventLoop]:
        return asyncio.get_running_loop(), run_in_thread_loop(current_loop)

    running, other = asyncio.run(main())
    assert other is not running
    assert other.is_closed()
