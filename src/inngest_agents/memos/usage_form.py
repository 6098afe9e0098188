"""How a model's usage lies in the output of its step: as its counts, without what the rest of it tells.

A usual usage is of one request, and its total is the sum. It is stored as the list `tokens`: input and output, then the
cached part of the input and the reasoning in the output, without zeros at the end. With other details, `tokens` has the
SDK's names for all of them. Any other usage is stored whole, as `usage`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_NAMES: Final = ("input_tokens", "output_tokens")
_DETAILS: Final = (("input_tokens_details", "cached_tokens"), ("output_tokens_details", "reasoning_tokens"))
_LISTED: Final = frozenset({*_NAMES, *(name for name, _ in _DETAILS)})


def usage_fields(dumped: Mapping[str, Any]) -> dict[str, Any]:
    """The field that an output gets for a usage.

    Args:
        dumped: the fields of the SDK's `Usage`, and those of its details, that are not as in `Usage()`.
    """
    total = dumped.get("input_tokens", 0) + dumped.get("output_tokens", 0)
    if dumped.get("requests") != 1 or dumped.get("total_tokens", 0) != total:
        return {"usage": dict(dumped)}
    said = {name: value for name, value in dumped.items() if name not in ("requests", "total_tokens")}
    return {"tokens": _listed(said) or said}


def _listed(said: Mapping[str, Any]) -> list[int] | None:
    """The counts as a list; None if there are others."""
    details = [said.get(name, {}) for name, _ in _DETAILS]
    plain = all(part is not None and part.keys() <= {what} for part, (_, what) in zip(details, _DETAILS, strict=True))
    if not plain or not said.keys() <= _LISTED:
        return None
    counts = [said.get(name, 0) for name in _NAMES]
    counts += [part.get(what, 0) for part, (_, what) in zip(details, _DETAILS, strict=True)]
    while len(counts) > len(_NAMES) and counts[-1] == 0:
        counts.pop()
    return counts


def usage_in(output: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Undo `usage_fields`; None if the output has neither field."""
    tokens = output.get("tokens")
    if isinstance(tokens, list) and len(tokens) >= len(_NAMES):
        tokens = _named(tokens)
    if isinstance(tokens, Mapping):
        total = tokens.get("input_tokens", 0) + tokens.get("output_tokens", 0)
        return {"requests": 1, **tokens, "total_tokens": total}
    usage = output.get("usage")
    return usage if isinstance(usage, Mapping) else None


def _named(counts: list[int]) -> dict[str, Any]:
    """Undo `_listed`."""
    named: dict[str, Any] = dict(zip(_NAMES, counts, strict=False))
    details = zip(_DETAILS, counts[len(_NAMES) :], strict=False)
    named.update({name: {what: count} for (name, what), count in details})
    return named
