"""What a step stores comes back as it was."""

from __future__ import annotations

import copy
import dataclasses
import datetime
import decimal
import enum
import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pydantic
import pytest
from agents import ModelResponse, Usage
from agents.items import ItemHelpers
from agents.testing import assistant_message, function_call
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response

from inngest_agents import codec, response_codec


class Color(enum.Enum):
    RED = "red"


class Point(pydantic.BaseModel):
    x: int
    label: str | None = None


@dataclasses.dataclass
class Order:
    item: str
    points: list[Point]
    when: datetime.date


def through_json(value: Any) -> Any:
    return codec.decode(json.loads(json.dumps(codec.encode(value))))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.dictionaries(st.just("$type"), inner),
    max_leaves=12,
)
typed_values = st.recursive(
    st.none()
    | st.integers()
    | st.text()
    | st.binary()
    | st.dates()
    | st.datetimes(timezones=st.none() | st.timezones())
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.timedeltas()
    | st.just(Color.RED)
    | st.builds(Point, x=st.integers(), label=st.none() | st.text()),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.integers() | st.text(), inner),
    max_leaves=8,
)


@given(json_values)
def test_json_comes_back_as_it_was(value: Any) -> None:
    assert through_json(value) == value


@given(typed_values)
def test_typed_values_come_back_with_their_types_and_their_text(value: Any) -> None:
    back = through_json(value)
    assert back == value
    assert type(back) is type(value)
    assert str(back) == str(value)


def test_plain_json_is_stored_as_it_is_so_that_a_dashboard_can_be_read() -> None:
    value = {"items": [1, "two", {"three": None}], "total": 3.5}
    assert codec.encode(value) == value


def test_a_dataclass_comes_back_without_its_constructor_running() -> None:
    order = Order("mug", [Point(x=1)], datetime.date(2026, 1, 2))
    assert through_json(order) == order


def test_what_json_cannot_carry_is_seen_by_the_model_as_before() -> None:
    class Odd:
        def __str__(self) -> str:
            return "an odd thing"

    call: Any = function_call("f", {}, call_id="c1")
    odd = Odd()
    back = through_json(odd)

    assert isinstance(back, codec.SeenText)
    seen_first = ItemHelpers.tool_call_output_item(call, odd)
    assert ItemHelpers.tool_call_output_item(call, back) == seen_first
    assert "an odd thing" in json.dumps(seen_first)


@pytest.mark.parametrize(
    "value",
    [(1, 2), {1: "a"}, Point(x=1), Color.RED, b"\x00", {3}, Order("a", [], datetime.date.min), decimal.Decimal("1.10")],
)
def test_the_model_sees_the_same_on_the_first_pass_and_on_every_replay(value: Any) -> None:
    call: Any = function_call("f", {}, call_id="c1")
    assert ItemHelpers.tool_call_output_item(call, through_json(value)) == ItemHelpers.tool_call_output_item(
        call, value
    )


def test_an_unknown_type_is_refused_and_not_guessed() -> None:
    with pytest.raises(ValueError, match="hologram"):
        codec.decode({"$type": "hologram", "value": 1})


def test_a_response_keeps_unset_fields_ids_and_usage_entries() -> None:
    usage = Usage(requests=1, input_tokens=7, output_tokens=2, total_tokens=9)
    total = Usage()
    total.add(usage)
    total.add(usage)
    response = ModelResponse(
        output=[assistant_message("hi"), function_call("f", {"a": 1}, call_id="c1")],
        usage=total,
        response_id="resp_1",
        request_id="req_1",
        raw_usage={"prompt_tokens": 7, "odd": [1]},
    )
    stored = json.loads(json.dumps(response_codec.encode_response(response)))
    back = response_codec.decode_response(stored)

    assert [item.model_dump(exclude_unset=True) for item in back.output] == [
        item.model_dump(exclude_unset=True) for item in response.output
    ]
    assert back.usage == total
    assert len(back.usage.request_usage_entries) == 2
    assert (back.response_id, back.request_id, back.raw_usage) == ("resp_1", "req_1", response.raw_usage)


