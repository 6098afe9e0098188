"""What a step's error has besides its name and message comes back with it: arguments, attributes, inner errors."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import datetime
import enum
import errno
import json
import sqlite3
import subprocess
from collections.abc import Callable
from typing import Any

import httpx
import inngest
import pydantic
import pytest
from agents import Agent, function_tool
from agents.testing import ScriptedModel, assistant_message, function_call
from both_runners import outputs_under_both
from pydantic_core import PydanticCustomError
from sqlalchemy.exc import IntegrityError

from inngest_agents import DurableRunner
from inngest_agents._inngest_sdk import MemoError, memo_error, step_error
from inngest_agents.errors import message_of, non_retriable, qualified_name
from inngest_agents.memos.stored_errors import notes_on, rebuild
from inngest_agents.testing import replayed


class Reason(enum.StrEnum):
    STOLEN = "stolen"


class Level(enum.IntEnum):
    HIGH = 3


class RefusedError(Exception):
    """Its text needs what only its constructor sets."""

    def __init__(self, reason: Reason, level: Level, limits: tuple[int, ...]) -> None:
        self.reason, self.level, self.limits = reason, level, limits
        self.at = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)

    def __str__(self) -> str:
        return f"{self.reason.name} at {self.level.name}"


@dataclasses.dataclass(frozen=True)
class FrozenError(Exception):
    code: int
    why: str


class WordyError(Exception):
    """Its `message` cannot be set, and fails as long as its constructor has not run."""

    def __init__(self, detail: dict[str, str]) -> None:
        super().__init__(detail["text"])
        self.detail = detail

    @property
    def message(self) -> str:
        return self.detail["text"]


class Order(pydantic.BaseModel):
    sku: str
    number: int
    tags: list[str] = []

    @pydantic.field_validator("sku")
    @classmethod
    def known(cls, sku: str) -> str:
        if sku == "?":
            raise ValueError("no such {thing}")
        if sku == "!":
            raise PydanticCustomError("sold_out", "{sku} is sold out", {"sku": sku})
        assert sku, "empty"
        return sku


class Login(pydantic.BaseModel, hide_input_in_errors=True):
    pin: int


def through_the_engine(error: BaseException) -> Any:
    stored = step_error(error, qualified_name(error), message_of(error), notes_on(error, {}))
    return rebuild(memo_error(stored))


def raised_by(act: Callable[[], Any]) -> Any:
    with pytest.raises(Exception) as caught:  # noqa: PT011  any
        act()
    return caught.value


@pytest.mark.parametrize(
    "error",
    [
        KeyError("order"),
        KeyError(7),
        raised_by(lambda: open("/no/such/file")),  # noqa: SIM115
        ConnectionRefusedError(errno.ECONNREFUSED, "refused"),
        TimeoutError(),
        raised_by(lambda: b"\xff".decode()),
        raised_by(lambda: json.loads("{bad")),
        raised_by(lambda: compile("1 +", "f", "exec")),
        subprocess.CalledProcessError(3, ["ls"], b"out", b"err"),
        asyncio.IncompleteReadError(b"ab", 5),
        ValueError("a", 2),
        RefusedError(Reason.STOLEN, Level.HIGH, (1, 2)),
        FrozenError(3, "why"),
        WordyError({"text": "no"}),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_comes_back_with_its_arguments_and_attributes(error: Exception) -> None:
    back = through_the_engine(error)

    assert type(back) is type(error)
    assert (str(back), repr(back), back.args) == (str(error), repr(error), error.args)
    for name in ("errno", "strerror", "filename", "encoding", "object", "start", "reason", "lineno", "message"):
        if hasattr(error, name):
            assert getattr(back, name) == getattr(error, name), name
    held = {name: value for name, value in vars(back).items() if name not in {"__durable_memoized__", "message"}}
    assert held == vars(error)
    assert {name: type(value) for name, value in held.items()} == {n: type(value) for n, value in vars(error).items()}


def test_the_errors_of_a_group_come_back_and_so_does_one_in_an_attribute() -> None:
    group = ExceptionGroup("both", [KeyError("k"), ExceptionGroup("inner", [OSError(5, "io")])])
    back = through_the_engine(group)
    assert isinstance(back, ExceptionGroup)
    assert (str(back), back.message) == (str(group), "both")
    assert repr(back.exceptions) == repr(group.exceptions)
    matched, _ = back.split(OSError)
    assert matched is not None
    with pytest.raises(ExceptionGroup) as raised:  # it leaves a run once
        raise non_retriable(back)
    assert isinstance(raised.value, inngest.NonRetriableError)

    refused = IntegrityError("INSERT", {"name": "x"}, sqlite3.IntegrityError("UNIQUE"))
    found = through_the_engine(refused)
    assert (type(found), str(found)) == (IntegrityError, str(refused))
    assert isinstance(found.orig, sqlite3.IntegrityError)
    assert found.params == {"name": "x"}


def test_what_sqlalchemy_hides_is_not_stored() -> None:
    hidden = IntegrityError("INSERT", {"pin": "4711"}, sqlite3.IntegrityError("UNIQUE"), hide_parameters=True)
    assert "4711" not in notes_on(hidden, {})
    assert str(through_the_engine(hidden)) == str(hidden)


def test_of_large_attributes_the_others_are_kept_and_an_error_in_itself_ends() -> None:
    failed: Any = subprocess.CalledProcessError(3, ["ls"], "x" * 10_000, "err")
    failed.again = failed
    back = through_the_engine(failed)
    assert (back.returncode, back.cmd, back.stderr, str(back)) == (3, ["ls"], "err", str(failed))
    assert len(notes_on(failed, {})) < 40_000
    many = ExceptionGroup("many", [ValueError("x" * 1_000)] * 100)
    assert isinstance(through_the_engine(many), inngest.StepError)  # as it is too large, with its name and message
    assert str(through_the_engine(many)) == str(many)


@pytest.mark.parametrize(
    "refused",
    [
        lambda: Order.model_validate({"number": "x"}),
        lambda: Order.model_validate({"sku": "?", "number": 1}),
        lambda: Order.model_validate({"sku": "!", "number": 1}),
        lambda: Order.model_validate({"sku": "", "number": 1.5, "tags": ({1}, "x")}),
        lambda: Order.model_validate_json('{"sku": "a", "number": 1, "tags": 3}'),
        lambda: Order.model_validate_json("{"),
        lambda: Order.model_validate({"sku": object, "number": "é" * 40}),
        lambda: Order.model_validate({"number": "9" * 10_000}),
        lambda: pydantic.TypeAdapter(int | list[int]).validate_python("x"),
        lambda: Login.model_validate({"pin": "hunter2"}),
    ],
)
def test_a_validation_error_is_one_again(refused: Callable[[], Any]) -> None:
    error = raised_by(refused)
    back = through_the_engine(error)

    assert isinstance(back, pydantic.ValidationError)
    assert (str(back), repr(back), back.title, back.args) == (str(error), repr(error), error.title, ())
    told = [[(line["loc"], line["type"], line["msg"]) for line in one.errors()] for one in (back, error)]
    assert told[0] == told[1]


def test_the_input_of_a_validation_error_is_stored_if_it_is_small_and_not_hidden() -> None:
    small = raised_by(lambda: Order.model_validate({"sku": "a", "number": "x"}))
    large = raised_by(lambda: Order.model_validate({"sku": "a", "number": "x" * 9_000}))
    hidden = raised_by(lambda: Login.model_validate({"pin": "hunter2"}))

    assert through_the_engine(small).errors() == small.errors()
    assert len(notes_on(large, {})) < 1_000
    assert "hunter2" not in notes_on(hidden, {})
    assert through_the_engine(hidden).errors()[0]["input"] is None


def test_where_outputs_are_encrypted_nothing_is_stored_of_what_an_error_was_about_but_its_text() -> None:
    def stored(error: BaseException) -> tuple[str, Any]:
        notes = notes_on(error, {}, is_encrypted=True)
        return notes, rebuild(MemoError(qualified_name(error), message_of(error), f"stack{notes}"))

    undecodable = raised_by(lambda: b"hunter2\xff".decode())
    invalid = raised_by(lambda: Order.model_validate({"sku": "a", "number": "x" * 60 + "hunter2" + "x" * 60}))
    answered = ValueError("no")
    answered.response = httpx.Response(404, text="hunter2")  # type: ignore[attr-defined]
    called = subprocess.CalledProcessError(3, ["ls"], b"hunter2")
    group = ExceptionGroup("all", [undecodable, invalid, answered, called])
    for error in (undecodable, invalid, answered, called, group):
        notes, back = stored(error)
        assert "hunter2" not in notes
        assert base64.b64encode(b"hunter2").decode()[:8] not in notes
        assert (str(back), isinstance(back, type(error))) == (str(error), True)
    assert stored(answered)[1].response.status_code == 404
    assert stored(KeyError("k"))[1].args == ("k",)
    assert stored(raised_by(lambda: open("/no/such/file")))[1].errno == errno.ENOENT  # noqa: SIM115


async def test_a_tool_s_failure_error_function_gets_what_it_gets_under_runner() -> None:
    def explain(_: Any, error: Exception) -> str:
        if isinstance(error, pydantic.ValidationError):
            return f"wrong: {[line['loc'] for line in error.errors()]}"
        if isinstance(error, KeyError):
            return f"there is no {error.args[0]}"
        return f"failed with {error.errno}" if isinstance(error, OSError) else "?"

    @function_tool(failure_error_function=explain)
    def order(number: str) -> str:
        if number == "1":
            Order.model_validate({})
        return open("/no/such/file").read() if number == "2" else {"a": "b"}[number]

    def agent() -> Agent[Any]:
        calls: list[Any] = [function_call("order", {"number": str(n)}, call_id=f"c{n}") for n in (1, 2, 3)]
        return Agent(name="a", model=ScriptedModel([calls, [assistant_message("sorry")]]), tools=[order])

    told = await outputs_under_both(agent)
    assert told[0] == told[1] == ["wrong: [('sku',), ('number',)]", "failed with 2", "there is no 3"]


async def test_a_validation_error_that_leaves_the_run_ends_it_as_the_cause_of_a_step_error() -> None:
    @function_tool(failure_error_function=None)
    def order() -> str:
        return str(Order.model_validate({}))

    model = ScriptedModel([[function_call("order", {}, call_id="c1")]])
    with pytest.raises(Exception, match="Field required") as raised:
        await replayed(lambda step: DurableRunner.run(Agent(name="a", model=model, tools=[order]), "hi", step=step))

    error: Any = raised.value
    causes = [error, error.__cause__, getattr(error.__cause__, "__cause__", None)]
    assert any(isinstance(cause, pydantic.ValidationError) for cause in causes)
    assert error.is_retriable is False


@pytest.mark.parametrize("broken", ["{}", '{"args": [{"$type": "newer"}], "typed": {"x": {"$type": "newer"}}}'])
def test_what_a_later_version_has_stored_and_this_one_does_not_know_is_left_alone(broken: str) -> None:
    back = rebuild(MemoError("KeyError", "'k'", f"stack\ninngest-agents: {broken}"))
    assert (type(back).__name__, str(back), isinstance(back, KeyError)) == ("KeyError", "'k'", True)
