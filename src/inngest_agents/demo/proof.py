"""What the order book and the log of executions prove about a run, after the fact."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from inngest_agents.demo.executions import Execution
from inngest_agents.demo.order_book import CATALOGUE

WRITES: Final = {"place_order": "orders", "refund_order": "refunds", "send_confirmation": "mails"}
"""The tools with a side effect, and the table where it is found."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was to be proved."""

    holds: bool
    text: str
    counted: tuple[str, ...] = ()
    """What breaks it, if it does not hold."""


@dataclass(frozen=True, slots=True)
class Kill:
    """A worker that was killed."""

    process: int
    time: float
    """Seconds since the epoch."""
    saved: frozenset[str]
    """The steps that the engine had saved by then."""


def prove(
    kinds: Mapping[str, str],
    executions: Sequence[Execution],
    kills: Sequence[Kill],
    tables: Mapping[str, Sequence[Mapping[str, Any]]],
) -> list[Check]:
    """Check that no side effect and no model call happened twice.

    Args:
        kinds: the run's saved steps: id to kind ("model", "tool", …).
        executions: the log of what really ran.
        kills: the workers that were killed meanwhile.
        tables: the order book, see `OrderBook.rows`.
    """
    steps = [step for step, kind in kinds.items() if kind in ("model", "tool")]
    return [
        _each_once(steps, executions),
        _no_model_twice([step for step in steps if kinds[step] == "model"], executions),
        *([_nothing_saved_again(kills, executions)] if kills else ()),
        *_cut_off(executions),
        _one_row_each(executions, tables),
        _stock_adds_up(tables),
    ]


def _each_once(steps: Sequence[str], executions: Sequence[Execution]) -> Check:
    ended = [e.step for e in executions if e.finished is not None and e.error is None]
    bad = [f"{step}: {ended.count(step)} times" for step in steps if ended.count(step) != 1]
    bad += [f"{step}: not in the engine's state" for step in set(ended) - set(steps)]
    return Check(not bad, f"Each of the {len(steps)} steps ran to its end exactly once.", tuple(bad))


def _no_model_twice(steps: Collection[str], executions: Sequence[Execution]) -> Check:
    calls = [e for e in executions if e.kind == "model"]
    # A call that the provider refused is made again by the engine: that is a retry, and nobody had its answer.
    asked = [e.step for e in calls if e.error is None]
    bad = tuple(f"{step}: {asked.count(step)} calls" for step in steps if asked.count(step) != 1)
    refused = len(calls) - len(asked)
    note = f" ({refused} failed and were retried)" if refused else ""
    text = f"{len(asked)} calls of the model for {len(steps)} model steps{note}: none was made twice."
    return Check(not bad, text, bad)


def _nothing_saved_again(kills: Sequence[Kill], executions: Sequence[Execution]) -> Check:
    again = [e.step for kill in kills for e in executions if e.started > kill.time and e.step in kill.saved]
    counts = " and ".join(str(len(kill.saved)) for kill in kills)
    text = f"Nothing that was saved before a kill ({counts} steps) ran after it."
    return Check(not again, text, tuple(f"{step}: ran again" for step in again))


def _cut_off(executions: Sequence[Execution]) -> Iterable[Check]:
    cut = [e for e in executions if e.finished is None]
    if not cut:
        return
    ended = {e.step for e in executions if e.finished is not None and e.error is None}
    bad = tuple(f"{e.step}: never ran again" for e in cut if e.step not in ended)
    names = ", ".join(e.step.rpartition(" ")[2] for e in cut)
    plural = "call that was" if len(cut) == 1 else "calls that were"
    yield Check(not bad, f"The {len(cut)} tool {plural} cut off ({names}) ran again to the end.", bad)


def _one_row_each(executions: Sequence[Execution], tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> Check:
    wanted = {e.key: e for e in executions if e.name in WRITES and e.finished is not None and e.error is None}
    rows = [row["key"] for table in WRITES.values() for row in tables[table] if row["key"] is not None]
    bad = [f"{e.step}: {rows.count(key)} rows" for key, e in wanted.items() if rows.count(key) != 1]
    bad += [f"a row under the key {key} that nobody asked for" for key in rows if key not in wanted]
    if not wanted:
        return Check(not bad, "Nothing was to be written, and nothing was.", tuple(bad))
    found = sum(e.repeated for e in executions)
    again = f"; {found} of them tried again and found their row" if found else ""
    counts = ", ".join(
        f"{sum(row['key'] is not None for row in tables[table])} in {table}" for table in WRITES.values()
    )
    text = f"{len(wanted)} writes were ordered, {len(rows)} are in the book ({counts}){again}."
    return Check(not bad, text, tuple(bad))


def _stock_adds_up(tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> Check:
    bad, sold = [], 0
    for product in tables["products"]:
        name = product["name"]
        pieces = sum(o["quantity"] for o in tables["orders"] if o["product"] == name and o["key"] is not None)
        sold += pieces
        if CATALOGUE[name][1] - pieces != product["stock"]:
            bad.append(f"{name}: {CATALOGUE[name][1]} were there, {pieces} were sold, {product['stock']} are left")
    return Check(not bad, f"The stock is smaller by the {sold} pieces that were ordered, and by no more.", tuple(bad))