CALL: dict[str, Any] = {"type": "function_call", "arguments": "{}", "call_id": "c1", "name": "f"}


@pytest.mark.parametrize(
    "item",
    [
        CALL,
        {**CALL, "id": "fc_1", "status": "completed", "namespace": None},
        {**CALL, "async": True},
        {**CALL, "caller": {"type": "program", "caller_id": "p1", "more": 1}},
        {**CALL, "caller": {"type": "not known here"}},
        {**CALL, "status": "paused"},
        {**CALL, "newer": {"a": [1, 0]}},
        {**CALL, "arguments": {"a": 1}},
        {**CALL, "name": None},
        {"type": "function_call"},
        {"type": "message", "id": "m", "content": [{"type": "output_text", "text": "x", "logprobs": [{"logprob": 0}]}]},
        {"type": "message", "id": "m", "content": [{"type": "output_text", "text": "x", "logprobs": [], "new": 1}]},
        {
            "type": "message",
            "id": "m",
            "role": "assistant",
            "status": "completed",
            "phase": "final_answer",
            "content": [
                {
                    "type": "output_text",
                    "text": "x",
                    "annotations": [
                        {"type": "url_citation", "url": "u", "title": "t", "start_index": 0, "end_index": 2},
                        {"type": "newer", "score": 0.5},
                    ],
                },
                {"type": "refusal", "refusal": "no"},
            ],
        },
        {
            "type": "message",
            "id": "m",
            "role": "assistant",
            "status": "completed",
            "content": [
                {
                    "type": "output_text",
                    "text": "x",
                    "annotations": [
                        {"type": "url_citation", "url": "u", "title": "t", "start_index": 0, "end_index": 2}
                    ],
                }
            ],
        },
        {"type": "message", "content": "text"},
        {"type": "message", "content": [{"type": "hologram"}, "text"]},
        {"type": ["function_call"]},
        {"type": "hologram", "depth": 3},
    ],
)
def test_an_item_comes_back_as_the_client_makes_it_of_a_provider_s_answer(item: dict[str, Any]) -> None:
    """The client constructs, and so accepts what is odd; also where there is a shorter way."""
    [made] = Response.construct(output=[item]).output
    [back] = response_codec.decode_response({"output": [item], "tokens": {}}).output

    assert type(back) is type(made)
    assert (back, back.model_fields_set) == (made, made.model_fields_set)
    assert json.dumps(response_codec.encode_item(back)) == json.dumps(response_codec.encode_item(made))


COUNTS = st.integers(0, 10**9)


@given(st.integers(0, 2), COUNTS, COUNTS, COUNTS, COUNTS, st.booleans())
def test_a_usage_comes_back_whatever_it_counts(
    requests: int, given: int, made: int, cached: int, reasoned: int, has_sum: bool
) -> None:
    usage = Usage(requests=requests, input_tokens=given, output_tokens=made, total_tokens=given + made * has_sum)
    usage.input_tokens_details.cached_tokens = cached
    usage.output_tokens_details.reasoning_tokens = reasoned
    stored = response_codec.encode_response(ModelResponse(output=[], usage=usage, response_id=None))

    assert response_codec.decode_response(json.loads(json.dumps(stored))).usage == usage


def test_what_a_usual_usage_tells_anyway_is_not_stored() -> None:
    usage = Usage(requests=1, input_tokens=7, output_tokens=2, total_tokens=9)
    stored = response_codec.encode_response(ModelResponse(output=[], usage=usage, response_id=None))
    assert stored == {"output": [], "tokens": [7, 2]}


def test_uuids_and_sets_are_readable_in_the_store() -> None:
    known = uuid.UUID(int=5)
    assert codec.encode(known) == {"$type": "UUID", "value": str(known)}
    assert codec.encode({7}) == {"$type": "set", "value": [7]}


