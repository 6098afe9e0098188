from __future__ import annotations

from pathlib import Path

import pytest

from inngest_agents.demo.order_book import OrderBook


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OrderBook:
    """A fresh order book without waits, which the tools of the demo's agents use."""
    monkeypatch.setenv("INNGEST_AGENTS_DEMO_DB", str(tmp_path / "order_book.db"))
    from inngest_agents.demo import agents

    fresh = OrderBook(tmp_path / "order_book.db", pace=0)
    monkeypatch.setattr(agents, "book", fresh)
    return fresh
