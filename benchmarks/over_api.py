"""The model of the workloads as OpenAI serves it: through its client and the SDK's adapter, with ids of their length.

What an adapter gives, and what is known of it (the model that answered, cached tokens, a price), is more than what a
model of one's own gives, so what is kept of a run is measured with both. Nothing leaves the process: the client's
transport answers itself.
"""

from __future__ import annotations

import functools
import hashlib
import json
from typing import Any

import httpx
from agents import OpenAIResponsesModel
from openai import AsyncOpenAI

from . import workloads

MODEL = "gpt-4.1"
ANSWERED = "gpt-4.1-2025-04-14"
"""How the provider names the model that it took."""


@functools.cache
def model() -> OpenAIResponsesModel:
    """The SDK's own model, whose client is answered in this process."""
    transport = httpx.MockTransport(_answer)
    client = AsyncOpenAI(
        api_key="none",
        base_url="http://in-process/v1",
        http_client=httpx.AsyncClient(transport=transport),  # type: ignore[arg-type]  # it takes httpx's own too
        max_retries=0,
    )
    return OpenAIResponsesModel(MODEL, client)


def _answer(request: httpx.Request) -> httpx.Response:
    asked = json.loads(request.content)
    output = workloads.next_output(asked["input"])
    turn = workloads.turn_of(asked["input"])
    items = [_with_long_ids(item.model_dump(exclude_unset=True)) for item in output]
    return httpx.Response(
        200,
        json={
            "id": _long("resp", f"{turn}"),
            "object": "response",
            "created_at": 1_795_000_000 + turn,
            "status": "completed",
            "model": ANSWERED,
            "output": items,
            "parallel_tool_calls": True,
            "service_tier": "default",
            "tool_choice": "auto",
            "tools": [],
            "usage": {
                "input_tokens": 1100 + 50 * turn,
                "input_tokens_details": {"cached_tokens": 1024},
                "output_tokens": 20,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": 1120 + 50 * turn,
            },
        },
    )


def _with_long_ids(item: dict[str, Any]) -> dict[str, Any]:
    kind = item["id"].split("_")[0]
    item["id"] = _long(kind, item["id"])
    if "call_id" in item:  # its beginning tells the turn
        item["call_id"] = f"{item['call_id']}_{_digest(item['call_id'])}"[:29]
    for part in item.get("content", ()):
        part["logprobs"] = []
    return item


def _long(kind: str, what: str) -> str:
    return f"{kind}_{_digest(what)[:50]}"


def _digest(what: str) -> str:
    return hashlib.sha256(what.encode()).hexdigest()
