from __future__ import annotations

from decimal import Decimal
from typing import Any

import inngest
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inngest_agents.budget import Budget, BudgetExceeded, BudgetLedger, UnpricedModelError
from inngest_agents.stats import Price, StepRecord, Tokens, UsageRecord

OWN = {"own": {"input_cost_per_token": 0.001, "output_cost_per_token": 0.002}}


def model_step(step_id: str, tokens: int, usd: str | None = None, agent: str = "triage") -> StepRecord:
    usage = UsageRecord(
        tokens=Tokens(input_tokens=tokens),
        total_tokens=tokens,
        requests=1,
        model="own",
        price=Price(usd),
    )
    return StepRecord(kind="model", step_id=step_id, agent=agent, usage=usage)


def test_within_the_limits_nothing_happens() -> None:
    ledger = BudgetLedger(Budget(max_tokens=100, max_model_calls=2))
    for step in ("a", "b"):
        held = ledger.check_model_call("triage", 50, "own")
        ledger.add(model_step(step, 50), held)
    assert ledger.stats().total_tokens == 100


@pytest.mark.parametrize(
    ("budget", "limit", "allowed", "spent", "needed"),
    [
        (Budget(max_tokens=100), "max_tokens", 100, 60, 50),
        (Budget(max_model_calls=1), "max_model_calls", 1, 1, 1),
        (Budget(max_cost_usd=0.1), "max_cost_usd", Decimal("0.1"), Decimal("0.06"), Decimal("0.05")),
        (Budget(per_agent={"triage": Budget(max_tokens=70)}), "max_tokens", 70, 60, 50),
    ],
)
def test_a_call_beyond_a_limit_is_refused_before_it_is_made(
    budget: Budget, limit: str, allowed: Any, spent: Any, needed: Any
) -> None:
    ledger = BudgetLedger(budget, prices=OWN)
    ledger.add(model_step("a", 60, "0.06"))
    with pytest.raises(BudgetExceeded) as caught:
        ledger.check_model_call("triage", 50, "own")
    error = caught.value
    assert (error.limit, error.allowed, error.spent, error.needed) == (limit, allowed, spent, needed)
    assert isinstance(error, inngest.NonRetriableError)
    assert error.stats is not None
    assert error.stats.total_tokens == 60
    assert error.for_agent == bool(budget.per_agent)
    assert str(needed) in str(error)


def test_one_long_prompt_does_not_overrun_an_untouched_budget() -> None:
    with pytest.raises(BudgetExceeded, match="needs at least 1000000"):
        BudgetLedger(Budget(max_tokens=10_000)).check_model_call("triage", 1_000_000, "own")


def test_calls_under_way_hold_their_part_so_parallel_ones_cannot_overrun_together() -> None:
    ledger = BudgetLedger(Budget(max_tokens=100))
    first = ledger.check_model_call("triage", 60, "own")
    with pytest.raises(BudgetExceeded):
        ledger.check_model_call("research", 60, "own")
    ledger.add(model_step("a", 30), first)
    second = ledger.check_model_call("research", 60, "own")
    ledger.release(second)
    assert ledger.check_model_call("research", 70, "own")


def test_the_answer_of_limited_length_is_held_too() -> None:
    ledger = BudgetLedger(Budget(max_tokens=100))
    with pytest.raises(BudgetExceeded):
        ledger.check_model_call("triage", 60, "own", max_output_tokens=50)


def test_tool_calls_are_limited_for_themselves() -> None:
    ledger = BudgetLedger(Budget(max_tool_calls=1, max_model_calls=0))
    ledger.add(StepRecord(kind="tool", step_id="t", agent="triage"), ledger.check_tool_calls("triage")[0])
    with pytest.raises(BudgetExceeded, match="max_tool_calls is 1"):
        ledger.check_tool_calls("triage")


def test_an_agents_limit_leaves_the_others_alone() -> None:
    ledger = BudgetLedger(Budget(max_tool_calls=3, per_agent={"research": Budget(max_tool_calls=1)}))
    ledger.check_tool_calls("research")
    with pytest.raises(BudgetExceeded, match="of agent 'research'"):
        ledger.check_tool_calls("research")
    ledger.check_tool_calls("triage")


