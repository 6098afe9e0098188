"""A sink whose connection is cut: it is said, later events still come, and the run goes on."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from inngest_agents import sinks


class CutOff:
    """A sink whose first event finds the connection cancelled, as by a client that is being closed."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def take(self, event: dict[str, Any]) -> None:
        self.seen.append(event["index"])
        if len(self.seen) == 1:
            raise asyncio.CancelledError("closed")

    async def take_soon(self, event: dict[str, Any]) -> None:
        self.take(event)

    def answer_soon(self, event: dict[str, Any]) -> Any:
        return self.take_soon(event)


@pytest.mark.parametrize("way", [CutOff.take, CutOff.take_soon, CutOff.answer_soon], ids=lambda way: way.__name__)
async def test_an_event_that_is_cancelled_is_said_and_does_not_take_the_next_ones_along(
    way: Callable[[CutOff, dict[str, Any]], Any], caplog: pytest.LogCaptureFixture
) -> None:
    cut = CutOff()
    pump = sinks.SinkPump(way.__get__(cut), run_id="r")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for index in range(3):
            pump.put({"index": index})
        await pump.flush()
        gc.collect()

    assert cut.seen == [0, 1, 2]
    assert "CancelledError: closed" in caplog.text
    assert [str(one.message) for one in warned if "never awaited" in str(one.message)] == []


async def test_a_sink_that_is_too_slow_leaves_nothing_behind_that_was_never_awaited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sinks, "FLUSH_SECONDS", 0.01)
    stopped: list[int] = []

    async def stuck(event: dict[str, Any]) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append(event["index"])

    pump = sinks.SinkPump(stuck, run_id="r")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for index in range(3):
            pump.put({"index": index})
        await pump.flush()
        await asyncio.sleep(0)
        gc.collect()

    assert stopped == [0]
    assert [str(one.message) for one in warned if "never awaited" in str(one.message)] == []
