"""The sessions that the SDK ships, on their real stores: each request makes its session anew, as in another process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fakeredis
import pytest
from agents import Agent, RunConfig, Runner, SessionSettings, SQLiteSession, function_tool
from agents.extensions.memory import (
    AdvancedSQLiteSession,
    AsyncSQLiteSession,
    EncryptedSession,
    RedisSession,
    SQLAlchemySession,
)
from agents.testing import ScriptedModel, assistant_message, function_call

from inngest_agents import DurableOptions, DurableRunner
from inngest_agents.testing import replayed


def sqlite(path: Path) -> Callable[[], Any]:
    return lambda: SQLiteSession("s", path)


def advanced(path: Path) -> Callable[[], Any]:
    return lambda: AdvancedSQLiteSession(session_id="s", db_path=path, create_tables=True)


def async_sqlite(path: Path) -> Callable[[], Any]:
    return lambda: AsyncSQLiteSession("s", path)


def sqlalchemy(path: Path) -> Callable[[], Any]:
    return lambda: SQLAlchemySession.from_url("s", url=f"sqlite+aiosqlite:///{path}", create_tables=True)


def redis(path: Path) -> Callable[[], Any]:
    server = fakeredis.FakeServer()
    return lambda: RedisSession("s", redis_client=fakeredis.FakeAsyncRedis(server=server))


def encrypted(path: Path) -> Callable[[], Any]:
    inner = sqlalchemy(path)
    return lambda: EncryptedSession("s", inner(), "a key of the test")


async def close(session: Any) -> None:
    session = getattr(session, "underlying_session", session)
    if isinstance(session, SQLAlchemySession):
        await session.engine.dispose()
    elif isinstance(session, (RedisSession, AsyncSQLiteSession)):
        await session.close()
    else:
        session.close()


def last_two(history: list[Any], new: list[Any]) -> list[Any]:
    return history[-2:] + new


def agent() -> Agent[Any]:
    @function_tool
    async def lookup(order: int) -> str:
        return f"order {order} is on its way"

    turns: list[Any] = []
    for order in (1, 2):
        turns += [
            [function_call("lookup", {"order": order}, call_id=f"c{order}")],
            [assistant_message(f"{order} soon")],
        ]
    return Agent(name="shop", model=ScriptedModel(turns), tools=[lookup])


@pytest.mark.parametrize("store", [sqlite, advanced, async_sqlite, sqlalchemy, redis, encrypted])
@pytest.mark.parametrize("writes", ["end", "turn"])
@pytest.mark.parametrize(
    "config",
    [
        RunConfig(),
        RunConfig(session_settings=SessionSettings(limit=3)),
        RunConfig(session_input_callback=last_two),
    ],
    ids=["all", "limit", "callback"],
)
async def test_two_runs_see_and_leave_what_they_do_under_the_plain_runner(
    store: Any, writes: Any, config: RunConfig, tmp_path: Path
) -> None:
    async def go(make: Callable[[], Any], run: Callable[[Agent[Any], str, Callable[[], Any]], Any]) -> Any:
        shop = agent()
        results = [await run(shop, input, make) for input in ("where is 1?", "and 2?")]
        session = make()
        left = await session.get_items()
        await close(session)
        assert isinstance(shop.model, ScriptedModel)
        return [result.to_input_list() for result in results], left, [call.input for call in shop.model.calls]

    async def plain(shop: Agent[Any], input: str, make: Callable[[], Any]) -> Any:
        session = make()
        result = await Runner.run(shop, input, session=session, run_config=config)
        await close(session)
        return result

    async def durable(shop: Agent[Any], input: str, make: Callable[[], Any]) -> Any:
        async def handler(step: Any) -> Any:
            session = make()
            try:
                options = DurableOptions(session_writes=writes)
                return await DurableRunner.run(
                    shop, input, step=step, session=session, run_config=config, options=options
                )
            finally:
                await close(session)

        return (await replayed(handler)).result

    assert await go(store(tmp_path / "durable.db"), durable) == await go(store(tmp_path / "plain.db"), plain)
