"""What a model's answer tells of its usage and its items: read once, in the step, into a record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from inngest_agents.stats.records import ItemCounts, Tokens, UsageRecord

if TYPE_CHECKING:
    from agents import ModelResponse


def usage_from_response(
    response: ModelResponse,
    *,
    model: str = "",
    requested_model: str = "",
    provider: str = "",
    service_tier: str = "",
    raw_usage: Mapping[str, Any] | None = None,
) -> UsageRecord:
    """Read a model response's usage, with its per-request entries.

    Args:
        response: what the model gave back; `raw_usage` is read for what the SDK's own usage leaves out (audio
            and image tokens, cache writes of an hour), where the run keeps it.
        model: the model that answered, if known.
        requested_model: the model that was asked for.
        provider: as LiteLLM names it.
        service_tier: the tier that the provider billed.
        raw_usage: the provider's own payload, where it was seen and the response does not have it.
    """
    usage = response.usage
    tokens = _tokens(usage)
    raw = response.raw_usage or raw_usage or {}
    if usage.requests <= 1:
        # The provider's own payload is of one request: the SDK's sum over several has none.
        tokens = _add_raw_details(tokens, raw)
    entries = tuple(_tokens(entry) for entry in usage.request_usage_entries)
    return UsageRecord(
        tokens=tokens,
        total_tokens=usage.total_tokens or tokens.input_tokens + tokens.output_tokens,
        requests=usage.requests or 1,
        entries=entries if len(entries) > 1 else (),
        model=model or str(raw.get("model") or ""),
        requested_model=requested_model,
        provider=provider,
        service_tier=_tier(service_tier or raw.get("service_tier")),
    )


def usage_from_payload(raw: Mapping[str, Any], **values: Any) -> UsageRecord:
    """Read a provider's own usage, where the SDK has made no response of it.

    Args:
        raw: by the names of the Responses or the Chat Completions API.
        **values: further fields of the record.
    """
    given, made = _mapping(raw, "input_tokens_details", "prompt_tokens_details"), _mapping(raw, "output_tokens_details")
    tokens = Tokens(
        input_tokens=_count(raw, "input_tokens") or _count(raw, "prompt_tokens"),
        cached_input_tokens=_count(given, "cached_tokens"),
        cache_write_tokens=_count(given, "cache_write_tokens"),
        output_tokens=_count(raw, "output_tokens") or _count(raw, "completion_tokens"),
        reasoning_tokens=_count(made or _mapping(raw, "completion_tokens_details"), "reasoning_tokens"),
    )
    tokens = _add_raw_details(tokens, raw)
    values["service_tier"] = _tier(values.get("service_tier"))
    total = _count(raw, "total_tokens") or tokens.input_tokens + tokens.output_tokens
    return UsageRecord(tokens=tokens, total_tokens=total, requests=1, **values)


def _tier(said: Any) -> str:
    """OpenAI says "default" where it served a request at the standard prices."""
    return "" if said in (None, "default") else str(said)


def _tokens(usage: Any) -> Tokens:
    """Read the SDK's `Usage` or `RequestUsage`; providers leave details out or null."""
    input_details, output_details = usage.input_tokens_details, usage.output_tokens_details
    return Tokens(
        input_tokens=usage.input_tokens or 0,
        cached_input_tokens=getattr(input_details, "cached_tokens", 0) or 0,
        cache_write_tokens=getattr(input_details, "cache_write_tokens", 0) or 0,
        output_tokens=usage.output_tokens or 0,
        reasoning_tokens=getattr(output_details, "reasoning_tokens", 0) or 0,
    )


def _add_raw_details(tokens: Tokens, raw: Mapping[str, Any]) -> Tokens:
    """Add what only the provider's payload tells, by the names of the Responses and Chat Completions APIs."""
    if not raw:
        return tokens
    given = _mapping(raw, "input_tokens_details", "prompt_tokens_details")
    made = _mapping(raw, "output_tokens_details", "completion_tokens_details")
    writes = _mapping(given, "cache_creation_token_details") or _mapping(raw, "cache_creation")
    return replace(
        tokens,
        cache_write_tokens=tokens.cache_write_tokens
        or _count(given, "cache_creation_tokens")
        or _count(raw, "cache_creation_input_tokens"),
        cache_write_1h_tokens=_count(writes, "ephemeral_1h_input_tokens"),
        audio_input_tokens=_count(given, "audio_tokens"),
        image_input_tokens=_count(given, "image_tokens"),
        audio_output_tokens=_count(made, "audio_tokens"),
        image_output_tokens=_count(made, "image_tokens"),
    )


def _mapping(raw: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    return next((raw[name] for name in names if isinstance(raw.get(name), Mapping)), {})


def _count(raw: Mapping[str, Any], name: str) -> int:
    value = raw.get(name)
    return value if isinstance(value, int) and value > 0 else 0


def count_items(output: Iterable[Any]) -> ItemCounts:
    """Count the output items of a model's answer.

    Args:
        output: items as the SDK has them (objects with `type`) or as JSON (mappings with "type"). Types that
            the SDK does not know count as items.
    """
    messages = reasoning = tool_calls = items = 0
    for item in output:
        kind = str(item.get("type", "") if isinstance(item, Mapping) else getattr(item, "type", ""))
        items += 1
        messages += kind == "message"
        reasoning += kind == "reasoning"
        tool_calls += kind.endswith("_call")
    return ItemCounts(messages, reasoning, tool_calls, items)
