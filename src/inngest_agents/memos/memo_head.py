"""The head of a memo: which step stored it, what it was asked for, and when it ran; one line of text.

Every memo of a run is kept by the engine and sent with each request, so what is the same for all steps is short. From
version 3 of the stored form on the head is the text `step`: the version, a digest of what was asked for, the start and
the duration, and the id, which may have blanks in it and so comes last. The times are in base 36:

    v4 CLClIiQ 6d4qr1mpn 2p shop/2.1 lookup_order

Versions 1 and 2 had the fields `v`, `asked` and `record` for it. Version 3 had the same head, and longer forms of a
model's output (see `item_form`, `usage_form`) and of what it cost (see `stats.memo`).
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

SCHEMA_VERSION: Final = 4
"""The version of what is stored in a step. A newer one is refused; all earlier ones are read."""

_NOTHING: Final = "-"
_STARTS_PER_SECOND: Final = 10_000
_DURATIONS_PER_SECOND: Final = 1_000_000
_DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"
_DIGEST_BYTES: Final = 5
"""Two inputs of one step that differ are taken for the same once in 10**12 times."""

_EARLIER: Final = frozenset({1, 2})
"""The versions that had no such line."""
_PREFIX: Final = f"v{SCHEMA_VERSION} "
_PREFIXES: Final = (_PREFIX, "v3 ")


class Head(NamedTuple):
    """What the head of a memo tells."""

    step_id: str
    asked: str = ""
    """The digest of what was asked for; "" if nothing."""
    started_at: float = 0.0
    """Seconds since the epoch, to a tenth of a millisecond."""
    duration: float = 0.0
    """Seconds, to a microsecond."""


def write(head: Head) -> str | None:
    """The text of a head; None if its times are none that it can carry exactly."""
    started, duration = round(head.started_at * _STARTS_PER_SECOND), round(head.duration * _DURATIONS_PER_SECOND)
    if started / _STARTS_PER_SECOND != head.started_at or duration / _DURATIONS_PER_SECOND != head.duration:
        return None
    if started < 0 or duration < 0:
        return None
    asked = head.asked or _NOTHING
    return f"{_PREFIX}{asked} {base36(started)} {base36(duration)} {head.step_id}"


def read(memo: Mapping[str, Any]) -> Head | None:
    """The head of a memo of this version or an earlier one; None if it is no memo of a durable step."""
    text, record = memo.get("step"), memo.get("record")
    try:
        if isinstance(text, str) and "output" in memo:
            return _parse(text, record)
        if isinstance(record, dict) and memo.get("v") in _EARLIER:
            return _of_earlier(memo, record)
    except (KeyError, TypeError, ValueError):
        pass  # what a step of the user's own has stored may look like anything
    return None


def _parse(text: str, record: Any) -> Head | None:
    if not text.startswith(_PREFIXES):
        return None
    _, asked, started, duration, step_id = text.split(" ", 4)
    times = int(started, 36) / _STARTS_PER_SECOND, int(duration, 36) / _DURATIONS_PER_SECOND
    if isinstance(record, dict) and "at" in record:
        times = record["at"]
    return Head(step_id, "" if asked == _NOTHING else asked, *times)


def _of_earlier(memo: Mapping[str, Any], record: dict[str, Any]) -> Head:
    # Version 1 kept the whole record.
    times = record["at"] if "at" in record else (record.get("started_at", 0.0), record.get("duration", 0.0))
    digest = memo.get("asked")
    asked = shorten(bytes.fromhex(digest[: 2 * _DIGEST_BYTES])) if digest else ""
    return Head(record["step_id"], asked, *times)


def version_of(memo: Any) -> int | None:
    """The version of the stored form that a memo is written in; None if it is no memo of a durable step."""
    if not isinstance(memo, dict):
        return None
    text = memo.get("step")
    if isinstance(text, str) and text.startswith(_PREFIX):
        return SCHEMA_VERSION
    found = re.match(r"v(\d+) ", text) if isinstance(text, str) else None
    version = int(found[1]) if found is not None else memo.get("v")
    return version if isinstance(version, int) and version > 0 else None


def shorten(digest: bytes) -> str:
    """As much of a digest as is stored: five bytes, in seven characters of base 64."""
    return binascii.b2a_base64(digest[:_DIGEST_BYTES], newline=False).rstrip(b"=").decode()


def base36(number: int) -> str:
    """A whole number that is not negative, as `int(…, 36)` reads it."""
    text = ""
    while number >= 36:
        number, digit = divmod(number, 36)
        text = _DIGITS[digit] + text
    return _DIGITS[number] + text
