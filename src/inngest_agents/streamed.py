"""The result of a streamed durable run.

The SDK starts the loop of a streamed run at once, as a task of its own. But a durable run must be driven: where a
request of the engine ends (after a step, without checkpointing), Inngest's interrupt has to leave from the user's own
frame, and the only frame of the user that waits for a streamed run is the one that consumes it. So steps start only
while `stream_events()` is consumed or `wait()` is awaited, and the interrupt comes out of there. A run that nobody
consumes makes no step (a warning says so after a while); one whose consumer has left goes on when it is consumed
again, and is stopped when the task that started it ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

from agents import RunResultStreaming, StreamEvent

from inngest_agents import divergence
from inngest_agents._agents_sdk import cancel_tasks, set_sandbox_state
from inngest_agents.errors import is_lasting, non_retriable, raise_again, with_stats
from inngest_agents.journal import Journal
from inngest_agents.request.driver import Driver
from inngest_agents.result import json_output
from inngest_agents.scope import inside_run
from inngest_agents.sinks import SinkPump
from inngest_agents.stats.stats import RunStats
from inngest_agents.summary import report_failure, summarize

__all__ = ["DurableRunResultStreaming"]

logger = logging.getLogger("inngest_agents")


class _Drive:
    """What drives one streamed run: its driver, its journal, and the stream that its consumers share."""

    def __init__(self, driver: Driver, journal: Journal, starting_agent: str) -> None:
        self.driver = driver
        self.journal = journal
        self.starting_agent = starting_agent
        self.run: Any = None
        self.events: AsyncIterator[StreamEvent] | None = None
        """The SDK's stream: one for all consumers, so that a consumer that has left is not waited for."""
        self.turn = asyncio.Lock()
        self.consumers = 0
        self.is_over = False
        self.owner: asyncio.Task[Any] | None = asyncio.current_task()

    def enter(self) -> None:
        self.consumers += 1
        self.driver.resume(self.run)

    def leave(self) -> None:
        self.consumers -= 1
        if self.consumers == 0:
            self.driver.pause(self.run)

    async def conclude(self) -> None:
        """The stream has ended: save and deliver what is left, and end the request if it is to end here.

        Raises:
            ResponseInterrupt, SkipInterrupt: Inngest's own.
        """
        try:
            await self.driver.conclude(self.run)
        finally:
            self.is_over = True
            if not self.driver.has_ended:
                self.journal.finish()
            else:
                self.driver.rewind()
            if self.owner is not None:
                self.owner.remove_done_callback(self.abandoned)
            if self.journal.sink is not None:
                await self.journal.sink.flush()

    async def summarize(self, result: Any) -> None:
        """The run has ended well: show its statistics in a step, and look for steps that nobody asked for.

        Raises:
            ResponseInterrupt, SkipInterrupt: Inngest's own.
            DivergenceError: there are such steps.
        """

        async def main() -> None:
            with inside_run(self.journal):
                await summarize(self.journal, self.starting_agent, result)

        try:
            await self.driver.drive(main, self.journal.tag)
        finally:
            if self.driver.has_ended:
                self.driver.rewind()
        diverged = divergence.unused(self.journal)
        if diverged is not None:
            raise diverged

    async def take_last_steps(self, result: Any, error: Exception | None) -> None:
        """Do what is left when the loop has ended: write what a cancelled one has added, and close its sandboxes.

        Raises:
            ResponseInterrupt, SkipInterrupt: Inngest's own.
        """

        async def main() -> None:
            with inside_run(self.journal):
                for take in self.journal.last_steps:
                    set_sandbox_state(result, await take(error))

        if self.journal.finish_cancelled is not None:
            await self.driver.drive(self.journal.finish_cancelled, self.journal.tag, is_last=False)
        if self.journal.last_steps:
            await self.driver.drive(main, self.journal.tag, is_last=False)

    async def report_failure(self, error: Exception) -> None:
        """The run has failed.

        Raises:
            ResponseInterrupt, SkipInterrupt: Inngest's own.
        """

        async def main() -> None:
            with inside_run(self.journal):
                await report_failure(self.journal, self.starting_agent, error)

        await self.driver.drive(main, self.journal.tag)

    def abandoned(self, _: object) -> None:
        """The task that started the run has ended, and the run has not."""
        if self.is_over or self.driver.has_ended or self.run.inner is None or self.run.inner.done():
            return
        logger.warning(
            "the streamed durable run %r was not consumed to its end and is stopped. Consume result.stream_events(), "
            "or write: await result.wait()",
            self.journal.name,
        )
        self.driver.abandon(self.run)


