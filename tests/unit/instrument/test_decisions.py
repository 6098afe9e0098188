"""Approvals and rejections that the user's code makes on the context inside a step hold in later requests, too."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
from agents import (
    Agent,
    ApplyPatchTool,
    CustomTool,
    RunConfig,
    RunContextWrapper,
    RunHooks,
    Runner,
    ShellTool,
    ToolApprovalItem,
    ToolExecutionConfig,
    ToolGuardrailFunctionOutput,
    function_tool,
    tool_input_guardrail,
)
from agents.editor import ApplyPatchResult
from agents.testing import ScriptedModel, assistant_message, function_call
from agents.tool_context import ToolContext
from openai.types.responses import ResponseCustomToolCall
from oracle import both

from inngest_agents import DurableRunner
from inngest_agents.testing import ReplayedRun, replayed

DONE: Any = [assistant_message("done")]
Decide = Callable[[Any, Any], Any]


def approve_always(context: Any, item: Any) -> None:
    context.approve_tool(item, always_approve=True)


def approve_once(context: Any, item: Any) -> None:
    context.approve_tool(item)


def reject_always(context: Any, item: Any) -> None:
    context.reject_tool(item, always_reject=True, rejection_message="no, never")


def reject_once(context: Any, item: Any) -> None:
    context.reject_tool(item, rejection_message="not this one")


def shell_call(call_id: str) -> Any:
    action = {"type": "exec", "commands": [f"ls {call_id}"], "timeout_ms": 1000}
    return {"type": "shell_call", "id": f"id {call_id}", "call_id": call_id, "status": "completed", "action": action}


def patch_call(call_id: str) -> Any:
    operation = {"type": "delete_file", "path": f"{call_id}.txt"}
    return {
        "type": "apply_patch_call",
        "id": f"id {call_id}",
        "call_id": call_id,
        "status": "completed",
        "operation": operation,
    }


def sql_call(call_id: str) -> Any:
    return ResponseCustomToolCall(type="custom_tool_call", name="sql", call_id=call_id, input=f"select {call_id}")


class Editor:
    def create_file(self, operation: Any) -> Any:
        raise NotImplementedError

    update_file = create_file

    def delete_file(self, operation: Any) -> Any:
        return ApplyPatchResult(status="completed", output=f"{operation.path} is gone")


KINDS: dict[str, tuple[Callable[..., Any], Callable[[str], Any]]] = {
    "shell": (lambda **options: ShellTool(executor=lambda request: "ok", **options), shell_call),
    "apply_patch": (lambda **options: ApplyPatchTool(editor=Editor(), **options), patch_call),
    "custom": (
        lambda **options: CustomTool(
            name="sql", description="asks", on_invoke_tool=lambda context, given: "1", **options
        ),
        sql_call,
    ),
}


@pytest.mark.parametrize(
    ("decide", "calls"),
    [(approve_always, 1), (approve_once, 3), (reject_always, 1), (reject_once, 3)],
    ids=["approve always", "approve once", "reject always", "reject once"],
)
@pytest.mark.parametrize("kind", list(KINDS))
async def test_an_on_approval_that_decides_on_the_context_only(kind: str, decide: Decide, calls: int) -> None:
    make, call = KINDS[kind]
    asked: list[str] = []

    async def on_approval(context: Any, item: Any) -> None:
        asked.append(item.call_id)
        decide(context, item)

    tool = make(needs_approval=True, on_approval=on_approval)
    result = await both(
        lambda model: Agent(name="a", model=model, tools=[tool]),
        lambda: [[call("s1"), call("s2")], [call("s3")], DONE],
    )
    assert result.durable.interruptions == []
    assert asked == ["s1", "s2", "s3"][:calls] * 2


@function_tool(needs_approval=True)
async def charge(amount: int) -> str:
    return f"charged {amount}"


def charging(amount: int, call_id: str) -> Any:
    return function_call("charge", {"amount": amount}, call_id=call_id)


def allowing(decide: Decide) -> Any:
    """A tool that decides on the calls of another one."""

    @function_tool
    async def allow(ctx: ToolContext[Any]) -> str:
        agent: Any = ctx.agent
        decide(ctx, ToolApprovalItem(agent=agent, raw_item=charging(7, "c2")))
        return "decided"

    return allow


ALLOW = function_call("allow", {}, call_id="c1")


@pytest.mark.parametrize("decide", [approve_always, approve_once, reject_always, reject_once])
async def test_a_tool_that_decides_on_a_later_call_of_another(decide: Decide) -> None:
    result = await both(
        lambda model: Agent(name="a", model=model, tools=[allowing(decide), charge]),
        lambda: [[ALLOW], [charging(7, "c2")], DONE],
    )
    assert result.durable.interruptions == []


def rebuilt(script: list[Any], tools: list[Any], **agent: Any) -> Callable[[], Agent[Any]]:
    """Makes the agents anew, as a function does in each request; beside the one is another of the same name."""
    model = ScriptedModel(script)

    def build() -> Agent[Any]:
        other: Agent[Any] = Agent(name="a", model=model, tools=tools)
        return Agent(name="a", model=model, tools=tools, handoffs=[other], **agent)

    return build


async def durably(build: Callable[[], Agent[Any]], **kwargs: Any) -> ReplayedRun[Any]:
    return await replayed(lambda step: DurableRunner.run(build(), "hi", step=step, **kwargs))


async def test_a_decision_holds_for_the_same_agent_where_each_request_makes_it_anew() -> None:
    run = await durably(rebuilt([[ALLOW], [charging(7, "c2")], DONE], [allowing(approve_always), charge]))
    assert (run.result.final_output, run.result.interruptions) == ("done", [])


async def test_a_decision_holds_for_the_agent_that_was_meant_and_not_for_its_namesake() -> None:
    @function_tool
    async def allow(ctx: ToolContext[Any]) -> str:
        current: Any = ctx.agent
        ctx.approve_tool(ToolApprovalItem(agent=current.handoffs[0], raw_item=charging(7, "c0")), always_approve=True)
        return "decided"

    run = await durably(rebuilt([[ALLOW], [charging(7, "c2")], DONE], [allow, charge]))
    assert [item.name for item in run.result.interruptions] == ["charge"]


async def test_hooks_and_guardrails_and_needs_approval_may_decide_too() -> None:
    class Hooks(RunHooks[Any]):
        async def on_llm_end(self, context: Any, agent: Any, response: Any) -> None:
            for call in response.output:
                if getattr(call, "call_id", "") == "hook":
                    context.approve_tool(ToolApprovalItem(agent=agent, raw_item=call))

    asked: list[str] = []

    def build(model: ScriptedModel) -> Agent[Any]:
        async def needs_approval(context: RunContextWrapper[Any], arguments: Any, call_id: str) -> bool:
            asked.append(call_id)
            if call_id == "function":
                context.reject_tool(ToolApprovalItem(agent=agent, raw_item=charging(7, call_id)))
            return True

        @tool_input_guardrail
        async def check(data: Any) -> ToolGuardrailFunctionOutput:
            data.context.approve_tool(ToolApprovalItem(agent=data.agent, raw_item=data.context.tool_call))
            return ToolGuardrailFunctionOutput.allow()

        @function_tool(needs_approval=needs_approval, tool_input_guardrails=[check])
        async def charge(amount: int) -> str:
            return f"charged {amount}"

        agent: Agent[Any] = Agent(name="a", model=model, tools=[charge])
        return agent

    result = await both(
        build,
        lambda: [[charging(7, "hook")], [charging(7, "function")], [charging(7, "guardrail")], DONE],
        hooks=Hooks(),
        run_config=RunConfig(tool_execution=ToolExecutionConfig(pre_approval_tool_input_guardrails=True)),
    )
    assert result.durable.interruptions == []
    assert asked == ["function", "guardrail"] * 2


@pytest.mark.parametrize("is_streamed", [False, True], ids=["run", "streamed"])
async def test_a_hook_that_decides_before_the_first_turn(is_streamed: bool) -> None:
    class Hooks(RunHooks[Any]):
        async def on_agent_start(self, context: Any, agent: Any) -> None:
            context.approve_tool(ToolApprovalItem(agent=agent, raw_item=charging(7, "c2")), always_approve=True)

    build = rebuilt([[charging(7, "c2")], DONE], [charge])

    async def handler(step: Any) -> Any:
        if not is_streamed:
            return await DurableRunner.run(build(), "hi", step=step, hooks=Hooks())
        result = DurableRunner.run_streamed(build(), "hi", step=step, hooks=Hooks())
        await result.wait()
        return result

    assert (await replayed(handler)).result.final_output == "done"


async def test_a_decision_inside_an_agent_tool_holds_there() -> None:
    def build(model: ScriptedModel) -> Agent[Any]:
        inner: Agent[Any] = Agent(name="inner", model=model, tools=[allowing(approve_always), charge])
        return Agent(name="outer", model=model, tools=[inner.as_tool("ask", "asks")])

    ask = function_call("ask", {"input": "q"}, call_id="c0")
    result = await both(build, lambda: [[ask], [ALLOW], [charging(7, "c2")], DONE, DONE])
    assert result.durable.interruptions == []


async def test_a_decision_on_a_call_of_an_agent_that_no_request_can_find_is_warned_about(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stranger: Agent[Any] = Agent(name="stranger")

    @function_tool
    async def allow(ctx: ToolContext[Any]) -> str:
        ctx.approve_tool(ToolApprovalItem(agent=stranger, raw_item=charging(7, "c0")))
        return "decided"

    with caplog.at_level(logging.WARNING, logger="inngest_agents"):
        run = await durably(rebuilt([[ALLOW], DONE], [allow]))
    assert run.result.final_output == "done"
    assert "'a/1.1 allow' decided on a call of 'charge'" in caplog.text
    assert "'stranger'" in caplog.text
    assert "decisions" not in json.dumps(run.memos)


async def test_what_a_plain_run_inside_a_tool_decides_is_its_own() -> None:
    on_approval: Any = approve_always
    shell = ShellTool(executor=lambda request: "ok", needs_approval=True, on_approval=on_approval)

    @function_tool
    async def ask() -> str:
        inner: Agent[Any] = Agent(name="inner", model=ScriptedModel([[shell_call("s1")], DONE]), tools=[shell])
        return str((await Runner.run(inner, "q")).final_output)

    run = await durably(rebuilt([[function_call("ask", {}, call_id="c0")], DONE], [ask]))
    assert run.result.final_output == "done"
    assert "decisions" not in json.dumps(run.memos)
