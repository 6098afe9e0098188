"""`python -m inngest_agents.demo`, as `make demo` runs it: real processes, real SIGKILLs, a real order book."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

if sys.platform == "win32":
    pytest.skip("SIGKILL is of POSIX", allow_module_level=True)

OFFLINE = ("OPENAI_API_KEY", "INNGEST_AGENTS_DEMO_MODEL", "INNGEST_AGENTS_DEMO_PACE", "INNGEST_DEV")


def demo(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in OFFLINE}
    return subprocess.run(
        [sys.executable, "-m", "inngest_agents.demo", "--folder", str(folder), *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=180,
        check=False,
    )


def select(folder: Path, sql: str) -> list[Any]:
    connection = sqlite3.connect(folder / "order_book.db")
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def test_the_demo_kills_its_worker_twice_and_proves_that_nothing_happened_twice(tmp_path: Path) -> None:
    shown = demo(tmp_path)

    assert shown.returncode == 0, shown.stdout
    assert shown.stdout.count("SIGKILL to worker") == 2, shown.stdout
    assert "4 steps come from the memo" in shown.stdout
    assert "12 calls of the model for 12 model steps: none was made twice." in shown.stdout
    assert "PROVED: no side effect and no model call happened twice (2 kills" in shown.stdout
    assert "FAIL" not in shown.stdout
    assert "Traceback" not in shown.stdout
    assert "\x1b" not in shown.stdout, "a plain log has no colours"

    # The same without the demo's own proof.
    orders = select(tmp_path, "SELECT product, quantity FROM orders WHERE key IS NOT NULL ORDER BY product")
    assert orders == [("kettle", 3), ("mug", 2)]
    assert select(tmp_path, "SELECT number FROM refunds") == [(1001,)]
    assert select(tmp_path, "SELECT count(*) FROM mails") == [(2,)]
    assert select(tmp_path, "SELECT stock FROM products WHERE name IN ('kettle', 'mug') ORDER BY name") == [(9,), (38,)]
    assert select(tmp_path, "SELECT step FROM executions WHERE kind = 'model' GROUP BY step HAVING count(*) != 1") == []
    assert select(tmp_path, "SELECT count(DISTINCT process) FROM executions") == [(3,)]
    cut = [name for (name,) in select(tmp_path, "SELECT name FROM executions WHERE finished IS NULL ORDER BY name")]
    assert cut == ["place_order", "place_order", "quote_delivery"]
    assert select(tmp_path, "SELECT count(*) FROM executions WHERE repeated") == [(2,)]


def test_the_demo_reacts_to_a_prompt_and_leaves_no_worker_behind(tmp_path: Path) -> None:
    shown = demo(tmp_path, "Where is order 1002?")

    assert shown.returncode == 0, shown.stdout
    assert shown.stdout.count("SIGKILL to worker") == 1, shown.stdout
    assert "Order 1002 (1 x grinder) is shipped" in shown.stdout
    assert "Nothing was to be written, and nothing was." in shown.stdout
    for process in re.findall(r"^worker \d+ · process (\d+)", shown.stdout, re.MULTILINE):
        with pytest.raises(ProcessLookupError):
            os.kill(int(process), 0)


def test_the_demo_does_not_mix_two_order_books(tmp_path: Path) -> None:
    (tmp_path / "order_book.db").touch()

    shown = demo(tmp_path)

    assert shown.returncode == 2
    assert "holds the order book of another demo" in shown.stdout
