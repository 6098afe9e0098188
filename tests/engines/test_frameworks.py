"""Durable runs in each web framework, in sync and async functions: saved in one request, each step once."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import gc
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import inngest
import pytest
from agents import (
    Agent,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    RunConfig,
    Runner,
    SQLiteSession,
    function_tool,
)
from agents.testing import ScriptedModel, assistant_message, function_call
from openai import AsyncOpenAI

from inngest_agents import DurableOptions, DurableRunner

from . import hosts, provider

if TYPE_CHECKING:
    from .harness import EngineUnderTest

QUIET = RunConfig(tracing_disabled=True)

SYNC = [hosts.fastapi, hosts.flask, hosts.django, hosts.tornado]
ASYNC = [hosts.fastapi, hosts.flask, hosts.django_asgi]

Host = Callable[..., "contextlib.AbstractContextManager[str]"]


class Office:
    """Two agents whose executions are counted: one of parallel tools, one of a tool that may fail at first."""

    def __init__(self) -> None:
        self.requests = 0
        self.executed: list[str] = []
        self.spans: dict[str, tuple[float, float]] = {}
        self.fails: list[Exception] = []

        @function_tool
        async def wait(name: str) -> str:
            self.executed.append(name)
            begun = time.monotonic()
            await asyncio.sleep(0.1)
            self.spans[name] = (begun, time.monotonic())
            return name

        @function_tool
        def post(name: str) -> str:  # a sync tool: runs in a thread
            self.executed.append(name)
            if self.fails:
                raise self.fails.pop()
            return name

        def call(tool: str, name: str) -> Any:
            return function_call(tool, {"name": name}, call_id=name)

        self.first = Agent(
            name="first",
            model=ScriptedModel([[call("wait", "a"), call("wait", "b")], [assistant_message("waited")]]),
            tools=[wait],
        )
        self.second = Agent(
            name="second", model=ScriptedModel([[call("post", "c")], [assistant_message("posted")]]), tools=[post]
        )

    def sync_function(self, client: inngest.Inngest, **options: Any) -> inngest.Function[Any]:
        chosen = DurableOptions(**options)

        @client.create_function(fn_id="office", trigger=inngest.TriggerEvent(event="office"), retries=2)
        def office(ctx: inngest.ContextSync) -> Any:
            self.requests += 1
            given: Any = {"step": ctx.step, "options": chosen, "run_config": QUIET}
            results = [DurableRunner.run_sync(agent, "go", **given) for agent in (self.first, self.second)]
            return [result.final_output for result in results]

        return office

    def async_function(self, client: inngest.Inngest, **options: Any) -> inngest.Function[Any]:
        chosen = DurableOptions(**options)

        @client.create_function(fn_id="office", trigger=inngest.TriggerEvent(event="office"), retries=2)
        async def office(ctx: inngest.Context) -> Any:
            self.requests += 1
            given: Any = {"step": ctx.step, "options": chosen, "run_config": QUIET}
            results = [await DurableRunner.run(agent, "go", **given) for agent in (self.first, self.second)]
            return [result.final_output for result in results]

        return office

    @property
    def overlapped(self) -> bool:
        """Whether the parallel tools ran at the same time."""
        return max(begun for begun, _ in self.spans.values()) < min(ended for _, ended in self.spans.values())


@contextlib.contextmanager
def served(engine: EngineUnderTest, host: Host, *functions: inngest.Function[Any]) -> Iterator[None]:
    with host(engine.client, functions) as url:
        engine.register(f"{url}/api/inngest")
        yield


def names(hosts: list[Any]) -> list[str]:
    return [host.__name__ for host in hosts]


@pytest.mark.parametrize("host", SYNC, ids=names(SYNC))
def test_sync_functions_are_saved_in_one_request(engine: EngineUnderTest, host: Host) -> None:
    office = Office()
    with served(engine, host, office.sync_function(engine.client)):
        assert engine.run("office").output == ["waited", "posted"]
    assert office.requests == 1
    assert sorted(office.executed) == ["a", "b", "c"]
    assert office.overlapped


@pytest.mark.parametrize("host", ASYNC, ids=names(ASYNC))
def test_async_functions_are_saved_in_one_request(engine: EngineUnderTest, host: Host) -> None:
    office = Office()
    with served(engine, host, office.async_function(engine.client)):
        assert engine.run("office").output == ["waited", "posted"]
    assert office.requests == 1
    assert sorted(office.executed) == ["a", "b", "c"]
    assert office.overlapped


@pytest.mark.parametrize("host", ASYNC, ids=names(ASYNC))
def test_sync_functions_run_beside_async_ones(engine: EngineUnderTest, host: Host) -> None:
    """Flask's request is then none for the thread that a sync function runs in: it runs step by step."""
    office, other = Office(), Office()

    @engine.client.create_function(fn_id="other", trigger=inngest.TriggerEvent(event="other"))
    async def beside(ctx: inngest.Context) -> Any:
        return (await DurableRunner.run(other.first, "go", step=ctx.step, run_config=QUIET)).final_output

    with served(engine, host, office.sync_function(engine.client), beside):
        assert engine.run("office").output == ["waited", "posted"]
        assert engine.run("other").output == "waited"
    assert sorted(office.executed) == ["a", "b", "c"]
    assert (office.requests == 1) is (host is not hosts.flask)


