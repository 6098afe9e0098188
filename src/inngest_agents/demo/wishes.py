"""What the offline model understands of what a customer typed: rules, no intelligence.

A text is cut into clauses; each has one intent, or goes on with that of the clause before it ("3 kettles and 2 mugs").
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from inngest_agents.demo.order_book import CATALOGUE

Intent = Literal["refund", "track", "ask", "buy"]

_WORDS: Final[tuple[tuple[Intent, str], ...]] = (
    # The first that matches wins: "I'd like to return it" is no order.
    (
        "refund",
        r"refund|money back|return|broken|damaged|cracked|defect\w*|complain\w*|send (it |them )?back|cancel\w*",
    ),
    ("track", r"where|track\w*|status|arrives?|when|late|delayed|parcel|shipped|look ?up"),
    ("ask", r"how much|how many|prices?|costs?|discounts?|quote|in stock|do you (have|sell)|available"),
    ("buy", r"order|buy|purchase|want|need|like|get|send|take|give|have"),
)
_ASKED_FIRST: Final = re.compile(r"\b(how much|prices?|costs?)\b")

_NUMBERS: Final = {
    "a dozen": 12, "half a dozen": 6, "dozen": 12, "a couple of": 2, "couple": 2, "a pair of": 2, "a": 1, "an": 1,
    "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
    "eleven": 11, "twelve": 12, "some": 1, "another": 1,
}  # fmt: skip

_SYNONYMS: Final = {"cup": "mug", "pot": "teapot", "coffee bean": "beans", "coffee": "beans", "bean": "beans"}

_PRODUCTS: Final = "|".join(sorted({*CATALOGUE, *_SYNONYMS}, key=len, reverse=True))
_COUNT: Final = "|".join(["[0-9]+", *sorted(_NUMBERS, key=len, reverse=True)])
_ITEM: Final = re.compile(
    rf"(?:\b(?P<count>{_COUNT})\b[\s-]+)?(?:x\s+)?(?:(?:of|the|your|new|big|small|red|blue|bags?|packs?)\s+)*"
    rf"\b(?P<product>{_PRODUCTS})e?s?\b"
)
_UNKNOWN: Final = re.compile(rf"\b(?:{_COUNT})\b\s+(?P<product>[a-z]{{3,}})\b")
_NOUN: Final = re.compile(
    r"\b(my|the|this|that|an|last|first|second|previous|of|from|in|about|with|for|its|our) orders?\b"
)
_NUMBERED: Final = re.compile(r"\b(?:orders?|numbers?|no\.?|nr\.?|and|or|id)?\s*#?\s*(\d{4,})\b")
_CLAUSES: Final = re.compile(r"[.!?;:,\n]+|\b(?:and|but|then|also|plus|because)\b")
_NO_PRODUCTS: Final = re.compile(
    r"orders?|pieces?|days?|weeks?|times?|minutes?|dollars?|refund|question|bit|lot|more|return|problem|present|gift|"
    r"friend|things?|others?|pair|couple|few|dozen|for"
)


@dataclass(slots=True)
class Wish:
    """What a customer wants of the shop."""

    buy: dict[str, int] = field(default_factory=dict)
    """Pieces by product; also products that the shop does not have."""
    ask: dict[str, int] = field(default_factory=dict)
    """Products whose price or stock is asked for."""
    numbers: list[int] = field(default_factory=list)
    """Order numbers."""
    refund: bool = False
    track: bool = False
    reason: str = "as the customer wished"

    @property
    def for_sales(self) -> bool:
        """Whether there is something to sell."""
        return bool(self.buy or self.ask)

    @property
    def for_support(self) -> bool:
        """Whether it is about an order that exists."""
        return self.refund or self.track or bool(self.numbers)


def understand(messages: Sequence[str]) -> Wish:
    """What a customer wants by their last message; where that is a mere detail ("it is 1002"), by all of them."""
    wish = _read(messages[-1:])
    if len(messages) > 1 and not (wish.for_sales or wish.refund or wish.track):
        wish = _read(messages)
    return wish


def items_in(text: str) -> dict[str, int]:
    """The products that a text names, with their numbers: "3 kettles, 2 mugs"."""
    found: dict[str, int] = {}
    for match in _ITEM.finditer(text.lower()):
        product = _SYNONYMS.get(match["product"], match["product"])
        found[product] = found.get(product, 0) + _count(match["count"])
    return found


def _read(messages: Iterable[str]) -> Wish:
    wish = Wish()
    intent: Intent | None = None
    for message in messages:
        for clause in _CLAUSES.split(message.lower()):
            intent = _read_clause(wish, clause.strip(), intent)
    return wish


def _read_clause(wish: Wish, clause: str, before: Intent | None) -> Intent | None:
    numbers = [int(number) for number in _order_numbers(clause)]
    wish.numbers += [number for number in numbers if number not in wish.numbers]
    items = items_in(clause)
    intent = _intent(_NOUN.sub(" ", clause) if not items else clause, numbers=bool(numbers)) or before
    if numbers and intent in ("buy", "ask"):
        intent = None if not items else intent
    if intent == "refund":
        wish.refund = True
        wish.reason = _reason(clause) or wish.reason
    elif intent == "track":
        wish.track = True
    elif items or intent == "buy":
        target = wish.ask if intent == "ask" or (intent is None and all(n == 1 for n in items.values())) else wish.buy
        for product, count in (items or _unknown(clause)).items():
            target[product] = target.get(product, 0) + count
    return intent


def _intent(clause: str, *, numbers: bool) -> Intent | None:
    for intent, words in _WORDS:
        if numbers and intent == "buy":
            return None  # "order 1002" is a name, not a wish
        if re.search(rf"\b({words})\b", clause):
            if intent == "track" and re.search(r"\b(order|buy)\b", clause) and not numbers and items_in(clause):
                continue  # "when can I order 2 mugs"
            return intent
    return None


def _order_numbers(clause: str) -> list[str]:
    quantity = re.compile(rf"\s+\w*\s*({_PRODUCTS})")
    return [match[1] for match in _NUMBERED.finditer(clause) if not quantity.match(clause, match.end())]


def _unknown(clause: str) -> dict[str, int]:
    """What is ordered and not in the catalogue, so that it can be said."""
    found = [match["product"] for match in _UNKNOWN.finditer(clause)]
    return {product: 1 for product in found if not _NO_PRODUCTS.fullmatch(product)}


def _count(text: str | None) -> int:
    if text is None:
        return 1
    return int(text) if text.isdigit() else _NUMBERS[text]


def _reason(clause: str) -> str:
    match = re.search(r"\b(broken|damaged|cracked|defect\w*|cancel\w*)\b", clause)
    return match[1] if match else ""
