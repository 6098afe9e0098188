"""Durable runs of the OpenAI Agents SDK on Inngest."""

from inngest_agents.budget import Budget, BudgetExceeded
from inngest_agents.errors import ContextConflictError, DivergenceError, UnsupportedError
from inngest_agents.journal import idempotency_key
from inngest_agents.options import DurableOptions, ToolOptions, tool_options
from inngest_agents.result import DurableRunResult
from inngest_agents.runner import DurableRunner
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
    "RealtimeSink",
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
