"""The arithmetic of prices: what the tokens of one request cost by one entry of a price table.

The formulas are those of LiteLLM 1.83 (`generic_cost_per_token` in its `llm_cost_calc/utils.py`, and the
`cost_calculator.py` of the providers that have one of their own), in exact decimal arithmetic. They are
written anew, and held equal to LiteLLM's by tests: importing LiteLLM takes seconds and can call the network.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final, TypeAlias

from inngest_agents.stats.breakdown import EXACT
from inngest_agents.stats.records import Tokens

Entry: TypeAlias = Mapping[str, Any]
"""One model's prices in US dollars, by LiteLLM's field names."""

_ZERO: Final = Decimal(0)
_TIERS: Final = ("flex", "priority")
_THRESHOLD: Final = re.compile(r"input_cost_per_token_above_((\d+)(k?))_tokens$")


@dataclass(slots=True)
class Tariff:
    """The prices of one model, ready to be applied to requests."""

    entry: Entry
    provider: str
    """The provider whose formula applies, as LiteLLM names it."""
    tier: str = ""
    """The service tier: "flex" and "priority" can have prices of their own; all others cost the standard."""
    missing: dict[str, None] = field(default_factory=dict)
    """What was used although the entry has no price for it, so that it counts as free, as with LiteLLM."""

    def cost(self, tokens: Tokens) -> Decimal:
        """US dollars for the tokens of one request."""
        formula = _FORMULAS.get(self.provider, Tariff.generic)
        return formula(self, tokens)

    def rate(self, name: str) -> Decimal | None:
        """Dollars per unit; for a service tier without a price of its own, that of the standard tier."""
        value = self.entry.get(name)
        if value is None:
            for tier in _TIERS:
                if name.endswith(f"_{tier}"):
                    value = self.entry.get(name.removesuffix(f"_{tier}"))
        return None if value is None else Decimal(str(value))

    def tiered(self, name: str) -> Decimal | None:
        """`rate` for the service tier of the request."""
        return self.rate(f"{name}_{self.tier}" if self.tier in _TIERS else name)

    def or_free(self, rate: Decimal | None, what: str, count: int) -> Decimal:
        """`rate`, or 0 with a note where the entry has none."""
        if rate is None and count:
            self.missing[what] = None
        return rate or _ZERO

    def threshold(self, input_tokens: int) -> str | None:
        """The name of the highest threshold that a request passes ("128k", "200k", …)."""
        passed = []
        for name, value in self.entry.items():
            match = _THRESHOLD.match(name)
            if match and value is not None:
                limit = int(match[2]) * (1000 if match[3] else 1)
                if input_tokens > limit:
                    passed.append((limit, match[1]))
        return max(passed)[1] if passed else None

    def base(self, name: str, threshold: str | None, *, by_tier: bool = True) -> Decimal | None:
        """A price that may depend on the service tier and on the length of the input."""
        standard = self.tiered(name)
        if threshold is None:
            return standard
        above = f"{name}_above_{threshold}_tokens"
        rate = self.tiered(above) if by_tier else self.rate(above)
        return standard if rate is None else rate

    def generic(self, tokens: Tokens) -> Decimal:
        """LiteLLM's formula for all providers that have none of their own."""
        threshold = self.threshold(tokens.input_tokens)
        return EXACT.add(self._input(tokens, threshold), self._output(tokens, threshold))

    def _input(self, tokens: Tokens, threshold: str | None) -> Decimal:
        text = (
            tokens.input_tokens
            - tokens.cached_input_tokens
            - tokens.cache_write_tokens
            - tokens.audio_input_tokens
            - tokens.image_input_tokens
        )
        short_writes = tokens.cache_write_tokens - tokens.cache_write_1h_tokens
        cached = self.base("cache_read_input_token_cost", threshold, by_tier=False)
        writes = self.base("cache_creation_input_token_cost", threshold, by_tier=False)
        long_writes = self.rate("cache_creation_input_token_cost_above_1hr")
        if threshold is not None:
            above = self.rate(f"cache_creation_input_token_cost_above_1hr_above_{threshold}_tokens")
            long_writes = long_writes if above is None else above
        image = self.rate("input_cost_per_image_token")
        image = self.rate("input_cost_per_token") if image is None else image
        parts = (
            (text, self.base("input_cost_per_token", threshold), "input"),
            (tokens.cached_input_tokens, cached, "cached input"),
            (short_writes, writes, "cache writes"),
            (tokens.cache_write_1h_tokens, long_writes, "cache writes of an hour"),
            (tokens.audio_input_tokens, self.tiered("input_cost_per_audio_token"), "audio input"),
            (tokens.image_input_tokens, image, "image input"),
        )
        return self._sum(parts)

    def _output(self, tokens: Tokens, threshold: str | None) -> Decimal:
        base = self.base("output_cost_per_token", threshold)
        if not base:
            # Models that answer with images only have no price for text.
            image_base = self.rate("output_cost_per_image_token")
            base = base if image_base is None else image_base
        special = (
            (tokens.audio_output_tokens, "output_cost_per_audio_token", "audio output"),
            (tokens.reasoning_tokens, "output_cost_per_reasoning_token", "reasoning"),
            (tokens.image_output_tokens, "output_cost_per_image_token", "image output"),
        )
        text = max(0, tokens.output_tokens - sum(count for count, _, _ in special))
        parts: list[tuple[int, Decimal | None, str]] = [(text, base, "output")]
        for count, name, what in special:
            rate = self.rate(name)
            parts.append((count, base if rate is None else rate, what))
        return self._sum(parts)

    def _sum(self, parts: Iterable[tuple[int, Decimal | None, str]]) -> Decimal:
        total = _ZERO
        for count, rate, what in parts:
            total = EXACT.fma(Decimal(count), self.or_free(rate, what, count), total)
        return total

    def flat(self, tokens: Tokens) -> Decimal:
        """Input and output at one price each, whatever they are made of (Databricks, Fireworks)."""
        return self._sum(
            (
                (tokens.input_tokens, self.rate("input_cost_per_token"), "input"),
                (tokens.output_tokens, self.rate("output_cost_per_token"), "output"),
            ),
        )

    def perplexity(self, tokens: Tokens) -> Decimal:
        """Reasoning is billed on top of the output."""
        reasoning = self.rate("output_cost_per_reasoning_token") or _ZERO
        return EXACT.fma(Decimal(tokens.reasoning_tokens), reasoning, self.flat(tokens))

    def xai(self, tokens: Tokens) -> Decimal:
        """Reasoning is not part of the output that xAI reports, and costs the same."""
        output = Tokens(output_tokens=tokens.output_tokens + tokens.reasoning_tokens)
        threshold = self.threshold(tokens.input_tokens)
        return EXACT.add(self._input(tokens, threshold), self._output(output, threshold))

    def free(self, tokens: Tokens) -> Decimal:  # noqa: ARG002  # a formula takes the tokens, needed or not
        """Models on one's own machine (Lemonade)."""
        return _ZERO

    def dashscope(self, tokens: Tokens) -> Decimal:
        """Steps of prices as in a progressive tax, where the entry has them."""
        steps = self.entry.get("tiered_pricing")
        cached, reasoning = tokens.cached_input_tokens, tokens.reasoning_tokens
        parts = (
            (tokens.input_tokens - cached, "input_cost_per_token", "input_cost_per_token"),
            (cached, "cache_read_input_token_cost", "input_cost_per_token"),
            (tokens.output_tokens - reasoning, "output_cost_per_token", "output_cost_per_token"),
            (reasoning, "output_cost_per_reasoning_token", "output_cost_per_token"),
        )
        total = _ZERO
        for count, name, fallback in parts:
            if isinstance(steps, list) and steps:
                total = EXACT.add(total, _progressive(count, steps, name, fallback))
            else:
                rate = self.rate(name)
                rate = self.rate(fallback) if rate is None else rate
                total = EXACT.fma(Decimal(count), rate or _ZERO, total)
        return total


