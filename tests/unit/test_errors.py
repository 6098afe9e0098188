"""Errors keep their type and message through a step, and are not retried where that is no use."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import inngest
import pytest
from agents import Agent, MaxTurnsExceeded, Runner, function_tool
from agents.exceptions import ModelBehaviorError
from agents.testing import ModelStep, ScriptedModel, assistant_message, function_call
from both_runners import outputs_under_both
from pydantic import TypeAdapter, ValidationError

from inngest_agents import DurableRunner
from inngest_agents._inngest_sdk import MemoError, step_error
from inngest_agents.errors import is_memoized, message_of, non_retriable, qualified_name
from inngest_agents.memos.stored_errors import notes_on, rebuild
from inngest_agents.testing import replayed


class PaymentError(Exception):
    """An error as users write them: with a constructor of its own and attributes."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code


class ShoutingError(Exception):
    def __str__(self) -> str:
        return str(self.args[0]).upper() + "!"


class Outer:
    class InnerError(ValueError):
        pass


def through_the_engine(error: BaseException) -> BaseException:
    return rebuild(MemoError(qualified_name(error), message_of(error), None))


@pytest.mark.parametrize(
    "error",
    [
        ValueError("bad"),
        KeyError("missing"),
        PaymentError(7, "no money"),
        ShoutingError("quiet"),
        Outer.InnerError("deep"),
        ModelBehaviorError("odd"),
        UnicodeDecodeError("utf8", b"x", 0, 1, "no"),
    ],
)
def test_an_error_comes_back_with_its_type_and_message(error: Exception) -> None:
    back = through_the_engine(error)

    assert isinstance(back, type(error))
    assert str(back) == str(error)
    assert is_memoized(back)
    assert qualified_name(back) == qualified_name(error)


def test_an_error_whose_type_is_not_loaded_is_an_inngest_step_error_of_that_name() -> None:
    back = rebuild(MemoError("some.module.that.is.not.There", "gone", "stack"))

    assert isinstance(back, inngest.StepError)
    assert (back.name, back.message) == ("There", "gone")


@pytest.mark.parametrize("error", [MaxTurnsExceeded("too many"), ValueError("bad"), PaymentError(1, "x")])
def test_a_non_retriable_error_is_still_caught_by_its_type(error: Exception) -> None:
    durable = non_retriable(error)

    assert isinstance(durable, type(error).__mro__[0] if not isinstance(error, ValueError) else ValueError)
    assert isinstance(durable, inngest.NonRetriableError)
    assert str(durable) == str(error)
    assert type(durable).__name__ in {"MaxTurnsExceeded", "ValueError", "PaymentError"}
    with pytest.raises((MaxTurnsExceeded, ValueError, PaymentError)):
        raise durable


def test_a_non_retriable_error_has_what_its_builtin_type_keeps_besides_its_arguments() -> None:
    missing: Any = non_retriable(FileNotFoundError(2, "No such file or directory", "/no/such/file"))
    undecodable: Any = non_retriable(UnicodeDecodeError("utf8", b"\xff", 0, 1, "no"))

    assert (str(missing), missing.filename) == ("[Errno 2] No such file or directory: '/no/such/file'", "/no/such/file")
    assert missing.args == (2, "No such file or directory")
    assert (missing.message, missing.errno) == (str(missing), 2)  # what the dashboard shows
    assert str(undecodable) == str(UnicodeDecodeError("utf8", b"\xff", 0, 1, "no"))


def test_attributes_of_an_error_stay() -> None:
    error = MaxTurnsExceeded("too many")
    details: Any = "what was done"
    error.run_data = details

    assert non_retriable(error) is error
    assert error.run_data == details


def test_what_is_non_retriable_already_is_left_alone() -> None:
    error = inngest.NonRetriableError("no")
    assert non_retriable(error) is error
    assert type(error) is inngest.NonRetriableError


def test_an_error_about_a_file_of_undecodable_name_can_be_stored() -> None:
    stored = step_error(FileNotFoundError(), "FileNotFoundError", "no such file: \udcff")
    assert str(stored) == r"no such file: \udcff"


def test_an_error_of_the_sdk_has_room_for_its_run_data() -> None:
    assert through_the_engine(ModelBehaviorError("bad")).run_data is None  # type: ignore[attr-defined]


def test_a_type_that_only_its_own_module_can_make_becomes_a_step_error_without_what_was_stored_of_it() -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(int).validate_python("x")
    error = through_the_engine(caught.value)
    assert isinstance(error, inngest.StepError)
    assert error.name == "ValidationError"
    assert "valid integer" in str(error)


