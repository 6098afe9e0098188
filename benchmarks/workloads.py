"""What is run: an agent whose model answers at once, so that what is left is the cost of the runner.

A workload travels in the prompt, as JSON, and the model reads its place in it off the last tool result. So neither
keeps state, every process can run any part of any run, and a replay asks the same model for the same answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from agents import Agent, Model, ModelResponse, RunConfig, Usage, function_tool
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText

from . import ledger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Sequence

    from agents import Tool
    from agents.items import TResponseOutputItem, TResponseStreamEvent

PAYLOAD = 200
"""How many characters a tool returns, if nothing else is said."""
MODEL = "instant"
"""The name under which a model provider gives the instant model."""


@dataclass(frozen=True)
class Workload:
    """A run of `turns` turns with `tools` parallel tool calls each, and a last turn that answers."""

    turns: int
    tools: int
    model_ms: int = 0
    tool_ms: int = 0
    payload: int = PAYLOAD
    """How many characters a tool returns."""
    api: bool = False
    """Whether the model answers through OpenAI's client; see `over_api`."""

    @property
    def name(self) -> str:
        """The short name: turns x tools, and what is not as in the others."""
        latency = f" {self.model_ms} ms" if self.model_ms else ""
        payload = f" {self.payload} characters" if self.payload != PAYLOAD else ""
        return f"{self.turns}x{self.tools}{latency}{payload}{' over the API' if self.api else ''}"

    @property
    def models(self) -> int:
        """How many model calls the run takes."""
        return self.turns + 1

    @property
    def tool_calls(self) -> int:
        """How many tool calls the run takes."""
        return self.turns * self.tools

    @property
    def steps(self) -> int:
        """How many calls can be made durable."""
        return self.models + self.tool_calls

    def prompt(self, run: str) -> str:
        """The prompt that makes the model do this workload, counted under `run`."""
        return json.dumps({"run": run, **asdict(self)})


INSTANT = tuple(Workload(*shape) for shape in ((10, 1), (50, 1), (100, 1), (200, 1), (10, 3), (10, 10)))
"""The workloads that show the runner's own cost."""

REALISTIC = Workload(10, 3, model_ms=800, tool_ms=100)
"""What an agent takes that talks to a real model and real tools."""

LARGE = Workload(50, 1, payload=4000)
"""Tools that answer at length, as searches and files do: what is stored once for each step counts less."""

API = Workload(50, 1, api=True)
API_LARGE = Workload(50, 1, payload=4000, api=True)
"""The same two with a model as OpenAI serves it."""

LENGTHS = tuple(w for w in INSTANT if w.tools == 1)
"""The workloads which differ in nothing but the number of turns."""


class Cut(BaseException):
    """Ends a plain pass where a durable one would have ended its request."""


_left: contextvars.ContextVar[list[int] | None] = contextvars.ContextVar("left", default=None)


@contextlib.contextmanager
def cut_after(steps: int | None) -> Iterator[None]:
    """End the run in it with `Cut` at the end of its n-th model or tool call; None: at none."""
    token = _left.set(None if steps is None else [steps])
    try:
        yield
    finally:
        _left.reset(token)


def _end_of_step() -> None:
    left = _left.get()
    if left is not None:
        left[0] -= 1
        if left[0] == 0:
            raise Cut


class Meeting:
    """Holds up the first model call of each of some runs until all are there: they are under way at the same time."""

    def __init__(self, runs: Iterable[str]) -> None:
        self._missing = set(runs)
        self._complete = asyncio.Event()

    async def come(self, run: str) -> None:
        """Wait for the others; whoever is not expected, or comes again, waits no longer than they do."""
        self._missing.discard(run)
        if not self._missing:
            self._complete.set()
        await self._complete.wait()


_meeting: Meeting | None = None


@contextlib.contextmanager
def all_at_once(runs: Iterable[str]) -> Iterator[None]:
    """Let these runs of this process make their first model call at the same time."""
    global _meeting  # noqa: PLW0603  servers answer in contexts of their own, so that no context variable gets there
    _meeting = Meeting(runs)
    try:
        yield
    finally:
        _meeting = None


