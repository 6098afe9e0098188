"""The text in place of a tool's output that a guardrail has blocked is asked for once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from agents import (
    Agent,
    GuardrailFunctionOutput,
    OutputGuardrail,
    OutputGuardrailTripwireTriggered,
    RunConfig,
    Runner,
    SQLiteSession,
    function_tool,
)
from agents.testing import ScriptedModel, function_call

from inngest_agents import DurableRunner
from inngest_agents.testing import replayed


def block(*_: Any) -> GuardrailFunctionOutput:
    return GuardrailFunctionOutput(output_info=None, tripwire_triggered=True)


@pytest.mark.parametrize("durable", [False, True])
async def test_the_users_function_is_called_once_and_its_text_is_stored_in_the_session(
    tmp_path: Path, durable: bool
) -> None:
    asked: list[str] = []

    def text(args: Any) -> str:
        asked.append(args.guardrail_name)
        return f"withheld {len(asked)}"

    @function_tool
    def look_up() -> str:
        return "secret"

    agent = Agent(
        name="a",
        model=ScriptedModel([[function_call("look_up", {}, call_id="c1")]]),
        tools=[look_up],
        tool_use_behavior="stop_on_first_tool",
        output_guardrails=[OutputGuardrail(block, name="strict")],
    )
    session = SQLiteSession("s", tmp_path / "s.db")
    config = RunConfig(output_guardrail_blocked_message=text)

    async def run() -> Any:
        if durable:
            return await replayed(
                lambda step: DurableRunner.run(agent, "hi", step=step, session=session, run_config=config)
            )
        return await Runner.run(agent, "hi", session=session, run_config=config)

    with pytest.raises(OutputGuardrailTripwireTriggered):
        await run()
    assert asked == ["strict"]
    stored = str(await session.get_items())
    assert "withheld 1" in stored
    assert "secret" not in stored
