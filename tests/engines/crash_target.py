"""A worker that dies by SIGKILL at chosen points, and counts what it really executed. Used by test_crash.py.

The process that serves is a fork of one that has imported everything; when it is killed, the next fork takes over at
once. `CRASH_AT` says where it dies, each time it comes to a place where it has not died before:

- `none`: never;
- `before-save`: when a save is about to be sent, so its steps were executed and are not saved;
- `after-save`: when a save was answered, so its steps are saved and nothing later has begun;
- `inside-step`: in the middle of the body of a model call or tool call.
"""

from __future__ import annotations

import asyncio
import datetime
import os
import signal
import sqlite3
from typing import Any

import inngest
from agents import Agent, ModelResponse, Usage, function_tool, set_tracing_disabled
from agents.models.interface import Model
from agents.testing import assistant_message, function_call

from inngest_agents import DurableOptions, DurableRunner, durable, get_step, tool_options
from inngest_agents.request import _http

set_tracing_disabled(True)

DATABASE = os.environ["CRASH_DB"]
CRASH_AT = os.environ["CRASH_AT"]
CHECKPOINT = os.environ.get("CRASH_CHECKPOINT", "1") == "1"
SPANS = os.environ.get("CRASH_SPANS", "0") == "1"


def database() -> sqlite3.Connection:
    connection = sqlite3.connect(DATABASE, timeout=30, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE IF NOT EXISTS executed (what TEXT)")
    connection.execute("CREATE TABLE IF NOT EXISTS died (place TEXT PRIMARY KEY)")
    connection.execute("CREATE TABLE IF NOT EXISTS orders (item TEXT, amount INT)")
    return connection


def executed(what: str) -> None:
    with database() as connection:
        connection.execute("INSERT INTO executed VALUES (?)", (what,))


def maybe_die(point: str, place: str) -> None:
    """Die here if it is the kind of place to die at and it has not happened here before."""
    if point != CRASH_AT:
        return
    with database() as connection:
        fresh = connection.execute("INSERT OR IGNORE INTO died VALUES (?)", (place,)).rowcount
    if fresh:
        os.kill(os.getpid(), signal.SIGKILL)


class Script(Model):
    """Answers by what the input shows, so that it is the same model in every process."""

    def __init__(self, name: str, answers: list[list[Any]]) -> None:
        self.name = name
        self.answers = answers

    async def get_response(self, system_instructions: Any, input: Any, *args: Any, **kwargs: Any) -> ModelResponse:
        items = [] if isinstance(input, str) else input
        outputs = {
            item["call_id"] for item in items if isinstance(item, dict) and item.get("type", "").endswith("output")
        }
        turn = 0
        while turn < len(self.answers) - 1 and {call.call_id for call in self.answers[turn]} <= outputs:
            turn += 1
        executed(f"{self.name} model {turn}")
        maybe_die("inside-step", f"{self.name} model {turn}")
        return ModelResponse(
            output=self.answers[turn],
            usage=Usage(requests=1, input_tokens=100 + turn, output_tokens=10, total_tokens=110 + turn),
            response_id=f"{self.name}-{turn}",
        )

    def stream_response(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError


@function_tool
async def stock(item: str) -> int:
    """How many there are."""
    executed(f"stock {item}")
    maybe_die("inside-step", f"stock {item}")
    return len(item)


@function_tool
async def order(item: str, amount: int) -> str:
    """Order something: the side effect that must not happen twice. Figs take a moment longer than pears."""
    await asyncio.sleep(0.1 if item == "fig" else 0)
    maybe_die("inside-step", f"order {item}")
    executed(f"order {item}")
    with database() as connection:
        connection.execute("INSERT INTO orders VALUES (?, ?)", (item, amount))
    return f"ordered {amount} {item}"


async def send_question() -> None:
    executed("question")
    maybe_die("inside-step", "question")


@function_tool
async def ask_boss() -> str:
    """Ask, and wait for the answer: no step itself."""
    await durable("send", send_question)
    answer = await get_step().wait_for_event("answer", event="answered", timeout=datetime.timedelta(minutes=2))
    return "no answer" if answer is None else str(answer.data["text"])


def researcher() -> Agent[None]:
    return Agent(
        name="research",
        model=Script(
            "research", [[function_call("stock", {"item": "pear"}, call_id="r1")], [assistant_message("4 pears")]]
        ),
        tools=[stock],
    )


def team_that_waits() -> Agent[None]:
    """One tool waits for an event, beside an order and the researcher."""
    calls = [
        function_call("ask_boss", {}, call_id="w1"),
        function_call("order", {"item": "fig", "amount": 2}, call_id="w2"),
        function_call("ask_research", {"input": "pears?"}, call_id="w3"),
    ]
    return Agent(
        name="clerk",
        model=Script("clerk", [calls, [assistant_message("all done")]]),
        tools=[
            tool_options(ask_boss, in_step=False),
            order,
            researcher().as_tool("ask_research", "Ask the researcher"),
        ],
    )


def team() -> Agent[None]:
    """Triage with parallel tools, a handoff to sales, which calls a researcher as a tool."""
    research = researcher()
    sales = Agent(
        name="sales",
        model=Script(
            "sales",
            [
                [function_call("ask_research", {"input": "pears?"}, call_id="s1")],
                [
                    function_call("order", {"item": "pear", "amount": 4}, call_id="s2"),
                    function_call("order", {"item": "fig", "amount": 2}, call_id="s3"),
                ],
                [assistant_message("all ordered")],
            ],
        ),
        tools=[research.as_tool("ask_research", "Ask the researcher"), order],
    )
    return Agent(
        name="triage",
        model=Script(
            "triage",
            [
                [
                    function_call("stock", {"item": "apple"}, call_id="t1"),
                    function_call("stock", {"item": "kiwi"}, call_id="t2"),
                    function_call("stock", {"item": "fig"}, call_id="t3"),
                ],
                [function_call("transfer_to_sales", {}, call_id="t4")],
            ],
        ),
        tools=[stock],
        handoffs=[sales],
    )


def build(client: inngest.Inngest) -> list[Any]:
    @client.create_function(fn_id="team", trigger=inngest.TriggerEvent(event="team/run"), retries=20)
    async def run(ctx: inngest.Context) -> dict[str, Any]:
        options = DurableOptions(checkpoint=CHECKPOINT, otel=spans_to_database() if SPANS else False)
        result = await DurableRunner.run(team(), "pears and figs", step=ctx.step, options=options)
        stats = result.stats.to_dict(durations=False)
        return {"final_output": result.final_output, "stats": stats, "last_agent": result.last_agent.name}

    @client.create_function(fn_id="waiting", trigger=inngest.TriggerEvent(event="waiting/run"), retries=20)
    async def run_waiting(ctx: inngest.Context) -> dict[str, Any]:
        options = DurableOptions(checkpoint=CHECKPOINT)
        result = await DurableRunner.run(team_that_waits(), "pears and figs", step=ctx.step, options=options)
        items: list[Any] = result.to_input_list()
        outputs = [item["output"] for item in items if "output" in item]
        return {"final_output": result.final_output, "outputs": outputs, "tools": result.stats.total_tool_calls}

    serve_in_forks()
    return [run, run_waiting]


def spans_to_database() -> Any:
    """A tracer provider whose exporter survives the process."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

    class Exporter(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            with database() as connection:
                connection.execute("CREATE TABLE IF NOT EXISTS spans (id TEXT, parent TEXT, trace TEXT, name TEXT)")
                for span in spans:
                    ids = (
                        f"{span.context.span_id:016x}",
                        f"{span.parent.span_id:016x}",
                        f"{span.context.trace_id:032x}",
                    )
                    connection.execute("INSERT INTO spans VALUES (?, ?, ?, ?)", (*ids, span.name))
            return SpanExportResult.SUCCESS

    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(Exporter()))
    return provider


def serve_in_forks() -> None:
    """Let a child go on and serve; when it is killed, fork the next one."""
    send = _http.post

    async def post(*args: Any, **kwargs: Any) -> _http.Answer:
        place = str(hash_of(args[2]))
        maybe_die("before-save", place)
        answer = await send(*args, **kwargs)
        maybe_die("after-save", place)
        return answer

    while CRASH_AT != "none":
        child = os.fork()
        if child == 0:
            _http.post = post  # a fault injected at the edge of the process; the real one still sends
            return
        _, status = os.waitpid(child, 0)
        if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
            os._exit(1)


def hash_of(body: bytes) -> list[str]:
    """The ids of the steps in a save: the place that it is, in whichever process."""
    import json

    return sorted(step["displayName"] for step in json.loads(body)["steps"])
