"""What a turn begins with: instructions, prompt, and the tools and handoffs that are enabled.

Where any of them is a function of the user, all of a turn are asked together, in one step at the turn's start. So
`is_enabled` of a tool, which the SDK asks twice a turn, cannot flip between the two. A turn that a resumed run goes
on with asks for the enabled tools and handoffs only, in a step "1 resume triage".
"""

from __future__ import annotations

import contextvars
import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

from agents import Agent, FunctionTool, Handoff, handoff

from inngest_agents import _agents_sdk as sdk
from inngest_agents.errors import DivergenceError
from inngest_agents.instrument.dynamic import SAME, awaited, user_step
from inngest_agents.journal import Journal
from inngest_agents.memos import codec
from inngest_agents.scope import Scope, current_journal, current_scope


@dataclasses.dataclass(slots=True)
class Prepared:
    """What the user's functions said for one turn of one agent."""

    agent: Any
    tools: list[Any]
    """The tools whose `is_enabled` is a function."""
    handoffs: list[Any]
    enabled_tools: list[bool]
    enabled_handoffs: list[bool]
    texts: dict[str, Any]
    """"instructions" and "prompt", where those are functions; each is taken out when the SDK asks for it."""

    def covers(self, agent: Any) -> bool:
        """Whether it answers for `agent` as it is now."""
        return (
            self.agent is agent
            and _same_objects(self.tools, _dynamic_tools(agent))
            and _same_objects(self.handoffs, _dynamic_handoffs(agent))
        )

    def tool_enabled(self, tool: Any) -> bool:
        """Whether a tool is enabled in this turn."""
        for known, enabled in zip(self.tools, self.enabled_tools, strict=True):
            if known is tool:
                return enabled
        return bool(tool.is_enabled)

    def handoff_enabled(self, item: Any) -> bool:
        """Whether a handoff is enabled in this turn."""
        for known, enabled in zip(self.handoffs, self.enabled_handoffs, strict=True):
            if known is item:
                return enabled
        return bool(item.is_enabled)


def _same_objects(first: list[Any], second: list[Any]) -> bool:
    return len(first) == len(second) and all(a is b for a, b in zip(first, second, strict=True))


def _dynamic_tools(agent: Any) -> list[Any]:
    return [tool for tool in agent.tools if isinstance(tool, FunctionTool) and not isinstance(tool.is_enabled, bool)]


def _dynamic_handoffs(agent: Any) -> list[Any]:
    found = getattr(agent, "handoffs", ())
    return [item for item in found if isinstance(item, Handoff) and not isinstance(item.is_enabled, bool)]


def _dynamic_texts(agent: Any) -> dict[str, str]:
    """The texts of an agent that are functions, and the method that asks for each."""
    texts = {}
    # With another number of parameters the SDK raises; it does so by itself, without a step.
    if callable(agent.instructions) and len(inspect.signature(agent.instructions).parameters) == 2:
        texts["instructions"] = "get_system_prompt"
    if callable(agent.prompt):
        texts["prompt"] = "get_prompt"
    return texts


async def _prepare(journal: Journal, agent: Any, context: Any, *, resuming: bool = False) -> Prepared:
    """Ask all functions of the user that a turn begins with, in one step; no step if there are none."""
    scope = current_scope()
    tools, handoffs = _dynamic_tools(agent), _dynamic_handoffs(agent)
    texts = {} if resuming else _dynamic_texts(agent)
    prepared = scope.prepared = Prepared(agent, tools, handoffs, [], [], {})
    if not (tools or handoffs or texts):
        return prepared

    async def ask() -> dict[str, Any]:
        public = sdk.public_agent(agent)
        return {
            "tools": await _ask_enabled(tools, context, public),
            "texts": dict(
                zip(
                    texts,
                    await sdk.gather_with_cancel(*(getattr(agent, method)(context) for method in texts.values())),
                    strict=True,
                )
            ),
            "handoffs": await _ask_enabled(handoffs, context, agent),
        }

    label = scope.repeated(f"{scope.turn + 1} {'resume' if resuming else 'prepare'} {agent.name}")
    answers = await user_step(
        label,
        ask,
        name=agent.name,
        context=context,
        encode=lambda value: _encode_answers(value, scope, agent, tools, handoffs),
        decode=lambda value: _decode_answers(value, scope, agent),
    )
    step_id = journal.step_id(label)
    prepared.enabled_tools = _flags(journal, step_id, [tool.name for tool in tools], answers["tools"])
    prepared.enabled_handoffs = _flags(journal, step_id, [item.tool_name for item in handoffs], answers["handoffs"])
    prepared.texts = answers["texts"]
    return prepared


async def _ask_enabled(things: list[Any], context: Any, agent: Any) -> list[bool]:
    async def ask(thing: Any) -> bool:
        return bool(await awaited(thing.is_enabled(context, agent)))

    return list(await sdk.gather_with_cancel(*(ask(thing) for thing in things)))


def _encode_answers(value: dict[str, Any], scope: Scope, agent: Any, tools: Any, handoffs: Any) -> dict[str, Any]:
    encoded: dict[str, Any] = {}
    if tools:
        encoded["tools"] = [[tool.name, flag] for tool, flag in zip(tools, value["tools"], strict=True)]
    if handoffs:
        encoded["handoffs"] = [[item.tool_name, flag] for item, flag in zip(handoffs, value["handoffs"], strict=True)]
    for key, text in value["texts"].items():
        made = codec.encode(text)
        known = scope.previous.get(f"{key} {agent.name}")
        encoded.setdefault("texts", {})[key] = SAME if known == [made] else made
    return encoded


