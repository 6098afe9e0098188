"""MCP servers: tools are listed once a run, each call is a step, and a connection opens only for a step that needs it.

| what | its step | steps |
|---|---|---|
| listing the tools of a server | "list tools weather" | one a run and server, for nested agents too |
| the same, for a class with its own `list_tools` | "list tools weather triage" | one a run, server and agent |
| `tool_filter`: a function | "3 filter tools weather" | one a turn; a static filter costs none |
| a call of a tool | "2.1 get_weather" | one; with it run `tool_meta_resolver` and `custom_data_extractor` |
| `require_approval`: a function | "2.1 needs approval" | one a call; a static policy costs none |

A server that the user has connected is used as it is. One that is not connected is connected inside the first step that
uses it (a list, a call, or the user's own use of its prompts and resources in a step), and cleaned up at the end of the
request, or of the last one that shares it. A connection that is lost is given up at once, whoever shares it: the next
step that needs the server opens another. A server of another class than the SDK's is the user's to connect.

Every transport error of a call is tried again by the engine; a result that says `isError` is an answer for the model.
"""

from __future__ import annotations

import asyncio
import contextvars
import weakref
from collections.abc import Callable
from typing import Any, Final

from agents.mcp import MCPServer

from inngest_agents import _agents_sdk as sdk
from inngest_agents.instrument._steps import run_step
from inngest_agents.journal import Journal
from inngest_agents.request.resources import Resources, current_resources
from inngest_agents.request.step_request import StepScope
from inngest_agents.scope import current_journal, current_scope, current_step, outermost_scope

USES_OF_A_CONNECTION: Final = (
    "list_tools",
    "call_tool",
    "list_prompts",
    "get_prompt",
    "list_resources",
    "list_resource_templates",
    "read_resource",
)

_unfiltered: contextvars.ContextVar[Any] = contextvars.ContextVar("inngest_agents_mcp_unfiltered", default=None)
"""The server that is listed with all its tools; those that one of the user's own lists itself keep their filters."""


class _Listings:
    """The tools of the servers of one run."""

    def __init__(self) -> None:
        self._known: list[tuple[Any, Any, list[Any]]] = []
        self._locks: list[tuple[Any, Any, asyncio.Lock]] = []
        self._servers: dict[str, list[Any]] = {}

    def label(self, server: Any) -> str:
        """The name of a server for its step's id; servers of the same name are numbered."""
        name = sdk.mcp_log_name(server.name)
        same = self._servers.setdefault(name, [])
        if not any(known is server for known in same):
            same.append(server)
        place = next(index for index, known in enumerate(same) if known is server)
        return name if place == 0 else f"{name}:{place}"

    def find(self, server: Any, agent: Any) -> list[Any] | None:
        """The tools as they were listed."""
        return next((tools for one, who, tools in self._known if one is server and who is agent), None)

    def add(self, server: Any, agent: Any, tools: list[Any]) -> None:
        """Remember the tools."""
        self._known.append((server, agent, tools))

    def lock(self, server: Any, agent: Any) -> asyncio.Lock:
        """Held while a server is listed, so that parallel agents do not list it twice."""
        for one, who, lock in self._locks:
            if one is server and who is agent:
                return lock
        made = asyncio.Lock()
        self._locks.append((server, agent, made))
        return made


_listings: weakref.WeakKeyDictionary[Journal, _Listings] = weakref.WeakKeyDictionary()


@sdk.around("agents.mcp.util", "MCPUtil._list_tools_with_span", ("server", "run_context", "agent"))
async def _list_tools_with_span(original: Callable[..., Any], server: Any, run_context: Any, agent: Any) -> Any:
    journal = current_journal()
    if journal is None:
        return await original(server, run_context, agent)
    return await original(_DurableListing(journal, server), run_context, agent)


class _DurableListing:
    """Stands in for a server where the SDK lists its tools."""

    def __init__(self, journal: Journal, server: Any) -> None:
        self._journal, self._server = journal, server
        self.name = server.name

    async def list_tools(self, run_context: Any, agent: Any) -> list[Any]:
        """The tools for this agent in this turn."""
        server, listings = self._server, _listings.setdefault(self._journal, _Listings())
        label = listings.label(server)
        if type(server).list_tools is sdk.ClientSessionServer.list_tools:
            tools = await self._listed(listings, f"list tools {label}", run_context, None)
            sdk.remember_mcp_tools(server, tools)
        else:
            # Its own `list_tools`, also that of a class below the SDK's, may filter by the agent.
            tools = await self._listed(listings, f"list tools {label} {agent.name}", run_context, agent)
        if not isinstance(server, sdk.ClientSessionServer) or server.tool_filter is None:
            return tools
        if isinstance(server.tool_filter, dict):
            return sdk.static_tool_filter(server, tools)
        return await self._filtered(label, tools, run_context, agent)

    async def _listed(self, listings: _Listings, label: str, run_context: Any, agent: Any) -> list[Any]:
        server = self._server
        async with listings.lock(server, agent):
            known = listings.find(server, agent)
            if known is not None:
                return [tool.model_copy(deep=True) for tool in known]

            async def call(_: StepScope) -> Any:
                token = _unfiltered.set(server)
                try:
                    return await server.list_tools(run_context, agent)
                finally:
                    _unfiltered.reset(token)

            with outermost_scope():
                tools: list[Any] = await run_step(
                    self._journal,
                    label,
                    "mcp_list",
                    call,
                    name=sdk.mcp_log_name(server.name),
                    encode=_encode_tools,
                    decode=_decode_tools,
                )
            listings.add(server, agent, tools)
            return [tool.model_copy(deep=True) for tool in tools]

    async def _filtered(self, label: str, tools: list[Any], run_context: Any, agent: Any) -> list[Any]:
        async def call(_: StepScope) -> list[str]:
            return [tool.name for tool in await sdk.dynamic_tool_filter(self._server, tools, run_context, agent)]

        scope = current_scope()
        kept = await run_step(
            self._journal,
            scope.repeated(f"{scope.turn + 1} filter tools {label}"),
            "other",
            call,
            name=self.name,
            context=run_context,
        )
        return [tool for tool in tools if tool.name in kept]


