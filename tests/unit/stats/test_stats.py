"""`RunStats`: sums over records that depend on nothing but the records."""

from __future__ import annotations

import builtins
import json
import random
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
import run_samples as samples
from hypothesis import given
from hypothesis import strategies as st
from test_usage_records import records as any_record

from inngest_agents.stats import ItemCounts, Price, RunFacts, RunStats, StepRecord, Tokens, UsageRecord
from inngest_agents.stats.breakdown import decimal_text
from inngest_agents.stats.metadata import step_metadata
from inngest_agents.stats.render import money, seconds, text_stats

FACTS = RunFacts(starting_agent="Triage", final_agent="Sales")
ISSUE_FIELDS = [
    "total_model_calls",
    "total_tool_calls",
    "total_messages",
    "total_reasoning_steps",
    "total_items",
    "total_handoffs",
    "agents_involved",
    "num_agents",
    "starting_agent",
    "final_agent",
    "input_tokens",
    "output_tokens",
    "total_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "total_cost_usd",
    "models",
    "by_model",
    "by_agent",
    "by_tool",
    "by_path",
    "timeline",
    "v",
]


def test_a_run_is_summed_up() -> None:
    stats = RunStats.from_records(samples.records(), FACTS)
    data = stats.to_dict()
    assert set(ISSUE_FIELDS) <= data.keys()
    assert {name: data[name] for name in ISSUE_FIELDS[:18]} == {
        "total_model_calls": 6,
        "total_tool_calls": 5,
        "total_messages": 2,
        "total_reasoning_steps": 2,
        "total_items": 14,
        "total_handoffs": 1,
        "agents_involved": ["Triage", "Sales", "Research"],
        "num_agents": 3,
        "starting_agent": "Triage",
        "final_agent": "Sales",
        "input_tokens": 11910,
        "output_tokens": 1088,
        "total_tokens": 12998,
        "cached_tokens": 3968,
        "reasoning_tokens": 271,
        "total_cost_usd": 0.0237135,
        "models": ["gpt-5-mini-2025-08-07", "gpt-4o-2024-08-06", "qwen3-32b"],
        "by_model": data["by_model"],
    }
    assert data["total_cost_usd_exact"] == "0.0237135"
    assert data["unpriced"] == [
        {"model": "qwen3-32b", "reason": "LiteLLM's table has no price for qwen3-32b", "usages": 2}
    ]
    assert not stats.cost_complete
    assert stats.by_tool["send_invoice"].failures == 1
    assert stats.by_tool["check_stock"].retries == 2
    assert list(stats.by_path) == ["Triage", "Triage/research#1"]
    assert stats.by_path["Triage/research#1"].tool_calls == 2
    assert stats.wall_seconds == pytest.approx(12.4)


def test_the_facts_of_the_finished_run_win_over_the_records() -> None:
    counts = ItemCounts(messages=9, reasoning=8, items=7)
    stats = RunStats.from_records(samples.records(), RunFacts(handoffs=6, counts=counts))
    found = (stats.total_messages, stats.total_reasoning_steps, stats.total_items, stats.total_handoffs)
    assert found == (9, 8, 7, 6)


@given(st.lists(any_record, max_size=6, unique_by=lambda record: record.step_id))
def test_statistics_survive_json(records: list[StepRecord]) -> None:
    data = json.dumps(RunStats.from_records(records, FACTS).to_dict())
    assert json.dumps(RunStats.from_dict(json.loads(data)).to_dict()) == data


@given(st.randoms())
def test_the_order_in_which_steps_ended_and_the_time_they_took_change_nothing(rng: random.Random) -> None:
    again = [
        replace(record, started_at=rng.random(), duration=rng.random(), waited=rng.random())
        for record in samples.records()
    ]
    rng.shuffle(again)
    unbroken = RunStats.from_records(samples.records(), FACTS)
    replayed = RunStats.from_records(again, FACTS)
    assert json.dumps(replayed.to_dict(durations=False)) == json.dumps(unbroken.to_dict(durations=False))


def test_without_durations_no_clock_is_left() -> None:
    text = json.dumps(RunStats.from_records(samples.records()).to_dict(durations=False))
    for word in ("seconds", "duration", "started_at", "waited"):
        assert word not in text


def test_the_timeline_can_be_left_out() -> None:
    stats = RunStats.from_records(samples.records())
    small = stats.to_dict(timeline=False)
    assert "timeline" not in small
    assert RunStats.from_dict(small).to_dict(timeline=False) == small


