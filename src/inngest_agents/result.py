"""The result of a durable run."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

from agents import RunResult

from inngest_agents.errors import message_of
from inngest_agents.memos.response_codec import without_surrogates
from inngest_agents.stats.stats import RunStats

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DurableRunResult"]

_LATER = "_make_stats"
"""Where a result keeps what makes its statistics, until they are asked for."""


@dataclasses.dataclass
class DurableRunResult(RunResult):
    """What `Runner.run` gives, plus what the run used."""

    stats: RunStats = dataclasses.field(default_factory=RunStats, kw_only=True)
    """Tokens, dollars, durations and calls of the run: an aggregation over the records of its steps."""

    def to_dict(self) -> dict[str, Any]:
        """`final_output` and `stats` as JSON; return it from the Inngest function to see both in the dashboard."""
        return {"final_output": json_output(self.final_output), "stats": self.stats.to_dict()}

    if not TYPE_CHECKING:  # for a type checker, a class with `__getattr__` has every attribute

        def __getattr__(self, name: str) -> Any:
            """The statistics, summed up when they are first read: most replays go on to other steps without."""
            make_stats = self.__dict__.get(_LATER) if name == "stats" else None
            if make_stats is None:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
            # Two threads may do it at once: the first that has them sets them for both.
            stats = self.__dict__.setdefault("stats", make_stats())
            self.__dict__.pop(_LATER, None)
            return stats

    def __getstate__(self) -> dict[str, Any]:
        """For `copy` and `pickle`, which could not take along what makes the statistics."""
        return {"stats": self.stats, **{name: value for name, value in self.__dict__.items() if name != _LATER}}

    @classmethod
    def of(cls, result: RunResult, make_stats: Callable[[], RunStats]) -> DurableRunResult:
        """A plain result with its statistics, which `make_stats` gives."""
        durable = object.__new__(cls)
        durable.__dict__.update(result.__dict__)
        durable.__dict__[_LATER] = make_stats
        return durable


def json_output(value: Any) -> Any:
    """A run's final output as plain JSON, for every type that `output_type` may be.

    JSON has no NaN and no infinity (they become None), and no lone surrogates. What cannot be told otherwise becomes
    its text.
    """
    if value is None or type(value) in (bool, int) or (type(value) is str and value.isascii()):
        return value
    import pydantic

    config = pydantic.ConfigDict(ser_json_inf_nan="null")
    adapter = pydantic.TypeAdapter(Any, config=config)
    try:
        plain = adapter.dump_python(value, mode="json", by_alias=True, fallback=message_of, warnings=False)
    except Exception:  # noqa: BLE001  it contains itself, or bytes that are no text, or its own serializer raises
        return _as_plain(message_of(value))
    return _as_plain(plain)


def _as_plain(value: Any) -> Any:
    """JSON of pydantic's as every reader takes it."""
    if type(value) is dict:
        return {_as_plain(key): _as_plain(item) for key, item in value.items()}
    if type(value) is list:
        return [_as_plain(item) for item in value]
    if isinstance(value, str):
        return without_surrogates(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