def test_nothing_may_be_called_once_a_limit_is_reached_exactly() -> None:
    ledger = BudgetLedger(Budget(max_tokens=60))
    ledger.add(model_step("a", 60))
    with pytest.raises(BudgetExceeded):
        ledger.check_model_call("triage", 0, "own")
    ledger.check_tool_calls("triage")


def test_dollars_cannot_be_limited_for_a_model_without_a_price() -> None:
    with pytest.raises(UnpricedModelError, match=r"no price for nobodys-model.*prices=\{"):
        BudgetLedger(Budget(max_cost_usd=1)).check_model_call("triage", 5, "nobodys-model")
    allowed = BudgetLedger(Budget(max_cost_usd=1, on_unpriced="allow"))
    allowed.check_model_call("triage", 5, "nobodys-model")


async def test_the_check_on_an_event_loop_is_the_same() -> None:
    ledger = BudgetLedger(Budget(max_cost_usd=0.0001))
    with pytest.raises(BudgetExceeded):
        await ledger.check_model_call_async("triage", 1_000_000, "gpt-4o")
    await ledger.check_model_call_async("triage", 10, "gpt-4o-mini", provider="openai")


def test_usage_of_a_plain_run_inside_a_tool_counts_as_model_calls() -> None:
    inner = UsageRecord(total_tokens=9, requests=3, origin="nested", agent="helper")
    ledger = BudgetLedger(Budget(max_model_calls=3, per_agent={"helper": Budget(max_tokens=9)}))
    ledger.add(StepRecord(kind="tool", step_id="t", agent="triage", nested=(inner,)))
    with pytest.raises(BudgetExceeded, match="max_model_calls"):
        ledger.check_model_call("triage", 1, "own")


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 40)), max_size=25))
def test_adding_the_same_records_again_gives_the_same_decisions(steps: list[tuple[int, int]]) -> None:
    once, twice = BudgetLedger(Budget(max_tokens=150)), BudgetLedger(Budget(max_tokens=150))
    for number, tokens in steps:
        once.add(model_step(str(number), tokens))
    for _ in range(2):
        for number, tokens in steps:
            twice.add(model_step(str(number), tokens))
    assert refusal(once) == refusal(twice)
    assert once.stats().to_dict() == twice.stats().to_dict()


def refusal(ledger: BudgetLedger) -> str | None:
    try:
        ledger.release(ledger.check_model_call("triage", 20, "own"))
    except BudgetExceeded as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (Budget(max_tool_calls=0), None),
        (Budget(max_tool_calls=0, on_exceeded=lambda error: f"sorry: {error.limit}"), "sorry: max_tool_calls"),
        (
            Budget(
                on_exceeded=lambda error: "the run's",
                per_agent={"triage": Budget(max_tool_calls=0, on_exceeded=lambda error: "the agent's")},
            ),
            "the agent's",
        ),
        (
            Budget(
                max_tool_calls=0,
                on_exceeded=lambda error: "the run's",
                per_agent={"triage": Budget(on_exceeded=lambda error: "the agent's")},
            ),
            "the run's",
        ),
    ],
)
async def test_a_callback_may_answer_for_the_agent(budget: Budget, expected: str | None) -> None:
    ledger = BudgetLedger(budget)
    with pytest.raises(BudgetExceeded) as caught:
        ledger.check_tool_calls("triage")
    assert await ledger.answer(caught.value) == expected


async def test_the_callback_may_be_a_coroutine_function() -> None:
    async def apologize(error: BudgetExceeded) -> str:
        return "sorry"

    ledger = BudgetLedger(Budget(max_tool_calls=0, on_exceeded=apologize))
    with pytest.raises(BudgetExceeded) as caught:
        ledger.check_tool_calls("triage")
    assert await ledger.answer(caught.value) == "sorry"


def test_limits_below_zero_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Budget\.max_tokens"):
        Budget(max_tokens=-1)
