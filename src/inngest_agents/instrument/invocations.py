"""The identity of a function call, worked out once for each of a run.

To tell whether a call is the one that was approved, or has ended, the SDK makes its JSON and hashes it: several times a
turn for each call of the turn, and once a turn for each call so far. The outcome is always the same. In a replay, which
does nothing else that takes long, that is a tenth of 10 turns and a fifth of 50; so in a durable run the outcome is
kept, under all that it is made of.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

from openai.types.responses import ResponseFunctionToolCall

from inngest_agents._agents_sdk import around
from inngest_agents.scope import current_journal

Content: TypeAlias = tuple[tuple[str, ...] | None, tuple[Any, ...]]
"""All that a call consists of: names and values; without names those of a model, in the order of its fields."""

_FIELDS: Final = tuple(ResponseFunctionToolCall.model_fields)


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
    key = (*content, how.get("tool_lookup_key"), how.get("tool_name"), how.get("invocation_role"))
    try:
        if key in journal.identities:
            return journal.identities[key]
    except TypeError:  # a part that has no hash: a caller, say
        return original(raw_item, **how)
    identity = original(raw_item, **how)
    # Of texts only: 1 and True are the same key, and not the same JSON.
    if all(part is None or type(part) is str for part in content[1]):
        journal.identities[key] = identity
    return identity


def _content(raw_item: Any) -> Content | None:
    if type(raw_item) is dict:
        return tuple(raw_item), tuple(raw_item.values())
    if type(raw_item) is ResponseFunctionToolCall and not raw_item.model_extra:
        fields, known = raw_item.__dict__, raw_item.model_fields_set
        if tuple(fields) == _FIELDS:
            # What is unset is left out, as what is None is.
            return None, tuple([value if name in known else None for name, value in fields.items()])
    return None  # other calls are rarer, and have parts of their own
