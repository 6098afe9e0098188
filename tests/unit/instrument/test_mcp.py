"""MCP servers in a durable run, with a real stdio server and a real streamable-HTTP server."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from agents import Agent, Runner
from agents.mcp import MCPServer, MCPServerStdio, MCPServerStreamableHttp
from agents.testing import ScriptedModel, assistant_message, function_call
from agents.tracing import FunctionSpanData, Span, Trace, TracingProcessor
from agents.tracing.provider import DefaultTraceProvider
from agents.tracing.setup import get_trace_provider
from oracle import seen, shown

from inngest_agents import DurableOptions, DurableRunner
from inngest_agents.instrument.mcp import _connections
from inngest_agents.options import ToolOptions
from inngest_agents.request.thread_loop import run_in_thread_loop
from inngest_agents.testing import replayed

SCRIPT = Path(__file__).with_name("mcp_weather.py")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "weather.log"


def lines(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def stdio(log: Path, **options: Any) -> MCPServerStdio:
    return MCPServerStdio(
        params={"command": sys.executable, "args": [str(SCRIPT), str(log)]}, name="weather", **options
    )


def two_calls() -> list[Any]:
    return [
        [function_call("get_weather", {"city": "Oslo"}, call_id="c1")],
        [function_call("get_weather", {"city": "Rome"}, call_id="c2")],
        [assistant_message("sunny")],
    ]


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of a streamable-HTTP server, and its log."""
    log = tmp_path_factory.mktemp("mcp") / "weather.log"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, str(SCRIPT), str(log), str(port)], stderr=subprocess.DEVNULL)
    try:
        for _ in range(400):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/mcp", log
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def server(http: tuple[str, Path]) -> Callable[..., MCPServerStreamableHttp]:
    """Makes servers that nobody has connected."""
    url, log = http
    clear(log)
    return lambda **options: MCPServerStreamableHttp(params={"url": url}, name="weather", **options)


@pytest.fixture
def calls(http: tuple[str, Path]) -> Callable[[], list[str]]:
    """What the HTTP server was asked in this test."""
    return lambda: lines(http[1])


def clear(log: Path) -> None:
    log.write_text("")


async def durably(agent: Agent[Any], **options: Any) -> Any:
    attempts = options.pop("max_attempts", 1)
    return await replayed(lambda step: DurableRunner.run(agent, "hi", step=step, **options), max_attempts=attempts)


async def test_a_stdio_server_that_nobody_connected_is_listed_once_and_opened_only_for_steps(log: Path) -> None:
    async with stdio(log) as connected:
        plain_model = ScriptedModel(two_calls()[1:])
        plain = await Runner.run(Agent(name="a", model=plain_model, mcp_servers=[connected]), "hi")
    clear(log)
    server = stdio(log)
    model = ScriptedModel(two_calls()[1:])
    run = await durably(Agent(name="a", model=model, mcp_servers=[server]))
    assert shown(run.result) == shown(plain)
    assert seen(model) == seen(plain_model)
    assert run.steps == [
        "a/list tools weather",
        "a/1 model a",
        "a/1.1 get_weather",
        "a/2 model a",
    ]
    assert lines(log) == ["start", "start", "get_weather Rome"]
    assert server.session is None


Server = Callable[..., MCPServerStreamableHttp]
Calls = Callable[[], list[str]]


async def test_the_description_and_schema_of_a_tool_are_those_of_runner(server: Server) -> None:
    async with server() as connected:
        plain_model = ScriptedModel([[assistant_message("hello")]])
        await Runner.run(Agent(name="a", model=plain_model, mcp_servers=[connected]), "hi")
    model = ScriptedModel([[assistant_message("hello")]])
    await durably(Agent(name="a", model=model, mcp_servers=[server()]))
    for mine, theirs in zip(model.calls[0].tools, plain_model.calls[0].tools, strict=True):
        assert mine.description == theirs.description  # type: ignore[union-attr]
        assert mine.params_json_schema == theirs.params_json_schema  # type: ignore[union-attr]


