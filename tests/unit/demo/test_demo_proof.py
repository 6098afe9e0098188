"""The proof fails where something happened twice: it is worth nothing otherwise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from inngest_agents.demo.executions import Execution
from inngest_agents.demo.order_book import CATALOGUE
from inngest_agents.demo.proof import Check, Kill, prove

KINDS = {"t/1 model t": "model", "t/1.1 check_stock": "tool", "t/2 model t": "model", "t/2.1 place_order": "tool"}


def execution(number: int, step: str, process: int = 1, **more: Any) -> Execution:
    name = step.rpartition(" ")[2]
    kind = "model" if " model " in step else "tool"
    base = Execution(number, kind, name, step, f"key {step}", process, number, number + 0.5, None, False)
    return replace(base, **more)


GOOD = [
    execution(1, "t/1 model t"),
    execution(2, "t/1.1 check_stock"),
    execution(3, "t/2 model t"),
    execution(4, "t/2.1 place_order", finished=None),
    execution(6, "t/2.1 place_order", process=2, repeated=True),
]
KILLS = [Kill(1, 5.0, frozenset({"t/1 model t", "t/1.1 check_stock", "t/2 model t"}))]
ORDER = {"product": "kettle", "quantity": 3, "key": "key t/2.1 place_order"}
STOCK = [{"name": name, "stock": stock - 3 * (name == "kettle")} for name, (_, stock) in CATALOGUE.items()]
TABLES: dict[str, list[dict[str, Any]]] = {"products": STOCK, "orders": [ORDER], "refunds": [], "mails": []}


def broken(checks: list[Check]) -> str:
    return " ".join(f"{check.text} {' '.join(check.counted)}" for check in checks if not check.holds)


def test_a_run_with_a_kill_in_the_middle_of_a_write_is_proved_to_be_sound() -> None:
    checks = prove(KINDS, GOOD, KILLS, TABLES)

    assert broken(checks) == ""
    texts = " ".join(check.text for check in checks)
    assert "2 calls of the model for 2 model steps: none was made twice" in texts
    assert "1 of them tried again and found their row" in texts


def test_a_run_without_any_kill_or_write_is_proved_too() -> None:
    kinds = {"t/1 model t": "model"}
    products = [{"name": name, "stock": stock} for name, (_, stock) in CATALOGUE.items()]
    checks = prove(kinds, GOOD[:1], [], {"products": products, "orders": [], "refunds": [], "mails": []})

    assert broken(checks) == ""
    assert any("Nothing was to be written" in check.text for check in checks)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (execution(7, "t/2 model t", process=2), "t/2 model t: 2 calls"),
        (execution(7, "t/2 model t", process=2, finished=None), "t/2 model t: 2 calls"),
        (execution(7, "t/1.1 check_stock", process=2), "t/1.1 check_stock: ran again"),
        (execution(7, "t/9 model t", process=2), "not in the engine's state"),
        (execution(7, "t/9.1 find_discount", process=2, finished=None), "never ran again"),
    ],
)
def test_what_ran_once_too_often_breaks_the_proof(more: Execution, reason: str) -> None:
    assert reason in broken(prove(KINDS, [*GOOD, more], KILLS, TABLES))


def test_a_call_that_the_provider_refused_is_no_double_call() -> None:
    refused = execution(0, "t/1 model t", error="RateLimitError: later")

    checks = prove(KINDS, [refused, *GOOD], KILLS, TABLES)

    assert broken(checks) == ""
    assert any("(1 failed and were retried)" in check.text for check in checks)


@pytest.mark.parametrize(
    ("orders", "reason"),
    [
        ([], "t/2.1 place_order: 0 rows"),
        ([ORDER, ORDER], "t/2.1 place_order: 2 rows"),
        ([ORDER, {**ORDER, "key": "another"}], "under the key another that nobody asked for"),
        ([{**ORDER, "quantity": 2}], "kettle: 12 were there, 2 were sold, 9 are left"),
    ],
)
def test_a_book_that_does_not_fit_breaks_the_proof(orders: list[dict[str, Any]], reason: str) -> None:
    assert reason in broken(prove(KINDS, GOOD, KILLS, {**TABLES, "orders": orders}))
