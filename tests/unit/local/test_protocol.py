"""Opcodes in, Call Requests out, signatures, ids."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import jcs  # type: ignore[import-untyped,unused-ignore]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inngest_agents.local import protocol
from inngest_agents.local.models import Job, JobKind, Run, RunState, RunStatus, StepStatus

RUN = Run("R", "app-fn", "E", RunStatus.RUNNING, '[{"name":"go","data":{"n":1}}]', 0, 1, None, None, None, 2, 30)
JOB = Job(7, "R", "k", JobKind.CALL, None, "b", 1, 5, 3, None, False)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def state(**memos: str) -> RunState:
    size = sum(map(len, memos.values()))
    return RunState(replace(RUN, state_size=size), force_step_plan=True, request_version=2, memos=list(memos.items()))


def test_a_call_request_carries_what_the_real_server_sends() -> None:
    body = json.loads(protocol.call_request(state(a='{"data":1}', b='{"error":{"name":"E"}}', c="null"), JOB, "Q"))
    ctx = body.pop("ctx")
    assert body == {
        "defers": {},
        "event": {"name": "go", "data": {"n": 1}},
        "events": [{"name": "go", "data": {"n": 1}}],
        "steps": {"a": {"data": 1}, "b": {"error": {"name": "E"}}, "c": None},
        "use_api": False,
        "version": 2,
    }
    assert protocol.parse_queue_ref(ctx.pop("qi_id")) == 7
    assert ctx == {
        "attempt": 1,
        "disable_immediate_execution": True,
        "env": "",
        "fn_id": protocol.function_uuid("app-fn"),
        "generation_id": 3,
        "job_id": "7",
        "max_attempts": 5,
        "request_id": "Q",
        "run_id": "R",
        "stack": {"current": 2, "stack": ["a", "b", "c"]},
        "step_id": "step",
        "use_api": False,
    }


def test_a_call_request_that_would_be_too_large_lets_the_app_fetch() -> None:
    large = json.loads(protocol.call_request(state(a='"' + "x" * 5000 + '"'), JOB, "Q", max_request=4000))
    assert (large["steps"], large["use_api"], large["ctx"]["use_api"]) == ({}, True, True)
    assert len(large["events"]) == 1
    tight = json.loads(protocol.call_request(state(a='"' + "x" * 5000 + '"'), JOB, "Q", max_request=100))
    assert (tight["events"], tight["event"]["name"]) == ([], "go")


@given(json_values)
def test_what_a_step_returned_comes_back_as_it_was(value: Any) -> None:
    raw = json.loads(json.dumps({"op": "StepRun", "id": "a", "data": value}))
    memo = protocol.parse_opcode(raw).memo()
    body = json.loads(protocol.call_request(state(a=memo), JOB, "Q"))
    assert body["steps"]["a"] == {"data": value}
    memo.encode("ascii")


def test_an_opcode_is_read_with_all_it_carries() -> None:
    op = protocol.parse_opcode(
        {
            "op": "StepRun",
            "id": "h",
            "name": "n",
            "displayName": "shown",
            "data": None,
            "opts": {"parallelMode": "race"},
            "userland": {"id": "n", "index": 0},
            "metadata": [{"kind": "k"}],
            "timing": {"a": 10, "b": 5},
        }
    )
    record = op.record(StepStatus.COMPLETED, "Q", memo_json=op.memo())
    assert (record.name, record.memo_json, op.race) == ("shown", '{"data":null}', True)
    assert (record.started_ns, record.ended_ns, record.request_id) == (10, 15, "Q")
    assert (record.userland_json, record.metadata_json) == ('{"id":"n","index":0}', '[{"kind":"k"}]')


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"nope", "error reading"),
        (b'"text"', "expected JSON object or array"),
        (b"[1]", "must be an object"),
        (b'[{"op":"StepRun"}]', "must have op and id"),
        (b'[{"op":"StepError","id":"a"}]', "without an error"),
    ],
)
def test_answers_that_make_no_sense(body: bytes, message: str) -> None:
    with pytest.raises(protocol.OpcodeError, match=message):
        protocol.parse_opcodes(body)


@pytest.mark.parametrize(("character", "size"), [("x", 1), ("é", 6), ("<", 6)])
def test_outputs_are_measured_as_the_real_server_writes_them(character: str, size: int) -> None:
    fits = (protocol.MAX_STEP_OUTPUT - 100) // size
    protocol.parse_opcode({"op": "StepRun", "id": "a", "data": character * fits})
    with pytest.raises(protocol.TooLargeError):
        protocol.parse_opcode({"op": "StepRun", "id": "a", "data": character * (fits + 100)})


def test_signatures_hold_for_the_body_and_the_key_alone() -> None:
    key, other = "signkey-prod-0a0b", "signkey-test-0c0d"
    signature = protocol.sign(b"body", key)
    assert protocol.verify(b"body", signature, [other, key])
    assert not protocol.verify(b"body", signature, [other])
    assert not protocol.verify(b"another", signature, [key])
    assert not protocol.verify(b"body", "nonsense", [key])


def test_a_canonical_body_is_that_of_the_sdk() -> None:
    body = b'{"b": 1.0, "a": "\\u00fc"}'
    assert protocol.canonical(body) == jcs.canonicalize(json.loads(body))


def test_ids_sort_by_time_and_can_be_repeated() -> None:
    ids = [protocol.new_ulid(n * 1_000_000) for n in range(1, 100)]
    assert ids == sorted(ids)
    assert {len(i) for i in ids} == {26}
    assert protocol.new_ulid(5, b"0123456789") == protocol.new_ulid(5, b"0123456789")


@pytest.mark.parametrize("ref", [None, "", "!!", "bm9wZQ==", 5])
def test_queue_references_of_others_are_not_ours(ref: object) -> None:
    assert protocol.parse_queue_ref(ref) is None


@pytest.mark.parametrize(
    ("body", "name", "message"),
    [
        (b'{"name":"ValueError","message":"no","stack":"s"}', "ValueError", "no"),
        (b'{"error":{"name":"E","message":"inner"}}', "E", "inner"),
        (b"plain text", "Error", "plain text"),
        (b"", "Error", "what happened"),
    ],
)
def test_errors_are_read_from_what_the_app_answers(body: bytes, name: str, message: str) -> None:
    error = protocol.standard_error(body, "what happened")
    assert (error["name"], error["message"]) == (name, message)


def test_the_default_backoff_is_that_of_the_real_server() -> None:
    assert 15 <= protocol.default_backoff(0) <= 45
    assert 7200 <= protocol.default_backoff(50) <= 7230
