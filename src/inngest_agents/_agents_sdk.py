"""Every private name of the Agents SDK that this package touches, and what each is for.

The SDK's loop runs unchanged; it is instrumented at functions that it calls by name (its seams). A seam is wrapped
once, when this package is imported, and the wrapper does nothing outside of a durable run. Wrapping functions and
not cloning agents keeps the user's objects themselves in the loop: `result.last_agent is agent` holds, approvals
stay bound to their agent, an agent as a tool and a resumed `RunState` are durable without being found first, and
circular handoffs are no case of their own. The price is private names; they are all here, and each is checked when
this module is imported.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import sys
import types
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Final, cast

import agents
import anyio
from agents import version as _version
from agents.sandbox.session import SandboxSession

TESTED: Final = "openai-agents>=0.24.0,<0.25"


class MissingSeamError(ImportError):
    """The installed Agents SDK lacks a private name that this package needs."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"inngest-agents instruments {what} of the Agents SDK, which the installed version "
            f"{_version.__version__} does not have in the expected form. Install a version in the tested range: "
            f"pip install '{TESTED}'."
        )


def name(module: str, attribute: str) -> Any:
    """A name of the SDK that is not public.

    Raises:
        MissingSeamError: the installed SDK does not have it.
    """
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise MissingSeamError(f"{module}.{attribute}") from error
    return found


def around(module: str, attribute: str, parameters: tuple[str, ...]) -> Callable[[Callable[..., Any]], None]:
    """Wrap a function or method of the SDK: the decorated function gets the original first, then the arguments.

    Modules of the SDK that imported the function by name get the wrapper too.

    Args:
        module: where it is defined.
        attribute: its name there, "function" or "Class.method".
        parameters: the parameters that the wrapper relies on.

    Raises:
        MissingSeamError: it is not there, or has other parameters.
    """
    original = name(module, attribute)
    known = inspect.signature(original).parameters
    if not all(parameter in known for parameter in parameters):
        raise MissingSeamError(f"{module}.{attribute}({', '.join(parameters)})")

    def install(replacement: Callable[..., Any]) -> None:
        owner_name, _, method = attribute.rpartition(".")
        if owner_name:
            setattr(name(module, owner_name), method, _as_method(original, replacement))
            return
        # No function of Python's: each of them costs a frame a call, and a coroutine one more at each of its turns.
        wrapper = functools.update_wrapper(functools.partial(replacement, original), original)
        for loaded_name, loaded in list(sys.modules.items()):
            if loaded_name.split(".")[0] == agents.__name__ and getattr(loaded, attribute, None) is original:
                setattr(loaded, attribute, wrapper)

    return install


def _as_method(original: Callable[..., Any], replacement: Callable[..., Any]) -> Callable[..., Any]:
    """A function, which an instance binds; one that makes coroutines where the original does, as the SDK may ask."""
    if inspect.iscoroutinefunction(original):

        @functools.wraps(original)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            return await replacement(original, *args, **kwargs)

    else:

        @functools.wraps(original)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return replacement(original, *args, **kwargs)

    return wrapper


# tool.py: the wrapper around a tool's body that turns its exception into a text for the model. A step around the whole
# would remember the error as a success, so the step goes around the raw body inside it.
FailureHandlingInvoker: Final[Any] = name("agents.tool", "_FailureHandlingFunctionToolInvoker")
INVOKER_PARTS: Final = ("_invoke_tool_impl", "_on_handled_error", "_function_tool")
# tool.py: which context object a tool gets, and the two halves of the flag "the SDK's default text was used".
invoke_context: Final[Any] = name("agents.tool", "_get_function_tool_invoke_context")
consume_default_failure: Final[Any] = name("agents.tool", "_consume_function_tool_default_failure")
DEFAULT_FAILURE_ATTRIBUTE: Final[str] = name("agents.tool", "_DEFAULT_FAILURE_HANDLED_ATTR")
failure_text: Final[Any] = name("agents.tool", "maybe_invoke_function_tool_failure_error_function")
_failure_function: Final[Any] = name("agents.tool", "resolve_function_tool_failure_error_function")
InvocationResult: Final[Any] = name("agents.tool", "_FunctionToolInvocationResult")
timeout_text: Final[Any] = name("agents.tool", "default_tool_timeout_error_message")
# util/_error_tracing.py: tells the generation span in a task that it is cancelled for a time-out.
mark_model_timeout: Final[Any] = name("agents.util._error_tracing", "mark_model_timeout_task")

# models/openai_*.py: the client of a model; and the HTTP client of one that its user has given none: OpenAI's own, or
# the one that the SDK shares among the models that are named by a string.
_OWN_HTTP_CLIENT: Final[type] = name("openai._base_client", "AsyncHttpxClientWrapper")
_shared_http_client: Final[Any] = name("agents.models.openai_provider", "shared_http_client")
for _model in (agents.OpenAIChatCompletionsModel, agents.OpenAIResponsesModel):
    if not hasattr(_model, "_get_client") or "_client" not in vars(_model("", cast("Any", None))):
        raise MissingSeamError(f"agents.{_model.__name__}._client")

