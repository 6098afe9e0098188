"""A model that needs no key: it reads the conversation, the tools and the handoffs it is given, and answers by rules.

It stands where a real model would, knows nothing of durable runs, and takes its time.
"""

from __future__ import annotations

import ast
import asyncio
import json
import re
import uuid
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from agents import ModelResponse, Usage
from agents.models.interface import Model
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText
from openai.types.responses.response_usage import InputTokensDetails, OutputTokensDetails

from inngest_agents.demo.wishes import Wish, items_in, understand

NAME: Final = "offline-rules"
"""The name under which it appears in statistics; no price list has it."""

SECONDS: Final = 0.12
"""How long it thinks."""

_CHARACTERS_PER_TOKEN: Final = 4


@dataclass(frozen=True, slots=True)
class Call:
    """A tool or a handoff that the model wants called."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Talk:
    """A conversation as the model sees it."""

    wish: Wish
    text: str
    """The customer's last message."""
    tools: frozenset[str]
    handoffs: frozenset[str]
    done: list[tuple[Call, Any]]
    """The calls of the current request with their outputs, in order."""

    def outputs(self, name: str) -> list[dict[str, Any]]:
        """What the calls of a tool gave, where that was an object."""
        return [output for call, output in self.done if call.name == name and isinstance(output, dict)]

    def good(self, name: str) -> list[dict[str, Any]]:
        """The outputs of a tool without an error."""
        return [output for output in self.outputs(name) if "error" not in output]

    def called(self, name: str) -> bool:
        """Whether a tool was called."""
        return any(call.name == name for call, _ in self.done)

    def open(self, *calls: Call) -> list[Call]:
        """Those of some calls that can be made and were not."""
        made = [call for call, _ in self.done]
        return [call for call in calls if call not in made and call.name in self.tools | self.handoffs]


