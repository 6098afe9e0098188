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

from inngest_agents._agents_sdk import INVOCATION_FIELDS, around
from inngest_agents.scope import current_journal

Values: TypeAlias = tuple[str | None, ...]
"""All that a call consists of, in the order of `_FIELDS`; None for what it lacks."""

_FIELDS: Final = tuple(ResponseFunctionToolCall.model_fields)
_NAME, _TYPE = _FIELDS.index("name"), _FIELDS.index("type")
_TEXT: Final = frozenset({str, type(None)})
_CALL, _OUTPUT = "function_call", "function_call_output"

Key: TypeAlias = tuple[Values, Any, Any]
"""A call, the key under which its tool is looked up, and its role."""

_MODULE: Final = "agents._tool_invocation"
_PARAMETERS: Final = ("raw_item", "tool_lookup_key", "tool_name", "invocation_role")


@around(_MODULE, "tool_invocation_identity_and_scope", _PARAMETERS)
def _identity_and_scope(original: Callable[..., Any], raw_item: Any, **how: Any) -> Any:
    journal = current_journal()
    if journal is None:
        return original(raw_item, **how)
    if type(raw_item) is dict and raw_item.get("type") == _OUTPUT:
        return None  # no call: the SDK asks of everything that the run has so far
    key = _key(raw_item, how)
    if key is None:
        return original(raw_item, **how)
    if key in journal.identities:
        return journal.identities[key]
    values, lookup_key, role = key
    # Given the model itself, the SDK would make this of it three times.
    mapping = {name: value for name, value in zip(_FIELDS, values, strict=True) if value is not None}
    identity = original(mapping, tool_lookup_key=lookup_key, invocation_role=role)
    journal.identities[key] = identity
    return identity


@around(_MODULE, "tool_invocation_approval_scope", _PARAMETERS)
def _approval_scope(original: Callable[..., Any], raw_item: Any, **how: Any) -> Any:
    journal = current_journal()
    key = _key(raw_item, how) if journal is not None else None
    if journal is None or key is None or (identity := journal.identities.get(key)) is None:
        return original(raw_item, **how)
    kind, _, scope, _ = identity
    return kind, scope


def _key(raw_item: Any, how: dict[str, Any]) -> Key | None:
    """All on which the identity of a call depends; None for calls whose identities are not kept."""
    values = _values(raw_item)
    if values is None:
        return None
    lookup_key = how.get("tool_lookup_key")
    if values[_NAME] and lookup_key == ("bare", values[_NAME]) and "namespace" not in raw_item.model_fields_set:
        lookup_key = None  # the SDK takes that for the call's own
    # A function call has its name in itself, and `tool_name` is not looked at.
    return values, lookup_key, how.get("invocation_role")


def _values(raw_item: Any) -> Values | None:
    """The content of a function call that consists of texts; None for others, which are rarer."""
    if type(raw_item) is not ResponseFunctionToolCall:
        return None
    fields, known, more = raw_item.__dict__, raw_item.model_fields_set, raw_item.model_extra
    if tuple(fields) != _FIELDS or (more and not INVOCATION_FIELDS.isdisjoint(more)):
        return None
    # What is unset is left out by the SDK, as what is None is.
    values = tuple([value if name in known else None for name, value in fields.items()])
    return values if values[_TYPE] == _CALL and _TEXT.issuperset(map(type, values)) else None
