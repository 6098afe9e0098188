"""What a step stores comes back as it was."""

from __future__ import annotations

import collections
import copy
import dataclasses
import datetime
import decimal
import enum
import functools
import json
import math
import os
import subprocess
import sys
import threading
import uuid
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pydantic
import pytest
from agents import Agent, ModelResponse, Runner, Usage, function_tool
from agents.items import ItemHelpers
from agents.testing import ScriptedModel, assistant_message, function_call
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response

from inngest_agents import DurableRunner
from inngest_agents.memos import codec, response_codec
from inngest_agents.memos.kept_values import SeenText, in_order
from inngest_agents.testing import replayed


class Color(enum.Enum):
    RED = "red"


class Point(pydantic.BaseModel):
    x: int
    label: str | None = None


@dataclasses.dataclass
class Order:
    item: str
    points: list[Point]
    when: datetime.date


def through_json(value: Any) -> Any:
    return codec.decode(json.loads(json.dumps(codec.encode(value))))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.dictionaries(st.just("$type"), inner),
    max_leaves=12,
)
typed_values = st.recursive(
    st.none()
    | st.integers()
    | st.text()
    | st.binary()
    | st.dates()
    | st.datetimes(timezones=st.none() | st.timezones())
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.timedeltas()
    | st.just(Color.RED)
    | st.builds(Point, x=st.integers(), label=st.none() | st.text()),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.integers() | st.text(), inner),
    max_leaves=8,
)


@given(json_values)
def test_json_comes_back_as_it_was(value: Any) -> None:
    assert through_json(value) == value


@given(typed_values)
def test_typed_values_come_back_with_their_types_and_their_text(value: Any) -> None:
    back = through_json(value)
    assert back == value
    assert type(back) is type(value)
    assert str(back) == str(value)


def test_plain_json_is_stored_as_it_is_so_that_a_dashboard_can_be_read() -> None:
    value = {"items": [1, "two", {"three": None}], "total": 3.5}
    assert codec.encode(value) == value


def test_a_dataclass_comes_back_without_its_constructor_running() -> None:
    order = Order("mug", [Point(x=1)], datetime.date(2026, 1, 2))
    assert through_json(order) == order


def test_what_json_cannot_carry_is_seen_by_the_model_as_before() -> None:
    class Odd:
        def __str__(self) -> str:
            return "an odd thing"

    call: Any = function_call("f", {}, call_id="c1")
    odd = Odd()
    back = through_json(odd)

    assert isinstance(back, SeenText)
    seen_first = ItemHelpers.tool_call_output_item(call, odd)
    assert ItemHelpers.tool_call_output_item(call, back) == seen_first
    assert "an odd thing" in json.dumps(seen_first)


@pytest.mark.parametrize(
    "value",
    [(1, 2), {1: "a"}, Point(x=1), Color.RED, b"\x00", {3}, Order("a", [], datetime.date.min), decimal.Decimal("1.10")],
)
def test_the_model_sees_the_same_on_the_first_pass_and_on_every_replay(value: Any) -> None:
    call: Any = function_call("f", {}, call_id="c1")
    assert ItemHelpers.tool_call_output_item(call, through_json(value)) == ItemHelpers.tool_call_output_item(
        call, value
    )


def test_an_unknown_type_is_refused_and_not_guessed() -> None:
    with pytest.raises(ValueError, match="hologram"):
        codec.decode({"$type": "hologram", "value": 1})


def test_a_response_keeps_unset_fields_ids_and_usage_entries() -> None:
    usage = Usage(requests=1, input_tokens=7, output_tokens=2, total_tokens=9)
    total = Usage()
    total.add(usage)
    total.add(usage)
    response = ModelResponse(
        output=[assistant_message("hi"), function_call("f", {"a": 1}, call_id="c1")],
        usage=total,
        response_id="resp_1",
        request_id="req_1",
        raw_usage={"prompt_tokens": 7, "odd": [1]},
    )
    stored = json.loads(json.dumps(response_codec.encode_response(response)))
    back = response_codec.decode_response(stored)

    assert [item.model_dump(exclude_unset=True) for item in back.output] == [
        item.model_dump(exclude_unset=True) for item in response.output
    ]
    assert back.usage == total
    assert len(back.usage.request_usage_entries) == 2
    assert (back.response_id, back.request_id, back.raw_usage) == ("resp_1", "req_1", response.raw_usage)