# _tool_invocation.py: all that a call's identity is made of, besides its id.
INVOCATION_FIELDS: Final = frozenset(name("agents._tool_invocation", "_SEMANTIC_FIELDS"))

for _part in INVOKER_PARTS:
    if _part not in FailureHandlingInvoker(None, None).__dict__:
        raise MissingSeamError(f"agents.tool._FailureHandlingFunctionToolInvoker.{_part}")


def client_of(model: Any) -> Any:
    """The client of one of OpenAI's models."""
    return model._get_client()


def set_client(model: Any, client: Any) -> None:
    """Give one of OpenAI's models another client."""
    model._client = client


def has_default_http_client(client: Any) -> bool:
    """Whether the user of a client of OpenAI's has left its HTTP client to OpenAI or the SDK."""
    http = client._client
    return type(http) is _OWN_HTTP_CLIENT or http is _shared_http_client()


def raw_body(function_tool: agents.FunctionTool) -> Callable[..., Any]:
    """The body of a function tool, which raises what it raises."""
    invoker: Any = function_tool.on_invoke_tool
    if isinstance(invoker, FailureHandlingInvoker):
        body: Callable[..., Any] = invoker._invoke_tool_impl
        return body
    return invoker  # type: ignore[no-any-return]


def replace_body(function_tool: agents.FunctionTool, body: Callable[..., Any]) -> None:
    """Give a tool another body behind the same failure handling (approvals look at the invoker's type)."""
    invoker: Any = function_tool.on_invoke_tool
    if not isinstance(invoker, FailureHandlingInvoker):
        function_tool.on_invoke_tool = body
        return
    failing: Any = invoker
    prepare = getattr(failing._invoke_tool_impl, "__agents_prepare_arguments__", None)
    if prepare is not None:
        body.__agents_prepare_arguments__ = prepare  # type: ignore[attr-defined]
    function_tool.on_invoke_tool = FailureHandlingInvoker(body, failing._on_handled_error, function_tool=function_tool)


def handles_failures(function_tool: agents.FunctionTool) -> bool:
    """Whether the tool's `failure_error_function` is applied to what its body raises."""
    return isinstance(function_tool.on_invoke_tool, FailureHandlingInvoker)


def uses_default_failure_text(function_tool: agents.FunctionTool) -> bool:
    """Whether the text for a failure is the SDK's own, so that no code of the user runs for it."""
    # `Agent.as_tool` and MCP servers name it as if the user had.
    return _failure_function(function_tool, None) is agents.default_tool_error_function


def has_failure_function(function_tool: agents.FunctionTool, context: Any) -> bool:
    """Whether a text is made for the model where the tool fails in this context; else its failure ends the run."""
    return _failure_function(function_tool, context) is not None


def report_handled_error(function_tool: agents.FunctionTool, error: Exception, arguments: str, context: Any) -> None:
    """Log and trace a failure that was turned into a text, as the SDK's invoker does."""
    invoker: Any = function_tool.on_invoke_tool
    invoker._on_handled_error(function_tool, error, arguments, context)


def is_agent_tool(function_tool: agents.FunctionTool) -> bool:
    """Whether the tool runs an agent (`Agent.as_tool`): its calls are steps, not the tool itself."""
    return bool(function_tool._is_agent_tool)


def is_mcp_tool(function_tool: agents.FunctionTool) -> bool:
    """Whether the tool is one of an MCP server."""
    origin = function_tool._tool_origin
    return origin is not None and origin.type is agents.ToolOriginType.MCP


def mcp_server_name(function_tool: agents.FunctionTool) -> str | None:
    """The name of the server of an MCP tool."""
    origin = function_tool._tool_origin
    return None if origin is None else origin.mcp_server_name


_FETCH: Final = "_fetch_response"
"""The method of the adapters for OpenAI and LiteLLM that gives the provider's own response."""
name("agents.models.openai_responses", f"OpenAIResponsesModel.{_FETCH}")
name("agents.models.openai_chatcompletions", f"OpenAIChatCompletionsModel.{_FETCH}")


def tap_answers(cls: type, tap: Callable[[Any], None]) -> None:
    """Have `tap` told each response of a provider that the adapter `cls` gets; once a class, and only where it can be.

    Args:
        cls: the class of a model.
        tap: gets the provider's own response object.
    """
    original = getattr(cls, _FETCH, None)
    if original is None or getattr(original, "__durable_watched__", False):
        return

    @functools.wraps(original)
    async def fetch(*args: Any, **kwargs: Any) -> Any:
        fetched = await original(*args, **kwargs)
        tap(fetched[0] if isinstance(fetched, tuple) else fetched)
        return fetched

    fetch.__durable_watched__ = True  # type: ignore[attr-defined]
    setattr(cls, _FETCH, fetch)


