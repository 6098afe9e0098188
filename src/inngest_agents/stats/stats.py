"""`RunStats`: what a run did, used and cost, as a pure aggregation over the records of its steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from inngest_agents.stats._compact import JsonDict, compact, known
from inngest_agents.stats.breakdown import Breakdown
from inngest_agents.stats.records import AgentToolCall, ItemCounts, StepRecord, UsageRecord, check_version

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from decimal import Decimal

STATS_SCHEMA_VERSION: Final = 1
"""Raised only where an older reader would misread the numbers; see `inngest_agents.stats.records`."""

_TIMING: Final = ("started_at", "duration", "waited", "attempts")
"""What differs between two equal runs: clocks, and the attempts, which count a crash of the worker too."""
_TOTALS: Final = ("input_tokens", "output_tokens", "total_tokens", "cached_tokens", "cache_write_tokens")
_LISTS: Final = ("agents_involved", "models", "price_tables")
_BREAKDOWNS: Final = ("by_model", "by_agent", "by_tool", "by_path")


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What the records alone do not tell. All of it is optional: what is None is taken from the records."""

    starting_agent: str | None = None
    final_agent: str | None = None
    handoffs: int | None = None
    counts: ItemCounts | None = None
    """The items of the finished run (`RunResult.new_items`)."""