CALL: dict[str, Any] = {"type": "function_call", "arguments": "{}", "call_id": "c1", "name": "f"}


@pytest.mark.parametrize(
    "item",
    [
        CALL,
        {**CALL, "id": "fc_1", "status": "completed", "namespace": None},
        {**CALL, "async": True},
        {**CALL, "caller": {"type": "program", "caller_id": "p1", "more": 1}},
        {**CALL, "caller": {"type": "not known here"}},
        {**CALL, "status": "paused"},
        {**CALL, "newer": {"a": [1, 0]}},
        {**CALL, "arguments": {"a": 1}},
        {**CALL, "name": None},
        {"type": "function_call"},
        {"type": "message", "id": "m", "content": [{"type": "output_text", "text": "x", "logprobs": [{"logprob": 0}]}]},
        {"type": "message", "id": "m", "content": [{"type": "output_text", "text": "x", "logprobs": [], "new": 1}]},
        {
            "type": "message",
            "id": "m",
            "role": "assistant",
            "status": "completed",
            "phase": "final_answer",
            "content": [
                {
                    "type": "output_text",
                    "text": "x",
                    "annotations": [
                        {"type": "url_citation", "url": "u", "title": "t", "start_index": 0, "end_index": 2},
                        {"type": "newer", "score": 0.5},
                    ],
                },
                {"type": "refusal", "refusal": "no"},
            ],
        },
        {
            "type": "message",
            "id": "m",
            "role": "assistant",
            "status": "completed",
            "content": [
                {
                    "type": "output_text",
                    "text": "x",
                    "annotations": [
                        {"type": "url_citation", "url": "u", "title": "t", "start_index": 0, "end_index": 2}
                    ],
                }
            ],
        },
        {"type": "message", "content": "text"},
        {"type": "message", "content": [{"type": "hologram"}, "text"]},
        {"type": ["function_call"]},
        {"type": "hologram", "depth": 3},
    ],
)
def test_an_item_comes_back_as_the_client_makes_it_of_a_provider_s_answer(item: dict[str, Any]) -> None:
    """The client constructs, and so accepts what is odd; also where there is a shorter way."""
    [made] = Response.construct(output=[item]).output
    [back] = response_codec.decode_response({"output": [item], "tokens": {}}).output

    assert type(back) is type(made)
    assert (back, back.model_fields_set) == (made, made.model_fields_set)
    assert json.dumps(response_codec.encode_item(back)) == json.dumps(response_codec.encode_item(made))


COUNTS = st.integers(0, 10**9)


@given(st.integers(0, 2), COUNTS, COUNTS, COUNTS, COUNTS, st.booleans())
def test_a_usage_comes_back_whatever_it_counts(
    requests: int, given: int, made: int, cached: int, reasoned: int, has_sum: bool
) -> None:
    usage = Usage(requests=requests, input_tokens=given, output_tokens=made, total_tokens=given + made * has_sum)
    usage.input_tokens_details.cached_tokens = cached
    usage.output_tokens_details.reasoning_tokens = reasoned
    stored = response_codec.encode_response(ModelResponse(output=[], usage=usage, response_id=None))

    assert response_codec.decode_response(json.loads(json.dumps(stored))).usage == usage


def test_what_a_usual_usage_tells_anyway_is_not_stored() -> None:
    usage = Usage(requests=1, input_tokens=7, output_tokens=2, total_tokens=9)
    stored = response_codec.encode_response(ModelResponse(output=[], usage=usage, response_id=None))
    assert stored == {"output": [], "tokens": [7, 2]}


