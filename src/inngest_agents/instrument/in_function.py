"""Function tools that are no step: they run in the Inngest function itself, and may use its `ctx.step`.

Such a tool runs from the top in each request, as the function does. What it has made steps of is remembered; their ids
begin with that of its call, so that concurrent calls don't take each other's.
"""

from __future__ import annotations

import inspect
from typing import Any

import inngest

from inngest_agents import _agents_sdk as sdk
from inngest_agents.budget import BudgetError
from inngest_agents.errors import UnsupportedError, is_memoized, message_of, qualified_name
from inngest_agents.journal import Journal
from inngest_agents.scope import current_scope, inside_call
from inngest_agents.stats.records import ErrorRecord, StepRecord


async def run_in_function(journal: Journal, label: str, function_tool: Any, context: Any, arguments: str) -> Any:
    """What the tool returns.

    Raises:
        Exception: what it raised.
    """
    from inngest_agents.steps import set_step  # which imports the tools

    if function_tool.timeout_seconds is not None:
        await _refuse_timeout(journal, function_tool)
    body, invoke_context = sdk.raw_body(function_tool), sdk.invoke_context(function_tool, context)

    async def call() -> Any:
        value = body(invoke_context, arguments)
        return await value if inspect.isawaitable(value) else value

    scope, error = current_scope(), None
    order = journal.next_order()
    try:
        with inside_call(label), set_step(journal.driver.step):
            return await journal.driver.run_in_function(call)
    except (inngest.NonRetriableError, inngest.RetryAfterError) as raised:
        error = ErrorRecord(qualified_name(raised), message_of(raised))
        if not is_memoized(raised) and not isinstance(raised, BudgetError):
            # They are not remembered, as they end the function wherever they are raised; the model cannot be told of
            # what is not there on a replay.
            await journal.fail(raised)
        raise
    except Exception as raised:
        error = ErrorRecord(qualified_name(raised), message_of(raised))
        raise
    finally:
        record = StepRecord(
            kind="tool",
            step_id=journal.step_id(label),
            name=function_tool.name,
            agent=scope.agent_name,
            path=scope.names,
            order=order,
            call_id=context.tool_call_id,
            error=error,
        )
        if not journal.driver.is_cut:
            journal.add_record(record)


async def _refuse_timeout(journal: Journal, function_tool: Any) -> None:
    error = UnsupportedError(
        f"tool {function_tool.name!r} has a timeout, and runs in no step (in_step=False), but again in each request: "
        "its time would begin anew each time. Take the tool's timeout away, and give one to what it waits for: "
        "get_step().wait_for_event(…, timeout=…)."
    )
    await journal.fail(error)
    raise error
