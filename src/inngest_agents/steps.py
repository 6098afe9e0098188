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
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Generic, TypeVar

from agents import FunctionTool, HandoffOutputItem, RunResult, ToolCallItem
from agents.result import RunResultBase
from openai.types.responses import ResponseFunctionToolCall

from inngest_agents import _agents_sdk as sdk
from inngest_agents.instrument import tools as tool_seam
from inngest_agents.instrument._steps import run_step
from inngest_agents.journal import Journal
from inngest_agents.options import DurableOptions
from inngest_agents.request.driver import Driver
from inngest_agents.request.step_request import StepScope
from inngest_agents.result import json_output
from inngest_agents.scope import Scope, current_journal, current_scope, current_step, inside_journal
from inngest_agents.stats.answers import count_items, usage_from_response
from inngest_agents.stats.pricing import with_price
from inngest_agents.stats.records import Price, StepRecord, Tokens, UsageRecord
from inngest_agents.stats.stats import RunFacts, RunStats

__all__ = ["FinalizedRun", "as_step", "durable", "finalize_run", "get_step", "set_step"]

T = TypeVar("T")

_step: contextvars.ContextVar[Any] = contextvars.ContextVar("inngest_agents_ambient_step", default=None)


class _AmbientStep:
    """Takes the ambient step away again, where it is used with `with`."""

    def __init__(self, token: contextvars.Token[Any]) -> None:
        self._token = token

    def __enter__(self) -> None: ...

    def __exit__(self, *exc_info: object) -> None:
        _step.reset(self._token)


def set_step(step: Any) -> AbstractContextManager[None]:
    """Make `step` the ambient one for the rest of the current Inngest function.

    An async function has a context of its own, with which the ambient step ends. The thread of a synchronous one goes
    on to other work: write `with set_step(ctx.step): …` there.

    Args:
        step: the `step` of the Inngest function's context; None takes it away.
    """
    return _AmbientStep(_step.set(step))


def get_step() -> Any:
    """The ambient `step`; None outside of an Inngest function, and inside a step, where there can be no other one.

    In a tool that is no step (`tool_options(tool, in_step=False)`) it is that of the durable run.
    """
    return None if current_step() is not None else _step.get()


def _chosen(step: Any) -> Any:
    """The step that was passed, or the ambient one; inside a step neither, as its own would wait for itself."""
    return step if step is not None and current_step() is None else get_step()


async def durable(step_id: str, fn: Callable[..., Awaitable[T]], *args: Any, step: Any = None) -> T:
    """Run an async function as a memoized step.

    Args:
        step_id: names the step; a repeated one gets a number, in the order of the calls.
        fn: the work; its value comes back as JSON would carry it (see `inngest_agents.memos.codec`).
        *args: for `fn`.
        step: the `step` of the Inngest function's context; by default the ambient one.

    Returns:
        What `fn` returned when it ran. Without any step, `fn` is simply called.

    Raises:
        Exception: what the last attempt of `fn` raised, with its type.
    """
    chosen = _chosen(step)
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
        chosen = _chosen(step)
        if chosen is None or current_journal() is not None:
            value = body(context, arguments)
            return await value if inspect.isawaitable(value) else value

        async def call(_: StepScope) -> Any:
            value = body(context, arguments)
            return await value if inspect.isawaitable(value) else value

        journal, scope = _open(chosen)
        options = journal.options.for_tool(tool, tool.name)
        with inside_journal(journal, dataclasses.replace(scope, agent_name=_agent_of(context))):
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


def _agent_of(context: Any) -> str:
    """The agent that has ordered a tool call."""
    return str(getattr(getattr(context, "agent", None), "name", ""))


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
    """Sum up a plain run: a pure aggregation over its responses and the steps since the last such summary.

    What agents called as tools have used is counted too, but their models are not known, so `cost_complete` is False
    then. Of plain runs that go on side by side, the first summary has the steps of all.

    Args:
        result: what `Runner.run` gave back (or `run_streamed`, once it is complete).
        agent_name: the agent that the run is counted for, where its items do not tell which one; by default the last.
        model: the model that was asked, for the price, if the agents do not name theirs; responses do not tell.
        step: the `step` of the Inngest function's context; by default the ambient one. With one, the summary is a step.

    Returns:
        `final_output` as the run gave it, and the statistics.
    """
    chosen = _chosen(step)
    agent = str(agent_name or getattr(result.last_agent, "name", ""))

    async def summarize(steps: list[StepRecord]) -> list[dict[str, Any]]:
        calls, known = await _model_records(result, agent, model or ""), {step.call_id for step in steps}
        plain = [record for record in _tool_records(result, agent) if record.call_id not in known]
        return [record.to_dict() for record in _in_order(calls, [*steps, *plain], result)]

    if chosen is None or current_journal() is not None:
        records = await summarize([])
    else:
        journal, scope = _open(chosen)
        steps = journal.take_records()

        async def call(_: StepScope) -> list[dict[str, Any]]:
            return await summarize(steps)

        with inside_journal(journal, scope):
            records = await run_step(journal, scope.repeated("run_stats"), "other", call, name="run_stats")
        journal.take_records()  # the summary itself, which counts for nothing
    facts = RunFacts(
        starting_agent=agent,
        final_agent=getattr(result.last_agent, "name", agent),
        handoffs=sum(isinstance(item, HandoffOutputItem) for item in result.new_items),
    )
    stats = RunStats.from_records([StepRecord.from_dict(record) for record in records], facts)
    return FinalizedRun(result.final_output, stats)


