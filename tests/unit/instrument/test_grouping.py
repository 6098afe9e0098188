"""Prompt caching works across the requests of a run as it does across the turns of a plain one."""

from __future__ import annotations

from typing import Any

import pytest
from agents import Agent, Runner, function_tool
from agents.testing import ScriptedModel, assistant_message, function_call

from inngest_agents import DurableRunner
from inngest_agents.testing import replayed


class CachingModel(ScriptedModel):
    """A model whose provider caches prompts."""

    def _supports_default_prompt_cache_key(self) -> bool:
        return True

    def keys(self) -> list[Any]:
        """The cache keys of the calls."""
        return [(call.model_settings.extra_args or {}).get("prompt_cache_key") for call in self.calls]


@pytest.mark.parametrize("streamed", [False, True])
async def test_the_prompt_cache_key_stays_the_same_within_a_run_and_differs_between_runs(streamed: bool) -> None:
    @function_tool
    def look_up() -> str:
        return "found"

    def model() -> CachingModel:
        return CachingModel([[function_call("look_up", {}, call_id="c1")], [assistant_message("done")]])

    async def durably(model: CachingModel) -> None:
        agent = Agent(name="a", model=model, tools=[look_up])
        if streamed:
            await replayed(lambda step: DurableRunner.run_streamed(agent, "hi", step=step).wait())
        else:
            await replayed(lambda step: DurableRunner.run(agent, "hi", step=step))

    plain, first, second = model(), model(), model()
    await Runner.run(Agent(name="a", model=plain, tools=[look_up]), "hi")
    await durably(first)
    await durably(second)
    for keys in (plain.keys(), first.keys(), second.keys()):
        assert len(set(keys)) == 1
        assert keys[0] is not None
        assert len(keys[0]) == len(plain.keys()[0])
    assert len({*plain.keys(), *first.keys(), *second.keys()}) == 3
