"""Lists of input items and of run items as JSON that refers to what the run has already.

A filter gets all of a conversation and gives most of it back. To store that again with each turn would make the state
grow with the square of the turns; so an item that came in is stored as its place, and only new or changed ones in full.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from agents import Agent
from agents import items as run_items

from inngest_agents import codec


def snapshot(items: Sequence[Any]) -> list[Any]:
    """What the items are now, to be compared with what a function of the user makes of them."""
    return [codec.encode(_raw(item)) for item in items]


def _raw(item: Any) -> Any:
    return item.raw_item if hasattr(item, "raw_item") else item


def encode_inputs(made: Any, given: Sequence[Any], before: Sequence[Any]) -> Any:
    """The input items `made` as JSON: [first, last] for a run of unchanged ones of `given`, {"item": …} for others.

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
        encoded = codec.encode(item)
        place = places.get(id(item))
        if place is None or before[place] != encoded:
            place = next((index for index, known in enumerate(before) if known == encoded), None)
        last = parts[-1] if parts and isinstance(parts[-1], list) else None
        if place is None:
            parts.append({"item": encoded})
        elif last is not None and last[1] + 1 == place:
            last[1] = place
        else:
            parts.append([place, place])
    return parts


def decode_inputs(stored: Any, given: Sequence[Any]) -> Any:
    """The input items that `encode_inputs` stored."""
    if isinstance(stored, dict):
        return codec.decode(stored["value"])
    made: list[Any] = []
    for part in stored:
        if isinstance(part, list):
            made.extend(given[part[0] : part[1] + 1])
        else:
            made.append(codec.decode(part["item"]))
    return made


def encode_run_items(made: Sequence[Any], given: Sequence[Any], before: Sequence[Any]) -> list[Any]:
    """Run items as JSON: the place of one of `given` (with its raw item if that was changed), or its fields in full."""
    places = {id(item): index for index, item in enumerate(given)}
    parts: list[Any] = []
    for item in made:
        place = places.get(id(item))
        if place is None:
            parts.append(_encode_fields(item))
            continue
        raw = codec.encode(item.raw_item)
        parts.append(place if raw == before[place] else {"place": place, "raw_item": raw})
    return parts


def decode_run_items(stored: Sequence[Any], given: Sequence[Any], agents: Mapping[str, Agent[Any]]) -> tuple[Any, ...]:
    """The run items that `encode_run_items` stored.

    Raises:
        ValueError: an item of an agent that cannot be reached from the agents of the handoff.
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
        if agent_name not in agents:
            raise ValueError(
                f"a handoff's input filter made an item of the agent {agent_name!r}, which cannot be reached by "
                "handoffs from the agents of this handoff; give the item one of their agents"
            )
        fields[name] = agents[agent_name]
    return cls(**fields)


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
