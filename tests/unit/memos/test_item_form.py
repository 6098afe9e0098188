"""What lies in a step of a model's items and of its usage comes back as it was, whatever it was."""

from __future__ import annotations

import json
from typing import Any

import pytest
from agents import ModelResponse, Usage
from agents.testing import assistant_message
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import ResponseFunctionToolCall
from openai.types.responses.response_usage import InputTokensDetails, OutputTokensDetails

from inngest_agents.memos import response_codec
from inngest_agents.memos.item_form import long, short

TEXT: dict[str, Any] = {"annotations": [], "text": "done", "type": "output_text"}
MESSAGE: dict[str, Any] = {"id": "m1", "content": [TEXT], "role": "assistant", "status": "completed", "type": "message"}
CALL: dict[str, Any] = {
    "arguments": "{}",
    "call_id": "c1",
    "name": "add",
    "type": "function_call",
    "id": "f1",
    "status": "completed",
}


def test_a_usual_item_is_stored_without_what_all_of_its_type_say() -> None:
    assert short(CALL) == {"arguments": "{}", "call_id": "c1", "name": "add", "id": "f1"}
    assert short(MESSAGE) == {"id": "m1", "text": "done"}
    assert short({**MESSAGE, "content": [{**TEXT, "logprobs": []}]}) == {"id": "m1", "text": "done", "logprobs": []}


UNUSUAL: dict[str, Any] = {
    "no status": {name: value for name, value in CALL.items() if name != "status"},
    "a status of its own": {**CALL, "status": "incomplete"},
    "a call without arguments": {name: value for name, value in CALL.items() if name != "arguments"},
    "two texts": {**MESSAGE, "content": [TEXT, TEXT]},
    "no text": {**MESSAGE, "content": []},
    "a refusal": {**MESSAGE, "content": [{"type": "refusal", "refusal": "no"}]},
    "an annotation": {**MESSAGE, "content": [{**TEXT, "annotations": [{"type": "file_path"}]}]},
    "a field of the text that is new": {**MESSAGE, "content": [{**TEXT, "tone": "kind"}]},
    "a field of the name of another": {**MESSAGE, "text": "another"},
    "logprobs": {**MESSAGE, "content": [{**TEXT, "logprobs": [{"token": "a", "logprob": -0.5}]}]},
    "a message with arguments": {**MESSAGE, "arguments": "{}"},
    "content that is a text": {**MESSAGE, "content": "done"},
    "content of texts": {**MESSAGE, "content": ["done"]},
    "of another type": {"type": "reasoning", "id": "r1", "summary": []},
    "without a type": {"id": "x", "shape": [1]},
    "no object": "text",
}


@pytest.mark.parametrize("item", UNUSUAL.values(), ids=UNUSUAL)
def test_any_other_item_is_stored_whole(item: Any) -> None:
    assert short(item) == item
    assert long(item) == item


def items() -> st.SearchStrategy[Any]:
    """Items that differ from usual ones in some fields."""
    names = st.sampled_from(["id", "name", "status", "role", "phase", "text", "logprobs", "arguments", "content"])
    values = st.sampled_from([None, "completed", "assistant", "x", [], [TEXT], [{**TEXT, "logprobs": []}], 0])
    return st.builds(
        lambda base, more, less: {name: value for name, value in {**base, **more}.items() if name not in less},
        st.sampled_from([CALL, MESSAGE]),
        st.dictionaries(names, values, max_size=3),
        st.sets(names, max_size=2),
    )


@given(items())
def test_an_item_comes_back_from_its_short_form(item: dict[str, Any]) -> None:
    before = json.dumps(item)
    assert long(short(item)) == item
    assert json.dumps(item) == before


def test_a_usual_item_comes_back_as_the_sdk_s_own_with_the_fields_in_their_order() -> None:
    call = ResponseFunctionToolCall.model_validate(CALL)
    message = assistant_message("done")
    made = ModelResponse(output=[call, message], usage=Usage(), response_id=None)
    back = response_codec.decode_response(response_codec.encode_response(made))
    assert back.output == made.output
    assert [json.dumps(response_codec.encode_item(item)) for item in back.output] == [
        json.dumps(response_codec.encode_item(item)) for item in made.output
    ]


COUNT = st.integers(0, 5)
USAGES = st.builds(
    lambda given, made, more, requests, cached, written, reasoning: Usage(
        requests=requests,
        input_tokens=given,
        output_tokens=made,
        total_tokens=given + made + more,
        input_tokens_details=InputTokensDetails(cached_tokens=cached, cache_write_tokens=written),
        output_tokens_details=OutputTokensDetails(reasoning_tokens=reasoning),
    ),
    COUNT,
    COUNT,
    st.sampled_from([0, 0, 0, 3]),
    st.sampled_from([1, 1, 1, 0, 2]),
    COUNT,
    st.sampled_from([0, 0, 2]),
    COUNT,
)


@given(USAGES)
def test_a_usage_comes_back_from_its_short_form(usage: Usage) -> None:
    stored = response_codec.encode_response(ModelResponse(output=[], usage=usage, response_id=None))
    assert response_codec.decode_response(json.loads(json.dumps(stored))).usage == usage


@pytest.mark.parametrize(
    ("cached", "written", "reasoning", "stored"),
    [
        (0, 0, 0, [7, 2]),
        (3, 0, 0, [7, 2, 3]),
        (0, 0, 1, [7, 2, 0, 1]),
        (
            3,
            4,
            0,
            {
                "input_tokens": 7,
                "output_tokens": 2,
                "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 4},
            },
        ),
    ],
)
def test_the_tokens_of_one_request_are_a_list_where_they_are_of_the_usual_kinds(
    cached: int, written: int, reasoning: int, stored: Any
) -> None:
    usage = Usage(
        requests=1,
        input_tokens=7,
        output_tokens=2,
        total_tokens=9,
        input_tokens_details=InputTokensDetails(cached_tokens=cached, cache_write_tokens=written),
        output_tokens_details=OutputTokensDetails(reasoning_tokens=reasoning),
    )
    assert response_codec.encode_response(ModelResponse(output=[], usage=usage, response_id=None))["tokens"] == stored
