"""What each model call has in its memo besides its response: the list `model`, whose end is left out where it is empty.

In it are the model that was asked for, the one that answered, the provider, the version of the price table, the
dollars, and why the model ended:

    ["gpt-4.1", "gpt-4.1-2025-04-14", "openai", "1.83.0#ffe40f10de68", "0.0027", "completed"]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from inngest_agents.stats.records import StepRecord

_HASH_SIGN: Final = ("+sha256:", "#")
"""What a price table's version has before its digest, and what is stored for it."""
_EMPTY: Final = ("", "", "", "", None)


class ModelMetadata(NamedTuple):
    """What a model call has in its memo besides its response: the fields of its record that lie in `model`."""

    requested: str
    answered: str = ""
    provider: str = ""
    price: Mapping[str, Any] | None = None
    """Its table's version, and the dollars if they are known; None: there is none, or not of LiteLLM's table."""
    finish_reasons: tuple[str, ...] = ()


def metadata_of(record: StepRecord) -> ModelMetadata | None:
    """What the list shall tell of a record; None for a step that is no model call."""
    if record.kind != "model":
        return None
    usage, price = record.usage, None
    if usage is None:
        return ModelMetadata(record.name, finish_reasons=record.finish_reasons)
    if usage.price is not None and usage.price.version and _HASH_SIGN[1] not in usage.price.version:
        price = {"version": usage.price.version}
        price |= {} if usage.price.usd is None else {"usd": usage.price.usd}
    return ModelMetadata(record.name, usage.model, usage.provider, price, record.finish_reasons)


def as_list(metadata: ModelMetadata) -> list[str | None]:
    """The list."""
    price = metadata.price or {}
    version = price.get("version", "").replace(*_HASH_SIGN)
    values = [
        metadata.requested,
        metadata.answered,
        metadata.provider,
        version,
        price.get("usd"),
        *metadata.finish_reasons,
    ]
    while values and not values[-1]:
        values.pop()
    return values


def metadata_in(memo: Mapping[str, Any]) -> ModelMetadata | None:
    """Undo `as_list`; None if the memo has no such list."""
    values = memo.get("model")
    if not isinstance(values, list) or not all(isinstance(value, str | None) for value in values):
        return None
    whole = [*values, *_EMPTY[len(values) :]]
    (requested, answered, provider, version, usd), reasons = whole[: len(_EMPTY)], whole[len(_EMPTY) :]
    price = {"version": version.replace(*reversed(_HASH_SIGN))} if version else None
    if price is not None and usd is not None:
        price["usd"] = usd
    return ModelMetadata(requested, answered, provider, price, tuple(reasons))


def requested_in(memo: Mapping[str, Any]) -> str:
    """The model that was asked for, if the memo tells; each step of a replay is compared by it."""
    values = memo.get("model")
    return values[0] if isinstance(values, list) and values and isinstance(values[0], str) else ""
