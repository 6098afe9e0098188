"""What tools, hooks and guardrails change in the user's context object survives, wherever the run is cut."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import datetime
import logging
import uuid
from typing import Any, cast

import pydantic
import pytest
from agents import (
    Agent,
    GuardrailFunctionOutput,
    InputGuardrail,
    RunContextWrapper,
    RunHooks,
    Runner,
    Usage,
    function_tool,
)
from agents.testing import ScriptedModel, assistant_message, function_call

from inngest_agents import ContextConflictError, DurableOptions, DurableRunner, context_changes
from inngest_agents.context import Carrier
from inngest_agents.journal import Journal
from inngest_agents.testing import ReplayedRun, replayed


@dataclasses.dataclass
class Cart:
    items: list[str] = dataclasses.field(default_factory=list)
    total: float = 0.0


@dataclasses.dataclass
class Shop:
    user: str = ""
    calls: int = 0
    cart: Cart = dataclasses.field(default_factory=Cart)
    seen: dict[str, Any] = dataclasses.field(default_factory=dict)
    tags: set[str] = dataclasses.field(default_factory=set)
    at: datetime.datetime | None = None
    note: str | None = None


class Model(pydantic.BaseModel):
    user: str = ""
    calls: int = 0
    seen: dict[str, Any] = {}
    _secret: str = pydantic.PrivateAttr("")


class Plain:
    def __init__(self) -> None:
        self.user = ""
        self.calls = 0
        self.seen: dict[str, Any] = {}
        self.helper = Helper()


class Helper:
    def __init__(self) -> None:
        self.uses = 0


def turns(*calls: list[str]) -> ScriptedModel:
    """A model that calls tools of these names without arguments, a list for each turn, and then is done."""
    steps: list[Any] = [
        [function_call(name, {}, call_id=f"c{turn}.{place}") for place, name in enumerate(names)]
        for turn, names in enumerate(calls)
    ]
    return ScriptedModel([*steps, [assistant_message("done")]])


def tool(name: str, change: Any) -> Any:
    async def body(ctx: RunContextWrapper[Any]) -> str:
        result = change(ctx)
        if asyncio.iscoroutine(result):
            await result
        return "ok"

    return function_tool(body, name_override=name)


async def durable(make: Any, tools: dict[str, Any], *calls: list[str], **kwargs: Any) -> tuple[ReplayedRun[Any], Any]:
    """Run with a new context object for each request, as a handler does it that makes one."""
    made = [tool(name, change) for name, change in tools.items()]
    agent = Agent(name="a", model=turns(*calls), tools=made)
    contexts: list[Any] = []

    async def handler(step: Any) -> Any:
        contexts.append(make())
        return await DurableRunner.run(agent, "hi", step=step, context=contexts[-1], **kwargs)

    return await replayed(handler), contexts[-1]


def at(ctx: Any, name: str) -> Any:
    return ctx.context[name] if isinstance(ctx.context, dict) else getattr(ctx.context, name)


def set_at(ctx: Any, name: str, value: Any) -> None:
    if isinstance(ctx.context, dict):
        ctx.context[name] = value
    else:
        setattr(ctx.context, name, value)


@pytest.mark.parametrize("make", [Shop, Model, Plain, lambda: {"user": "", "calls": 0, "seen": {}}])
async def test_changes_of_one_turn_are_seen_in_the_next_and_at_the_end(make: Any) -> None:
    def first(ctx: Any) -> None:
        set_at(ctx, "user", "ada")
        set_at(ctx, "calls", at(ctx, "calls") + 1)
        at(ctx, "seen")["first"] = {"by": at(ctx, "user")}

    def second(ctx: Any) -> None:
        set_at(ctx, "calls", at(ctx, "calls") + 1)
        at(ctx, "seen")["second"] = at(ctx, "user")
        del at(ctx, "seen")["first"]

    run, context = await durable(make, {"first": first, "second": second}, ["first"], ["second"])
    ctx = RunContextWrapper(context)
    assert (at(ctx, "user"), at(ctx, "calls"), at(ctx, "seen")) == ("ada", 2, {"second": "ada"})
    assert run.result.context_wrapper.context is context


async def test_values_of_all_kinds_come_back_as_they_were() -> None:
    when = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)

    def change(ctx: Any) -> None:
        ctx.context.tags.add("x")
        ctx.context.at = when
        ctx.context.cart.items.append("book")
        ctx.context.cart.total += 9.5

    _, context = await durable(Shop, {"change": change}, ["change"])
    assert context == Shop(tags={"x"}, at=when, cart=Cart(["book"], 9.5))


async def test_objects_stay_the_objects_that_they_are() -> None:
    made: list[tuple[Shop, list[str], dict[str, Any]]] = []

    def make() -> Shop:
        shop = Shop()
        made.append((shop, shop.cart.items, shop.seen))
        return shop

    def change(ctx: Any) -> None:
        ctx.context.cart.items += ["book"]
        ctx.context.seen["a"] = 1

    await durable(make, {"change": change}, ["change"])
    shop, items, seen = made[-1]
    assert shop.cart.items is items == ["book"]
    assert shop.seen is seen == {"a": 1}


async def test_private_attributes_and_plain_objects_inside_are_carried() -> None:
    def change_model(ctx: Any) -> None:
        ctx.context._secret = "s"

    def change_plain(ctx: Any) -> None:
        ctx.context.helper.uses += 1

    _, model = await durable(Model, {"change": change_model}, ["change"])
    assert model._secret == "s"
    _, plain = await durable(Plain, {"change": change_plain}, ["change"], ["change"])
    assert plain.helper.uses == 2


@pytest.mark.parametrize("slow", [False, True])
async def test_parallel_tools_that_change_different_fields_are_merged(slow: bool) -> None:
    def changing(name: str) -> Any:
        async def change(ctx: Any) -> None:
            if slow:
                await asyncio.sleep(0.01)
            ctx.context.seen[name] = True
            ctx.context.cart.items.append(name)
            ctx.context.calls += 1

        return change

    names = ["one", "two", "three"]
    _, context = await durable(Shop, {name: changing(name) for name in names}, names)
    assert context.seen == {"one": True, "two": True, "three": True}
    assert sorted(context.cart.items) == sorted(names)
    assert context.calls == 3


def setting(field: str, value: Any) -> Any:
    return lambda ctx: setattr(ctx.context, field, value)


async def test_parallel_tools_that_set_a_field_to_different_values_are_a_conflict_that_names_it() -> None:
    tools = {"red": setting("note", "red"), "blue": setting("note", "blue")}
    with pytest.raises(ContextConflictError, match="'note'"):
        await durable(Shop, tools, ["red", "blue"])


async def test_parallel_tools_that_set_a_field_to_the_same_value_are_no_conflict() -> None:
    tools = {"one": setting("note", "same"), "two": setting("note", "same")}
    _, context = await durable(Shop, tools, ["one", "two"])
    assert context.note == "same"


async def test_tools_of_different_turns_may_set_the_same_field() -> None:
    tools = {"red": setting("note", "red"), "blue": setting("note", "blue")}
    _, context = await durable(Shop, tools, ["red"], ["blue"], ["red"])
    assert context.note == "red"


async def test_an_object_that_outlives_requests_ends_as_under_the_plain_runner() -> None:
    def change(ctx: Any) -> None:
        ctx.context.calls += 1
        ctx.context.cart.items.append(f"call {ctx.context.calls}")
        ctx.context.note = f"{ctx.context.note}{ctx.context.calls}"

    plain, shop = Shop(note=""), Shop(note="")
    agent = Agent(name="a", model=turns(["change"], ["change"], ["change"]), tools=[tool("change", change)])
    await Runner.run(agent, "hi", context=plain)
    await durable(lambda: shop, {"change": change}, ["change"], ["change"], ["change"])
    assert shop == plain


async def test_hooks_and_guardrails_may_change_the_context_too() -> None:
    class Counting(RunHooks[Any]):
        async def on_llm_start(self, context: Any, *args: Any) -> None:
            context.context.calls += 1

        async def on_agent_start(self, context: Any, agent: Any) -> None:
            context.context.seen[agent.name] = "started"

    async def check(ctx: Any, agent: Any, input: Any) -> GuardrailFunctionOutput:
        ctx.context.user = "ada"
        return GuardrailFunctionOutput(None, tripwire_triggered=False)

    agent = Agent(
        name="a",
        model=turns(["look"]),
        tools=[tool("look", lambda ctx: ctx.context.cart.items.append(ctx.context.user))],
        input_guardrails=[InputGuardrail(check, name="who", run_in_parallel=False)],
    )
    contexts: list[Shop] = []

    async def handler(step: Any) -> Any:
        contexts.append(Shop())
        return await DurableRunner.run(agent, "hi", step=step, context=contexts[-1], hooks=Counting())

    await replayed(handler)
    assert contexts[-1] == Shop(user="ada", calls=2, seen={"a": "started"}, cart=Cart(["ada"]))


async def test_an_agent_as_a_tool_shares_the_context() -> None:
    inner = Agent(name="inner", model=turns(["mark"]), tools=[tool("mark", setting("note", "inside"))])
    outer = Agent(
        name="outer",
        model=ScriptedModel([[function_call("ask", {"input": "q"}, call_id="c1")], [assistant_message("out")]]),
        tools=[inner.as_tool("ask", "asks")],
    )
    contexts: list[Shop] = []

    async def handler(step: Any) -> Any:
        contexts.append(Shop())
        return await DurableRunner.run(outer, "hi", step=step, context=contexts[-1])

    await replayed(handler)
    assert contexts[-1].note == "inside"


async def test_what_cannot_be_carried_is_said_once_with_a_remedy(caplog: pytest.LogCaptureFixture) -> None:
    class Connection:
        def __init__(self) -> None:
            self.socket = object()

    @dataclasses.dataclass
    class Deps:
        connection: Any = None
        count: int = 0

    def connect(ctx: Any) -> None:
        ctx.context.connection = Connection()
        ctx.context.count += 1

    with caplog.at_level(logging.WARNING, "inngest_agents"):
        _, context = await durable(Deps, {"connect": connect}, ["connect"], ["connect"])
    assert context.count == 2
    told = [record.getMessage() for record in caplog.records if "connection" in record.getMessage()]
    assert len(told) == 1
    assert "context_encode" in told[0]


class Page(pydantic.BaseModel):
    id: uuid.UUID = pydantic.Field(default_factory=uuid.uuid4, repr=False)
    html: str = pydantic.Field(default="", exclude=True, repr=False)
    _raw: bytes = pydantic.PrivateAttr(b"")


class Login(pydantic.BaseModel):
    user: str
    token: pydantic.SecretStr


async def test_models_put_into_the_context_keep_what_they_hide() -> None:
    page = Page(html="<b>")
    page._raw = b"<b>"

    def change(ctx: Any) -> None:
        ctx.context.seen["page"] = page
        ctx.context.seen["pages"] = [page]

    _, context = await durable(Shop, {"change": change}, ["change"])
    for found in (context.seen["page"], *context.seen["pages"]):
        assert found is not page
        assert (found, found.html, found._raw) == (page, "<b>", b"<b>")


async def test_a_secret_put_into_the_context_is_said_to_be_lost(caplog: pytest.LogCaptureFixture) -> None:
    def change(ctx: Any) -> None:
        ctx.context.note = Login(user="u", token=pydantic.SecretStr("abc"))
        ctx.context.calls += 1

    with caplog.at_level(logging.WARNING, "inngest_agents"):
        run, context = await durable(Shop, {"change": change}, ["change"])
    assert (context.note, context.calls) == (None, 1)
    assert any("note of the context" in record.getMessage() for record in caplog.records)
    assert "abc" not in str(run.memos)


async def test_users_can_encode_and_decode_their_context_themselves() -> None:
    class Opaque:
        def __init__(self) -> None:
            self.inner = object()
            self.log: list[str] = []

    logs: list[list[str]] = []

    def encode(value: Any) -> Any:
        return {"log": value.log}

    def decode(value: Any, stored: Any) -> None:
        value.log = stored["log"]

    def make() -> Opaque:
        made = Opaque()
        logs.append(made.log)
        return made

    def change(ctx: Any) -> None:
        ctx.context.log = [*ctx.context.log, "called"]

    options = DurableOptions(context_encode=encode, context_decode=decode)
    _, context = await durable(make, {"change": change}, ["change"], ["change"], options=options)
    assert context.log == ["called", "called"]
    with pytest.raises(ValueError, match="belong together"):
        DurableOptions(context_encode=encode)


async def test_usage_that_a_tool_adds_is_not_lost() -> None:
    def spend(ctx: Any) -> None:
        ctx.usage.add(Usage(requests=1, input_tokens=10, output_tokens=5, total_tokens=15))

    agent = Agent(name="a", model=turns(["spend"], ["spend"]), tools=[tool("spend", spend)])
    plain = await Runner.run(agent, "hi")
    run, _ = await durable(lambda: None, {"spend": spend}, ["spend"], ["spend"])
    assert run.result.context_wrapper.usage.total_tokens == plain.context_wrapper.usage.total_tokens == 30
    assert run.result.context_wrapper.usage.requests == plain.context_wrapper.usage.requests


async def test_a_step_that_changes_nothing_stores_nothing() -> None:
    run, _ = await durable(Shop, {"look": lambda ctx: None}, ["look"])
    assert not [memo for memo in run.memos.values() if "context" in memo["data"]]


class FakeJournal:
    options = DurableOptions()


def fork(*changes: Any) -> list[dict[str, Any]]:
    """What steps store that ran at the same time in processes of their own."""
    stored = []
    for change in changes:
        shop = Shop()
        carrier = Carrier(journal(), shop)
        work = carrier.begin(0)
        change(shop)
        stored.append(carrier.end(work, "step") or {})
    return stored


def journal() -> Journal:
    return cast("Journal", FakeJournal())


def replayed_fork(stored: list[dict[str, Any]]) -> Shop:
    shop = Shop()
    carrier = Carrier(journal(), shop)
    for item in stored:
        carrier.apply(item, "step")
    return shop


def test_parallel_steps_in_different_processes_are_merged() -> None:
    def one(shop: Shop) -> None:
        shop.calls += 1
        shop.cart.items.append("one")
        shop.seen["one"] = 1
        shop.note = "same"

    def two(shop: Shop) -> None:
        shop.calls += 1
        shop.cart.items.append("two")
        shop.seen["two"] = 2
        shop.note = "same"

    expected = Shop(calls=2, cart=Cart(["one", "two"]), seen={"one": 1, "two": 2}, note="same")
    assert replayed_fork(fork(one, two)) == expected


def test_a_conflict_of_steps_in_different_processes_names_the_field() -> None:
    def one(shop: Shop) -> None:
        shop.cart.total = 1.0

    def two(shop: Shop) -> None:
        shop.cart.total = 2.0

    with pytest.raises(ContextConflictError, match=r"'cart\.total'"):
        replayed_fork(fork(one, two))


def test_replacing_what_a_parallel_step_changes_inside_is_a_conflict() -> None:
    def one(shop: Shop) -> None:
        shop.seen["a"] = 1

    def two(shop: Shop) -> None:
        shop.seen = [1]  # type: ignore[assignment]

    with pytest.raises(ContextConflictError, match="'seen'"):
        replayed_fork(fork(one, two))


PLAIN = {"docs": {f"d{n}": {"text": "t", "seen": n % 2 == 0, "tags": [n]} for n in range(3)}, "order": {"a": 1, "b": 2}}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda context: context["docs"]["d1"].update(text="u"), [("set", ("docs", "d1", "text"), "u")]),
        (lambda context: context["docs"]["d1"]["tags"].append(9), [("add", ("docs", "d1", "tags"), [9])]),
        (lambda context: context["docs"].pop("d2"), [("del", ("docs", "d2"), None)]),
        (lambda context: context["docs"]["d0"].update(seen=1), [("set", ("docs", "d0", "seen"), 1)]),
        (
            lambda context: context["docs"]["d0"]["tags"].__setitem__(0, False),
            [("set", ("docs", "d0", "tags"), [False])],
        ),
        (lambda context: context.update(order={"b": 2, "a": 1}), []),
        (lambda context: context.update(docs=copy.deepcopy(context["docs"])), []),
    ],
)
def test_of_plain_data_only_what_differs_is_looked_at_and_stored(change: Any, expected: Any) -> None:
    context = copy.deepcopy(PLAIN)
    before = context_changes.take(context)
    change(context)
    found, lost = context_changes.differences(before, context_changes.take(context), context)
    assert [(made.how, made.path, made.stored) for made in found] == expected
    assert lost == []


def test_a_list_with_what_has_no_json_cannot_be_carried() -> None:
    context: dict[str, Any] = {"numbers": [1]}
    before = context_changes.take(context)
    context["numbers"].append(1j)
    found, lost = context_changes.differences(before, context_changes.take(context), context)
    assert (found, lost) == ([], [("numbers",)])
