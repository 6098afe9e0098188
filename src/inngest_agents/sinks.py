"""Where a streamed run sends its events while it runs: a function of yours, or a realtime channel of Inngest.

A consumer of `stream_events()` runs inside the Inngest function, which the engine calls again for each step where it
does not checkpoint; a sink gets each event once. What it gets are JSON-able dicts:

| key | what it holds |
|---|---|
| `type` | `raw_response_event` (live), `run_item_stream_event`, `agent_updated_stream_event`, `durable.retry` |
| `id` | the same for the same event on every attempt to deliver it |
| `run_id` | the id of the Inngest run |
| `step_id` | the step of the model call that speaks, or that the event follows |
| `attempt` | the step's attempt, from 0 |
| `agent` | the name of the agent |
| `path` | the agents and tool calls around a nested run; empty for the run itself |
| `index` | raw events only: their place in the stream of this attempt, from 0 without gaps |
| `event` | the SDK's event as JSON |

A model call that broke off is tried again as the next attempt of the same step. `durable.retry` comes first then:
drop what came for that `step_id` with a smaller `attempt`. After a crash the attempt may stay the same: an `index`
that is 0 again for the same `step_id` says the same as `durable.retry`. Run items are sent once, by the request that
made them; one that is lost because the process was killed in that moment is not sent again. Nested runs send what
their models say (if they are streamed: `as_tool(on_stream=…)`), and no run items.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol, TypeAlias, runtime_checkable

from agents.stream_events import AgentUpdatedStreamEvent, RunItemStreamEvent

from inngest_agents.memos.response_codec import encode_item
from inngest_agents.request.process_end import in_thread

if TYPE_CHECKING:
    import inngest

__all__ = ["RealtimeSink", "StreamSink", "is_replayed"]

logger = logging.getLogger("inngest_agents")

RETRY: Final = "durable.retry"

MAX_WAITING: Final = 10_000
"""Events that may wait for a slow sink; further ones are dropped."""

BATCH: Final = 64
"""Events that a sink which takes several at once gets at most."""

FLUSH_SECONDS: Final = 5.0
"""How long the end of a request waits for the sink to take what is left."""


@runtime_checkable
class BatchSink(Protocol):
    """A sink that takes several events at once."""

    async def send(self, events: list[dict[str, Any]]) -> None:
        """Take the events, in their order."""


StreamSink: TypeAlias = Callable[[dict[str, Any]], Awaitable[None] | None] | BatchSink
"""What `DurableOptions.stream` takes: a function or coroutine function of one event, or a `RealtimeSink`. A plain
function is called in a thread, one call after the other."""


class RealtimeSink:
    """Publishes the events of a streamed run to a realtime channel of Inngest, several in one message.

    A message's data is `{"events": […]}`, in order.

    Example:
        `DurableOptions(stream=RealtimeSink(client, channel=f"chat:{ctx.run_id}", topic="tokens"))`

    Args:
        client: the Inngest client.
        channel: the name of the channel.
        topic: the name of the topic.
    """

    def __init__(self, client: inngest.Inngest, *, channel: str, topic: str) -> None:
        self._client = client
        self._channel = channel
        self._topic = topic

    async def send(self, events: list[dict[str, Any]]) -> None:
        """Publish the events.

        Raises:
            inngest.Error: the server does not take them.
        """
        from inngest.experimental import realtime

        await realtime.publish(self._client, channel=self._channel, topic=self._topic, data={"events": events})


class SinkPump:
    """Brings the events of one run to its sink: in order, in the background, and never at the cost of the run.

    Args:
        sink: takes the events.
        run_id: goes into each of them.
    """

    def __init__(self, sink: StreamSink, *, run_id: str) -> None:
        self._sink = sink
        self._run_id = run_id
        self._waiting: list[dict[str, Any]] = []
        self._worker: asyncio.Task[None] | None = None
        self._context = contextvars.copy_context()
        self._complained = False

    def put(self, event: Mapping[str, Any]) -> None:
        """Send an event, after all that were put before it."""
        if len(self._waiting) >= MAX_WAITING:
            self._complain("takes them too slowly")
            return
        self._waiting.append({"run_id": self._run_id, **event})
        if self._worker is None:
            # Not in the context of a step: what a sink does is no part of it.
            self._worker = asyncio.get_running_loop().create_task(self._work(), context=self._context.copy())

    async def flush(self) -> None:
        """Wait until the sink has taken all events, but not longer than `FLUSH_SECONDS`."""
        if self._worker is None:
            return
        _, late = await asyncio.wait((self._worker,), timeout=FLUSH_SECONDS)
        if late:
            self._complain(f"did not take them within {FLUSH_SECONDS:g} seconds at the end of the request")
            self._waiting.clear()
            for worker in late:
                worker.cancel()

    async def _work(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
                await self._deliver(batch)
        finally:
            self._worker = None

    async def _deliver(self, batch: list[dict[str, Any]]) -> None:
        sink = self._sink
        if isinstance(sink, BatchSink):
            await self._settle(lambda: sink.send(batch))
        elif inspect.iscoroutinefunction(sink) or inspect.iscoroutinefunction(getattr(sink, "__call__", None)):  # noqa: B004
            for event in batch:
                await self._settle(functools.partial(sink, event))
        else:
            for call in await in_thread(lambda: self._call_all(sink, batch)):
                await self._settle(call)

    async def _settle(self, call: Callable[[], Any]) -> None:
        try:
            result = call()
            if inspect.isawaitable(result):
                await result
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise  # it is the pump itself that is to stop
            self._complain(f"raised {type(error).__name__}: {error}")
        except Exception as error:  # noqa: BLE001  a sink must not break the run
            self._complain(f"raised {type(error).__name__}: {error}")

    @staticmethod
    def _call_all(sink: Callable[[dict[str, Any]], Any], batch: list[dict[str, Any]]) -> list[Callable[[], Any]]:
        """Call it for each event, and say for each what gives back its answer, or raises its error."""
        return [_outcome(sink, event) for event in batch]

    def _complain(self, why: str) -> None:
        if not self._complained:
            self._complained = True
            logger.warning("run %s: the stream's sink %s; events are dropped (said once a request)", self._run_id, why)


def _outcome(sink: Callable[[dict[str, Any]], Any], event: dict[str, Any]) -> Callable[[], Any]:
    try:
        answer = sink(event)
    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  raised where it can be said
        return functools.partial(_raise, error)
    return lambda: answer


def _raise(error: BaseException) -> NoReturn:
    raise error


_REPLAYED: Final = "_durable_replayed"


def mark_replayed(event: Any, is_old: bool) -> None:
    """Note whether an earlier request made this event already."""
    if is_old:
        setattr(event, _REPLAYED, True)


def is_replayed(event: Any) -> bool:
    """Whether an earlier request of the engine has yielded this event of a streamed run already.

    Without checkpointing the function is called again for each step, and so `stream_events()` yields the run items of
    all turns so far again. A consumer that forwards events should skip these, or leave it to `DurableOptions.stream`.

    Args:
        event: what `stream_events()` yielded.
    """
    return bool(getattr(event, _REPLAYED, False))


def semantic_event(event: RunItemStreamEvent | AgentUpdatedStreamEvent) -> dict[str, Any]:
    """The SDK's event about a run item or a change of agent, as JSON."""
    if isinstance(event, AgentUpdatedStreamEvent):
        return {"new_agent": event.new_agent.name}
    item: Any = event.item
    shown: dict[str, Any] = {"type": item.type, "raw_item": encode_item(item.raw_item)}
    for key in ("source_agent", "target_agent"):
        if getattr(item, key, None) is not None:
            shown[key] = getattr(item, key).name
    if hasattr(item, "output"):
        from inngest_agents.result import json_output

        shown["output"] = json_output(item.output)
    return {"name": event.name, "item": shown}