class OfflineModel(Model):
    """Answers by rules.

    Args:
        pace: 1: as slow as a quick model; 0: at once.
    """

    def __init__(self, *, pace: float = 1.0) -> None:
        self.model = NAME
        self._pace = pace

    async def get_response(  # noqa: D102  see Model
        self,
        system_instructions: str | None,
        input: str | list[Any],
        model_settings: Any,  # noqa: ARG002  as in Model
        tools: list[Any],
        output_schema: Any,  # noqa: ARG002
        handoffs: list[Any],
        tracing: Any,  # noqa: ARG002
        **_: Any,
    ) -> ModelResponse:
        await asyncio.sleep(SECONDS * self._pace)
        output = _output(decide(_talk(input, tools, handoffs)))
        read = _tokens(system_instructions, input, [tool.name for tool in tools])
        written = _tokens([item.model_dump() for item in output])
        usage = Usage(
            requests=1,
            input_tokens=read,
            output_tokens=written,
            total_tokens=read + written,
            input_tokens_details=InputTokensDetails(cached_tokens=0, cache_write_tokens=0),
            output_tokens_details=OutputTokensDetails(reasoning_tokens=0),
        )
        return ModelResponse(output=output, usage=usage, response_id=f"resp_{uuid.uuid4().hex}")

    def stream_response(self, *_: Any, **__: Any) -> AsyncIterator[Any]:
        """Not offered.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("the offline model of the demo does not stream")


def decide(talk: Talk) -> list[Call] | str:
    """What the model says next: calls, or its final answer."""
    for agent, tool in ((_pricing, "find_discount"), (_sales, "place_order"), (_support, "refund_order")):
        if tool in talk.tools:
            return agent(talk)
    return _triage(talk)


def _triage(talk: Talk) -> list[Call] | str:
    desks = [name for name, wanted in _desks(talk.wish).items() if wanted]
    if desks:
        return talk.open(Call(f"transfer_to_{desks[0]}")) or _summary(talk)
    calls = talk.open(Call("list_products"), Call("opening_hours"))
    return calls or _greeting(talk)


def _desks(wish: Wish) -> dict[str, bool]:
    """The agents that the wish is for; sales first, as what is bought may run out."""
    return {"sales": wish.for_sales, "support": wish.for_support}


def _pricing(talk: Talk) -> list[Call] | str:
    calls = [Call("find_discount", {"product": p, "quantity": n}) for p, n in items_in(talk.text).items()]
    lines = [f"{found['quantity']} x {found['product']}: {found['total']}" for found in talk.good("find_discount")]
    return talk.open(*calls) or "\n".join(lines) or "There is nothing to price."


def _sales(talk: Talk) -> list[Call] | str:
    wanted = {**talk.wish.ask, **talk.wish.buy}
    calls = talk.open(
        *(Call("check_stock", {"product": product}) for product in wanted),
        *([Call("quote_delivery", {"pieces": sum(wanted.values())})] if wanted else ()),
    )
    if calls:
        return calls
    stock = {found["product"]: found["stock"] for found in talk.good("check_stock")}
    there = {product: count for product, count in wanted.items() if stock.get(product, 0) >= count}
    if there and not talk.called("ask_pricing"):
        return [Call("ask_pricing", {"input": ", ".join(f"{count} {product}" for product, count in there.items())})]
    orders = [
        Call("place_order", {"product": product, "quantity": count})
        for product, count in talk.wish.buy.items()
        if product in there
    ]
    return talk.open(*orders) or _close(talk, "Your order", list(_ordered(talk)), other="support")


def _support(talk: Talk) -> list[Call] | str:
    numbers = talk.wish.numbers
    if not numbers and (talk.wish.refund or talk.wish.track):
        calls = talk.open(Call("recent_orders"))
        return calls or _close(talk, "", [], other="sales")
    looks = [Call(tool, {"number": number}) for number in numbers for tool in ("lookup_order", "track_parcel")]
    refundable = [found["order"] for found in talk.good("lookup_order") if found["status"] != "refunded"]
    refunds = [Call("refund_order", {"number": number, "reason": talk.wish.reason}) for number in refundable]
    calls = talk.open(*looks) or (talk.open(*refunds) if talk.wish.refund else [])
    return calls or _close(talk, "Your refund", list(_refunded(talk)), other="sales")


def _close(talk: Talk, subject: str, written: list[str], *, other: str) -> list[Call] | str:
    """Send a mail about what was written, hand over what is left for the other desk, or answer."""
    mail = Call("send_confirmation", {"subject": subject, "body": " ".join(written)})
    calls = talk.open(mail) if written else []
    if not calls and _desks(talk.wish)[other] and not _was_at(talk, other):
        calls = talk.open(Call(f"transfer_to_{other}"))
    return calls or _summary(talk)


def _was_at(talk: Talk, desk: str) -> bool:
    return any(call.name == f"transfer_to_{desk}" for call, _ in talk.done)


def _ordered(talk: Talk) -> Iterable[str]:
    for found in talk.good("place_order"):
        yield f"Order {found['order']}: {found['quantity']} x {found['product']} for {found['total']}."


def _refunded(talk: Talk) -> Iterable[str]:
    for found in talk.good("refund_order"):
        yield f"Order {found['order']} is refunded: {found['refunded']}."


def _unavailable(talk: Talk) -> Iterable[str]:
    wanted = {**talk.wish.ask, **talk.wish.buy}
    for call, output in talk.done:
        if call.name == "check_stock" and isinstance(output, dict):
            product = call.arguments["product"]
            if "error" in output:
                yield f"We don't sell {product}, sorry."
            elif output["stock"] < wanted.get(product, 0):
                ordered = ", so I ordered none" if product in talk.wish.buy else ""
                yield f"There are only {output['stock']} of {product} in stock{ordered}."


def _prices(talk: Talk) -> Iterable[str]:
    if talk.called("place_order"):
        return
    for call, output in talk.done:
        if call.name == "ask_pricing":
            yield "Prices: " + "; ".join(str(output).splitlines()) + "."
    for found in talk.good("check_stock"):
        if found["stock"] >= talk.wish.ask.get(found["product"], found["stock"] + 1):
            yield f"{found['stock']} of {found['product']} in stock."


def _delivery(talk: Talk) -> Iterable[str]:
    for found in talk.good("quote_delivery"):
        if talk.good("check_stock"):
            yield f"Delivery takes {found['days']} days and costs {found['delivery']}."


def _looked_up(talk: Talk) -> Iterable[str]:
    parcels = {found["order"]: found["parcel"] for found in talk.outputs("track_parcel")}
    refunded = {found["order"] for found in talk.good("refund_order")}
    for found in talk.outputs("lookup_order"):
        number = found["order"]
        if "error" in found:
            yield f"There is no order {number}."
        elif number not in refunded:
            parcel = parcels.get(number, "not tracked")
            status = "was refunded before" if found["status"] == "refunded" else f"is {found['status']}"
            yield f"Order {number} ({found['quantity']} x {found['product']}) {status}; parcel: {parcel}."


def _asked_back(talk: Talk) -> Iterable[str]:
    for found in talk.outputs("recent_orders"):
        orders = "; ".join(f"{number}: {what}" for number, what in found.items())
        yield f"Which order do you mean? Your last ones: {orders}."


def _mailed(talk: Talk) -> Iterable[str]:
    if talk.good("send_confirmation"):
        yield "A confirmation is in your mail."


_PARTS: Final[tuple[Callable[[Talk], Iterable[str]], ...]] = (
    _ordered,
    _unavailable,
    _prices,
    _delivery,
    _refunded,
    _looked_up,
    _asked_back,
    _mailed,
)


def _summary(talk: Talk) -> str:
    return " ".join(line for part in _PARTS for line in part(talk)) or "There was nothing to do."


def _greeting(talk: Talk) -> str:
    products = "; ".join(f"{name} {price}" for found in talk.good("list_products") for name, price in found.items())
    hours = "; ".join(f"{days} {time}" for found in talk.good("opening_hours") for days, time in found.items())
    return (
        f"Hello! We sell: {products}. We are there: {hours}. You can buy something, ask for prices, or tell me an "
        "order's number to track or refund it."
    )


# The SDK's items ------------------------------------------------------------------------------------------------


def _talk(items: str | list[Any], tools: list[Any], handoffs: list[Any]) -> Talk:
    """Read the conversation; what was done for earlier messages of the customer does not count as done."""
    messages: list[str] = [items] if isinstance(items, str) else []
    calls: dict[str, Call] = {}
    done: list[tuple[Call, Any]] = []
    for item in [] if isinstance(items, str) else items:
        kind = item.get("type", "message")
        if kind == "message" and item.get("role") == "user":
            messages.append(_text(item["content"]))
            done.clear()
        elif kind == "function_call":
            calls[item["call_id"]] = Call(item["name"], _object(item["arguments"]))
        elif kind == "function_call_output" and item["call_id"] in calls:
            done.append((calls[item["call_id"]], _value(item["output"])))
    return Talk(
        wish=understand(messages or [""]),
        text=messages[-1] if messages else "",
        tools=frozenset(tool.name for tool in tools),
        handoffs=frozenset(handoff.tool_name for handoff in handoffs),
        done=done,
    )


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return " ".join(part.get("text", "") for part in content)


def _object(arguments: str) -> dict[str, Any]:
    value = json.loads(arguments or "{}")
    return value if isinstance(value, dict) else {}


def _value(output: Any) -> Any:
    """A tool's output: the SDK gives a dict to the model as Python writes it."""
    if isinstance(output, str) and re.match(r"\s*\{", output):
        try:
            return ast.literal_eval(output)
        except (ValueError, SyntaxError):
            return output
    return output


def _output(decision: list[Call] | str) -> list[Any]:
    if isinstance(decision, str):
        text = ResponseOutputText(type="output_text", text=decision, annotations=[])
        message = ResponseOutputMessage(
            id=f"msg_{uuid.uuid4().hex}", type="message", role="assistant", status="completed", content=[text]
        )
        return [message]
    return [
        ResponseFunctionToolCall(
            type="function_call",
            id=f"fc_{uuid.uuid4().hex}",
            call_id=f"call_{uuid.uuid4().hex}",
            name=call.name,
            arguments=json.dumps(call.arguments),
            status="completed",
        )
        for call in decision
    ]


def _tokens(*parts: Any) -> int:
    return sum(len(str(part)) for part in parts) // _CHARACTERS_PER_TOKEN + 1
