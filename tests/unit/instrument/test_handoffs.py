"""Handoffs lead where they lead under plain `Runner`, and what the user wrote for them runs once."""

from __future__ import annotations

import copy
from typing import Any, cast

import pydantic
import pytest
from agents import (
    Agent,
    Handoff,
    HandoffInputData,
    ModelBehaviorError,
    RunConfig,
    Runner,
    RunResultStreaming,
    UserError,
    function_tool,
    handoff,
)
from agents.extensions import handoff_filters
from agents.handoffs import nest_handoff_history
from agents.items import MessageOutputItem
from agents.run_internal.items import ensure_nested_history_run_item_occurrence_key
from agents.testing import ScriptedModel, assistant_message, function_call
from openai.types.responses import ResponseOutputMessage, ResponseOutputText
from oracle import both

from inngest_agents import DurableRunner
from inngest_agents._agents_sdk import occurrence_key
from inngest_agents.instrument.items import decode_run_items, encode_run_items, snapshot
from inngest_agents.testing import replayed


@function_tool
def add(a: int, b: int) -> int:
    return a + b


def tool_then_handoff() -> list[Any]:
    return [
        [assistant_message("let me see"), function_call("add", {"a": 1, "b": 2}, call_id="c1")],
        [function_call("transfer_to_sales", {}, call_id="h1")],
        [assistant_message("sold")],
    ]


class Reason(pydantic.BaseModel):
    reason: str


async def test_handoffs_to_agents_cost_no_step() -> None:
    def build(model: ScriptedModel) -> Agent[Any]:
        return Agent(name="triage", model=model, tools=[add], handoffs=[Agent(name="sales", model=model)])

    result = await both(build, tool_then_handoff)
    assert result.steps == ["1 model triage", "1.1 add", "2 model triage", "3 model sales"]


async def test_on_handoff_runs_once_and_gets_its_input() -> None:
    told: list[str] = []

    def build(model: ScriptedModel) -> Agent[Any]:
        async def on_handoff(context: Any, data: Reason) -> None:
            told.append(data.reason)

        sales: Agent[Any] = Agent(name="sales", model=model)
        return Agent(name="triage", model=model, handoffs=[handoff(sales, on_handoff=on_handoff, input_type=Reason)])

    result = await both(
        build,
        lambda: [
            [function_call("transfer_to_sales", {"reason": "wants to buy"}, call_id="h1")],
            [assistant_message("sold")],
        ],
    )
    assert told == ["wants to buy"] * 2
    assert result.steps == ["1 model triage", "1.1 transfer_to_sales", "2 model sales"]


async def test_on_handoff_is_tried_again_when_it_fails() -> None:
    tries: list[int] = []

    def on_handoff(context: Any) -> None:
        tries.append(1)
        if len(tries) < 3:
            raise ConnectionError("the ticket system is away")

    model = ScriptedModel([[function_call("transfer_to_sales", {}, call_id="h1")], [assistant_message("sold")]])
    sales: Agent[Any] = Agent(name="sales", model=model)
    agent: Agent[Any] = Agent(name="triage", model=model, handoffs=[handoff(sales, on_handoff=on_handoff)])
    run = await replayed(lambda step: DurableRunner.run(agent, "hi", step=step), max_attempts=3)
    assert len(tries) == 3
    assert run.result.last_agent is sales


async def test_bad_input_for_a_handoff_fails_at_once() -> None:
    model = ScriptedModel([[function_call("transfer_to_sales", {"wrong": 1}, call_id="h1")]])
    sales: Agent[Any] = Agent(name="sales", model=model)
    calls: list[Any] = []
    item = handoff(sales, on_handoff=lambda context, data: calls.append(data), input_type=Reason)
    agent: Agent[Any] = Agent(name="triage", model=model, handoffs=[item])
    with pytest.raises(ModelBehaviorError, match="Invalid JSON"):
        await replayed(lambda step: DurableRunner.run(agent, "hi", step=step), max_attempts=5)
    assert calls == []


async def test_circular_handoffs_and_the_same_agent_twice() -> None:
    def build(model: ScriptedModel) -> Agent[Any]:
        triage: Agent[Any] = Agent(name="triage", model=model, tools=[add])
        sales: Agent[Any] = Agent(name="sales", model=model, tools=[add], handoffs=[triage])
        triage.handoffs = [sales, handoff(sales, tool_name_override="sell", on_handoff=lambda context: None)]
        return triage

    result = await both(
        build,
        lambda: [
            [function_call("transfer_to_sales", {}, call_id="h1")],
            [function_call("add", {"a": 1, "b": 2}, call_id="c1")],
            [function_call("transfer_to_triage", {}, call_id="h2")],
            [function_call("sell", {}, call_id="h3")],
            [
                function_call("transfer_to_triage", {}, call_id="h4"),
                function_call("add", {"a": 1, "b": 1}, call_id="c2"),
            ],
            [assistant_message("round and round")],
        ],
    )
    assert result.durable.last_agent.name == "triage"
    assert result.labels("sell") == ["4.1 sell"]


