"""À la carte: the same steps around a plain `Runner.run`.

For those who keep `Runner`: mark tools with `as_step`, wrap their own functions with `durable`, and sum up with
`finalize_run`. All of it stands on the journal, the records and the prices of `DurableRunner`. Outside of an Inngest
function (no `set_step`, no `step=`) each runs the plain thing.

What only `DurableRunner` does: with a plain `Runner.run`, **model calls are not memoized**. Where a request of the
engine ends and the function is replayed, the model is asked again, and may answer something else.
"""

from __future__ import annotations

import contextvars
import copy
import dataclasses
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from agents import FunctionTool, HandoffOutputItem, RunResult
from agents.result import RunResultBase

from inngest_agents import _agents_sdk as sdk
from inngest_agents.driver import Driver
from inngest_agents.instrument import tools as tool_seam
from inngest_agents.instrument._steps import run_step
from inngest_agents.journal import (
    Journal,
    Scope,
    StepScope,
    current_journal,
    current_scope,
    current_step,
    inside_journal,
)
from inngest_agents.options import DurableOptions
from inngest_agents.result import json_output
from inngest_agents.stats.pricing import with_price
from inngest_agents.stats.records import StepRecord, count_items, usage_from_response
from inngest_agents.stats.stats import RunFacts, RunStats

__all__ = ["FinalizedRun", "as_step", "durable", "finalize_run", "get_step", "set_step"]

T = TypeVar("T")

_step: contextvars.ContextVar[Any] = contextvars.ContextVar("inngest_agents_ambient_step", default=None)


def set_step(step: Any) -> None:
    """Make `step` the ambient one for the rest of the current Inngest function.

    Args:
        step: the `step` of the Inngest function's context; None takes it away.
    """
    _step.set(step)


def get_step() -> Any:
    """The ambient `step`; None outside of an Inngest function, and inside a step, where there can be no other one."""
    return None if current_step() is not None else _step.get()


async def durable(step_id: str, fn: Callable[..., Awaitable[T]], *args: Any, step: Any = None) -> T:
    """Run an async function as a memoized step.

    Args:
        step_id: names the step; a repeated one gets a number, in the order of the calls.
        fn: the work; its value comes back as JSON would carry it (see `inngest_agents.codec`).
        *args: for `fn`.
        step: the `step` of the Inngest function's context; by default the ambient one.

    Returns:
        What `fn` returned when it ran. Without any step, `fn` is simply called.

    Raises:
        Exception: what the last attempt of `fn` raised, with its type.
    """
    chosen = step if step is not None else get_step()
    if chosen is None:
        return await fn(*args)

    async def call(_: StepScope) -> T:
        return await fn(*args)

    journal, scope = _open(chosen)
    with inside_journal(journal, scope):
        value: T = await run_step(journal, scope.repeated(step_id), "other", call, name=step_id)
        return value


def as_step(tool: FunctionTool, *, step: Any = None) -> FunctionTool:
    """A tool whose calls are memoized steps, logged with input and output, also under a plain `Runner.run`.

    Under `DurableRunner` it is the tool itself, as every call is a step there anyway.

    Args:
        tool: any function tool; it is not changed.
        step: the `step` of the Inngest function's context; by default the ambient one at the time of the call.

    Raises:
        TypeError: `tool` is no `FunctionTool`.
    """
    if not isinstance(tool, FunctionTool):
        raise TypeError(f"as_step takes a FunctionTool, not {type(tool).__name__}")
    body = sdk.raw_body(tool)

    async def invoke(context: Any, arguments: str) -> Any:
        chosen = step if step is not None else get_step()
        if chosen is None or current_journal() is not None:
            value = body(context, arguments)
            return await value if inspect.isawaitable(value) else value

        async def call(_: StepScope) -> Any:
            value = body(context, arguments)
            return await value if inspect.isawaitable(value) else value

        journal, scope = _open(chosen)
        options = journal.options.for_tool(tool, tool.name)
        with inside_journal(journal, scope):
            return await run_step(
                journal,
                scope.repeated(tool.name),
                "tool",
                call,
                name=tool.name,
                call_id=getattr(context, "tool_call_id", ""),
                max_attempts=options.max_attempts,
                is_final=tool_seam.is_final,
                inputs=arguments,
            )

    twin = copy.copy(tool)
    sdk.replace_body(twin, invoke)
    return twin


@dataclasses.dataclass(frozen=True)
class FinalizedRun(Generic[T]):
    """The end of a plain run: its output and what it used."""

    final_output: T
    stats: RunStats

    def to_dict(self) -> dict[str, Any]:
        """`final_output` and `stats` as JSON."""
        return {"final_output": json_output(self.final_output), "stats": self.stats.to_dict()}


async def finalize_run(
    result: RunResultBase, agent_name: str | None = None, *, model: str | None = None, step: Any = None
) -> FinalizedRun[Any]:
    """Sum up a plain run: a pure aggregation over its responses and the records of its `as_step` calls.

    Args:
        result: what `Runner.run` gave back (or `run_streamed`, once it is complete).
        agent_name: the agent that the model calls are counted for; by default the last one.
        model: the model that was asked, for the price; the SDK's responses do not tell.
        step: the `step` of the Inngest function's context; by default the ambient one. With one, the summary is a step.

    Returns:
        `final_output` as the run gave it, and the statistics.
    """
    chosen = step if step is not None else get_step()
    agent = str(agent_name or getattr(result.last_agent, "name", ""))

    async def summarize(steps: list[StepRecord]) -> list[dict[str, Any]]:
        return [record.to_dict() for record in (*steps, *await _model_records(result, agent, model or ""))]

    if chosen is None or current_journal() is not None:
        records = await summarize([])
    else:
        journal, scope = _open(chosen)
        tools = journal.records()

        async def call(_: StepScope) -> list[dict[str, Any]]:
            return await summarize(tools)

        with inside_journal(journal, scope):
            records = await run_step(journal, scope.repeated("run_stats"), "other", call, name="run_stats")
    facts = RunFacts(
        starting_agent=agent,
        final_agent=getattr(result.last_agent, "name", agent),
        handoffs=sum(isinstance(item, HandoffOutputItem) for item in result.new_items),
    )
    stats = RunStats.from_records([StepRecord.from_dict(record) for record in records], facts)
    return FinalizedRun(result.final_output, stats)


async def _model_records(result: RunResultBase | RunResult, agent: str, model: str) -> list[StepRecord]:
    records = []
    for place, response in enumerate(result.raw_responses, 1):
        usage = await with_price(usage_from_response(response, requested_model=model))
        records.append(
            StepRecord(
                kind="model",
                step_id=f"{agent}/{place} model",
                name=model,
                agent=agent,
                order=place,
                usage=usage,
                counts=count_items(response.output),
                response_id=response.response_id or "",
            )
        )
    return records


def _open(step: Any) -> tuple[Journal, Scope]:
    """The journal of the steps à la carte of a request; it has no loop of its own, so its ids have no path."""
    found = current_journal()
    if found is not None:
        return found, current_scope()
    options = DurableOptions()
    driver = Driver.for_step(step, checkpoint=options.checkpoint, max_runtime=options.max_runtime)
    if driver.ambient is None:
        journal = Journal(driver, options, name="", run_id=driver.engine.run_id, driven=False)
        driver.ambient = (journal, Scope(path="", names=()))
    found_here: tuple[Journal, Scope] = driver.ambient
    return found_here
