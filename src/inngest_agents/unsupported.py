"""Refuses what cannot be made durable, before the first step, with what to do instead."""

from __future__ import annotations

from typing import Any

from agents import Agent, RunState
from agents.agent import AgentBase

from inngest_agents.errors import UnsupportedError, non_retriable


def refuse_unsupported(starting_agent: Any, given: Any) -> None:
    """Look at what a run is to start with.

    Raises:
        UnsupportedError: it cannot be made durable.
        TypeError: there is no agent or no input, or they are in each other's place; not retried.
    """
    _check_given(starting_agent, given)
    if isinstance(given, RunState) or isinstance(starting_agent, Agent) or not isinstance(starting_agent, AgentBase):
        return
    raise UnsupportedError(
        f"{type(starting_agent).__name__} {starting_agent.name!r} cannot be made durable: it speaks over a live "
        "connection, and its calls are no requests with an answer each that could be remembered. Run it with its own "
        "runner outside of Inngest functions, and let its tools send events to functions with durable agents."
    )


def _check_given(starting_agent: Any, given: Any) -> None:
    """The plain runner fails on these too, with an AttributeError about something inside of it."""
    if not (isinstance(given, (str, RunState)) or hasattr(given, "copy")):  # what it does to a list, and to an odd dict
        raise non_retriable(
            TypeError(f"the input must be the user's message, a list of input items or a RunState, not {_shown(given)}")
        )
    if not isinstance(given, RunState) and (starting_agent is None or isinstance(starting_agent, str)):
        told = f"the first argument must be the agent to start with, not {_shown(starting_agent)}"
        raise non_retriable(TypeError(told))


def _shown(given: Any) -> str:
    return repr(given) if given is None else f"an object of type {type(given).__name__}"
