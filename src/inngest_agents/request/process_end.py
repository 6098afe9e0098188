"""A process that ends while requests are under way in its threads.

Once the main thread has ended, Python starts no more work in pools of threads: `asyncio.to_thread` raises. But requests
that are under way in other threads (of Flask, say, or of gunicorn's) go on until those have ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


async def in_thread(call: Callable[[], T]) -> T:
    """`asyncio.to_thread`; in the caller's own thread where no other takes any more work.

    For what is done beside a call of the user's: one that has ended would be lost, and made again, for want of its
    price.
    """
    has_begun = False

    def begin() -> T:
        nonlocal has_begun
        has_begun = True
        return call()

    try:
        return await asyncio.to_thread(begin)
    except RuntimeError:
        if has_begun:
            raise
        return call()


def is_of_exit(error: BaseException) -> bool:
    """Whether an error says only that the process ends, so that what has raised it has not failed by itself."""
    link: BaseException | None = error
    seen: set[int] = set()
    while link is not None and id(link) not in seen:
        if isinstance(link, RuntimeError) and any("shutdown" in text for text in link.args if isinstance(text, str)):
            return not _takes_work()
        seen.add(id(link))
        link = link.__cause__ or link.__context__
    return False


def _takes_work() -> bool:
    with ThreadPoolExecutor(1) as threads:
        try:
            threads.submit(int)
        except RuntimeError:
            return False
    return True
