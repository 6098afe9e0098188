"""Guardrails, sessions, hooks and changes of the context on the engines, with and without checkpointing."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import inngest
import pytest
from agents import (
    Agent,
    GuardrailFunctionOutput,
    InputGuardrail,
    OutputGuardrail,
    RunContextWrapper,
    RunHooks,
    SQLiteSession,
    function_tool,
)
from agents.testing import ScriptedModel, assistant_message, function_call

from inngest_agents import DurableOptions, DurableRunner

if TYPE_CHECKING:
    from .harness import EngineUnderTest


@dataclasses.dataclass
class Shop:
    calls: int = 0
    orders: dict[str, str] = dataclasses.field(default_factory=dict)
    color: str = ""


class Told(RunHooks[Any]):
    def __init__(self, events: list[str]) -> None:
        self.events = events

    async def on_agent_end(self, context: Any, agent: Any, output: Any) -> None:
        self.events.append(f"end {output}")

    async def on_tool_start(self, context: Any, agent: Any, tool: Any) -> None:
        self.events.append(f"tool {context.tool_call_id}")


def build(events: list[str], *, trip: bool = False, conflict: bool = False) -> Agent[Any]:
    @function_tool
    async def order(ctx: RunContextWrapper[Shop], what: str) -> str:
        events.append(f"order {what}")
        ctx.context.calls += 1
        ctx.context.orders[what] = "ordered"
        if conflict:
            ctx.context.color = what
        return f"{what}: {len(ctx.context.orders) > 0}"

    async def allowed(ctx: Any, agent: Any, input: Any) -> GuardrailFunctionOutput:
        events.append("input checked")
        return GuardrailFunctionOutput({"input": input}, tripwire_triggered=trip)

    async def polite(ctx: Any, agent: Any, output: Any) -> GuardrailFunctionOutput:
        events.append(f"output checked {ctx.context.calls}")
        return GuardrailFunctionOutput(None, tripwire_triggered=False)

    calls: list[Any] = [function_call("order", {"what": what}, call_id=what) for what in ("red", "blue")]
    return Agent(
        name="shop",
        model=ScriptedModel([calls, [assistant_message("ordered")]]),
        tools=[order],
        input_guardrails=[InputGuardrail(allowed, name="allowed")],
        output_guardrails=[OutputGuardrail(polite, name="polite")],
    )


@pytest.mark.parametrize("checkpoint", [True, False])
def test_all_of_the_users_code_runs_once(engine: EngineUnderTest, tmp_path: Path, checkpoint: bool) -> None:
    events: list[str] = []
    agent = build(events)
    path = tmp_path / "session.db"

    @engine.client.create_function(fn_id="seams", trigger=inngest.TriggerEvent(event="go"))
    async def fn(ctx: inngest.Context) -> Any:
        shop = Shop()
        result = await DurableRunner.run(
            agent,
            "order both",
            step=ctx.step,
            context=shop,
            hooks=Told(events),
            session=SQLiteSession("s", path),
            options=DurableOptions(checkpoint=checkpoint),
        )
        return {"shop": dataclasses.asdict(shop), "info": result.input_guardrail_results[0].output.output_info}

    engine.serve([fn])
    outcome = engine.run("go")
    assert outcome.status == "Completed", outcome.output
    shop = outcome.output["shop"]
    assert shop["orders"] == {"red": "ordered", "blue": "ordered"}
    assert shop["calls"] == 2
    assert outcome.output["info"] == {"input": [{"content": "order both", "role": "user"}]}
    assert sorted(events) == [
        "end ordered",
        "input checked",
        "order blue",
        "order red",
        "output checked 2",
        "tool blue",
        "tool red",
    ]

    async def stored() -> list[Any]:
        return await SQLiteSession("s", path).get_items()

    import asyncio

    kinds = [item.get("type") or item.get("role") for item in asyncio.run(stored())]
    assert kinds == ["user", "function_call", "function_call", *["function_call_output"] * 2, "message"]


@pytest.mark.parametrize("checkpoint", [True, False])
def test_a_tripped_guardrail_fails_the_run_once(engine: EngineUnderTest, tmp_path: Path, checkpoint: bool) -> None:
    events: list[str] = []
    agent = build(events, trip=True)

    @engine.client.create_function(fn_id="trip", trigger=inngest.TriggerEvent(event="go"), retries=3)
    async def fn(ctx: inngest.Context) -> Any:
        session = SQLiteSession("s", tmp_path / "session.db")
        options = DurableOptions(checkpoint=checkpoint)
        await DurableRunner.run(agent, "hi", step=ctx.step, context=Shop(), session=session, options=options)

    engine.serve([fn])
    outcome = engine.run("go")
    assert outcome.status == "Failed"
    assert "InputGuardrailTripwireTriggered" in str(outcome.output)
    assert events == ["input checked"]


@pytest.mark.parametrize("checkpoint", [True, False])
def test_a_conflict_in_the_context_fails_the_run_and_names_the_field(engine: EngineUnderTest, checkpoint: bool) -> None:
    agent = build([], conflict=True)

    @engine.client.create_function(fn_id="conflict", trigger=inngest.TriggerEvent(event="go"), retries=3)
    async def fn(ctx: inngest.Context) -> Any:
        options = DurableOptions(checkpoint=checkpoint)
        await DurableRunner.run(agent, "hi", step=ctx.step, context=Shop(), options=options)

    engine.serve([fn])
    outcome = engine.run("go")
    assert outcome.status == "Failed"
    assert "ContextConflictError" in str(outcome.output)
    assert "'color'" in str(outcome.output)