def through_server(value: Any) -> Any:
    """JSON as the real server gives it back: every number is a double, written in the shortest way (RFC 8785)."""
    if isinstance(value, dict):
        return {through_server(key): through_server(item) for key, item in value.items()}
    if isinstance(value, list):
        return [through_server(item) for item in value]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        number = float(value)
        assert number == number
        assert abs(number) != float("inf")
        return int(number) if number.is_integer() and abs(number) < 1e21 else number
    if isinstance(value, str):
        value.encode()
    return value


@given(
    st.recursive(
        st.integers() | st.floats() | st.text(st.characters()) | st.just("\ud800"),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner) | st.tuples(inner),
        max_leaves=8,
    )
)
def test_what_a_server_of_doubles_can_not_carry_comes_back_all_the_same(value: Any) -> None:
    stored = through_server(json.loads(json.dumps(codec.encode(value), allow_nan=False)))
    decoded = codec.decode(stored)
    assert repr(decoded) == repr(value)
    assert type(decoded) is type(value)


class Anything(pydantic.BaseModel):
    value: Any


@pytest.mark.parametrize("value", [1.0, 2**64, "\ud800"])
def test_a_model_with_such_a_value_comes_back_as_its_type(value: Any) -> None:
    made = Anything(value=value)
    decoded = codec.decode(through_server(json.loads(json.dumps(codec.encode(made), allow_nan=False))))
    assert type(decoded) is Anything
    assert repr(decoded) == repr(made)


def test_a_value_that_contains_itself_is_stored_as_its_text() -> None:
    value: list[Any] = [1]
    value.append(value)
    assert codec.decode(codec.encode(value)) == "[1, [...]]"


def test_a_logprob_of_zero_is_the_same_before_and_after_the_server() -> None:
    message: Any = assistant_message("hi \ud83d")
    message.content[0].logprobs = [{"token": "hi", "logprob": 0.0, "bytes": [104, 105], "top_logprobs": []}]
    stored = response_codec.encode_response(ModelResponse(output=[message], usage=Usage(), response_id=None))
    first = response_codec.decode_response(stored)
    again = response_codec.decode_response(through_server(json.loads(json.dumps(stored))))
    shown = [json.dumps(response.to_input_items(), default=str) for response in (first, again)]
    assert shown[0] == shown[1]


class Tagged(pydantic.BaseModel):
    tags: set[str]
    inner: list[frozenset[str]] = []


@dataclasses.dataclass
class Tagging:
    tags: set[str]


IN_PROCESS = """
import json, sys
from inngest_agents import codec
from test_codec import Tagged, Tagging

words = "apple pear plum fig quince cherry".split()
made = [set(words), frozenset(words), [set(words)], {"a": set(words)}, (set(words),), Tagging(set(words)),
        Tagged(tags=set(words), inner=[frozenset(words)])]
given = json.load(sys.stdin)
stored = codec.encode(made) if given is None else given
values = codec.decode(stored)
assert values == made
print(json.dumps([stored, [str(value) for value in values], codec.encode(values)]))
"""


def in_process(seed: str, stored: Any) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", IN_PROCESS],
        input=json.dumps(stored),
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent,
    )
    return json.loads(done.stdout)


def test_the_text_of_a_set_is_the_same_in_every_process() -> None:
    stored, texts, _ = in_process("1", None)
    for seed in ("2", "3"):
        assert in_process(seed, stored) == [stored, texts, stored]


def test_a_set_that_comes_back_is_a_set_like_any_other() -> None:
    kept = codec.decode(codec.encode({"a", "b", "c"}))
    assert kept == {"a", "b", "c"}
    kept.discard("b")
    kept.add("d")
    assert sorted(codec.in_order(kept)) == ["a", "c", "d"]
    assert repr(kept) == "{" + ", ".join(map(repr, codec.in_order(kept))) + "}"
    assert copy.deepcopy(kept) == kept.copy() == {"a", "c", "d"}
    assert repr(kept - kept) == "set()"
    assert type(codec.decode(codec.encode({1, 2}))) is set