class InstantModel(Model):
    """Calls the tools for as many turns as the prompt says, then answers."""

    async def get_response(
        self,
        system_instructions: str | None,
        input: str | list[Any],
        *args: Any,
        **kwargs: Any,
    ) -> ModelResponse:
        """The next turn's tool calls, or the final answer."""
        work = json.loads(_prompt(input))
        turn = turn_of(input)
        ledger.note(work["run"], f"model:{turn}")
        if _meeting is not None and turn == 0:
            await _meeting.come(work["run"])
        if work["model_ms"]:
            await asyncio.sleep(work["model_ms"] / 1000)
        output = next_output(input)
        _end_of_step()
        return ModelResponse(
            output=output,
            usage=Usage(requests=1, input_tokens=100 + 50 * turn, output_tokens=20, total_tokens=120 + 50 * turn),
            response_id=f"resp_{turn}",
        )

    def stream_response(self, *args: Any, **kwargs: Any) -> AsyncIterator[TResponseStreamEvent]:
        """Not measured."""
        raise NotImplementedError


async def lookup(run: str, call: str, delay_ms: int, payload: int) -> str:
    """Look something up.

    Args:
        run: The run that asks.
        call: Which call of the run it is.
        delay_ms: How long the answer takes.
        payload: How long the answer is.
    """
    ledger.note(run, f"tool:{call}")
    if delay_ms:
        await asyncio.sleep(delay_ms / 1000)
    _end_of_step()
    return f"{call} ".ljust(payload, "x")


def make_agent(tools: Sequence[Tool] | None = None, model: str | Model | None = None) -> Agent[Any]:
    """The agent of all workloads; a runner may need its own wrapping of the tool or the model."""
    return Agent(
        name="bench",
        instructions="Look things up, then answer.",
        model=model or InstantModel(),
        tools=list(tools) if tools is not None else [function_tool(lookup)],
    )


def agent_for(prompt: str) -> Agent[Any]:
    """The agent for a prompt: with the model that the workload in it asks for."""
    if not json.loads(prompt)["api"]:
        return make_agent()
    from . import over_api

    return make_agent(model=over_api.model())


def run_options() -> dict[str, Any]:
    """What every runner gets besides the agent and the prompt: no limit of turns, no traces."""
    return {"max_turns": 10_000, "run_config": RunConfig(tracing_disabled=True)}


def _prompt(items: str | list[Any]) -> str:
    """The text that the run started with."""
    if isinstance(items, str):
        return items
    content = items[0]["content"]
    return content if isinstance(content, str) else content[0]["text"]


def next_output(items: str | list[Any]) -> list[TResponseOutputItem]:
    """What the model says to an input: the next turn's tool calls, or the final answer."""
    work, turn = json.loads(_prompt(items)), turn_of(items)
    return _calls(work, turn) if turn < work["turns"] else [_answer(f"{turn} turns done")]


def turn_of(items: str | list[Any]) -> int:
    """How many turns are done, by the last tool result's id."""
    if isinstance(items, str) or items[-1].get("type") != "function_call_output":
        return 0
    return int(items[-1]["call_id"].split("_")[1]) + 1


def _calls(work: dict[str, Any], turn: int) -> list[TResponseOutputItem]:
    """The tool calls of one turn."""
    return [
        ResponseFunctionToolCall(
            id=f"fc_{turn}_{i}",
            call_id=f"call_{turn}_{i}",
            name="lookup",
            arguments=json.dumps(
                {
                    "run": work["run"],
                    "call": f"{turn}.{i}",
                    "delay_ms": work["tool_ms"],
                    "payload": work["payload"],
                }
            ),
            type="function_call",
            status="completed",
        )
        for i in range(work["tools"])
    ]


def _answer(text: str) -> ResponseOutputMessage:
    """A final message."""
    return ResponseOutputMessage(
        id="msg_final",
        content=[ResponseOutputText(text=text, type="output_text", annotations=[])],
        role="assistant",
        status="completed",
        type="message",
    )