def test_uuids_and_sets_are_readable_in_the_store() -> None:
    known = uuid.UUID(int=5)
    assert codec.encode(known) == {"$type": "UUID", "value": str(known)}
    assert codec.encode({7}) == {"$type": "set", "value": [7]}


def through_server(value: Any) -> Any:
    """JSON as the real server gives it back: every number is a double, written in the shortest way (RFC 8785)."""
    if isinstance(value, dict):
        return {through_server(key): through_server(item) for key, item in value.items()}
    if isinstance(value, list):
        return [through_server(item) for item in value]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        number = float(value)
        assert number == number
        assert abs(number) != float("inf")
        return int(number) if number.is_integer() and abs(number) < 1e21 else number
    if isinstance(value, str):
        value.encode()
    return value


@given(
    st.recursive(
        st.integers() | st.floats() | st.text(st.characters()) | st.just("\ud800"),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner) | st.tuples(inner),
        max_leaves=8,
    )
)
def test_what_a_server_of_doubles_can_not_carry_comes_back_all_the_same(value: Any) -> None:
    stored = through_server(json.loads(json.dumps(codec.encode(value), allow_nan=False)))
    decoded = codec.decode(stored)
    assert repr(decoded) == repr(value)
    assert type(decoded) is type(value)


class Anything(pydantic.BaseModel):
    value: Any


@pytest.mark.parametrize("value", [1.0, 2**64, "\ud800"])
def test_a_model_with_such_a_value_comes_back_as_its_type(value: Any) -> None:
    made = Anything(value=value)
    decoded = codec.decode(through_server(json.loads(json.dumps(codec.encode(made), allow_nan=False))))
    assert type(decoded) is Anything
    assert repr(decoded) == repr(made)


def test_a_value_that_contains_itself_is_stored_as_its_text() -> None:
    value: list[Any] = [1]
    value.append(value)
    assert codec.decode(codec.encode(value)) == "[1, [...]]"


def test_a_logprob_of_zero_is_the_same_before_and_after_the_server() -> None:
    message: Any = assistant_message("hi \ud83d")
    message.content[0].logprobs = [{"token": "hi", "logprob": 0.0, "bytes": [104, 105], "top_logprobs": []}]
    stored = response_codec.encode_response(ModelResponse(output=[message], usage=Usage(), response_id=None))
    first = response_codec.decode_response(stored)
    again = response_codec.decode_response(through_server(json.loads(json.dumps(stored))))
    shown = [json.dumps(response.to_input_items(), default=str) for response in (first, again)]
    assert shown[0] == shown[1]


class Tagged(pydantic.BaseModel):
    tags: set[str]
    inner: list[frozenset[str]] = []


@dataclasses.dataclass
class Tagging:
    tags: set[str]


IN_PROCESS = """
import json, sys
from inngest_agents.memos import codec
from test_codec import Tagged, Tagging

words = "apple pear plum fig quince cherry".split()
made = [set(words), frozenset(words), [set(words)], {"a": set(words)}, (set(words),), Tagging(set(words)),
        Tagged(tags=set(words), inner=[frozenset(words)])]
given = json.load(sys.stdin)
stored = codec.encode(made) if given is None else given
values = codec.decode(stored)
assert values == made
print(json.dumps([stored, [str(value) for value in values], codec.encode(values)]))
"""


def in_process(seed: str, stored: Any) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", IN_PROCESS],
        input=json.dumps(stored),
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent,
    )
    return json.loads(done.stdout)


def test_the_text_of_a_set_is_the_same_in_every_process() -> None:
    stored, texts, _ = in_process("1", None)
    for seed in ("2", "3"):
        assert in_process(seed, stored) == [stored, texts, stored]


def test_a_set_that_comes_back_is_a_set_like_any_other() -> None:
    kept = codec.decode(codec.encode({"a", "b", "c"}))
    assert kept == {"a", "b", "c"}
    kept.discard("b")
    kept.add("d")
    assert sorted(in_order(kept)) == ["a", "c", "d"]
    assert repr(kept) == "{" + ", ".join(map(repr, in_order(kept))) + "}"
    assert copy.deepcopy(kept) == kept.copy() == {"a", "c", "d"}
    assert repr(kept - kept) == "set()"
    assert type(codec.decode(codec.encode({1, 2}))) is set


