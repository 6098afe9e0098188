"""The unit tests' OpenAI-compatible provider, in a thread of its own: the functions under test have loops of theirs."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def scripted() -> Any:
    """Its module: the unit tests are no package."""
    name = "scripted_provider"
    if name not in sys.modules:
        path = Path(__file__).parents[1] / "unit" / "provider" / "openai_server.py"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@contextlib.contextmanager
def serving(*replies: Any) -> Iterator[Any]:
    """Serve `replies`; gives what was asked, and where it listens."""
    ready, over = threading.Event(), threading.Event()
    found: list[Any] = []

    async def serve() -> None:
        async with scripted().provider(*replies) as served:
            found.append(served)
            ready.set()
            await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(10)
        yield found[0]
    finally:
        over.set()
        thread.join(10)
