"""Function tools: each call is a step around the tool's raw body.

The engine retries a body that raises. Only its final failure goes to the tool's `failure_error_function`, with the
original type and message, exactly as the SDK's own invoker does it. A timeout is enforced inside the step: outside
of it a waiting tool would be given up on one pass and answered from its memo on the next. An agent as a tool is no
step itself; the calls of its agent are, under a path that contains the tool call.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from agents import Usage
from agents.exceptions import AgentsException, ModelBehaviorError, ToolTimeoutError, UserError
from agents.tracing import FunctionSpanData, get_current_span

from inngest_agents import _agents_sdk as sdk
from inngest_agents.budget import BudgetError
from inngest_agents.errors import OutputTooLargeError
from inngest_agents.instrument._steps import run_step
from inngest_agents.instrument.admission import release_tool_call
from inngest_agents.instrument.in_function import run_in_function
from inngest_agents.journal import Journal
from inngest_agents.memos.response_codec import decode_usage
from inngest_agents.memos.usage_form import usage_in
from inngest_agents.request.step_request import StepScope
from inngest_agents.scope import current_journal, current_scope, nested_under
from inngest_agents.stats.records import StepKind


@sdk.around("agents.tool", "_invoke_function_tool_with_metadata", ("function_tool", "context", "arguments"))
async def _invoke(original: Callable[..., Any], *, function_tool: Any, context: Any, arguments: str) -> Any:
    journal = current_journal()
    if journal is None:
        return await original(function_tool=function_tool, context=context, arguments=arguments)
    label = tool_label(function_tool.name, context.tool_call_id)
    is_agent = sdk.is_agent_tool(function_tool)
    sdk.consume_default_failure(context)
    _admit_resumed(journal, label, context.tool_call_id)
    try:
        if is_agent:
            value = await _run_agent_in_time(journal, label, function_tool, context, arguments)
        elif not journal.options.for_tool(function_tool, function_tool.name).in_step:
            value = await run_in_function(journal, label, function_tool, context, arguments)
        else:
            value = await _step(journal, label, function_tool, context, arguments)
    except ToolTimeoutError:
        return await _timed_out(journal, label, function_tool, context)
    except BudgetError:
        raise  # it is the run that has used up its budget, not the tool that failed
    except Exception as error:
        if not sdk.handles_failures(function_tool):
            raise
        text, was_default = await _failure_text(journal, label, function_tool, context, error)
        if text is None:
            raise
        sdk.report_handled_error(function_tool, error, arguments, context)
        return sdk.InvocationResult(text, is_sdk_generated_error=was_default)
    finally:
        release_tool_call(journal, context.tool_call_id, is_agent=is_agent)
    return sdk.InvocationResult(value, is_sdk_generated_error=sdk.consume_default_failure(context))


def _admit_resumed(journal: Journal, label: str, call_id: str) -> None:
    """Check the budget for a call that no model has ordered in this run: it waited for an approval, and was resumed."""
    held = current_scope().held
    if journal.ledger is not None and call_id not in held and not journal.is_done(label):
        [held[call_id]] = journal.ledger.check_tool_calls(current_scope().agent_name)


class TimeLimit:
    """The time that an agent tool has."""

    def __init__(self) -> None:
        self.is_over = False
        self.left_to_do: list[Callable[[], Awaitable[Any]]] = []
        """What the step does that remembers that the time was over."""


_time_limit: contextvars.ContextVar[TimeLimit | None] = contextvars.ContextVar(
    "inngest_agents_time_limit", default=None
)


def current_time_limit() -> TimeLimit | None:
    """That of the agent tool around the caller, if it has one."""
    return _time_limit.get()


async def _run_agent_in_time(journal: Journal, label: str, function_tool: Any, context: Any, arguments: str) -> Any:
    """Run the agent of an agent tool within the tool's timeout, and remember it if the time was not enough.

    The steps of the agent that were done by then are remembered too; so without the memo a replay, which passes them in
    no time, would find that the agent was fast enough after all.
    """
    seconds = function_tool.timeout_seconds
    if seconds is None:
        return await _run_agent(journal, label, function_tool, context, arguments)
    timed_out = f"{label} timed out"
    limit = TimeLimit()
    if not journal.is_done(timed_out):
        token = _time_limit.set(limit)
        task = asyncio.ensure_future(_run_agent(journal, label, function_tool, context, arguments))
        _time_limit.reset(token)
        try:
            done, _ = await asyncio.wait((task,), timeout=seconds)
            limit.is_over = not done
        finally:
            task.cancel()
        if done:
            return task.result()
        await asyncio.wait((task,))
    else:
        _add_usage(journal, journal.step_id(label), context.usage)
        journal.take_abandoned(journal.step_id(label))

    async def call(_: StepScope) -> bool:
        for work in limit.left_to_do:
            await work()
        return True

    await run_step(journal, timed_out, "other", call, name=function_tool.name)
    raise ToolTimeoutError(tool_name=function_tool.name, timeout_seconds=seconds)


def _add_usage(journal: Journal, path: str, usage: Usage) -> None:
    """Add what the model calls of an agent have used that no replay asks for."""
    from inngest_agents.stats.memo import unpack

    for _, memo in journal.unused(f"{path}/"):
        if unpack(memo).kind == "model":
            usage.add(decode_usage(usage_in(memo["output"])))


async def _run_agent(journal: Journal, label: str, function_tool: Any, context: Any, arguments: str) -> Any:
    """Run the agent of an agent tool; what the user makes of its result is a step."""

    def durable(extractor: Any) -> Any:
        async def extract(result: Any) -> Any:
            async def call(_: StepScope) -> Any:
                return await _awaited(extractor(result))

            output = current_scope().repeated(f"{label} output")
            return await run_step(journal, output, "other", call, name=function_tool.name)

        return extract

    body = sdk.with_output_extractor(sdk.raw_body(function_tool), durable)
    with nested_under(label):
        return await body(sdk.invoke_context(function_tool, context), arguments)


async def _step(journal: Journal, label: str, function_tool: Any, context: Any, arguments: str) -> Any:
    body = sdk.raw_body(function_tool)
    invoke_context = sdk.invoke_context(function_tool, context)
    timeout = function_tool.timeout_seconds

    async def call(_: StepScope) -> Any:
        if timeout is None:
            return await _awaited(body(invoke_context, arguments))
        task = asyncio.ensure_future(_awaited(body(invoke_context, arguments)))
        done, _pending = await asyncio.wait((task,), timeout=timeout)
        if not done:
            task.cancel()
            await asyncio.wait((task,))
            raise ToolTimeoutError(tool_name=function_tool.name, timeout_seconds=timeout)
        return task.result()

    options, kind = journal.options.for_tool(function_tool, function_tool.name), _kind(function_tool)
    value = await run_step(
        journal,
        label,
        kind,
        call,
        name=function_tool.name,
        call_id=context.tool_call_id,
        extra=lambda: sdk.custom_data(context),
        restore=lambda data: sdk.set_custom_data(context, data),
        max_attempts=options.max_attempts,
        is_final=_mcp_is_final if kind == "mcp" else is_final,
        inputs=arguments,
        context=context,
        functions=(body,),
    )
    if kind == "mcp":
        _show_server(function_tool)
    return value


async def _awaited(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


def _kind(function_tool: Any) -> StepKind:
    return "mcp" if sdk.is_mcp_tool(function_tool) else "tool"


def _show_server(function_tool: Any) -> None:
    """Note the server of an MCP tool on the span of its call, as the call itself does."""
    span = get_current_span()
    if span is not None and isinstance(span.span_data, FunctionSpanData):
        span.span_data.mcp_data = {"server": sdk.mcp_server_name(function_tool)}


def is_final(error: Exception) -> bool:
    """Whether a tool's error can never go better: bad arguments from the model, or wrong use of the SDK.

    Tripwires and other errors of the SDK come out of nested runs, whose model calls are memoized or were billed.
    """
    return isinstance(error, (ModelBehaviorError, UserError)) or (
        isinstance(error, AgentsException) and not isinstance(error, ToolTimeoutError)
    )


def _mcp_is_final(error: Exception) -> bool:
    """Whether a failed call of an MCP tool can never go better. The SDK wraps transport errors in its own, too."""
    if isinstance(error, UserError):
        return "missing required parameters" in str(error)
    return isinstance(error, ModelBehaviorError)


_USERS_TOOL = "__durable_users_tool__"


def mark_copy(made: Any, tool: Any) -> Any:
    """Remember of which tool of the user `made` is a copy, for what the user gets to see of it."""
    made.__dict__[_USERS_TOOL] = tool
    return made


def users_tool(tool: Any) -> Any:
    """The user's own object of a tool that the SDK's loop has a copy of; anything else as it is."""
    state = getattr(tool, "__dict__", None)
    return state.get(_USERS_TOOL, tool) if isinstance(state, dict) else tool


def tool_label(name: str, call_id: str) -> str:
    """The label of a tool call's step: where it was ordered, and the tool. "2.1 lookup_order"."""
    place = current_scope().places.get(call_id)
    return f"{place} {name}" if place is not None else f"{name} {call_id}"