@pytest.mark.parametrize("checkpoint", [True, False], ids=["checkpointed", "step by step"])
@pytest.mark.parametrize("host", SYNC, ids=names(SYNC))
def test_a_tool_that_fails_is_retried_alone(engine: EngineUnderTest, host: Host, checkpoint: bool) -> None:
    office = Office()
    office.fails = [ConnectionError("no line")]
    with served(engine, host, office.sync_function(engine.client, checkpoint=checkpoint)):
        run_id = engine.send("office")
        assert engine.wait(run_id).output == ["waited", "posted"]
    assert collections.Counter(office.executed) == {"a": 1, "b": 1, "c": 2}
    if checkpoint:
        # The one that failed, its retry, which ends with the tool's step, and the rest.
        assert office.requests == 3
    assert {"first/1.1 wait", "first/run_stats", "second/1.1 post", "second/run_stats"} <= {
        step.name for step in engine.steps(run_id)
    }


@pytest.mark.parametrize("host", [hosts.flask, hosts.tornado], ids=["flask", "tornado"])
def test_threads_do_not_grow_with_the_requests(embedded: EngineUnderTest, host: Host) -> None:
    """Flask's server takes a new thread for each request, so each has a new event loop."""

    @embedded.client.create_function(fn_id="many", trigger=inngest.TriggerEvent(event="many"))
    def many(ctx: inngest.ContextSync) -> Any:
        return DurableRunner.run_sync(Office().second, "go", step=ctx.step, run_config=QUIET).final_output

    def settles_at(most: int) -> bool:
        """Threads end a moment after their request's answer, on a busy machine a long one."""
        for _ in range(100):
            gc.collect()
            if threading.active_count() <= most:
                return True
            time.sleep(0.1)
        return False

    with served(embedded, host, many):
        assert embedded.run("many").output == "posted"
        before = threading.active_count()
        runs = [embedded.send("many") for _ in range(10)]
        assert [embedded.wait(run).output for run in runs] == ["posted"] * 10
        assert settles_at(before + 2)


@pytest.mark.parametrize("host", SYNC, ids=names(SYNC))
@pytest.mark.parametrize("model", [OpenAIChatCompletionsModel, OpenAIResponsesModel], ids=["chat", "responses"])
@pytest.mark.parametrize("in_tool", [False, True], ids=["durable", "plain in a tool"])
def test_threads_share_a_client_of_openai(embedded: EngineUnderTest, host: Host, model: Any, in_tool: bool) -> None:
    """A connection that one of them has opened is none for the event loop of another; no attempt may be lost to it."""
    with provider.serving(provider.scripted().Reply()) as asked:
        client = AsyncOpenAI(api_key="k", base_url=asked.base_url, max_retries=0)
        clerk = Agent(name="clerk", model=model("gpt-4o", client))

        @function_tool(failure_error_function=None)
        async def colleague() -> str:
            return str((await Runner.run(clerk, "and?", run_config=QUIET)).final_output)

        @embedded.client.create_function(fn_id="ask", trigger=inngest.TriggerEvent(event="ask"), retries=0)
        def ask(ctx: inngest.ContextSync) -> Any:
            script: Any = [[function_call("colleague", {}, call_id="c")], [assistant_message("hello")]]
            office = Agent(name="office", model=ScriptedModel(script), tools=[colleague])
            agent = office if in_tool else clerk
            return DurableRunner.run_sync(agent, "go", step=ctx.step, run_config=QUIET).final_output

        with served(embedded, host, ask):
            assert [embedded.run("ask").output for _ in range(4)] == ["hello"] * 4
        assert len(asked.requests) == 4


@pytest.mark.parametrize("host", [*ASYNC, hosts.django], ids=names([*ASYNC, hosts.django]))
@pytest.mark.parametrize("model", [OpenAIChatCompletionsModel, OpenAIResponsesModel], ids=["chat", "responses"])
@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
def test_async_functions_share_a_client_of_openai(
    embedded: EngineUnderTest, host: Host, model: Any, is_streamed: bool
) -> None:
    """Flask, and Django under WSGI, have an event loop for each request; the others keep their connection."""
    with provider.serving(provider.scripted().Reply()) as asked:
        client = AsyncOpenAI(api_key="k", base_url=asked.base_url, max_retries=0)
        clerk = Agent(name="clerk", model=model("gpt-4o", client))

        @embedded.client.create_function(fn_id="ask", trigger=inngest.TriggerEvent(event="ask"), retries=0)
        async def ask(ctx: inngest.Context) -> Any:
            if not is_streamed:
                return (await DurableRunner.run(clerk, "go", step=ctx.step, run_config=QUIET)).final_output
            streamed = DurableRunner.run_streamed(clerk, "go", step=ctx.step, run_config=QUIET)
            async for _ in streamed.stream_events():
                pass
            return streamed.final_output

        with served(embedded, host, ask):
            assert [embedded.run("ask").output for _ in range(4)] == ["hello"] * 4
        assert len(asked.requests) == 4
        assert len(asked.connections) == (1 if host in (hosts.fastapi, hosts.django_asgi) else 4)


