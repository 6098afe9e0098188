"""The fixture `engine`: each engine that is there, started on free ports for one test."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from .harness import EmbeddedEngine, EngineUnderTest, ServerEngine, server_binary

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NO_SERVER = "no Inngest server: put `inngest` on the PATH or name it by INNGEST_CLI"


@pytest.fixture(
    params=[
        "embedded",
        pytest.param("server", marks=pytest.mark.skipif(server_binary() is None, reason=NO_SERVER)),
    ]
)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EngineUnderTest]:
    """An engine of each kind, and no functions yet."""
    yield from _running(EmbeddedEngine(tmp_path) if request.param == "embedded" else _server(tmp_path))


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[EmbeddedEngine]:
    """The embedded engine alone, for what can't be seen or set on the real one."""
    for engine in _running(EmbeddedEngine(tmp_path)):
        yield cast("EmbeddedEngine", engine)


def _server(folder: Path) -> ServerEngine:
    return ServerEngine(folder, cast("str", server_binary()))


def _running(engine: EngineUnderTest) -> Iterator[EngineUnderTest]:
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()
