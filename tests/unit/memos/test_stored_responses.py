"""The response of an HTTP error comes back with it: status, headers, and a small body that was read."""

from __future__ import annotations

import contextlib
import http.server
import json
import sys
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
import requests
from agents import Agent, function_tool
from agents.testing import ScriptedModel, assistant_message, function_call
from both_runners import outputs_under_both

from inngest_agents._inngest_sdk import MemoError, memo_error, step_error
from inngest_agents.errors import message_of, qualified_name
from inngest_agents.memos.stored_errors import notes_on, rebuild


class Refusing(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps({"why": "é" * (10_000 if self.path == "/large" else 1)}).encode()
        self.send_response(404)
        headers = {"Content-Type": "application/json", "X-Request-Id": "r1", "Set-Cookie": "session=hunter2"}
        for name, text in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def refusing() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def stored(error: BaseException) -> Exception:
    return step_error(error, qualified_name(error), message_of(error), notes_on(error, {}))


def through_the_engine(error: BaseException) -> Any:
    return rebuild(memo_error(stored(error)))


def refused_by(url: str, library: Any, **options: Any) -> Any:
    with pytest.raises((httpx.HTTPStatusError, requests.HTTPError)) as caught:
        library.get(url, **options).raise_for_status()
    return caught.value


@pytest.mark.parametrize("library", [httpx, requests], ids=["httpx", "requests"])
def test_a_response_comes_back_with_its_status_headers_and_body(library: Any, refusing: str) -> None:
    error = refused_by(f"{refusing}/?key=4711", library)
    back = through_the_engine(error)

    assert (type(back), str(back)) == (type(error), str(error))
    assert (type(back.response), back.response.status_code) == (library.Response, 404)
    assert back.response.headers["x-request-id"] == "r1"
    assert back.response.json() == {"why": "é"}
    assert (back.response.text, back.response.content) == (error.response.text, error.response.content)
    assert "hunter2" not in notes_on(error, {})
    assert "4711" not in notes_on(error, {})  # but in the message, which is of the library


@pytest.mark.parametrize("library", [httpx, requests], ids=["httpx", "requests"])
def test_a_large_body_is_not_kept_and_says_so(library: Any, refusing: str) -> None:
    back = through_the_engine(refused_by(f"{refusing}/large", library))
    assert back.response.status_code == 404
    with pytest.raises((httpx.ResponseNotRead, OSError)):
        assert back.response.text


def test_a_body_that_was_not_read_is_not_read_for_the_error(refusing: str) -> None:
    error = refused_by(refusing, requests, stream=True)
    assert through_the_engine(error).response.status_code == 404
    assert error.response.json() == {"why": "é"}  # it is all there still

    with httpx.stream("GET", refusing) as response, contextlib.suppress(httpx.HTTPStatusError):
        response.raise_for_status()
    unread = httpx.HTTPStatusError("no", request=response.request, response=response)
    with pytest.raises(httpx.ResponseNotRead):
        assert through_the_engine(unread).response.text


def test_the_response_of_openai_s_error_comes_back() -> None:
    library: Any = sys.modules.get("httpx2", httpx)  # what the openai package has loaded
    request = library.Request("POST", "http://provider/v1", headers={"authorization": "Bearer hunter2"})
    response = library.Response(429, headers={"retry-after": "3"}, json={"error": {}}, request=request)
    error = openai.RateLimitError("slow down", response=response, body={"code": "limit"})
    back = through_the_engine(error)

    assert (type(back), back.status_code, back.body) == (openai.RateLimitError, 429, {"code": "limit"})
    assert (back.response.status_code, back.response.headers["retry-after"]) == (429, "3")
    assert "hunter2" not in notes_on(error, {})


def test_a_response_whose_library_is_not_loaded_is_left_out() -> None:
    error = ValueError("no")
    error.response = httpx.Response(404)  # type: ignore[attr-defined]
    stack = notes_on(error, {})
    assert hasattr(rebuild(MemoError("ValueError", "no", stack)), "response")
    assert not hasattr(rebuild(MemoError("ValueError", "no", stack.replace('"httpx"', '"httpx9"'))), "response")


async def test_a_tool_s_failure_error_function_reads_the_response_as_under_runner(refusing: str) -> None:
    def explain(_: Any, error: Exception) -> str:
        assert isinstance(error, httpx.HTTPStatusError)
        return f"{error.response.status_code} {error.response.text}"

    @function_tool(failure_error_function=explain)
    async def ask() -> str:
        async with httpx.AsyncClient() as client:
            return (await client.get(refusing)).raise_for_status().text

    def agent() -> Agent[Any]:
        script: Any = [[function_call("ask", {}, call_id="c1")], [assistant_message("sorry")]]
        return Agent(name="a", model=ScriptedModel(script), tools=[ask])

    told = await outputs_under_both(agent)
    assert told[0] == told[1] == ['404 {"why": "\\u00e9"}']