def test_statistics_of_a_newer_schema_are_refused() -> None:
    with pytest.raises(ValueError, match="run statistics of schema version 2"):
        RunStats.from_dict({"v": 2})


def test_calls_without_a_step_of_their_own_are_counted_once_each() -> None:
    def used(origin: Any, **values: Any) -> UsageRecord:
        return UsageRecord(Tokens(input_tokens=10), 10, requests=2, model="m", origin=origin, **values)

    tool = StepRecord(kind="tool", step_id="t", name="ask", agent="A", nested=(used("nested", agent="B"),))
    call = StepRecord(kind="model", step_id="m", agent="A", usage=used("step"))
    retried = replace(call, step_id="r", nested=(used("failed_attempt"),))
    guard = StepRecord(kind="guardrail", step_id="g", agent="A", usage=used("step"))
    stats = RunStats.from_records([tool, call, retried, guard])
    assert stats.total_model_calls == 2 + 1 + 1 + 2
    assert stats.total_tokens == 50
    assert stats.by_agent["B"].total_tokens == 10
    assert stats.by_tool["ask"].total_tokens == 10
    assert stats.agents_involved == ["A", "B"]


def nested(label: str, step: str, *above: str, kind: Any = "model") -> StepRecord:
    path = (*above, "A", label)
    usage = UsageRecord(Tokens(input_tokens=10), 10, requests=1, model="m") if kind == "model" else None
    return StepRecord(kind=kind, step_id=f"{'/'.join(path)}/{step}", name=step, agent="B", path=path, usage=usage)


def test_an_agent_as_a_tool_is_one_tool_call_to_which_its_model_calls_belong() -> None:
    research = [nested("1.1 research", "1"), nested("1.1 research", "search", kind="tool"), nested("1.1 research", "2")]
    again = [nested("2.1 research", "1"), nested("2.1 research:1", "1"), nested("translate call_7Qa", "1")]
    deeper = [nested("1.1 read", "1", "Z", "1.1 research")]
    stats = RunStats.from_records([*research, *again, *deeper])
    calls = {name: (item.tool_calls, item.model_calls, item.total_tokens) for name, item in stats.by_tool.items()}
    # "1.1 research" of Z is another call than that of A.
    assert calls == {"research": (3, 4, 40), "search": (1, 0, 0), "translate": (1, 1, 10), "read": (1, 1, 10)}
    assert stats.total_tool_calls == 6
    assert stats.by_agent["A"].tool_calls == 4
    assert stats.by_agent["Z"].tool_calls == 1
    assert stats.total_tokens == sum(item.total_tokens for item in stats.by_tool.values())


def test_a_run_that_user_code_starts_beside_the_tools_is_no_tool_call() -> None:
    stats = RunStats.from_records([nested("A nested run", "1"), nested("A nested run:1", "1")])
    assert (stats.total_tool_calls, stats.total_model_calls) == (0, 2)
    assert stats.by_tool == {}


def test_what_a_failed_attempt_was_billed_counts_for_its_tool_and_is_no_call_of_it() -> None:
    billed = UsageRecord(Tokens(input_tokens=10), 10, requests=2, model="m", origin="nested", agent="B")
    attempt = StepRecord(kind="attempt", step_id="A/1.1 ask failed attempt 1", name="ask", agent="A", nested=(billed,))
    stats = RunStats.from_records([attempt, StepRecord(kind="tool", step_id="A/1.1 ask", name="ask", agent="A")])
    ask = stats.by_tool["ask"]
    assert (ask.tool_calls, ask.model_calls, ask.total_tokens, ask.failures) == (1, 2, 10, 0)
    assert list(stats.by_path) == ["A"]


def test_a_run_that_used_nothing_cost_nothing_and_an_unknown_price_is_no_zero() -> None:
    assert RunStats.from_records([]).total_cost_usd == 0.0
    unknown = StepRecord(kind="model", step_id="m", usage=samples.usage("m", 1, 1, None))
    stats = RunStats.from_records([unknown])
    assert stats.total_cost_usd is None
    assert stats.total_cost is None
    assert stats.to_dict()["total_cost_usd_exact"] is None


