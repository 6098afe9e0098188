from __future__ import annotations

import json

import pytest
from agents import ModelResponse
from agents.usage import RequestUsage, Usage
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses.response_usage import InputTokensDetails, OutputTokensDetails

from inngest_agents.stats import (
    ErrorRecord,
    ItemCounts,
    Price,
    StepRecord,
    Tokens,
    UsageRecord,
    count_items,
    usage_from_response,
)

counts = st.integers(0, 10**7)
texts = st.text(max_size=8)
tokens = st.builds(Tokens, *[counts] * 10)
prices = st.builds(
    Price,
    usd=st.none() | st.decimals(0, 100, places=9).map(str),
    source=texts,
    version=texts,
    model=texts,
    reason=texts,
)
usages = st.builds(
    UsageRecord,
    tokens=tokens,
    total_tokens=counts,
    requests=st.integers(0, 5),
    entries=st.lists(tokens, max_size=3).map(tuple),
    model=texts,
    estimated=st.booleans(),
    origin=st.sampled_from(["step", "nested", "failed_attempt", "compaction"]),
    price=st.none() | prices,
)
records = st.builds(
    StepRecord,
    kind=st.sampled_from(["model", "tool", "handoff", "shell", "other"]),
    step_id=texts,
    name=texts,
    agent=texts,
    path=st.lists(texts, max_size=3).map(tuple),
    order=st.integers(0, 50),
    started_at=st.floats(0, 2e9),
    duration=st.floats(0, 100),
    attempts=st.integers(1, 5),
    error=st.none() | st.builds(ErrorRecord, type=texts, message=texts),
    usage=st.none() | usages,
    nested=st.lists(usages, max_size=2).map(tuple),
    counts=st.builds(ItemCounts, *[st.integers(0, 9)] * 4),
    finish_reasons=st.lists(texts, max_size=2).map(tuple),
)


@given(records)
def test_a_record_survives_json(record: StepRecord) -> None:
    assert StepRecord.from_dict(json.loads(json.dumps(record.to_dict()))) == record


def test_defaults_take_no_room() -> None:
    assert StepRecord(kind="tool", step_id="tool/buy").to_dict() == {
        "v": 1,
        "kind": "tool",
        "step_id": "tool/buy",
    }


def test_fields_of_a_later_version_are_left_out() -> None:
    data = {
        "v": 1,
        "kind": "model",
        "step_id": "m",
        "colour": "red",
        "usage": {"input_tokens": 3, "taste": 1},
    }
    record = StepRecord.from_dict(data)
    assert record.usage is not None
    assert record.usage.tokens.input_tokens == 3


@pytest.mark.parametrize("version", [2, "1", None])
def test_a_record_of_a_newer_schema_is_refused(version: object) -> None:
    with pytest.raises(ValueError, match="step record of schema version"):
        StepRecord.from_dict({"v": version, "kind": "model", "step_id": "m"})


def make_usage(**values: int) -> Usage:
    return Usage(
        requests=values.get("requests", 1),
        input_tokens=values.get("input", 0),
        output_tokens=values.get("output", 0),
        total_tokens=values.get("total", 0),
        input_tokens_details=InputTokensDetails(cached_tokens=values.get("cached", 0), cache_write_tokens=0),
        output_tokens_details=OutputTokensDetails(reasoning_tokens=values.get("reasoning", 0)),
    )


def test_usage_is_read_from_a_response() -> None:
    response = ModelResponse(
        output=[],
        usage=make_usage(input=100, output=20, total=120, cached=60, reasoning=5),
        response_id="r",
    )
    usage = usage_from_response(response, model="gpt-4o-2024-08-06", requested_model="gpt-4o")
    assert usage.tokens == Tokens(
        input_tokens=100,
        cached_input_tokens=60,
        output_tokens=20,
        reasoning_tokens=5,
    )
    assert (usage.total_tokens, usage.requests, usage.billed_model) == (120, 1, "gpt-4o-2024-08-06")
    assert usage.priced_requests == (usage.tokens,)


def test_usage_of_several_requests_keeps_each() -> None:
    usage = make_usage(requests=2, input=300, output=3, total=303)
    details = (
        InputTokensDetails(cached_tokens=1, cache_write_tokens=0),
        OutputTokensDetails(reasoning_tokens=1),
    )
    usage.request_usage_entries = [RequestUsage(100, 1, 101, *details), RequestUsage(200, 2, 202, *details)]
    record = usage_from_response(ModelResponse(output=[], usage=usage, response_id=None))
    assert [entry.input_tokens for entry in record.entries] == [100, 200]


def test_details_that_the_sdk_drops_are_read_from_the_raw_usage() -> None:
    raw = {
        "prompt_tokens_details": {"audio_tokens": 7, "image_tokens": 2},
        "completion_tokens_details": {"audio_tokens": 4, "image_tokens": None},
        "cache_creation_input_tokens": 30,
        "cache_creation": {"ephemeral_1h_input_tokens": 10},
    }
    response = ModelResponse(output=[], usage=make_usage(input=100, output=20), response_id=None, raw_usage=raw)
    record = usage_from_response(response)
    assert record.tokens == Tokens(
        input_tokens=100,
        cache_write_tokens=30,
        cache_write_1h_tokens=10,
        output_tokens=20,
        audio_input_tokens=7,
        audio_output_tokens=4,
        image_input_tokens=2,
    )
    assert record.total_tokens == 120


def test_a_response_without_usage_is_one_request_without_tokens() -> None:
    record = usage_from_response(ModelResponse(output=[], usage=Usage(), response_id=None))
    assert record.requests == 1
    assert not record.has_tokens


def test_items_are_counted_by_their_type_also_unknown_ones() -> None:
    items = [{"type": t} for t in ("message", "reasoning", "function_call", "web_search_call", "novelty")]
    assert count_items(items) == ItemCounts(messages=1, reasoning=1, tool_calls=2, items=5)
