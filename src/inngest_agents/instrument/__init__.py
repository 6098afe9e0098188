"""One file for each seam of the SDK's loop. `install` wraps them all; outside of a durable run they do nothing."""

from __future__ import annotations


def install() -> None:
    """Wrap the seams; importing a seam's module does it.

    Raises:
        ImportError: the installed Agents SDK lacks a seam; the message names it and the tested versions.
    """
    from inngest_agents.instrument import (  # noqa: F401
        computer,
        dynamic,
        grouping,
        guardrails,
        handoffs,
        invocations,
        local_tools,
        logs,
        mcp,
        model,
        preparation,
        runs,
        sandbox,
        streaming,
        tools,
        tracing,
    )
