"""Times as the protocol writes them: durations (`1h30m`), dates, `Retry-After`; and the engine's own clock."""

from __future__ import annotations

import email.utils
import re
import time
from datetime import UTC, datetime
from typing import Final

from .models import SECOND

_UNITS: Final = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": SECOND,
    "m": 60 * SECOND,
    "h": 3600 * SECOND,
    "d": 24 * 3600 * SECOND,
    "w": 7 * 24 * 3600 * SECOND,
}
_PART: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h|d|w)")

YEAR_NS: Final = 366 * 24 * 3600 * SECOND
"""The longest sleep or wait, and the default timeout of an invocation."""

_MIN_RETRY_NS: Final = SECOND
_MAX_RETRY_NS: Final = 24 * 3600 * SECOND


class Clock:
    """The time that timers go by. Leases and measured times go by the real clock.

    Args:
        scale: how many seconds of timers pass in a real second, e.g. 60 to sleep an hour in a minute.
    """

    def __init__(self, scale: float = 1.0) -> None:
        if scale <= 0:
            raise ValueError("time_scale must be above 0")
        self.scale = scale
        self._start = time.time_ns()
        self._skipped = 0

    def now(self) -> int:
        """Now, in nanoseconds since the epoch."""
        return int(self._start + (time.time_ns() - self._start) * self.scale) + self._skipped

    def skip(self, ns: int) -> None:
        """Move the clock forward by so many nanoseconds."""
        self._skipped += max(0, ns)


def parse_duration(text: str) -> int:
    """A duration such as `300ms`, `2h45m` or `1w`, in nanoseconds.

    Raises:
        ValueError: it is none.
    """
    total, end = 0.0, 0
    for part in _PART.finditer(text):
        if part.start() != end:
            break
        total += float(part[1]) * _UNITS[part[2]]
        end = part.end()
    if not text or end != len(text):
        raise ValueError(f"invalid duration {text!r}")
    return int(total)


def parse_date(text: str) -> int:
    """An ISO 8601 or HTTP date, in nanoseconds since the epoch.

    Raises:
        ValueError: it is neither.
    """
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        try:
            date = email.utils.parsedate_to_datetime(text)
        except (TypeError, ValueError):
            raise ValueError(f"invalid date {text!r}") from None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return int(date.timestamp() * 1_000_000) * 1_000


def parse_until(text: str, now: int) -> int:
    """A duration from now or a date, in nanoseconds since the epoch.

    Raises:
        ValueError: it is neither.
    """
    try:
        return now + parse_duration(text)
    except ValueError:
        return parse_date(text)


def parse_retry_after(text: str | None, now: int) -> int | None:
    """When to retry by a `Retry-After` header (seconds or a date), kept between 1 s and 24 h from now as the
    real server does; None if there is no header or it says nothing.
    """
    if not text:
        return None
    if len(text) <= 7 and text.isdigit() and int(text) > 0:
        at = now + int(text) * SECOND
    else:
        try:
            at = parse_date(text)
        except ValueError:
            return None
    return min(max(at, now + _MIN_RETRY_NS), now + _MAX_RETRY_NS)