def _progressive(count: int, steps: list[dict[str, Any]], name: str, fallback: str) -> Decimal:
    """Charge each token by the step that it falls into; those beyond the last step by the last."""
    total, done = _ZERO, 0
    ordered = sorted(steps, key=lambda step: float(step.get("range", [0, 0])[0]))
    last = len(ordered) - 1
    for place, step in enumerate(ordered):
        end = count if place == last else min(int(step["range"][1]), count)
        if end > done:
            rate = Decimal(str(step.get(name) or step.get(fallback) or 0))
            total = EXACT.fma(Decimal(end - done), rate, total)
            done = end
    return total


_FORMULAS: Final[Mapping[str, Callable[[Tariff, Tokens], Decimal]]] = {
    "dashscope": Tariff.dashscope,
    "databricks": Tariff.flat,
    "fireworks_ai": Tariff.flat,
    "lemonade": Tariff.free,
    "perplexity": Tariff.perplexity,
    "xai": Tariff.xai,
}

_ONE_TIER: Final = frozenset(
    {
        "anthropic",
        "azure",
        "azure_ai",
        "dashscope",
        "databricks",
        "deepseek",
        "fireworks_ai",
        "perplexity",
        "xai",
    },
)
_VERTEX_TIERS: Final = ("claude", "llama", "mistral", "jamba", "codestral", "gemma", "gemini-2")


def has_one_tier(provider: str, model: str) -> bool:
    """Whether LiteLLM charges every service tier of a model alike, whatever its table lists."""
    if provider == "vertex_ai":
        return not any(part in model for part in _VERTEX_TIERS)
    return provider in _ONE_TIER
