"""A session that fails in a run that goes on from a `RunState`: the state knows what is left undone."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from agents import (
    Agent,
    GuardrailFunctionOutput,
    OutputGuardrail,
    OutputGuardrailTripwireTriggered,
    Runner,
    RunState,
    SQLiteSession,
    function_tool,
)
from agents.testing import ScriptedModel, assistant_message, function_call

from inngest_agents import DurableRunner
from inngest_agents.testing import replayed


def cleaner(deleted: list[str], **options: Any) -> Agent[Any]:
    """An agent that deletes "/a" once that is approved, which is noted, and says "clean"."""

    @function_tool(needs_approval=True)
    def delete(path: str) -> str:
        deleted.append(path)
        return f"deleted {path}"

    script: list[Any] = [[function_call("delete", {"path": "/a"}, call_id="c1")], [assistant_message("clean")]]
    return Agent(name="a", model=ScriptedModel(script), tools=[delete], **options)


class FailingSession(SQLiteSession):
    """Refuses additions while it is told to."""

    is_broken = False

    async def add_items(self, items: list[Any]) -> None:
        if self.is_broken:
            raise RuntimeError("the disk is full")
        await super().add_items(items)


@pytest.mark.parametrize("durable", [False, True])
async def test_a_write_that_failed_is_made_up_for_and_the_tool_does_not_run_again(
    tmp_path: Path, durable: bool
) -> None:
    deleted: list[str] = []
    agent = cleaner(deleted)
    session = FailingSession("s", tmp_path / "s.db")

    async def run(given: Any) -> Any:
        if not durable:
            return await Runner.run(agent, given, session=session)
        return (await replayed(lambda step: DurableRunner.run(agent, given, session=session, step=step))).result

    state = (await run("clean up")).to_state()
    state.approve(state.get_interruptions()[0])
    session.is_broken = True
    with pytest.raises(RuntimeError, match="the disk is full"):
        await run(state)
    session.is_broken = False
    result = await run(await RunState.from_json(agent, state.to_json()))

    assert result.final_output == "clean"
    assert deleted == ["/a"]
    kinds = [item.get("type", item.get("role")) for item in await session.get_items()]
    assert kinds == ["user", "function_call", "function_call_output", "message"]


async def test_a_request_that_ends_in_an_output_guardrail_of_a_resumed_run_lets_the_sdk_save_nothing(
    tmp_path: Path,
) -> None:
    # The SDK takes the cancellation of an output guardrail for a reason to save to the session, which nobody answers.
    checked: list[Any] = []

    async def check(_: Any, __: Any, output: Any) -> GuardrailFunctionOutput:
        checked.append(output)
        return GuardrailFunctionOutput(output_info=None, tripwire_triggered=False)

    agent = cleaner([], output_guardrails=[OutputGuardrail(check, name="check")])
    session = SQLiteSession("s", tmp_path / "s.db")

    async def run(given: Any) -> Any:
        return (await replayed(lambda step: DurableRunner.run(agent, given, session=session, step=step))).result

    state = (await run("clean up")).to_state()
    state.approve(state.get_interruptions()[0])
    result = await asyncio.wait_for(run(state), 20)

    assert result.final_output == "clean"
    assert checked == ["clean"]
    kinds = [item.get("type", item.get("role")) for item in await session.get_items()]
    assert kinds == ["user", "function_call", "function_call_output", "message"]


class HalfSession(SQLiteSession):
    """Stores the first half of an addition and then fails, once."""

    is_broken = False
    additions = 0

    async def add_items(self, items: list[Any]) -> None:
        self.additions += 1
        if self.is_broken:
            self.is_broken = False
            await super().add_items(items[: len(items) // 2])
            raise RuntimeError("the disk is full")
        await super().add_items(items)


@pytest.mark.parametrize("durable", [False, True])
async def test_a_write_that_failed_is_not_tried_again_behind_the_back_of_the_sdk(tmp_path: Path, durable: bool) -> None:
    agent = cleaner([])
    session = HalfSession("s", tmp_path / "s.db")

    async def run(given: Any) -> Any:
        if not durable:
            return await Runner.run(agent, given, session=session)
        return (await replayed(lambda step: DurableRunner.run(agent, given, session=session, step=step))).result

    state = (await run("clean up")).to_state()
    state.approve(state.get_interruptions()[0])
    before, session.is_broken = session.additions, True
    with pytest.raises(RuntimeError, match="the disk is full"):
        await run(state)
    assert session.additions == before + 1


async def test_a_resumed_streamed_run_whose_blocked_output_is_saved_ends_in_its_tripwire(tmp_path: Path) -> None:
    # The SDK hands the cancellation of that save on as an error of its own, in place of the end of the request.
    async def block(*_: Any) -> GuardrailFunctionOutput:
        return GuardrailFunctionOutput(output_info=None, tripwire_triggered=True)

    guardrail = OutputGuardrail(block, name="block")
    agent = cleaner([], output_guardrails=[guardrail], tool_use_behavior="stop_on_first_tool")
    session = SQLiteSession("s", tmp_path / "s.db")

    async def run(given: Any) -> Any:
        async def handler(step: Any) -> Any:
            return await DurableRunner.run_streamed(agent, given, session=session, step=step).wait()

        return (await replayed(handler)).result

    state = (await run("clean up")).to_state()
    state.approve(state.get_interruptions()[0])
    with pytest.raises(OutputGuardrailTripwireTriggered):
        await asyncio.wait_for(run(state), 20)
