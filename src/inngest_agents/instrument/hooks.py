"""Hooks: each event that the user's class listens to is a step, so it is told once and not once per replay.

`RunHooks` are replaced by a stand-in where a run gets them. `AgentHooks` are read from `agent.hooks` all over the SDK;
so that attribute gives a stand-in while a durable run has the say, and the user's own hooks at any other time. A method
that the user did not override costs nothing.

A hook gets the SDK's own objects. What it changes in the user's context is carried (see `inngest_agents.context`), and
so is what it changes in the input or the response of a model. What it changes in the agent itself is not: a later
request starts with the agent as the code builds it, so such a change is warned about.
"""

from __future__ import annotations

import functools
import inspect
import logging
import weakref
from typing import Any, Final

from agents.lifecycle import AgentHooksBase, RunHooksBase

from inngest_agents import _agents_sdk as sdk
from inngest_agents.instrument._stand_ins import stand_in
from inngest_agents.instrument._steps import run_step
from inngest_agents.instrument.tools import is_final, tool_label, users_tool
from inngest_agents.journal import Journal
from inngest_agents.memos import codec, response_codec
from inngest_agents.request.step_request import StepScope
from inngest_agents.scope import current_journal, current_scope

logger = logging.getLogger("inngest_agents")

_ORIGINAL: Final = "__durable_hooks__"
RUN_EVENTS: Final = (
    "on_llm_start",
    "on_llm_end",
    "on_agent_start",
    "on_agent_end",
    "on_handoff",
    "on_tool_start",
    "on_tool_end",
)
AGENT_EVENTS: Final = ("on_llm_start", "on_llm_end", "on_start", "on_end", "on_handoff", "on_tool_start", "on_tool_end")

_stand_ins: weakref.WeakKeyDictionary[Journal, dict[int, tuple[Any, Any]]] = weakref.WeakKeyDictionary()


def durable_hooks(journal: Journal, hooks: Any) -> Any:
    """The hooks with a step around each event that they listen to; None and what is no hooks come back as they are."""
    base: type[Any]
    if isinstance(hooks, RunHooksBase):
        base, events = RunHooksBase, RUN_EVENTS
    elif isinstance(hooks, AgentHooksBase):
        base, events = AgentHooksBase, AGENT_EVENTS
    else:
        return hooks
    if _ORIGINAL in vars(type(hooks)):
        return hooks
    known = _stand_ins.setdefault(journal, {})
    if id(hooks) not in known:
        heard = [event for event in events if _overrides(hooks, base, event)]
        members = {event: _durable_event(hooks, base, event) for event in heard}
        # The first part of the pair keeps the original alive, so that its id stays its own.
        known[id(hooks)] = (hooks, stand_in(hooks, {_ORIGINAL: hooks, **members}) if heard else hooks)
    return known[id(hooks)][1]


def _overrides(hooks: Any, base: type[Any], event: str) -> bool:
    method = getattr(hooks, event, None)
    return method is not None and getattr(method, "__func__", method) is not getattr(base, event)


def _durable_event(hooks: Any, base: type[Any], event: str) -> Any:
    listener = getattr(hooks, event)
    of_agent = base is AgentHooksBase
    names = list(inspect.signature(getattr(base, event)).parameters)[1:]

    @functools.wraps(listener)
    async def tell(*args: Any, **kwargs: Any) -> None:
        journal = current_journal()
        if journal is None:
            await _awaited(listener(*args, **kwargs))
            return
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        given.setdefault("agent", given.get("from_agent"))
        carried = _CARRIED.get(event, _Carried)(given)
        label = _label(event, of_agent, given)

        async def call(_: StepScope) -> None:
            agent, before = given["agent"], _shape(given["agent"])
            told = {name: users_tool(value) for name, value in kwargs.items()}
            await _awaited(listener(*(users_tool(value) for value in args), **told))
            if _shape(agent) != before:
                _warn_of_changed_agent(event, agent)

        await run_step(
            journal,
            current_scope().repeated(label),
            "hook",
            call,
            name=event,
            call_id=_call_id(given),
            extra=carried.changes,
            restore=carried.restore,
            is_final=is_final,
            context=given["context"],
        )

    return staticmethod(tell)