async def test_a_server_that_the_user_connected_is_used_as_it_is_and_left_open(server: Server, calls: Calls) -> None:
    async with server() as connected:
        session = connected.session
        run = await durably(Agent(name="a", model=ScriptedModel(two_calls()), mcp_servers=[connected]))
        assert connected.session is session
        assert run.result.final_output == "sunny"
    assert calls() == ["get_weather Oslo", "get_weather Rome"]


async def test_a_streamable_http_server_works_the_same(server: Server, calls: Calls) -> None:
    mine = server()
    run = await durably(Agent(name="a", model=ScriptedModel(two_calls()), mcp_servers=[mine]))
    assert run.result.final_output == "sunny"
    assert mine.session is None
    assert calls() == ["get_weather Oslo", "get_weather Rome"]


async def test_concurrent_runs_share_the_connection_of_a_server_object(server: Server, calls: Calls) -> None:
    mine = server()
    agents = [Agent(name=name, model=ScriptedModel(two_calls()), mcp_servers=[mine]) for name in "abc"]
    runs = await asyncio.gather(*(durably(agent) for agent in agents))
    assert [run.result.final_output for run in runs] == ["sunny"] * 3
    assert mine.session is None
    assert calls().count("get_weather Oslo") == 3


class SlowToClose(MCPServerStreamableHttp):
    """Keeps its dead session while it is being closed, for so long that another run comes."""

    async def connect(self) -> None:
        self.exit_stack.push_async_callback(asyncio.sleep, 0.3)  # the last thing that is closed
        await super().connect()  # type: ignore[no-untyped-call]


async def test_a_run_that_comes_while_a_connection_is_being_closed_opens_another(http: tuple[str, Path]) -> None:
    clear(http[1])
    mine = SlowToClose(params={"url": http[0]}, name="weather")
    agents = [Agent(name=name, model=ScriptedModel(two_calls()), mcp_servers=[mine]) for name in "ab"]

    async def later(delay: float, agent: Agent[Any]) -> Any:
        await asyncio.sleep(delay)
        return await durably(agent)

    runs = await asyncio.gather(*(later(0.15 * place, agent) for place, agent in enumerate(agents)))
    for run in runs:
        outputs = [item.output for item in run.result.new_items if item.type == "tool_call_output_item"]
        texts = [output["text"] for output in outputs]
        assert texts == ["The weather in Oslo is sunny.", "The weather in Rome is sunny."]
    assert sorted(lines(http[1])) == ["get_weather Oslo"] * 2 + ["get_weather Rome"] * 2
    assert mine.session is None


async def test_a_request_is_answered_before_its_connections_are_closed(http: tuple[str, Path]) -> None:
    mine = SlowToClose(params={"url": http[0]}, name="weather")
    agent: Agent[Any] = Agent(name="a", model=ScriptedModel(two_calls()), mcp_servers=[mine])
    open_at_answer: list[bool] = []

    async def answer(step: Any) -> None:
        try:
            await DurableRunner.run(agent, "hi", step=step)
        finally:
            open_at_answer.append(mine in _connections)

    run = await replayed(answer)
    assert run.steps == [
        "a/list tools weather",
        "a/1 model a",
        "a/1.1 get_weather",
        "a/2 model a",
        "a/2.1 get_weather",
        "a/3 model a",
    ]
    # The first request of an event loop waits: it may be the loop's only one, and what is open would be cut with it.
    assert not open_at_answer[0]
    assert open_at_answer[2]
    assert open_at_answer[4]
    assert mine not in _connections


