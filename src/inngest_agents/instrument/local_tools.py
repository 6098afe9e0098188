"""Shell, apply-patch and custom tools, and the user's answers to hosted MCP servers.

| what of the user | its step | steps |
|---|---|---|
| `ShellTool.executor`, `LocalShellTool.executor` | "2.1 shell" | one a call |
| `CustomTool.on_invoke_tool` | "2.1 sql" | one a call |
| `ApplyPatchTool.editor` | "2.1 apply_patch update_file notes.md" | one an operation |
| `HostedMCPTool.on_approval_request` | "2 approve delete_file mcpr_1" | one a request |

The SDK turns what an executor or editor raises into a text for the model, so the steps go around the user's own
methods: the engine retries what they raise, and only the final failure becomes a text. Hosted tools (web search, code
interpreter, tool search, …) run at the provider, in the step of the model call. Computers: see `instrument.computer`.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

from inngest_agents import _agents_sdk as sdk
from inngest_agents.errors import UnsupportedError
from inngest_agents.instrument._steps import run_step
from inngest_agents.instrument.admission import release_tool_call
from inngest_agents.instrument.dynamic import awaited, user_step
from inngest_agents.instrument.tools import is_final, mark_copy, tool_label
from inngest_agents.request.step_request import StepScope
from inngest_agents.scope import current_journal, current_scope
from inngest_agents.stats.records import StepKind


async def tool_step(
    label: str,
    kind: StepKind,
    call: Callable[[], Any],
    *,
    tool: Any,
    call_id: str,
    context: Any,
    inputs: Any = None,
    name: str | None = None,
) -> Any:
    """Run one action of a local tool as a step, with the options of that tool.

    Raises:
        Exception: what the last attempt raised.
    """
    journal = current_journal()
    assert journal is not None, "only called below a seam"

    options = journal.options.for_tool(tool, tool.name)
    if not options.in_step:
        error = UnsupportedError(f"in_step=False is for a FunctionTool, and {tool.name!r} is a {type(tool).__name__}")
        await journal.fail(error)
        raise error

    async def run(_: StepScope) -> Any:
        return await awaited(call())

    try:
        return await run_step(
            journal,
            label,
            kind,
            run,
            name=name or tool.name,
            call_id=call_id,
            max_attempts=options.max_attempts,
            is_final=is_final,
            inputs=inputs,
            context=context,
        )
    finally:
        release_tool_call(journal, call_id)


def _id_of(tool_call: Any) -> str:
    found = tool_call.get("call_id") if isinstance(tool_call, dict) else getattr(tool_call, "call_id", None)
    return str(found)


def with_tool(call: Any, field: str, **changes: Any) -> Any:
    """The order of a tool call with a shallow copy of its tool, whose `changes` ask for steps."""
    original = getattr(call, field)
    tool = mark_copy(copy.copy(original), original)
    for name, value in changes.items():
        setattr(tool, name, value)
    return dataclasses.replace(call, **{field: tool})


def _durable_executor(tool: Any, tool_call: Any) -> Callable[[Any], Any]:
    executor, call_id = tool.executor, _id_of(tool_call)

    async def execute(request: Any) -> Any:
        return await tool_step(
            tool_label(tool.name, call_id),
            "shell",
            lambda: executor(request),
            tool=tool,
            call_id=call_id,
            context=request.ctx_wrapper,
        )

    return execute


@sdk.around("agents.run_internal.tool_actions", "ShellAction.execute", ("call", "context_wrapper"))
async def _shell(original: Callable[..., Any], *, call: Any, **kwargs: Any) -> Any:
    if current_journal() is not None and call.shell_tool.executor is not None:
        executor = _durable_executor(call.shell_tool, call.tool_call)
        call = with_tool(call, "shell_tool", executor=executor)
    return await original(call=call, **kwargs)


@sdk.around("agents.run_internal.tool_actions", "LocalShellAction.execute", ("call", "context_wrapper"))
async def _local_shell(original: Callable[..., Any], *, call: Any, **kwargs: Any) -> Any:
    if current_journal() is not None:
        executor = _durable_executor(call.local_shell_tool, call.tool_call)
        call = with_tool(call, "local_shell_tool", executor=executor)
    return await original(call=call, **kwargs)


@sdk.around("agents.run_internal.tool_actions", "CustomToolAction.execute", ("call", "context_wrapper"))
async def _custom(original: Callable[..., Any], *, call: Any, **kwargs: Any) -> Any:
    if current_journal() is not None:
        tool, call_id = call.custom_tool, _id_of(call.tool_call)

        async def invoke(context: Any, given: str) -> Any:
            return await tool_step(
                tool_label(tool.name, call_id),
                "tool",
                lambda: tool.on_invoke_tool(context, given),
                tool=tool,
                call_id=call_id,
                context=context,
                inputs=given,
            )

        call = with_tool(call, "custom_tool", on_invoke_tool=invoke)
    return await original(call=call, **kwargs)


class _DurableEditor:
    """An editor whose operations are steps."""

    def __init__(self, tool: Any, call_id: str, context: Any) -> None:
        self._tool, self._call_id, self._context = tool, call_id, context

    async def create_file(self, operation: Any) -> Any:
        return await self._edit("create_file", operation)

    async def update_file(self, operation: Any) -> Any:
        return await self._edit("update_file", operation)

    async def delete_file(self, operation: Any) -> Any:
        return await self._edit("delete_file", operation)

    async def _edit(self, method: str, operation: Any) -> Any:
        label = f"{tool_label(self._tool.name, self._call_id)} {method} {operation.path}"
        return await tool_step(
            current_scope().repeated(label),
            "patch",
            lambda: getattr(self._tool.editor, method)(operation),
            tool=self._tool,
            call_id=self._call_id,
            context=self._context,
        )


@sdk.around("agents.run_internal.tool_actions", "ApplyPatchAction.execute", ("call", "context_wrapper"))
async def _apply_patch(original: Callable[..., Any], *, call: Any, context_wrapper: Any, **kwargs: Any) -> Any:
    if current_journal() is not None:
        editor = _DurableEditor(call.apply_patch_tool, sdk.apply_patch_call_id(call.tool_call), context_wrapper)
        call = with_tool(call, "apply_patch_tool", editor=editor)
    return await original(call=call, context_wrapper=context_wrapper, **kwargs)


@sdk.around(
    "agents.run_internal.tool_planning", "execute_mcp_approval_requests", ("approval_requests", "context_wrapper")
)
async def _hosted_approvals(original: Callable[..., Any], *, approval_requests: Any, **kwargs: Any) -> Any:
    if current_journal() is not None:
        approval_requests = [_durable_approval(request) for request in approval_requests]
    return await original(approval_requests=approval_requests, **kwargs)


def _durable_approval(request: Any) -> Any:
    callback = request.mcp_tool.on_approval_request
    if callback is None:
        return request

    async def decide(asked: Any) -> Any:
        item, scope = asked.data, current_scope()
        label = scope.repeated(f"{scope.turn} approve {item.name} {item.id}")
        return await user_step(label, lambda: callback(asked), name=item.name, context=asked.ctx_wrapper)

    return with_tool(request, "mcp_tool", on_approval_request=decide)