@dataclass(frozen=True, slots=True)
class Unpriced:
    """Usages of one model whose price is unknown or incomplete, for one reason."""

    model: str
    reason: str
    usages: int = 1

    def to_dict(self) -> JsonDict:
        """JSON."""
        return compact(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Unpriced:
        """Read what `to_dict` wrote."""
        return cls(**known(cls, data))


@dataclass(slots=True)
class RunStats:
    """What a run did, used and cost. Made by `from_records`; the same after any replay of the run."""

    runs: int = 1
    """1, or how many runs were merged."""
    total_model_calls: int = 0
    total_tool_calls: int = 0
    total_messages: int = 0
    total_reasoning_steps: int = 0
    total_items: int = 0
    total_handoffs: int = 0
    agents_involved: list[str] = field(default_factory=list)
    """In order of appearance, nested ones too."""
    starting_agent: str | None = None
    final_agent: str | None = None
    models: list[str] = field(default_factory=list)
    """The models that answered, in order of appearance."""
    price_tables: list[str] = field(default_factory=list)
    """Source and version of the price tables that were used."""
    unpriced: list[Unpriced] = field(default_factory=list)
    """Why `total_cost_usd` does not cover everything."""
    wall_seconds: float = 0.0
    """From the start of the first step's last attempt to the end of the last step."""
    model_seconds: float = 0.0
    tool_seconds: float = 0.0
    total: Breakdown = field(default_factory=Breakdown)
    """All steps together."""
    by_model: dict[str, Breakdown] = field(default_factory=dict)
    by_agent: dict[str, Breakdown] = field(default_factory=dict)
    by_tool: dict[str, Breakdown] = field(default_factory=dict)
    """What happened inside of a nested agent counts for the tool that it was called as, or for its own tools."""
    by_path: dict[str, Breakdown] = field(default_factory=dict)
    """By nesting: "triage", "triage/1.1 research", …; what is nested deeper has a path of its own."""
    timeline: list[StepRecord] = field(default_factory=list)

    @property
    def num_agents(self) -> int:
        """How many agents took part."""
        return len(self.agents_involved)

    @property
    def input_tokens(self) -> int:
        """All input tokens, cached ones included."""
        return self.total.input_tokens

    @property
    def output_tokens(self) -> int:
        """All output tokens, reasoning included."""
        return self.total.output_tokens

    @property
    def total_tokens(self) -> int:
        """Input and output tokens."""
        return self.total.total_tokens

    @property
    def cached_tokens(self) -> int:
        """Input tokens read from the provider's cache."""
        return self.total.cached_tokens

    @property
    def cache_write_tokens(self) -> int:
        """Input tokens written to the provider's cache."""
        return self.total.cache_write_tokens

    @property
    def reasoning_tokens(self) -> int:
        """Output tokens spent on reasoning."""
        return self.total.reasoning_tokens

    @property
    def total_cost_usd(self) -> float | None:
        """US dollars; None if no price is known. Not the whole cost unless `cost_complete`."""
        return self.total.cost_usd

    @property
    def total_cost(self) -> Decimal | None:
        """`total_cost_usd`, exactly."""
        return None if self.total.cost_usd is None else self.total.cost

    @property
    def cost_complete(self) -> bool:
        """Whether `total_cost_usd` covers everything that was used; if not, see `unpriced`."""
        return self.total.cost_complete

    @property
    def estimated(self) -> bool:
        """Whether any tokens were counted here because the provider gave none."""
        return self.total.estimated > 0

    @classmethod
    def from_records(cls, records: Iterable[StepRecord], facts: RunFacts | None = None) -> RunStats:
        """Sum up the records of a run.

        Args:
            records: in any order; they are sorted by `order`, so that parallel steps that ended in another
                order give the same result.
            facts: what the records do not tell.
        """
        facts = facts or RunFacts()
        stats = cls(timeline=sorted(records, key=lambda record: (record.order, record.step_id)))
        stats.starting_agent, stats.final_agent = facts.starting_agent, facts.final_agent
        if facts.starting_agent:
            _note(stats.agents_involved, facts.starting_agent)
        for record in stats.timeline:
            stats._add(record)
        if facts.final_agent:
            _note(stats.agents_involved, facts.final_agent)
        if facts.counts is not None:
            stats._set_counts(facts.counts)
        if facts.handoffs is not None:
            stats.total_handoffs = facts.handoffs
        for call in dict.fromkeys(call for record in stats.timeline for call in record.agent_tool_calls):
            stats._add_agent_tool(call)
        stats.total_model_calls, stats.total_tool_calls = stats.total.model_calls, stats.total.tool_calls
        # A record without a start (the engine did not say) must not stretch the run back to 1970.
        timed = [record for record in stats.timeline if record.started_at]
        if timed:
            first = min(record.started_at for record in timed)
            stats.wall_seconds = max(record.ended_at for record in timed) - first
        for name in _BREAKDOWNS:
            setattr(stats, name, dict(sorted(getattr(stats, name).items())))
        stats.price_tables.sort()
        stats.unpriced.sort(key=lambda item: (item.model, item.reason))
        return stats

    def _add(self, record: StepRecord) -> None:
        if record.agent:
            _note(self.agents_involved, record.agent)
        self.total_handoffs += record.kind == "handoff"
        self.model_seconds += record.duration if record.kind == "model" else 0.0
        self.tool_seconds += record.duration if record.is_tool_call else 0.0
        answered = record.counts.items
        self.total_messages += record.counts.messages
        self.total_reasoning_steps += record.counts.reasoning
        # A tool's answer and the answer to a handoff are items of the run too.
        self.total_items += answered + (record.is_tool_call or record.kind == "handoff")
        sums = [self.total, *self._sums(record, record.agent)]
        if record.kind == "model":
            sums.append(self._sum_of_model(record.usage, record.name))
        for item in sums:
            item.add_step(record)
        for usage in record.usages:
            self._add_usage(record, usage)

    def _add_agent_tool(self, call: AgentToolCall) -> None:
        """Count the call of an agent as a tool, and its answer, which is an item of the run."""
        self.total_items += 1
        by_tool = self.by_tool.setdefault(call.tool, Breakdown())
        for item in (self.total, self.by_agent.setdefault(call.agent, Breakdown()), by_tool):
            item.tool_calls += 1

    def _add_usage(self, record: StepRecord, usage: UsageRecord) -> None:
        if usage.agent:
            _note(self.agents_involved, usage.agent)
        model = self._sum_of_model(usage, record.name if record.kind == "model" else "")
        for item in (self.total, model, *self._sums(record, usage.agent or record.agent)):
            item.add_usage(usage, record.calls_of(usage))
        price = usage.price
        if price is not None and price.version:
            _note(self.price_tables, f"{price.source} {price.version}")
        if price is None or price.reason:
            self._note_unpriced(usage, price.reason if price else "no price was looked up")

    def _sums(self, record: StepRecord, agent: str) -> list[Breakdown]:
        # Without a path, a step is one of the run itself, whose name its id begins with (but for steps à la carte).
        run = record.step_id.rpartition("/")[0] or self.starting_agent or record.agent
        path = "/".join(record.path) or run
        sums = [self.by_path.setdefault(path, Breakdown())]
        if agent:
            sums.append(self.by_agent.setdefault(agent, Breakdown()))
        if record.tool:
            sums.append(self.by_tool.setdefault(record.tool, Breakdown()))
        return sums

    def _sum_of_model(self, usage: UsageRecord | None, requested: str) -> Breakdown:
        name = (usage.billed_model if usage else "") or requested or "unknown"
        _note(self.models, name)
        return self.by_model.setdefault(name, Breakdown())

    def _note_unpriced(self, usage: UsageRecord, reason: str) -> None:
        model = usage.billed_model or "unknown"
        for place, item in enumerate(self.unpriced):
            if (item.model, item.reason) == (model, reason):
                self.unpriced[place] = Unpriced(model, reason, item.usages + 1)
                return
        self.unpriced.append(Unpriced(model, reason))

    def _set_counts(self, counts: ItemCounts) -> None:
        self.total_messages, self.total_items = counts.messages, counts.items
        self.total_reasoning_steps = counts.reasoning

    def merge(self, *others: RunStats) -> RunStats:
        """Sum several runs up: `a.merge(b, c)`. None of them is changed.

        `starting_agent` and `final_agent` stay where they are the same in all runs; the timelines follow
        each other; `wall_seconds` is the sum.
        """
        merged = RunStats(runs=0)
        group = (self, *others)
        for stats in group:
            merged._merge_one(stats)
        for name in ("starting_agent", "final_agent"):
            values = {getattr(stats, name) for stats in group}
            setattr(merged, name, values.pop() if len(values) == 1 else None)
        merged.price_tables.sort()
        merged.unpriced.sort(key=lambda item: (item.model, item.reason))
        return merged

    def _merge_one(self, other: RunStats) -> None:
        for name in _ADDED:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in _LISTS:
            for value in getattr(other, name):
                _note(getattr(self, name), value)
        self.total.add(other.total)
        for name in _BREAKDOWNS:
            mine: dict[str, Breakdown] = getattr(self, name)
            for key, value in getattr(other, name).items():
                mine.setdefault(key, Breakdown()).add(value)
        counts = {(item.model, item.reason): item.usages for item in self.unpriced}
        for item in other.unpriced:
            key = (item.model, item.reason)
            counts[key] = counts.get(key, 0) + item.usages
        self.unpriced = [Unpriced(*key, usages) for key, usages in counts.items()]
        self.timeline = [*self.timeline, *other.timeline]

    def table(self, *, width: int | None = None, color: bool = False) -> str:
        """A table for a terminal: by rich where it is installed, else in plain text.

        Args:
            width: columns; None for those of the terminal at hand, or for 160 where there is none.
            color: with ANSI colours.
        """
        from inngest_agents.stats.render import render

        return render(self, width=width, color=color)

    def to_html(self, *, title: str | None = None) -> str:
        """One self-contained HTML page: waterfall, and what each model, agent and tool used.

        The inputs and outputs of the steps are not part of the statistics; `inngest-agents show RUN --html FILE`
        makes the page with them.

        Args:
            title: the heading; the starting agent's name by default.
        """
        from inngest_agents.stats.html import page
        from inngest_agents.stats.report import RunReport

        report = RunReport.from_stats(self)
        report.title = title or report.title
        return page(report)

    def to_dict(self, *, durations: bool = True, timeline: bool = True) -> JsonDict:
        """JSON, with the version of the schema as `v`.

        Args:
            durations: with False, everything measured with a clock is left out, and the attempts and retries, which
                count a crash of the worker too. What remains is the same,
                byte for byte, for an unbroken run and for one that was cut off and replayed.
            timeline: with False, the steps are left out, which makes it small for long runs.
        """
        total = self.total.to_dict(durations=durations)
        out: JsonDict = {"v": STATS_SCHEMA_VERSION, "runs": self.runs}
        out |= {name: getattr(self, name) for name in _COUNTS}
        out |= {
            "agents_involved": list(self.agents_involved),
            "num_agents": self.num_agents,
            "starting_agent": self.starting_agent,
            "final_agent": self.final_agent,
            **{name: total[name] for name in (*_TOTALS, "reasoning_tokens")},
            "total_cost_usd": self.total_cost_usd,
            "total_cost_usd_exact": total["cost_usd_exact"] if self.total_cost_usd is not None else None,
            "cost_complete": self.cost_complete,
            "unpriced": [item.to_dict() for item in self.unpriced],
            "price_tables": list(self.price_tables),
            "estimated": self.estimated,
            "models": list(self.models),
        }
        if durations:
            out |= {name: round(getattr(self, name), 6) for name in _MEASURED}
        out["total"] = total
        for name in _BREAKDOWNS:
            sums: dict[str, Breakdown] = getattr(self, name)
            out[name] = {key: value.to_dict(durations=durations) for key, value in sums.items()}
        if timeline:
            out["timeline"] = [_step_dict(record, durations=durations) for record in self.timeline]
        return out

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RunStats:
        """Read what `to_dict` wrote.

        Raises:
            ValueError: it is of a newer schema than this version of the package knows.
        """
        check_version(data.get("v", STATS_SCHEMA_VERSION), STATS_SCHEMA_VERSION, "run statistics")
        values = known(cls, data)
        values["total"] = Breakdown.from_dict(data.get("total", {}))
        values["unpriced"] = [Unpriced.from_dict(item) for item in data.get("unpriced", ())]
        values["timeline"] = [StepRecord.from_dict(item) for item in data.get("timeline", ())]
        for name in _BREAKDOWNS:
            values[name] = {key: Breakdown.from_dict(item) for key, item in data.get(name, {}).items()}
        return cls(**values)


_COUNTS: Final = (
    "total_model_calls",
    "total_tool_calls",
    "total_messages",
    "total_reasoning_steps",
    "total_items",
    "total_handoffs",
)
_MEASURED: Final = ("wall_seconds", "model_seconds", "tool_seconds")
_ADDED: Final = ("runs", *_COUNTS, *_MEASURED)


def _step_dict(record: StepRecord, *, durations: bool) -> JsonDict:
    out = record.to_dict()
    if not durations:
        for name in _TIMING:
            out.pop(name, None)
    return out


def _note(names: list[str], name: str) -> None:
    if name not in names:
        names.append(name)
