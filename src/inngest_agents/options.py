"""The options of a durable run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from inngest_agents.budget import Budget
    from inngest_agents.sinks import StreamSink
    from inngest_agents.stats.pricing import ModelPrices

__all__ = ["DurableOptions", "ToolOptions", "tool_options"]

T = TypeVar("T")

_TOOL_OPTIONS_ATTRIBUTE = "__durable_tool_options__"


@dataclasses.dataclass(frozen=True, slots=True)
class ToolOptions:
    """How the steps of one tool behave."""

    max_attempts: int | None = None
    """How often a call is tried before its failure goes to the tool's `failure_error_function`; at least 1. None: as
    often as Inngest tries any step of the function (its `retries` + 1, at most that number). With 1, a call that
    raised is final; a call that was cut off by a crash is still run again (at least once)."""

    in_step: bool = True
    """Whether each call of a function tool is a step. False: it runs in the Inngest function itself, again in each
    request until the run has ended, and so may use what there is once in a function: `get_step()` gives it the
    function's `ctx.step`, to wait for events or time, to invoke other functions, to send events; `durable` makes steps
    of its work. What it does beside these must do no harm when it is done again."""

    def __post_init__(self) -> None:
        if self.max_attempts is not None and self.max_attempts < 1:
            raise ValueError(f"max_attempts must be at least 1, not {self.max_attempts}")
        if self.max_attempts is not None and not self.in_step:
            raise ValueError("max_attempts is of a step, and with in_step=False there is none: give one of the two")


def tool_options(tool: T, *, max_attempts: int | None = None, in_step: bool = True) -> T:
    """Mark a tool with the options of its steps, and return it.

    Example:
        `charge_card = tool_options(charge_card, max_attempts=1)`

    Args:
        tool: a `FunctionTool` or any other local tool of the Agents SDK.
        max_attempts: see `ToolOptions.max_attempts`.
        in_step: see `ToolOptions.in_step`.

    Raises:
        ValueError: `max_attempts` is less than 1, or given together with `in_step=False`.
        TypeError: `in_step=False` for something else than a `FunctionTool`.
    """
    if not in_step:
        from agents import FunctionTool

        if not isinstance(tool, FunctionTool):
            raise TypeError(f"in_step=False is for a FunctionTool, not {type(tool).__name__}")
    setattr(tool, _TOOL_OPTIONS_ATTRIBUTE, ToolOptions(max_attempts=max_attempts, in_step=in_step))
    return tool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DurableOptions:
    """The options of `DurableRunner`."""

    name: str | None = None
    """The first part of every step's id; by default the starting agent's name. Give one where an Inngest function
    starts several runs of agents of the same name concurrently."""

    checkpoint: bool = True
    """Save finished steps while the request stays open, where the engine offers it, so that a whole run takes one
    request. False: one request for each step, as `step.run` does it."""

    max_runtime: float | None = 50.0
    """Seconds after which a checkpointed request ends with its next step, so that no proxy's or host's limit cuts it
    off; the run goes on in a new request. None: no limit. Over Connect there is none in any case."""

    tools: Mapping[str, ToolOptions] = dataclasses.field(default_factory=dict)
    """Options of tools by their name; they win over `tool_options(tool, …)`."""

    budget: Budget | None = None
    """Limits on dollars, tokens and calls; see `inngest_agents.Budget`."""

    prices: Mapping[str, ModelPrices] | None = None
    """Prices of models of your own, in US dollars per token by LiteLLM's field names; they win over its table."""

    prices_on: bool = True
    """Look up what each model call costs, once, in its step (needs the extra `cost`). False: no prices."""

    estimate_tokens: bool = True
    """Count tokens offline where the provider gives no usage; the record says `estimated`."""

    context_encode: Callable[[Any], Any] | None = None
    """Makes JSON of all that tools, hooks and guardrails may change in the user's context object. By default its fields
    are looked at (dict, dataclass, pydantic model, plain object). To be given together with `context_decode`."""

    context_decode: Callable[[Any, Any], None] | None = None
    """Gets the context object and JSON that `context_encode` has made, and makes the object so, in place."""

    session_writes: Literal["end", "turn"] = "end"
    """When the items of a run are written to its session: in one step when the run ends, fails or is interrupted, or in
    a step for the input and one for each turn. Take "turn" if tools read the session by themselves in mid-run."""

    stream: StreamSink | None = None
    """Where the events of `DurableRunner.run_streamed` go live and once, besides its caller: a function of one
    JSON-able dict (a coroutine function, or a plain one, which is called in a thread), or a `RealtimeSink`; see
    `inngest_agents.sinks` for the dict. A sink that raises or lags behind loses events and never harms the run.
    `DurableRunner.run` and `run_sync`, which have no events, refuse it."""

    stats_step: bool = True
    """End the run with a step `run_stats`, which shows the statistics in the dashboard. False: one step less."""

    otel: TracerProvider | bool = True
    """Export spans of the run, its agents and its steps to OpenTelemetry (extra `otel`), by the GenAI semantic
    conventions, once, when the run ends: to this tracer provider, or (True) to the global one, if the process has set
    one up. False: none."""

    divergence: Literal["error", "warn"] = "error"
    """What happens when a replay asks for another step than was remembered, or leaves memos unused: fail the run with a
    `DivergenceError`, or log a warning and go on with what was remembered."""

    def __post_init__(self) -> None:
        for name, chosen in self.tools.items():
            if not isinstance(chosen, ToolOptions):  # a call that must not be tried again would be
                raise ValueError(f"tools[{name!r}] must be ToolOptions(…), not {chosen!r}")
        for field, values in (("session_writes", ("end", "turn")), ("divergence", ("error", "warn"))):
            if getattr(self, field) not in values:
                raise ValueError(f"{field} must be {' or '.join(map(repr, values))}, not {getattr(self, field)!r}")
        if (self.context_encode is None) != (self.context_decode is None):
            raise ValueError("context_encode and context_decode belong together: give both or none")
        for model, entry in (self.prices or {}).items():
            for field, value in entry.items():
                if "cost" in field and "token" in field and not _is_price(value):
                    # In the step that asks for it, it would fail the call after the provider has billed it.
                    raise ValueError(f"prices[{model!r}][{field!r}] must be US dollars per token, not {value!r}")

    def for_tool(self, tool: Any, name: str) -> ToolOptions:
        """The options of one tool."""
        chosen = self.tools.get(name) or getattr(tool, _TOOL_OPTIONS_ATTRIBUTE, None)
        return chosen if isinstance(chosen, ToolOptions) else ToolOptions()


def _is_price(value: Any) -> bool:
    try:
        return value is None or 0 <= float(value) < float("inf")
    except (TypeError, ValueError):
        return False
