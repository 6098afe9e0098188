"""The record of a step as it is kept in the step's memo: without what the memo tells anyway.

A run's state grows with each memo and is sent with each request, so nothing is stored twice. What lies in the step's id
(the name of the tool, the agent of a model call, the way to a nested agent) and in the model's response (its usage, its
items) is derived from there by `_derived`, and only where a record differs from it is that stored; a null stands for a
field that the record does not have. So `unpack(pack(record))` is the record again, whatever `_derived` guesses.

The place in the order and the id of the tool call are not stored: who asks for the step knows them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, Final

from inngest_agents.stats._compact import JsonDict
from inngest_agents.stats.records import (
    NO_PRICE,
    TOOL_KINDS,
    ErrorRecord,
    StepKind,
    StepRecord,
    count_items,
    usage_from_response,
)

_ASKER_KNOWS: Final = ("order", "call_id")
_NO_USAGE: Final[Mapping[str, Any]] = {
    "requests": 0,
    "input_tokens": 0,
    "output_tokens": 0,
    "total_tokens": 0,
    "input_tokens_details": None,
    "output_tokens_details": None,
    "request_usage_entries": (),
}


def pack(record: StepRecord, output: Any) -> JsonDict:
    """Make the `record` of a memo.

    Args:
        record: what the step did and used.
        output: the memo's `output`.
    """
    full = record.to_dict()
    del full["v"]  # the memo has the version of all that is in it
    for name in _ASKER_KNOWS:
        full.pop(name, None)
    at = [full.pop("started_at", 0), full.pop("duration", 0)]
    price = record.usage.price if record.usage else None
    known = _derived(record.kind, record.step_id, record.name, output, is_priced=price is None or price.usd is not None)
    return {"kind": full.pop("kind"), "step_id": full.pop("step_id"), "at": at, **_difference(full, known)}


def unpack(memo: Mapping[str, Any], asked: Mapping[str, Any] | None = None) -> StepRecord:
    """Read the record of a memo.

    Args:
        memo: what the step stored, of this version or an earlier one.
        asked: fields that whoever asks for the step knows.

    Raises:
        KeyError: it is no memo of a durable step.
        ValueError: it is of a newer version.
    """
    stored = dict(memo["record"])
    if "at" not in stored:  # version 1 kept the whole record
        return StepRecord.from_dict(stored)
    started_at, duration = stored.pop("at")
    kind, step_id = stored["kind"], stored["step_id"]
    named = _named(kind, step_id) | stored
    price = (stored.get("usage") or {}).get("price", {})
    is_priced = price is None or price.get("usd") is not None
    known = _derived(kind, step_id, named.get("name") or "", memo.get("output"), is_priced=is_priced)
    own = {name: value for name, value in (asked or {}).items() if name in _ASKER_KNOWS}
    times = {"started_at": started_at, "duration": duration}
    return StepRecord.from_dict({**own, **times, **_merged(known, stored)})


def identity(memo: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """The kind, the agent and the name of the step that stored `memo`; None if it is no memo of a durable step."""
    record = memo.get("record")
    if not isinstance(record, Mapping) or "kind" not in record:
        return None
    named = {**_named(record["kind"], record.get("step_id", "")), **record} if "at" in record else record
    return record["kind"], named.get("agent") or "", named.get("name") or ""


def answer_of(memo: Mapping[str, Any]) -> Any:
    """What the step that stored `memo` returned, as JSON."""
    return memo.get("output")


def failed_step(step_id: str, error_type: str, message: str) -> StepRecord | None:
    """The record of a step that failed for good, which has no memo; None if its id is that of no model or tool call.

    All kinds of tools have ids of one form, so the kind is "tool".
    """
    label = step_id.rpartition("/")[2]
    if re.match(r"\d+ model ", label):
        kind: StepKind = "model"
    elif re.match(r"\d+\.\d+ ", label):
        kind = "tool"
    else:
        return None
    named, way = _named(kind, step_id), tuple(step_id.split("/")[:-1])
    path = way if len(way) > 1 else ()
    return StepRecord(kind=kind, step_id=step_id, path=path, error=ErrorRecord(error_type, message), **named)


def _named(kind: str, step_id: str) -> JsonDict:
    """What the label at the end of an id tells, e.g. "1 model shop" or "3.1 lookup_order"."""
    what = step_id.rpartition("/")[2].partition(" ")[2]
    if kind == "model":
        return {"agent": what.removeprefix("model ")}
    if kind in TOOL_KINDS:
        # A run has the name of its first agent, where it was given none.
        return {"name": what, "agent": step_id.partition("/")[0]}
    return {"name": what} if what else {}


def _derived(kind: str, step_id: str, name: str, output: Any, *, is_priced: bool) -> JsonDict:
    """The fields of a record, as `StepRecord.to_dict` writes them, as far as its id and its step's output tell."""
    known = _named(kind, step_id)
    way = step_id.split("/")[:-1]
    if len(way) > 1:
        known["path"] = way
    if kind == "model" and isinstance(output, Mapping) and isinstance(output.get("usage"), Mapping):
        event = output.get("event")
        response = event.get("response", {}) if isinstance(event, Mapping) else output
        known["counts"] = count_items(response.get("output") or ()).to_dict()
        known["response_id"] = response.get("response_id") or response.get("id") or ""
        said: Any = SimpleNamespace(usage=_usage(output["usage"]), raw_usage=output.get("raw_usage"))
        usage = usage_from_response(said, requested_model=name)
        model = usage.billed_model
        found = {"model": model} if is_priced else {"reason": NO_PRICE.format(model=model)}
        known["usage"] = usage.to_dict() | {"price": {"source": "litellm", **found}}
    return known


def _usage(data: Mapping[str, Any]) -> SimpleNamespace:
    """The JSON of a `Usage` of the SDK, to be read like one; details that are missing are None."""
    usage = SimpleNamespace(**{**_NO_USAGE, **data})
    for name in ("input_tokens_details", "output_tokens_details"):
        details = getattr(usage, name)
        setattr(usage, name, SimpleNamespace(**details) if details else None)
    usage.request_usage_entries = [_usage(entry) for entry in usage.request_usage_entries]
    return usage


def _difference(full: Mapping[str, Any], known: Mapping[str, Any]) -> JsonDict:
    """The fields in which `full` differs from `known`, by parts where both have parts."""
    out: JsonDict = {}
    for name, value in full.items():
        other = known.get(name)
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            parts = _difference(value, other)
            if parts:
                out[name] = parts
        elif name not in known or value != other:
            out[name] = value
    out.update({name: None for name, other in known.items() if name not in full and other not in ("", {})})
    return out


def _merged(known: Mapping[str, Any], stored: Mapping[str, Any]) -> JsonDict:
    """Undo `_difference`."""
    out = dict(known)
    for name, value in stored.items():
        other = out.get(name)
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            out[name] = _merged(other, value)
        else:
            out[name] = value
    return {name: value for name, value in out.items() if value is not None}
