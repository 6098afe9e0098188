"""What a usage costs: one function from a usage record to a price, by LiteLLM's bundled price table.

The price is computed once, in the step, and stored with it, so that neither a replay nor a later price table
changes it.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any, Final, TypeAlias, TypedDict

from inngest_agents.request.process_end import in_thread
from inngest_agents.stats import price_table
from inngest_agents.stats.breakdown import EXACT, decimal_text
from inngest_agents.stats.price_table import Match, PriceTableError, strip_adapter, variants
from inngest_agents.stats.records import NO_PRICE, Price, UsageRecord
from inngest_agents.stats.tariff import Tariff, has_one_tier


class ModelPrices(TypedDict, total=False):
    """The prices of a model of one's own, in US dollars per token, by LiteLLM's field names.

    All fields are optional but the first two. Any other field that LiteLLM's price table uses is read too,
    such as `input_cost_per_token_above_200k_tokens` or `input_cost_per_token_flex`. Without a price of their
    own, cached input, cache writes and audio input cost what input costs; reasoning and audio output cost
    what output costs.
    """

    input_cost_per_token: float
    output_cost_per_token: float
    cache_read_input_token_cost: float
    cache_creation_input_token_cost: float
    cache_creation_input_token_cost_above_1hr: float
    output_cost_per_reasoning_token: float
    input_cost_per_audio_token: float
    output_cost_per_audio_token: float
    input_cost_per_image_token: float
    output_cost_per_image_token: float
    litellm_provider: str
    """Only where the provider's own formula should apply ("xai", "dashscope", …)."""


PriceList: TypeAlias = Mapping[str, ModelPrices | Mapping[str, Any]]
"""Prices by model name. They win over LiteLLM's."""

_PER_TOKEN: Final = {"input_cost_per_token", "output_cost_per_token"}
_STEPS: Final = "tiered_pricing"
_OWN_DEFAULTS: Final = (
    "cache_read_input_token_cost",
    "cache_creation_input_token_cost",
    "input_cost_per_audio_token",
)


def price(
    usage: UsageRecord,
    *,
    model: str = "",
    provider: str = "",
    prices: PriceList | None = None,
) -> Price:
    """Compute what a usage costs, each of its requests by itself.

    Reads LiteLLM's table at the first call; use `with_price` on an event loop. Never calls the network.

    Args:
        usage: its `price` is not looked at.
        model: instead of the model that the usage names.
        provider: instead of the provider that the usage names.
        prices: prices of own models.

    Returns:
        The price. Where it is unknown `usd` is None (never 0), and `reason` says why.
    """
    if model or provider:
        usage = replace(usage, model=model or usage.model, provider=provider or usage.provider)
    if not usage.billed_model:
        return Price(reason="the provider did not name the model that answered")
    if not usage.has_tokens:
        return Price(reason="the provider gave no token counts")
    own = _find_own(usage, prices or {})
    if own is not None:
        return _apply(usage, own, "user", _digest(own.entry))
    try:
        table = price_table.load()
    except PriceTableError as error:
        return Price(reason=str(error))
    match, note = _find_listed(usage, table)
    if match is None:
        return Price(source="litellm", version=table.version, reason=note)
    return _apply(usage, match, "litellm", table.version, note)


async def with_price(usage: UsageRecord, prices: PriceList | None = None) -> UsageRecord:
    """`usage` with its price, computed without holding up the event loop.

    Args:
        usage: what was used.
        prices: prices of own models.
    """
    if price_table.loaded() is not None:
        return usage.with_price(price(usage, prices=prices))
    return usage.with_price(await in_thread(lambda: price(usage, prices=prices)))


def _find_own(usage: UsageRecord, prices: PriceList) -> Match | None:
    if not prices:
        return None
    for model in filter(None, (usage.model, usage.requested_model)):
        name = strip_adapter(model)
        for candidate in (model, name, f"{usage.provider}/{name}", name.rpartition("/")[2]):
            for variant, exact in variants(candidate):
                entry = prices.get(variant)
                if entry is not None:
                    full = {**_own_defaults(entry), **entry}
                    return Match(variant, full, str(entry.get("litellm_provider", "")), exact)
    return None


def _own_defaults(entry: Mapping[str, Any]) -> dict[str, Any]:
    defaults = {name: entry.get("input_cost_per_token") for name in _OWN_DEFAULTS}
    written = entry.get("cache_creation_input_token_cost", defaults["cache_creation_input_token_cost"])
    return {**defaults, "cache_creation_input_token_cost_above_1hr": written}


def _find_listed(usage: UsageRecord, table: price_table.PriceTable) -> tuple[Match | None, str]:
    """Find the model that answered, or else the one that was asked for; with what the reader must know."""
    provider = usage.provider or (table.split(usage.requested_model)[0] if usage.requested_model else "")
    return _look_up(table, usage.billed_model, usage.model, usage.requested_model, provider)


@functools.lru_cache(maxsize=1024)
def _look_up(
    table: price_table.PriceTable, billed: str, answered: str, requested: str, provider: str
) -> tuple[Match | None, str]:
    # A run asks for few models many times, and looking for one that is not listed goes through the whole table.
    match = table.find(billed, provider)
    if match is not None:
        note = "" if match.exact else f"priced as {match.key}: the table does not list {billed}"
        return match, note
    if requested and requested != answered:
        match = table.find(requested, provider)
        if match is not None:
            return match, f"priced as {match.key}, which was asked for: the table does not list {answered}"
    listed = table.listed_for(billed)
    where = f" for {provider} (but for {', '.join(listed)})" if provider and listed else ""
    return None, NO_PRICE.format(model=billed) + where


def _apply(usage: UsageRecord, match: Match, source: str, version: str, note: str = "") -> Price:
    if not _PER_TOKEN & match.entry.keys() and not (match.provider == "dashscope" and _STEPS in match.entry):
        why = note or f"{match.key} is not priced by tokens"
        return Price(source=source, version=version, model=match.key, reason=why)
    tier = usage.service_tier.lower()
    if source == "litellm" and has_one_tier(match.provider, match.key):
        tier = ""
    tariff = Tariff(match.entry, match.provider, tier)
    fee = _routing_fee(usage, match) if source == "litellm" else Decimal(0)
    total = Decimal(0)
    for tokens in usage.priced_requests:
        total = EXACT.add(total, tariff.cost(tokens))
        total = EXACT.fma(fee, Decimal(tokens.input_tokens), total)
    notes = [note] if note else []
    if tariff.missing:
        notes.append(f"no price for {', '.join(tariff.missing)}: counted as free, as LiteLLM does")
    return Price(decimal_text(total), source, version, match.key, "; ".join(notes), bool(tariff.missing))


def _routing_fee(usage: UsageRecord, match: Match) -> Decimal:
    """Azure's model router costs its own price per input token on top of the model that it chose."""
    routed = any("model-router" in name or "model_router" in name for name in (usage.model, usage.requested_model))
    if match.provider != "azure_ai" or not routed:
        return Decimal(0)
    router = price_table.load().find("azure_ai/model_router")
    return Decimal(str(router.entry.get("input_cost_per_token", 0))) if router else Decimal(0)


def _digest(entry: Mapping[str, Any]) -> str:
    text = json.dumps(entry, sort_keys=True, default=str)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:12]}"