async def test_the_last_agent_is_the_users_own_object() -> None:
    model = ScriptedModel(tool_then_handoff())
    sales: Agent[Any] = Agent(name="sales", model=model)
    triage: Agent[Any] = Agent(name="triage", model=model, tools=[add], handoffs=[sales])
    run = await replayed(lambda step: DurableRunner.run(triage, "hi", step=step))
    assert run.result.last_agent is sales


async def test_several_handoffs_at_once_take_the_first() -> None:
    def build(model: ScriptedModel) -> Agent[Any]:
        names = ("sales", "support")
        return Agent(name="triage", model=model, handoffs=[Agent(name=name, model=model) for name in names])

    result = await both(
        build,
        lambda: [
            [
                function_call("transfer_to_support", {}, call_id="h1"),
                function_call("transfer_to_sales", {}, call_id="h2"),
            ],
            [assistant_message("helped")],
        ],
    )
    assert result.durable.last_agent.name == "support"


def hand_built(agents: list[Agent[Any]], chosen: list[str]) -> Handoff[Any, Any]:
    async def invoke(context: Any, arguments: str) -> Agent[Any]:
        chosen.append(arguments)
        return next(agent for agent in agents if agent.name == arguments.strip('"{}'))

    return Handoff(
        tool_name="route",
        tool_description="routes",
        input_json_schema={},
        on_invoke_handoff=invoke,
        agent_name="chosen",
    )


@pytest.mark.parametrize("reachable", [True, False])
async def test_a_hand_built_handoff_chooses_its_agent_once_where_it_can_be_found_again(reachable: bool) -> None:
    chosen: list[str] = []
    model = ScriptedModel([[function_call("route", '"sales"', call_id="h1")], [assistant_message("sold")]])
    sales: Agent[Any] = Agent(name="sales", model=model)
    item = hand_built([sales], chosen)
    triage: Agent[Any] = Agent(name="triage", model=model, handoffs=[item, sales] if reachable else [item])
    run = await replayed(lambda step: DurableRunner.run(triage, "hi", step=step))
    assert run.result.last_agent is sales
    assert run.steps == ["triage/1 model triage", "triage/1.1 route", "triage/2 model sales"]
    assert len(chosen) == (1 if reachable else 1 + 3)  # else once more on each of the three replays


@pytest.mark.parametrize("for_the_run", [True, False])
async def test_an_input_filter_runs_once_and_what_it_made_comes_back(for_the_run: bool) -> None:
    calls: list[int] = []

    async def mine(data: HandoffInputData) -> HandoffInputData:
        calls.append(len(data.new_items))
        agent = data.new_items[-1].agent
        text = ResponseOutputText(text=f"summary {len(calls)}", type="output_text", annotations=[])
        message = ResponseOutputMessage(id="m1", content=[text], role="assistant", status="completed", type="message")
        return data.clone(
            input_history=({"role": "user", "content": "redacted"},),
            pre_handoff_items=data.pre_handoff_items[:1],
            new_items=(MessageOutputItem(agent=agent, raw_item=message), *data.new_items),
        )

    def build(model: ScriptedModel) -> Agent[Any]:
        sales: Agent[Any] = Agent(name="sales", model=model)
        item = sales if for_the_run else handoff(sales, input_filter=mine)  # type: ignore[arg-type]
        return Agent(name="triage", model=model, tools=[add], handoffs=[item])

    config = RunConfig(handoff_input_filter=mine) if for_the_run else RunConfig()
    model = ScriptedModel(tool_then_handoff())
    plain = await Runner.run(build(model), "hi", run_config=config)
    calls.clear()
    durable_model = ScriptedModel(tool_then_handoff())
    agent = build(durable_model)
    run = await replayed(lambda step: DurableRunner.run(agent, "hi", step=step, run_config=config))
    assert run.result.to_input_list() == plain.to_input_list()
    assert durable_model.calls[-1].input == model.calls[-1].input
    assert len(calls) == 1
    assert run.steps[-2] == "triage/2.1 transfer_to_sales input filter"


async def test_a_filter_may_make_an_item_of_an_agent_of_its_own() -> None:
    def add_note(data: HandoffInputData) -> HandoffInputData:
        note = MessageOutputItem(agent=Agent(name="notary"), raw_item=cast("Any", assistant_message("noted")))
        return data.clone(new_items=(*data.new_items, note))

    def build(model: ScriptedModel) -> Agent[Any]:
        sales = handoff(Agent(name="sales", model=model), input_filter=add_note)
        return Agent(name="triage", model=model, tools=[add], handoffs=[sales])

    result = await both(build, tool_then_handoff)
    assert [item.agent.name for item in result.durable.new_items] == [
        item.agent.name for item in result.plain.new_items
    ]


def test_a_copy_that_a_filter_made_of_an_item_is_known_as_one() -> None:
    agent = Agent(name="a")
    given = [MessageOutputItem(agent=agent, raw_item=cast("Any", assistant_message("same"))) for _ in range(2)]
    for item in given:
        ensure_nested_history_run_item_occurrence_key(item)
    stored = encode_run_items([copy.deepcopy(given[1])], given, snapshot(given))
    [made] = decode_run_items(stored, given, {"a": agent})
    assert made is not given[1]
    assert occurrence_key(made) == occurrence_key(given[1])


