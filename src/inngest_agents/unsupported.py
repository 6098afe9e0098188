"""Refuses what cannot be made durable, before the first step, with what to do instead."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from agents import Agent, Handoff, RunState

from inngest_agents import _agents_sdk as sdk
from inngest_agents.errors import UnsupportedError

_SANDBOX = (
    "{what}: a sandbox is a live session (files, processes, ports) that the SDK prepares, snapshots and cleans up "
    "between turns, in the memory of one process; its operations are no calls that could be remembered one by one. "
    "Run the sandbox agent with plain Runner.run inside one step of its own (inngest_agents.durable), or give the work "
    "to function tools or a shell tool, which are durable."
)


def refuse_unsupported(starting_agent: Any, given: Any, run_config: Any) -> None:
    """Look at everything a run can reach before it starts.

    Raises:
        UnsupportedError: something of it cannot be made durable.
    """
    sandbox = run_config.get("sandbox") if isinstance(run_config, dict) else getattr(run_config, "sandbox", None)
    if sandbox is not None:
        raise UnsupportedError(_SANDBOX.format(what="RunConfig(sandbox=…) cannot be made durable"))
    first = sdk.agent_of_state(given) if isinstance(given, RunState) else None
    for agent in _reachable(first or starting_agent):
        if sdk.is_sandbox_agent(agent):
            raise UnsupportedError(_SANDBOX.format(what=f"the sandbox agent {agent.name!r} cannot be made durable"))


def _reachable(agent: Any) -> Iterator[Agent[Any]]:
    """The agents that a run can come to, through handoffs and agents as tools; circular graphs are fine."""
    waiting, seen = [agent], set[int]()
    while waiting:
        found = waiting.pop()
        if not isinstance(found, Agent) or id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        waiting += [sdk.handoff_target(item) if isinstance(item, Handoff) else item for item in found.handoffs]
        waiting += [sdk.agent_of_tool(tool) for tool in found.tools]
