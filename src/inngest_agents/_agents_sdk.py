"""Every private name of the Agents SDK that this package touches, and what each is for.

The SDK's loop runs unchanged; it is instrumented at functions that it calls by name (its seams). A seam is wrapped
once, when this package is imported, and the wrapper does nothing outside of a durable run. Wrapping functions and not cloning
agents keeps the user's objects themselves in the loop: `result.last_agent is agent` holds, approvals stay bound to
their agent, an agent as a tool and a resumed `RunState` are durable without being found first, and circular handoffs are no
case of their own. The price is private names; they are all here, and each is checked when this module is imported.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Callable
from typing import Any, Final

import agents
from agents import version as _version

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
        if inspect.iscoroutinefunction(original):

            @functools.wraps(original)
            async def wrapper(*args: Any, **kwargs: Any) -> Any:
                return await replacement(original, *args, **kwargs)

        else:

            @functools.wraps(original)
            def wrapper(*args: Any, **kwargs: Any) -> Any:
                return replacement(original, *args, **kwargs)

        owner_name, _, method = attribute.rpartition(".")
        if owner_name:
            setattr(name(module, owner_name), method, wrapper)
            return
        for loaded_name, loaded in list(sys.modules.items()):
            if loaded_name.split(".")[0] == agents.__name__ and getattr(loaded, attribute, None) is original:
                setattr(loaded, attribute, wrapper)

    return install


# tool.py: the wrapper around a tool's body that turns its exception into a text for the model. A step around the whole
# would remember the error as a success, so the step goes around the raw body inside it.
FailureHandlingInvoker: Final[Any] = name("agents.tool", "_FailureHandlingFunctionToolInvoker")
INVOKER_PARTS: Final = ("_invoke_tool_impl", "_on_handled_error", "_function_tool")
# tool.py: which context object a tool gets, and the two halves of the flag "the SDK's default text was used".
invoke_context: Final[Any] = name("agents.tool", "_get_function_tool_invoke_context")
consume_default_failure: Final[Any] = name("agents.tool", "_consume_function_tool_default_failure")
DEFAULT_FAILURE_ATTRIBUTE: Final[str] = name("agents.tool", "_DEFAULT_FAILURE_HANDLED_ATTR")
failure_text: Final[Any] = name("agents.tool", "maybe_invoke_function_tool_failure_error_function")
InvocationResult: Final[Any] = name("agents.tool", "_FunctionToolInvocationResult")
timeout_text: Final[Any] = name("agents.tool", "default_tool_timeout_error_message")

for _part in INVOKER_PARTS:
    if _part not in FailureHandlingInvoker(None, None).__dict__:
        raise MissingSeamError(f"agents.tool._FailureHandlingFunctionToolInvoker.{_part}")


def raw_body(function_tool: agents.FunctionTool) -> Callable[..., Any]:
    """The body of a function tool, which raises what it raises."""
    invoker: Any = function_tool.on_invoke_tool
    if isinstance(invoker, FailureHandlingInvoker):
        body: Callable[..., Any] = invoker._invoke_tool_impl
        return body
    return invoker  # type: ignore[no-any-return]


def handles_failures(function_tool: agents.FunctionTool) -> bool:
    """Whether the tool's `failure_error_function` is applied to what its body raises."""
    return isinstance(function_tool.on_invoke_tool, FailureHandlingInvoker)


def uses_default_failure_text(function_tool: agents.FunctionTool) -> bool:
    """Whether the text for a failure is the SDK's own, so that no code of the user runs for it."""
    return bool(getattr(function_tool, "_use_default_failure_error_function", False))


def report_handled_error(function_tool: agents.FunctionTool, error: Exception, arguments: str, context: Any) -> None:
    """Log and trace a failure that was turned into a text, as the SDK's invoker does."""
    invoker: Any = function_tool.on_invoke_tool
    invoker._on_handled_error(function_tool, error, arguments, context)


def is_agent_tool(function_tool: agents.FunctionTool) -> bool:
    """Whether the tool runs an agent (`Agent.as_tool`): its calls are steps, not the tool itself."""
    return bool(function_tool._is_agent_tool)


def custom_data(context: Any) -> dict[str, Any] | None:
    """What a tool attached to its output item (`ToolContext._custom_data`, which MCP calls set)."""
    data = getattr(context, "_custom_data", None)
    return data or None


def set_custom_data(context: Any, data: dict[str, Any] | None) -> None:
    """Attach custom data again on a replay."""
    if data is not None:
        context._custom_data = data