async def _model_records(result: RunResultBase | RunResult, agent: str, model: str) -> list[StepRecord]:
    """A record for each model call of a plain run, and one for what else the SDK has counted."""
    made_by = {id(item.raw_item): item.agent for item in result.new_items}
    records = []
    for place, response in enumerate(result.raw_responses, 1):
        maker = next((made_by[id(item)] for item in response.output if id(item) in made_by), None)
        usage = usage_from_response(response, requested_model=model or _model_name(maker))
        records.append(
            StepRecord(
                kind="model",
                step_id=f"{agent}/{place} model",
                name=usage.requested_model,
                agent=getattr(maker, "name", agent),
                usage=await with_price(usage),
                counts=count_items(response.output),
                response_id=response.response_id or "",
            )
        )
    nested = _not_in_responses(result, records)
    if nested is not None:
        records.append(StepRecord(kind="other", step_id=f"{agent}/agents as tools", agent=agent, nested=(nested,)))
    return records


def _model_name(agent: Any) -> str:
    """The model that an agent asks, where it names one: as a text, or as an object that has a name."""
    model = getattr(agent, "model", None)
    name = model if isinstance(model, str) else getattr(model, "model", None)
    return name if isinstance(name, str) else ""


def _tool_records(result: RunResultBase, agent: str) -> list[StepRecord]:
    """A record for each tool call of a plain run; those of tools without `as_step` have no other."""
    calls = [(item, item.raw_item) for item in result.new_items if isinstance(item, ToolCallItem)]
    return [
        StepRecord(
            kind="tool",
            step_id=f"{agent}/{raw.name} {raw.call_id}",
            name=raw.name,
            agent=item.agent.name,
            call_id=raw.call_id,
        )
        for item, raw in calls
        if isinstance(raw, ResponseFunctionToolCall)
    ]


def _not_in_responses(result: RunResultBase, records: list[StepRecord]) -> UsageRecord | None:
    """What agents called as tools have used: the SDK adds it to the run's usage, and does not say for which model."""
    counted, known = result.context_wrapper.usage, [record.usage for record in records if record.usage is not None]
    requests = counted.requests - sum(usage.requests for usage in known)
    if requests <= 0:
        return None
    tokens = Tokens(
        input_tokens=max(0, counted.input_tokens - sum(usage.tokens.input_tokens for usage in known)),
        output_tokens=max(0, counted.output_tokens - sum(usage.tokens.output_tokens for usage in known)),
    )
    return UsageRecord(
        tokens=tokens,
        total_tokens=max(0, counted.total_tokens - sum(usage.total_tokens for usage in known)),
        requests=requests,
        origin="nested",
        price=Price(reason="a plain run does not tell which models its agents as tools have asked"),
    )


def _in_order(calls: list[StepRecord], steps: list[StepRecord], result: RunResultBase) -> Iterator[StepRecord]:
    """The model calls and steps of a plain run as they came: a tool call after the response that ordered it."""
    ordered_by = {
        getattr(item, "call_id", None): place
        for place, response in enumerate(result.raw_responses)
        for item in response.output
    }
    waiting = sorted(steps, key=lambda step: ordered_by.get(step.call_id, -1))
    places = iter(range(1, len(calls) + len(steps) + 1))
    for place, call in enumerate([None, *calls], -1):
        if call is not None:
            yield dataclasses.replace(call, order=next(places))
        for step in waiting:
            if ordered_by.get(step.call_id, -1) == place:
                yield dataclasses.replace(step, order=next(places))


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
