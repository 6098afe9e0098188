"""The demo's agents on the offline model, under plain `Runner` and durably, cut at every step."""

from __future__ import annotations

import re
from typing import Any

import pytest
from agents import Runner

from inngest_agents import DurableRunner
from inngest_agents.demo.__main__ import PROMPT
from inngest_agents.demo.agents import triage
from inngest_agents.demo.models import run_config
from inngest_agents.demo.order_book import OrderBook
from inngest_agents.testing import replayed


async def ask(book: OrderBook, prompt: Any) -> Any:
    return await Runner.run(triage, prompt, run_config=run_config(book.executions, pace=0), max_turns=30)


def tools(book: OrderBook) -> list[str]:
    """The tools that ran, sorted; those of one turn run beside each other."""
    return sorted(e.name for e in book.executions.all() if e.kind == "tool")


LOOKS = ["check_stock", "find_discount", "quote_delivery"]


@pytest.mark.parametrize(
    ("prompt", "agent", "ran", "answer"),
    [
        ("hello", "triage", ["list_products", "opening_hours"], "We sell: mug \\$9.00"),
        ("What is the weather like?", "triage", ["list_products", "opening_hours"], "We sell"),
        ("How much is a kettle?", "sales", LOOKS, "1 x kettle: \\$39.00.*12 of kettle in stock"),
        ("what do 12 mugs cost", "sales", LOOKS, "12 x mug: \\$91.80"),
        ("buy ten bags of coffee beans", "sales", [*LOOKS, "place_order", "send_confirmation"], "10 x beans"),
        ("a couple of cups, please", "sales", [*LOOKS, "place_order", "send_confirmation"], "2 x mug"),
        (
            "order 500 kettles",
            "sales",
            ["check_stock", "quote_delivery"],
            "only 12 of kettle in stock, so I ordered none",
        ),
        ("I want 3 unicorns", "sales", ["check_stock", "quote_delivery"], "don't sell unicorns"),
        ("Where is order 1002?", "support", ["lookup_order", "track_parcel"], "1002 .* is shipped; parcel: on the van"),
        ("order #1001", "support", ["lookup_order", "track_parcel"], "1001 .* is delivered"),
        ("refund order 1003", "support", ["lookup_order", "track_parcel"], "was refunded before"),
        ("refund order 4711", "support", ["lookup_order", "track_parcel"], "There is no order 4711"),
        ("I want my money back", "support", ["recent_orders"], "Which order do you mean\\? .*1003: 1 x teapot"),
        (
            "The grinder from order 1002 is broken, I want to return it",
            "support",
            ["lookup_order", "refund_order", "send_confirmation", "track_parcel"],
            "Order 1002 is refunded: \\$54.00",
        ),
    ],
)
async def test_the_offline_model_reacts_to_what_is_typed(
    book: OrderBook, prompt: str, agent: str, ran: list[str], answer: str
) -> None:
    result = await ask(book, prompt)

    assert result.last_agent.name == agent
    assert tools(book) == sorted(ran)
    assert re.search(answer, result.final_output)


async def test_a_detail_that_was_asked_for_completes_the_wish_of_the_message_before(book: OrderBook) -> None:
    first = await ask(book, "Please refund my order, it arrived damaged")
    assert "Which order do you mean?" in first.final_output

    second = await ask(book, [*first.to_input_list(), {"role": "user", "content": "It is 1001."}])

    assert "Order 1001 is refunded" in second.final_output
    assert [(row["number"], row["reason"]) for row in book.rows("refunds")] == [(1001, "damaged")]


async def test_a_message_with_two_wishes_is_dealt_with_by_both_agents(book: OrderBook) -> None:
    result = await ask(book, PROMPT)

    assert result.last_agent.name == "support"
    assert {(row["product"], row["quantity"], row["cents"]) for row in book.rows("orders") if row["key"]} == {
        ("kettle", 3, 10530),
        ("mug", 2, 1800),
    }
    assert [row["number"] for row in book.rows("refunds")] == [1001]
    assert len(book.rows("mails")) == 2
    assert {row["name"]: row["stock"] for row in book.rows("products")}["kettle"] == 9


async def test_the_offline_model_counts_what_it_reads_and_writes(book: OrderBook) -> None:
    short = await ask(book, "Where is order 1002?")
    long = await ask(book, "Where is order 1002?" + " I have been waiting for it." * 20)

    usage = short.context_wrapper.usage
    assert usage.requests == 3
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert long.context_wrapper.usage.input_tokens > usage.input_tokens


async def test_cut_and_replayed_at_every_step_the_agents_do_the_same_and_each_thing_once(book: OrderBook) -> None:
    plain = await ask(book, PROMPT)
    before = {table: len(book.rows(table)) for table in ("orders", "refunds", "mails")}
    count = len(book.executions.all())
    prompt = PROMPT.replace("1001", "1002")

    run = await replayed(
        lambda step: DurableRunner.run(
            triage, prompt, step=step, run_config=run_config(book.executions, pace=0), max_turns=30
        )
    )

    durable = book.executions.all()[count:]
    answers = [re.sub(r"\d{4}", "N", text) for text in (plain.final_output, run.result.final_output)]
    assert sorted(re.findall(r"Order N: \d x \w+", answers[1])) == sorted(re.findall(r"Order N: \d x \w+", answers[0]))
    assert sorted(e.name for e in durable) == sorted(e.name for e in book.executions.all()[:count])
    assert len({e.key for e in durable}) == len(durable)
    assert sorted(e.step for e in durable) == sorted(run.steps)
    assert {table: len(book.rows(table)) for table in before} == {
        "orders": before["orders"] + 2,
        "refunds": 2,
        "mails": 4,
    }
    assert run.result.stats.total_model_calls == 12
    assert run.result.stats.agents_involved == ["triage", "sales", "pricing", "support"]
