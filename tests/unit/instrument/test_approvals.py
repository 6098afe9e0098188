"""Tool approvals: a run that is interrupted, decided and resumed within one Inngest function, cut everywhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from agents import Agent, RunConfig, Runner, RunState, function_tool
from agents.testing import ScriptedModel, assistant_message, function_call
from oracle import seen, shown

from inngest_agents import DurableRunner
from inngest_agents.testing import ReplayedRun, replayed

Decide = Callable[[Any], Any]
Build = Callable[[ScriptedModel], Agent[Any]]


def approve_all(state: Any) -> None:
    for item in state.get_interruptions():
        state.approve(item)


async def resumed(run: Callable[..., Any], agent: Agent[Any], decide: Decide, *, as_json: bool, **kwargs: Any) -> Any:
    """Run, decide and resume until nothing is left to decide."""
    result = await run(agent, "hi", **kwargs)
    for _ in range(5):
        if not result.interruptions:
            return result
        state = result.to_state()
        if as_json:
            state = await RunState.from_json(agent, json.loads(json.dumps(state.to_json())))
        decide(state)
        result = await run(agent, state, **kwargs)
    raise AssertionError("the run is interrupted for ever")


async def both_resumed(
    build: Build, script: Callable[[], list[Any]], decide: Decide = approve_all, *, as_json: bool = False, **kwargs: Any
) -> ReplayedRun[Any]:
    """Do the same under both runners, compare, and give the durable run."""
    plain_model, durable_model = ScriptedModel(script()), ScriptedModel(script())
    plain = await resumed(Runner.run, build(plain_model), decide, as_json=as_json, **kwargs)
    agent = build(durable_model)

    async def handler(step: Any) -> Any:
        return await resumed(DurableRunner.run, agent, decide, as_json=as_json, step=step, **kwargs)

    run = await replayed(handler)
    assert shown(run.result) == shown(plain)
    assert seen(durable_model) == seen(plain_model)
    assert len(set(run.steps)) == len(run.steps)
    return run


class Till:
    """Counts what was charged and what was asked."""

    def __init__(self) -> None:
        self.charged: list[int] = []
        self.asked: list[int] = []

    def tool(self, needs_approval: Any = True) -> Any:
        @function_tool(needs_approval=needs_approval)
        def charge(amount: int) -> str:
            self.charged.append(amount)
            return f"charged {amount}"

        return charge

    async def over_ten(self, context: Any, arguments: dict[str, Any], call_id: str) -> bool:
        self.asked.append(arguments["amount"])
        return int(arguments["amount"]) > 10


def charge(amount: int, call_id: str) -> Any:
    return function_call("charge", {"amount": amount}, call_id=call_id)


def one_charge() -> list[Any]:
    return [[charge(7, "c1")], [assistant_message("paid")]]


@pytest.mark.parametrize("as_json", [False, True])
async def test_an_approved_tool_runs_once_after_the_approval(as_json: bool) -> None:
    till = Till()
    tool = till.tool()
    run = await both_resumed(lambda model: Agent(name="a", model=model, tools=[tool]), one_charge, as_json=as_json)
    assert till.charged == [7, 7]
    assert run.result.final_output == "paid"
    assert run.steps[0] == "a/1 model a"
    assert run.steps[-1] == "a:1/1 model a"
    assert len(run.steps) == 3


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("message", [None, "ask your boss"])
async def test_a_rejected_tool_never_runs_and_the_model_is_told(as_json: bool, message: str | None) -> None:
    till = Till()
    tool = till.tool()

    def reject(state: Any) -> None:
        for item in state.get_interruptions():
            state.reject(item, rejection_message=message)

    run = await both_resumed(
        lambda model: Agent(name="a", model=model, tools=[tool]), one_charge, reject, as_json=as_json
    )
    assert till.charged == []
    assert [step.partition("/")[2] for step in run.steps] == ["1 model a", "1 model a"]


async def test_the_text_of_a_rejection_is_formatted_once() -> None:
    till = Till()
    tool = till.tool()
    calls: list[str] = []

    def formatter(args: Any) -> str:
        calls.append(args.kind)
        return f"no {args.tool_name} today"

    def reject(state: Any) -> None:
        for item in state.get_interruptions():
            state.reject(item)

    run = await both_resumed(
        lambda model: Agent(name="a", model=model, tools=[tool]),
        one_charge,
        reject,
        run_config=RunConfig(tool_error_formatter=formatter),
    )
    assert calls == ["approval_rejected"] * 2
    assert len([step for step in run.steps if "rejection text" in step]) == 1


@pytest.mark.parametrize("as_json", [False, True])
async def test_a_needs_approval_function_is_asked_once_a_run_for_each_call(as_json: bool) -> None:
    till = Till()
    tool = till.tool(till.over_ten)
    model = ScriptedModel([[charge(5, "c1"), charge(50, "c2")], [assistant_message("x")]])
    await resumed(Runner.run, Agent(name="a", model=model, tools=[tool]), approve_all, as_json=as_json)
    plain_asked, till.asked = till.asked, []
    till.charged.clear()
    await both_resumed(
        lambda model: Agent(name="a", model=model, tools=[tool]),
        lambda: [[charge(5, "c1"), charge(50, "c2")], [assistant_message("paid")]],
        as_json=as_json,
    )
    assert sorted(till.asked) == sorted(plain_asked * 2)
    assert sorted(till.charged) == [5, 5, 50, 50]


@pytest.mark.parametrize("as_json", [False, True])
async def test_a_sticky_approval_holds_for_the_rest_of_the_run(as_json: bool) -> None:
    till = Till()
    tool = till.tool()

    def always(state: Any) -> None:
        for item in state.get_interruptions():
            state.approve(item, always_approve=True)

    await both_resumed(
        lambda model: Agent(name="a", model=model, tools=[tool]),
        lambda: [[charge(1, "c1")], [charge(2, "c2")], [charge(3, "c3")], [assistant_message("paid")]],
        always,
        as_json=as_json,
    )
    assert sorted(till.charged) == [1, 1, 2, 2, 3, 3]


async def test_a_sticky_rejection_holds_for_the_rest_of_the_run() -> None:
    till = Till()
    tool = till.tool()

    def never(state: Any) -> None:
        for item in state.get_interruptions():
            state.reject(item, always_reject=True)

    await both_resumed(
        lambda model: Agent(name="a", model=model, tools=[tool]),
        lambda: [[charge(1, "c1")], [charge(2, "c2")], [assistant_message("unpaid")]],
        never,
    )
    assert till.charged == []


@pytest.mark.parametrize("as_json", [False, True])
async def test_several_calls_are_decided_one_after_the_other(as_json: bool) -> None:
    till = Till()
    tool = till.tool()

    def first_only(state: Any) -> None:
        state.approve(state.get_interruptions()[0])

    run = await both_resumed(
        lambda model: Agent(name="a", model=model, tools=[tool]),
        lambda: [[charge(1, "c1"), charge(2, "c2")], [assistant_message("paid")]],
        first_only,
        as_json=as_json,
    )
    assert sorted(till.charged) == [1, 1, 2, 2]
    assert run.result.final_output == "paid"


@pytest.mark.parametrize("as_json", [False, True])
async def test_approvals_of_a_nested_agents_tools_come_up_and_go_down(as_json: bool) -> None:
    till = Till()
    tool = till.tool()

    def build(model: ScriptedModel) -> Agent[Any]:
        inner: Agent[Any] = Agent(
            name="inner", model=ScriptedModel([[charge(9, "n1")], [assistant_message("charged it")]]), tools=[tool]
        )
        return Agent(name="outer", model=model, tools=[inner.as_tool("pay", "pays")])

    run = await both_resumed(
        build,
        lambda: [[function_call("pay", {"input": "nine"}, call_id="c1")], [assistant_message("done")]],
        as_json=as_json,
    )
    assert till.charged == [9, 9]
    assert run.result.final_output == "done"
    assert len([step for step in run.steps if "charge" in step]) == 1
    assert len([step for step in run.steps if "model inner" in step]) == 2


async def test_two_nested_agents_are_decided_differently() -> None:
    till = Till()
    tool = till.tool()

    def build(model: ScriptedModel) -> Agent[Any]:
        def inner(name: str, amount: int) -> Any:
            script = [[charge(amount, f"n{amount}")], [assistant_message(f"{name} is through")]]
            return Agent(name=name, model=ScriptedModel(script), tools=[tool]).as_tool(f"ask_{name}", "asks")

        return Agent(name="outer", model=model, tools=[inner("ann", 1), inner("bob", 2)])

    def only_one(state: Any) -> None:
        for item in state.get_interruptions():
            if json.loads(item.raw_item.arguments)["amount"] == 1:
                state.approve(item)
            else:
                state.reject(item)

    run = await both_resumed(
        build,
        lambda: [
            [
                function_call("ask_ann", {"input": "x"}, call_id="c1"),
                function_call("ask_bob", {"input": "x"}, call_id="c2"),
            ],
            [assistant_message("done")],
        ],
        only_one,
    )
    assert till.charged == [1, 1]
    assert run.result.final_output == "done"


async def test_an_agent_tool_that_needs_approval_itself() -> None:
    def build(model: ScriptedModel) -> Agent[Any]:
        inner: Agent[Any] = Agent(name="inner", model=ScriptedModel([[assistant_message("looked it up")]]))
        return Agent(name="outer", model=model, tools=[inner.as_tool("ask", "asks", needs_approval=True)])

    run = await both_resumed(
        build, lambda: [[function_call("ask", {"input": "x"}, call_id="c1")], [assistant_message("done")]]
    )
    assert run.result.final_output == "done"


async def test_approvals_survive_a_handoff() -> None:
    till = Till()
    tool = till.tool()

    def build(model: ScriptedModel) -> Agent[Any]:
        sales: Agent[Any] = Agent(name="sales", model=model, tools=[tool])
        return Agent(name="triage", model=model, handoffs=[sales])

    run = await both_resumed(
        build,
        lambda: [
            [function_call("transfer_to_sales", {}, call_id="h1")],
            [charge(4, "c1")],
            [assistant_message("sold")],
        ],
        as_json=True,
    )
    assert run.result.last_agent.name == "sales"
    assert till.charged == [4, 4]


async def test_dynamic_flags_and_instructions_are_asked_once_in_a_resumed_turn() -> None:
    till = Till()
    asked: list[str] = []

    def build(model: ScriptedModel) -> Agent[Any]:
        def enabled(context: Any, agent: Any) -> bool:
            asked.append("enabled")
            return True

        def instructions(context: Any, agent: Any) -> str:
            asked.append("instructions")
            return f"text {asked.count('instructions') % 2}"

        tool = till.tool()
        tool.is_enabled = enabled
        return Agent(name="a", model=model, tools=[tool], instructions=instructions)

    run = await both_resumed(build, one_charge)
    assert [step.partition("/")[2] for step in run.steps if "model" not in step and "charge" not in step] == [
        "1 prepare a",
        "1 resume a",
        "1 prepare a",
    ]
    assert asked.count("instructions") == 2 * 2


async def test_the_stats_of_the_resumed_run_are_those_of_its_own_steps() -> None:
    till = Till()
    agent: Agent[Any] = Agent(name="a", model=ScriptedModel(one_charge()), tools=[till.tool()])
    stats: list[Any] = []

    async def handler(step: Any) -> Any:
        first = await DurableRunner.run(agent, "hi", step=step)
        state = first.to_state()
        approve_all(state)
        second = await DurableRunner.run(agent, state, step=step)
        stats[:] = [first.stats.total_model_calls, second.stats.total_model_calls, second.stats.total_tool_calls]
        return second

    await replayed(handler)
    assert stats == [1, 1, 1]


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_approval_three_agents_deep_of_a_state_made_before_the_function(streamed: bool) -> None:
    """Each request begins with the same state; what one leaves behind when it ends must change nothing in it."""
    till = Till()
    script: list[Any] = [[function_call("charge", {"amount": 1}, call_id="c0")], [assistant_message("done 0")]]
    agent = Agent(name="a0", model=ScriptedModel(script), tools=[till.tool()])
    for depth in range(1, 4):
        script = [[function_call("ask", {"input": "go"}, call_id=f"c{depth}")], [assistant_message(f"done {depth}")]]
        agent = Agent(name=f"a{depth}", model=ScriptedModel(script), tools=[agent.as_tool("ask", "asks")])

    async def run(given: Any) -> Any:
        async def handler(step: Any) -> Any:
            if streamed:
                return await DurableRunner.run_streamed(agent, given, step=step).wait()
            return await DurableRunner.run(agent, given, step=step)

        return (await replayed(handler)).result

    state = (await run("hi")).to_state()
    approve_all(state)
    assert (await run(state)).final_output == "done 3"
    assert till.charged == [1]