class Ticket(pydantic.BaseModel):
    id: uuid.UUID = pydantic.Field(default_factory=uuid.uuid4)
    at: datetime.datetime = pydantic.Field(default_factory=lambda: datetime.datetime.now(datetime.UTC))
    total: float = 0.0


class Aliased(pydantic.BaseModel):
    user_id: str = pydantic.Field(validation_alias=pydantic.AliasChoices("userId", "uid"))


class Strict(pydantic.BaseModel, extra="forbid"):
    a: int

    @pydantic.computed_field
    def doubled(self) -> int:
        return self.a * 2


class Hidden(pydantic.BaseModel):
    title: str
    id: uuid.UUID = pydantic.Field(default_factory=uuid.uuid4, repr=False)
    html: str = pydantic.Field(default="", exclude=True, repr=False)


class Open(pydantic.BaseModel, extra="allow"):
    at: datetime.datetime = pydantic.Field(default_factory=lambda: datetime.datetime.now(datetime.UTC))


class Root(pydantic.RootModel[dict[str, Any]]):
    root: dict[str, Any] = pydantic.Field(default_factory=lambda: {"id": uuid.uuid4()})


class Private(pydantic.BaseModel):
    title: str
    _raw: Any = pydantic.PrivateAttr("")
    _lock: Any = pydantic.PrivateAttr(default_factory=threading.Lock)
    _unset: int = pydantic.PrivateAttr()


class Node(pydantic.BaseModel):
    name: str
    children: list[Node] = []
    _parent: Node | None = None
    _next: Node | None = None


class Login(pydantic.BaseModel):
    user: str
    token: pydantic.SecretStr | pydantic.SecretBytes


@dataclasses.dataclass
class Keys:
    token: Any
    user: str = "u"


@dataclasses.dataclass
class Totals:
    prices: list[float]
    notes: str = dataclasses.field(default="", repr=False)

    def __post_init__(self) -> None:
        self.total = sum(self.prices)

    @functools.cached_property
    def lock(self) -> Any:
        return threading.Lock()

    @functools.cached_property
    def mean(self) -> float:
        return self.total / len(self.prices)


@dataclasses.dataclass(eq=False)
class ByIdentity:
    x: int


class HoldsOne(pydantic.BaseModel):
    one: ByIdentity
    rate: float = 0.5


class Pair(NamedTuple):
    x: int
    point: Any = None


def make_private(raw: Any) -> Private:
    made = Private(title="t")
    made._raw = raw
    return made


@pytest.mark.parametrize(
    "make",
    [
        lambda: Ticket(total=5.5),
        lambda: Ticket.model_construct(total="not a number"),
        lambda: Aliased.model_validate({"userId": "7"}),
        lambda: Strict(a=1),
        lambda: Hidden(title="a", html="<b>"),
        lambda: Open.model_validate({"more": {"$type": "text", "n": 1.0}}),
        lambda: Root(),
        lambda: Anything(value=Hidden(title="a")),
        lambda: HoldsOne(one=ByIdentity(1), rate=math.nan),
    ],
)
@pytest.mark.parametrize("around", [lambda value: value, lambda value: [value], lambda value: {"k": (value,)}])
def test_a_model_that_validation_does_not_give_again_comes_back_as_it_was(make: Any, around: Any) -> None:
    made = make()
    back = through_json(around(made))
    assert repr(back) == repr(around(made))
    while not isinstance(back, pydantic.BaseModel):
        back = back["k"] if isinstance(back, dict) else back[0]

    assert type(back) is type(made)
    assert {name: repr(value) for name, value in back.__dict__.items()} == {
        name: repr(value) for name, value in made.__dict__.items()
    }
    assert back.model_fields_set == made.model_fields_set
    assert back.__pydantic_extra__ == made.__pydantic_extra__
    assert back.model_dump_json(warnings=False) == made.model_dump_json(warnings=False)


