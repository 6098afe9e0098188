"""Model calls: each is a step of its own.

The SDK resolves the model each turn (`get_model`), for names through the user's provider and for instances as they are;
the wrapper goes around what it found. The SDK's own retries loop around the model with sleeps; in a durable run the
engine retries, so they are off, and the timeout of a call is enforced inside its step.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import openai
from agents import ModelResponse
from agents.exceptions import ModelTimeoutError, UserError
from agents.models.interface import Model

from inngest_agents import _agents_sdk as sdk
from inngest_agents._agents_sdk import around
from inngest_agents.instrument import accounting, admission
from inngest_agents.instrument._steps import run_step
from inngest_agents.instrument.connections import keep_no_connection
from inngest_agents.instrument.forwarding import ForwardingModel
from inngest_agents.journal import Journal
from inngest_agents.memos import response_codec
from inngest_agents.request._http import seconds_until
from inngest_agents.request.step_request import StepScope
from inngest_agents.scope import Scope, current_journal, current_scope, current_step, is_in_loop
from inngest_agents.stats.records import StepRecord

FINAL_STATUS_CODES = frozenset({400, 401, 403, 404, 405, 413, 415, 422})
"""HTTP answers of a provider that no retry makes better: bad request, bad key, no such model, too large."""


@around("agents.run_internal.turn_preparation", "get_model", ("agent", "run_config"))
def _get_model(original: Callable[..., Any], agent: Any, run_config: Any) -> Any:
    model = original(agent, run_config)
    journal, step = current_journal(), current_step()
    if step is not None:
        accounting.watch(model)
        requested = _requested_name(agent, run_config, model)
        return accounting.CountedModel(model, requested=requested, agent=agent.name, step=step)
    if journal is None or isinstance(model, DurableModel) or not is_in_loop():
        return model
    scope = current_scope()
    scope.turn += 1
    scope.agent_name = agent.name
    scope.run_config = run_config
    journal.note_agent(sdk.public_agent(agent))
    accounting.watch(model)
    return _durable(scope, model, _requested_name(agent, run_config, model), by_name=_is_chosen(agent, run_config))


def _durable(scope: Scope, model: Model, requested: str, *, by_name: bool) -> DurableModel:
    """The durable form of a model: the same for all turns, as the SDK keeps each model that it has seen."""
    known = scope.models.get(id(model))
    if known is None or not known.stands_for(model, requested, by_name=by_name):
        known = scope.models[id(model)] = DurableModel(model, requested=requested, by_name=by_name)
    return known


@around("agents.run_internal.model_retry", "get_response_with_retry", ("get_response", "timeout"))
async def _get_response_with_retry(original: Callable[..., Any], *, get_response: Any, **kwargs: Any) -> Any:
    if current_journal() is None:
        return await original(get_response=get_response, **kwargs)
    return await get_response()


@around("agents.run_internal.model_retry", "stream_response_with_retry", ("get_stream", "timeout"))
def _stream_response_with_retry(original: Callable[..., Any], *, get_stream: Any, **kwargs: Any) -> Any:
    if current_journal() is None:
        return original(get_stream=get_stream, **kwargs)
    return get_stream()


class DurableModel(ForwardingModel):
    """A model whose calls are steps of the durable run around them.

    Args:
        inner: the model itself.
        requested: the name that was asked for.
        by_name: whether the user has asked for it; else the provider, which may give another model on each pass.
    """

    def __init__(self, inner: Model, *, requested: str, by_name: bool) -> None:
        super().__init__(inner)
        self._requested = requested
        self._by_name = by_name

    def stands_for(self, model: Model, requested: str, *, by_name: bool) -> bool:
        """Whether this is the durable form of that model, asked for by that name."""
        return self._inner is model and (self._requested, self._by_name) == (requested, by_name)

    async def get_response(self, *args: Any, **kwargs: Any) -> ModelResponse:
        """One call of the model, as a step.

        Raises:
            Exception: what the last attempt raised, with its type.
        """
        journal = current_journal()
        if journal is None:
            return await self._inner.get_response(*args, **kwargs)

        async def call(_: StepScope) -> ModelResponse:
            inner, given, named = keep_no_connection(self._inner, args, kwargs)
            async with model_timeout(settings_of(args, kwargs)):
                return await inner.get_response(*given, **named)

        response: ModelResponse = await self.step(
            journal,
            args,
            kwargs,
            call,
            encode=response_codec.encode_response,
            decode=response_codec.decode_response,
            response_of=_itself,
            value_of=_itself,
        )
        return response

    def stream_response(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        """One call of the model, streamed live from inside its step; see `instrument.streaming`."""
        if current_journal() is None:
            return self._inner.stream_response(*args, **kwargs)
        from inngest_agents.instrument.streaming import stream_turn

        return stream_turn(self, self._inner, args, kwargs)

    async def step(
        self,
        journal: Journal,
        args: Any,
        kwargs: Any,
        call: Callable[[StepScope], Awaitable[Any]],
        *,
        encode: Callable[[Any], Any],
        decode: Callable[[Any], Any],
        response_of: Callable[[Any], ModelResponse],
        value_of: Callable[[ModelResponse], Any],
    ) -> Any:
        """The step of one model call: admitted by the budget, recorded and priced.

        Args:
            journal: the durable run.
            args, kwargs: what the SDK calls the model with.
            call: the work; its value holds the response.
            encode, decode: the value as JSON and back.
            response_of: the response in a value.
            value_of: the value for a response that the budget gives instead of the model.

        Raises:
            Exception: what the last attempt raised, with its type.
        """
        scope = current_scope()
        label = model_label(scope)
        inputs = accounting.inputs_of(args, kwargs)
        admitted = await admission.admit_model_call(
            journal,
            label,
            model=self._inner,
            requested=self._requested,
            inputs=inputs,
            max_output_tokens=getattr(settings_of(args, kwargs), "max_tokens", None) or 0,
        )
        if isinstance(admitted, ModelResponse):
            return value_of(admitted)

        with accounting.collecting() as answer:

            async def watched(step: StepScope) -> Any:
                answer.raw_usage = {}  # of this attempt
                try:
                    return await call(step)
                except BaseException:
                    billed = answer.billed(self._inner, self._requested)
                    if billed is not None:
                        step.nested_usage.append(dataclasses.replace(billed, origin="failed_attempt"))
                    raise

            async def record(made: StepRecord, value: Any) -> StepRecord:
                return await accounting.account(
                    journal,
                    made,
                    response_of(value),
                    model=self._inner,
                    requested=self._requested,
                    answer=answer,
                    inputs=inputs,
                )

            try:
                value = await run_step(
                    journal,
                    label,
                    "model",
                    watched,
                    name=self._requested,
                    by_name=self._by_name,
                    encode=encode,
                    decode=decode,
                    record=record,
                    after_save=False,
                    is_final=is_final,
                    retry_after=retry_after,
                    asked=_asked(scope, inputs),
                )
            finally:
                if admitted is not None and journal.ledger is not None:
                    journal.ledger.release(admitted)
        response = response_of(value)
        _note_places(scope, response)
        answer_instead = await admission.admit_tool_calls(journal, label, response, _handoffs_of(args, kwargs))
        return value if answer_instead is None else value_of(answer_instead)


def _asked(scope: Scope, inputs: Mapping[str, Any]) -> Any:
    """What tells one call of a model from another: the instructions, and what the input has gained since the last one.

    What was there already is in the digest of that call, and hashing it again each turn would cost more than the turn.
    """
    items = inputs["items"]
    if isinstance(items, str):
        return [inputs["instructions"], items]
    before: int = scope.previous.get("asked items", 0)
    scope.previous["asked items"] = len(items)
    return [inputs["instructions"], len(items), list(items[before:])]


def _itself(response: ModelResponse) -> ModelResponse:
    return response


def model_label(scope: Scope) -> str:
    """The label of the model call of the turn under way: "2 model triage"."""
    return f"{scope.turn} model {scope.agent_name}"


def settings_of(args: Any, kwargs: Any) -> Any:
    """The model settings among the arguments of a model call."""
    return kwargs.get("model_settings", args[2] if len(args) > 2 else None)


def _handoffs_of(args: Any, kwargs: Any) -> Any:
    """The handoffs among the arguments of a model call."""
    return kwargs.get("handoffs", args[5] if len(args) > 5 else None) or ()


@contextlib.asynccontextmanager
async def model_timeout(settings: Any) -> AsyncIterator[None]:
    """End a model call as the SDK does when it takes longer than `ModelSettings.timeout`.

    Raises:
        ModelTimeoutError: it does.
    """
    seconds: float | None = getattr(settings, "timeout", None)
    if seconds is None:
        yield
        return
    try:
        async with asyncio.timeout(seconds) as limit:
            loop, when = asyncio.get_running_loop(), limit.when()
            assert when is not None
            # The model's span looks at this mark when it is cancelled, so it is made right before.
            error = ModelTimeoutError(seconds)
            marking = loop.call_at(when - 1e-6, sdk.mark_model_timeout, asyncio.current_task(), error)
            try:
                yield
            finally:
                marking.cancel()
    except TimeoutError as expired:
        if limit.expired():
            raise ModelTimeoutError(seconds) from expired
        raise


def _requested_name(agent: Any, run_config: Any, model: Model) -> str:
    """The name that the model was asked for by: the run's choice goes before the agent's, as in `get_model`."""
    for candidate in (run_config.model, agent.model):
        if isinstance(candidate, Model):
            break  # what another was asked for by is not this one's name
        if isinstance(candidate, str) and candidate:
            return candidate
    own = getattr(model, "model", None)
    return own if isinstance(own, str) and own else type(model).__name__


def _is_chosen(agent: Any, run_config: Any) -> bool:
    """Whether the user has chosen the model, by a name or as an object, and not left the choice to the provider."""
    return any(
        isinstance(candidate, Model) or (isinstance(candidate, str) and candidate)
        for candidate in (run_config.model, agent.model)
    )


def _note_places(scope: Scope, response: ModelResponse) -> None:
    """Remember where each tool call was ordered, for the ids of its steps."""
    place = 0
    item: Any
    for item in response.output:
        call_id = item.get("call_id") if isinstance(item, dict) else getattr(item, "call_id", None)
        if call_id is not None:
            place += 1
            scope.places[call_id] = f"{scope.turn}.{place}"


def is_final(error: Exception) -> bool:
    """Whether a failed model call can never go better: a bad key, a bad request, wrong use of the SDK."""
    if isinstance(error, openai.APIStatusError):
        return error.status_code in FINAL_STATUS_CODES
    if getattr(error, "is_retriable", True) is False:
        return True
    return isinstance(error, (UserError, TypeError, openai.OpenAIError)) and not isinstance(error, openai.APIError)


def retry_after(error: Exception) -> float | None:
    """The seconds that a provider asks to wait: `retry-after-ms`, which is OpenAI's, or `retry-after`."""
    response = getattr(error, "response", None)
    headers = getattr(response, "headers", None)
    if headers is None:
        return None
    with contextlib.suppress(TypeError, ValueError):
        return max(0.0, float(headers.get("retry-after-ms")) / 1000)
    value = headers.get("retry-after")
    return None if value is None else seconds_until(value)


__all__ = ["DurableModel", "Journal", "is_final", "retry_after"]
