"""What a newer version of the package has stored is refused by name, before anything of it is read."""

from __future__ import annotations

from typing import Any

import pytest
from agents import Agent, function_tool
from agents.testing import ScriptedModel, assistant_message, function_call

from inngest_agents import DurableRunner
from inngest_agents._inngest_sdk import hash_step_id
from inngest_agents.memos.memo_head import SCHEMA_VERSION
from inngest_agents.testing import replayed

NEWER = f"v{SCHEMA_VERSION + 1} and whatever comes after it"
MEMOS: dict[str, Any] = {
    "another form": {"output": 1, "step": NEWER},
    "a field that this version knows": {"output": 1, "step": NEWER, "spans": {"c4234d": "in another form"}},
    "an object that is no memo": ["the", "user's", "own"],
}


def seer(*turns: Any) -> Agent[Any]:
    @function_tool
    async def look() -> str:
        return "blue"

    return Agent(name="seer", model=ScriptedModel([*turns, [assistant_message("done")]]), tools=[look])


async def run(step: Any, agent: Agent[Any], *, streamed: bool) -> Any:
    # With tracing, which reads memos too.
    if streamed:
        return await DurableRunner.run_streamed(agent, "go", step=step).wait()
    return await DurableRunner.run(agent, "go", step=step)


@pytest.mark.parametrize("streamed", [False, True], ids=["", "streamed"])
@pytest.mark.parametrize("memo", MEMOS.values(), ids=MEMOS)
@pytest.mark.parametrize("step_id", ["seer/1 model seer", "seer/1.1 look", "seer/1.1 look failed attempt 1"])
async def test_a_memo_of_a_newer_version_ends_the_request_and_no_model_is_told(
    step_id: str, memo: Any, streamed: bool
) -> None:
    order = [function_call("look", {}, call_id="c1")]
    first = seer(order)
    done = await replayed(lambda step: run(step, first, streamed=streamed))
    memos = {hash_step_id(name): done.memos[hash_step_id(name)] for name in done.steps[:1]}
    memos[hash_step_id(step_id)] = {"data": memo}
    again = seer()

    with pytest.raises(ValueError, match=r"schema version .* this inngest-agents knows") as caught:
        await replayed(lambda step: run(step, again, streamed=streamed), memos=memos)

    assert getattr(caught.value, "is_retriable", True), "a worker of the newer version may take it up"
    assert isinstance(again.model, ScriptedModel)
    assert not again.model.calls
