"""A run that is cut leaves its arguments as they were, so that a replay with the same objects comes to the same end."""

from __future__ import annotations

from typing import Any

import pytest
from agents import Agent, RunContextWrapper, Runner, RunState, UserError, function_tool
from agents.testing import ScriptedModel, assistant_message, function_call

from inngest_agents import DurableRunner
from inngest_agents.request.rewind import Rewind
from inngest_agents.testing import replayed


def deleting_agent(deleted: list[str]) -> Agent[Any]:
    @function_tool(needs_approval=True)
    def delete(path: str) -> str:
        deleted.append(path)
        return f"deleted {path}"

    return Agent(
        name="cleaner",
        tools=[delete],
        model=ScriptedModel(
            [
                [
                    function_call("delete", {"path": "/a"}, call_id="c1"),
                    function_call("delete", {"path": "/b"}, call_id="c2"),
                ],
                [assistant_message("clean")],
            ]
        ),
    )


async def approved_state(agent: Agent[Any]) -> RunState[Any, Any]:
    state = (await Runner.run(agent, "clean up")).to_state()
    for interruption in state.get_interruptions():
        state.approve(interruption)
    return state


async def test_the_same_state_object_can_be_passed_in_each_request() -> None:
    deleted: list[str] = []
    agent = deleting_agent(deleted)
    state = await approved_state(agent)

    run = await replayed(lambda step: DurableRunner.run(agent, state, step=step))

    assert run.result.final_output == "clean"
    assert sorted(deleted) == ["/a", "/b"]
    assert run.requests > 2
    assert state.get_interruptions() == []


async def test_a_finished_run_changes_the_state_as_the_plain_runner_does() -> None:
    plain, durable = deleting_agent([]), deleting_agent([])
    plain_state, durable_state = await approved_state(plain), await approved_state(durable)

    await Runner.run(plain, plain_state)
    await replayed(lambda step: DurableRunner.run(durable, durable_state, step=step))

    expected, found = plain_state.to_json(), durable_state.to_json()
    for state in (expected, found):
        state["generated_prompt_cache_key"] = state["trace"] = None
    assert found == expected


async def test_approvals_inside_an_agent_tool_survive_the_replays() -> None:
    deleted: list[str] = []
    inner = deleting_agent(deleted)
    outer = Agent(
        name="outer",
        tools=[inner.as_tool("clean", "Cleans up.")],
        model=ScriptedModel([[function_call("clean", {"input": "go"}, call_id="o1")], [assistant_message("done")]]),
    )
    state = await approved_state(outer)

    run = await replayed(lambda step: DurableRunner.run(outer, state, step=step))

    assert run.result.final_output == "done"
    assert sorted(deleted) == ["/a", "/b"]


async def test_a_context_wrapper_that_is_passed_again_does_not_know_the_calls_of_a_cut_pass() -> None:
    calls: list[int] = []

    @function_tool(failure_error_function=None)
    def charge() -> str:
        calls.append(1)
        raise RuntimeError("declined")

    model = ScriptedModel([[function_call("charge", {}, call_id="c1")]])
    agent = Agent(name="shop", tools=[charge], model=model)
    context: RunContextWrapper[None] = RunContextWrapper(context=None)

    with pytest.raises(UserError, match="declined"):
        await replayed(lambda step: DurableRunner.run(agent, "pay", context=context, step=step))

    assert calls == [1]
    assert context.usage.requests == 1


async def test_undo_gives_the_same_objects_their_former_contents_and_leaves_the_users_own_alone() -> None:
    class Shop:
        sold = 0

    shop = Shop()
    agent = deleting_agent([])
    state = (await Runner.run(agent, "clean up", context=shop)).to_state()
    responses, context = state._model_responses, state._context
    before = Rewind.of(state, None)
    assert before is not None

    shop.sold = 3
    responses.clear()
    assert context is not None
    context.usage.requests = 99
    state._max_turns = 1
    for interruption in state.get_interruptions():
        state.approve(interruption)
    before.undo()

    assert state._model_responses is responses
    assert len(responses) == 1
    assert state._context is context
    assert context.usage.requests == 1
    assert context._approvals == {}
    assert state._max_turns == 10
    assert shop.sold == 3


def test_a_plain_input_needs_no_rewind() -> None:
    assert Rewind.of("hello", {"a": 1}) is None


@pytest.mark.parametrize("kind", ["streamed", "followed by another run"])
async def test_a_state_that_was_run_to_its_end_is_as_before_when_the_request_ends_after_that(kind: str) -> None:
    deleted: list[str] = []
    agent, after = deleting_agent(deleted), Agent(name="b", model=ScriptedModel([[assistant_message("bye")]]))
    state = await approved_state(agent)

    async def handler(step: Any) -> Any:
        if kind == "streamed":
            return await DurableRunner.run_streamed(agent, state, step=step).wait()
        result = await DurableRunner.run(agent, state, step=step)
        await DurableRunner.run(after, "bye", step=step)
        return result

    run = await replayed(handler)
    assert run.result.final_output == "clean"
    assert sorted(deleted) == ["/a", "/b"]
