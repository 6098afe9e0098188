"""The record of a step as it is kept in the step's memo: without what the memo tells anyway.

A run's state grows with each memo and is sent with each request, so nothing is stored twice. What lies in the step's id
(the name of the tool, the agent of a model call, the way to a nested agent) and in the model's response (its usage, its
items) is derived from there by `_derived`, and only where a record differs from it is that stored; a null stands for a
field that the record does not have. So `unpack(memo_of(record))` is the record again, whatever `_derived` guesses.

What each model call has besides is in a list `model` (see `model_metadata`).

The place in the order and the id of the tool call are not stored: who asks for the step knows them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any, Final

from inngest_agents.memos import item_form, memo_head
from inngest_agents.memos.memo_head import Head
from inngest_agents.memos.usage_form import usage_in
from inngest_agents.stats._compact import JsonDict
from inngest_agents.stats.answers import count_items, usage_from_response
from inngest_agents.stats.model_metadata import ModelMetadata, as_list, metadata_in, metadata_of, requested_in
from inngest_agents.stats.records import NO_PRICE, TOOL_KINDS, ErrorRecord, StepKind, StepRecord

_ASKER_KNOWS: Final = ("order", "call_id")
_ABOUT_ITSELF: Final = ("step", "model", "record", "v", "asked")
_ABOUT_ANSWER: Final = ("tokens", "usage", "raw_usage", "response_id", "id")
_PRICE_WORDS: Final = ("version", "usd")
_MODEL_LABEL: Final = re.compile(r"\d+ model ")
_TOOL_LABEL: Final = re.compile(r"\d+\.\d+ ")
_NO_USAGE: Final[Mapping[str, Any]] = {
    "requests": 0,
    "input_tokens": 0,
    "output_tokens": 0,
    "total_tokens": 0,
    "input_tokens_details": None,
    "output_tokens_details": None,
    "request_usage_entries": (),
}


def memo_of(record: StepRecord, output: Any, asked: str = "") -> JsonDict:
    """What a step stores of itself: its output, the head (see `memo_head`), and what else its record tells.

    Args:
        record: what the step did and used.
        output: what it gave, as JSON.
        asked: the digest of what it was asked for.
    """
    full = record.to_dict()
    del full["v"]  # the memo has the version of all that is in it
    for name in _ASKER_KNOWS:
        full.pop(name, None)
    head = Head(full.pop("step_id"), asked, full.pop("started_at", 0.0), full.pop("duration", 0.0))
    text = memo_head.write(head)
    if text is None:
        full["at"] = [head.started_at, head.duration]
        text = memo_head.write(Head(head.step_id, asked))
    metadata = metadata_of(record)
    known = _derived(record.kind, record.step_id, output, metadata)
    known["kind"] = _kind_in(record.step_id)
    stored = _difference(full, known)
    memo: JsonDict = {"output": output, "step": text}
    if metadata is not None:
        memo["model"] = as_list(metadata)
    if stored:
        memo["record"] = stored
    return memo


def unpack(memo: Mapping[str, Any], asked: Mapping[str, Any] | None = None) -> StepRecord:
    """Read the record of a memo.

    Args:
        memo: what the step stored, of this version or an earlier one.
        asked: fields that whoever asks for the step knows.

    Raises:
        KeyError: it is no memo of a durable step.
        ValueError: it is of a newer version.
    """
    head = memo_head.read(memo)
    if head is None:
        raise KeyError("step")
    stored = _long(memo.get("record") or {})
    if _is_whole(memo):
        return StepRecord.from_dict(stored)
    stored.pop("at", None)
    kind = stored.get("kind") or _kind_in(head.step_id)
    metadata = metadata_in(memo)
    known = _derived(kind, head.step_id, memo.get("output"), metadata or _metadata_before(kind, stored))
    own = {name: value for name, value in (asked or {}).items() if name in _ASKER_KNOWS}
    told = {"kind": kind, "step_id": head.step_id, "started_at": head.started_at, "duration": head.duration}
    return StepRecord.from_dict({**own, **told, **_merged(known, stored)})


def without_answer(memo: Mapping[str, Any]) -> JsonDict:
    """What `unpack` reads of a memo, which is cheaper than to do that: for those who may never want the record."""
    kept = {name: memo[name] for name in _ABOUT_ITSELF if name in memo}
    kept["output"] = _read_of_answer(memo.get("output"))
    return kept


def _read_of_answer(output: Any) -> JsonDict | None:
    """What `_derived` reads of a model's answer; those of tools may look like one, or like anything."""
    if not isinstance(output, Mapping):
        return None
    kept = {name: output[name] for name in _ABOUT_ANSWER if name in output}
    items, event = output.get("output"), output.get("event")
    if isinstance(items, list):
        kept["output"] = [{"type": item_form.type_of(item)} for item in items]
    if isinstance(event, Mapping):
        kept["event"] = {"response": _read_of_answer(event.get("response")) or {}}
    return kept


