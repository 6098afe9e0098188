"""Handoffs: the user's `on_handoff`, `input_filter` and history mapper are steps; the handoff itself needs none.

A handoff that `handoff()` made always leads to its agent, so a replay needs no memo for it. A hand-built one chooses
its agent in `on_invoke_handoff`; the choice is stored by the agent's name and found again among the agents that
handoffs lead to from there. If it is none of them (the function made it), the function runs again on each replay and
must choose an agent of the same name.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

from agents import Agent, Handoff
from agents.exceptions import ModelBehaviorError, UserError
from agents.handoffs import HandoffInputData

from inngest_agents import _agents_sdk as sdk
from inngest_agents.errors import DivergenceError
from inngest_agents.instrument._steps import run_step
from inngest_agents.instrument.dynamic import awaited, user_step
from inngest_agents.instrument.items import (
    decode_inputs,
    decode_run_items,
    encode_inputs,
    encode_run_items,
    place_of,
    snapshot,
)
from inngest_agents.instrument.tools import tool_label
from inngest_agents.journal import Journal
from inngest_agents.request.step_request import StepScope
from inngest_agents.scope import current_journal


@sdk.around(
    "agents.run_internal.turn_resolution",
    "execute_handoffs",
    (
        "public_agent",
        "original_input",
        "pre_step_items",
        "new_step_items",
        "run_handoffs",
        "hooks",
        "context_wrapper",
        "run_config",
        "server_manages_conversation",
        "nest_handoff_history_fn",
    ),
)
async def _execute_handoffs(
    original: Callable[..., Any], *, run_handoffs: Any, run_config: Any, hooks: Any, **kwargs: Any
) -> Any:
    journal = current_journal()
    if journal is None:
        return await original(run_handoffs=run_handoffs, run_config=run_config, hooks=hooks, **kwargs)
    asked = run_handoffs[0]
    label = tool_label(asked.handoff.tool_name, asked.tool_call.call_id)
    chosen = _Chosen(kwargs["public_agent"], None)
    handoff, config = copy.copy(asked.handoff), copy.copy(run_config)
    handoff.on_invoke_handoff = _durable_invocation(journal, label, asked, chosen)
    if _is_users(handoff.input_filter):
        handoff.input_filter = _durable_filter(label, handoff.input_filter, chosen)
    if _is_users(config.handoff_input_filter):
        config.handoff_input_filter = _durable_filter(label, config.handoff_input_filter, chosen)
    if _uses_mapper(handoff, config, kwargs):
        mapper = _DurableMapper(label, config.handoff_history_mapper, hooks, kwargs)
        config.handoff_history_mapper, hooks = mapper.mapped, mapper
    first = dataclasses.replace(asked, handoff=handoff)
    return await original(run_handoffs=[first, *run_handoffs[1:]], run_config=config, hooks=hooks, **kwargs)


@dataclasses.dataclass(slots=True)
class _Chosen:
    """The two agents of a handoff."""

    source: Any
    target: Any

    def reachable(self) -> dict[str, Any]:
        """The agents that handoffs lead to from either, by name."""
        found = _reachable(self.source)
        for name, agent in _reachable(self.target).items() if self.target is not None else ():
            found.setdefault(name, agent)
        return found


def _is_users(function: Any) -> bool:
    """Whether a function is the user's, and not one of the SDK's own, which are pure and need no step."""
    return callable(function) and str(getattr(function, "__module__", "")).partition(".")[0] != "agents"


def _reachable(agent: Any) -> dict[str, Any]:
    """The agents that handoffs lead to from `agent`, itself first, by name."""
    found: dict[str, Any] = {}
    waiting = [agent]
    while waiting:
        current = waiting.pop(0)
        if current is None or found.get(current.name) is not None:
            continue
        found[current.name] = current
        for item in current.handoffs:
            if isinstance(item, Agent):
                waiting.append(item)
            elif isinstance(item, Handoff):
                waiting.append(sdk.handoff_target(item))
    return found


def _durable_invocation(journal: Journal, label: str, asked: Any, chosen: _Chosen) -> Callable[..., Any]:
    handoff = asked.handoff
    target = sdk.handoff_target(handoff)
    invoke = handoff.on_invoke_handoff
    has_function = target is None or sdk.has_on_handoff(handoff)

    async def invocation(context: Any, arguments: str | None = None) -> Any:
        if not has_function:
            chosen.target = await invoke(context, arguments)
            return chosen.target
        made: list[Any] = []

        async def call(_: StepScope) -> Any:
            made.append(await awaited(invoke(context, arguments)))
            return {"agent": getattr(made[0], "name", None), "known": _known(made[0])}

        def _known(agent: Any) -> bool:
            return agent is target or _reachable(chosen.source).get(str(getattr(agent, "name", ""))) is agent

        stored = await run_step(
            journal,
            label,
            "handoff",
            call,
            name=handoff.tool_name,
            call_id=asked.tool_call.call_id,
            is_final=lambda error: isinstance(error, (ModelBehaviorError, UserError)),
            inputs=arguments,
            context=context,
        )
        if made:
            chosen.target = made[0]
        elif stored["known"]:
            found = target if target is not None and target.name == stored["agent"] else None
            chosen.target = found or _reachable(chosen.source).get(str(stored["agent"]))
        if chosen.target is None:
            chosen.target = await awaited(invoke(context, arguments))
        if getattr(chosen.target, "name", None) != stored["agent"]:
            found_name = getattr(chosen.target, "name", None)
            raise DivergenceError(journal.step_id(label), f"the agent {stored['agent']!r}", f"the agent {found_name!r}")
        return chosen.target

    return invocation


def _durable_filter(label: str, function: Any, chosen: _Chosen) -> Callable[..., Any]:
    async def filtered(data: HandoffInputData) -> Any:
        given = [*data.pre_handoff_items, *data.new_items]
        history = data.input_history if isinstance(data.input_history, tuple) else ()
        before: list[list[Any]] = []

        async def call() -> Any:
            before.extend((snapshot(given), snapshot(history)))
            made = await awaited(function(data))
            if not isinstance(made, HandoffInputData):
                raise UserError(f"Invalid input filter result: {made}")
            return made

        def encode(made: Any) -> Any:
            return _encode_data(made, given, history, before)

        def decode(stored: Any) -> Any:
            return _decode_data(stored, data, given, history, chosen)

        return await user_step(f"{label} input filter", call, encode=encode, decode=decode, context=data.run_context)

    return filtered


def _encode_data(made: HandoffInputData, given: list[Any], history: Any, before: list[list[Any]]) -> dict[str, Any]:
    encoded: dict[str, Any] = {
        "history": encode_inputs(made.input_history, history, before[1]),
        "pre": encode_run_items(made.pre_handoff_items, given, before[0]),
        "new": encode_run_items(made.new_items, given, before[0]),
    }
    if made.input_items is not None:
        encoded["input"] = encode_run_items(made.input_items, given, before[0])
    owned = sdk.history_owned_items(made)
    if owned:
        places: dict[int, Any] = {id(item): [index] for index, item in enumerate(_items_of(made))}
        places |= {id(item): index for index, item in enumerate(given)}
        encoded["owned"] = [
            [places.get(id(item.run_item), place_of(item.run_item, given)), item.input_index, item.digest]
            for item in owned
        ]
    return encoded


def _decode_data(stored: Any, data: HandoffInputData, given: list[Any], history: Any, chosen: _Chosen) -> Any:
    agents = chosen.reachable()
    inputs = decode_inputs(stored["history"], history)
    made = HandoffInputData(
        input_history=tuple(inputs) if isinstance(inputs, list) else inputs,
        pre_handoff_items=decode_run_items(stored["pre"], given, agents),
        new_items=decode_run_items(stored["new"], given, agents),
        run_context=data.run_context,
        input_items=decode_run_items(stored["input"], given, agents) if "input" in stored else None,
    )
    if "owned" in stored:
        owned = [
            sdk.HistoryOwnedItem(
                _owned_item(place, given, made),
                index,
                digest,
                inputs[index] if isinstance(inputs, list) and index < len(inputs) else None,
            )
            for place, index, digest in stored["owned"]
        ]
        sdk.set_history_owned_items(made, tuple(owned))
    return made


def _items_of(made: HandoffInputData) -> list[Any]:
    return [*made.pre_handoff_items, *made.new_items]


def _owned_item(place: Any, given: list[Any], made: HandoffInputData) -> Any:
    """A run item by its place among those that a filter got, or, in a list, among those that it gave."""
    if isinstance(place, list):
        return _items_of(made)[place[0]]
    return given[place] if place is not None else None


def _uses_mapper(handoff: Any, config: Any, kwargs: Any) -> bool:
    nests = handoff.nest_handoff_history if handoff.nest_handoff_history is not None else config.nest_handoff_history
    return (
        bool(nests)
        and _is_users(config.handoff_history_mapper)
        and handoff.input_filter is None
        and config.handoff_input_filter is None
        and not kwargs.get("server_manages_conversation")
        and kwargs.get("nest_handoff_history_fn") is None
    )


class _DurableMapper:
    """The user's history mapper as a step, although the SDK calls it without await.

    The handoff hooks are awaited just before, when all that the mapper will get is known; so this stands in for the
    hooks, runs the step after them and keeps what it gave. The list of new items is the one that the SDK extends.
    """

    def __init__(self, label: str, mapper: Any, hooks: Any, kwargs: dict[str, Any]) -> None:
        self._label, self._mapper, self._hooks, self._kwargs = label, mapper, hooks, kwargs
        self._answer: list[Any] = []

    async def on_handoff(self, context: Any, from_agent: Any, to_agent: Any) -> None:
        await self._hooks.on_handoff(context=context, from_agent=from_agent, to_agent=to_agent)
        transcript: list[Any] = []
        given = self._kwargs["original_input"]

        def capture(items: Any) -> list[Any]:
            transcript.extend(items)
            return []

        data = HandoffInputData(
            input_history=tuple(given) if isinstance(given, list) else given,
            pre_handoff_items=tuple(self._kwargs["pre_step_items"]),
            new_items=tuple(self._kwargs["new_step_items"]),
            run_context=context,
        )
        sdk.nest_history(data, history_mapper=capture)
        before: list[Any] = []

        def call() -> Any:
            before.extend(snapshot(transcript))
            return self._mapper(transcript)

        self._answer = await user_step(
            f"{self._label} history mapper",
            call,
            encode=lambda made: encode_inputs(list(made), transcript, before),
            decode=lambda stored: decode_inputs(stored, transcript),
            context=context,
        )

    def mapped(self, _transcript: Any) -> list[Any]:
        """What the mapper gave."""
        return self._answer