@given(st.lists(st.decimals(0, 10, places=12), max_size=30), st.randoms())
def test_dollars_add_up_exactly_in_any_order(prices: list[Decimal], rng: random.Random) -> None:
    steps = [
        StepRecord(kind="model", step_id=str(place), usage=UsageRecord(requests=1, price=Price(decimal_text(usd))))
        for place, usd in enumerate(prices)
    ]
    rng.shuffle(steps)
    assert RunStats.from_records(steps).total.cost == sum(prices)


def test_merged_runs_add_up() -> None:
    one = RunStats.from_records(samples.records(), FACTS)
    two = RunStats.from_records(samples.records()[:4], RunFacts(starting_agent="Triage", final_agent="Triage"))
    both = one.merge(two)
    assert both.runs == 2
    assert both.total_tokens == one.total_tokens + two.total_tokens
    assert both.total.cost == one.total.cost + two.total.cost
    assert both.by_agent["Triage"].input_tokens == 2 * one.by_agent["Triage"].input_tokens
    assert (both.starting_agent, both.final_agent) == ("Triage", None)
    assert both.agents_involved == ["Triage", "Sales", "Research"]
    assert one.to_dict() == RunStats.from_records(samples.records(), FACTS).to_dict()
    assert RunStats.from_dict(both.to_dict()).to_dict() == both.to_dict()


def test_the_table_names_everything() -> None:
    table = RunStats.from_records(samples.records(), FACTS).table(width=140)
    for shown in ("$0.0237+", "gpt-4o-2024-08-06", "send_invoice", "Triage/research#1", "qwen3-32b: LiteLLM"):
        assert shown in table


def test_where_there_is_no_terminal_no_figure_is_cut_in_two() -> None:
    assert "$0.000638   2.6 s" in RunStats.from_records(samples.records(), FACTS).table()


def test_without_rich_the_table_is_plain_text(monkeypatch: pytest.MonkeyPatch) -> None:
    stats = RunStats.from_records(samples.records(), FACTS)
    real = builtins.__import__

    def no_rich(name: str, *args: Any) -> Any:
        if name.startswith("rich"):
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", no_rich)
    assert stats.table() == text_stats(stats)
    assert "send_invoice" in stats.table()


def test_names_cannot_command_the_terminal_nor_the_markup() -> None:
    record = StepRecord(kind="tool", step_id="t", name="\x1b[31m[bold]evil[/bold]\x07")
    stats = RunStats.from_records([record])
    for table in (stats.table(width=120), text_stats(stats)):
        assert "\x1b" not in table
        assert "\x07" not in table
        assert "[bold]evil[/bold]" in table


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0004, "0 ms"),
        (0.84, "840 ms"),
        (2.44, "2.4 s"),
        (59.96, "1 min 00 s"),
        (185, "3 min 05 s"),
        (7620, "2 h 07 min"),
    ],
)
def test_durations_are_readable(value: float, shown: str) -> None:
    assert seconds(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "?"), (0.0, "$0.0000"), (0.000077, "$0.000077"), (0.0237, "$0.0237"), (1234.5, "$1,234.50")],
)
def test_dollars_are_readable(value: float | None, shown: str) -> None:
    assert money(value) == shown


def test_a_model_step_shows_natively_in_the_dashboard() -> None:
    record = samples.records()[4]
    (entry,) = step_metadata(replace(record, finish_reasons=("stop",)))
    assert entry == {
        "scope": "step",
        "kind": "inngest.ai",
        "op": "merge",
        "values": {
            "operation_name": "chat",
            "request_model": "gpt-4o-2024-08-06",
            "response_model": "gpt-4o-2024-08-06",
            "input_tokens": 2910,
            "output_tokens": 240,
            "total_tokens": 3150,
            "cache_read_tokens": 970,
            "cache_creation_tokens": 0,
            "reasoning_tokens": 60,
            "estimated_cost": 0.009675,
            "latency_ms": 2600,
            "finish_reasons": ["stop"],
        },
    }


def test_a_tool_step_carries_userland_metadata_and_what_it_used() -> None:
    tool = replace(samples.records()[11], nested=(samples.usage("gpt-4o", 10, 2, None, origin="nested"),))
    ai, userland = step_metadata(tool)
    assert "estimated_cost" not in ai["values"]
    assert ai["values"]["operation_name"] == "invoke_agent"
    assert userland["kind"] == "userland.inngest_agents"
    assert userland["values"]["name"] == "send_invoice"
    assert userland["values"]["attempts"] == 4
    assert userland["values"]["error_type"] == "SMTPServerDisconnected"
