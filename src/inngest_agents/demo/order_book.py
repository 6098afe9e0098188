"""The shop's books: products, stock, orders, refunds and mails, in a real SQLite file.

Each write is made under the idempotency key of the step that makes it. A write that was committed by a worker that was
killed before it could say so is found again by its key: the second try returns what the first one wrote.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from inngest_agents.demo.executions import Executions
from inngest_agents.scope import idempotency_key

CATALOGUE: Final = {
    # product: (price in cents, in stock)
    "kettle": (3900, 12),
    "teapot": (2850, 8),
    "mug": (900, 40),
    "grinder": (5400, 3),
    "beans": (1450, 60),
}

DISCOUNTS: Final = ((10, 15), (3, 10))
"""From how many pieces of one product on, and the percent that it is then cheaper."""

DELIVERY: Final = (490, 120)
"""Cents for a parcel, and for each piece in it."""

FREE_DELIVERY_FROM: Final = 8
"""Pieces."""

_ORDERS: Final = (
    # number, product, quantity, cents, status
    (1001, "mug", 2, 1800, "delivered"),
    (1002, "grinder", 1, 5400, "shipped"),
    (1003, "teapot", 1, 2850, "refunded"),
)

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS products (name TEXT PRIMARY KEY, cents INTEGER NOT NULL, stock INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS orders (
    number INTEGER PRIMARY KEY, product TEXT NOT NULL, quantity INTEGER NOT NULL, cents INTEGER NOT NULL,
    status TEXT NOT NULL, key TEXT UNIQUE
);
CREATE TABLE IF NOT EXISTS refunds (
    id INTEGER PRIMARY KEY, number INTEGER NOT NULL UNIQUE, cents INTEGER NOT NULL, reason TEXT NOT NULL,
    key TEXT NOT NULL UNIQUE
);
CREATE TABLE IF NOT EXISTS mails (
    id INTEGER PRIMARY KEY, subject TEXT NOT NULL, body TEXT NOT NULL, key TEXT NOT NULL UNIQUE
);
"""

_SECONDS: Final = {
    # How long the warehouse, the carrier and the mail server on the other end of the line take to answer.
    "quote_delivery": 0.8,
    "track_parcel": 0.8,
    "opening_hours": 0.8,
    "recent_orders": 0.8,
    "place_order": 0.8,
    "refund_order": 0.8,
    "send_confirmation": 0.2,
}
_OTHERWISE: Final = 0.1

Answer = dict[str, Any]


class _RefusedError(Exception):
    """A write that the shop's rules do not allow: an answer for the model, and nothing that a retry makes better."""