def _decode_answers(value: dict[str, Any], scope: Scope, agent: Any) -> dict[str, Any]:
    texts = {}
    for key, stored in value.get("texts", {}).items():
        place = f"{key} {agent.name}"
        if stored != SAME:
            scope.previous[place] = [stored]
        texts[key] = codec.decode(scope.previous[place][0])
    return {"tools": value.get("tools", []), "handoffs": value.get("handoffs", []), "texts": texts}


def _flags(journal: Journal, step_id: str, names: list[str], stored: list[list[Any]]) -> list[bool]:
    """The stored answers, in the order of the things that are asked about now."""
    if [name for name, _ in stored] == names:
        return [flag for _, flag in stored]
    if journal.options.divergence == "error":
        raise DivergenceError(step_id, f"{[name for name, _ in stored]}", f"{names}")
    known = dict(stored)
    return [known.get(name, True) for name in names]


async def _prepared(agent: Any, context: Any) -> Prepared:
    """The answers of the turn under way; a resumed turn asks for them when it needs them."""
    prepared = current_scope().prepared
    if prepared is not None and prepared.covers(agent):
        assert isinstance(prepared, Prepared)
        return prepared
    journal = current_journal()
    assert journal is not None
    return await _prepare(journal, agent, context, resuming=True)


@sdk.around("agents.run_internal.turn_preparation", "get_all_tools", ("agent", "context_wrapper"))
async def _turn_tools(original: Callable[..., Any], agent: Any, context_wrapper: Any) -> Any:
    journal = current_journal()
    if journal is not None:
        await _prepare(journal, agent, context_wrapper)
    return await original(agent, context_wrapper)


_stand_ins: contextvars.ContextVar[dict[int, Any] | None] = contextvars.ContextVar("stand_ins", default=None)


@sdk.around("agents.agent", "AgentBase.get_all_tools", ("self", "run_context"))
async def _all_tools(original: Callable[..., Any], self: Any, run_context: Any) -> Any:
    if current_journal() is None:
        return await original(self, run_context)
    prepared = await _prepared(self, run_context)
    if not prepared.tools and not prepared.handoffs:
        return await original(self, run_context)
    stand_ins = {
        id(tool): sdk.stand_in(tool, is_enabled=enabled)
        for tool, enabled in zip(prepared.tools, prepared.enabled_tools, strict=True)
    }
    token = _stand_ins.set(stand_ins)
    try:
        with sdk.mcp_handoff_snapshot(self, _enabled_handoffs(self, prepared)):
            found = await original(self, run_context)
    finally:
        _stand_ins.reset(token)
    real = {id(stand_in): tool for tool, stand_in in zip(prepared.tools, stand_ins.values(), strict=True)}
    return [real.get(id(tool), tool) for tool in found]


@sdk.around("agents.run_internal.agent_tool_configuration", "snapshot_agent_tools", ("agent",))
def _snapshot_tools(original: Callable[..., Any], agent: Any) -> Any:
    tools, stand_ins = original(agent), _stand_ins.get()
    return tools if not stand_ins else tuple(stand_ins.get(id(tool), tool) for tool in tools)


@sdk.around("agents.run_internal.tool_execution", "resolve_enabled_function_tools", ("agent", "context_wrapper"))
async def _enabled_tools(original: Callable[..., Any], agent: Any, context_wrapper: Any) -> Any:
    if current_journal() is None or not _dynamic_tools(agent):
        return await original(agent, context_wrapper)
    prepared = await _prepared(agent, context_wrapper)
    return [tool for tool in agent.tools if isinstance(tool, FunctionTool) and prepared.tool_enabled(tool)]


@sdk.around("agents.run_internal.turn_preparation", "get_handoffs", ("agent", "context_wrapper"))
async def _handoffs(original: Callable[..., Any], agent: Any, context_wrapper: Any) -> Any:
    if current_journal() is None or not _dynamic_handoffs(agent):
        return await original(agent, context_wrapper)
    return _enabled_handoffs(agent, await _prepared(agent, context_wrapper))


def _enabled_handoffs(agent: Any, prepared: Prepared) -> list[Any]:
    known = [item for item in getattr(agent, "handoffs", ()) if isinstance(item, (Handoff, Agent))]
    handoffs = [item if isinstance(item, Handoff) else handoff(item) for item in known]
    return [item for item in handoffs if prepared.handoff_enabled(item)]


@sdk.around("agents.agent", "Agent.get_system_prompt", ("self", "run_context"))
async def _system_prompt(original: Callable[..., Any], self: Any, run_context: Any) -> Any:
    texts = _texts(self)
    return texts.pop("instructions") if "instructions" in texts else await original(self, run_context)


@sdk.around("agents.agent", "Agent.get_prompt", ("self", "run_context"))
async def _prompt(original: Callable[..., Any], self: Any, run_context: Any) -> Any:
    texts = _texts(self)
    return texts.pop("prompt") if "prompt" in texts else await original(self, run_context)


def _texts(agent: Any) -> dict[str, Any]:
    prepared = current_scope().prepared if current_journal() is not None else None
    return prepared.texts if prepared is not None and prepared.agent is agent else {}