async def test_a_sync_function_has_closed_its_connections_when_it_answers(http: tuple[str, Path]) -> None:
    mine = SlowToClose(params={"url": http[0]}, name="weather")
    agent: Agent[Any] = Agent(name="a", model=ScriptedModel(two_calls() * 2), mcp_servers=[mine])
    still_open: list[bool] = []

    def both_runs(step: Any) -> list[str]:
        """As in a sync function: the thread's loop stops after each run, and the thread serves further requests."""
        try:
            runs = [run_in_thread_loop(lambda: DurableRunner.run(agent, "hi", step=step)) for _ in range(2)]
            return [run.final_output for run in runs]
        finally:
            still_open.append(mine in _connections)

    threads = [ThreadPoolExecutor(1), ThreadPoolExecutor(1)]

    async def handler(step: Any) -> list[str]:
        # Else the other thread would find what this one has left half closed, and wait for ever.
        assert not any(still_open)
        thread = threads[len(still_open) // 2 % 2]
        return await asyncio.get_running_loop().run_in_executor(thread, both_runs, step)

    run = await replayed(handler)
    for thread in threads:
        thread.shutdown()
    assert run.result == ["sunny"] * 2
    assert len(still_open) > 8
    assert not any(still_open)
    assert mine.session is None


class NeverReady(MCPServerStdio):
    """Waits for ever once it is connected, as one does that logs in at a service that does not answer."""

    def __init__(self, log: Path) -> None:
        super().__init__(params={"command": sys.executable, "args": [str(SCRIPT), str(log)]}, name="weather")
        self.told: list[str] = []
        self.is_waiting = asyncio.Event()

    async def connect(self) -> None:
        await super().connect()  # type: ignore[no-untyped-call]
        self.is_waiting.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.told.append("cancelled")
            raise


async def test_a_run_that_is_given_up_while_it_connects_gives_up_the_connection(log: Path) -> None:
    server = NeverReady(log)
    agent: Agent[Any] = Agent(name="a", model=ScriptedModel([]), mcp_servers=[server])
    given_up: list[str] = []

    async def handler(step: Any) -> str:
        running = asyncio.ensure_future(DurableRunner.run(agent, "hi", step=step))
        await server.is_waiting.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        given_up.extend(server.told)
        return "answered"

    run = await asyncio.wait_for(replayed(handler), 30)
    assert run.result == "answered"
    assert given_up == ["cancelled"]
    assert server not in _connections
    assert server.session is None  # else it would look like one that the user has connected


async def test_an_agent_tool_whose_server_never_connects_runs_into_its_timeout(log: Path) -> None:
    server = NeverReady(log)
    tool = Agent(name="inner", model=ScriptedModel([]), mcp_servers=[server]).as_tool("ask", "Asks")
    tool.timeout_seconds = 0.2
    script = [[function_call("ask", {"input": "why"}, call_id="c1")], [assistant_message("no answer")]]
    run = await asyncio.wait_for(durably(Agent(name="outer", model=ScriptedModel(script), tools=[tool])), 30)
    assert run.result.final_output == "no answer"
    assert server not in _connections
    assert server.session is None


async def test_a_server_that_is_cancelled_from_within_while_it_connects_fails_the_step(log: Path) -> None:
    server = stdio(log)
    tries: list[int] = []

    async def connect() -> None:
        tries.append(1)
        raise asyncio.CancelledError

    server.connect = connect  # type: ignore[method-assign]
    agent: Agent[Any] = Agent(name="a", model=ScriptedModel([]), mcp_servers=[server])
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(durably(agent, max_attempts=2), 30)
    assert len(tries) == 2
    assert server not in _connections


async def test_a_server_that_is_cancelled_from_within_while_it_is_closed_does_not_end_the_run(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    mine = server()
    clean_up = mine.cleanup

    async def cleanup() -> None:
        await clean_up()  # type: ignore[no-untyped-call]
        raise asyncio.CancelledError("lost the connection")

    mine.cleanup = cleanup  # type: ignore[method-assign]
    run = await durably(Agent(name="a", model=ScriptedModel(two_calls()), mcp_servers=[mine]))
    assert run.result.final_output == "sunny"
    assert mine not in _connections
    assert "closing a resource" in caplog.text


async def test_a_server_that_is_away_is_asked_again_by_the_engine(tmp_path: Path) -> None:
    away: Any = MCPServerStdio(params={"command": str(tmp_path / "missing"), "args": []}, name="weather")
    agent: Agent[Any] = Agent(name="a", model=ScriptedModel([]), mcp_servers=[away])
    tries: list[int] = []
    connect = away.connect

    async def counted() -> None:
        tries.append(1)
        await connect()

    away.connect = counted
    with pytest.raises(FileNotFoundError):
        await durably(agent, max_attempts=3)
    assert len(tries) == 3


class Broken(MCPServerStreamableHttp):
    tries = 0

    async def call_tool(self, *args: Any, **kwargs: Any) -> Any:
        self.tries += 1
        raise ConnectionError("the line is dead")


async def test_failures_of_a_call_go_to_the_failure_function_once(http: tuple[str, Path]) -> None:
    texts: list[str] = []

    def failed(context: Any, error: Exception) -> str:
        texts.append(str(error))
        return "it failed"

    script = [[function_call("get_weather", {"city": "Oslo"}, call_id="c1")], [assistant_message("sorry")]]
    for limit, tries in ((None, 3), (1, 1)):
        broken = Broken(params={"url": http[0]}, name="weather", failure_error_function=failed)
        agent: Agent[Any] = Agent(name="a", model=ScriptedModel(script), mcp_servers=[broken])
        options = DurableOptions(tools={"get_weather": ToolOptions(max_attempts=limit)})
        run = await durably(agent, max_attempts=3, options=options)
        assert broken.tries == tries
        assert "the line is dead" in texts.pop()
        assert texts == []
        assert run.result.new_items[1].output == "it failed"


async def test_an_error_result_of_a_tool_is_an_answer_and_not_a_failure(server: Server, calls: Calls) -> None:
    script = [[function_call("fails", {"city": "Oslo"}, call_id="c1")], [assistant_message("ok")]]
    async with server() as connected:
        plain = await Runner.run(Agent(name="a", model=ScriptedModel(script), mcp_servers=[connected]), "hi")
    run = await durably(Agent(name="a", model=ScriptedModel(script), mcp_servers=[server()]), max_attempts=3)
    assert shown(run.result) == shown(plain)
    assert calls() == ["fails Oslo"] * 2


async def test_missing_arguments_are_found_before_the_server_is_asked(server: Server, calls: Calls) -> None:
    script = [[function_call("get_weather", {}, call_id="c1")], [assistant_message("ok")]]
    async with server(cache_tools_list=True) as connected:
        plain = await Runner.run(Agent(name="a", model=ScriptedModel(script), mcp_servers=[connected]), "hi")
    mine = server(cache_tools_list=True)
    run = await durably(Agent(name="a", model=ScriptedModel(script), mcp_servers=[mine]), max_attempts=3)
    assert shown(run.result) == shown(plain)
    assert calls() == []


async def test_static_and_dynamic_filters(server: Server) -> None:
    asked: list[str] = []

    async def only_weather(context: Any, tool: Any) -> bool:
        asked.append(tool.name)
        return bool(tool.name == "get_weather")

    filters: list[tuple[Any, int]] = [({"blocked_tool_names": ["secret", "fails", "vanish"]}, 0), (only_weather, 3)]
    for tool_filter, steps in filters:
        model = ScriptedModel(two_calls())
        run = await durably(Agent(name="a", model=model, mcp_servers=[server(tool_filter=tool_filter)]))
        assert [[tool.name for tool in call.tools] for call in model.calls] == [["get_weather"]] * 3
        assert len([step for step in run.steps if "filter" in step]) == steps
        assert len([step for step in run.steps if "list tools" in step]) == 1
    assert len(asked) == 3 * 4


async def test_meta_and_custom_data_come_with_the_call(server: Server) -> None:
    asked: list[str] = []

    def meta(context: Any) -> dict[str, Any]:
        asked.append("meta")
        return {"tenant": "acme"}

    def custom(context: Any) -> dict[str, Any]:
        asked.append("custom")
        return {"server": context.server_name}

    mine = server(tool_meta_resolver=meta, custom_data_extractor=custom)
    run = await durably(Agent(name="a", model=ScriptedModel(two_calls()), mcp_servers=[mine]))
    assert asked == ["meta", "custom"] * 2
    outputs = [item for item in run.result.new_items if item.type == "tool_call_output_item"]
    assert [item.custom_data for item in outputs] == [{"server": "weather"}] * 2
    assert len(run.steps) == 6


async def test_approval_policies(server: Server, calls: Calls) -> None:
    asked: list[str] = []

    async def policy(context: Any, agent: Any, tool: Any) -> bool:
        asked.append(tool.name)
        return bool(tool.name == "secret")

    policies: list[Any] = [policy, {"always": {"tool_names": ["secret"]}}]
    for number, required in enumerate(policies, 1):
        ordered = [
            function_call("get_weather", {"city": "Oslo"}, call_id="c1"),
            function_call("secret", {}, call_id="c2"),
        ]
        model = ScriptedModel([ordered, [assistant_message("done")]])
        agent: Agent[Any] = Agent(name="a", model=model, mcp_servers=[server(require_approval=required)])

        async def handler(step: Any, agent: Agent[Any] = agent) -> Any:
            first = await DurableRunner.run(agent, "hi", step=step)
            assert [item.tool_name for item in first.interruptions] == ["secret"]
            state = first.to_state()
            for item in state.get_interruptions():
                state.approve(item)
            return await DurableRunner.run(agent, state, step=step)

        run = await replayed(handler)
        assert run.result.final_output == "done"
        assert calls().count("secret") == number
        assert calls().count("get_weather Oslo") == number
    assert asked.count("get_weather") == 1


async def test_prompts_can_be_used_in_dynamic_instructions(server: Server, calls: Calls) -> None:
    mine = server()

    async def instructions(context: Any, agent: Any) -> str:
        prompt = await mine.get_prompt("tone", {"mood": "kind"})
        return str(prompt.messages[0].content.text)  # type: ignore[union-attr]

    model = ScriptedModel(two_calls())
    run = await durably(Agent(name="a", model=model, mcp_servers=[mine], instructions=instructions))
    assert [call.system_instructions for call in model.calls] == ["Speak in a kind tone."] * 3
    assert calls().count("prompt kind") == 3
    assert run.result.final_output == "sunny"


async def test_nested_agents_in_parallel_list_a_shared_server_once(server: Server, calls: Calls) -> None:
    mine = server()

    def inner(city: str) -> Agent[Any]:
        script = [[function_call("get_weather", {"city": city}, call_id="n1")], [assistant_message(city)]]
        return Agent(name=f"inner {city}", model=ScriptedModel(script), mcp_servers=[mine])

    ordered = [function_call(f"ask{n}", {"input": "x"}, call_id=f"c{n}") for n in (0, 1)]
    outer: Agent[Any] = Agent(
        name="outer",
        model=ScriptedModel([ordered, [assistant_message("done")]]),
        tools=[inner(city).as_tool(f"ask{n}", "asks") for n, city in enumerate(("Oslo", "Rome"))],
    )
    run = await durably(outer)
    assert [step for step in run.steps if "list tools" in step] == ["outer/list tools weather"]
    assert sorted(calls()) == ["get_weather Oslo", "get_weather Rome"]
    assert run.result.final_output == "done"


class Homemade(MCPServer):
    """A server of the user's own, without any session."""

    def __init__(self) -> None:
        super().__init__()
        self.listed = 0
        self.called = 0

    @property
    def name(self) -> str:
        return "homemade"

    async def connect(self) -> None: ...
    async def cleanup(self) -> None: ...

    async def list_tools(self, run_context: Any = None, agent: Any = None) -> list[Any]:
        from mcp.types import Tool

        self.listed += 1
        return [Tool(name=f"of_{agent.name}", input_schema={"type": "object", "properties": {}})]

    async def call_tool(self, tool_name: str, arguments: Any, meta: Any = None) -> Any:
        from mcp.types import CallToolResult, TextContent

        self.called += 1
        return CallToolResult(content=[TextContent(type="text", text=f"{tool_name} {self.called}")])

    async def list_prompts(self) -> Any: ...
    async def get_prompt(self, name: str, arguments: Any = None) -> Any: ...


async def test_a_homemade_server_is_listed_once_for_each_agent() -> None:
    server = Homemade()
    first_model = ScriptedModel(
        [
            [function_call("of_first", {}, call_id="c1")],
            [function_call("transfer_to_second", {}, call_id="h1")],
            [function_call("of_second", {}, call_id="c2")],
            [assistant_message("done")],
        ]
    )
    second: Agent[Any] = Agent(name="second", model=first_model, mcp_servers=[server])
    first: Agent[Any] = Agent(name="first", model=first_model, mcp_servers=[server], handoffs=[second])
    run = await durably(first)
    assert run.result.final_output == "done"
    assert (server.listed, server.called) == (2, 2)
    outputs = [item.output for item in run.result.new_items if item.type == "tool_call_output_item"]
    assert [output["text"] for output in outputs] == ["of_first 1", "of_second 2"]


class ByAgent(MCPServerStreamableHttp):
    """Shows a tool to one agent only, in a `list_tools` of its own."""

    async def list_tools(self, run_context: Any = None, agent: Any = None) -> list[Any]:
        tools = await super().list_tools(run_context, agent)
        return [tool for tool in tools if tool.name != "secret" or agent.name == "second"]


async def test_a_class_below_the_sdks_is_asked_for_the_tools_of_each_agent(http: tuple[str, Path]) -> None:
    async def not_failing(context: Any, tool: Any) -> bool:
        return bool(tool.name not in ("fails", "vanish"))

    server = ByAgent(params={"url": http[0]}, name="weather", cache_tools_list=True, tool_filter=not_failing)
    handing_over, last = ScriptedModel(), ScriptedModel([[assistant_message("done")]])
    handing_over.enqueue([function_call("transfer_to_second", {}, call_id="h1")])
    second: Agent[Any] = Agent(name="second", model=last, mcp_servers=[server])
    first: Agent[Any] = Agent(name="first", model=handing_over, mcp_servers=[server], handoffs=[second])
    run = await durably(first)
    shown_tools = [[tool.name for tool in call.tools] for call in (*handing_over.calls, *last.calls)]
    assert shown_tools == [["get_weather"], ["get_weather", "secret"]]
    assert [step for step in run.steps if "list tools" in step] == [
        "first/list tools weather first",
        "first/list tools weather second",
    ]


class Proxy(Homemade):
    """Lists the tools of another server, as one that caches or combines some does."""

    def __init__(self, inner: MCPServer) -> None:
        super().__init__()
        self._inner = inner

    async def list_tools(self, run_context: Any = None, agent: Any = None) -> list[Any]:
        return await self._inner.list_tools(run_context, agent)


async def test_a_homemade_server_around_another_one_keeps_the_filter_of_that(server: Server) -> None:
    async def only_weather(context: Any, tool: Any) -> bool:
        return bool(tool.name == "get_weather")

    filters: list[Any] = [{"allowed_tool_names": ["get_weather"]}, only_weather]
    for tool_filter in filters:
        model = ScriptedModel([[assistant_message("ok")]])
        async with server(tool_filter=tool_filter) as inner:
            await durably(Agent(name="a", model=model, mcp_servers=[Proxy(inner)]))
        assert [tool.name for tool in model.calls[0].tools] == ["get_weather"]


class ToolSpans(TracingProcessor):
    """Notes the data of the spans of tool calls."""

    def __init__(self) -> None:
        self.data: list[Any] = []

    def on_span_end(self, span: Span[Any]) -> None:
        if isinstance(span.span_data, FunctionSpanData):
            self.data.append(span.span_data.export())

    def on_span_start(self, span: Span[Any]) -> None: ...
    def on_trace_start(self, trace: Trace) -> None: ...
    def on_trace_end(self, trace: Trace) -> None: ...
    def shutdown(self) -> None: ...
    def force_flush(self) -> None: ...


async def test_the_span_of_a_call_names_the_server_as_under_runner(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = get_trace_provider()
    assert isinstance(provider, DefaultTraceProvider)
    plain, durable = ToolSpans(), ToolSpans()
    agent = Agent(name="a", model=ScriptedModel([*two_calls(), *two_calls()]))

    async with server() as connected:
        monkeypatch.setattr(provider._multi_processor, "_processors", (plain,))
        agent.mcp_servers = [connected]
        await Runner.run(agent, "hi")
    monkeypatch.setattr(provider._multi_processor, "_processors", (durable,))
    agent.mcp_servers = [server()]
    await durably(agent)
    assert [span["mcp_data"] for span in plain.data] == [{"server": "weather"}] * 2
    assert durable.data == plain.data