def test_an_error_without_a_text_is_stored_all_the_same() -> None:
    class UnprintableError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("never")

    assert str(through_the_engine(UnprintableError())) == "<exception str() failed>"


def test_a_cancellation_by_the_users_code_comes_back() -> None:
    error = through_the_engine(asyncio.CancelledError("enough"))
    assert isinstance(error, asyncio.CancelledError)
    assert error.args == ("enough",)
    assert is_memoized(error)


async def test_the_error_of_a_handler_keeps_what_it_was_raised_in() -> None:
    def fail(_: Any) -> Any:
        raise RuntimeError("no fallback")

    agent = Agent(name="a", model=ScriptedModel([]))
    with pytest.raises(RuntimeError, match="no fallback") as plain:
        await Runner.run(agent, "hi", max_turns=0, error_handlers={"max_turns": fail})
    with pytest.raises(RuntimeError, match="no fallback") as durable:
        await replayed(
            lambda step: DurableRunner.run(agent, "hi", max_turns=0, error_handlers={"max_turns": fail}, step=step)
        )
    assert type(durable.value.__context__) is type(plain.value.__context__)
    assert durable.value.__cause__ is plain.value.__cause__ is None


async def test_the_error_of_a_step_keeps_its_plain_attributes_and_a_type_that_was_made_inside_a_function() -> None:
    class OutOfStockError(Exception):
        def __init__(self, sku: str, left: int) -> None:
            super().__init__(f"{sku}: {left} left")
            self.sku, self.left, self.where = sku, left, object()

    def refuse(_: Any) -> Any:
        raise OutOfStockError("mug", 2)

    agent = Agent(name="a", model=ScriptedModel([ModelStep.respond(refuse)]))
    with pytest.raises(OutOfStockError, match="mug: 2 left") as raised:
        await replayed(lambda step: DurableRunner.run(agent, "hi", step=step))
    assert (raised.value.sku, raised.value.left) == ("mug", 2)
    assert not hasattr(raised.value, "where")


def test_attributes_that_are_large_are_not_stored_with_an_error() -> None:
    error = ValueError("no")
    error.page = "x" * 10_000  # type: ignore[attr-defined]
    assert notes_on(error, {}) == ""


def raised_from(*errors: BaseException) -> BaseException:
    """The first of them, raised from the second, that from the third, and so on."""
    for error, cause in itertools.pairwise(errors):
        error.__cause__ = cause
    return errors[0]


def test_an_error_comes_back_with_what_it_was_raised_from() -> None:
    error = raised_from(PaymentError(7, "no"), Outer.InnerError("deep"), OSError("line cut"), asyncio.CancelledError())
    back = rebuild(MemoError(qualified_name(error), message_of(error), f"stack{notes_on(error, {})}"))

    chain = [back, back.__cause__]
    while chain[-1] is not None:
        chain.append(chain[-1].__cause__)
    wanted = [(PaymentError, "7: no"), (Outer.InnerError, "deep"), (OSError, "line cut"), (asyncio.CancelledError, "")]
    assert [(type(one), str(one)) for one in chain if one is not None] == wanted
    assert back.__suppress_context__  # as `raise … from …` does


def test_a_chain_of_causes_that_is_a_ring_or_large_ends() -> None:
    first, second = ValueError("a"), ValueError("b")
    second.__cause__ = first
    assert notes_on(raised_from(first, second), {}).count('"ValueError"') == 10
    assert notes_on(raised_from(ValueError("a"), ValueError("b" * 10_000)), {}) == ""


async def test_the_last_failure_of_a_tool_tells_its_handler_what_it_was_raised_from() -> None:
    def explain(_: Any, error: Exception) -> str:
        return f"{error!r} from {error.__cause__!r}"

    @function_tool(failure_error_function=explain)
    def pay() -> str:
        try:
            raise ConnectionResetError("cut")
        except ConnectionResetError as cut:
            raise PaymentError(7, "no answer") from cut

    def agent() -> Agent[Any]:
        script: Any = [[function_call("pay", {}, call_id="c1")], [assistant_message("sorry")]]
        return Agent(name="a", model=ScriptedModel(script), tools=[pay])

    told = await outputs_under_both(agent)
    assert told[0] == told[1] == ["PaymentError('7: no answer') from ConnectionResetError('cut')"]


def test_an_error_whose_stack_was_cut_off_has_no_attributes() -> None:
    error = ValueError("no")
    error.left = 2  # type: ignore[attr-defined]
    notes = notes_on(error, {})
    assert vars(rebuild(MemoError("ValueError", "no", f"stack{notes}")))["left"] == 2
    assert "left" not in vars(rebuild(MemoError("ValueError", "no", f"stack{notes[:-3]}")))