@pytest.mark.parametrize("copies_first", [False, True])
async def test_a_filter_that_nests_the_history_and_copies_items_does_not_double_them(copies_first: bool) -> None:
    def mine(data: HandoffInputData) -> HandoffInputData:
        if copies_first:
            return nest_handoff_history(data.clone(new_items=copy.deepcopy(data.new_items)))
        nested = nest_handoff_history(data)
        return nested.clone(new_items=copy.deepcopy(nested.new_items))

    def build(model: ScriptedModel) -> Agent[Any]:
        sales: Agent[Any] = Agent(name="sales", model=model)
        return Agent(name="triage", model=model, handoffs=[handoff(sales, input_filter=mine)])

    def script() -> list[Any]:
        call = function_call("transfer_to_sales", {}, call_id="c1")
        return [[assistant_message("same"), call], [assistant_message("done")]]

    result = await both(build, script)
    assert result.durable.to_input_list() == result.plain.to_input_list()
    assert str(result.durable.to_input_list()).count("same") == 1


@pytest.mark.parametrize("nests", [True, False])
async def test_a_streamed_run_sends_an_item_that_a_filter_has_copied_once(nests: bool) -> None:
    def build() -> Agent[Any]:
        def copied(data: HandoffInputData) -> HandoffInputData:
            data = nest_handoff_history(data) if nests else data
            return data.clone(new_items=copy.deepcopy(data.new_items))

        last: Agent[Any] = Agent(name="last", model=ScriptedModel([[assistant_message("done")]]))
        turn = [assistant_message("one moment"), function_call("transfer_to_last", {}, call_id="c1")]
        return Agent(name="first", model=ScriptedModel([turn]), handoffs=[handoff(last, input_filter=copied)])

    async def names(result: RunResultStreaming) -> list[str]:
        return [event.name async for event in result.stream_events() if event.type == "run_item_stream_event"]

    agent = build()
    durable = await replayed(lambda step: names(DurableRunner.run_streamed(agent, "go", step=step)))
    assert durable.result == await names(Runner.run_streamed(build(), "go"))


async def test_a_filter_with_input_items_keeps_the_history_of_the_session_apart() -> None:
    def mine(data: HandoffInputData) -> HandoffInputData:
        return data.clone(input_items=tuple(item for item in data.new_items if item.type == "handoff_output_item"))

    def build(model: ScriptedModel) -> Agent[Any]:
        sales: Agent[Any] = Agent(name="sales", model=model)
        return Agent(name="triage", model=model, tools=[add], handoffs=[handoff(sales, input_filter=mine)])

    await both(build, tool_then_handoff)


async def test_a_filter_that_nests_the_history_itself_behaves_as_with_runner() -> None:
    def mine(data: HandoffInputData) -> HandoffInputData:
        return nest_handoff_history(data)

    def build(model: ScriptedModel) -> Agent[Any]:
        sales: Agent[Any] = Agent(name="sales", model=model)
        return Agent(name="triage", model=model, tools=[add], handoffs=[handoff(sales, input_filter=mine)])

    await both(build, tool_then_handoff)


async def test_the_filters_of_the_sdk_cost_no_step() -> None:
    def build(model: ScriptedModel) -> Agent[Any]:
        sales: Agent[Any] = Agent(name="sales", model=model)
        item = handoff(sales, input_filter=handoff_filters.remove_all_tools)
        return Agent(name="triage", model=model, tools=[add], handoffs=[item])

    result = await both(build, tool_then_handoff)
    assert result.labels("filter") == []


@pytest.mark.parametrize("with_mapper", [True, False])
async def test_nested_history_and_its_mapper_behave_as_with_runner(with_mapper: bool) -> None:
    calls: list[int] = []

    def mapper(transcript: list[Any]) -> list[Any]:
        calls.append(len(transcript))
        return [{"role": "user", "content": f"{len(transcript)} items so far"}, transcript[0]]

    def build(model: ScriptedModel) -> Agent[Any]:
        return Agent(name="triage", model=model, tools=[add], handoffs=[Agent(name="sales", model=model)])

    config = RunConfig(nest_handoff_history=True, handoff_history_mapper=mapper if with_mapper else None)
    result = await both(build, tool_then_handoff, run_config=config)
    assert result.labels("mapper") == (["2.1 transfer_to_sales history mapper"] if with_mapper else [])
    assert len(calls) == (2 if with_mapper else 0)


async def test_a_filter_that_gives_something_else_raises_what_the_sdk_raises() -> None:
    model = ScriptedModel(tool_then_handoff())
    sales: Agent[Any] = Agent(name="sales", model=model)
    item = handoff(sales, input_filter=lambda data: "nonsense")  # type: ignore[arg-type, return-value]
    agent: Agent[Any] = Agent(name="triage", model=model, tools=[add], handoffs=[item])
    with pytest.raises(UserError, match="Invalid input filter result: nonsense"):
        await replayed(lambda step: DurableRunner.run(agent, "hi", step=step), max_attempts=5)
