"""Refuses what cannot be made durable, before the first step, with what to do instead."""

from __future__ import annotations

from typing import Any

from agents import Agent, RunState
from agents.agent import AgentBase

from inngest_agents.errors import UnsupportedError


def refuse_unsupported(starting_agent: Any, given: Any) -> None:
    """Look at what a run is to start with.

    Raises:
        UnsupportedError: it cannot be made durable.
    """
    if isinstance(given, RunState) or isinstance(starting_agent, Agent) or not isinstance(starting_agent, AgentBase):
        return
    raise UnsupportedError(
        f"{type(starting_agent).__name__} {starting_agent.name!r} cannot be made durable: it speaks over a live "
        "connection, and its calls are no requests with an answer each that could be remembered. Run it with its own "
        "runner outside of Inngest functions, and let its tools send events to functions with durable agents."
    )
