"""What runs use and cost: records of steps, statistics, prices, reports.

Importing this package is cheap: LiteLLM, tiktoken, rich, OpenTelemetry and the Agents SDK are imported by the
functions that need them, when they are called.
"""

from inngest_agents.stats.answers import count_items, usage_from_response
from inngest_agents.stats.breakdown import Breakdown
from inngest_agents.stats.records import (
    SCHEMA_VERSION,
    TOOL_KINDS,
    ErrorRecord,
    ItemCounts,
    Price,
    StepKind,
    StepRecord,
    Tokens,
    UsageRecord,
)
from inngest_agents.stats.stats import STATS_SCHEMA_VERSION, RunFacts, RunStats, Unpriced

__all__ = [
    "SCHEMA_VERSION",
    "STATS_SCHEMA_VERSION",
    "TOOL_KINDS",
    "Breakdown",
    "ErrorRecord",
    "ItemCounts",
    "Price",
    "RunFacts",
    "RunStats",
    "StepKind",
    "StepRecord",
    "Tokens",
    "Unpriced",
    "UsageRecord",
    "count_items",
    "usage_from_response",
]