def identity(memo: Mapping[str, Any], head: Head | None = None) -> tuple[str, str, str] | None:
    """The kind, the agent and the name of the step that stored `memo`; None if it is no memo of a durable step.

    Args:
        memo: what the step stored.
        head: its head, where that was read already.
    """
    head = head or memo_head.read(memo)
    if head is None:
        return None
    record: Mapping[str, Any] = memo.get("record") or {}
    kind = str(record.get("kind") or _kind_in(head.step_id))
    named = record if _is_whole(memo) else {**_named(kind, head.step_id, requested_in(memo)), **record}
    return kind, named.get("agent") or "", named.get("name") or ""


def step_id_of(memo: Mapping[str, Any]) -> str:
    """The id of the step that stored `memo`; "" if it is no memo of a durable step."""
    head = memo_head.read(memo)
    return "" if head is None else head.step_id


def answer_of(memo: Mapping[str, Any]) -> Any:
    """What the step that stored `memo` returned, as JSON."""
    return memo.get("output")


def failed_step(step_id: str, error_type: str, message: str) -> StepRecord | None:
    """The record of a step that failed for good, which has no memo; None if its id is that of no model or tool call.

    All kinds of tools have ids of one form, so the kind is "tool".
    """
    kind = _kind_in(step_id)
    if kind is None:
        return None
    named, way = _named(kind, step_id), tuple(step_id.split("/")[:-1])
    path = way if len(way) > 1 else ()
    return StepRecord(kind=kind, step_id=step_id, path=path, error=ErrorRecord(error_type, message), **named)


def _is_whole(memo: Mapping[str, Any]) -> bool:
    """Whether the record is stored whole, as version 1 did."""
    return "step" not in memo and "at" not in memo["record"]


def _kind_in(step_id: str) -> StepKind | None:
    """What the label at the end of an id tells of the kind: all kinds of tools have ids of one form."""
    label = step_id.rpartition("/")[2]
    if _MODEL_LABEL.match(label):
        return "model"
    return "tool" if _TOOL_LABEL.match(label) else None


def _metadata_before(kind: str | None, stored: Mapping[str, Any]) -> ModelMetadata | None:
    """The same of a memo of an earlier version, which had a price at all times, and all of it in its record."""
    if kind != "model":
        return None
    price = (stored.get("usage") or {}).get("price", {})
    is_priced = price is None or price.get("usd") is not None
    return ModelMetadata(stored.get("name") or "", price={"usd": None} if is_priced else {})


def _long(stored: Mapping[str, Any]) -> JsonDict:
    """A record's fields as `StepRecord.from_dict` reads them: version 3 had a price's version and dollars in a list."""
    out = dict(stored)
    if "price" in out:
        out["usage"] = {**out.get("usage", {}), "price": dict(zip(_PRICE_WORDS, out.pop("price"), strict=False))}
    return out


def _named(kind: str | None, step_id: str, requested: str = "") -> JsonDict:
    """What the label at the end of an id tells, e.g. "1 model shop" or "3.1 lookup_order"."""
    what = step_id.rpartition("/")[2].partition(" ")[2]
    if kind == "model":
        named = {"agent": what.removeprefix("model ")}
        return {"name": requested, **named} if requested else named
    if kind in TOOL_KINDS:
        # A run has the name of its first agent, where it was given none.
        return {"name": what, "agent": step_id.partition("/")[0]}
    return {"name": what} if what else {}


def _derived(kind: str | None, step_id: str, output: Any, metadata: ModelMetadata | None) -> JsonDict:
    """The fields of a record, as `StepRecord.to_dict` writes them, as far as its id and its step's memo tell."""
    known = _named(kind, step_id, metadata.requested if metadata is not None else "")
    way = step_id.split("/")[:-1]
    if len(way) > 1:
        known["path"] = way
    used = usage_in(output) if metadata is not None and isinstance(output, Mapping) else None
    if metadata is not None and used is not None:
        event = output.get("event")
        response = event.get("response", {}) if isinstance(event, Mapping) else output
        known["counts"] = _counts(response.get("output") or ())
        known["response_id"] = response.get("response_id") or response.get("id") or ""
        if metadata.finish_reasons:
            known["finish_reasons"] = list(metadata.finish_reasons)
        answer: Any = SimpleNamespace(usage=_usage(used), raw_usage=output.get("raw_usage"))
        usage = usage_from_response(
            answer, model=metadata.answered, requested_model=metadata.requested, provider=metadata.provider
        )
        known["usage"] = usage.to_dict()
        if metadata.price is not None:
            known["usage"]["price"] = _price(metadata.price, usage.billed_model)
    return known


def _counts(items: Iterable[Any]) -> JsonDict:
    return count_items({"type": item_form.type_of(item)} for item in items).to_dict()


def _price(price: Mapping[str, Any], model: str) -> JsonDict:
    """A price as it mostly is: known, by the table's entry of the model; or unknown, as there is no such entry."""
    known = {"source": "litellm", **price}
    return {**known, "model": model} if "usd" in price else {**known, "reason": NO_PRICE.format(model=model)}


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