class DurableRunResultStreaming(RunResultStreaming):
    """What `Runner.run_streamed` gives, plus what the run used.

    The run goes on only while `stream_events()` is consumed or `wait()` is awaited; see the module's documentation.
    """

    _drive: _Drive | None

    @property
    def stats(self) -> RunStats:
        """Tokens, dollars, durations and calls: an aggregation over the steps that have finished so far."""
        if self._drive is None:
            return RunStats()
        return self._drive.journal.stats(self._drive.starting_agent, self)

    def to_dict(self) -> dict[str, Any]:
        """`final_output` and `stats` as JSON; return it from the Inngest function to see both in the dashboard.

        Raises:
            RuntimeError: the run has not ended yet.
        """
        if not self.is_complete:
            raise RuntimeError("the run has not ended: consume stream_events() first, or write: await result.wait()")
        return {"final_output": json_output(self.final_output), "stats": self.stats.to_dict()}

    async def wait(self) -> DurableRunResultStreaming:
        """Drive the run to its end without looking at its events.

        Returns:
            This result, complete.

        Raises:
            Exception: see `stream_events`.
        """
        async for _ in self.stream_events():
            pass
        return self

    async def stream_events(self) -> AsyncIterator[StreamEvent]:
        """The SDK's events, and the drive of the run: see `RunResultStreaming.stream_events`.

        Where the engine does not checkpoint, the function is called again for each step, and this yields the events of
        all turns so far again: the run items and the last event of each model call, but not what the model said on the
        way to it (`inngest_agents.sinks.is_replayed` tells these from new ones).

        Raises:
            Exception: what `Runner.run_streamed` would raise; at the same time an `inngest.NonRetriableError` where a
                retry can never go better.
        """
        drive = self._drive
        if drive is None or drive.is_over:
            async for event in super().stream_events():
                yield event
            return
        if drive.events is None:
            drive.events = super().stream_events()
        failure: Exception | asyncio.CancelledError | None = None
        drive.enter()
        try:
            while True:
                try:
                    async with drive.turn:
                        event = await anext(drive.events)
                except StopAsyncIteration:
                    break
                except asyncio.CancelledError as error:
                    if _is_cancelled():
                        raise
                    failure = error
                    break  # the user's own, or the loop was stopped while it saved to a session
                except Exception as error:  # noqa: BLE001  raised below, once the request's end was looked at
                    failure = error
                    break
                yield event
        finally:
            drive.leave()
        await drive.conclude()
        await drive.take_last_steps(self, failure if isinstance(failure, Exception) else None)
        if isinstance(failure, Exception):
            await drive.report_failure(failure)
            raise_again(_as_durable(failure, drive.journal.stats_later(drive.starting_agent, self)))
        if failure is not None:
            await drive.driver.leave(drive.journal.tag)
            raise_again(failure)
        if self.final_output is not None or self.interruptions:
            await drive.summarize(self)
        else:  # the user has cancelled it
            await drive.driver.leave(drive.journal.tag)


def _is_cancelled() -> bool:
    """Whether somebody wants the caller itself to stop."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _as_durable(error: Exception, make_stats: Callable[[], RunStats]) -> Exception:
    """An error of the loop; non-retriable if the steps that led to it are memoized, so that a retry ends the same."""
    if is_lasting(error):
        return with_stats(non_retriable(error), make_stats)
    return error


def start_streamed(
    start: Callable[[], RunResultStreaming],
    *,
    driver: Driver,
    journal: Journal,
    starting_agent: str,
) -> DurableRunResultStreaming:
    """Start a streamed run under a journal.

    Args:
        start: calls the SDK's `run_streamed`.
        driver: of the request.
        journal: of the run.
        starting_agent: the name of the agent.

    Raises:
        Exception: what the SDK's `run_streamed` raises, made non-retriable where a retry can never go better.
    """
    options = journal.options
    if options.stream is not None:
        journal.sink = SinkPump(options.stream, run_id=journal.run_id)
    drive = _Drive(driver, journal, starting_agent)
    made: list[DurableRunResultStreaming] = []

    def start_loop() -> asyncio.Task[Any]:
        with inside_run(journal):
            result = as_durable_result(start(), drive)
        made.append(result)
        assert result.run_loop_task is not None
        return result.run_loop_task

    failure: Exception | None = None
    try:
        drive.run = driver.attach(start_loop, lambda: cancel_tasks(made[0]), journal.tag)
    except Exception as error:  # noqa: BLE001  raised below, outside of the handler
        failure = error
    if failure is not None:  # the SDK refuses what it was given, or the user's model provider has failed
        journal.finish()
        raise _as_durable(failure, journal.stats_later(starting_agent, None))
    result = made[0]
    drive.run.inner.add_done_callback(lambda _: None if journal.has_begun else _close(result))
    if drive.owner is not None:
        drive.owner.add_done_callback(drive.abandoned)
    return result


def _close(result: DurableRunResultStreaming) -> None:
    """End the stream of a loop that was cancelled before it began: its consumer would wait for ever."""
    if not result.is_complete and result.run_loop_task is not None and result.run_loop_task.cancelled():
        result.cancel()


def as_durable_result(result: RunResultStreaming, drive: _Drive | None) -> DurableRunResultStreaming:
    """The SDK's own object as a durable result: its loop holds on to it, so it must stay the same one."""
    durable: Any = result
    durable.__class__ = DurableRunResultStreaming
    durable._drive = drive  # noqa: SLF001
    made: DurableRunResultStreaming = durable
    return made