async def _failure_text(
    journal: Journal, label: str, function_tool: Any, context: Any, error: Exception
) -> tuple[Any, bool]:
    """The text that tells the model of a failure, and whether it is the SDK's default one.

    The user's own function for it is a step, so that it does not run again on each replay.
    """
    formatter = context.run_config.tool_error_formatter if context.run_config is not None else None

    async def make() -> tuple[Any, bool]:
        text = await sdk.failure_text(function_tool=function_tool, context=context, error=error)
        return text, sdk.consume_default_failure(context)

    step_label = f"{label} error text"
    # Of an agent as a tool, it was a step in the first versions: one that is remembered must be asked for.
    if sdk.uses_default_failure_text(function_tool) and formatter is None and not journal.is_done(step_label):
        text, was_default = await make()
        # The SDK's text only says to try again, which would end the same.
        return (f"{text} {error}" if isinstance(error, OutputTooLargeError) else text), was_default

    if not sdk.has_failure_function(function_tool, context):
        return None, False

    async def call(_: StepScope) -> Any:
        return list(await make())

    text, was_default = await run_step(journal, step_label, "other", call, name=function_tool.name, context=context)
    return text, was_default


@sdk.around("agents.tool", "maybe_invoke_function_tool_failure_error_function", ("function_tool", "context", "error"))
async def _cancellation_text(
    original: Callable[..., Any], *, function_tool: Any, context: Any, error: BaseException
) -> Any:
    """The text that tells the model that a tool was cancelled from within; the SDK's loop asks for it, not its invoker.

    The user's own function for it is a step, as for any other failure.
    """
    journal = current_journal()
    has_function = sdk.has_failure_function(function_tool, context)
    if journal is None or not has_function or not isinstance(error, asyncio.CancelledError):
        return await original(function_tool=function_tool, context=context, error=error)
    label = f"{tool_label(function_tool.name, context.tool_call_id)} error text"
    if sdk.uses_default_failure_text(function_tool) and not journal.is_done(label):  # see `_failure_text`
        return await original(function_tool=function_tool, context=context, error=error)

    async def call(_: StepScope) -> Any:
        return await original(function_tool=function_tool, context=context, error=error)

    return await run_step(journal, label, "other", call, name=function_tool.name, context=context)


async def _timed_out(journal: Journal, label: str, function_tool: Any, context: Any) -> Any:
    error = ToolTimeoutError(tool_name=function_tool.name, timeout_seconds=function_tool.timeout_seconds)
    if function_tool.timeout_behavior == "raise_exception":
        raise error from TimeoutError()  # as the SDK does
    make_text = function_tool.timeout_error_function
    if make_text is None:
        text = sdk.timeout_text(tool_name=function_tool.name, timeout_seconds=function_tool.timeout_seconds)
        return sdk.InvocationResult(text, is_sdk_generated_error=True)

    async def call(_: StepScope) -> Any:
        return await _awaited(make_text(context, error))

    text = await run_step(journal, f"{label} timeout text", "other", call, name=function_tool.name, context=context)
    return sdk.InvocationResult(text)
