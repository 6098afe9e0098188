from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from agents import Agent, function_tool, handoff
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText

from inngest_agents.stats import Tokens, UsageRecord, tokens
from inngest_agents.stats.tokens import (
    PER_ANSWER,
    PER_IMAGE,
    PER_MESSAGE,
    count_input,
    count_input_async,
    count_output,
    estimate_usage,
    estimate_usage_async,
    tokenizer_for,
)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def nothing_loaded() -> Any:
    tokens._load.cache_clear()
    yield
    tokens._load.cache_clear()


def message(text: str) -> ResponseOutputMessage:
    content = [ResponseOutputText(text=text, type="output_text", annotations=[])]
    return ResponseOutputMessage(
        id="msg_1",
        content=list(content),
        role="assistant",
        status="completed",
        type="message",
    )


def test_text_is_counted_by_the_models_own_vocabulary_offline() -> None:
    tokenizer = tokenizer_for("gpt-4o-2024-08-06")
    assert tokenizer.note == "tiktoken o200k_base"
    assert tokenizer.count("hello world") == 2
    assert tokenizer_for("gpt-4").note == "tiktoken cl100k_base"


def test_the_environment_stays_as_it_was(nothing_loaded: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR", raising=False)
    tokenizer_for("gpt-4o")
    assert "TIKTOKEN_CACHE_DIR" not in os.environ


def test_the_models_of_others_are_counted_by_a_vocabulary_not_their_own() -> None:
    assert tokenizer_for("anthropic/claude-sonnet-4").note.endswith("which is not this model's own")


@pytest.mark.parametrize("hidden", ["tiktoken", "vocabulary", "damaged vocabulary"])
def test_without_a_vocabulary_characters_are_counted(
    hidden: str,
    nothing_loaded: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    if hidden == "tiktoken":
        monkeypatch.setitem(sys.modules, "tiktoken", None)
    else:
        monkeypatch.setattr(tokens, "_cache_folders", lambda: [tmp_path])
    damaged = tmp_path / tokens._VOCABULARIES["o200k_base"][0]
    if hidden == "damaged vocabulary":
        damaged.write_bytes(b"not a vocabulary")
    tokenizer = tokenizer_for("gpt-4o")
    assert tokenizer.note.startswith("characters")
    assert tokenizer.count("12345678") == 2
    assert tokenizer.count("é") == 1
    assert damaged.exists() == (hidden == "damaged vocabulary")


def test_messages_cost_their_text_and_their_framing() -> None:
    plain = count_input("gpt-4o", items="hello world")
    assert plain.tokens == 2 + PER_MESSAGE + PER_ANSWER
    item = {"role": "user", "content": [{"type": "input_text", "text": "hello world"}]}
    assert count_input("gpt-4o", items=[item]) == plain
    assert count_input("gpt-4o", instructions="hello world") == plain


def test_tools_handoffs_and_schemas_are_counted() -> None:
    @function_tool
    def lookup(order: str) -> str:
        """Find an order by its number."""
        return order

    bare = count_input("gpt-4o", items="hi").tokens
    with_tool = count_input("gpt-4o", items="hi", tools=[lookup]).tokens
    schema = json.dumps(lookup.params_json_schema, separators=(",", ":"))
    assert with_tool - bare >= tokenizer_for("gpt-4o").count(schema)
    assert count_input("gpt-4o", items="hi", tools=[handoff(Agent(name="Sales"))]).tokens > bare + 10
    assert count_input("gpt-4o", items="hi", output_schema={"title": "Answer"}).tokens > bare


def test_images_count_as_images_and_not_as_base64() -> None:
    data = "data:image/png;base64," + "A" * 40_000
    item = {"role": "user", "content": [{"type": "input_image", "image_url": data}]}
    assert count_input("gpt-4o", items=[item]).tokens == PER_IMAGE + PER_MESSAGE + PER_ANSWER
    assert count_input("gpt-4o", items=[{"role": "user", "content": data}]).tokens == PER_IMAGE + 6


def test_output_counts_what_the_model_wrote() -> None:
    call = ResponseFunctionToolCall(
        arguments='{"order": 7}',
        call_id="c",
        name="lookup",
        type="function_call",
    )
    found = count_output("gpt-4o", [message("hello world"), call]).tokens
    count = tokenizer_for("gpt-4o").count
    assert found == 2 + count('{"order": 7}') + count("lookup")


def test_a_usage_without_counts_is_filled_in_and_marked() -> None:
    empty = UsageRecord(requests=1, requested_model="gpt-4o")
    usage = estimate_usage(empty, items="hello world", output=[message("hello")])
    assert usage.estimated
    assert usage.estimate_note == "tiktoken o200k_base"
    assert usage.tokens == Tokens(input_tokens=8, output_tokens=1)
    assert usage.total_tokens == 9


def test_a_usage_with_counts_is_left_alone() -> None:
    usage = UsageRecord(tokens=Tokens(input_tokens=1), total_tokens=1)
    assert estimate_usage(usage, output=[]) is usage


async def test_counting_on_an_event_loop_gives_the_same() -> None:
    empty = UsageRecord(requests=1, requested_model="gpt-4o")
    assert await estimate_usage_async(empty, items="hi", output=[]) == estimate_usage(empty, items="hi", output=[])
    for text in ("hi", "hi " * 20_000):
        assert await count_input_async("gpt-4o", items=text) == count_input("gpt-4o", items=text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    )
)
def test_any_item_can_be_counted(item: Any) -> None:
    assert count_input("gpt-4o", items=[item]).tokens >= PER_ANSWER + PER_MESSAGE


def test_a_long_text_without_spaces_is_counted_in_time() -> None:
    assert count_input("gpt-4o", items="a" * 1_000_000).tokens > 50_000
