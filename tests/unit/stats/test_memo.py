"""A record keeps all that it says though its memo stores only what cannot be told from elsewhere."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import run_samples as samples
from agents import ModelResponse, Usage
from agents.testing import assistant_message, function_call
from agents.usage import RequestUsage
from openai.types.responses.response_usage import InputTokensDetails, OutputTokensDetails

from inngest_agents.memos import response_codec
from inngest_agents.stats.answers import count_items, usage_from_response
from inngest_agents.stats.memo import identity, memo_of, step_id_of, unpack, without_answer
from inngest_agents.stats.records import ErrorRecord, ItemCounts, Price, StepRecord, Tokens, UsageRecord

DETAILS: dict[str, Any] = {
    "input_tokens_details": InputTokensDetails(cached_tokens=30, cache_write_tokens=5),
    "output_tokens_details": OutputTokensDetails(reasoning_tokens=7),
}
ENTRY = RequestUsage(input_tokens=50, output_tokens=10, total_tokens=60, **DETAILS)
RESPONSE = ModelResponse(
    output=[assistant_message("done"), function_call("add", {"a": 1}, call_id="c1")],
    usage=Usage(requests=1, input_tokens=50, output_tokens=10, total_tokens=60, **DETAILS),
    response_id="resp_1",
)
MODEL = StepRecord(
    kind="model",
    step_id="shop/2 model shop",
    name="gpt-5",
    agent="shop",
    started_at=1795397577.0716,
    duration=0.25,
    usage=usage_from_response(RESPONSE, requested_model="gpt-5").with_price(
        Price("0.0003", "litellm", "1.83.0", model="gpt-5")
    ),
    counts=count_items(RESPONSE.output),
    response_id="resp_1",
)
TOOL = StepRecord(kind="tool", step_id="shop/2.1 add", name="add", agent="shop", started_at=1.5, duration=0.25)
assert MODEL.usage is not None

RECORDS = {
    "a model call": (MODEL, RESPONSE),
    "another model answered": (replace(MODEL, usage=replace(MODEL.usage, model="gpt-5-2025-08-07")), RESPONSE),
    "no price was asked for": (replace(MODEL, usage=replace(MODEL.usage, price=None)), RESPONSE),
    "the price is unknown": (replace(MODEL, usage=MODEL.usage.with_price(Price(reason="no such model"))), RESPONSE),
    "a price of the user's": (replace(MODEL, usage=MODEL.usage.with_price(Price("1", "user", model="mine"))), RESPONSE),
    "counted here": (
        replace(MODEL, usage=UsageRecord(Tokens(3, output_tokens=1), 4, 1, requested_model="x", estimated=True)),
        replace(RESPONSE, usage=Usage()),
    ),
    "several requests": (
        MODEL,
        replace(RESPONSE, usage=replace(RESPONSE.usage, requests=2, request_usage_entries=[ENTRY, ENTRY])),
    ),
    "nothing is as the response tells": (
        replace(MODEL, usage=None, counts=ItemCounts(), response_id="", agent="other", path=("a", "b")),
        RESPONSE,
    ),
    "a tool": (TOOL, "3"),
    "a tool in a nested agent": (replace(TOOL, step_id="shop/1.1 ask/2.1 add", path=("shop", "1.1 ask")), "3"),
    "a run of another name": (replace(TOOL, step_id="mine/1.1 ask/2.1 add", path=("shop", "1.1 ask")), "3"),
    "names with slashes": (replace(TOOL, step_id="a/b/2.1 add/x y", name="add/x y"), "3"),
    "a name that is not in the id": (replace(TOOL, step_id="shop/session read", name="SQLiteSession"), []),
    "no name and no agent": (StepRecord(kind="other", step_id="a b c"), None),
    "times that no number of ticks tells": (replace(TOOL, started_at=1.23456789, duration=1e-9), "3"),
    "a price and more": (
        replace(
            MODEL,
            usage=replace(MODEL.usage, model="gpt-5-2025-08-07", service_tier="flex").with_price(
                Price("0.0003", "litellm", "1.83.0", model="gpt-5-2025-08-07", is_partial=True)
            ),
        ),
        RESPONSE,
    ),
    "a version that looks like a short one": (
        replace(MODEL, usage=replace(MODEL.usage).with_price(Price("1", "litellm", "1#2", model="gpt-5"))),
        RESPONSE,
    ),
    "why the model ended, and no price": (
        replace(
            MODEL,
            usage=replace(MODEL.usage, model="gpt-5-2025-08-07", provider="openai", price=None),
            finish_reasons=("stop", "length"),
        ),
        RESPONSE,
    ),
    "no model has a name": (replace(MODEL, name="", usage=replace(MODEL.usage, requested_model="")), RESPONSE),
    "nothing was used, and why the model ended": (
        replace(MODEL, usage=None, finish_reasons=("stop",)),
        RESPONSE,
    ),
    "all else": (
        replace(
            TOOL,
            waited=2.5,
            attempts=3,
            error=ErrorRecord("ValueError", "no"),
            nested=(UsageRecord(Tokens(1), 1, 1, origin="nested", agent="deep"),),
            finish_reasons=("stop",),
            estimated_input_tokens=9,
        ),
        None,
    ),
}


THIRD: dict[str, Any] = json.loads((Path(__file__).parent / "memos_v3.json").read_text())
"""The memos that version 3 made of most of these records."""


def stored(record: StepRecord, value: Any) -> dict[str, Any]:
    """The memo as it comes back from the engine."""
    output = response_codec.encode_response(value) if isinstance(value, ModelResponse) else value
    memo: dict[str, Any] = json.loads(json.dumps(memo_of(record, output, "CLClIiQ")))
    assert memo["output"] == output
    return memo


@pytest.mark.parametrize(("record", "value"), RECORDS.values(), ids=RECORDS)
def test_a_record_comes_back_from_its_memo(record: StepRecord, value: Any) -> None:
    memo = stored(record, value)
    assert unpack(memo) == record
    assert unpack(without_answer(memo)) == record
    assert step_id_of(memo) == record.step_id
    assert identity(memo) == (record.kind, record.agent, record.name)


def test_samples_of_every_kind_come_back() -> None:
    for record in samples.records():
        expected = replace(record, order=0, call_id="")
        assert unpack(stored(record, None)) == expected
        asked = {"order": record.order, "call_id": record.call_id, "agent": "not read"}
        assert unpack(stored(record, None), asked) == record


def test_what_the_response_and_the_id_tell_is_not_stored_again() -> None:
    output = response_codec.encode_response(RESPONSE)
    assert memo_of(MODEL, output) == {
        "output": output,
        "step": "v4 - 6d3xxm6ak 5cwg shop/2 model shop",
        "model": ["gpt-5", "", "", "1.83.0", "0.0003"],
    }
    assert memo_of(TOOL, "3", "CLClIiQ") == {"output": "3", "step": "v4 CLClIiQ bko 5cwg shop/2.1 add"}


def test_what_openai_s_own_model_answers_is_told_by_one_list() -> None:
    assert MODEL.usage is not None
    usage = replace(MODEL.usage, model="gpt-5-2025-08-07", provider="openai").with_price(
        Price("0.0003", "litellm", "1.83.0+sha256:ffe40f10de68", model="gpt-5-2025-08-07")
    )
    record = replace(MODEL, usage=usage, finish_reasons=("completed",))
    memo = memo_of(record, response_codec.encode_response(RESPONSE))
    assert memo["model"] == ["gpt-5", "gpt-5-2025-08-07", "openai", "1.83.0#ffe40f10de68", "0.0003", "completed"]
    assert "record" not in memo


@pytest.mark.parametrize("name", THIRD)
def test_a_memo_of_version_3_tells_the_record_that_it_was_made_of(name: str) -> None:
    assert unpack(THIRD[name]["memo"]) == StepRecord.from_dict(THIRD[name]["record"])


def test_a_list_that_is_none_of_ours_tells_nothing() -> None:
    memo = stored(MODEL, RESPONSE)
    assert unpack({**memo, "model": [1, 2]}).name == ""
    assert unpack({**memo, "model": "gpt-5"}).name == ""


def test_a_record_is_told_without_the_answer_of_its_step() -> None:
    kept = without_answer(stored(MODEL, replace(RESPONSE, output=[assistant_message("a long answer")])))
    assert "a long answer" not in json.dumps(kept)
    assert without_answer(stored(TOOL, "a long answer")) == {"step": stored(TOOL, "")["step"], "output": None}


def test_a_streamed_answer_is_told_without_it_too() -> None:
    response = {"id": "resp_1", "output": [{"type": "message", "content": "a long answer"}]}
    output = {"event": {"response": response}, "tokens": {"input_tokens": 50}}
    memo = {**stored(MODEL, None), "record": {}, "output": output}
    assert "a long answer" not in json.dumps(without_answer(memo))
    told = unpack(without_answer(memo))
    assert told == unpack(memo)
    assert (told.response_id, told.counts) == ("resp_1", ItemCounts(messages=1, items=1))


@pytest.mark.parametrize("answer", [{"output": ["x", 1]}, {"output": "x"}, {"event": {"response": "x"}}, {"event": 1}])
def test_a_tool_may_have_answered_what_looks_like_a_model_s_answer(answer: Any) -> None:
    assert unpack(without_answer(stored(TOOL, answer))) == TOOL


def test_the_record_of_the_first_version_is_read_whole() -> None:
    memo = {"v": 1, "output": None, "record": {**TOOL.to_dict(), "order": 4, "call_id": "c9"}}
    assert unpack(memo) == unpack(without_answer(memo)) == replace(TOOL, order=4, call_id="c9")
    assert identity(memo) == ("tool", "shop", "add")


def test_what_is_no_memo_of_a_durable_step_has_no_identity() -> None:
    assert identity({"output": 1}) is None
    assert identity({"record": "a song"}) is None
    assert identity({"v": 2, "record": {"kind": "song", "step_id": "x", "at": "noon"}}) is None
    assert identity({"v": [2], "record": {"kind": "song"}}) is None
    assert identity({"v": 2, "asked": "of whom?", "record": {"kind": "song", "step_id": "x", "at": [1, 2]}}) is None
    for version in (3, 4):
        assert identity({"step": f"v{version} of my plan"}) is None
        assert identity({"step": f"v{version} is what I call it"}) is None
        assert identity({"step": f"v{version} CLClIiQ bko 5cwg shop/2.1 add"}) is None
    assert identity({"output": 1, "step": "v5 CLClIiQ bko 5cwg shop/2.1 add"}) is None
