"""A local server that speaks OpenAI's API, scripted by a test; the real `openai` client is used against it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator
from typing import Any


@dataclasses.dataclass
class Reply:
    """One scripted answer."""

    status: int = 200
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    text: str = "hello"
    call: tuple[str, dict[str, Any], str] | None = None
    """A tool call: name, arguments, id."""
    delay: float = 0.0
    cut: bool = False
    """Close the connection in the middle of the body."""
    usage: bool = True
    more_usage: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Further fields of the usage of a chat completion."""


@dataclasses.dataclass
class Provider:
    """What was asked, and where it listens."""

    replies: list[Reply]
    base_url: str = ""
    requests: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    connections: set[int] = dataclasses.field(default_factory=set)
    """The client's port of each connection that something was asked over."""


@contextlib.asynccontextmanager
async def provider(*replies: Reply) -> AsyncIterator[Provider]:
    """Serve `replies`, one after the other, to whatever comes; past the end the last one again."""
    served = Provider(list(replies))

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = next(
                    int(line.split(":")[1]) for line in head.splitlines() if line.lower().startswith("content-le")
                )
                request = json.loads(await reader.readexactly(length))
                path = head.split()[1]
                served.connections.add(writer.get_extra_info("peername")[1])
                served.requests.append({"path": path, **request})
                reply = served.replies[min(len(served.requests), len(served.replies)) - 1]
                await asyncio.sleep(reply.delay)
                body = json.dumps(_body(path, reply)).encode()
                kind = "application/json"
                if request.get("stream") and reply.status == 200:
                    body, kind = _events(path, json.loads(body)), "text/event-stream"
                headers = {"content-type": kind, "content-length": str(len(body)), **reply.headers}
                lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
                writer.write(f"HTTP/1.1 {reply.status} X\r\n{lines}\r\n".encode())
                if reply.cut:
                    writer.write(body[: len(body) // 2])
                    await writer.drain()
                    break
                writer.write(body)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    served.base_url = f"http://127.0.0.1:{port}/v1"
    try:
        yield served
    finally:
        server.close()


def _body(path: str, reply: Reply) -> dict[str, Any]:
    if reply.status != 200:
        return {"error": {"message": f"scripted {reply.status}", "type": "scripted", "code": None}}
    if path.endswith("/responses"):
        return _response(reply)
    message: dict[str, Any] = {"role": "assistant", "content": None if reply.call else reply.text}
    if reply.call:
        name, arguments, call_id = reply.call
        function = {"name": name, "arguments": json.dumps(arguments)}
        message["tool_calls"] = [{"id": call_id, "type": "function", "function": function}]
    finish = "tool_calls" if reply.call else "stop"
    answer: dict[str, Any] = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-4o-2024-08-06",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
    }
    if reply.usage:
        answer["usage"] = {
            "prompt_tokens": 1000,
            "completion_tokens": 200,
            "total_tokens": 1200,
            "prompt_tokens_details": {"cached_tokens": 600},
            "completion_tokens_details": {"reasoning_tokens": 50},
            **reply.more_usage,
        }
    return answer


def _events(path: str, answer: dict[str, Any]) -> bytes:
    """A whole answer as the server-sent events of a stream, in one piece."""
    if path.endswith("/responses"):
        done = {"type": "response.completed", "sequence_number": 0, "response": answer}
        return f"event: response.completed\ndata: {json.dumps(done)}\n\n".encode()
    (choice,) = answer["choices"]
    delta = {"index": 0, "delta": choice["message"], "finish_reason": choice["finish_reason"]}
    chunk = {**answer, "object": "chat.completion.chunk", "choices": [delta]}
    return f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode()


def _response(reply: Reply) -> dict[str, Any]:
    text = {"type": "output_text", "text": reply.text, "annotations": []}
    item: dict[str, Any] = {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": "completed",
        "content": [text],
    }
    if reply.call:
        name, arguments, call_id = reply.call
        item = {
            "type": "function_call",
            "id": "fc_1",
            "call_id": call_id,
            "name": name,
            "arguments": json.dumps(arguments),
        }
    newer = {"type": "a_type_newer_than_the_sdk", "id": "x_1", "shape": {"deep": [1, None]}}
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "model": "gpt-4o-2024-08-06",
        "status": "completed",
        "output": [newer, item] if reply.text == "newer" else [item],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {
            "input_tokens": 1000,
            "output_tokens": 200,
            "total_tokens": 1200,
            "input_tokens_details": {"cached_tokens": 600},
            "output_tokens_details": {"reasoning_tokens": 50},
        },
    }
