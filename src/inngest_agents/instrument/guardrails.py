"""Guardrails: each check is a step around the user's function.

So a check runs once and not once per replay, a check that raises is retried by the engine, and what a check that runs
an agent of its own used is noted with its step. A parallel input guardrail and the first model call are asked for
together; on a replay the driver lets the loop settle before it starts a new step, so a remembered tripwire ends the run
before the model would be called again.

Ids: the guardrails of one run are started in the order of their list (the SDK makes their tasks in that order, and
nothing is awaited before the step is asked for), those of one tool call run one after the other. So guardrails of one
name can be counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agents import (
    GuardrailFunctionOutput,
    InputGuardrailResult,
    OutputGuardrail,
    OutputGuardrailResult,
    OutputGuardrailTripwireTriggered,
    ToolGuardrailFunctionOutput,
)

from inngest_agents import _agents_sdk as sdk
from inngest_agents._agents_sdk import around
from inngest_agents.instrument._steps import run_step
from inngest_agents.instrument.tools import is_final, tool_label
from inngest_agents.journal import Journal
from inngest_agents.memos import codec
from inngest_agents.request.step_request import StepScope
from inngest_agents.scope import current_journal, current_scope, is_in_loop


@around("agents.guardrail", "InputGuardrail.run", ("self", "agent", "input", "context"))
async def _run_input(original: Callable[..., Any], self: Any, agent: Any, input: Any, context: Any) -> Any:
    journal = current_journal()
    if journal is None:
        return await original(self, agent, input, context)
    # The first turn may or may not have begun when a parallel guardrail starts.
    turn = max(current_scope().turn, 1)
    label = f"{turn} guardrail {self.get_name()}"
    # Like the first model call, which does not wait for a save either: else its tools might start before the verdict.
    output = await _step(journal, label, self, context, lambda: original(self, agent, input, context), after_save=False)
    return InputGuardrailResult(guardrail=self, output=output)


@around("agents.guardrail", "OutputGuardrail.run", ("self", "context", "agent", "agent_output"))
async def _run_output(original: Callable[..., Any], self: Any, context: Any, agent: Any, agent_output: Any) -> Any:
    journal = current_journal()
    if journal is None:
        return await original(self, context, agent, agent_output)
    label = f"{current_scope().turn} output guardrail {self.get_name()}"
    blocked = _BlockedMessage(agent, context)

    async def check() -> Any:
        result = await original(self, context, agent, agent_output)
        blocked.make(result)
        return result

    output = await _step(journal, label, self, context, check, blocked=blocked)
    return OutputGuardrailResult(guardrail=self, agent=agent, agent_output=agent_output, output=output)


class _BlockedMessage:
    """The text of the user's function for an output of a tool that a guardrail has blocked.

    The SDK calls it in mid-loop without waiting, where there can be no step; so the step of the guardrail has it.
    """

    def __init__(self, agent: Any, context: Any) -> None:
        self._scope = current_scope()
        self._agent = agent
        self._context = context

    def make(self, result: OutputGuardrailResult) -> None:
        """Ask the user's function where the SDK will: the turn has ended with the output of a tool."""
        scope = self._scope
        is_of_tool = any(place.startswith(f"{scope.turn}.") for place in scope.places.values())
        configured = getattr(scope.run_config, "output_guardrail_blocked_message", None)
        if result.output.tripwire_triggered and is_of_tool and callable(configured):
            scope.blocked_message = sdk.blocked_message(
                OutputGuardrailTripwireTriggered(result),
                agent=self._agent,
                run_config=scope.run_config,
                context_wrapper=self._context,
            )

    def stored(self) -> dict[str, Any] | None:
        """The text as JSON, if there is one."""
        return None if self._scope.blocked_message is None else {"blocked_message": self._scope.blocked_message}

    def restore(self, stored: dict[str, Any]) -> None:
        """The text as it was stored."""
        self._scope.blocked_message = stored.get("blocked_message")


