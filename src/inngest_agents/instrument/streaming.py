"""Streamed model calls: the model speaks inside its step, and its events pass out of it live.

On the first pass each event goes to the sink and to the SDK's loop (and so to whoever consumes the stream) while the
step runs. What is stored is the last event, which holds the whole response. A memoized turn is not spoken again: the
loop gets that last event alone, which is all that it needs to make the same run items.

The last event goes to the loop only when the step is done, on the first pass too: then the run goes on from what is
stored. A stream that breaks off or ends with a failure fails its step, so that the engine retries it; the event that
tells of the failure goes to the consumer alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import itertools
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from agents import HandoffOutputItem, ModelResponse, RunResultStreaming, Usage
from agents.exceptions import ModelBehaviorError
from agents.models.interface import Model
from agents.stream_events import AgentUpdatedStreamEvent, RawResponsesStreamEvent, RunItemStreamEvent
from openai.types.responses import Response, ResponseCompletedEvent, ResponseOutputItemDoneEvent

from inngest_agents import _agents_sdk as sdk
from inngest_agents import sinks
from inngest_agents.errors import is_memoized
from inngest_agents.instrument import accounting
from inngest_agents.instrument.connections import keep_no_connection
from inngest_agents.instrument.hooks import durable_hooks
from inngest_agents.instrument.sessions import durable_session, finish_session
from inngest_agents.journal import Journal
from inngest_agents.memos import item_form
from inngest_agents.memos.response_codec import as_written, decode_usage, encode_item, encode_usage
from inngest_agents.memos.usage_form import usage_fields, usage_in
from inngest_agents.request.step_request import StepScope
from inngest_agents.scope import Scope, current_journal, current_scope, inside_journal, inside_scope

if TYPE_CHECKING:
    from inngest_agents.instrument.model import DurableModel

NESTED_GRACE_TURNS: Final = 20
"""Turns of the event loop that the handler of a nested stream (`as_tool(on_stream=…)`) gets before its step ends."""

_FAILED: Final = frozenset({"response.incomplete", "response.failed"})
_ERRORS: Final = frozenset({"error", "response.error"})

_ECHOED: Final = ("instructions", "tools", "text", "prompt", "metadata", "reasoning", "tool_choice")
"""What a provider repeats of the question in each response; it is stored where it is not as in the turn before."""
_ECHO: Final = "echo"


@dataclasses.dataclass(slots=True)
class Turn:
    """A streamed model call that is complete."""

    event: ResponseCompletedEvent
    response: ModelResponse


def complete(event: ResponseCompletedEvent, done_items: list[Any]) -> Turn:
    """The turn that a stream's last event makes, with the response as the SDK's loop would make it."""
    response = event.response
    if not response.output and done_items:
        response.output = list(done_items)  # some backends send the items in their own events only
    usage = (
        sdk.usage_of_response(response.usage)
        if response.usage
        else Usage(requests=sdk.requests_without_usage(response))
    )
    return Turn(event, _model_response(response, usage, sdk.raw_usage_of_response(response)))


def last_response(event: Any, done_items: list[Any]) -> tuple[ModelResponse | None, bool]:
    """The response in the last event of a stream, and whether it is complete; None for any other event.

    Args:
        event: of the stream.
        done_items: the output items so far, which this adds to.
    """
    if isinstance(event, ResponseCompletedEvent):
        return complete(event, done_items).response, True
    if isinstance(event, ResponseOutputItemDoneEvent):
        done_items.append(event.item)
    if getattr(event, "type", None) in _FAILED and isinstance(getattr(event, "response", None), Response):
        return _model_response(event.response, Usage(), None), False
    return None, False


def _model_response(response: Response, usage: Usage, raw_usage: dict[str, Any] | None) -> ModelResponse:
    return ModelResponse(
        output=response.output,
        usage=usage,
        response_id=response.id,
        request_id=getattr(response, "_request_id", None),  # public, for all its name: so says the client's manual
        raw_usage=raw_usage,
    )


def of_response(response: ModelResponse) -> Turn:
    """The turn for a response that no model spoke (the budget's answer for the agent)."""
    made = Response.construct(
        id=response.response_id or "",
        created_at=0.0,
        model="",
        object="response",
        output=response.output,
        parallel_tool_calls=False,
        tool_choice="auto",
        tools=[],
        usage=None,
    )
    sdk.set_usage_of_response(made, response.usage, None)
    event = ResponseCompletedEvent.construct(type="response.completed", response=made, sequence_number=0)
    return Turn(event, response)


def encode_turn(turn: Turn, before: Mapping[str, Any]) -> dict[str, Any]:
    """A turn as JSON: its last event, and what the SDK's adapters hang on it.

    Args:
        turn: what the model said.
        before: `Scope.previous`, in which the turn before left what the provider repeated of the question.
    """
    event: dict[str, Any] = as_written(encode_item(turn.event))
    response = event["response"]
    echo = {name: response.pop(name) for name in _ECHOED if name in response}
    response["output"] = [item_form.short(item) for item in response["output"]]
    encoded: dict[str, Any] = {
        "event": event,
        **usage_fields(encode_usage(turn.response.usage)),
    }
    if echo != before.get(_ECHO, {}):
        encoded[_ECHO] = echo
    for field in ("request_id", "raw_usage"):
        value = getattr(turn.response, field)
        if value is not None:
            encoded[field] = value
    return encoded


def decode_turn(value: Mapping[str, Any], before: dict[str, Any]) -> Turn:
    """The turn that `encode_turn` stored."""
    if _ECHO in value:
        before[_ECHO] = value[_ECHO]
    said = value["event"]
    output = [item_form.long(item) for item in said["response"]["output"]]
    whole = {**said["response"], "output": output, **before.get(_ECHO, {})}
    event = ResponseCompletedEvent.construct(**{**said, "response": whole})
    response = event.response
    usage = decode_usage(usage_in(value))
    raw_usage = value.get("raw_usage")
    sdk.set_usage_of_response(response, usage, raw_usage)
    if "request_id" in value:
        object.__setattr__(response, "_request_id", value["request_id"])
    return Turn(event, _model_response(response, usage, raw_usage))


async def stream_turn(
    model: DurableModel, inner: Model, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> AsyncGenerator[Any, None]:
    """The events of one model call: live on the first pass; the last one alone on a replay.

    Raises:
        Exception: what the last attempt raised, with its type.
    """
    journal = current_journal()
    assert journal is not None
    scope = current_scope()

    def begin() -> Any:
        asked, given, named = keep_no_connection(inner, args, kwargs)
        return asked.stream_response(*given, **named)

    live = _Live(journal, scope, begin, args, kwargs)
    answer = asyncio.ensure_future(
        model.step(
            journal,
            args,
            kwargs,
            live.speak,
            encode=lambda turn: encode_turn(turn, scope.previous),
            decode=lambda value: decode_turn(value, scope.previous),
            response_of=lambda turn: turn.response,
            value_of=of_response,
        )
    )
    answer.add_done_callback(live.close)
    try:
        while (event := await live.queue.get()) is not None:
            yield event
            live.queue.task_done()
        try:
            turn: Turn = await answer
        except ModelBehaviorError as error:
            sdk.raise_after_events(error)
            raise
        yield turn.event
    finally:
        if not answer.done():
            answer.cancel()
            await asyncio.wait((answer,))


@sdk.around("agents.run_internal.run_loop", "start_streaming", ("streamed_result", "starting_agent", "session"))
async def _start_streaming(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The whole loop of a streamed run, in the task that the SDK makes for it."""
    journal = current_journal()
    result: RunResultStreaming = kwargs["streamed_result"]
    if journal is None:
        return await original(*args, **kwargs)
    journal.note_agent(kwargs["starting_agent"])
    with inside_scope() as scope:
        journal.has_begun = True
        if scope.path:
            sdk.tap_events(result, _NestedTap(journal, kwargs["starting_agent"]))
        else:
            sdk.tap_events(result, _OuterTap(journal, scope))
        scope.show_event = sdk.event_sender(result)
        kwargs["hooks"] = durable_hooks(journal, kwargs.get("hooks"))
        session = kwargs.get("session")
        if session is not None:
            resumed = bool(kwargs.get("is_resumed_state"))
            kwargs["session"] = durable_session(journal, session, is_resumed=resumed)
        try:
            returned = await original(*args, **kwargs)
        except (Exception, asyncio.CancelledError) as error:
            is_users = is_memoized(error) or (bool(scope.path) and not journal.driver.is_cut)
            if isinstance(error, Exception) or is_users:  # the user's own code may raise a CancelledError
                await _finish(journal, session, result)
            elif session is not None and not scope.path:
                journal.finish_cancelled = functools.partial(_finish_cancelled, journal, scope, session)
            raise
        await _finish(journal, session, result)
        journal.handoffs += sum(isinstance(item, HandoffOutputItem) for item in result.new_items)
        return returned


async def _finish(journal: Journal, session: Any, result: RunResultStreaming) -> None:
    """Write what the loop has added to its session.

    Raises:
        Exception: what the session raised on the last attempt.
        CancelledError: the same. The consumer would take it for the loop's end and be told nothing.
    """
    try:
        await finish_session(journal, session)
    except asyncio.CancelledError as error:
        if is_memoized(error):
            sdk.fail_stream(result, error)
        raise


async def _finish_cancelled(journal: Journal, scope: Scope, session: Any) -> None:
    """Write what a loop had added to its session when the user cancelled it, as the plain runner has by then."""
    with inside_journal(journal, scope):
        await finish_session(journal, session)


def _is_live(event: Any) -> bool:
    """Whether an event comes from a model that speaks now; all others come again on each replay."""
    return isinstance(event, RawResponsesStreamEvent) and not isinstance(event.data, ResponseCompletedEvent)


class _OuterTap:
    """Sends the events of the run itself to the sink, once, and marks for the consumer those that came before."""

    def __init__(self, journal: Journal, scope: Scope) -> None:
        self._journal = journal
        self._scope = scope
        self._numbers = itertools.count(1)

    def __call__(self, put: Callable[[Any], None], event: Any) -> None:
        if not _is_live(event):
            sinks.mark_replayed(event, not self._journal.driver.makes_news)
            if isinstance(event, (RunItemStreamEvent, AgentUpdatedStreamEvent)):
                self._to_sink(event, next(self._numbers))
        put(event)

    def _to_sink(self, event: RunItemStreamEvent | AgentUpdatedStreamEvent, number: int) -> None:
        from inngest_agents.instrument.model import model_label

        journal, scope = self._journal, self._scope
        if journal.sink is None or sinks.is_replayed(event):
            return
        agent = event.new_agent if isinstance(event, AgentUpdatedStreamEvent) else event.item.agent
        journal.sink.put(
            {
                "type": event.type,
                "id": f"{journal.name}#{number}",
                "step_id": f"{journal.name}/{model_label(scope)}" if scope.turn else None,
                "attempt": journal.driver.engine.attempt,
                "agent": agent.name,
                "path": [],
                "event": sinks.semantic_event(event),
            }
        )


class _NestedTap:
    """Lets the handler of a nested stream (`as_tool(on_stream=…)`) see each event once, and not on each replay."""

    def __init__(self, journal: Journal, starting_agent: Any) -> None:
        self._journal = journal
        self._starting_agent = starting_agent
        self._held: AgentUpdatedStreamEvent | None = None

    def __call__(self, put: Callable[[Any], None], event: Any) -> None:
        is_old = not self._journal.driver.makes_news and not _is_live(event)
        if isinstance(event, AgentUpdatedStreamEvent) and is_old:
            # The SDK reads from this event which agent the next ones are of.
            self._held = event if event.new_agent is not self._starting_agent else None
        elif not is_old or not isinstance(event, (RawResponsesStreamEvent, RunItemStreamEvent)):
            if self._held is not None:
                put(self._held)
                self._held = None
            put(event)


class _Live:
    """The way out of a running step for the events of its model."""

    def __init__(self, journal: Journal, scope: Scope, open_stream: Callable[[], Any], args: Any, kwargs: Any) -> None:
        self.queue: asyncio.Queue[Any] = asyncio.Queue()
        self._journal = journal
        self._scope = scope
        self._open = open_stream
        self._args, self._kwargs = args, kwargs

    def close(self, _: object) -> None:
        self.queue.put_nowait(None)

    async def speak(self, step: StepScope) -> Turn:
        """Run in the step: pass on what the model says, and give back the whole of it.

        Raises:
            ModelBehaviorError: the stream ended with a failure, or without an end.
        """
        from inngest_agents.instrument.model import model_timeout, settings_of

        show = self._to_sink(step)
        done_items: list[Any] = []
        turn: Turn | None = None
        async with model_timeout(settings_of(self._args, self._kwargs)):
            stream = self._open()
            async with contextlib.aclosing(stream) if hasattr(stream, "aclose") else contextlib.nullcontext():
                async for event in stream:
                    show(event)
                    kind = getattr(event, "type", None)
                    if isinstance(event, ResponseCompletedEvent):
                        turn = complete(event, done_items)
                        accounting.note(event.response)
                        continue
                    if kind in _FAILED or kind in _ERRORS:
                        accounting.note(getattr(event, "response", None))
                        await self._show_failure(event)
                        raise _failure(kind, event)
                    if isinstance(event, ResponseOutputItemDoneEvent):
                        done_items.append(event.item)
                    self.queue.put_nowait(event)
        if turn is None:
            raise ModelBehaviorError("Model did not produce a final response!")
        # The request may end with this step: what was said must have reached the consumer's queue before.
        await self.queue.join()
        for _ in range(NESTED_GRACE_TURNS if self._scope.path else 0):
            await asyncio.sleep(0)
        return turn

    async def _show_failure(self, event: Any) -> None:
        """Pass on the event that ends a failed stream, past the SDK's loop: that one would end the run at once."""
        await self.queue.join()
        self._scope.show_event(RawResponsesStreamEvent(data=event))

    def _to_sink(self, step: StepScope) -> Callable[[Any], None]:
        sink: sinks.SinkPump | None = self._journal.sink
        if sink is None:
            return lambda _: None
        about = {
            "step_id": step.step_id,
            "attempt": step.attempt,
            "agent": self._scope.agent_name,
            "path": list(self._scope.names),
        }
        if step.attempt:
            sink.put({"type": sinks.RETRY, "id": f"{step.step_id}#{step.attempt}", **about, "event": None})
        numbers = itertools.count()

        def show(event: Any) -> None:
            number = next(numbers)
            sink.put(
                {
                    "type": "raw_response_event",
                    "id": f"{step.step_id}#{step.attempt}.{number}",
                    **about,
                    "index": number,
                    "event": encode_item(event),
                }
            )

        return show


def _failure(kind: str, event: Any) -> Exception:
    if kind in _ERRORS:
        error: Exception = sdk.error_event_failure(kind, event)
        return error
    response = getattr(event, "response", None)
    error = sdk.terminal_failure(kind, response if isinstance(response, Response) else None)
    if kind == "response.incomplete":
        error.is_retriable = False  # type: ignore[attr-defined]  # cut off by a limit or a filter: it would be again
    return error
