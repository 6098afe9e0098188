"""The result of a durable run."""

from __future__ import annotations

import dataclasses
from typing import Any

from agents import RunResult

from inngest_agents.codec import encode_item
from inngest_agents.stats.stats import RunStats

__all__ = ["DurableRunResult"]


@dataclasses.dataclass
class DurableRunResult(RunResult):
    """What `Runner.run` gives, plus what the run used."""

    stats: RunStats = dataclasses.field(default_factory=RunStats, kw_only=True)
    """Tokens, dollars, durations and calls of the run: an aggregation over the records of its steps."""

    def to_dict(self) -> dict[str, Any]:
        """`final_output` and `stats` as JSON; return it from the Inngest function to see both in the dashboard."""
        return {"final_output": json_output(self.final_output), "stats": self.stats.to_dict()}

    @classmethod
    def of(cls, result: RunResult, stats: RunStats) -> DurableRunResult:
        """A plain result with its statistics."""
        durable = object.__new__(cls)
        durable.__dict__.update(result.__dict__)
        durable.stats = stats
        return durable


def json_output(value: Any) -> Any:
    """A run's final output as plain JSON, for every type that `output_type` may be."""
    import pydantic

    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    adapter = pydantic.TypeAdapter(Any)
    return adapter.dump_python(encode_item(value), mode="json", by_alias=True, fallback=str, warnings=False)
