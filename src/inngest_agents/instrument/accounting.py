"""What a model call used and cost: counted and priced in its step, so that a replay reads it back.

The SDK's `ModelResponse` does not tell which model answered; the SDK's own adapters see it, so it is noted there
(`_fetch_response`, of which each adapter has one). Prices and token counts need the extra `cost`; without it, usage is
what the provider says and the price is unknown, with the reason.
"""

from __future__ import annotations

import contextvars
import dataclasses
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from agents import ModelResponse
from agents.models.interface import Model

from inngest_agents import _agents_sdk as sdk
from inngest_agents.instrument.connections import keep_no_connection
from inngest_agents.instrument.forwarding import ForwardingModel
from inngest_agents.journal import Journal
from inngest_agents.request.step_request import StepScope
from inngest_agents.stats.answers import count_items, usage_from_payload, usage_from_response
from inngest_agents.stats.pricing import with_price
from inngest_agents.stats.records import StepRecord, UsageRecord
from inngest_agents.stats.tokens import estimate_usage_async


@dataclasses.dataclass(slots=True)
class Answer:
    """What an adapter of the SDK saw of the provider's answer, and the SDK does not pass on."""

    model: str = ""
    service_tier: str = ""
    finish_reasons: tuple[str, ...] = ()
    raw_usage: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """The provider's own payload: it has audio and image tokens, for instance, which the SDK leaves out."""

    def billed(self, model: Model, requested: str) -> UsageRecord | None:
        """What the provider billed for a call that failed after it had answered; None if it has not, or did not say."""
        if not self.raw_usage:
            return None
        usage = usage_from_payload(
            self.raw_usage,
            model=self.model,
            requested_model=requested,
            provider=provider_of(model),
            service_tier=self.service_tier,
        )
        return usage if usage.has_tokens else None


_answer: contextvars.ContextVar[Answer | None] = contextvars.ContextVar("inngest_agents_answer", default=None)
_watched: set[type] = set()


def watch(model: Model) -> None:
    """See to it that the adapter of `model` notes what its provider answers. Models without one are left alone."""
    cls = type(model)
    if cls in _watched:
        return
    _watched.add(cls)
    sdk.tap_answers(cls, note)


def note(provider_answer: Any) -> None:
    """Note what a provider's response object says; only inside `collecting`."""
    answer = _answer.get()
    if answer is not None:
        take(answer, provider_answer)


def take(answer: Answer, provider_answer: Any) -> None:
    """Read what a provider's response object says."""
    answer.model = str(getattr(provider_answer, "model", None) or answer.model)
    answer.service_tier = str(getattr(provider_answer, "service_tier", None) or answer.service_tier)
    reasons = [getattr(choice, "finish_reason", None) for choice in getattr(provider_answer, "choices", None) or ()]
    status = getattr(provider_answer, "status", None)
    answer.finish_reasons = tuple(str(reason) for reason in reasons or [status] if reason)
    dump = getattr(getattr(provider_answer, "usage", None), "model_dump", None)
    answer.raw_usage = dump(exclude_none=True, warnings=False) if callable(dump) else {}


class collecting:  # noqa: N801  a context manager that reads like a function
    """Collect what `note` sees, in this context."""

    def __enter__(self) -> Answer:
        answer = Answer()
        self._token = _answer.set(answer)
        return answer

    def __exit__(self, *exc_info: object) -> None:
        _answer.reset(self._token)


# Where OpenAI's client is pointed at others, whose models have prices and names of their own.
_HOSTS: Final = {
    "api.openai.com": "openai",
    "openai.azure.com": "azure",
    "api.anthropic.com": "anthropic",
    "api.cerebras.ai": "cerebras",
    "api.deepseek.com": "deepseek",
    "api.fireworks.ai": "fireworks_ai",
    "api.groq.com": "groq",
    "api.mistral.ai": "mistral",
    "api.moonshot.ai": "moonshot",
    "api.perplexity.ai": "perplexity",
    "api.together.xyz": "together_ai",
    "api.x.ai": "xai",
    "dashscope-intl.aliyuncs.com": "dashscope",
    "generativelanguage.googleapis.com": "gemini",
    "openrouter.ai": "openrouter",
}


