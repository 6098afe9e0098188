"""Carries the approvals and rejections of tool calls that code of the user makes on the run's context inside a step.

The SDK looks for such a decision on the context once the user's code has returned, and again for later calls. A replay
answers the step from its memo, so its code does not decide anew. Therefore the decision is stored with the step, and
made again by the same public method.

The decision on a function call holds for the agent of that call only. Another request may have built its agents anew;
the one meant is found by its name, as the k-th of that name, among those that the run's agents lead to.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import pydantic
from agents import ToolApprovalItem

from inngest_agents import _agents_sdk as sdk
from inngest_agents.memos import codec, response_codec
from inngest_agents.scope import current_step

if TYPE_CHECKING:
    from inngest_agents.journal import Journal

logger = logging.getLogger("inngest_agents")

_FUNCTION_CALL: Final = "function_call"
_FIELDS: Final = tuple(
    field
    for field in dataclasses.fields(ToolApprovalItem)
    # The origin plays no part in a decision; the others are stored in a form of their own, or are always the same.
    if field.init and field.name not in {"agent", "raw_item", "type", "tool_origin"}
)
"""What else of an item tells which tool a decision is about."""


@dataclasses.dataclass(frozen=True, slots=True)
class Decision:
    """An approval or a rejection that was made in a step."""

    context: Any
    """The context on which it was made."""
    item: Any
    approve: bool
    always: bool
    message: str | None = None

    def to_json(self, journal: Journal, step_id: str) -> dict[str, Any] | None:
        """The decision as JSON; None, and a warning, if a later request could not make it again."""
        raw = self.item.raw_item
        encoded = (
            response_codec.as_written(response_codec.encode_item(raw))
            if isinstance(raw, pydantic.BaseModel)
            else codec.encode(raw)
        )
        if codec.is_text(encoded):
            _warn(step_id, self.item.name, "its call cannot be stored as JSON")
            return None
        stored: dict[str, Any] = {"approve": self.approve, "call": encoded}
        if isinstance(raw, pydantic.BaseModel):
            stored["is_model"] = True
        place = _place_of(self.item.agent, journal)
        if place is not None:
            stored["agent"] = place
        elif (raw.get("type") if isinstance(raw, Mapping) else getattr(raw, "type", None)) == _FUNCTION_CALL:
            _warn(step_id, self.item.name, _unknown(getattr(self.item.agent, "name", "")))
            return None
        if self.always:
            stored["always"] = True
        if self.message is not None:
            stored["message"] = codec.encode(self.message)
        fields = {field.name: getattr(self.item, field.name) for field in _FIELDS}
        stored["item"] = {
            field.name: codec.encode(fields[field.name]) for field in _FIELDS if fields[field.name] != field.default
        }
        return stored


def make_again(stored: dict[str, Any], context: Any, journal: Journal, step_id: str) -> None:
    """Make a decision of a remembered step.

    Args:
        stored: what `Decision.to_json` gave.
        context: the context that the step would get.
        journal: the durable run.
        step_id: the step that made it.
    """
    fields = {name: codec.decode(value) for name, value in stored["item"].items()}
    agent = _agent_at(stored.get("agent"), journal)
    if agent is None:
        _warn(step_id, fields.get("tool_name"), _unknown(stored["agent"][0]))
        return
    decode = response_codec.decode_item if "is_model" in stored else codec.decode
    item = ToolApprovalItem(agent=agent, raw_item=decode(stored["call"]), **fields)
    always = stored.get("always", False)
    if stored["approve"]:
        context.approve_tool(item, always_approve=always)
    else:
        message = codec.decode(stored["message"]) if "message" in stored else None
        context.reject_tool(item, always_reject=always, rejection_message=message)


def _place_of(agent: Any, journal: Journal) -> list[Any] | None:
    """Where a later request finds an agent: its name, and how many of that name come before it."""
    wanted = sdk.public_agent(agent)
    same_name = [known for known in sdk.reachable_agents(journal.agents) if known.name == wanted.name]
    return next(([wanted.name, place] for place, known in enumerate(same_name) if known is wanted), None)


def _agent_at(place: list[Any] | None, journal: Journal) -> Any:
    """The agent at a place; any, where the decision holds whoever makes the call; None if it is not there."""
    if place is None:
        return journal.agents[0]
    same_name = [known for known in sdk.reachable_agents(journal.agents) if known.name == place[0]]
    return same_name[place[1]] if place[1] < len(same_name) else None


def _unknown(agent: str) -> str:
    return f"it holds for the agent {agent!r} only, which no handoff and no tool of the run's agents leads to"


def _warn(step_id: str, tool: str | None, why: str) -> None:
    logger.warning(
        "step %r decided on a call of %r, but %s: a later request of the run will not know that decision.",
        step_id,
        tool,
        why,
    )


@sdk.around("agents.run_context", "RunContextWrapper.approve_tool", ("self", "approval_item", "always_approve"))
def _note_approval(original: Any, self: Any, approval_item: Any, always_approve: bool = False) -> None:
    original(self, approval_item, always_approve=always_approve)
    step = current_step()
    if step is not None:
        step.decisions.append(Decision(self, approval_item, approve=True, always=always_approve))


@sdk.around(
    "agents.run_context",
    "RunContextWrapper.reject_tool",
    ("self", "approval_item", "always_reject", "rejection_message"),
)
def _note_rejection(
    original: Any, self: Any, approval_item: Any, always_reject: bool = False, rejection_message: str | None = None
) -> None:
    original(self, approval_item, always_reject=always_reject, rejection_message=rejection_message)
    step = current_step()
    if step is not None:
        step.decisions.append(
            Decision(self, approval_item, approve=False, always=always_reject, message=rejection_message)
        )


__all__ = ["Decision", "make_again"]
