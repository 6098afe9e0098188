"""What the model is told of its tool calls, under the plain runner and the durable one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agents import Agent, Runner
from agents.items import ToolCallOutputItem

from inngest_agents import DurableRunner
from inngest_agents.testing import replayed


async def outputs_under_both(build: Callable[[], Agent[Any]]) -> list[list[Any]]:
    """The outputs of the tool calls, of a plain run and of a durable one that is replayed for each step.

    Args:
        build: makes the agent anew for each of the two.
    """
    one, two = build(), build()
    plain = await Runner.run(one, "hi")
    durable = await replayed(lambda step: DurableRunner.run(two, "hi", step=step))
    return [
        [item.output for item in result.new_items if isinstance(item, ToolCallOutputItem)]
        for result in (plain, durable.result)
    ]
