"""What is kept of the identity of a function call is what the SDK itself makes of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from agents import Agent, Model, ModelProvider, RunConfig, function_tool, run_context
from agents.testing import ScriptedModel, assistant_message, function_call
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import ResponseFunctionToolCall

from inngest_agents import DurableRunner
from inngest_agents.scope import current_journal
from inngest_agents.testing import replayed

identity: Any = vars(run_context)["tool_invocation_identity_and_scope"]
original: Any = identity.__wrapped__
scope: Any = vars(run_context)["tool_invocation_approval_scope"]
original_scope: Any = scope.__wrapped__

TEXTS = st.sampled_from(["", "a", "b", '{"x": 1}', '{"x":1}', '{"x": true}', "[1]"])
PARTS = st.one_of(TEXTS, st.none(), st.sampled_from([0, 1, True, False, 1.0]), st.just({"type": "program"}))
NAMES = ("call_id", "id", "name", "namespace", "arguments", "input", "caller", "status")
TYPES = st.sampled_from(["function_call", "custom_tool_call", "message", "function_call_output"])
CALLS = st.one_of(
    st.fixed_dictionaries({"type": TYPES}, optional=dict.fromkeys(NAMES, PARTS)),
    st.builds(
        ResponseFunctionToolCall.model_construct,
        _fields_set=st.one_of(st.none(), st.sets(st.sampled_from(["type", "name", "arguments", "call_id"]))),
        type=st.sampled_from(["function_call", "hosted_tool_call"]),
        name=TEXTS,
        arguments=PARTS,
        call_id=TEXTS,
        namespace=st.one_of(st.none(), TEXTS),
        caller=st.one_of(st.none(), st.just({"type": "program"})),
    ),
)
LOOKUP_KEYS = st.sampled_from([None, ("bare", ""), ("bare", "a"), ("bare", "b"), ("namespaced", "b", "a")])
# As adapters of other providers make them: with more in them than OpenAI's have.
EXTENDED_CALLS = st.builds(
    lambda more, **call: ResponseFunctionToolCall(type="function_call", **call, **more),
    st.fixed_dictionaries(
        {},
        optional={
            "provider_data": st.sampled_from([{"model": "m"}, {"type": "mcp_approval_request"}]),
            "server_label": TEXTS,
            "input": PARTS,
        },
    ),
    name=TEXTS,
    arguments=TEXTS,
    call_id=TEXTS,
)
HOW: Any = st.fixed_dictionaries(
    {},
    optional={
        "tool_name": st.sampled_from([None, "a", "b"]),
        "invocation_role": st.sampled_from([None, "handoff"]),
        "tool_lookup_key": LOOKUP_KEYS,
    },
)


def agent_of(turns: int) -> Agent[Any]:
    @function_tool
    async def work(turn: int) -> str:
        return f"done {turn}"

    script: list[Any] = [[function_call("work", {"turn": turn}, call_id=str(turn))] for turn in range(turns)]
    return Agent(name="a", model=ScriptedModel([*script, [assistant_message("ok")]]), tools=[work])


async def inside_a_run(look: Callable[[], None]) -> None:
    """Call a function in the loop of a durable run, outside of its steps, as the SDK does with its own."""
    looked = 0
    agent = agent_of(0)

    class Provider(ModelProvider):
        def get_model(self, model_name: str | None) -> Model:
            nonlocal looked
            assert current_journal() is not None
            look()
            looked += 1
            assert isinstance(agent.model, Model)
            return agent.model

    config = RunConfig(model="any", model_provider=Provider(), tracing_disabled=True)
    await replayed(lambda step: DurableRunner.run(agent, "hi", step=step, run_config=config))
    assert looked


async def test_each_identity_is_the_sdk_s_own() -> None:
    @settings(max_examples=1000, deadline=None)
    @given(st.one_of(CALLS, EXTENDED_CALLS), HOW)
    def compare(call: Any, how: dict[str, Any]) -> None:
        assert scope(call, **how) == original_scope(call, **how)
        assert identity(call, **how) == identity(call, **how) == original(call, **how)
        assert scope(call, **how) == original_scope(call, **how)

    await inside_a_run(compare)


async def test_a_call_that_was_changed_has_another_identity() -> None:
    def look() -> None:
        call = ResponseFunctionToolCall(type="function_call", name="work", arguments='{"turn": 1}', call_id="1")
        before = identity(call)
        call.arguments = '{"turn": 2}'
        assert identity(call) == original(call) != before

    await inside_a_run(look)


async def test_calls_that_are_equal_for_python_alone_are_told_apart() -> None:
    def look() -> None:
        calls = [{"type": "function_call", "name": "a", "call_id": "1", "arguments": one} for one in (1, True, 1.0)]
        assert [identity(call) for call in calls] == [original(call) for call in calls]

    await inside_a_run(look)


async def test_a_run_works_out_each_call_s_identity_as_often_however_long_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The SDK asks for those of all earlier calls once more in each turn."""
    hashed = 0
    sha256 = hashlib.sha256

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal hashed
        hashed += 1
        return sha256(*args, **kwargs)

    async def replay(turns: int) -> int:
        nonlocal hashed
        agent = agent_of(turns)

        async def handler(step: Any) -> Any:
            return await DurableRunner.run(
                agent, "hi", step=step, max_turns=turns + 1, run_config=RunConfig(tracing_disabled=True)
            )

        whole = await replayed(handler)
        monkeypatch.setattr(hashlib, "sha256", counted)
        hashed = 0
        again = await replayed(handler, memos=whole.memos)
        monkeypatch.undo()
        assert again.result.final_output == "ok"
        return hashed

    short, long = await replay(4), await replay(16)
    assert 0 < long <= 4 * short
