"""What Inngest's own dashboard shows for a step: metadata entries for the step's opcode.

The kind `inngest.ai` is native: the dashboard shows its tokens, models and estimated cost. Kinds that begin with
`userland.` are free. An entry may have 64 KB, all of a run together 1 MB; these have well below 1 KB each.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from inngest_agents.stats._compact import JsonDict
from inngest_agents.stats.breakdown import EXACT, decimal_text
from inngest_agents.stats.records import StepRecord, UsageRecord

AI_KIND: Final = "inngest.ai"
USERLAND_KIND: Final = "userland.inngest_agents"
_TEXT_LIMIT: Final = 1000


def step_metadata(record: StepRecord) -> list[JsonDict]:
    """Make the metadata of a step: `inngest.ai` for what a model used, `userland.inngest_agents` for the rest.

    Args:
        record: what the step used.

    Returns:
        Entries for the `metadata` field of the step's opcode.
    """
    entries = []
    if record.kind == "model" or record.usages:
        entries.append(_entry(AI_KIND, _ai_values(record)))
    if record.kind != "model":
        entries.append(_entry(USERLAND_KIND, _userland_values(record)))
    return entries


def _entry(kind: str, values: dict[str, Any]) -> JsonDict:
    given = {name: value for name, value in values.items() if value not in (None, "", ())}
    return {"scope": "step", "kind": kind, "op": "merge", "values": given}


def _ai_values(record: StepRecord) -> dict[str, Any]:
    usages = record.usages
    first = usages[0] if usages else UsageRecord(requested_model=record.name)
    return {
        "operation_name": "chat" if record.kind == "model" else "invoke_agent",
        "provider": first.provider,
        "request_model": first.requested_model or first.model,
        "response_model": first.model,
        "input_tokens": sum(usage.tokens.input_tokens for usage in usages),
        "output_tokens": sum(usage.tokens.output_tokens for usage in usages),
        "total_tokens": sum(usage.total_tokens for usage in usages),
        "cache_read_tokens": sum(usage.tokens.cached_input_tokens for usage in usages),
        "cache_creation_tokens": sum(usage.tokens.cache_write_tokens for usage in usages),
        "reasoning_tokens": sum(usage.tokens.reasoning_tokens for usage in usages),
        "estimated_cost": _dollars(usages),
        "latency_ms": round(record.duration * 1000),
        "finish_reasons": list(record.finish_reasons) or None,
        "response_id": record.response_id,
        "tokens_estimated": True if any(usage.estimated for usage in usages) else None,
    }


def _dollars(usages: Iterable[UsageRecord]) -> float | None:
    """The sum of the known prices; None where one is unknown, because a part would be taken for the whole."""
    total = EXACT.create_decimal(0)
    for usage in usages:
        amount = usage.price.amount if usage.price else None
        if amount is None or (usage.price and usage.price.is_partial):
            return None
        total = EXACT.add(total, amount)
    return float(decimal_text(total))


def _userland_values(record: StepRecord) -> dict[str, Any]:
    error = record.error
    return {
        "kind": record.kind,
        "name": record.name,
        "agent": record.agent,
        "path": "/".join(record.path),
        "call_id": record.call_id,
        "attempts": record.attempts,
        "duration_ms": round(record.duration * 1000),
        "error_type": error.type if error else None,
        "error_message": error.message[:_TEXT_LIMIT] if error else None,
    }
