"""Computer tools: each call of the driver is a step, and a computer is made only for a step that needs it.

| what of the user | its step | steps |
|---|---|---|
| a factory or `ComputerProvider` | "1 open computer" | one a run, for the computer's environment and dimensions |
| each method of the driver | "2.1 computer click", "2.1 computer screenshot" | one an action, one for the screenshot |
| `on_safety_check` | "2.1 computer safety check" | one a pending check |

The step of a screenshot holds the picture (at most 4 MB in a step of Inngest). A factory is called again in each
request that has an action to do, so it should reach the same machine again; a request whose actions are all memoized
makes no computer. The SDK disposes of what was made when the request ends. A computer that the user made is used as it
is.
"""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import weakref
from collections.abc import Callable
from typing import Any

from agents import AsyncComputer, Computer
from agents.exceptions import ModelBehaviorError

from inngest_agents import _agents_sdk as sdk
from inngest_agents.instrument.dynamic import awaited, user_step
from inngest_agents.instrument.local_tools import tool_step
from inngest_agents.instrument.tools import tool_label
from inngest_agents.journal import Journal
from inngest_agents.scope import current_journal, current_scope


class LazyComputer(AsyncComputer):
    """A computer that is made when a step first uses it. Its facts are remembered from when it was first made."""

    def __init__(self, make: Callable[[], Any], facts: dict[str, Any]) -> None:
        self._make = make
        self._facts = facts
        self._lock = asyncio.Lock()
        self._made: Any = None

    async def real(self) -> Any:
        """The computer itself. Only a step may ask."""
        async with self._lock:
            if self._made is None:
                self._made = await self._make()
            return self._made

    @property
    def environment(self) -> Any:
        """What the computer said it is."""
        return self._facts["environment"]

    @property
    def dimensions(self) -> Any:
        """What the computer said of its display."""
        return self._facts["dimensions"]

    async def _do(self, method: str, *args: Any) -> Any:
        return await awaited(getattr(await self.real(), method)(*args))

    async def screenshot(self) -> str:
        """See `AsyncComputer`."""
        return str(await self._do("screenshot"))

    async def click(self, x: int, y: int, button: Any) -> None:
        """See `AsyncComputer`."""
        await self._do("click", x, y, button)

    async def double_click(self, x: int, y: int) -> None:
        """See `AsyncComputer`."""
        await self._do("double_click", x, y)

    async def scroll(self, x: int, y: int, scroll_x: int, scroll_y: int) -> None:
        """See `AsyncComputer`."""
        await self._do("scroll", x, y, scroll_x, scroll_y)

    async def type(self, text: str) -> None:
        """See `AsyncComputer`."""
        await self._do("type", text)

    async def wait(self) -> None:
        """See `AsyncComputer`."""
        await self._do("wait")

    async def move(self, x: int, y: int) -> None:
        """See `AsyncComputer`."""
        await self._do("move", x, y)

    async def keypress(self, keys: list[str]) -> None:
        """See `AsyncComputer`."""
        await self._do("keypress", keys)

    async def drag(self, path: list[tuple[int, int]]) -> None:
        """See `AsyncComputer`."""
        await self._do("drag", path)


_lazy: weakref.WeakKeyDictionary[Journal, list[tuple[Any, Any, LazyComputer]]] = weakref.WeakKeyDictionary()


@sdk.around("agents.tool", "resolve_computer", ("tool", "run_context"))
async def _resolve_computer(original: Callable[..., Any], *, tool: Any, run_context: Any) -> Any:
    journal = current_journal()
    is_made = isinstance(tool.computer, (Computer, AsyncComputer)) and not sdk.makes_computers(tool)
    if journal is None or is_made:
        return await original(tool=tool, run_context=run_context)
    known = _lazy.setdefault(journal, [])
    for one, context, lazy in known:
        if one is tool and context is run_context:
            return lazy
    scope = current_scope()

    async def make() -> Any:
        return await original(tool=tool, run_context=run_context)

    async def facts() -> dict[str, Any]:
        real = await make()
        return {"environment": real.environment, "dimensions": real.dimensions}

    label = scope.repeated(f"{max(scope.turn, 1)} open computer")
    lazy = LazyComputer(make, await user_step(label, facts, name=tool.name, context=run_context))
    known.append((tool, run_context, lazy))
    return lazy


_tool: contextvars.ContextVar[tuple[Any, Any] | None] = contextvars.ContextVar("computer_tool", default=None)


@sdk.around("agents.run_internal.tool_actions", "ComputerAction.execute", ("action", "context_wrapper"))
async def _computer_action(original: Callable[..., Any], *, action: Any, context_wrapper: Any, **kwargs: Any) -> Any:
    token = _tool.set((action.computer_tool, context_wrapper))
    try:
        return await original(action=action, context_wrapper=context_wrapper, **kwargs)
    finally:
        _tool.reset(token)


@sdk.around("agents.run_internal.tool_actions", "ComputerAction._execute_action_and_capture", ("computer", "tool_call"))
async def _execute(original: Callable[..., Any], computer: Any, tool_call: Any) -> Any:
    found = _tool.get()
    if current_journal() is None or found is None:
        return await original(computer, tool_call)
    return await original(_DurableDriver(computer, tool_call.call_id, *found), tool_call)


class _DurableDriver:
    """A computer's driver whose calls are steps."""

    def __init__(self, computer: Any, call_id: str, tool: Any, context: Any) -> None:
        self._computer, self._call_id, self._tool, self._context = computer, call_id, tool, context

    def __getattr__(self, method: str) -> Any:
        async def call(*args: Any, **kwargs: Any) -> Any:
            async def act() -> Any:
                lazy = isinstance(self._computer, LazyComputer)
                real = await self._computer.real() if lazy else self._computer
                function = getattr(real, method, None)
                if not callable(function):
                    raise ModelBehaviorError(f"Computer driver missing method {method}")
                supported = sdk.computer_arguments(method, function, kwargs)
                return await awaited(function(*args, **supported))

            label = current_scope().repeated(f"{tool_label('computer', self._call_id)} {method}")
            return await tool_step(
                label,
                "computer",
                act,
                tool=self._tool,
                call_id=self._call_id,
                context=self._context,
                name=f"computer {method}",
            )

        return call


@sdk.around("agents.run_internal.tool_execution", "execute_computer_actions", ("actions", "context_wrapper"))
async def _computer_actions(original: Callable[..., Any], *, actions: Any, **kwargs: Any) -> Any:
    if current_journal() is not None:
        actions = [_with_safety_step(action) for action in actions]
    return await original(actions=actions, **kwargs)


def _with_safety_step(action: Any) -> Any:
    check = action.computer_tool.on_safety_check
    if check is None or not action.tool_call.pending_safety_checks:
        return action

    async def checked(data: Any) -> Any:
        label = f"{tool_label('computer', data.tool_call.call_id)} safety check"
        return await user_step(current_scope().repeated(label), lambda: check(data), context=data.ctx_wrapper)

    # A new tool and not a copy: the SDK remembers by the object whether it makes its computer.
    tool = dataclasses.replace(action.computer_tool, on_safety_check=checked)
    return dataclasses.replace(action, computer_tool=tool)