def provider_client(model: Any) -> Any:
    """The client of the provider that a model of the SDK has; None where it has none."""
    return getattr(model, "_client", None)


async def clean_up_model(model: Any, owner: object) -> None:
    """Tell a model that a run has ended, as the SDK does; a model around another one must pass it on."""
    await model._cleanup_on_run_end(owner)


def custom_data(context: Any) -> dict[str, Any] | None:
    """What a tool attached to its output item (`ToolContext._custom_data`, which MCP calls set)."""
    data = getattr(context, "_custom_data", None)
    return data or None


def set_custom_data(context: Any, data: dict[str, Any] | None) -> None:
    """Attach custom data again on a replay."""
    if data is not None:
        context._custom_data = data


# agent.py, turn_preparation.py: how the enabled tools and handoffs of a turn are found.
public_agent: Final[Any] = name("agents._public_agent", "get_public_agent")
gather_with_cancel: Final[Any] = name("agents.util._asyncio_tasks", "gather_with_cancel")
_mcp_handoff_snapshot: Final[Any] = name("agents.agent", "AgentBase._use_mcp_handoff_snapshot")


def mcp_handoff_snapshot(agent: Any, handoffs: list[Any]) -> AbstractContextManager[None]:
    """Names that MCP tools must not take come from these handoffs, and no `is_enabled` runs for it."""
    snapshot: AbstractContextManager[None] = _mcp_handoff_snapshot(agent, handoffs)
    return snapshot


def stand_in(function_tool: agents.FunctionTool, *, is_enabled: bool) -> agents.FunctionTool:
    """A tool with the answer of its `is_enabled` in place of the function; only for `get_all_tools` to look at."""
    made = object.__new__(type(function_tool))
    made.__dict__.update(function_tool.__dict__)
    made.__dict__["is_enabled"] = is_enabled
    return made


# exceptions.py: the mark of an error from which the SDK has taken what a model or a tool said.
is_data_redacted: Final[Callable[[BaseException], bool]] = name("agents.exceptions", "_is_error_data_redacted")


# handoffs/__init__.py: `handoff()` keeps the user's `on_handoff` in a closure and the target in a weak reference.
_invoke_handoff: Final[Any] = name("agents.handoffs", "_invoke_handoff_with_redaction")


def handoff_target(handoff: Any) -> Any:
    """The agent of a handoff that `handoff()` made; None of a hand-built one, whose function chooses it."""
    invoke = handoff.on_invoke_handoff
    if not isinstance(invoke, functools.partial) or invoke.func is not _invoke_handoff or handoff._agent_ref is None:
        return None
    return handoff._agent_ref()


def has_on_handoff(handoff: Any) -> bool:
    """Whether a handoff that `handoff()` made calls a function of the user."""
    return inspect.getclosurevars(handoff.on_invoke_handoff.args[0]).nonlocals.get("on_handoff") is not None


# handoffs/history.py: how the default nesting of histories asks the user's mapper, and which items it has taken over.
nest_history: Final[Any] = name("agents.handoffs.history", "_nest_handoff_history_with_provenance")
_OWNED_ITEMS: Final = "_nested_history_owned_items"
HistoryOwnedItem: Final[Any] = name("agents.run_internal.items", "NestedHistoryOwnedItem")


def history_owned_items(data: Any) -> tuple[Any, ...]:
    """The run items that a nested history already tells of."""
    owned: tuple[Any, ...] = getattr(data, _OWNED_ITEMS, ())
    return owned


def set_history_owned_items(data: Any, owned: tuple[Any, ...]) -> None:
    """Note again which run items a nested history already tells of."""
    object.__setattr__(data, _OWNED_ITEMS, owned)


# agent.py: an agent as a tool keeps the user's `custom_output_extractor` in a closure.
_EXTRACTOR: Final = "custom_output_extractor"


def with_output_extractor(body: Callable[..., Any], wrap: Callable[[Any], Any]) -> Callable[..., Any]:
    """The body of an agent tool with the user's output extractor wrapped; `body` itself if there is none."""
    code, closure = getattr(body, "__code__", None), getattr(body, "__closure__", None)
    if code is None or closure is None or _EXTRACTOR not in code.co_freevars:
        return body
    index = code.co_freevars.index(_EXTRACTOR)
    extractor = closure[index].cell_contents
    if extractor is None:
        return body
    cells = list(closure)
    cells[index] = types.CellType(wrap(extractor))
    made = types.FunctionType(code, body.__globals__, body.__name__, body.__defaults__, tuple(cells))
    made.__kwdefaults__ = body.__kwdefaults__
    return made


if _EXTRACTOR not in agents.Agent.as_tool.__code__.co_cellvars:
    raise MissingSeamError(f"agents.Agent.as_tool.{_EXTRACTOR}")


