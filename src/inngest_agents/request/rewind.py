"""Undoes what a run changed in its arguments when the request ends before the run does.

The SDK's loop changes a `RunState` that it goes on with, and a `RunContextWrapper` given as context, in place. A replay
must begin where the first pass began; where the caller builds them anew in each request (from JSON, or from an earlier
run's result) it does. Where the same object is passed again, because it lives outside of the function, the loop would
find tool calls claimed and turns counted by a pass that was cut. So these objects stay themselves and get their former
contents.

Only what belongs to the SDK is put back. The user's own objects (context, agents, tools, sessions) are never touched.
"""

from __future__ import annotations

from typing import Any, Final

from agents import ModelResponse, RunContextWrapper, RunState, Usage
from agents.items import RunItemBase
from agents.result import RunResultBase

from inngest_agents import _agents_sdk as sdk

_SDK_TYPES: Final = (RunState, RunContextWrapper, RunItemBase, RunResultBase, ModelResponse, Usage)
_SDK_MODULES: Final = ("agents.run_internal.", "agents.agent_tool_state", "agents.run_state", "agents.run_context")
_ITEM_MODULES: Final = ("openai.types.",)
_USERS_ATTRIBUTES: Final = frozenset({"context", "agent", "tool", "function_tool"})


class Rewind:
    """The contents of what a run is about to change, and of the interrupted runs nested in it, as they are now.

    Args:
        roots: the objects.
    """

    def __init__(self, *roots: RunState[Any, Any] | RunContextWrapper[Any]) -> None:
        self._contents: dict[int, tuple[Any, Any]] = {}
        self._nested: dict[str, list[tuple[Any, Any]]] = {}
        for root in roots:
            self._visit(root)

    @classmethod
    def of(cls, run_input: Any, context: Any) -> Rewind | None:
        """The rewind of a run's arguments; None where the SDK changes neither in place."""
        roots = [root for root in (run_input, context) if isinstance(root, (RunState, RunContextWrapper))]
        return cls(*roots) if roots else None

    def undo(self) -> None:
        """Give every object its former contents again."""
        for target, contents in self._contents.values():
            if isinstance(target, list):
                target[:] = contents
            elif isinstance(target, (dict, set)):
                target.clear()
                target.update(contents)
            else:
                target.__dict__.clear()
                target.__dict__.update(contents)
        for scope, results in self._nested.items():
            sdk.set_agent_tool_results(scope, results)

    def _visit(self, root: Any) -> None:
        waiting = [root]
        while waiting:
            found = waiting.pop()
            if id(found) in self._contents:
                continue
            if type(found) in (list, set, tuple):
                waiting.extend(found)
                if type(found) is not tuple:
                    self._contents[id(found)] = (found, found.copy())
            elif type(found) is dict:
                waiting.extend(found.values())
                self._contents[id(found)] = (found, dict(found))
            elif _is_of_sdk(found):
                attributes = dict(found.__dict__)
                self._contents[id(found)] = (found, attributes)
                waiting.extend(value for name, value in attributes.items() if name not in _USERS_ATTRIBUTES)
                waiting.extend(self._nested_results(found))

    def _nested_results(self, holder: Any) -> list[Any]:
        """The interrupted runs of agent tools, which the SDK keeps beside the state."""
        scope = sdk.agent_tool_scope(holder)
        if scope is None or scope in self._nested:
            return []
        self._nested[scope] = sdk.agent_tool_results(scope)
        return [result for _, result in self._nested[scope]]


def _is_of_sdk(value: Any) -> bool:
    known = isinstance(value, _SDK_TYPES) or type(value).__module__.startswith((*_SDK_MODULES, *_ITEM_MODULES))
    return known and not isinstance(value, type) and hasattr(value, "__dict__")
