"""What the user may give as a function instead of a value: it runs once, in a step, and not once per replay.

Values (strings, booleans, lists of names) and the SDK's own defaults cost no step. Functions do:

| function of the user | its step | steps |
|---|---|---|
| `Agent.instructions`, `Agent.prompt`, `is_enabled` | "3 prepare triage" | one a turn for all of them |
| `RunConfig.session_input_callback` | "session input" | one a run with a session |
| `RunConfig.call_model_input_filter` | "3 input filter triage" | one a turn |
| `Agent.tool_use_behavior` | "2 tool use behavior" | one a turn with tool calls |
| `needs_approval` | "2.1 needs approval" | one a call; again when resumed |
| `on_approval` | "2.1 shell on approval" | one a call that needs it |
| `RunConfig.tool_error_formatter` | "2.1 lookup rejection text" | one a text; tried once |
| `failure_error_function`, `timeout_error_function` | "2.1 lookup error text" | one a failed call |
| `error_handlers` | "10 error handler max_turns" | one |
| `custom_data_extractor` | "2.1 lookup custom data" | one a call; none for MCP |
| `as_tool(input_builder=…)` | "2.1 research input" | one a call |
| `as_tool(custom_output_extractor=…)` | "2.1 research output" | one a call |
| `on_handoff`, hand-built `on_invoke_handoff` | "2.1 transfer_to_sales" | one a handoff |
| handoff `input_filter` | "2.1 transfer_to_sales input filter" | one a handoff |
| `handoff_history_mapper` | "2.1 transfer_to_sales history mapper" | one a handoff |

What is large is stored once: unchanged instructions and prompts as a marker, what a filter left alone as references.
A formatter is tried once because the SDK has a text of its own for one that fails; the extractor of an MCP server
runs in the step of the call. The first row is in `instrument.preparation`, the steps of failure texts and agent tools
are in `instrument.tools`, those of handoffs in `instrument.handoffs`, all others here. The engine retries each of them.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from agents import ToolsToFinalOutputResult
from agents.exceptions import UserError
from agents.run_config import ModelInputData
from agents.run_error_handlers import RunErrorHandlerResult

from inngest_agents import _agents_sdk as sdk
from inngest_agents.instrument._steps import run_step
from inngest_agents.instrument.items import decode_inputs, encode_inputs, snapshot
from inngest_agents.instrument.tools import tool_label, users_tool
from inngest_agents.memos import codec
from inngest_agents.request.step_request import StepScope
from inngest_agents.scope import current_journal, current_scope, nested_label

SAME: Final = {"$type": "same"}
"""Stored in place of a value that equals the one before."""


async def awaited(value: Any) -> Any:
    """What a function of the user gave, which may or may not be async."""
    return await value if inspect.isawaitable(value) else value


def is_wrong_use(error: Exception) -> bool:
    """Whether a function of the user broke a rule of the SDK, so that trying it again is no use."""
    return isinstance(error, UserError)


async def user_step(label: str, call: Callable[[], Any], *, name: str = "", **options: Any) -> Any:
    """Run a function of the user, which may or may not be async, in a step of its own."""
    journal = current_journal()
    assert journal is not None, "only called below a seam"

    async def run(_: StepScope) -> Any:
        return await awaited(call())

    return await run_step(journal, label, "other", run, name=name, is_final=is_wrong_use, **options)


@sdk.around(
    "agents.run_internal.turn_preparation",
    "maybe_filter_model_input",
    ("agent", "run_config", "context_wrapper", "input_items", "system_instructions"),
)
async def _filter_model_input(original: Callable[..., Any], *, agent: Any, run_config: Any, **kwargs: Any) -> Any:
    function = run_config.call_model_input_filter
    if current_journal() is None or function is None:
        return await original(agent=agent, run_config=run_config, **kwargs)
    scope = current_scope()

    async def filtered(payload: Any) -> Any:
        given = payload.model_data
        items, instructions = list(given.input), given.instructions
        before: list[Any] = []

        async def call() -> Any:
            before.extend(snapshot(items))
            made = await awaited(function(payload))
            if not isinstance(made, ModelInputData):
                raise UserError("call_model_input_filter must return a ModelInputData instance")
            return made

        def encode(made: Any) -> Any:
            same = made.instructions == instructions
            return {
                "input": encode_inputs(made.input, items, before),
                "instructions": SAME if same else codec.encode(made.instructions),
            }

        def decode(stored: Any) -> Any:
            same = stored["instructions"] == SAME
            return ModelInputData(
                input=decode_inputs(stored["input"], items),
                instructions=instructions if same else codec.decode(stored["instructions"]),
            )

        label = scope.repeated(f"{scope.turn + 1} input filter {agent.name}")
        return await user_step(label, call, encode=encode, decode=decode, context=kwargs["context_wrapper"])

    return await original(agent=agent, run_config=_with(run_config, call_model_input_filter=filtered), **kwargs)


@sdk.around(
    "agents.run_internal.session_persistence",
    "prepare_input_with_session",
    ("input", "session", "session_input_callback"),
)
async def _prepare_input(
    original: Callable[..., Any], input: Any, session: Any, session_input_callback: Any, *args: Any, **kwargs: Any
) -> Any:
    if current_journal() is None or session is None or not callable(session_input_callback):
        return await original(input, session, session_input_callback, *args, **kwargs)

    async def merged(history: list[Any], new: list[Any]) -> Any:
        items = [*history, *new]
        before: list[Any] = []

        async def call() -> Any:
            before.extend(snapshot(items))
            made = await awaited(session_input_callback(history, new))
            if not isinstance(made, list):
                raise UserError("Session input callback must return a list of input items.")
            return made

        return await user_step(
            current_scope().repeated("session input"),
            call,
            encode=lambda made: encode_inputs(made, items, before),
            decode=lambda stored: decode_inputs(stored, items),
            context=kwargs.get("wrapper"),
        )

    return await original(input, session, merged, *args, **kwargs)


def _with(config: Any, **changes: Any) -> Any:
    """A shallow copy of a `RunConfig` with some fields changed; its constructor does not run again."""
    made = copy.copy(config)
    for field, value in changes.items():
        setattr(made, field, value)
    return made


@sdk.around(
    "agents.run_internal.turn_resolution",
    "check_for_final_output_from_tools",
    ("agent", "tool_results", "context_wrapper"),
)
async def _final_output_from_tools(
    original: Callable[..., Any], agent: Any, tool_results: Any, context_wrapper: Any
) -> Any:
    behavior = agent.tool_use_behavior
    if current_journal() is None or not tool_results or isinstance(behavior, (str, dict)) or not callable(behavior):
        return await original(agent, tool_results, context_wrapper)

    def encode(made: Any) -> Any:
        for index, result in enumerate(tool_results):
            if made.final_output is not None and made.final_output is result.output:
                return {"final": made.is_final_output, "tool": index}
        return {"final": made.is_final_output, "output": codec.encode(made.final_output)}

    def decode(stored: Any) -> Any:
        output = tool_results[stored["tool"]].output if "tool" in stored else codec.decode(stored["output"])
        return ToolsToFinalOutputResult(is_final_output=stored["final"], final_output=output)

    scope = current_scope()
    label = scope.repeated(f"{scope.turn} tool use behavior")
    return await user_step(
        label,
        lambda: original(agent, tool_results, context_wrapper),
        name=agent.name,
        encode=encode,
        decode=decode,
        context=context_wrapper,
    )


@sdk.around("agents.util._approvals", "evaluate_needs_approval_setting", ("needs_approval_setting", "args", "strict"))
async def _needs_approval(original: Callable[..., Any], setting: Any, *args: Any, **kwargs: Any) -> Any:
    if current_journal() is None or isinstance(setting, bool) or not callable(setting):
        return await original(setting, *args, **kwargs)
    scope, call_id = current_scope(), str(args[-1])
    label = scope.repeated(f"{scope.places.get(call_id, call_id)} needs approval")
    return await user_step(label, lambda: original(setting, *args, **kwargs), context=args[0])


@sdk.around("agents.run_internal.tool_execution", "resolve_approval_status", ("tool_name", "call_id", "on_approval"))
async def _approval_status(original: Callable[..., Any], *, on_approval: Any = None, **kwargs: Any) -> Any:
    if current_journal() is None or on_approval is None:
        return await original(on_approval=on_approval, **kwargs)

    async def decide(context: Any, item: Any) -> Any:
        async def call() -> Any:
            decision = await awaited(on_approval(context, item))
            return dict(decision) if isinstance(decision, Mapping) else None

        label = current_scope().repeated(f"{tool_label(kwargs['tool_name'], kwargs['call_id'])} on approval")
        return await user_step(label, call, name=kwargs["tool_name"], context=context)

    return await original(on_approval=decide, **kwargs)


@sdk.around(
    "agents.run_internal.tool_execution", "resolve_approval_rejection_message", ("run_config", "tool_name", "call_id")
)
async def _rejection_text(original: Callable[..., Any], *, run_config: Any, **kwargs: Any) -> Any:
    return await original(run_config=_durable_formatter(run_config, "rejection text"), **kwargs)


@sdk.around(
    "agents.run_internal.turn_resolution",
    "_resolve_tool_not_found_message",
    ("run_config", "tool_name", "call_id"),
)
async def _not_found_text(original: Callable[..., Any], *, run_config: Any, **kwargs: Any) -> Any:
    return await original(run_config=_durable_formatter(run_config, "not found text"), **kwargs)


def _durable_formatter(run_config: Any, what: str) -> Any:
    formatter = run_config.tool_error_formatter
    if current_journal() is None or formatter is None:
        return run_config

    async def formatted(args: Any) -> Any:
        label = current_scope().repeated(f"{tool_label(args.tool_name, args.call_id)} {what}")
        # The SDK has a text of its own for a formatter that fails, so it is not worth a retry.
        return await user_step(
            label, lambda: formatter(args), name=args.tool_name, max_attempts=1, context=args.run_context
        )

    return _with(run_config, tool_error_formatter=formatted)


@sdk.around(
    "agents.run_internal.error_handlers", "resolve_run_error_handler_result", ("error_handlers", "error_kind", "error")
)
async def _error_handler(original: Callable[..., Any], *, error_handlers: Any, error_kind: Any, **kwargs: Any) -> Any:
    handler = error_handlers.get(error_kind) if error_handlers else None
    if current_journal() is None or handler is None:
        return await original(error_handlers=error_handlers, error_kind=error_kind, **kwargs)

    async def handled(given: Any) -> Any:
        scope = current_scope()
        return await user_step(
            scope.repeated(f"{scope.turn} error handler {error_kind}"),
            lambda: handler(given),
            context=given.context,
            encode=_encode_handler_result,
            decode=_decode_handler_result,
        )

    return await original(error_handlers={**error_handlers, error_kind: handled}, error_kind=error_kind, **kwargs)


def _encode_handler_result(made: Any) -> Any:
    if isinstance(made, RunErrorHandlerResult):
        return {"final_output": codec.encode(made.final_output), "include_in_history": made.include_in_history}
    return {"value": codec.encode(made)}


def _decode_handler_result(stored: Any) -> Any:
    if "value" in stored:
        return codec.decode(stored["value"])
    return RunErrorHandlerResult(codec.decode(stored["final_output"]), stored["include_in_history"])


@sdk.around("agents.util._custom_data", "maybe_extract_custom_data", ("extractor", "context"))
async def _custom_data(original: Callable[..., Any], extractor: Any, context: Any) -> Any:
    if current_journal() is None or extractor is None:
        return await original(extractor, context)
    call_id, name = str(context.raw_item.get("call_id")), context.tool.name
    label = current_scope().repeated(f"{tool_label(name, call_id)} custom data")
    wrapper = getattr(context, "tool_context", None) or context.run_context
    context = dataclasses.replace(context, tool=users_tool(context.tool))
    return await user_step(label, lambda: original(extractor, context), name=name, context=wrapper)


@sdk.around("agents.agent_tool_input", "resolve_agent_tool_input", ("params", "input_builder"))
async def _agent_tool_input(original: Callable[..., Any], *, input_builder: Any = None, **kwargs: Any) -> Any:
    if current_journal() is None or input_builder is None:
        return await original(input_builder=input_builder, **kwargs)

    def call() -> Awaitable[Any]:
        built: Awaitable[Any] = original(input_builder=input_builder, **kwargs)
        return built

    return await user_step(current_scope().repeated(f"{nested_label()} input"), call)