# run_context.py: a context and those of its tool calls share what was decided on tool calls.
_APPROVALS: Final = "_approvals"
if _APPROVALS not in agents.RunContextWrapper.__dataclass_fields__:
    raise MissingSeamError(f"agents.RunContextWrapper.{_APPROVALS}")


def share_decisions(one: Any, other: Any) -> bool:
    """Whether what is decided on one context holds for the other one."""
    decisions = getattr(one, _APPROVALS, None)
    return decisions is not None and decisions is getattr(other, _APPROVALS, None)


# _run_state_agent_identity.py: the agents that a `RunState` may name, in the order in which it counts them.
_agent_graph: Final[Callable[[Any], Iterator[Any]]] = name("agents._run_state_agent_identity", "_iter_agent_graph")


def reachable_agents(roots: Iterable[Any]) -> list[Any]:
    """The agents that handoffs and agent tools lead to from `roots`, themselves included, each once."""
    return list({id(agent): agent for root in roots for agent in _agent_graph(root)}.values())


# run_internal/blocked_output.py: the text in place of an output that a guardrail has blocked.
blocked_message: Final[Any] = name("agents.run_internal.blocked_output", "_resolve_output_guardrail_blocked_message")

# run_internal/items.py: by what the SDK tells a copy of a run item from an equal one.
occurrence_key: Final[Any] = name("agents.run_internal.items", "nested_history_run_item_occurrence_key")
_ensure_occurrence_key: Final[Any] = name("agents.run_internal.items", "ensure_nested_history_run_item_occurrence_key")
_OCCURRENCE_KEY: Final[str] = name("agents.run_internal.items", "_NESTED_HISTORY_RUN_ITEM_OCCURRENCE_KEY")
# run_internal/run_loop.py: by this a streamed run knows the items that it has sent already, copies included.
sent_key: Final[Any] = name("agents.run_internal.run_loop", "_stream_event_item_occurrence_key")
_SENT_KEY: Final[str] = name("agents.run_internal.run_loop", "_STREAM_EVENT_ITEM_OCCURRENCE_KEY")


def mark_as_copy(item: Any, original: Any) -> None:
    """Make a run item one that was copied from another; on a replay, nobody has given that one a key yet."""
    setattr(item, _OCCURRENCE_KEY, _ensure_occurrence_key(original))


def mark_as_sent(item: Any, original: Any) -> None:
    """Make a streamed run take a run item for sent if the one that it was copied from was."""
    if (key := sent_key(original)) is not None:
        setattr(item, _SENT_KEY, key)


# run_internal/session_persistence.py: what a session's history is compared by, and the private half of compaction.
_fingerprint: Final[Any] = name("agents.run_internal.session_persistence", "_fingerprint_or_repr")
_ignore_ids: Final[Any] = name("agents.run_internal.session_persistence", "_ignore_ids_for_matching")
GENERATION_METHODS: Final = ("_get_items_with_generation", "_add_items_with_generation")
"""The guard of compaction sessions against changes between reading and compacting, kept in one process's memory; in
a durable run the read may have happened in another one."""

for _part in GENERATION_METHODS:
    name("agents.memory", f"OpenAIResponsesCompactionSession.{_part}")


def generation_reader(session: Any) -> Callable[..., Awaitable[tuple[Any, int]]] | None:
    """Reads the history together with the count of its changes; None if the session does not count them."""
    reader = getattr(session, GENERATION_METHODS[0], None)
    return reader if callable(reader) else None


def generation_adder(session: Any) -> Callable[..., Awaitable[int | None]] | None:
    """Adds to the history and gives the new count, or None if somebody else has changed it since the expected one."""
    adder = getattr(session, GENERATION_METHODS[1], None)
    return adder if callable(adder) else None


_FORCED: Final = "_deferred_response_id"
_GET_FORCED: Final = "_get_deferred_compaction_response_id"
name("agents.memory", f"OpenAIResponsesCompactionSession.{_GET_FORCED}")


def forced_compaction(session: Any) -> str | None:
    """The response for which the next compaction of a session is forced, whatever the history looks like by then."""
    getter = getattr(session, _GET_FORCED, None)
    found = getter() if callable(getter) else None
    return found if isinstance(found, str) else None


def force_compaction(session: Any, response_id: str | None) -> None:
    """Force the next compaction of a session (or of that which it wraps), if it does not know of it."""
    while response_id is not None and session is not None:
        state = getattr(session, "__dict__", {})
        if _FORCED in state:
            state[_FORCED] = state[_FORCED] or response_id
            return
        session = state.get("underlying_session")


def compaction_generation(wrapper: Any) -> int | None:
    """The count that `set_compaction_generation` has noted, or the SDK when the run read the history."""
    generation: int | None = getattr(wrapper, "_session_compaction_generation", None)
    return generation


