"""Lists of input items and of run items as JSON that refers to what the run has already.

A filter gets all of a conversation and gives most of it back. To store that again with each turn would make the state
grow with the square of the turns; so an item that came in is stored as its place, and only new or changed ones in full.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agents import Agent
from agents import items as run_items

from inngest_agents import _agents_sdk as sdk
from inngest_agents.memos import codec


def snapshot(items: Sequence[Any]) -> list[Any]:
    """What the items are now, to be compared with what a function of the user makes of them."""
    return [codec.encode(_raw(item)) for item in items]


def _raw(item: Any) -> Any:
    return item.raw_item if hasattr(item, "raw_item") else item


def encode_inputs(made: Any, given: Sequence[Any], before: Sequence[Any]) -> Any:
    """The input items `made` as JSON.

    A run of unchanged ones of `given` is [first, last], one that was changed in place is {"place": …, "item": …}, or
    {"dropped": …, "item": …} where it is not among the `made` ones, and a new one is {"item": …}.

    Args:
        made: what the user's function gave: a list or tuple of input items; anything else is stored as it is.
        given: what it got.
        before: the `snapshot` of `given` from before the call.
    """
    if not isinstance(made, (list, tuple)):
        return {"value": codec.encode(made)}
    places = {id(item): index for index, item in enumerate(given)}
    parts: list[Any] = []
    for item in made:
        encoded, place = codec.encode(item), places.get(id(item))
        if place is not None and before[place] != encoded and type(item) is dict:
            parts.append({"place": place, "item": encoded})
            continue
        if place is None or before[place] != encoded:
            place = next((index for index, known in enumerate(before) if known == encoded), None)
        last = parts[-1] if parts and isinstance(parts[-1], list) else None
        if place is None:
            parts.append({"item": encoded})
        elif last is not None and last[1] + 1 == place:
            last[1] = place
        else:
            parts.append([place, place])
    return parts + _changed_and_dropped(made, given, before)


def _changed_and_dropped(made: Sequence[Any], given: Sequence[Any], before: Sequence[Any]) -> list[Any]:
    """What was changed in place and left out: the run still holds it, and shows it to a later call."""
    kept = set(map(id, made))
    dropped = [(place, item) for place, item in enumerate(given) if id(item) not in kept and type(item) is dict]
    now = [(place, codec.encode(item)) for place, item in dropped]
    return [{"dropped": place, "item": encoded} for place, encoded in now if before[place] != encoded]


def decode_inputs(stored: Any, given: Sequence[Any]) -> Any:
    """The input items that `encode_inputs` stored; what was changed in place is changed in `given`, too."""
    if isinstance(stored, dict):
        return codec.decode(stored["value"])
    made: list[Any] = []
    for part in stored:
        if isinstance(part, list):
            made.extend(given[part[0] : part[1] + 1])
        elif "place" in part:
            made.append(_changed(given[part["place"]], part["item"]))
        elif "dropped" in part:
            _changed(given[part["dropped"]], part["item"])
        else:
            made.append(codec.decode(part["item"]))
    return made


def _changed(item: Any, stored: Any) -> Any:
    """The same item with what it holds now: the SDK tells by the object which item it has sent."""
    now = codec.decode(stored)
    item.clear()
    item.update(now)
    return item


def encode_run_items(made: Sequence[Any], given: Sequence[Any], before: Sequence[Any]) -> list[Any]:
    """Run items as JSON: the place of one of `given` (with its raw item if that was changed), or its fields in full."""
    places = {id(item): index for index, item in enumerate(given)}
    parts: list[Any] = []
    for item in made:
        place = places.get(id(item))
        if place is None:
            copied = {"copy_of": place_of(item, given), "sent_as": _place_by(sdk.sent_key, item, given)}
            parts.append(_encode_fields(item) | {key: found for key, found in copied.items() if found is not None})
            continue
        raw = codec.encode(item.raw_item)
        parts.append(place if raw == before[place] else {"place": place, "raw_item": raw})
    return parts


def place_of(item: Any, given: Sequence[Any]) -> int | None:
    """The place of a run item, or of the one that it was copied from, among the `given` ones."""
    found = next((place for place, known in enumerate(given) if known is item), None)
    return found if found is not None else _place_by(sdk.occurrence_key, item, given)


def _place_by(key_of: Callable[[Any], Any], item: Any, given: Sequence[Any]) -> int | None:
    key = key_of(item)
    return next((place for place, known in enumerate(given) if key is not None and key_of(known) == key), None)


def decode_run_items(stored: Sequence[Any], given: Sequence[Any], agents: Mapping[str, Agent[Any]]) -> tuple[Any, ...]:
    """The run items that `encode_run_items` stored.

    Args:
        stored: the items as JSON.
        given: what the user's function got.
        agents: by name. An agent that the function made only for an item of its own comes back with nothing but its
            name, which is all that items are told apart by.

    Raises:
        ValueError: an item of a class that this version of the SDK does not have.
    """
    return tuple(_decode_item(part, given, agents) for part in stored)


def _decode_item(part: Any, given: Sequence[Any], agents: Mapping[str, Agent[Any]]) -> Any:
    if isinstance(part, int):
        return given[part]
    if "place" in part:
        item = given[part["place"]]
        item.raw_item = codec.decode(part["raw_item"])  # the filter changed it in place, too
        return item
    cls = getattr(run_items, part["class"], None)
    if cls is None:
        raise ValueError(f"a stored run item is of the unknown class {part['class']!r}")
    fields = {name: codec.decode(value) for name, value in part["fields"].items()}
    for name, agent_name in part["agents"].items():
        fields[name] = agents.get(agent_name) or Agent(name=agent_name)
    item = cls(**fields)
    if "copy_of" in part:
        sdk.mark_as_copy(item, given[part["copy_of"]])
    if "sent_as" in part:
        sdk.mark_as_sent(item, given[part["sent_as"]])
    return item


def _encode_fields(item: Any) -> dict[str, Any]:
    encoded: dict[str, Any] = {"class": type(item).__name__, "fields": {}, "agents": {}}
    for field in dataclasses.fields(item):
        if not field.init:
            continue
        value = getattr(item, field.name)
        if isinstance(value, Agent):
            encoded["agents"][field.name] = value.name
        else:
            encoded["fields"][field.name] = codec.encode(value)
    return encoded