@given(st.text(), st.integers() | st.floats() | st.text() | st.uuids(), st.booleans())
def test_what_a_model_hides_comes_back(title: str, raw: Any, excluded: bool) -> None:
    made = Hidden(title=title, html=str(raw)) if excluded else Hidden(title=title)
    back = through_server(json.loads(json.dumps(codec.encode([made, make_private(raw)]), allow_nan=False)))
    hidden, private = codec.decode(back)
    assert hidden == made
    assert hidden.html == made.html
    assert repr(private._raw) == repr(raw)


@pytest.mark.parametrize("raw", ["s", {"a": [Color.RED]}, Pair(1), Point(x=1), collections.defaultdict(int, a=1)])
def test_private_attributes_come_back_and_what_is_no_data_gets_its_default(raw: Any) -> None:
    made = make_private(raw)
    back = through_json(made)
    assert back._raw == raw
    assert type(back._raw) is type(raw)
    assert type(back._lock) is type(made._lock)
    with pytest.raises(AttributeError):
        _ = back._unset


@pytest.mark.parametrize("raw", [threading.Lock(), object(), [threading.Lock()], pydantic.SecretStr("abc"), Hidden])
def test_a_private_attribute_that_is_no_data_leaves_the_model_what_it_is(raw: Any) -> None:
    stored = codec.encode(make_private(raw))
    assert stored == {"$type": "model", "class": f"{__name__}:Private", "value": {"title": "t"}}
    assert codec.decode(stored)._raw == ""


def test_private_attributes_that_lead_back_to_their_model_are_left_out() -> None:
    root = Node(name="root", children=[Node(name="a"), Node(name="b")])
    for child in root.children:
        child._parent = root
    root.children[0]._next = root.children[1]
    root.children[1]._next = Node(name="c")

    assert through_json(root.children[1])._next == Node(name="c")
    assert [through_json(value).name for value in (root, *root.children)] == ["root", "a", "b"]


def test_a_long_chain_of_private_attributes_is_cut_and_not_followed() -> None:
    first = Node(name="0")
    last = first
    for number in range(1, 300):
        last._next = last = Node(name=str(number))
    assert type(through_json(first)) is Node


def test_a_field_of_the_class_that_is_newer_than_the_stored_state_gets_its_default() -> None:
    stored = codec.encode(Hidden(title="a"))
    del stored["fields"]["html"]
    assert codec.decode(stored).html == ""


def test_models_that_validation_gives_again_are_stored_as_ever() -> None:
    reference = f"{__name__}:Point"
    assert codec.encode(Point(x=1)) == {"$type": "model", "class": reference, "value": {"x": 1}}
    nested = codec.encode(Node(name="a", children=[Node(name="b")]))
    assert nested["value"] == {"name": "a", "children": [{"name": "b"}]}


@pytest.mark.parametrize("token", [pydantic.SecretStr("abc"), pydantic.SecretBytes(b"abc"), pydantic.Secret[int](7)])
def test_a_secret_is_neither_stored_nor_given_back_as_if_its_mask_were_the_value(token: Any) -> None:
    values = [Keys(token), (token,), collections.OrderedDict(a=token), Anything(value=token)]
    if not isinstance(token, pydantic.Secret):
        values.append(Login(user="u", token=token))
    for value in values:
        stored = codec.encode(value)
        assert "abc" not in json.dumps(stored)
        assert codec.is_text(stored)
        assert type(codec.decode(stored)) is SeenText
        assert codec.decode(stored) == str(value)


def test_a_dataclass_keeps_what_is_set_on_it_and_hidden_and_drops_what_is_cached_and_no_data() -> None:
    made = Totals([1.5, 2.0], notes="n")
    assert (made.lock, made.mean) == (made.lock, 1.75)
    back = through_json(made)
    assert (back, back.total, back.notes) == (made, 3.5, "n")
    assert vars(back) == {name: value for name, value in vars(made).items() if name != "lock"}

    made.other = threading.Lock()  # type: ignore[attr-defined]
    assert codec.is_text(codec.encode(made))
    assert type(through_json(ByIdentity(1))) is ByIdentity