def set_compaction_generation(wrapper: Any, generation: int | None) -> None:
    """Say at which count of changes the history was the run's own; None: somebody else has changed it."""
    wrapper._session_compaction_generation = generation


def forget_compaction_generation(wrapper: Any) -> None:
    """Make later compactions those of a wrapper that never read a history."""
    if wrapper is not None:
        wrapper.__dict__.pop("_session_compaction_generation", None)


def item_fingerprint(session: Any, item: Any) -> str:
    """A text that is the same for equal items of a session's history."""
    fingerprint: str = _fingerprint(item, ignore_ids_for_matching=_ignore_ids(session))
    return fingerprint


def conversation_id(session: Any) -> str | None:
    """The conversation of an `OpenAIConversationsSession`, which it creates when it is first used."""
    # A subclass of the user's may not have called its constructor.
    return getattr(session, "_session_id", None) if isinstance(session, agents.OpenAIConversationsSession) else None


def set_conversation_id(session: Any, conversation: str | None) -> None:
    """Give the conversation again that the session created in a step."""
    if isinstance(session, agents.OpenAIConversationsSession) and conversation_id(session) is None:
        session._session_id = conversation


# result.py: where the SDK's loop puts the events of a streamed run; the loop itself is public (`run_loop_task`).
_EVENT_QUEUE: Final = "_event_queue"
if _EVENT_QUEUE not in agents.RunResultStreaming.__dataclass_fields__:
    raise MissingSeamError(f"agents.RunResultStreaming.{_EVENT_QUEUE}")


def tap_events(result: agents.RunResultStreaming, tap: Callable[[Callable[[Any], None], Any], None]) -> None:
    """Let `tap(put, event)` see each event before it gets into the queue of a streamed run; it calls `put` itself.

    The queue gets a mark of the end too, which is not one of the SDK's events.
    """
    queue = getattr(result, _EVENT_QUEUE)
    queue.put_nowait = functools.partial(tap, queue.put_nowait)


def event_sender(result: agents.RunResultStreaming) -> Callable[[Any], None]:
    """Puts an event into the queue of a streamed run, as its loop does."""
    send: Callable[[Any], None] = getattr(result, _EVENT_QUEUE).put_nowait
    return send


_STREAM_ERROR: Final = "_stored_exception"
if _STREAM_ERROR not in agents.RunResultStreaming.__dataclass_fields__:
    raise MissingSeamError(f"agents.RunResultStreaming.{_STREAM_ERROR}")


def fail_stream(result: agents.RunResultStreaming, error: BaseException) -> None:
    """Let the consumer of a streamed run get an error that its loop cannot raise, as it means to be cancelled."""
    setattr(result, _STREAM_ERROR, error)


_CLEANUP: Final = "_cleanup_tasks"
name("agents.result", f"RunResultStreaming.{_CLEANUP}")


def cancel_tasks(result: agents.RunResultStreaming) -> None:
    """Cancel the loop of a streamed run and its guardrails, and leave the events in the queue to the consumer."""
    getattr(result, _CLEANUP)()


# usage.py: what the SDK's adapters hang on a streamed response beside its fields.
usage_of_response: Final[Any] = name("agents.usage", "_response_usage_to_usage")
requests_without_usage: Final[Any] = name("agents.usage", "_requests_for_response_without_usage")
raw_usage_of_response: Final[Any] = name("agents.usage", "_extract_raw_usage_snapshot")
_NORMALIZED_USAGE: Final[str] = name("agents.usage", "_NORMALIZED_USAGE_ATTRIBUTE")
_RAW_USAGE: Final[str] = name("agents.usage", "_RAW_USAGE_ATTRIBUTE")
_WITHOUT_USAGE: Final[str] = name("agents.usage", "_REQUEST_WITHOUT_USAGE_ATTR")


def set_usage_of_response(response: Any, usage: agents.Usage, raw_usage: dict[str, Any] | None) -> None:
    """Make the SDK find this usage in a streamed response again."""
    if response.usage is not None:
        object.__setattr__(response.usage, _NORMALIZED_USAGE, usage)
    elif usage.requests:
        object.__setattr__(response, _WITHOUT_USAGE, usage.requests)
    if raw_usage is not None:
        object.__setattr__(response, _RAW_USAGE, raw_usage)


# models/_response_terminal.py: the errors that the loop makes of the last event of a failed stream.
terminal_failure: Final[Any] = name("agents.models._response_terminal", "response_terminal_failure_error")
error_event_failure: Final[Any] = name("agents.models._response_terminal", "response_error_event_failure_error")
# exceptions.py: an error that comes after the events that are still in the queue.
raise_after_events: Final[Any] = name("agents.exceptions", "_mark_error_to_drain_stream_events")


