"""Sums over some of a run's steps: those of one model, agent, tool or path."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Context, Decimal
from typing import TYPE_CHECKING, Any, Final

from inngest_agents.stats._compact import JsonDict, known

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inngest_agents.stats.records import StepRecord, UsageRecord

# Prices have up to 17 significant digits and token counts up to 9. With 60 digits every sum is exact, so it
# does not depend on the order in which parallel steps ended.
EXACT: Final = Context(prec=60)

SECONDS: Final = ("seconds", "waited_seconds")
"""The fields that differ between two runs that did the same."""


@dataclass(slots=True)
class Breakdown:
    """Counts, tokens, dollars and seconds of some steps."""

    model_calls: int = 0
    """Calls of a model; the calls of a plain `Runner.run` inside a tool included."""
    tool_calls: int = 0
    failures: int = 0
    """Steps that failed finally."""
    retries: int = 0
    """Attempts beyond the first."""
    input_tokens: int = 0
    cached_tokens: int = 0
    """The part of `input_tokens` that came from the provider's cache."""
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    """The part of `output_tokens` that was reasoning."""
    total_tokens: int = 0
    estimated: int = 0
    """Usages whose tokens were counted here and not by the provider."""
    priced: int = 0
    """Usages with a known price."""
    unpriced: int = 0
    """Usages with tokens but without a known price, or with one that leaves something out."""
    cost: Decimal = field(default_factory=Decimal)
    """US dollars of all usages with a known price."""
    seconds: float = 0.0
    """The sum of the durations of the last attempts; parallel steps count side by side."""
    waited_seconds: float = 0.0

    @property
    def cost_usd(self) -> float | None:
        """US dollars; None where nothing of what was used has a known price; 0.0 where nothing was used."""
        return None if self.unpriced and not self.priced else float(self.cost)

    @property
    def cost_complete(self) -> bool:
        """Whether `cost` covers everything that was used."""
        return not self.unpriced

    def add_step(self, record: StepRecord) -> None:
        """Count the step itself, without what it used."""
        self.model_calls += record.kind == "model"
        self.tool_calls += record.is_tool_call
        self.failures += record.error is not None
        self.retries += record.attempt
        self.seconds += record.duration
        self.waited_seconds += record.waited

    def add_usage(self, usage: UsageRecord, calls: int = 0) -> None:
        """Count tokens and dollars, and the model calls that are no steps of their own.

        Args:
            usage: what was used.
            calls: see `StepRecord.calls_of`.
        """
        self.model_calls += calls
        tokens = usage.tokens
        self.input_tokens += tokens.input_tokens
        self.cached_tokens += tokens.cached_input_tokens
        self.cache_write_tokens += tokens.cache_write_tokens
        self.output_tokens += tokens.output_tokens
        self.reasoning_tokens += tokens.reasoning_tokens
        self.total_tokens += usage.total_tokens
        self.estimated += usage.estimated
        amount = usage.price.amount if usage.price else None
        if amount is not None:
            self.priced += 1
            self.cost = EXACT.add(self.cost, amount)
        if (amount is None and (usage.has_tokens or usage.requests)) or (usage.price and usage.price.is_partial):
            self.unpriced += 1

    def add(self, other: Breakdown) -> None:
        """Add another breakdown to this one."""
        for name in self.__slots__:
            if name != "cost":
                setattr(self, name, getattr(self, name) + getattr(other, name))
        self.cost = EXACT.add(self.cost, other.cost)

    def to_dict(self, *, durations: bool = True) -> JsonDict:
        """JSON; dollars as a number in `cost_usd` and exactly, as a string, in `cost_usd_exact`.

        Args:
            durations: with False, the fields that differ between two equal runs are left out.
        """
        out: JsonDict = {}
        for name in self.__slots__:
            if name == "cost":
                out |= {"cost_usd": self.cost_usd, "cost_usd_exact": decimal_text(self.cost)}
            elif durations or name not in (*SECONDS, "retries"):  # a crash of the worker is a retry too
                value = getattr(self, name)
                out[name] = round(value, 6) if name in SECONDS else value
        return out

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Breakdown:
        """Read what `to_dict` wrote."""
        return cls(**{**known(cls, data), "cost": Decimal(data.get("cost_usd_exact", "0"))})


def decimal_text(value: Decimal) -> str:
    """Write a number without an exponent and without trailing zeros: the same for equal numbers."""
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
