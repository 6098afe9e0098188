"""What the console and the command line draw."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from inngest_agents.cli import app
from inngest_agents.local import console as drawing
from inngest_agents.local.models import NewJob, RunStatus, StepAttempt, StepRecord, StepStatus
from inngest_agents.local.store import Store

if TYPE_CHECKING:
    from pathlib import Path

MS = 1_000_000
START = 1_700_000_000_000 * MS


@pytest.fixture
def db(tmp_path: Path) -> Path:
    """A file with one failed run of three steps."""
    path = tmp_path / "s.db"
    store = Store(path)
    usage = '[{"kind": "inngest.ai", "values": {"total_tokens": 42, "response_model": "m-1", "estimated_cost": 0.5}}]'
    steps = [
        StepRecord("a", "StepRun", "model", StepStatus.COMPLETED, "{}", metadata_json=usage, started_ns=START),
        StepRecord("b", "StepError", "tool", StepStatus.FAILED, '{"error":{}}', started_ns=START + 50 * MS),
        StepRecord("c", "Sleep", "nap", StepStatus.SLEEPING, started_ns=START + 80 * MS),
    ]
    with store.transaction():
        store.add_run("01RUN", "app-fn", "E", '[{"name":"go"}]', [], START)
        store.add_job("01RUN", NewJob("start"))
        store.start_run("01RUN", START)
        for n, step in enumerate(steps[:2]):
            store.save_step("01RUN", replace(step, ended_ns=START + 40 * (n + 1) * MS), START)
        store.report_step("01RUN", steps[2], START + 80 * MS)
        for attempt, retry in ((0, True), (1, False)):
            error = '{"name": "ValueError", "message": "no such order"}'
            store.add_attempt("01RUN", StepAttempt("b", attempt, "Q", START, START + 60 * MS, error, retry))
        store.end_run("01RUN", RunStatus.FAILED, START + 100 * MS, error='{"name": "E", "message": "over"}')
    store.close()
    return path


def draw(renderable: Any) -> str:
    console = Console(width=140, record=True, file=sys.stderr)
    console.print(renderable)
    return console.export_text()


def test_a_waterfall_shows_steps_bars_errors_and_usage(db: Path) -> None:
    store = Store(db)
    run = store.run("01RUN")
    assert run is not None
    text = draw(drawing.waterfall(run, store.steps(run.id), START + 200 * MS))
    lines = text.splitlines()
    model = next(line for line in lines if "model" in line)
    tool = next(line for line in lines if "tool" in line)
    assert model.startswith("✓ model")
    assert "m-1 42 tokens $0.5000" in model
    assert tool.startswith("✗ tool")
    assert "1 failed attempt" in tool
    assert "ValueError: no such order" in tool
    assert model.index("━") < tool.index("━"), "a later step starts further right"
    assert any(line.startswith("z nap") for line in lines)
    assert "✗ E: over" in text
    assert "100 ms" in lines[0]
    store.close()


def test_the_live_view_shows_functions_runs_and_the_latest_steps(db: Path) -> None:
    store = Store(db)
    text = draw(drawing.live_view(store, START, apps=["http://x: registered"]))
    assert "http://x: registered" in text
    assert "01RUN" in text
    assert "✓ model" in text
    store.close()


def test_a_live_view_of_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "empty.db")
    assert "no runs yet" in draw(drawing.live_view(store, START))
    store.close()


@pytest.mark.parametrize(
    ("ns", "text"),
    [(340_000, "340 µs"), (1_500_000, "1.5 ms"), (42 * MS, "42 ms"), (1200 * MS, "1.2 s"), (185_000 * MS, "3 min 5 s")],
)
def test_durations_read_well(ns: int, text: str) -> None:
    assert drawing.format_duration(ns) == text


def test_the_commands_list_and_show(db: Path) -> None:
    runner = CliRunner()
    listed = runner.invoke(app, ["runs", "--db", str(db)])
    assert listed.exit_code == 0
    assert "01RUN" in listed.output
    assert "Failed" in listed.output
    for which in ("last", "01r", "run"):
        shown = runner.invoke(app, ["show", which, "--db", str(db)])
        assert shown.exit_code == 0
        assert "✓ model" in shown.output


def test_the_commands_say_what_is_wrong(db: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    missing = runner.invoke(app, ["runs", "--db", str(tmp_path / "no.db")])
    assert missing.exit_code == 1
    assert "inngest-agents dev" in missing.output
    unknown = runner.invoke(app, ["show", "zzz", "--db", str(db)])
    assert unknown.exit_code == 1
    assert "no run zzz" in unknown.output


def test_the_pytest_plugin_imports_nothing_of_the_engine() -> None:
    code = (
        "import sys, inngest_agents; before = set(sys.modules)\n"
        "import inngest_agents.local.pytest_plugin\n"
        "new = set(sys.modules) - before\n"
        "heavy = [m for m in new if m.split('.')[0] in ('uvicorn', 'starlette', 'sqlite3', 'cel', 'rich', 'httpx')]\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_package_says_what_to_install_where_a_module_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys; sys.modules['uvicorn'] = None\n"
        "import inngest_agents.local as local\n"
        "try: local.LocalEngine\n"
        "except ModuleNotFoundError as e: assert 'inngest-agents[local]' in str(e), e\n"
        "else: raise SystemExit('no error')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