# agent.py: the SDK reads `agent.hooks` wherever something happens, so that is where they are wrapped.
class _HooksAttribute:
    """`Agent.hooks`: kept in the agent's `__dict__` as ever, and shown as a durable run wants it."""

    def __init__(self, shown: Callable[[Any], Any], own: Callable[[Any], Any]) -> None:
        self._shown = shown
        self._own = own

    def __get__(self, agent: Any, _: Any = None) -> Any:
        # On the class it is the default of the dataclass field.
        return None if agent is None else self._shown(agent.__dict__.get("hooks"))

    def __set__(self, agent: Any, hooks: Any) -> None:
        # `clone` and `dataclasses.replace` hand on what they were shown.
        agent.__dict__["hooks"] = self._own(hooks)

    def __delete__(self, agent: Any) -> None:
        try:
            del agent.__dict__["hooks"]
        except KeyError:
            raise AttributeError("hooks") from None


if agents.Agent.__dataclass_fields__["hooks"].default is not None:
    raise MissingSeamError("agents.Agent.hooks")


def show_agent_hooks_as(*, shown: Callable[[Any], Any], own: Callable[[Any], Any]) -> None:
    """Let `agent.hooks` give `shown(hooks)`; `own` gives back the user's hooks of what was shown."""
    setattr(agents.Agent, "hooks", _HooksAttribute(shown, own))  # noqa: B010  a type checker sees a field there


# mcp/server.py, mcp/util.py: servers with a session of the `mcp` package, and how they filter and remember their tools.
ClientSessionServer: Final[Any] = name("agents.mcp.server", "_MCPServerWithClientSession")
mcp_log_name: Final[Any] = name("agents.mcp._logging", "get_mcp_server_log_name")
McpTool: Final[Any] = name("agents.mcp.server", "MCPTool")
_dynamic_tool_filter: Final[Any] = name("agents.mcp.server", "_MCPServerWithClientSession._apply_dynamic_tool_filter")
_static_tool_filter: Final[Any] = name("agents.mcp.server", "_MCPServerWithClientSession._apply_static_tool_filter")
_mcp_error_code: Final[Callable[[BaseException], int | None]] = name("agents.mcp._compat", "mcp_error_code")
_is_http_connect_error: Final[Callable[[BaseException], bool]] = name("agents.mcp._compat", "is_http_connect_error")
_is_http_status_error: Final[Callable[[BaseException], bool]] = name("agents.mcp._compat", "is_http_status_error")
_http_status_code: Final[Callable[[BaseException], int]] = name("agents.mcp._compat", "http_status_code")

_MCP_CONNECTION_CLOSED: Final = -32000
_MCP_SESSION_FORGOTTEN: Final = 404
"""The HTTP status by which a server says that it does not know the session (any more)."""


def is_mcp_connected(server: Any) -> bool:
    """Whether a server of the SDK is connected."""
    return server.session is not None


def is_mcp_connection_lost(error: BaseException | None) -> bool:
    """Whether an error says that a connection is of no use any more: closed, or the server is gone or knows it not."""
    while error is not None:
        if isinstance(error, BaseExceptionGroup) and any(is_mcp_connection_lost(one) for one in error.exceptions):
            return True
        if isinstance(error, ConnectionError | anyio.ClosedResourceError | anyio.BrokenResourceError):
            return True
        if _mcp_error_code(error) == _MCP_CONNECTION_CLOSED or _is_http_connect_error(error):
            return True
        if _is_http_status_error(error) and _http_status_code(error) == _MCP_SESSION_FORGOTTEN:
            return True
        error = error.__cause__ or error.__context__
    return False


async def dynamic_tool_filter(server: Any, tools: list[Any], context: Any, agent: Any) -> list[Any]:
    """The tools that the user's filter function keeps; one for which it raises is left out, as the SDK does it."""
    kept: list[Any] = await _dynamic_tool_filter(server, tools, context, agent)
    return kept


def static_tool_filter(server: Any, tools: list[Any]) -> list[Any]:
    """The tools that the user's lists of names keep."""
    kept: list[Any] = _static_tool_filter(server, tools, server.tool_filter)
    return kept


def remember_mcp_tools(server: Any, tools: list[Any]) -> None:
    """Let a server that was listed in an earlier request check the arguments of calls as if it was listed now."""
    if getattr(server, "_tools_list", tools) is None:
        server._tools_list, server._cache_dirty = tools, False


# agent_tool_state.py: where the SDK keeps the interrupted runs of agent tools, by the call, within the scope of a run.
agent_tool_scope: Final[Callable[[Any], str | None]] = name("agents.agent_tool_state", "get_agent_tool_state_scope")
_record_agent_tool_result: Final[Any] = name("agents.agent_tool_state", "record_agent_tool_run_result")
_drop_agent_tool_result: Final[Any] = name("agents.agent_tool_state", "_drop_agent_tool_run_result")
_agent_tool_results: Final[dict[Any, Any]] = name("agents.agent_tool_state", "_agent_tool_run_results_by_obj")
_agent_tool_calls: Final[dict[int, Any]] = name("agents.agent_tool_state", "_agent_tool_call_refs_by_obj")


