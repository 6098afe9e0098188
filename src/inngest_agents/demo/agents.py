"""The agents of a small shop, as one writes them for the OpenAI Agents SDK. Nothing in here knows of Inngest.

A triage agent hands over to sales and support, which can hand over to each other. Sales asks a pricing agent as a tool.
The tools work on the order book, which makes each write under the idempotency key of its step.
"""

from __future__ import annotations

from typing import Any

from agents import Agent, function_tool

from inngest_agents.demo.order_book import OrderBook

book = OrderBook.from_env()


@function_tool
def list_products() -> dict[str, Any]:
    """Names and prices of everything we sell."""
    return book.list_products()


@function_tool
def opening_hours() -> dict[str, Any]:
    """When the shop is open."""
    return book.opening_hours()


@function_tool
def check_stock(product: str) -> dict[str, Any]:
    """How many pieces of a product are in stock, and the price of one.

    Args:
        product: its name in the singular, e.g. "kettle".
    """
    return book.check_stock(product)


@function_tool
def quote_delivery(pieces: int) -> dict[str, Any]:
    """Ask the carrier what a parcel costs.

    Args:
        pieces: how many pieces it holds, of all products together.
    """
    return book.quote_delivery(pieces)


@function_tool
def find_discount(product: str, quantity: int) -> dict[str, Any]:
    """The price of some pieces of a product, with the discount for their number.

    Args:
        product: its name in the singular.
        quantity: how many pieces.
    """
    return book.find_discount(product, quantity)


@function_tool
def place_order(product: str, quantity: int) -> dict[str, Any]:
    """Place the customer's order for one product. It is binding.

    Args:
        product: its name in the singular.
        quantity: how many pieces.
    """
    return book.place_order(product, quantity)


@function_tool
def lookup_order(number: int) -> dict[str, Any]:
    """An order: what was bought, for how much, and its status.

    Args:
        number: the order's number.
    """
    return book.lookup_order(number)


@function_tool
def recent_orders() -> dict[str, Any]:
    """The customer's last orders, for those who don't know the number."""
    return book.recent_orders()


@function_tool
def track_parcel(number: int) -> dict[str, Any]:
    """Ask the carrier where an order's parcel is.

    Args:
        number: the order's number.
    """
    return book.track_parcel(number)


@function_tool
def refund_order(number: int, reason: str) -> dict[str, Any]:
    """Give the customer the money for an order back. It can't be undone.

    Args:
        number: the order's number.
        reason: why, in a few words.
    """
    return book.refund_order(number, reason)


@function_tool
def send_confirmation(subject: str, body: str) -> dict[str, Any]:
    """Send the customer a mail about what was done.

    Args:
        subject: one line.
        body: the text.
    """
    return book.send_confirmation(subject, body)


pricing = Agent[Any](
    name="pricing",
    instructions=(
        "You work out prices. Call find_discount for each product, all in one go, then answer with one line per "
        "product and nothing else: '3 x kettle: $105.30'."
    ),
    tools=[find_discount],
)

sales = Agent[Any](
    name="sales",
    handoff_description="Sells: prices, stock, delivery, new orders.",
    instructions=(
        "You sell kitchenware. First call check_stock for each product and quote_delivery, all in one go. Then ask "
        "ask_pricing about what is in stock. If the customer wants to buy, call place_order for each product, all in "
        "one go, then send one confirmation. Never order more than is in stock, and nothing that was not asked for. "
        "If the customer also wants something about an existing order, hand over to support. End with a short answer."
    ),
    tools=[
        check_stock,
        quote_delivery,
        pricing.as_tool("ask_pricing", "Ask the pricing department what products cost, e.g. '3 kettle, 2 mug'."),
        place_order,
        send_confirmation,
    ],
)

support = Agent[Any](
    name="support",
    handoff_description="Helps with existing orders: where they are, complaints, refunds.",
    instructions=(
        "You look after existing orders. First call lookup_order and track_parcel for each order number, all in one "
        "go; without a number call recent_orders and ask which one is meant. If the customer wants the money back, "
        "call refund_order, then send one confirmation. What was refunded once is not refunded again. "
        "If the customer also wants to buy something that was not ordered yet, hand over to sales. "
        "End with a short answer about everything that was done."
    ),
    tools=[lookup_order, track_parcel, recent_orders, refund_order, send_confirmation],
)

sales.handoffs.append(support)
support.handoffs.append(sales)

triage = Agent[Any](
    name="triage",
    instructions=(
        "You greet the customers of a small shop for kitchenware. Hand over to sales for prices and new orders, and to "
        "support for existing orders. Answer yourself only if it is neither, after calling list_products and "
        "opening_hours in one go."
    ),
    tools=[list_products, opening_hours],
    handoffs=[sales, support],
)