class OrderBook:
    """The books of the shop.

    Args:
        path: the SQLite file; made and filled when it is first used.
        pace: how slow the other ends of the line are; 0 for tests, 1 for people who watch.
    """

    def __init__(self, path: str | Path, *, pace: float = 1.0) -> None:
        self.executions = Executions(path, _fill)
        self.pace = pace

    @classmethod
    def from_env(cls) -> OrderBook:
        """The books in the file that the environment names (`INNGEST_AGENTS_DEMO_DB`)."""
        path = os.environ.get("INNGEST_AGENTS_DEMO_DB", "order_book.db")
        return cls(path, pace=float(os.environ.get("INNGEST_AGENTS_DEMO_PACE", "1")))

    # Reading --------------------------------------------------------------------------------------------------

    def list_products(self) -> Answer:
        """Names and prices of everything that is sold."""
        with self._tool("list_products") as connection:
            rows = connection.execute("SELECT name, cents FROM products ORDER BY cents").fetchall()
            return {row["name"]: money(row["cents"]) for row in rows}

    def opening_hours(self) -> Answer:
        """When people answer."""
        with self._tool("opening_hours"):
            return {"monday to friday": "9 to 18", "saturday": "10 to 14", "sunday": "closed"}

    def check_stock(self, product: str) -> Answer:
        """Pieces in stock and price of one."""
        with self._tool("check_stock") as connection:
            row = connection.execute("SELECT * FROM products WHERE name = ?", (singular(product),)).fetchone()
            if row is None:
                return {"product": product, "error": "not in the catalogue"}
            return {"product": row["name"], "stock": row["stock"], "price": money(row["cents"])}

    def quote_delivery(self, pieces: int) -> Answer:
        """What the carrier wants for a parcel."""
        with self._tool("quote_delivery"):
            base, each = DELIVERY
            cents = 0 if pieces >= FREE_DELIVERY_FROM else base + each * pieces
            return {"pieces": pieces, "delivery": money(cents), "days": 2}

    def find_discount(self, product: str, quantity: int) -> Answer:
        """The price of some pieces, with the discount that their number brings."""
        with self._tool("find_discount") as connection:
            row = connection.execute("SELECT * FROM products WHERE name = ?", (singular(product),)).fetchone()
            if row is None:
                return {"product": product, "error": "not in the catalogue"}
            return {
                "product": row["name"],
                "quantity": quantity,
                "percent": _percent(quantity),
                "total": money(_total(row["cents"], quantity)),
            }

    def lookup_order(self, number: int) -> Answer:
        """An order and what became of it."""
        with self._tool("lookup_order") as connection:
            row = connection.execute("SELECT * FROM orders WHERE number = ?", (number,)).fetchone()
            if row is None:
                return {"order": number, "error": "no such order"}
            return _order(row)

    def recent_orders(self) -> Answer:
        """The last orders."""
        with self._tool("recent_orders") as connection:
            rows = connection.execute("SELECT * FROM orders ORDER BY number DESC LIMIT 5").fetchall()
            return {str(row["number"]): f"{row['quantity']} x {row['product']}, {row['status']}" for row in rows}

    def track_parcel(self, number: int) -> Answer:
        """Where the carrier has seen the parcel of an order."""
        with self._tool("track_parcel") as connection:
            row = connection.execute("SELECT status FROM orders WHERE number = ?", (number,)).fetchone()
            places = {"placed": "not picked up yet", "shipped": "on the van, due tomorrow"}
            place = "unknown to the carrier" if row is None else places.get(row["status"], "handed over at the door")
            return {"order": number, "parcel": place}

    # Writing --------------------------------------------------------------------------------------------------

    def place_order(self, product: str, quantity: int) -> Answer:
        """Write an order and take the pieces out of the stock."""

        def write(connection: sqlite3.Connection, key: str) -> None:
            row = connection.execute("SELECT * FROM products WHERE name = ?", (singular(product),)).fetchone()
            if row is None:
                raise _RefusedError(f"{product} is not in the catalogue")
            if not 0 < quantity <= row["stock"]:
                raise _RefusedError(f"{quantity} x {product} can't be ordered: {row['stock']} in stock")
            connection.execute("UPDATE products SET stock = stock - ? WHERE name = ?", (quantity, row["name"]))
            values = (row["name"], quantity, _total(row["cents"], quantity), "placed", key)
            connection.execute(
                "INSERT INTO orders (product, quantity, cents, status, key) VALUES (?, ?, ?, ?, ?)", values
            )

        try:
            return _order(self._write("place_order", "orders", write))
        except _RefusedError as refused:
            return {"product": product, "quantity": quantity, "error": str(refused)}

    def refund_order(self, number: int, reason: str) -> Answer:
        """Write a refund of an order."""

        def write(connection: sqlite3.Connection, key: str) -> None:
            order = connection.execute("SELECT * FROM orders WHERE number = ?", (number,)).fetchone()
            if order is None or order["status"] == "refunded":
                raise _RefusedError(f"order {number} {'does not exist' if order is None else 'was refunded already'}")
            connection.execute("UPDATE orders SET status = 'refunded' WHERE number = ?", (number,))
            connection.execute(
                "INSERT INTO refunds (number, cents, reason, key) VALUES (?, ?, ?, ?)",
                (number, order["cents"], reason, key),
            )

        try:
            row = self._write("refund_order", "refunds", write)
        except _RefusedError as refused:
            return {"order": number, "error": str(refused)}
        return {"order": row["number"], "refunded": money(row["cents"]), "reason": row["reason"]}

    def send_confirmation(self, subject: str, body: str) -> Answer:
        """Write a mail to the customer."""

        def write(connection: sqlite3.Connection, key: str) -> None:
            connection.execute("INSERT INTO mails (subject, body, key) VALUES (?, ?, ?)", (subject, body, key))

        row = self._write("send_confirmation", "mails", write)
        return {"mail": row["id"], "subject": row["subject"], "sent": True}

    def _write(self, tool: str, table: str, write: Callable[[sqlite3.Connection, str], None]) -> sqlite3.Row:
        """Make one write for the key of the running step, or find the one that was made for it before."""
        key = idempotency_key()
        find = f"SELECT * FROM {table} WHERE key = ?"  # noqa: S608  the tables are named above
        with self.executions.recorded("tool", tool) as execution, self.executions.connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                row = connection.execute(find, (key,)).fetchone()
                if row is None:
                    write(connection, key)
                else:
                    connection.execute("UPDATE executions SET repeated = 1 WHERE id = ?", (execution,))
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            self._wait(tool)  # the books are written; whoever asked does not know it yet
            found: sqlite3.Row = row or connection.execute(find, (key,)).fetchone()
            return found

    @contextmanager
    def _tool(self, name: str) -> Iterator[sqlite3.Connection]:
        with self.executions.recorded("tool", name), self.executions.connection() as connection:
            self._wait(name)
            yield connection

    def _wait(self, name: str) -> None:
        time.sleep(_SECONDS.get(name, _OTHERWISE) * self.pace)

    # Checking ---------------------------------------------------------------------------------------------------

    def rows(self, table: str) -> list[dict[str, Any]]:
        """All rows of one of the tables `products`, `orders`, `refunds` and `mails`."""
        if table not in ("products", "orders", "refunds", "mails"):
            raise ValueError(f"no table {table!r}")
        with self.executions.connection() as connection:
            return [dict(row) for row in connection.execute(f"SELECT * FROM {table}").fetchall()]  # noqa: S608


def _fill(connection: sqlite3.Connection) -> None:
    connection.executescript(_SCHEMA)
    connection.execute("BEGIN IMMEDIATE")
    products = [(name, cents, stock) for name, (cents, stock) in CATALOGUE.items()]
    connection.executemany("INSERT OR IGNORE INTO products VALUES (?, ?, ?)", products)
    connection.executemany("INSERT OR IGNORE INTO orders VALUES (?, ?, ?, ?, ?, NULL)", _ORDERS)
    connection.execute("COMMIT")


def money(cents: int) -> str:
    """Cents as dollars: "$39.00"."""
    return f"${cents / 100:.2f}"


def singular(product: str) -> str:
    """The catalogue's name of a product: "Kettles" is "kettle"."""
    name = product.strip().lower()
    return name if name in CATALOGUE else name.removesuffix("s")


def _percent(quantity: int) -> int:
    return next((percent for pieces, percent in DISCOUNTS if quantity >= pieces), 0)


def _total(cents: int, quantity: int) -> int:
    return cents * quantity * (100 - _percent(quantity)) // 100


def _order(row: sqlite3.Row) -> Answer:
    return {
        "order": row["number"],
        "product": row["product"],
        "quantity": row["quantity"],
        "total": money(row["cents"]),
        "status": row["status"],
    }