def provider_of(model: Model) -> str:
    """The provider of a model, as LiteLLM names it; "" where its class does not tell."""
    client = sdk.provider_client(model)
    client_name = type(client).__name__
    if "Azure" in client_name:
        return "azure"
    host = str(getattr(getattr(client, "base_url", None), "host", ""))
    return next((name for known, name in _HOSTS.items() if host == known or host.endswith(f".{known}")), "")


async def account(
    journal: Journal,
    record: StepRecord,
    response: ModelResponse,
    *,
    model: Model,
    requested: str,
    answer: Answer,
    inputs: Mapping[str, Any],
) -> StepRecord:
    """Complete the record of a model call: usage (estimated where the provider gives none), price, item counts.

    Args:
        journal: the durable run.
        record: what is known of the step.
        response: what the model gave back.
        model: the user's model.
        requested: the name that was asked for.
        answer: what the adapter saw.
        inputs: `instructions`, `items`, `tools` of the call, for an estimate.
    """
    usage = await _used(
        response,
        model=model,
        requested=requested,
        answer=answer,
        inputs=inputs,
        estimate=journal.options.estimate_tokens,
    )
    if journal.options.prices_on:
        usage = await with_price(usage, journal.options.prices)
    nested = tuple([await with_price(item, journal.options.prices) for item in record.nested])
    return dataclasses.replace(
        record,
        usage=usage,
        nested=nested,
        counts=count_items(response.output),
        finish_reasons=answer.finish_reasons,
        response_id=response.response_id or "",
    )


async def _used(
    response: ModelResponse, *, model: Model, requested: str, answer: Answer, inputs: Mapping[str, Any], estimate: bool
) -> UsageRecord:
    usage = usage_from_response(
        response,
        model=answer.model,
        requested_model=requested,
        provider=provider_of(model),
        service_tier=answer.service_tier,
        raw_usage=answer.raw_usage,
    )
    if not usage.has_tokens and estimate:
        usage = await estimate_usage_async(usage, output=response.output, **inputs)
    return usage


class CountedModel(ForwardingModel):
    """A model that a plain run inside a step calls: what each call used is noted for the step, also if it then fails.

    Args:
        inner: the model itself.
        requested: the name that was asked for.
        agent: the plain run's agent.
        step: the step around the plain run.
    """

    def __init__(self, inner: Model, *, requested: str, agent: str, step: StepScope) -> None:
        super().__init__(inner)
        self._requested = requested
        self._agent = agent
        self._step = step

    async def get_response(self, *args: Any, **kwargs: Any) -> ModelResponse:
        """One call of the model."""
        with collecting() as answer:
            try:
                inner, given, named = keep_no_connection(self._inner, args, kwargs)
                response = await inner.get_response(*given, **named)
            except BaseException:
                self._note(answer.billed(self._inner, self._requested))
                raise
        await self._note_response(response, answer, args, kwargs)
        return response

    async def stream_response(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        """One call of the model, streamed."""
        from inngest_agents.instrument.streaming import last_response

        items: list[Any] = []
        inner, given, named = keep_no_connection(self._inner, args, kwargs)
        async for event in inner.stream_response(*given, **named):
            response, is_complete = last_response(event, items)
            if response is not None:
                answer = Answer()
                take(answer, event.response)  # type: ignore[union-attr]  # an event that has a response
                if is_complete:
                    await self._note_response(response, answer, args, kwargs)
                else:
                    self._note(answer.billed(self._inner, self._requested))
            yield event

    async def _note_response(self, response: ModelResponse, answer: Answer, args: Any, kwargs: Any) -> None:
        usage = await _used(
            response,
            model=self._inner,
            requested=self._requested,
            answer=answer,
            inputs=inputs_of(args, kwargs),
            estimate=self._step.estimates,
        )
        self._note(usage)

    def _note(self, usage: UsageRecord | None) -> None:
        if usage is not None:
            self._step.nested_usage.append(dataclasses.replace(usage, origin="nested", agent=self._agent))


def inputs_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a model call that count as its input, by the names of `stats.tokens.count_input`."""

    def part(name: str, position: int) -> Any:
        return kwargs[name] if name in kwargs else (args[position] if len(args) > position else None)

    schema = part("output_schema", 4)
    as_json: Any = None
    if schema is not None and not schema.is_plain_text():
        as_json = schema.json_schema()
    return {
        "instructions": part("system_instructions", 0),
        "items": part("input", 1) or (),
        "tools": [*(part("tools", 3) or ()), *(part("handoffs", 5) or ())],
        "output_schema": as_json,
    }
