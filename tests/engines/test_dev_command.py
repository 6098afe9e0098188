"""`inngest-agents dev` as a person runs it: the engine first, the app later."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import httpx
import inngest
from rich.console import Console

from inngest_agents.local import LocalEngine
from inngest_agents.local.console import watch
from inngest_agents.local.serve import ThreadedServer, functions_app

from .harness import free_port, wait_for_port
from .test_engine_protocol import until

if TYPE_CHECKING:
    from pathlib import Path


def test_the_dev_command_waits_for_the_app_runs_it_and_keeps_the_state(tmp_path: Path) -> None:
    port, app_port, log = free_port(), free_port(), tmp_path / "log"
    app_url, db = f"http://127.0.0.1:{app_port}/api/inngest", tmp_path / "state" / "s.db"
    command = [sys.executable, "-m", "inngest_agents.cli"]
    options = ["dev", "-u", app_url, "--port", str(port), "--db", str(db), "--no-console", "--poll", "0.2"]
    with log.open("wb") as out:
        process = subprocess.Popen([*command, *options], stdout=out, stderr=out)
    try:
        wait_for_port(port, process, log)
        until(lambda: "not registered" in log.read_text().replace("\n", " "))
        origin = f"http://127.0.0.1:{port}"
        client = inngest.Inngest(app_id="dev", is_production=False, api_base_url=origin, event_api_base_url=origin)

        @client.create_function(fn_id="fn", trigger=inngest.TriggerEvent(event="go"))
        async def fn(ctx: inngest.Context) -> Any:
            async def step() -> int:
                return 1

            return await ctx.step.run("the step", step)

        worker = ThreadedServer(functions_app(client, [fn]), port=app_port)
        worker.start()
        until(lambda: httpx.get(f"{origin}/dev").json()["functions"])
        httpx.post(f"{origin}/e/any", json={"name": "go", "data": {}})
        until(lambda: "completed, 1 steps" in log.read_text().replace("\n", " "))
        worker.stop(force=True)
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(90) == 0, log.read_text()
    shown = subprocess.run([*command, "show", "last", "--db", str(db)], capture_output=True, text=True, check=True)
    assert "✓ the step" in shown.stdout


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with LocalEngine() as engine:
        port = engine.url.rpartition(":")[2]
        command = [sys.executable, "-m", "inngest_agents.cli", "dev", "--port", port, "--db", str(tmp_path / "s.db")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"can't listen on 127.0.0.1:{port}" in done.stderr


def test_the_live_console_draws_until_it_is_stopped(inngest_engine: LocalEngine) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100)
    rounds = iter([False, False, True])
    watch(inngest_engine.store, console, apps=lambda: ["http://app: registered"], stop=lambda: next(rounds))
    assert "http://app: registered" in screen.getvalue()
    assert "no runs yet" in screen.getvalue()
