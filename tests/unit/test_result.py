"""`result.to_dict()` is JSON for every type of final output."""

from __future__ import annotations

import copy
import dataclasses
import datetime
import decimal
import enum
import json
import uuid
from typing import Any

import pydantic
import pytest
from agents import Agent, AgentOutputSchema, RunConfig, ToolsToFinalOutputResult, function_tool
from agents.testing import ScriptedModel, assistant_message, function_call

from inngest_agents import DurableRunner
from inngest_agents.result import json_output
from inngest_agents.testing import replayed

NAN = float("nan")
QUIET = RunConfig(tracing_disabled=True)


class Color(enum.Enum):
    RED = "red"


class Line(pydantic.BaseModel):
    item: str
    price: decimal.Decimal = decimal.Decimal("1.50")
    color: Color = Color.RED
    due: datetime.date = pydantic.Field(default=datetime.date(2026, 1, 2), alias="dueDate")
    weight: float = NAN


@dataclasses.dataclass
class Order:
    lines: list[Line]
    notes: Any = None


class Silent:
    def __str__(self) -> str:
        raise RuntimeError("never")


itself: list[Any] = []
itself.append(itself)

LINE = {"item": "mug", "price": "1.50", "color": "red", "dueDate": "2026-01-02", "weight": None}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("text", "text"),
        (None, None),
        (2**70, 2**70),
        (NAN, None),
        ([1.5, float("inf")], [1.5, None]),
        (Line(item="mug"), LINE),
        ([Line(item="mug")], [LINE]),
        (Order([Line(item="mug")], notes=(1, {2})), {"lines": [LINE], "notes": [1, [2]]}),
        ({Color.RED: 1, 2: uuid.UUID(int=0)}, {"red": 1, "2": str(uuid.UUID(int=0))}),
        (datetime.timedelta(hours=1), "PT1H"),
        (b"text", "text"),
        (b"\xff", "b'\\xff'"),
        ("half \ud800", "half \ufffd"),
        (["\ud800"], ["\ufffd"]),
        (pydantic.SecretStr("secret"), "**********"),
        (itself, "[[...]]"),
        (Silent(), "<exception str() failed>"),
    ],
)
def test_every_output_becomes_json(value: Any, expected: Any) -> None:
    plain = json_output(value)
    assert plain == expected
    json.dumps(plain, allow_nan=False, ensure_ascii=False).encode()


async def test_what_a_model_left_at_its_default_is_in_the_output() -> None:
    agent = Agent(
        name="shop",
        model=ScriptedModel([[assistant_message('{"item": "mug"}')]]),
        output_type=AgentOutputSchema(Line, strict_json_schema=False),
    )
    run = await replayed(lambda step: DurableRunner.run(agent, "go", step=step, run_config=QUIET))
    assert isinstance(run.result.final_output, Line)
    assert run.result.to_dict()["final_output"] == LINE


async def test_an_object_that_a_tool_ends_the_run_with_is_json() -> None:
    @function_tool
    def price() -> Line:
        return Line(item="mug", weight=0.5)

    def end(context: Any, results: Any) -> ToolsToFinalOutputResult:
        return ToolsToFinalOutputResult(is_final_output=True, final_output=results[0].output)

    agent = Agent(
        name="shop",
        model=ScriptedModel([[function_call("price", {}, call_id="c1")]]),
        tools=[price],
        tool_use_behavior=end,
        output_type=AgentOutputSchema(Line, strict_json_schema=False),
    )
    run = await replayed(lambda step: DurableRunner.run(agent, "go", step=step, run_config=QUIET))
    assert run.result.to_dict()["final_output"] == {**LINE, "weight": 0.5}


async def test_the_statistics_are_summed_up_when_they_are_read_and_stay_the_same() -> None:
    agent = Agent(name="shop", model=ScriptedModel([[assistant_message("done")]]))
    memos = (await replayed(lambda step: DurableRunner.run(agent, "go", step=step, run_config=QUIET))).memos
    result = (
        await replayed(lambda step: DurableRunner.run(agent, "go", step=step, run_config=QUIET), memos=memos)
    ).result

    taken = copy.copy(result)
    assert taken.stats.total_model_calls == 1
    assert result.stats == taken.stats
    assert result.stats is result.stats
    assert not hasattr(result, "statistics")


def summary_of(run: Any) -> dict[str, Any]:
    [summary] = [memo["data"]["output"] for memo in run.memos.values() if memo["data"]["step"].endswith("/run_stats")]
    assert isinstance(summary, dict)
    return summary


async def test_the_summary_breaks_down_what_is_not_the_total_once_more() -> None:
    helper = Agent(name="helper", model=ScriptedModel([[assistant_message("red")]]))
    alone = Agent(name="shop", model=ScriptedModel([[assistant_message("done")]]))
    asking = Agent(
        name="shop",
        model=ScriptedModel([[function_call("ask", {"input": "?"}, call_id="c1")], [assistant_message("done")]]),
        tools=[helper.as_tool("ask", "Asks")],
    )
    one = summary_of(await replayed(lambda step: DurableRunner.run(alone, "go", step=step, run_config=QUIET)))
    two = summary_of(await replayed(lambda step: DurableRunner.run(asking, "go", step=step, run_config=QUIET)))

    assert {name for name in one if name.startswith("by_")} == {"by_model", "by_tool"}
    assert {name for name in two if name.startswith("by_")} == {"by_model", "by_agent", "by_tool", "by_path"}
    assert (one["total_model_calls"], set(two["by_agent"])) == (1, {"shop", "helper"})
    assert two["by_agent"]["shop"]["model_calls"] == 2
    assert set(one["total"]) == {"seconds"}