@pytest.mark.parametrize(
    "value",
    [
        collections.OrderedDict([("b", 1), (2, (3,))]),
        collections.Counter("abracadabra"),
        collections.deque([1, (2,)], maxlen=3),
        collections.deque(),
        collections.defaultdict(list, {"a": [1], (1, 2): []}),
        collections.defaultdict(None, {"a": 1}),
        Pair(1, Point(x=2)),
        [Pair(1, Pair(2))],
    ],
)
def test_containers_of_the_standard_library_come_back_as_their_types(value: Any) -> None:
    back = through_json(value)
    assert back == value
    assert type(back) is type(value)
    assert repr(back) == repr(value)
    assert getattr(back, "default_factory", None) is getattr(value, "default_factory", None)
    assert getattr(back, "maxlen", None) == getattr(value, "maxlen", None)


def test_a_defaultdict_with_a_factory_of_the_user_s_code_is_text() -> None:
    assert codec.is_text(codec.encode(collections.defaultdict(lambda: 0, a=1)))


def test_a_dict_of_another_class_meets_the_output_schema_of_a_tool() -> None:
    call: Any = function_call("f", {}, call_id="c1")
    value = collections.OrderedDict(a=1)
    shown = [
        ItemHelpers.tool_call_output_item(call, output, output_json_schema={"type": "object"})
        for output in (value, through_json(value))
    ]
    assert shown[0] == shown[1]


class Picky:
    """Of the mind of numpy's arrays: it is not said whether two of them are equal."""

    def __init__(self, values: list[int]) -> None:
        self.values = values

    def __eq__(self, other: object) -> Any:
        raise TypeError("ambiguous")

    def __repr__(self) -> str:
        return f"Picky({self.values})"

    __hash__ = None  # type: ignore[assignment]


class Unequal:
    """Without an equality of its own."""

    def __init__(self, values: list[int]) -> None:
        self.values = values

    def __repr__(self) -> str:
        return f"Unequal({self.values})"


def custom(cls: Any) -> Any:
    """A field's type: objects of a class that is made of the list in which it is stored."""
    made = pydantic.PlainValidator(lambda value: value if isinstance(value, cls) else cls(value))
    return Annotated[Any, made, pydantic.PlainSerializer(lambda value: value.values)]


def test_objects_in_a_model_are_compared_by_their_equality_or_by_what_they_hold() -> None:
    picky = pydantic.create_model("picky", __module__=__name__, value=(custom(Picky), ...))
    unequal = pydantic.create_model("unequal", __module__=__name__, value=(custom(Unequal), ...))
    globals().update(picky=picky, unequal=unequal)

    assert codec.is_text(codec.encode(picky(value=[1])))
    assert codec.encode(unequal(value=[1]))["$type"] == "model"


class Unserializable(pydantic.BaseModel, arbitrary_types_allowed=True):
    value: Any = None


def test_a_model_that_has_no_json_is_text_and_does_not_fail_the_step() -> None:
    assert codec.is_text(codec.encode(Unserializable(value=object())))
    looped = Unserializable()
    looped.value = [looped, looped]
    assert codec.is_text(codec.encode(looped))


async def test_a_tool_s_model_is_the_final_output_as_under_the_plain_runner() -> None:
    ticket = Ticket(total=5.5)

    @function_tool
    def order() -> Ticket:
        return ticket

    def agent() -> Agent[Any]:
        model = ScriptedModel([[function_call("order", {}, call_id="c1")]])
        return Agent(name="a", model=model, tools=[order], tool_use_behavior="stop_on_first_tool", output_type=Ticket)

    plain, durable = await Runner.run(agent(), "hi"), agent()
    run = await replayed(lambda step: DurableRunner.run(durable, "hi", step=step))
    assert run.result.final_output == plain.final_output == ticket
    assert run.result.to_input_list() == plain.to_input_list()
