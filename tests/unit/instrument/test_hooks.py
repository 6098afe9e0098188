"""Hooks are told of each event once, wherever the run is cut."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import logging
import pickle
from typing import Any

import pytest
from agents import Agent, AgentHooks, RunHooks, Runner, SQLiteSession, Tool, function_tool
from agents.testing import ScriptedModel, assistant_message, function_call

from inngest_agents import DurableRunner
from inngest_agents.testing import replayed


class Told(RunHooks[Any]):
    def __init__(self, events: list[Any]) -> None:
        self.events = events

    async def on_llm_start(self, context: Any, agent: Any, system_prompt: Any, input_items: Any) -> None:
        self.events.append(("llm_start", agent.name, len(input_items)))

    async def on_llm_end(self, context: Any, agent: Any, response: Any) -> None:
        self.events.append(("llm_end", agent.name, response.output[0].type))

    async def on_agent_start(self, context: Any, agent: Any) -> None:
        await asyncio.sleep(0.001)
        self.events.append(("agent_start", agent.name))

    async def on_agent_end(self, context: Any, agent: Any, output: Any) -> None:
        self.events.append(("agent_end", agent.name, output))

    async def on_handoff(self, context: Any, from_agent: Any, to_agent: Any) -> None:
        self.events.append(("handoff", from_agent.name, to_agent.name))

    async def on_tool_start(self, context: Any, agent: Any, tool: Any) -> None:
        self.events.append(("tool_start", tool.name, context.tool_call_id))

    async def on_tool_end(self, context: Any, agent: Any, tool: Any, result: Any) -> None:
        self.events.append(("tool_end", tool.name, result))


class ToldAgent(AgentHooks[Any]):
    def __init__(self, events: list[Any]) -> None:
        self.events = events

    async def on_start(self, context: Any, agent: Any) -> None:
        self.events.append(("start", agent.name))

    async def on_end(self, context: Any, agent: Any, output: Any) -> None:
        self.events.append(("end", agent.name, output))

    async def on_handoff(self, context: Any, agent: Any, source: Any) -> None:
        self.events.append(("handed", agent.name, source.name))

    async def on_tool_start(self, context: Any, agent: Any, tool: Tool) -> None:
        self.events.append(("agent tool_start", tool.name))

    async def on_llm_end(self, context: Any, agent: Any, response: Any) -> None:
        self.events.append(("agent llm_end", agent.name))


def build(events: list[Any]) -> Agent[Any]:
    @function_tool
    async def add(a: int, b: int) -> int:
        return a + b

    sales = Agent(name="sales", model=ScriptedModel([[assistant_message("sold")]]), hooks=ToldAgent(events))
    return Agent(
        name="triage",
        model=ScriptedModel(
            [
                [
                    function_call("add", {"a": 1, "b": 2}, call_id="c1"),
                    function_call("add", {"a": 3, "b": 4}, call_id="c2"),
                ],
                [function_call("transfer_to_sales", {}, call_id="h1")],
            ]
        ),
        tools=[add],
        handoffs=[sales],
        hooks=ToldAgent(events),
    )


async def test_run_hooks_and_agent_hooks_are_told_of_each_event_once() -> None:
    plain: list[Any] = []
    await Runner.run(build(plain), "hi", hooks=Told(plain))
    events: list[Any] = []
    agent = build(events)
    run = await replayed(lambda step: DurableRunner.run(agent, "hi", step=step, hooks=Told(events)))

    assert sorted(map(str, events)) == sorted(map(str, plain))
    assert [event for event in events if "llm" in event[0]] == [event for event in plain if "llm" in event[0]]
    assert len(run.steps) == len(set(run.steps))
    assert {step for step in run.steps if "on_" in step} >= {
        "triage/1 on_agent_start triage",
        "triage/1 triage.on_start",
        "triage/1 on_llm_start triage",
        "triage/1.1 add on_tool_start",
        "triage/1.2 add triage.on_tool_start",
        "triage/2 on_handoff sales",
        "triage/2 triage.on_handoff sales",
        "triage/3 on_agent_start sales",
        "triage/3 sales.on_end",
    }


async def test_hooks_that_listen_to_nothing_cost_nothing() -> None:
    class Quiet(RunHooks[Any]):
        async def on_agent_end(self, context: Any, agent: Any, output: Any) -> None:
            pass

    agent = Agent(name="a", model=ScriptedModel([[assistant_message("x")]]), hooks=AgentHooks())
    run = await replayed(lambda step: DurableRunner.run(agent, "hi", step=step, hooks=Quiet()))
    assert run.steps == ["a/1 model a", "a/1 on_agent_end a"]


async def test_a_hook_that_raises_is_retried_and_then_ends_the_run_with_its_error() -> None:
    attempts = 0

    class Raising(RunHooks[Any]):
        async def on_llm_start(self, *args: Any) -> None:
            nonlocal attempts
            attempts += 1
            raise PermissionError("not now")

    agent = Agent(name="a", model=ScriptedModel([[assistant_message("x")]]))
    with pytest.raises(PermissionError, match="not now"):
        await replayed(lambda step: DurableRunner.run(agent, "hi", step=step, hooks=Raising()), max_attempts=3)
    assert attempts == 3


async def test_wrong_hooks_raise_what_the_plain_runner_raises() -> None:
    agent = Agent(name="a", model=ScriptedModel([[assistant_message("x")]]))
    hooks: Any = AgentHooks()
    with pytest.raises(TypeError) as plain:
        await Runner.run(agent, "hi", hooks=hooks)
    with pytest.raises(TypeError) as durable:
        await replayed(lambda step: DurableRunner.run(agent, "hi", step=step, hooks=hooks))
    assert str(durable.value) == str(plain.value)


async def test_what_a_hook_changes_in_the_input_and_the_response_survives() -> None:
    class Editing(RunHooks[Any]):
        async def on_llm_start(self, context: Any, agent: Any, system_prompt: Any, input_items: list[Any]) -> None:
            input_items.append({"role": "user", "content": "and be brief"})

        async def on_llm_end(self, context: Any, agent: Any, response: Any) -> None:
            response.output[0].content[0].text += "!"

    def agent() -> Agent[Any]:
        return Agent(name="a", model=ScriptedModel([[assistant_message("x")]]))

    one, other = agent(), agent()
    plain = await Runner.run(one, "hi", hooks=Editing())
    run = await replayed(lambda step: DurableRunner.run(other, "hi", step=step, hooks=Editing()))
    assert run.result.final_output == plain.final_output == "x!"
    assert isinstance(one.model, ScriptedModel)
    assert isinstance(other.model, ScriptedModel)
    assert other.model.calls[0].input == one.model.calls[0].input
    assert len(other.model.calls[0].input) == 2


async def test_a_hook_that_changes_the_agent_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    class Renaming(RunHooks[Any]):
        async def on_agent_start(self, context: Any, agent: Any) -> None:
            agent.instructions = "new ones"

    agent = Agent(name="a", model=ScriptedModel([[assistant_message("x")]]))
    with caplog.at_level(logging.WARNING, "inngest_agents"):
        await replayed(lambda step: DurableRunner.run(agent, "hi", step=step, hooks=Renaming()))
    assert "on_agent_start changed the agent 'a' in place" in caplog.text


async def test_hooks_of_a_nested_agent_are_steps_under_its_path() -> None:
    events: list[Any] = []
    inner = Agent(name="inner", model=ScriptedModel([[assistant_message("in")]]), hooks=ToldAgent(events))
    outer = Agent(
        name="outer",
        model=ScriptedModel([[function_call("ask", {"input": "q"}, call_id="c1")], [assistant_message("out")]]),
        tools=[inner.as_tool("ask", "asks")],
    )
    run = await replayed(lambda step: DurableRunner.run(outer, "hi", step=step))
    assert events == [("start", "inner"), ("agent llm_end", "inner"), ("end", "inner", "in")]
    assert "outer/1.1 ask/1 inner.on_start" in run.steps


async def test_the_hooks_attribute_of_agents_is_what_it_was() -> None:
    hooks = ToldAgent([])
    seen: list[Any] = []

    def instructions(context: Any, agent: Agent[Any]) -> str:
        seen.append(agent.hooks)
        seen.append(agent.clone().__dict__["hooks"])
        return "be nice"

    agent = Agent(name="a", hooks=hooks, instructions=instructions, model=ScriptedModel([[assistant_message("x")]]))
    assert agent.hooks is hooks
    assert getattr(Agent, "hooks") is None  # noqa: B009  a type checker refuses instance fields on the class
    assert Agent(name="b").hooks is None
    assert agent.clone(name="c").hooks is hooks
    assert copy.copy(agent).hooks is hooks
    assert dataclasses.replace(agent, hooks=None).hooks is None
    assert pickle.loads(pickle.dumps(Agent(name="p", hooks=AgentHooks()))).hooks is not None
    assert "hooks=None" in repr(Agent(name="r"))
    with pytest.raises(TypeError, match="AgentHooks instance"):
        Agent(name="x", hooks=Told([]))  # type: ignore[arg-type]

    await replayed(lambda step: DurableRunner.run(agent, "hi", step=step))
    assert seen
    assert all(isinstance(found, ToldAgent) for found in seen)
    assert all(found is hooks for found in seen[1::2])
    assert agent.hooks is hooks


async def test_a_streamed_run_tells_its_hooks_once_and_keeps_its_session() -> None:
    plain: list[Any] = []
    await Runner.run(build(plain), "hi", hooks=Told(plain))
    events: list[Any] = []
    agent = build(events)
    session = SQLiteSession("s")

    async def handler(step: Any) -> Any:
        result = DurableRunner.run_streamed(agent, "hi", step=step, hooks=Told(events), session=session)
        async for _ in result.stream_events():
            pass
        return result

    run = await replayed(handler)
    assert sorted(map(str, events)) == sorted(map(str, plain))
    assert run.result.final_output == "sold"
    # At a handoff the SDK's streamed loop looks at the end of the history before it adds to it.
    assert [step for step in run.steps if "session" in step] == [
        "triage/session read",
        "triage/session write",
        "triage/session read:1",
        "triage/session write:1",
    ]
    assert len(await session.get_items()) == 8
