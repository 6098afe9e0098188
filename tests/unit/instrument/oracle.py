"""Runs the same agents under plain `Runner` and durably, cut at every step, and compares what can be seen."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from agents import Agent, Runner
from agents.testing import ScriptedModel

from inngest_agents import DurableRunner
from inngest_agents.testing import replayed


@dataclasses.dataclass
class Both:
    """What the two runners made of the same agents."""

    plain: Any
    durable: Any
    plain_model: ScriptedModel
    durable_model: ScriptedModel
    steps: list[str]
    """The ids of the steps without the name of the run."""
    memos: dict[str, Any]

    def labels(self, word: str) -> list[str]:
        """The steps that contain `word`."""
        return [step for step in self.steps if word in step]


def seen(model: ScriptedModel) -> list[Any]:
    """What the model was asked."""
    return [
        (
            call.system_instructions,
            call.input,
            [tool.name for tool in call.tools],
            [handoff.tool_name for handoff in call.handoffs],
            call.prompt,
        )
        for call in model.calls
    ]


def shown(result: Any) -> list[Any]:
    """What a caller sees of a result."""
    return [
        result.final_output,
        result.last_agent.name,
        [(type(item).__name__, getattr(item, "custom_data", None)) for item in result.new_items],
        result.to_input_list(),
        len(result.interruptions),
    ]


async def both(
    build: Callable[[ScriptedModel], Agent[Any]],
    script: Callable[[], list[Any]],
    input: Any = "hi",
    *,
    max_attempts: int = 1,
    **kwargs: Any,
) -> Both:
    """Run under both runners and compare results and what the model was asked.

    Args:
        build: makes the starting agent, which uses the given model.
        script: makes what the model answers.
        input: what is run.
        max_attempts: of the durable run.
        **kwargs: for both `run`s.
    """
    plain_model, durable_model = ScriptedModel(script()), ScriptedModel(script())
    plain_agent, durable_agent = build(plain_model), build(durable_model)
    plain = await Runner.run(plain_agent, input, **kwargs)
    run = await replayed(
        lambda step: DurableRunner.run(durable_agent, input, step=step, **kwargs), max_attempts=max_attempts
    )
    assert shown(run.result) == shown(plain)
    assert seen(durable_model) == seen(plain_model)
    steps = [step.partition("/")[2] for step in run.steps]
    assert len(set(run.steps)) == len(run.steps)
    return Both(plain, run.result, plain_model, durable_model, steps, run.memos)
