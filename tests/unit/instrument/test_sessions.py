"""The history that a run saw stays the same on replay, and what it adds is written once, in order."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, cast

import pytest
from agents import (
    Agent,
    GuardrailFunctionOutput,
    InputGuardrail,
    InputGuardrailTripwireTriggered,
    MaxTurnsExceeded,
    OpenAIConversationsSession,
    OpenAIResponsesCompactionSession,
    RunConfig,
    Runner,
    SessionSettings,
    SQLiteSession,
    function_tool,
)
from agents.exceptions import UserError
from agents.extensions.memory import AdvancedSQLiteSession, EncryptedSession
from agents.testing import ScriptedModel, assistant_message, function_call

from inngest_agents import DurableOptions, DurableRunner
from inngest_agents.instrument import sessions
from inngest_agents.instrument.sessions import durable_session
from inngest_agents.journal import Journal
from inngest_agents.testing import ReplayedRun, replayed

TURN = DurableOptions(session_writes="turn")


def shop_agent(*, tools: list[Any] | None = None) -> Agent[Any]:
    @function_tool
    async def lookup(order: int) -> str:
        return f"order {order} is on its way"

    return Agent(
        name="shop",
        model=ScriptedModel(
            [
                [function_call("lookup", {"order": 7}, call_id="c1", item_id="f1")],
                [assistant_message("soon", item_id="m1")],
                [assistant_message("yes", item_id="m2")],
            ]
        ),
        tools=tools or [lookup],
    )


class ListSession:
    """A session that only follows the protocol; it counts its calls and keeps what it was given."""

    session_settings = None

    def __init__(self, items: list[Any] | None = None) -> None:
        self.session_id = "list"
        self.items: list[Any] = list(items or [])
        self.calls: list[str] = []
        self.failures = 0
        self.die_after_write = False

    async def get_items(self, limit: int | None = None) -> list[Any]:
        self.calls.append("get")
        return list(self.items if limit is None else self.items[-limit:] if limit else [])

    async def add_items(self, items: list[Any]) -> None:
        self.calls.append(f"add {len(items)}")
        if self.failures:
            self.failures -= 1
            raise ConnectionError("the store is away")
        self.items.extend(items)
        if self.die_after_write:
            self.die_after_write = False
            raise ConnectionError("the connection was cut after the write")

    async def pop_item(self) -> Any:
        self.calls.append("pop")
        return self.items.pop() if self.items else None

    async def clear_session(self) -> None:
        self.calls.append("clear")
        self.items.clear()


class SlottedSession:
    """Keeps its state in slots, so that a stand-in cannot share it."""

    __slots__ = ("inner", "session_id", "session_settings")

    def __init__(self) -> None:
        self.inner = ListSession()
        self.session_id = "slots"
        self.session_settings = None

    async def get_items(self, limit: int | None = None) -> list[Any]:
        return await self.inner.get_items(limit)

    async def add_items(self, items: list[Any]) -> None:
        await self.inner.add_items(items)

    async def pop_item(self) -> Any:
        return await self.inner.pop_item()

    async def clear_session(self) -> None:
        await self.inner.clear_session()


async def durable(agent: Agent[Any], session: Any, input: str = "where is it?", **kwargs: Any) -> ReplayedRun[Any]:
    return await replayed(lambda step: DurableRunner.run(agent, input, step=step, session=session, **kwargs))


async def test_a_run_takes_one_step_to_read_and_one_to_write() -> None:
    plain, session = ListSession(), ListSession()
    await Runner.run(shop_agent(), "where is it?", session=cast("Any", plain))
    run = await durable(shop_agent(), session)

    assert session.items == plain.items
    assert [call for call in session.calls if call != "get"] == [call for call in plain.calls if call != "get"]
    assert run.steps == [
        "shop/session read",
        "shop/1 model shop",
        "shop/1.1 lookup",
        "shop/2 model shop",
        "shop/session write",
    ]


async def test_with_the_option_turn_the_input_and_each_turn_are_written_at_once() -> None:
    plain, session = ListSession(), ListSession()
    await Runner.run(shop_agent(), "where is it?", session=cast("Any", plain))
    run = await durable(shop_agent(), session, options=TURN)

    assert session.items == plain.items
    assert run.steps == [
        "shop/session read",
        "shop/session write",
        "shop/1 model shop",
        "shop/1.1 lookup",
        "shop/session write:1",
        "shop/2 model shop",
        "shop/session write:2",
    ]


@pytest.mark.parametrize("options", [DurableOptions(), TURN])
async def test_a_second_run_sees_the_first_one_and_the_stores_are_those_of_the_plain_runner(
    tmp_path: Path, options: DurableOptions
) -> None:
    plain = SQLiteSession("s", tmp_path / "plain.db")
    agent = shop_agent()
    await Runner.run(agent, "where is it?", session=plain)
    await Runner.run(agent, "really?", session=plain)

    agent, path = shop_agent(), tmp_path / "durable.db"
    for input in ("where is it?", "really?"):
        # A session object of its own for each request, as a handler that makes one has it.
        run = await replayed(
            lambda step, input=input: DurableRunner.run(  # type: ignore[misc]
                agent, input, step=step, session=SQLiteSession("s", path), options=options
            )
        )
    assert await SQLiteSession("s", path).get_items() == await plain.get_items()
    assert run.result.final_output == "yes"


async def test_the_history_stays_the_same_even_if_somebody_writes_in_between() -> None:
    session = ListSession([{"role": "user", "content": "before"}])

    @function_tool
    async def lookup(order: int) -> str:
        session.items.append({"role": "user", "content": "from another run"})
        return "ok"

    run = await durable(shop_agent(tools=[lookup]), session)
    assert [item.get("content") for item in run.result.to_input_list()][:2] == ["before", "where is it?"]
    assert [item.get("content") for item in session.items][:3] == ["before", "from another run", "where is it?"]


async def test_a_run_that_fails_writes_what_the_plain_runner_writes() -> None:
    plain, session = ListSession(), ListSession()
    with pytest.raises(MaxTurnsExceeded):
        await Runner.run(shop_agent(), "where is it?", session=cast("Any", plain), max_turns=1)
    with pytest.raises(MaxTurnsExceeded):
        await durable(shop_agent(), session, max_turns=1)
    assert len(session.items) == 3
    assert session.items == plain.items


async def test_a_tripped_guardrail_writes_the_input_as_the_plain_runner_does() -> None:
    async def check(ctx: Any, agent: Any, input: Any) -> GuardrailFunctionOutput:
        return GuardrailFunctionOutput(None, tripwire_triggered=True)

    def agent() -> Agent[Any]:
        return shop_agent().clone(input_guardrails=[InputGuardrail(check, name="never")])

    plain, session = ListSession(), ListSession()
    with pytest.raises(InputGuardrailTripwireTriggered):
        await Runner.run(agent(), "hi", session=cast("Any", plain))
    with pytest.raises(InputGuardrailTripwireTriggered):
        await durable(agent(), session, "hi")
    assert session.items == plain.items == [{"role": "user", "content": "hi"}]


async def test_an_interrupted_run_is_written_and_its_continuation_too() -> None:
    def agent() -> Agent[Any]:
        @function_tool(needs_approval=True)
        async def lookup(order: int) -> str:
            return "approved"

        return shop_agent(tools=[lookup])

    async def go(run: Any, session: Any, **kwargs: Any) -> Any:
        chosen = kwargs.pop("agent")
        result = await run(chosen, "hi", session=session, **kwargs)
        state = result.to_state()
        state.approve(result.interruptions[0])
        return await run(chosen, state, session=session, **kwargs)

    plain, session = ListSession(), ListSession()
    await go(Runner.run, plain, agent=agent())
    chosen = agent()
    run = await replayed(lambda step: go(DurableRunner.run, session, step=step, agent=chosen))
    assert run.result.final_output == "soon"
    assert session.items == plain.items


async def test_a_write_is_retried_by_the_engine_and_fails_with_its_own_error() -> None:
    session = ListSession()
    session.failures = 2
    agent = shop_agent()
    run = await replayed(
        lambda step: DurableRunner.run(agent, "hi", step=step, session=cast("Any", session)), max_attempts=3
    )
    assert len(session.items) == 4
    assert run.result.final_output == "soon"

    session.failures = 9
    agent = shop_agent()
    with pytest.raises(ConnectionError, match="the store is away"):
        await replayed(lambda step: DurableRunner.run(agent, "hi", step=step, session=cast("Any", session)))


@pytest.mark.parametrize(
    "before", [[], [{"role": "user", "content": "hi"}] * 3, [{"role": "user", "content": "x"}] * 50]
)
@pytest.mark.parametrize("options", [DurableOptions(), TURN])
async def test_a_write_that_was_cut_off_after_it_reached_the_store_is_not_written_twice(
    before: list[Any], options: DurableOptions
) -> None:
    plain, session = ListSession(before), ListSession(before)
    await Runner.run(shop_agent(), "hi", session=cast("Any", plain))
    session.die_after_write = True
    agent = shop_agent()
    await replayed(
        lambda step: DurableRunner.run(agent, "hi", step=step, session=cast("Any", session), options=options),
        max_attempts=2,
    )
    assert session.items == plain.items


async def test_a_nested_run_with_the_same_session_sees_what_its_parent_added() -> None:
    def agent(session: Any) -> Agent[Any]:
        inner = Agent(name="inner", model=ScriptedModel([[assistant_message("inside", item_id="i1")]]))
        return Agent(
            name="outer",
            model=ScriptedModel(
                [
                    [function_call("ask", {"input": "q"}, call_id="c1", item_id="f1")],
                    [assistant_message("out", item_id="m1")],
                ]
            ),
            tools=[inner.as_tool("ask", "asks", session=session)],
        )

    plain, session = ListSession(), ListSession()
    await Runner.run(agent(plain), "hi", session=cast("Any", plain))
    chosen = agent(session)
    run = await durable(chosen, session, "hi")
    assert session.items == plain.items
    assert run.steps == [
        "outer/session read",
        "outer/1 model outer",
        "outer/1.1 ask/session write",
        "outer/1.1 ask/session read",
        "outer/1.1 ask/1 model inner",
        "outer/1.1 ask/session write:1",
        "outer/2 model outer",
        "outer/session write",
    ]


async def test_sessions_that_cannot_be_subclassed_work_too() -> None:
    session = SlottedSession()
    await durable(shop_agent(), session)
    assert len(session.inner.items) == 4


async def test_a_stand_in_is_of_the_class_of_the_session_and_shares_its_state(tmp_path: Path) -> None:
    class Other(SQLiteSession):
        def __del__(self) -> None:
            raise AssertionError("a stand-in must not close what it shares")

    session = SQLiteSession("a", tmp_path / "a.db")
    slotted = SlottedSession()
    journal = cast("Journal", type("FakeJournal", (), {"options": DurableOptions()})())
    made = durable_session(journal, session)
    assert isinstance(made, SQLiteSession)
    assert made.session_id == "a"
    made.session_settings = SessionSettings(limit=3)
    assert session.session_settings == SessionSettings(limit=3)
    assert durable_session(journal, made) is made
    assert sessions.real_session(made) is session
    assert isinstance(durable_session(journal, slotted), SlottedSession)
    assert durable_session(journal, slotted).session_id == "slots"


async def test_the_limit_of_the_settings_holds(tmp_path: Path) -> None:
    history = [{"role": "user", "content": str(number)} for number in range(10)]
    plain, session = ListSession(history), ListSession(history)
    config = RunConfig(session_settings=SessionSettings(limit=2))
    expected = await Runner.run(shop_agent(), "hi", session=cast("Any", plain), run_config=config)
    run = await durable(shop_agent(), session, "hi", run_config=config)
    assert run.result.to_input_list() == expected.to_input_list()


async def test_sessions_with_a_structure_of_their_own_see_the_same_calls(tmp_path: Path) -> None:
    async def usage(path: Path, how: str) -> Any:
        session = AdvancedSQLiteSession(session_id="s", db_path=path, create_tables=True)
        agent = shop_agent()
        for input in ("one", "two"):
            if how == "plain":
                await Runner.run(agent, input, session=session)
            else:
                await durable(agent, session, input)
        return await session.get_conversation_turns()

    def shape(turns: Any) -> Any:
        return [{key: value for key, value in turn.items() if key != "timestamp"} for turn in turns]

    assert shape(await usage(tmp_path / "d.db", "durable")) == shape(await usage(tmp_path / "p.db", "plain"))


async def test_encrypted_sessions_work(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    plain = SQLiteSession("s", tmp_path / "plain.db")
    await Runner.run(shop_agent(), "hi", session=plain)
    session = EncryptedSession("s", cast("Any", SQLiteSession("s", tmp_path / "e.db")), "a key of the test")
    await durable(shop_agent(), session, "hi")
    assert await session.get_items() == await plain.get_items()


async def test_a_conversation_that_was_created_in_a_step_is_known_on_the_next_request() -> None:
    created: list[str] = []
    stored: dict[str, list[Any]] = {}

    class Conversations(OpenAIConversationsSession):
        def __init__(self) -> None:
            super().__init__(openai_client=cast("Any", object()))

        async def get_items(self, limit: int | None = None) -> list[Any]:
            return list(stored[await self._get_session_id()])

        async def add_items(self, items: list[Any]) -> None:
            stored[await self._get_session_id()].extend(items)

        async def _get_session_id(self) -> str:
            if self._session_id is None:
                self._session_id = f"conv_{len(created)}"
                created.append(self._session_id)
                stored[self._session_id] = []
            return self._session_id

    agent = shop_agent()
    ids: list[str] = []

    async def handler(step: Any) -> Any:
        session = Conversations()
        result = await DurableRunner.run(agent, "hi", step=step, session=session)
        ids.append(session.session_id)
        return result

    await replayed(handler)
    assert created == ["conv_0"]
    assert ids == ["conv_0"]
    assert len(stored["conv_0"]) == 4


async def test_compaction_is_one_step_after_the_write(tmp_path: Path) -> None:
    compactions: list[int] = []

    class Compactor:
        """Stands for `client.responses`."""

        async def compact(self, **kwargs: Any) -> Any:
            from openai.types.responses import CompactedResponse, ResponseUsage
            from openai.types.responses.response_usage import InputTokensDetails, OutputTokensDetails

            compactions.append(len(kwargs["input"]))
            return CompactedResponse.model_construct(
                id="cmp",
                output=[{"type": "compaction", "encrypted_content": "x"}],
                usage=ResponseUsage(
                    input_tokens=7,
                    output_tokens=3,
                    total_tokens=10,
                    input_tokens_details=InputTokensDetails(cached_tokens=0, cache_write_tokens=0),
                    output_tokens_details=OutputTokensDetails(reasoning_tokens=0),
                ),
            )

    def session(path: Path) -> OpenAIResponsesCompactionSession:
        client = type("Client", (), {"responses": Compactor()})()
        return OpenAIResponsesCompactionSession(
            "s",
            SQLiteSession("s", path),
            client=cast("Any", client),
            should_trigger_compaction=lambda _: True,
            compaction_mode="input",
        )

    agent = shop_agent()
    plain = session(tmp_path / "plain.db")
    expected = await Runner.run(agent, "hi", session=plain)
    counted = list(compactions)
    compactions.clear()
    agent = shop_agent()
    options = DurableOptions(estimate_tokens=False)
    run = await replayed(
        lambda step: DurableRunner.run(agent, "hi", step=step, session=session(tmp_path / "d.db"), options=options)
    )
    assert compactions == counted
    assert len(counted) == 1
    assert run.steps[-2:] == ["shop/session write", "shop/session compaction"]
    assert await session(tmp_path / "d.db").get_items() == await plain.get_items()
    assert run.result.context_wrapper.usage.total_tokens == expected.context_wrapper.usage.total_tokens == 10
    assert run.result.stats.total_tokens == 10


@pytest.mark.parametrize("durable", [False, True])
async def test_the_last_write_fails_where_the_sdk_asks_for_it_and_the_error_knows_the_run(durable: bool) -> None:
    class Refusing(ListSession):
        async def add_items(self, items: list[Any]) -> None:
            if any(item.get("type") == "message" for item in items):
                raise UserError("no answers here")
            await super().add_items(items)

    agent = Agent(name="shop", model=ScriptedModel([[assistant_message("soon")]]))
    session = Refusing()

    async def run() -> None:
        if durable:
            await replayed(lambda step: DurableRunner.run(agent, "hi", session=cast("Any", session), step=step))
        else:
            await Runner.run(agent, "hi", session=cast("Any", session))

    with pytest.raises(UserError, match="no answers here") as raised:
        await run()
    assert raised.value.run_data is not None
    assert raised.value.run_data.input == [{"content": "hi", "role": "user"}]
    assert [item["content"] for item in session.items] == ["hi"]


async def test_the_callback_that_merges_the_history_with_the_input_runs_once() -> None:
    merged: list[int] = []

    def merge(history: list[Any], new: list[Any]) -> list[Any]:
        merged.append(len(history))
        return [*history[-1:], {"role": "user", "content": f"merged at {time.perf_counter_ns()}"}, *new]

    def stored() -> list[Any]:
        return [{"role": "user", "content": "old"}, {"role": "user", "content": "older"}]

    model = ScriptedModel([[assistant_message("soon")]])
    agent, session = Agent(name="shop", model=model), ListSession(stored())
    config = RunConfig(session_input_callback=merge)
    run = await replayed(
        lambda step: DurableRunner.run(agent, "hi", session=cast("Any", session), run_config=config, step=step)
    )
    assert merged == [2]
    assert "shop/session input" in run.steps
    asked: Any = model.calls[0].input
    assert [asked[0]["content"], asked[2]["content"]] == ["older", "hi"]
    assert [item["content"] for item in session.items[2:4]] == [asked[1]["content"], "hi"]


@pytest.mark.parametrize("durable", [False, True])
async def test_a_callback_that_merges_to_no_list_is_refused_as_by_the_sdk(durable: bool) -> None:
    agent, session = Agent(name="shop", model=ScriptedModel([])), ListSession()
    config = RunConfig(session_input_callback=lambda history, new: "nonsense")  # type: ignore[arg-type, return-value]

    async def run() -> None:
        if durable:
            await replayed(
                lambda step: DurableRunner.run(agent, "hi", session=cast("Any", session), run_config=config, step=step)
            )
        else:
            await Runner.run(agent, "hi", session=cast("Any", session), run_config=config)

    with pytest.raises(UserError, match="Session input callback must return a list of input items"):
        await run()