def _label(event: str, of_agent: bool, given: dict[str, Any]) -> str:
    scope = current_scope()
    if event in {"on_tool_start", "on_tool_end"}:
        call_id = _call_id(given)
        where = tool_label(given["tool"].name, call_id) if call_id else f"{scope.turn} {given['tool'].name}"
        return f"{where} {given['agent'].name}.{event}" if of_agent else f"{where} {event}"
    # The turn of an agent's start begins after it has been told.
    turn = scope.turn + 1 if event in {"on_agent_start", "on_start"} else scope.turn
    if event == "on_handoff":
        sender, receiver = given.get("from_agent") or given["source"], given.get("to_agent") or given["agent"]
        return f"{turn} {sender.name}.{event} {receiver.name}" if of_agent else f"{turn} {event} {receiver.name}"
    return f"{turn} {given['agent'].name}.{event}" if of_agent else f"{turn} {event} {given['agent'].name}"


def _call_id(given: dict[str, Any]) -> str:
    return getattr(given["context"], "tool_call_id", "") if "tool" in given else ""


class _Carried:
    """What a hook changes in its arguments in place, so that a replay can do the same: nothing."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.given = given

    def changes(self) -> dict[str, Any] | None:
        """JSON for the changes, if there are any."""
        return None

    def restore(self, changes: dict[str, Any]) -> None:
        """Make the changes again."""


class _CarriedInput(_Carried):
    """The input of a model call: what the SDK sends is the list that `on_llm_start` was given."""

    def __init__(self, given: dict[str, Any]) -> None:
        super().__init__(given)
        self._before = codec.encode(given["input_items"])

    def changes(self) -> dict[str, Any] | None:
        after = codec.encode(self.given["input_items"])
        return {"input_items": after} if after != self._before else None

    def restore(self, changes: dict[str, Any]) -> None:
        self.given["input_items"][:] = codec.decode(changes["input_items"])


class _CarriedResponse(_Carried):
    """The response of a model: the SDK goes on with the object that `on_llm_end` was given."""

    def __init__(self, given: dict[str, Any]) -> None:
        super().__init__(given)
        self._before = response_codec.encode_response(given["response"])

    def changes(self) -> dict[str, Any] | None:
        after = response_codec.encode_response(self.given["response"])
        return {"response": after} if after != self._before else None

    def restore(self, changes: dict[str, Any]) -> None:
        response, changed = self.given["response"], response_codec.decode_response(changes["response"])
        for item, new in zip(response.output, changed.output, strict=False):
            # The SDK may hold the items already, so they must stay the objects that they are.
            if type(item) is type(new) and hasattr(item, "__dict__"):
                vars(item).update(vars(new))
        kept = len(response.output) == len(changed.output)
        vars(response).update({**vars(changed), "output": response.output})
        if not kept:
            response.output[:] = changed.output


_CARRIED: Final[dict[str, type[_Carried]]] = {"on_llm_start": _CarriedInput, "on_llm_end": _CarriedResponse}


def _shape(agent: Any) -> list[Any]:
    """What an agent consists of, by identity; lists by their items."""
    values = {name: agent.__dict__.get(name) for name in agent.__dataclass_fields__}
    return [
        (name, [id(item) for item in value] if isinstance(value, list) else id(value)) for name, value in values.items()
    ]


def _warn_of_changed_agent(event: str, agent: Any) -> None:
    logger.warning(
        "%s changed the agent %r in place; a durable run does not carry such a change into its next request, which "
        "starts with the agent as your code builds it. Use is_enabled of tools and handoffs, or dynamic instructions.",
        event,
        agent.name,
    )


async def _awaited(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


def _shown_hooks(hooks: Any) -> Any:
    journal = current_journal()
    return hooks if journal is None or hooks is None else durable_hooks(journal, hooks)


def _own_hooks(hooks: Any) -> Any:
    return vars(type(hooks)).get(_ORIGINAL, hooks)


sdk.show_agent_hooks_as(shown=_shown_hooks, own=_own_hooks)
