"""What a model call used and cost: counted and priced in its step, so that a replay reads it back.

The SDK's `ModelResponse` does not tell which model answered; the SDK's own adapters see it, so it is noted there
(`_fetch_response`, of which each adapter has one). Prices and token counts need the extra `cost`; without it, usage is
what the provider says and the price is unknown, with the reason.
"""

from __future__ import annotations

import contextvars
import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from agents import ModelResponse
from agents.models.interface import Model

from inngest_agents.journal import Journal
from inngest_agents.stats.pricing import with_price
from inngest_agents.stats.records import StepRecord, count_items, usage_from_response
from inngest_agents.stats.tokens import estimate_usage_async


@dataclasses.dataclass(slots=True)
class Answer:
    """What an adapter of the SDK saw of the provider's answer, and the SDK does not pass on."""

    model: str = ""
    service_tier: str = ""
    finish_reasons: tuple[str, ...] = ()


_answer: contextvars.ContextVar[Answer | None] = contextvars.ContextVar("inngest_agents_answer", default=None)
_watched: set[type] = set()


def watch(model: Model) -> None:
    """See to it that the adapter of `model` notes what its provider answers. Models without one are left alone."""
    cls = type(model)
    if cls in _watched:
        return
    _watched.add(cls)
    original = getattr(cls, "_fetch_response", None)
    if original is None or getattr(original, "__durable_watched__", False):
        return

    @functools.wraps(original)
    async def fetch(*args: Any, **kwargs: Any) -> Any:
        fetched = await original(*args, **kwargs)
        note(fetched[0] if isinstance(fetched, tuple) else fetched)
        return fetched

    fetch.__durable_watched__ = True  # type: ignore[attr-defined]
    cls._fetch_response = fetch  # type: ignore[attr-defined]


def note(provider_answer: Any) -> None:
    """Note what a provider's response object says; only inside `collecting`."""
    answer = _answer.get()
    if answer is None:
        return
    answer.model = str(getattr(provider_answer, "model", None) or answer.model)
    answer.service_tier = str(getattr(provider_answer, "service_tier", None) or answer.service_tier)
    reasons = [getattr(choice, "finish_reason", None) for choice in getattr(provider_answer, "choices", None) or ()]
    status = getattr(provider_answer, "status", None)
    answer.finish_reasons = tuple(str(reason) for reason in reasons or [status] if reason)


class collecting:  # noqa: N801  a context manager that reads like a function
    """Collect what `note` sees, in this context."""

    def __enter__(self) -> Answer:
        answer = Answer()
        self._token = _answer.set(answer)
        return answer

    def __exit__(self, *exc_info: object) -> None:
        _answer.reset(self._token)


def provider_of(model: Model) -> str:
    """The provider of a model, as LiteLLM names it; "" where its class does not tell."""
    client = getattr(model, "_client", None)
    client_name = type(client).__name__
    if "Azure" in client_name:
        return "azure"
    base_url = str(getattr(client, "base_url", ""))
    return "openai" if "api.openai.com" in base_url else ""


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
    usage = usage_from_response(
        response,
        model=answer.model,
        requested_model=requested,
        provider=provider_of(model),
        service_tier=answer.service_tier,
    )
    if not usage.has_tokens and journal.options.estimate_tokens:
        usage = await estimate_usage_async(usage, output=response.output, **inputs)
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
