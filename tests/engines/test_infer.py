"""What the engine itself does over HTTP for a step: the inference requests of `step.ai.infer`."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import inngest
import pytest
from inngest.experimental.ai import anthropic, gemini, openai

from .test_engine_protocol import GO, Calls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .harness import EngineUnderTest


class Provider(BaseHTTPRequestHandler):
    """A model provider that fails once for each model called `flaky`, and always for `broken`."""

    requests: list[tuple[str, dict[str, str], dict[str, Any]]] = []  # noqa: RUF012  shared on purpose
    """Path, headers and body of what was asked."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.requests.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
        model = body.get("model")
        bad = model == "broken" or (model == "flaky" and self.models().count("flaky") == 1)
        answer = json.dumps({"error": "no"} if bad else {"text": model, "usage": {"n": 1.5}}).encode()
        self.send_response(500 if bad else 200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    @classmethod
    def models(cls) -> list[str]:
        """The models asked for, in order."""
        return [str(body.get("model")) for _, _, body in cls.requests]

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def provider() -> Iterator[str]:
    Provider.requests = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    thread = threading.Thread(target=server.serve_forever, args=[0.01], daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def of_openai(provider: str, model: str) -> openai.Adapter:
    return openai.Adapter(auth_key="sk", base_url=provider, model=model, headers={"x-mine": "1"})


def test_the_engine_makes_the_request_retries_it_and_gives_the_answer(engine: EngineUnderTest, provider: str) -> None:
    @engine.client.create_function(fn_id="fn", trigger=GO, retries=1)
    async def fn(ctx: inngest.Context) -> Any:
        def infer(model: str) -> Any:
            return ctx.step.ai.infer(model, adapter=of_openai(provider, model), body={"messages": []})

        results = [await infer("good"), await infer("flaky")]
        try:
            await infer("broken")
        except inngest.StepError as error:
            return [*results, error.name, error.message]

    engine.serve([fn])
    good, flaky, *error = engine.run("go").output
    assert good == {"text": "good", "usage": {"n": 1.5}}
    assert flaky["text"] == "flaky"
    assert error == ["AIGatewayError", "Error making AI request: unsuccessful status code: 500"]
    assert Provider.models() == ["good", "flaky", "flaky", "broken", "broken"]


@pytest.mark.parametrize(
    ("adapter", "path", "headers"),
    [
        (of_openai, "/v1/chat/completions", {"authorization": "Bearer sk", "x-mine": "1"}),
        (
            lambda url, model: anthropic.Adapter(auth_key="sk", base_url=url, model=model),
            "/v1/messages",
            {"x-api-key": "sk", "anthropic-version": "2023-06-01"},
        ),
        (
            lambda url, model: gemini.Adapter(auth_key="sk", base_url=url, model=model),
            "/v1/models/m:generateContent?key=sk&key=sk",  # the SDK's key, and the engine's
            {},
        ),
    ],
    ids=["openai", "anthropic", "gemini"],
)
def test_each_provider_is_asked_in_its_own_way(
    engine: EngineUnderTest, provider: str, adapter: Callable[[str, str], Any], path: str, headers: dict[str, str]
) -> None:
    @engine.client.create_function(fn_id="fn", trigger=GO)
    async def fn(ctx: inngest.Context) -> Any:
        return await ctx.step.ai.infer("ask", adapter=adapter(provider, "m"), body={"messages": [{"n": 1}]})

    engine.serve([fn])
    assert engine.run("go").output["usage"] == {"n": 1.5}
    [(asked, sent, body)] = Provider.requests
    assert asked == path
    assert sent | headers == sent
    assert body["messages"] == [{"n": 1}]
    assert sent["content-type"] == "application/json"


def test_requests_beside_each_other_and_beside_a_step_join(engine: EngineUnderTest, provider: str) -> None:
    calls = Calls()

    @engine.client.create_function(fn_id="fn", trigger=GO, retries=2)
    async def fn(ctx: inngest.Context) -> Any:
        def infer(model: str) -> Any:
            return ctx.step.ai.infer(model, adapter=of_openai(provider, model), body={"messages": []})

        parts: Any = (lambda: infer("a"), lambda: infer("b"), lambda: ctx.step.run("own", calls.step("own", 1)))
        a, b, own = await ctx.group.parallel(parts)
        return [a["text"], b["text"], own, await ctx.step.run("after", calls.step("after", 2))]

    engine.serve([fn])
    assert engine.run("go").output == ["a", "b", 1, 2]
    assert sorted(Provider.models()) == ["a", "b"]
    assert calls.names == ["own", "after"]


def test_a_provider_that_does_not_answer_fails_the_step(engine: EngineUnderTest) -> None:
    @engine.client.create_function(fn_id="fn", trigger=GO, retries=0)
    async def fn(ctx: inngest.Context) -> Any:
        try:
            await ctx.step.ai.infer("ask", adapter=of_openai("http://127.0.0.1:1/v1", "m"), body={"messages": []})
        except inngest.StepError as error:
            return [error.name, error.message]

    engine.serve([fn])
    name, message = engine.run("go").output
    assert name == "AIGatewayError"
    assert message.startswith("Error making AI request: ")
