"""Runs that were recorded by each version of what steps store are replayed by today's code.

`v1.json` holds what an engine had stored at the end of the run below. A change of the stored form raises
`memo_head.SCHEMA_VERSION`, keeps the files of all earlier versions, and adds one:
`RECORD=1 pytest tests/unit/recorded`.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
from pathlib import Path
from typing import Any

import pytest
from agents import (
    Agent,
    GuardrailFunctionOutput,
    InputGuardrail,
    ModelResponse,
    RunContextWrapper,
    RunHooks,
    SQLiteSession,
    Usage,
    function_tool,
)
from agents.models.interface import Model
from agents.testing import assistant_message, function_call

from inngest_agents import DurableRunner
from inngest_agents.memos.memo_head import SCHEMA_VERSION
from inngest_agents.testing import replayed

FOLDER = Path(__file__).parent
VERSIONS = sorted(path.stem for path in FOLDER.glob("v*.json"))


@dataclasses.dataclass
class Basket:
    items: list[str] = dataclasses.field(default_factory=list)


class Scripted(Model):
    """Answers by the number of outputs in its input; counts its calls."""

    def __init__(self, answers: list[list[Any]], executed: list[str]) -> None:
        self.answers = answers
        self.executed = executed

    async def get_response(self, system_instructions: Any, input: Any, *args: Any, **kwargs: Any) -> ModelResponse:
        calls = {call.call_id for answer in self.answers for call in answer if hasattr(call, "call_id")}
        outputs = [item for item in input if isinstance(item, dict) and item.get("call_id") in calls]
        turn = sum(item.get("type", "").endswith("_output") for item in outputs)
        self.executed.append(f"model {turn}")
        usage = Usage(requests=1, input_tokens=10 + turn, output_tokens=2, total_tokens=12 + turn)
        return ModelResponse(output=self.answers[turn], usage=usage, response_id=f"resp_{turn}")

    def stream_response(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError


def shop(executed: list[str]) -> Agent[Basket]:
    """An agent that uses much of what is stored: typed values, context, a guardrail, a nested agent, a failure."""

    @function_tool
    async def add(ctx: RunContextWrapper[Basket], item: str) -> tuple[str, datetime.date]:
        executed.append(f"add {item}")
        ctx.context.items.append(item)
        return item, datetime.date(2026, 1, 2)

    @function_tool
    async def broken() -> str:
        executed.append("broken")
        raise LookupError("shelf is empty")

    async def fine(ctx: Any, agent: Any, input: Any) -> GuardrailFunctionOutput:
        executed.append("guardrail")
        return GuardrailFunctionOutput({"checked": True}, tripwire_triggered=False)

    helper: Agent[Basket] = Agent(name="helper", model=Scripted([[assistant_message("take the red one")]], executed))
    answers: list[list[Any]] = [
        [function_call("add", {"item": "mug"}, call_id="c1")],
        [function_call("broken", {}, call_id="c2")],
        [function_call("ask", {"input": "which?"}, call_id="c3")],
        [assistant_message("one red mug")],
    ]
    return Agent(
        name="shop",
        model=Scripted(answers, executed),
        tools=[add, broken, helper.as_tool("ask", "Asks the helper")],
        input_guardrails=[InputGuardrail(fine, name="fine")],
    )


class Told(RunHooks[Basket]):
    def __init__(self, executed: list[str]) -> None:
        self.executed = executed

    async def on_agent_end(self, context: Any, agent: Any, output: Any) -> None:
        self.executed.append(f"end {agent.name}")


async def run(memos: dict[str, Any] | None = None) -> tuple[Any, list[str], Basket]:
    executed: list[str] = []
    baskets: list[Basket] = []

    async def handler(step: Any) -> Any:
        baskets.append(Basket())
        return await DurableRunner.run(
            shop(executed),
            "a mug, please",
            step=step,
            context=baskets[-1],
            hooks=Told(executed),
            session=SQLiteSession("recorded"),
        )

    outcome = await replayed(handler, memos=memos)
    return outcome, executed, baskets[-1]


def facts(outcome: Any, basket: Basket) -> dict[str, Any]:
    """What a run came to, as JSON."""
    stats = outcome.result.stats.to_dict(durations=False)
    outputs = [repr(item.output) for item in outcome.result.new_items if hasattr(item, "output")]
    as_stored: dict[str, Any] = json.loads(
        json.dumps(
            {
                "final_output": outcome.result.final_output,
                "outputs": outputs,
                "basket": basket.items,
                "stats": {name: stats[name] for name in ("total_model_calls", "total_tool_calls", "total_tokens")},
                "agents": stats["agents_involved"],
            }
        )
    )
    return as_stored


@pytest.mark.skipif("RECORD" not in os.environ, reason="only to record a new version of what is stored")
async def test_record() -> None:
    outcome, _, basket = await run()
    recorded = {"facts": facts(outcome, basket), "steps": outcome.steps, "memos": outcome.memos}
    path = FOLDER / f"v{SCHEMA_VERSION}.json"
    text = json.dumps(recorded, indent=1, sort_keys=True)
    path.write_text(text.replace(str(FOLDER.parents[2]), "/app") + "\n")  # the traceback names no one's own folder


def test_there_is_a_recording_of_every_version() -> None:
    assert [f"v{version}" for version in range(1, SCHEMA_VERSION + 1)] == VERSIONS


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_run_recorded_by_a_version_ends_the_same_and_runs_nothing(version: str) -> None:
    recorded = json.loads((FOLDER / f"{version}.json").read_text())

    outcome, executed, basket = await run(recorded["memos"])

    assert executed == []
    assert outcome.steps == []
    assert facts(outcome, basket) == recorded["facts"]


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_run_begun_by_a_version_is_ended_by_today_s(version: str) -> None:
    recorded = json.loads((FOLDER / f"{version}.json").read_text())
    half = dict(list(recorded["memos"].items())[: len(recorded["memos"]) // 2])
    begun = {hashed for hashed, memo in recorded["memos"].items() if hashed in half}

    outcome, executed, basket = await run({hashed: recorded["memos"][hashed] for hashed in begun})

    assert facts(outcome, basket) == recorded["facts"]
    assert executed
