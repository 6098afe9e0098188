"""The budget of a run: what a call needs is checked and held before it is made.

A model call is checked before its step. The tool calls that a response orders are checked together as soon as it is
there, so that none of them starts where not all may. What was let pass once is not checked again: on a replay, steps
that ran in parallel come out of their memos in another order, and the account would look different.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from agents import ModelResponse
from agents.models.interface import Model
from openai.types.responses import ResponseOutputMessage, ResponseOutputText

from inngest_agents._inngest_sdk import hash_step_id
from inngest_agents.budget import BudgetExceeded, Reservation
from inngest_agents.instrument._steps import run_step
from inngest_agents.instrument.accounting import provider_of
from inngest_agents.journal import Journal
from inngest_agents.request.step_request import StepScope
from inngest_agents.scope import Scope, current_scope
from inngest_agents.stats.tokens import count_input_async

_TOOL_CALLS: Final = frozenset(
    {
        "function_call",
        "custom_tool_call",
        "shell_call",
        "local_shell_call",
        "apply_patch_call",
        "computer_call",
    },
)
"""The types of output items that order work from this process; those of hosted tools are done already."""


async def admit_model_call(
    journal: Journal, label: str, *, model: Model, requested: str, inputs: Mapping[str, Any], max_output_tokens: int
) -> Reservation | ModelResponse | None:
    """Check the budget before a model call that has not been made yet.

    Returns:
        What the call holds of the budget; an answer that stands for the model's; None without a budget, or if the call
        has been made already.

    Raises:
        BudgetExceeded: the call would go beyond a limit and nothing answers for the agent.
    """
    ledger = journal.ledger
    if ledger is None or journal.is_done(label):
        return None
    agent = current_scope().agent_name
    error: BudgetExceeded | None = None
    if not journal.is_done(_answer_label(label)):
        counted = await count_input_async(requested, **inputs)
        try:
            return await ledger.check_model_call_async(
                agent, counted.tokens, requested, provider=provider_of(model), max_output_tokens=max_output_tokens
            )
        except BudgetExceeded as exceeded:
            error = exceeded
    return await _answer(journal, label, error)


async def admit_tool_calls(
    journal: Journal, label: str, response: ModelResponse, handoffs: Iterable[Any]
) -> ModelResponse | None:
    """Check the budget before the tool calls that a response orders.

    Args:
        journal: the durable run.
        label: of the model call.
        response: what the model gave back; the places of its calls are known.
        handoffs: of the model call, which are no tool calls.

    Returns:
        An answer that stands for the model's; None where the calls may be made.

    Raises:
        BudgetExceeded: they would go beyond a limit and nothing answers for the agent.
    """
    ledger = journal.ledger
    if ledger is None:
        return None
    scope, label = current_scope(), f"{label} tools"
    agent, names = scope.agent_name, {handoff.tool_name for handoff in handoffs}
    calls = [item for item in map(_Call, response.output) if item.is_ordered and item.name not in names]
    if not calls:
        return None
    if _were_admitted(journal, scope, calls):
        held = [ledger.hold_tool_call(agent) for _ in calls]
    else:
        error: BudgetExceeded | None = None
        if not journal.is_done(_answer_label(label)):
            try:
                held = ledger.check_tool_calls(agent, len(calls))
            except BudgetExceeded as exceeded:
                error = exceeded
        if error is not None or journal.is_done(_answer_label(label)):
            return await _answer(journal, label, error)
    scope.held.update(zip((call.call_id for call in calls), held, strict=True))
    return None


def release_tool_call(journal: Journal, call_id: str, *, is_agent: bool = False) -> None:
    """A tool call has ended: its record counts now, or for an agent the call itself."""
    if journal.ledger is None:
        return
    scope = current_scope()
    reservation = scope.held.pop(call_id, None)
    if reservation is not None:
        journal.ledger.release(reservation)
    if is_agent:
        journal.ledger.count_agent_tool(scope.agent_name)


class _Call:
    """What matters of an output item, which may be an object of the SDK or JSON."""

    def __init__(self, item: Any) -> None:
        values = item if isinstance(item, Mapping) else vars(item)
        self.call_id = str(values.get("call_id") or values.get("id") or "")
        self.name = str(values.get("name") or "")
        self.is_ordered = values.get("type") in _TOOL_CALLS


def _were_admitted(journal: Journal, scope: Scope, calls: Iterable[_Call]) -> bool:
    """Whether an earlier request has let these calls pass: then something of them is remembered."""
    places = [place for call in calls if (place := scope.places.get(call.call_id)) is not None]
    if any(journal.unused(journal.step_id(f"{place}{end}")) for place in places for end in (" ", "/")):
        return True
    # A call that failed for good has no record, but its memo is there.
    return any(
        journal.is_done(f"{scope.places[call.call_id]} {call.name}") for call in calls if call.call_id in scope.places
    )


def _answer_label(label: str) -> str:
    return f"{label} over budget"


async def _answer(journal: Journal, label: str, error: BudgetExceeded | None) -> ModelResponse:
    """What `on_exceeded` says for the agent, asked once, in a step.

    Raises:
        BudgetExceeded: nothing answers for the agent.
    """
    ledger, agent = journal.ledger, current_scope().agent_name
    assert ledger is not None
    if error is not None and not ledger.answers(error):
        raise error

    async def call(_: StepScope) -> Any:
        return await ledger.answer(error) if error is not None else None

    text = await run_step(journal, _answer_label(label), "other", call, name="budget")
    if text is None:
        raise error if error is not None else BudgetExceeded(f"the budget of {agent!r} was used up")
    return _spoken(str(text), label)


def _spoken(text: str, label: str) -> ModelResponse:
    from agents import Usage

    message = ResponseOutputMessage(
        id=f"msg_{hash_step_id(label)[:24]}",
        content=[ResponseOutputText(annotations=[], text=text, type="output_text")],
        role="assistant",
        status="completed",
        type="message",
    )
    return ModelResponse(output=[message], usage=Usage(), response_id=None)