def _encode_tools(tools: list[Any]) -> list[Any]:
    return [tool.model_dump(mode="json", by_alias=True, exclude_unset=True) for tool in tools]


def _decode_tools(stored: list[Any]) -> list[Any]:
    return [sdk.McpTool.model_validate(tool) for tool in stored]


@sdk.around("agents.mcp.server", "_MCPServerWithClientSession._apply_tool_filter", ("self", "tools"))
async def _apply_tool_filter(original: Callable[..., Any], self: Any, tools: Any, *args: Any, **kwargs: Any) -> Any:
    return tools if _unfiltered.get() is self else await original(self, tools, *args, **kwargs)


def _connect_first(cls: str, method: str) -> None:
    @sdk.around("agents.mcp.server", f"{cls}.{method}", ("self",))
    async def _use(original: Callable[..., Any], self: Any, *args: Any, **kwargs: Any) -> Any:
        resources = current_resources()
        if resources is None or current_step() is None:
            return await original(self, *args, **kwargs)
        connection = await _connected(self, resources)
        try:
            return await original(self, *args, **kwargs)
        except Exception as error:
            if connection is not None and sdk.is_mcp_connection_lost(error):
                connection.give_up()
            raise


for _method in USES_OF_A_CONNECTION:
    _connect_first("_MCPServerWithClientSession", _method)
_connect_first("MCPServerStreamableHttp", "call_tool")


class _Connection:
    """The connection of one server, held by a task of its own: it must be closed by the task that opened it."""

    def __init__(self, server: Any) -> None:
        self.loop = asyncio.get_running_loop()
        self.users = 0
        self._closing = False
        self._server = server
        self._enough = asyncio.Event()
        self.open: asyncio.Future[None] = self.loop.create_future()
        self._task = self.loop.create_task(self._hold(), context=contextvars.Context())
        # Known until then: a server that is being closed still has its session, and looks connected by the user.
        self._task.add_done_callback(self._ended)

    async def _hold(self) -> None:
        try:
            await self._server.connect()
        except BaseException:
            self._closing = True
            if sdk.is_mcp_connected(self._server):  # a `connect` of the user's own ended after the SDK's had connected
                await self._server.cleanup()
            raise
        self.open.set_result(None)
        try:
            await self._enough.wait()
        finally:
            self._closing = True
            await self._server.cleanup()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if _connections.get(self._server) is self:
            del _connections[self._server]
        if self.open.done():
            return
        if task.cancelled() or (error := task.exception()) is None:
            self.open.cancel()
        else:
            self.open.set_exception(error)

    @property
    def is_open(self) -> bool:
        """Whether the server was connected; it may be closed again."""
        return self.open.done() and not self.open.cancelled() and self.open.exception() is None

    @property
    def is_free(self) -> bool:
        """Whether one more step may use it here: it is not being closed, and not held by a run in another thread."""
        return not self._closing and self.loop is asyncio.get_running_loop()

    def give_up(self) -> None:
        """Close it though it has users, as it is broken."""
        self._closing = True
        self._enough.set()

    async def release(self) -> None:
        """One user less; the last one closes the connection, or gives up opening it."""
        self.users -= 1
        if self.users > 0:
            return
        self.give_up()
        is_given_up = not self.open.done()
        if is_given_up:  # the steps that wanted it were cancelled, and it may never open
            self._task.cancel()
        await asyncio.wait((self._task,))
        if not (is_given_up and self._task.cancelled()):
            self._task.result()


_connections: weakref.WeakKeyDictionary[MCPServer, _Connection] = weakref.WeakKeyDictionary()
"""The connections that steps have opened. Runs of the same process that share a server object share its connection."""


async def _connected(server: MCPServer, resources: Resources) -> _Connection | None:
    """Connect a server that nobody has connected, until the request ends.

    Returns:
        the connection; None if it is the user's own.

    Raises:
        Exception: what connecting raised.
    """
    connection = _connections.get(server)
    while connection is not None and not connection.is_free:
        await asyncio.sleep(0.02)
        connection = _connections.get(server)
    if connection is None:
        if sdk.is_mcp_connected(server):
            return None  # by the user
        connection = _connections[server] = _Connection(server)
    if not resources.holds(connection):
        connection.users += 1
        resources.add(connection, connection.release)
    try:
        await asyncio.shield(connection.open)
    except BaseException:
        if connection.open.done() and not connection.is_open:  # else it is the step that was cancelled
            resources.forget(connection)
        raise
    return connection