def agent_tool_results(scope: str) -> list[tuple[Any, Any]]:
    """The interrupted runs of agent tools in a scope: the tool call, and the run's result."""
    found = [(_agent_tool_calls[key[1]](), result) for key, result in _agent_tool_results.items() if key[0] == scope]
    return [(call, result) for call, result in found if call is not None]


def set_agent_tool_results(scope: str, results: list[tuple[Any, Any]]) -> None:
    """Make these, and no others, the interrupted runs in a scope."""
    for key in [key for key in _agent_tool_results if key[0] == scope]:
        del _agent_tool_results[key]
        _drop_agent_tool_result(key)
    for call, result in results:
        _record_agent_tool_result(call, result, scope_id=scope)


# run_internal/tool_actions.py, tool.py: local tools of the provider's kinds.
apply_patch_call_id: Final[Any] = name("agents.run_internal.tool_execution", "extract_apply_patch_call_id")
_supported_arguments: Final[Any] = name("agents.run_internal.tool_actions", "ComputerAction._filter_supported_kwargs")
_computer_initializer: Final[Any] = name("agents.tool", "_get_computer_initializer")


def computer_arguments(method: str, function: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments that a computer's method takes; the others are dropped with a warning, as the SDK does."""
    supported: dict[str, Any] = _supported_arguments(method_name=method, method=function, kwargs=arguments)
    return supported


def makes_computers(tool: Any) -> bool:
    """Whether a computer tool makes a computer for each run."""
    return _computer_initializer(tool) is not None


# tracing/spans.py, tracing/traces.py: what a span and a trace are made of.
_TRACING_PARTS: Final = {
    "agents.tracing.spans.SpanImpl": ("_span_id", "_started_at", "_processor"),
    "agents.tracing.traces.TraceImpl": ("_trace_id", "_processor"),
}
for _path, _parts in _TRACING_PARTS.items():
    _module, _, _class = _path.rpartition(".")
    for _part in _parts:
        if _part not in name(_module, _class).__slots__:
            raise MissingSeamError(f"{_path}.{_part}")


def set_trace_id(trace: Any, trace_id: str) -> None:
    """Give a trace another id, before it starts."""
    trace._trace_id = trace_id


def set_span_id(span: Any, span_id: str) -> None:
    """Give a span another id, before it starts."""
    span._span_id = span_id


def set_started_at(span: Any, started_at: str) -> None:
    """Give a span another time of its start (ISO 8601)."""
    span._started_at = started_at


def processor_of(span_or_trace: Any) -> Any:
    """Who is told of the start and the end of a span or a trace."""
    return span_or_trace._processor


def set_processor(span_or_trace: Any, processor: Any) -> None:
    """Let another one be told."""
    span_or_trace._processor = processor


# sandbox/runtime_session_manager.py, sandbox/runtime.py: how the SDK opens, holds and closes the sandboxes of a run.
SandboxResources: Final[Any] = name("agents.sandbox.runtime_session_manager", "_SandboxSessionResources")
_SANDBOX_STATE: Final[Any] = name("agents.sandbox.session.sandbox_session_state", "SandboxSessionState")
_NO_SNAPSHOT: Final[Any] = name("agents.sandbox.snapshot", "NoopSnapshot")
_SKIPPED_PATHS: Final = "_runtime_persist_workspace_skip_relpaths"
_SANDBOX_PARTS: Final = {
    "agents.sandbox.runtime_session_manager.SandboxRuntimeSessionManager": (
        "_resolve_client",
        "_ensure_resume_key",
        "_configure_session",
        "_resolve_concurrency_limits",
        "_resolve_archive_limits",
        "_process_manifest",
        "_process_resumed_state_manifest",
        "_resolve_trusted_resume_manifest",
        "_agent_run_as_user",
    ),
    "agents.sandbox.session.BaseSandboxSession": (
        _SKIPPED_PATHS,
        "_aclose_dependencies",
        "_set_start_state_preserved",
        "_workspace_state_preserved_on_start",
    ),
    "agents.sandbox.session.sandbox_session_state.SandboxSessionState": ("_mark_persisted_path_grants",),
}
for _path, _parts in _SANDBOX_PARTS.items():
    _module, _, _class = _path.rpartition(".")
    for _part in _parts:
        name(_module, f"{_class}.{_part}")


def sandbox_manager(runtime: Any) -> Any:
    """What opens and closes the sandboxes of a loop (`SandboxRuntime._session_manager`)."""
    return runtime._session_manager


def makes_memories(runtime: Any) -> bool:
    """Whether the SDK remembers the run in its sandbox (`Memory(generate=…)`)."""
    memory = runtime._active_memory_capability
    return memory is not None and memory.generate is not None


_logger: Final[Any] = name("agents.run", "logger")
_log_warning: Final[Any] = name("agents.logger", "log_model_and_tool_action_warning")


def warn_of_memory_error(error: Exception, *, is_streamed: bool) -> None:
    """Log that the memories of a run could not be made, without the data that the user does not want in logs."""
    kind = "streamed run" if is_streamed else "run"
    _log_warning(_logger, f"Failed to enqueue sandbox memory after {kind}", error)


_log_tool_warning: Final[Any] = name("agents.logger", "log_tool_action_warning")


def warn_of_cleanup_error(error: Exception) -> None:
    """Log that the sandboxes of a streamed run could not be closed, with the same care."""
    _log_tool_warning(_logger, "Failed to clean up sandbox resources after streamed run", error)


def sandbox_client(manager: Any) -> Any:
    """The client that opens the sandboxes of a run; None where the user has opened one.

    Raises:
        ValueError: the user has given neither.
    """
    return None if manager._sandbox_config.session is not None else manager._resolve_client()


def take_sandbox_agent(manager: Any, agent: Any) -> None:
    """Note that a run has a sandbox agent, whoever else has it."""
    if id(agent) not in manager._acquired_agents:
        manager._acquired_agents[id(agent)] = agent
        manager._ensure_resume_key(agent)


def release_sandboxes(manager: Any) -> None:
    """Make a run forget its sandboxes."""
    manager._resources_by_agent.clear()
    manager._acquired_agents.clear()
    manager._current_agent_id = None


def configure_sandbox(manager: Any, session: Any) -> None:
    """Give a session the limits of the run's configuration."""
    manager._configure_session(
        session,
        concurrency_limits=manager._resolve_concurrency_limits(),
        archive_limits=manager._resolve_archive_limits(),
    )


def users_sandbox(manager: Any, agent: Any, *, capabilities: list[Any], **_: Any) -> Any:
    """The resources of a session that the user has opened, to which an earlier request has given its manifest."""
    session = manager._sandbox_config.session
    configure_sandbox(manager, session)
    manifest = manager._process_manifest(
        capabilities, session.state.manifest, run_as_user=manager._agent_run_as_user(agent)
    )
    if manifest is not None and manifest != session.state.manifest:
        session.state = session.state.model_copy(update={"manifest": manifest})
    return SandboxResources(session=session, client=None, owns_session=False)


def sandbox_state(
    manager: Any, agent: Any, client: Any, payload: dict[str, Any], *, capabilities: list[Any], **_: Any
) -> Any:
    """The state that a client has made JSON of, with what must not be stored from the agent and the configuration."""
    state = client.deserialize_session_state(payload)
    state = _SANDBOX_STATE._mark_persisted_path_grants(state, payload=payload)
    return manager._process_resumed_state_manifest(
        agent=agent,
        capabilities=capabilities,
        session_state=state,
        trusted_manifest=manager._resolve_trusted_resume_manifest(agent=agent),
        provider_backend_id=client.backend_id,
    )


def without_snapshot(state: Any) -> Any:
    """A state of a sandbox from which its workspace is not restored: it is there."""
    return state.model_copy(update={"snapshot": _NO_SNAPSHOT(id=state.snapshot.id)})


def _inner_sandbox(session: Any) -> Any:
    return session._inner if isinstance(session, SandboxSession) else session


def is_same_sandbox(session: Any, state: Any) -> bool:
    """Whether a session that a client has resumed has the sandbox of `state`, and not a new one in its place.

    If so, its workspace is not filled from the manifest again.
    """
    inner = _inner_sandbox(session)
    if inner._workspace_state_preserved_on_start():
        return True
    # Not every client says so. One that made a new sandbox has noted its id; a directory has none.
    is_same = session.state == state and (state.type != "unix_local" or os.path.isdir(state.manifest.root))
    if is_same:
        inner._set_start_state_preserved(True)
    return is_same


def sandbox_handle(session: Any) -> dict[str, Any]:
    """The attributes that make a `SandboxSession` another handle of the same sandbox."""
    return vars(session if isinstance(session, SandboxSession) else SandboxSession(session))


def take_skipped_paths(session: Any) -> set[Any]:
    """The paths of a workspace that a session shall leave out of snapshots; it forgets them."""
    return session.__dict__.pop(_SKIPPED_PATHS, None) or set()


async def close_sandbox_dependencies(session: Any) -> None:
    """Close what a session keeps open in this process."""
    await session._aclose_dependencies()


def set_sandbox_state(result: agents.RunResultStreaming, state: dict[str, Any] | None) -> None:
    """Give a result what a `RunState` of it keeps of its sandboxes."""
    result._sandbox_resume_state = state


if "_sandbox_resume_state" not in agents.RunResultStreaming.__dataclass_fields__:
    raise MissingSeamError("agents.RunResultStreaming._sandbox_resume_state")