@pytest.mark.parametrize("model", [OpenAIChatCompletionsModel, OpenAIResponsesModel], ids=["chat", "responses"])
def test_sync_and_async_functions_share_a_client_of_openai(embedded: EngineUnderTest, model: Any) -> None:
    """The connection that the async one keeps is none for the thread of the sync one, which asked over it in vain."""
    with provider.serving(provider.scripted().Reply()) as asked:
        client = AsyncOpenAI(api_key="k", base_url=asked.base_url, max_retries=0)
        clerk = Agent(name="clerk", model=model("gpt-4o", client))

        @embedded.client.create_function(fn_id="ask", trigger=inngest.TriggerEvent(event="ask"), retries=0)
        async def ask(ctx: inngest.Context) -> Any:
            return (await DurableRunner.run(clerk, "go", step=ctx.step, run_config=QUIET)).final_output

        @embedded.client.create_function(fn_id="ask-sync", trigger=inngest.TriggerEvent(event="ask-sync"), retries=0)
        def ask_sync(ctx: inngest.ContextSync) -> Any:
            return DurableRunner.run_sync(clerk, "go", step=ctx.step, run_config=QUIET).final_output

        with served(embedded, hosts.fastapi, ask, ask_sync):
            assert [embedded.run(name).output for name in ("ask", "ask-sync") * 3] == ["hello"] * 6
        assert len(asked.requests) == 6
        assert len(asked.connections) == 4, "the async function keeps its connection"


def test_what_was_put_on_a_client_to_see_its_requests_sees_those_of_sync_functions(embedded: EngineUnderTest) -> None:
    seen: list[Any] = []
    with provider.serving(provider.scripted().Reply()) as asked:
        client = AsyncOpenAI(api_key="k", base_url=asked.base_url, max_retries=0)
        request = client.request

        def watched(*args: Any, **kwargs: Any) -> Any:
            seen.append(args)
            return request(*args, **kwargs)

        client.request = watched  # type: ignore[method-assign]
        clerk = Agent(name="clerk", model=OpenAIChatCompletionsModel("gpt-4o", client))

        @embedded.client.create_function(fn_id="ask", trigger=inngest.TriggerEvent(event="ask"), retries=0)
        def ask(ctx: inngest.ContextSync) -> Any:
            return DurableRunner.run_sync(clerk, "go", step=ctx.step, run_config=QUIET).final_output

        with served(embedded, hosts.flask, ask):
            assert embedded.run("ask").output == "hello"
        assert len(seen) == 1


def test_a_sync_tool_runs_an_agent_with_the_same_client(embedded: EngineUnderTest) -> None:
    """By `Runner.run_sync`, in an event loop of the tool's thread."""
    with provider.serving(provider.scripted().Reply()) as asked:
        client = AsyncOpenAI(api_key="k", base_url=asked.base_url, max_retries=0)
        clerk = Agent(name="clerk", model=OpenAIResponsesModel("gpt-4o", client))

        @function_tool(failure_error_function=None)
        def colleague() -> str:
            return str(Runner.run_sync(clerk, "and?", run_config=QUIET).final_output)

        @embedded.client.create_function(fn_id="ask", trigger=inngest.TriggerEvent(event="ask"), retries=0)
        async def ask(ctx: inngest.Context) -> Any:
            script: Any = [[function_call("colleague", {}, call_id="c")], [assistant_message("hello")]]
            office = Agent(name="office", model=ScriptedModel(script), tools=[colleague])
            await DurableRunner.run(clerk, "go", step=ctx.step, run_config=QUIET)
            return (await DurableRunner.run(office, "go", step=ctx.step, run_config=QUIET)).final_output

        with served(embedded, hosts.fastapi, ask):
            assert [embedded.run("ask").output for _ in range(2)] == ["hello"] * 2
        assert len(asked.requests) == 4


@pytest.mark.parametrize("host", SYNC, ids=names(SYNC))
def test_a_session_serves_several_sync_runs(engine: EngineUnderTest, host: Host) -> None:
    session = SQLiteSession("s1")
    office = Office()

    @engine.client.create_function(fn_id="talk", trigger=inngest.TriggerEvent(event="talk"))
    def talk(ctx: inngest.ContextSync) -> Any:
        for agent in (office.first, office.second):
            DurableRunner.run_sync(agent, f"to {agent.name}", step=ctx.step, session=session, run_config=QUIET)

        async def read() -> list[str]:
            items: Any = await session.get_items()
            return [item["content"] for item in items if item.get("role") == "user"]

        def read_in_loop_of_its_own() -> list[str]:
            with contextlib.closing(asyncio.new_event_loop()) as loop:
                return loop.run_until_complete(read())

        return ctx.step.run("read", read_in_loop_of_its_own)

    if host is hosts.tornado:
        pytest.skip("the step itself would start a loop where Tornado's runs")
    with served(engine, host, talk):
        assert engine.run("talk").output == ["to first", "to second"]
