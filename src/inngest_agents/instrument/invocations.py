"""The identity of a function call, worked out once for each of a run.

To tell whether a call is the one that was approved, or has ended, the SDK makes its JSON and hashes it: several times a
turn for each call of the turn, and once a turn for each call so far. The outcome is always the same. In a replay, which
does nothing else that takes long, that is a tenth of 10 turns and a fifth of 50; so in a durable run the outcome is
kept, under all that it is made of.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from openai.types.responses import ResponseFunctionToolCall

from inngest_agents._agents_sdk import around
from inngest_agents.scope import current_journal

Content: TypeAlias = tuple[tuple[tuple[str, Any], ...], frozenset[str] | None]
"""All that a call consists of, and what of it was set, which alone counts in a model's JSON."""


@around(
    "agents._tool_invocation",
    "tool_invocation_identity_and_scope",
    ("raw_item", "tool_lookup_key", "tool_name", "invocation_role"),
)
def _identity_and_scope(original: Callable[..., Any], raw_item: Any, **how: Any) -> Any:
    journal = current_journal()
    content = _content(raw_item) if journal is not None else None
    if journal is None or content is None:
        return original(raw_item, **how)
    key = (content, *how.items())
    try:
        if key in journal.identities:
            return journal.identities[key]
    except TypeError:  # a part that has no hash: a caller, say
        return original(raw_item, **how)
    identity = original(raw_item, **how)
    # Of texts only: 1 and True are the same key, and not the same JSON.
    if all(part is None or type(part) is str for _, part in content[0]):
        journal.identities[key] = identity
    return identity


def _content(raw_item: Any) -> Content | None:
    if type(raw_item) is dict:
        return tuple(raw_item.items()), None
    if type(raw_item) is ResponseFunctionToolCall and not raw_item.model_extra:
        return tuple(raw_item.__dict__.items()), frozenset(raw_item.model_fields_set)
    return None  # other calls are rarer, and have parts of their own
