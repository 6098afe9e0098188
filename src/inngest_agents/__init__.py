"""Durable runs of the OpenAI Agents SDK on Inngest."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inngest_agents.budget import Budget, BudgetExceeded
    from inngest_agents.errors import (
        ContextConflictError,
        DivergenceError,
        OutputTooLargeError,
        SandboxLostError,
        UnsupportedError,
    )
    from inngest_agents.options import DurableOptions, ToolOptions, tool_options
    from inngest_agents.result import DurableRunResult
    from inngest_agents.runner import DurableRunner
    from inngest_agents.scope import idempotency_key
    from inngest_agents.sinks import RealtimeSink, is_replayed
    from inngest_agents.steps import FinalizedRun, as_step, durable, finalize_run, get_step, set_step
    from inngest_agents.streamed import DurableRunResultStreaming

__all__ = [
    "Budget",
    "BudgetExceeded",
    "ContextConflictError",
    "DivergenceError",
    "DurableOptions",
    "DurableRunResult",
    "DurableRunResultStreaming",
    "DurableRunner",
    "FinalizedRun",
    "OutputTooLargeError",
    "RealtimeSink",
    "SandboxLostError",
    "ToolOptions",
    "UnsupportedError",
    "as_step",
    "durable",
    "finalize_run",
    "get_step",
    "idempotency_key",
    "is_replayed",
    "set_step",
    "tool_options",
]

# The SDKs take seconds to import, and the command line, the embedded engine and its pytest plugin need neither: each
# public name is imported when it is first used.
_WHERE = {
    "Budget": "inngest_agents.budget",
    "BudgetExceeded": "inngest_agents.budget",
    "ContextConflictError": "inngest_agents.errors",
    "DivergenceError": "inngest_agents.errors",
    "DurableOptions": "inngest_agents.options",
    "DurableRunResult": "inngest_agents.result",
    "DurableRunResultStreaming": "inngest_agents.streamed",
    "DurableRunner": "inngest_agents.runner",
    "FinalizedRun": "inngest_agents.steps",
    "OutputTooLargeError": "inngest_agents.errors",
    "RealtimeSink": "inngest_agents.sinks",
    "SandboxLostError": "inngest_agents.errors",
    "ToolOptions": "inngest_agents.options",
    "UnsupportedError": "inngest_agents.errors",
    "as_step": "inngest_agents.steps",
    "durable": "inngest_agents.steps",
    "finalize_run": "inngest_agents.steps",
    "get_step": "inngest_agents.steps",
    "idempotency_key": "inngest_agents.scope",
    "is_replayed": "inngest_agents.sinks",
    "set_step": "inngest_agents.steps",
    "tool_options": "inngest_agents.options",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
