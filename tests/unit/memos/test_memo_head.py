"""The head of a memo tells of its step in one line, and so do the fields that earlier versions had for it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inngest_agents.memos.memo_head import SCHEMA_VERSION, Head, base36, read, shorten, version_of, write

TEXT = st.text(st.characters(codec="utf-8"), max_size=40)
DIGEST = st.binary(min_size=5, max_size=8).map(shorten)
STARTED = st.floats(0, 4e9).map(lambda seconds: round(seconds, 4))
TOOK = st.floats(0, 1e6).map(lambda seconds: round(seconds, 6))


@given(st.builds(Head, TEXT, st.one_of(st.just(""), DIGEST), STARTED, TOOK))
def test_a_head_comes_back_from_its_text(head: Head) -> None:
    text = write(head)
    assert text is not None
    assert read({"output": 1, "step": text}) == head
    assert version_of({"output": 1, "step": text}) == SCHEMA_VERSION


@given(st.integers(0, 2**60))
def test_a_number_comes_back_from_base_36(number: int) -> None:
    assert int(base36(number), 36) == number


@pytest.mark.parametrize("head", [Head("a", "", 1.00001, 0.0), Head("a", "", 0.0, 1e-9), Head("a", "", -1.0, 0.0)])
def test_times_that_would_be_rounded_are_not_written(head: Head) -> None:
    assert write(head) is None


@pytest.mark.parametrize(
    ("memo", "asked"),
    [
        ({"v": 1, "asked": "08b0a52224ffffff", "record": {"v": 1, "kind": "tool", "step_id": "a/1.1 b"}}, "CLClIiQ"),
        ({"v": 2, "asked": "08b0a52224", "record": {"kind": "tool", "step_id": "a/1.1 b", "at": [0, 0]}}, "CLClIiQ"),
        ({"v": 2, "record": {"kind": "tool", "step_id": "a/1.1 b", "at": [0, 0]}}, ""),
        ({"output": 1, "step": "v3 CLClIiQ 0 0 a/1.1 b"}, "CLClIiQ"),
    ],
)
def test_the_heads_of_earlier_versions_are_read(memo: dict[str, Any], asked: str) -> None:
    assert read(memo) == Head("a/1.1 b", asked)
    assert version_of(memo) == memo.get("v", 3)
    assert not asked or asked == shorten(bytes.fromhex("08b0a52224"))


@pytest.mark.parametrize(
    ("memo", "version"),
    [
        ({"output": 1, "step": "v5 and all else differs"}, 5),
        ({"v": 12}, 12),
        ({"v": "2"}, None),
        ({"v": 0}, None),
        ({"step": "very nice"}, None),
        ({"step": ["v3"]}, None),
        ("v3 a text", None),
        (None, None),
    ],
)
def test_the_version_is_told_of_what_a_newer_one_wrote_too(memo: Any, version: int | None) -> None:
    assert version_of(memo) == version
