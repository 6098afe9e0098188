"""What the user may give as a function instead of a value: it runs once, in a step, and not once per replay.

Values (strings, booleans, lists of names) and the SDK's own defaults cost no step. Functions do:

| function of the user | its step | steps |
|---|---|---|
| `Agent.instructions`, `Agent.prompt`, `is_enabled` | "3 prepare triage" | one a turn for all of them |
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
A formatter is tried once because the SDK has a text of its own for one that fails; the extractor of an MCP server runs in
the step of the call. `instrument.tools` and `instrument.handoffs` have the steps of failure texts and of handoffs.

All that a turn asks for before its model call is asked together, at the turn's start; so `is_enabled` of a tool,
which the SDK asks twice a turn, cannot flip between the two. Each of these steps is retried by the engine.
"""

from __future__ import annotations

import contextvars
import copy
import dataclasses
import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from agents import Agent, FunctionTool, Handoff, ToolsToFinalOutputResult, handoff
from agents.exceptions import UserError
from agents.run_config import ModelInputData
from agents.run_error_handlers import RunErrorHandlerResult

from inngest_agents import _agents_sdk as sdk
from inngest_agents import codec
from inngest_agents.errors import DivergenceError
from inngest_agents.instrument._steps import run_step
from inngest_agents.instrument.items import decode_inputs, encode_inputs, snapshot
from inngest_agents.instrument.tools import tool_label
from inngest_agents.journal import Journal, Scope, StepScope, current_journal, current_scope, nested_label

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


@dataclasses.dataclass(slots=True)
class Prepared:
    """What the user's functions said for one turn of one agent."""

    agent: Any
    tools: list[Any]
    """The tools whose `is_enabled` is a function."""
    handoffs: list[Any]
    enabled_tools: list[bool]
    enabled_handoffs: list[bool]
    texts: dict[str, Any]
    """"instructions" and "prompt", where those are functions; each is taken out when the SDK asks for it."""

    def covers(self, agent: Any) -> bool:
        """Whether it answers for `agent` as it is now."""
        return (
            self.agent is agent
            and _same_objects(self.tools, _dynamic_tools(agent))
            and _same_objects(self.handoffs, _dynamic_handoffs(agent))
        )

    def tool_enabled(self, tool: Any) -> bool:
        """Whether a tool is enabled in this turn."""
        for known, enabled in zip(self.tools, self.enabled_tools, strict=True):
            if known is tool:
                return enabled
        return bool(tool.is_enabled)

    def handoff_enabled(self, item: Any) -> bool:
        """Whether a handoff is enabled in this turn."""
        for known, enabled in zip(self.handoffs, self.enabled_handoffs, strict=True):
            if known is item:
                return enabled
        return bool(item.is_enabled)


def _same_objects(first: list[Any], second: list[Any]) -> bool:
    return len(first) == len(second) and all(a is b for a, b in zip(first, second, strict=True))


def _dynamic_tools(agent: Any) -> list[Any]:
    return [tool for tool in agent.tools if isinstance(tool, FunctionTool) and not isinstance(tool.is_enabled, bool)]


def _dynamic_handoffs(agent: Any) -> list[Any]:
    found = getattr(agent, "handoffs", ())
    return [item for item in found if isinstance(item, Handoff) and not isinstance(item.is_enabled, bool)]


def _dynamic_texts(agent: Any) -> dict[str, str]:
    """The texts of an agent that are functions, and the method that asks for each."""
    texts = {}
    # With another number of parameters the SDK raises; it does so by itself, without a step.
    if callable(agent.instructions) and len(inspect.signature(agent.instructions).parameters) == 2:
        texts["instructions"] = "get_system_prompt"
    if callable(agent.prompt):
        texts["prompt"] = "get_prompt"
    return texts


