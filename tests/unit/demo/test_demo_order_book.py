"""The order book: each write once for its key, and a log of what really ran."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from inngest_agents.demo.order_book import OrderBook
from inngest_agents.request.step_request import StepScope
from inngest_agents.scope import inside_step


@contextmanager
def step(key: str) -> Iterator[None]:
    with inside_step(StepScope(f"triage/1.1 {key}", key, 0)):
        yield


WRITES = [
    ("orders", lambda book: book.place_order("kettle", 3)),
    ("refunds", lambda book: book.refund_order(1001, "broken")),
    ("mails", lambda book: book.send_confirmation("Hello", "World")),
]


@pytest.mark.parametrize(("table", "write"), WRITES)
def test_a_write_that_is_made_again_under_its_key_finds_what_it_wrote(book: OrderBook, table: str, write: Any) -> None:
    before = len(book.rows(table))
    answers = []
    for _ in range(3):
        with step("key-1"):
            answers.append(write(book))

    assert answers[1:] == answers[:1] * 2
    assert len(book.rows(table)) == before + 1
    assert [e.repeated for e in book.executions.all()] == [False, True, True]


def test_writes_under_other_keys_are_other_writes(book: OrderBook) -> None:
    for key in ("a", "b"):
        with step(key):
            book.place_order("mugs", 2)

    assert [(row["product"], row["key"]) for row in book.rows("orders") if row["key"]] == [("mug", "a"), ("mug", "b")]
    assert {row["name"]: row["stock"] for row in book.rows("products")}["mug"] == 36


def test_a_worker_that_is_killed_between_the_write_and_its_answer_leaves_the_write_to_the_next_one(
    book: OrderBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, step("key"):
        patch.setattr(book, "_wait", die)
        with pytest.raises(KeyboardInterrupt):
            book.place_order("kettle", 2)
    with step("key"):
        answer = book.place_order("kettle", 2)

    assert answer["order"] == 1004
    assert {row["name"]: row["stock"] for row in book.rows("products")}["kettle"] == 10
    cut, again = book.executions.all()
    assert (cut.finished, cut.repeated) == (None, False)
    assert again.finished is not None
    assert again.repeated


@pytest.mark.parametrize(
    ("write", "error"),
    [
        (lambda book: book.place_order("kettle", 13), "12 in stock"),
        (lambda book: book.place_order("kettle", 0), "can't be ordered"),
        (lambda book: book.place_order("unicorn", 1), "not in the catalogue"),
        (lambda book: book.refund_order(1003, "again"), "refunded already"),
        (lambda book: book.refund_order(9999, "none"), "does not exist"),
    ],
)
def test_what_the_rules_forbid_is_told_and_not_written(book: OrderBook, write: Any, error: str) -> None:
    before = {table: book.rows(table) for table in ("products", "orders", "refunds")}

    with step("key"):
        answer = write(book)

    assert error in answer["error"]
    assert {table: book.rows(table) for table in before} == before
    (logged,) = book.executions.all()
    assert logged.error is not None


def test_opening_the_books_again_changes_nothing(book: OrderBook) -> None:
    with step("key"):
        book.place_order("kettle", 2)
    before = {table: book.rows(table) for table in ("products", "orders")}

    again = OrderBook(book.executions.path, pace=0)

    assert {table: again.rows(table) for table in before} == before


def test_a_table_that_does_not_exist_is_refused(book: OrderBook) -> None:
    with pytest.raises(ValueError, match="no table"):
        book.rows("sqlite_master")
