"""Functions for values, MCP servers, local tools and approvals on the engines, with and without checkpointing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import inngest
import pytest
from agents import Agent, CustomTool, RunConfig, ShellTool, function_tool, handoff
from agents.mcp import MCPServerStdio
from agents.run_config import CallModelData, ModelInputData
from agents.testing import ScriptedModel, assistant_message, function_call
from openai.types.responses import ResponseCustomToolCall

from inngest_agents import DurableOptions, DurableRunner

if TYPE_CHECKING:
    from .harness import EngineUnderTest

WEATHER = Path(__file__).parent.parent / "unit" / "instrument" / "mcp_weather.py"

SHELL_CALL: Any = {
    "type": "shell_call",
    "id": "s1",
    "call_id": "s1",
    "status": "completed",
    "action": {"type": "exec", "commands": ["ls"], "timeout_ms": 1000},
}


def build(events: list[str], log: Path) -> Agent[Any]:
    """Two agents that use everything at once; a shell that fails at first."""

    def instructions(context: Any, agent: Any) -> str:
        events.append(f"instructions {agent.name}")
        return f"be kind, number {len(events)}"

    def enabled(context: Any, agent: Any) -> bool:
        events.append(f"enabled {agent.name}")
        return True

    def execute(request: Any) -> str:
        events.append("shell")
        if events.count("shell") == 1:
            raise TimeoutError("the machine does not answer")
        return "a.txt"

    def query(context: Any, given: str) -> str:
        events.append(given)
        return "1"

    async def on_handoff(context: Any) -> None:
        events.append("handoff")

    @function_tool(needs_approval=True)
    def pay(amount: int) -> str:
        events.append(f"pay {amount}")
        return "paid"

    model = ScriptedModel(
        [
            [
                SHELL_CALL,
                ResponseCustomToolCall(type="custom_tool_call", name="sql", call_id="q1", input="select 1"),
                function_call("get_weather", {"city": "Oslo"}, call_id="w1"),
            ],
            [function_call("transfer_to_till", {}, call_id="h1")],
            [function_call("pay", {"amount": 3}, call_id="p1")],
            [assistant_message("all done")],
        ]
    )
    till: Agent[Any] = Agent(name="till", model=model, tools=[pay], instructions=instructions)
    pay.is_enabled = enabled
    server = MCPServerStdio(
        params={"command": sys.executable, "args": [str(WEATHER), str(log)]},
        name="weather",
        client_session_timeout_seconds=30,
    )
    tools: list[Any] = [
        ShellTool(executor=execute),
        CustomTool(name="sql", description="asks", on_invoke_tool=query),
    ]
    return Agent(
        name="desk",
        model=model,
        tools=tools,
        instructions=instructions,
        mcp_servers=[server],
        handoffs=[handoff(till, on_handoff=on_handoff)],
    )


@pytest.mark.parametrize("checkpoint", [True, False])
async def test_everything_that_the_user_wrote_runs_once(
    engine: EngineUnderTest, tmp_path: Path, checkpoint: bool
) -> None:
    events: list[str] = []
    log = tmp_path / "weather.log"
    agent = build(events, log)

    def shorten(data: CallModelData[Any]) -> ModelInputData:
        events.append("filter")
        return ModelInputData(input=data.model_data.input[-4:], instructions=data.model_data.instructions)

    @engine.client.create_function(fn_id="desk", trigger=inngest.TriggerEvent(event="desk"), retries=2)
    async def desk(ctx: inngest.Context) -> Any:
        settings: dict[str, Any] = {
            "step": ctx.step,
            "run_config": RunConfig(call_model_input_filter=shorten, tracing_disabled=True),
            "options": DurableOptions(checkpoint=checkpoint),
        }
        result = await DurableRunner.run(agent, "hello", **settings)
        state = result.to_state()
        for item in state.get_interruptions():
            state.approve(item)
        return (await DurableRunner.run(agent, state, **settings)).to_dict()["final_output"]

    engine.serve([desk])
    outcome = engine.run("desk", timeout=120)
    assert (outcome.status, outcome.output) == ("Completed", "all done")
    assert events.count("shell") == 2  # it failed once
    once = ["select 1", "handoff", "pay 3"]
    assert [events.count(event) for event in once] == [1, 1, 1]
    assert events.count("filter") == 4
    assert (events.count("instructions desk"), events.count("instructions till")) == (2, 2)
    assert events.count("enabled till") == 3  # in two turns, and in the one that was gone on with
    assert log.read_text().splitlines().count("get_weather Oslo") == 1