async def _prepare(journal: Journal, agent: Any, context: Any, *, resuming: bool = False) -> Prepared:
    """Ask all functions of the user that a turn begins with, in one step; no step if there are none."""
    scope = current_scope()
    tools, handoffs = _dynamic_tools(agent), _dynamic_handoffs(agent)
    texts = {} if resuming else _dynamic_texts(agent)
    prepared = scope.prepared = Prepared(agent, tools, handoffs, [], [], {})
    if not (tools or handoffs or texts):
        return prepared

    async def ask() -> dict[str, Any]:
        public = sdk.public_agent(agent)
        return {
            "tools": await _ask_enabled(tools, context, public),
            "texts": dict(
                zip(
                    texts,
                    await sdk.gather_with_cancel(*(getattr(agent, method)(context) for method in texts.values())),
                    strict=True,
                )
            ),
            "handoffs": await _ask_enabled(handoffs, context, agent),
        }

    label = scope.repeated(f"{scope.turn + 1} {'resume' if resuming else 'prepare'} {agent.name}")
    answers = await user_step(
        label,
        ask,
        name=agent.name,
        context=context,
        encode=lambda value: _encode_answers(value, scope, agent, tools, handoffs),
        decode=lambda value: _decode_answers(value, scope, agent),
    )
    step_id = journal.step_id(label)
    prepared.enabled_tools = _flags(journal, step_id, [tool.name for tool in tools], answers["tools"])
    prepared.enabled_handoffs = _flags(journal, step_id, [item.tool_name for item in handoffs], answers["handoffs"])
    prepared.texts = answers["texts"]
    return prepared


async def _ask_enabled(things: list[Any], context: Any, agent: Any) -> list[bool]:
    async def ask(thing: Any) -> bool:
        return bool(await awaited(thing.is_enabled(context, agent)))

    return list(await sdk.gather_with_cancel(*(ask(thing) for thing in things)))


def _encode_answers(value: dict[str, Any], scope: Scope, agent: Any, tools: Any, handoffs: Any) -> dict[str, Any]:
    encoded: dict[str, Any] = {}
    if tools:
        encoded["tools"] = [[tool.name, flag] for tool, flag in zip(tools, value["tools"], strict=True)]
    if handoffs:
        encoded["handoffs"] = [[item.tool_name, flag] for item, flag in zip(handoffs, value["handoffs"], strict=True)]
    for key, text in value["texts"].items():
        made = codec.encode(text)
        known = scope.previous.get(f"{key} {agent.name}")
        encoded.setdefault("texts", {})[key] = SAME if known == [made] else made
    return encoded


def _decode_answers(value: dict[str, Any], scope: Scope, agent: Any) -> dict[str, Any]:
    texts = {}
    for key, stored in value.get("texts", {}).items():
        place = f"{key} {agent.name}"
        if stored != SAME:
            scope.previous[place] = [stored]
        texts[key] = codec.decode(scope.previous[place][0])
    return {"tools": value.get("tools", []), "handoffs": value.get("handoffs", []), "texts": texts}


def _flags(journal: Journal, step_id: str, names: list[str], stored: list[list[Any]]) -> list[bool]:
    """The stored answers, in the order of the things that are asked about now."""
    if [name for name, _ in stored] == names:
        return [flag for _, flag in stored]
    if journal.options.divergence == "error":
        raise DivergenceError(step_id, f"{[name for name, _ in stored]}", f"{names}")
    known = dict(stored)
    return [known.get(name, True) for name in names]


async def _prepared(agent: Any, context: Any) -> Prepared:
    """The answers of the turn under way; a resumed turn asks for them when it needs them."""
    prepared = current_scope().prepared
    if prepared is not None and prepared.covers(agent):
        assert isinstance(prepared, Prepared)
        return prepared
    journal = current_journal()
    assert journal is not None
    return await _prepare(journal, agent, context, resuming=True)


@sdk.around("agents.run_internal.turn_preparation", "get_all_tools", ("agent", "context_wrapper"))
async def _turn_tools(original: Callable[..., Any], agent: Any, context_wrapper: Any) -> Any:
    journal = current_journal()
    if journal is not None:
        await _prepare(journal, agent, context_wrapper)
    return await original(agent, context_wrapper)


_stand_ins: contextvars.ContextVar[dict[int, Any] | None] = contextvars.ContextVar("stand_ins", default=None)