@around("agents.run_internal.blocked_output", "_resolve_output_guardrail_blocked_message", ("tripwire",))
def _blocked_message(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    known = current_scope().blocked_message if current_journal() is not None and is_in_loop() else None
    return original(*args, **kwargs) if known is None else known


@around("agents.tool_guardrails", "ToolInputGuardrail.run", ("self", "data"))
async def _run_tool_input(original: Callable[..., Any], self: Any, data: Any) -> Any:
    return await _run_tool(original, self, data, "input guardrail")


@around("agents.tool_guardrails", "ToolOutputGuardrail.run", ("self", "data"))
async def _run_tool_output(original: Callable[..., Any], self: Any, data: Any) -> Any:
    return await _run_tool(original, self, data, "output guardrail")


async def _run_tool(original: Callable[..., Any], self: Any, data: Any, what: str) -> Any:
    journal = current_journal()
    if journal is None:
        return await original(self, data)
    call_id = data.context.tool_call_id
    label = f"{tool_label(data.context.tool_name, call_id)} {what} {self.get_name()}"
    return await _step(journal, label, self, data.context, lambda: original(self, data), call_id=call_id)


async def _step(
    journal: Journal,
    label: str,
    guardrail: Any,
    context: Any,
    check: Callable[[], Any],
    *,
    call_id: str = "",
    blocked: _BlockedMessage | None = None,
    after_save: bool = True,
) -> Any:
    async def call(_: StepScope) -> Any:
        result = await check()
        return result.output if isinstance(result, (InputGuardrailResult, OutputGuardrailResult)) else result

    label = current_scope().repeated(label)
    is_remembered = journal.is_done(label)
    output = await run_step(
        journal,
        label,
        "guardrail",
        call,
        name=guardrail.get_name(),
        call_id=call_id,
        encode=_encode,
        decode=_decode,
        extra=blocked.stored if blocked is not None else None,
        restore=blocked.restore if blocked is not None else None,
        is_final=is_final,
        context=context,
        after_save=after_save,
        functions=(guardrail.guardrail_function,),
    )
    if is_remembered and _cancels_others(guardrail, output):
        # What had ended beside it is part of what the SDK tells of the run, and of what it saves.
        await journal.driver.let_others_ask()
    return output


def _cancels_others(guardrail: Any, output: Any) -> bool:
    """Whether the SDK cancels what runs beside a check: other tool calls, or the other checks of an output.

    Not so beside an input guardrail: a streamed run goes on until its consumer has seen the verdict.
    """
    if isinstance(output, GuardrailFunctionOutput):
        return isinstance(guardrail, OutputGuardrail) and bool(output.tripwire_triggered)
    return isinstance(output, ToolGuardrailFunctionOutput) and output.behavior["type"] == "raise_exception"


def _encode(output: Any) -> Any:
    """What a guardrail returned, part by part: its data may be of any type, its verdict must come back as it was."""
    encoded = codec.encode(output)
    exact = type(output) in (GuardrailFunctionOutput, ToolGuardrailFunctionOutput)
    if not exact and not codec.is_text(encoded):
        return {"other": encoded}
    if isinstance(output, GuardrailFunctionOutput):
        return {"info": codec.encode(output.output_info), "tripped": codec.encode(output.tripwire_triggered)}
    if isinstance(output, ToolGuardrailFunctionOutput):
        return {"info": codec.encode(output.output_info), "behavior": codec.encode(output.behavior)}
    return {"other": encoded}


def _decode(stored: dict[str, Any]) -> Any:
    if "tripped" in stored:
        return GuardrailFunctionOutput(codec.decode(stored["info"]), codec.decode(stored["tripped"]))
    if "behavior" in stored:
        return ToolGuardrailFunctionOutput(codec.decode(stored["info"]), codec.decode(stored["behavior"]))
    return codec.decode(stored["other"])
