"""Durations, dates, `Retry-After` and the clock."""

from __future__ import annotations

import pytest

from inngest_agents.local.models import SECOND
from inngest_agents.local.times import Clock, parse_date, parse_duration, parse_retry_after, parse_until

NOW = 1_700_000_000 * SECOND


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("300ms", 300_000_000),
        ("1.5s", 1_500_000_000),
        ("2h45m", 9_900 * SECOND),
        ("1w1d", 8 * 86_400 * SECOND),
        ("7us", 7_000),
        ("7µs", 7_000),
        ("5ns", 5),
    ],
)
def test_durations(text: str, ns: int) -> None:
    assert parse_duration(text) == ns


@pytest.mark.parametrize("text", ["", "5", "5q", "s5", "1h nonsense", "-1s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="invalid duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    "text",
    ["2023-11-14T22:13:20Z", "2023-11-14T22:13:20.000Z", "2023-11-14T22:13:20", "Tue, 14 Nov 2023 22:13:20 GMT"],
)
def test_dates(text: str) -> None:
    assert parse_date(text) == NOW


def test_what_is_no_date() -> None:
    with pytest.raises(ValueError, match="invalid date"):
        parse_until("tomorrow", NOW)


def test_until_takes_durations_and_dates() -> None:
    assert parse_until("1m", NOW) == NOW + 60 * SECOND
    assert parse_until("2023-11-14T22:13:21Z", 0) == NOW + SECOND


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 30),
        ("2023-11-14T22:13:50Z", 30),
        ("Tue, 14 Nov 2023 22:13:50 GMT", 30),
        ("2020-01-01T00:00:00Z", 1),  # never sooner than a second
        ("9999999", 86_400),  # nor later than a day
    ],
)
def test_retry_after(text: str, seconds: int) -> None:
    assert parse_retry_after(text, NOW) == NOW + seconds * SECOND


@pytest.mark.parametrize("text", [None, "", "soon", "0"])
def test_a_retry_after_that_says_nothing(text: str | None) -> None:
    assert parse_retry_after(text, NOW) is None


def test_the_clock_skips_and_scales() -> None:
    clock = Clock()
    before = clock.now()
    clock.skip(3600 * SECOND)
    clock.skip(-5)
    assert 3600 * SECOND <= clock.now() - before < 3610 * SECOND
    fast = Clock(1e6)
    first = fast.now()
    assert fast.now() > first
    with pytest.raises(ValueError, match="time_scale"):
        Clock(0)