@sdk.around("agents.agent", "AgentBase.get_all_tools", ("self", "run_context"))
async def _all_tools(original: Callable[..., Any], self: Any, run_context: Any) -> Any:
    if current_journal() is None:
        return await original(self, run_context)
    prepared = await _prepared(self, run_context)
    if not prepared.tools and not prepared.handoffs:
        return await original(self, run_context)
    stand_ins = {
        id(tool): sdk.stand_in(tool, is_enabled=enabled)
        for tool, enabled in zip(prepared.tools, prepared.enabled_tools, strict=True)
    }
    token = _stand_ins.set(stand_ins)
    try:
        with sdk.mcp_handoff_snapshot(self, _enabled_handoffs(self, prepared)):
            found = await original(self, run_context)
    finally:
        _stand_ins.reset(token)
    real = {id(stand_in): tool for tool, stand_in in zip(prepared.tools, stand_ins.values(), strict=True)}
    return [real.get(id(tool), tool) for tool in found]


@sdk.around("agents.run_internal.agent_tool_configuration", "snapshot_agent_tools", ("agent",))
def _snapshot_tools(original: Callable[..., Any], agent: Any) -> Any:
    tools, stand_ins = original(agent), _stand_ins.get()
    return tools if not stand_ins else tuple(stand_ins.get(id(tool), tool) for tool in tools)


@sdk.around("agents.run_internal.tool_execution", "resolve_enabled_function_tools", ("agent", "context_wrapper"))
async def _enabled_tools(original: Callable[..., Any], agent: Any, context_wrapper: Any) -> Any:
    if current_journal() is None or not _dynamic_tools(agent):
        return await original(agent, context_wrapper)
    prepared = await _prepared(agent, context_wrapper)
    return [tool for tool in agent.tools if isinstance(tool, FunctionTool) and prepared.tool_enabled(tool)]


@sdk.around("agents.run_internal.turn_preparation", "get_handoffs", ("agent", "context_wrapper"))
async def _handoffs(original: Callable[..., Any], agent: Any, context_wrapper: Any) -> Any:
    if current_journal() is None or not _dynamic_handoffs(agent):
        return await original(agent, context_wrapper)
    return _enabled_handoffs(agent, await _prepared(agent, context_wrapper))


def _enabled_handoffs(agent: Any, prepared: Prepared) -> list[Any]:
    known = [item for item in getattr(agent, "handoffs", ()) if isinstance(item, (Handoff, Agent))]
    handoffs = [item if isinstance(item, Handoff) else handoff(item) for item in known]
    return [item for item in handoffs if prepared.handoff_enabled(item)]


@sdk.around("agents.agent", "Agent.get_system_prompt", ("self", "run_context"))
async def _system_prompt(original: Callable[..., Any], self: Any, run_context: Any) -> Any:
    texts = _texts(self)
    return texts.pop("instructions") if "instructions" in texts else await original(self, run_context)


@sdk.around("agents.agent", "Agent.get_prompt", ("self", "run_context"))
async def _prompt(original: Callable[..., Any], self: Any, run_context: Any) -> Any:
    texts = _texts(self)
    return texts.pop("prompt") if "prompt" in texts else await original(self, run_context)


def _texts(agent: Any) -> dict[str, Any]:
    prepared = current_scope().prepared if current_journal() is not None else None
    return prepared.texts if prepared is not None and prepared.agent is agent else {}


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
    return await user_step(label, lambda: original(extractor, context), name=name, context=wrapper)


@sdk.around("agents.agent_tool_input", "resolve_agent_tool_input", ("params", "input_builder"))
async def _agent_tool_input(original: Callable[..., Any], *, input_builder: Any = None, **kwargs: Any) -> Any:
    if current_journal() is None or input_builder is None:
        return await original(input_builder=input_builder, **kwargs)

    def call() -> Awaitable[Any]:
        built: Awaitable[Any] = original(input_builder=input_builder, **kwargs)
        return built

    return await user_step(current_scope().repeated(f"{nested_label()} input"), call)
