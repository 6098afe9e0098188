"""A checkpoint API that does as the test says, and an engine that keeps what it and the answers hold."""

from __future__ import annotations

import asyncio
import collections
import json
import types
from collections.abc import Awaitable, Callable
from typing import Any

import inngest

from inngest_agents._inngest_sdk import Opcode, ResponseInterrupt, make_step

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"

Trouble = Callable[["Api", list[str], asyncio.StreamWriter], Awaitable[bool]]
"""What becomes of one save: gets the names of its steps, writes an answer or none, and returns whether to save them."""


def answer(status: int, body: str = "{}") -> Trouble:
    """An answer of this status; other than 2xx it saves nothing."""

    async def trouble(_api: Api, _names: list[str], writer: asyncio.StreamWriter) -> bool:
        writer.write(f"HTTP/1.1 {status} Whatever\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode())
        return 200 <= status < 300

    return trouble


def raw(content: bytes, *, saves: bool = False, close: bool = True) -> Trouble:
    """These bytes and the end of the connection."""

    async def trouble(_api: Api, _names: list[str], writer: asyncio.StreamWriter) -> bool:
        writer.write(content)
        if close:
            writer.close()
        return saves

    return trouble


def late(seconds: float, *, saves: bool = True) -> Trouble:
    """A good answer after some time."""

    async def trouble(_api: Api, _names: list[str], writer: asyncio.StreamWriter) -> bool:
        await asyncio.sleep(seconds)
        writer.write(OK)
        return saves

    return trouble


class Api:
    """The server. Each save takes the next trouble of `script`, the last one again and again; none is an answer 200."""

    def __init__(self, *script: Trouble | None, forever: Trouble | None = None) -> None:
        self.script = collections.deque(script)
        self.forever = forever
        self.saves: list[list[str]] = []
        """The names of the steps of each save that was asked for."""
        self.saved: list[str] = []
        self.memos: dict[str, Any] = {}
        self.authorization: list[str | None] = []
        self.connections = 0
        self.url = ""
        self.log: list[str] = []
        """What happened in which order: the test's own events, and `saved …`."""
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Api:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Refuse connections from now on."""
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        try:
            while not writer.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
                headers = dict(line.split(": ", 1) for line in head[1:] if line)
                self.authorization.append(headers.get("authorization"))
                body = json.loads(await reader.readexactly(int(headers["content-length"])))
                await self._take(body["steps"], writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            writer.close()

    async def _take(self, steps: list[dict[str, Any]], writer: asyncio.StreamWriter) -> None:
        names = [step["displayName"] for step in steps]
        self.saves.append(names)
        trouble = self.script.popleft() if self.script else self.forever
        if await (trouble or raw(b"", saves=True, close=False))(self, names, writer):
            for step in steps:
                if step["id"] not in self.memos:  # a step that is there already is ignored
                    self.memos[step["id"]] = {"data": step["data"]}
                    self.saved.append(step["displayName"])
                    self.log.append(f"saved {step['displayName']}")
        if trouble is None:
            writer.write(OK)


class Engine:
    """Calls a handler until it returns, with the memos of all saves and answers."""

    def __init__(self, api: Api, *, max_attempts: int = 4, keys: tuple[str, str | None] | None = None) -> None:
        self.api = api
        self.max_attempts = max_attempts
        self.client = inngest.Inngest(
            app_id="faults", is_production=False, api_base_url=api.url, signing_key=keys[0] if keys else None
        )
        self.client._signing_key_fallback = keys[1] if keys else None
        self.answers: list[list[tuple[str, str]]] = []
        """The opcodes of each answer: their kind and the name of their step."""
        self.attempt = 0
        self.request_id = "request"
        self.stopped = False
        """Whether an answer told the engine to do nothing."""
        self._targets: list[str | None] = [None]

    @property
    def answered(self) -> list[str]:
        """The names of the steps that have ended in answers."""
        ended = (Opcode.STEP_RUN.value, Opcode.STEP_FAILED.value)
        return [name for answer in self.answers for op, name in answer if op in ended and name != "join"]

    async def run(self, handler: Callable[[Any], Awaitable[Any]], *, requests: int = 40) -> Any:
        """The handler's result; None if an answer stopped the run."""
        for _ in range(requests):
            target = self._targets.pop(0)
            try:
                return await asyncio.wait_for(handler(self._step(target)), 20)
            except ResponseInterrupt as interrupt:
                self._take(interrupt, target)
            if self.stopped:
                return None
        raise AssertionError(f"no end after {requests} requests: {self.answers}")

    def _step(self, target: str | None) -> Any:
        step = make_step(
            self.client,
            json.loads(json.dumps(self.api.memos)),
            run_id="run",
            attempt=self.attempt,
            max_attempts=self.max_attempts,
            target=target,
        )
        body = {"ctx": {"fn_id": "fn", "qi_id": "job", "request_id": self.request_id, "generation_id": 1}}
        headers = {"x-request-id": self.request_id}
        step._middleware._raw_request = types.SimpleNamespace(_body=json.dumps(body).encode(), headers=headers)
        return step

    def _take(self, interrupt: ResponseInterrupt, target: str | None) -> None:
        responses = interrupt.responses
        self.answers.append([(str(getattr(r.step.op, "value", r.step.op)), r.step.display_name) for r in responses])
        planned = [r.step.id for r in responses if r.step.op == Opcode.PLANNED]
        # Without a planned step beside it, each step that has ended leads to a request of its own.
        ended = [r for r in responses if r.step.op in (Opcode.STEP_RUN, Opcode.STEP_FAILED)]
        assert planned or len(ended) <= 1, "several requests at once would run the next step"
        if planned:
            known = [r.step.display_name for r in ended if r.step.id in self.api.memos]
            assert not known, "the server would wait for what it has already, for ever"
        retried = False
        for response in responses:
            if response.step.op == Opcode.STEP_RUN:
                self.api.memos.setdefault(response.step.id, {"data": json.loads(json.dumps(response.output))})
            elif response.step.op == Opcode.STEP_FAILED:
                error: Any = response.original_error
                self.api.memos[response.step.id] = {
                    "error": {"name": error.name, "message": str(error), "stack": error.stack}
                }
            elif response.step.op == Opcode.STEP_ERROR:
                retried = True
            elif str(response.step.op) == "None":
                assert response.step.id, "without an id, the server would send a request anew"
                self.stopped = True
        self.attempt = self.attempt + 1 if retried else 0
        self._targets = [target] if retried else [*self._targets, *planned] or [None]
