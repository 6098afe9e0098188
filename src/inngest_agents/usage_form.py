"""How a model's usage lies in the output of its step: as the SDK names it, without what the rest of it tells.

A usual usage is of one request, and its total is the sum. It is stored as `tokens`, without those two; any other is
stored whole, as `usage`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def usage_fields(dumped: Mapping[str, Any]) -> dict[str, Any]:
    """The field that an output gets for a usage.

    Args:
        dumped: the fields of the SDK's `Usage` that are not as in `Usage()`.
    """
    total = dumped.get("input_tokens", 0) + dumped.get("output_tokens", 0)
    if dumped.get("requests") == 1 and dumped.get("total_tokens", 0) == total:
        return {"tokens": {name: value for name, value in dumped.items() if name not in ("requests", "total_tokens")}}
    return {"usage": dict(dumped)}


def usage_in(output: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Undo `usage_fields`; None if the output has neither field."""
    tokens = output.get("tokens")
    if isinstance(tokens, Mapping):
        total = tokens.get("input_tokens", 0) + tokens.get("output_tokens", 0)
        return {"requests": 1, **tokens, "total_tokens": total}
    usage = output.get("usage")
    return usage if isinstance(usage, Mapping) else None
