"""DBOS with `dbos-openai-agents` and SQLite: `DBOSRunner.run` in a workflow, the tool a `@DBOS.step()`."""

from __future__ import annotations

import json
import sqlite3
from typing import TYPE_CHECKING

from agents import function_tool
from dbos import DBOS, SetWorkflowID
from dbos_openai_agents import DBOSRunner

from benchmarks import measure, workloads

if TYPE_CHECKING:
    from pathlib import Path

agent = workloads.make_agent([function_tool(DBOS.step()(workloads.lookup))])


@DBOS.workflow()
async def run_agent(prompt: str) -> str:
    """The workflow of the package's README."""
    result = await DBOSRunner.run(agent, prompt, **workloads.run_options())
    return str(result.final_output)


class Dbos:
    """DBOS in this process, its system database in a file."""

    name = "DBOS (SQLite)"
    durability = "fsync"
    packages = ("dbos", "dbos-openai-agents")
    kept: tuple[workloads.Workload, ...] = (workloads.LARGE,)

    async def start(self, directory: Path) -> None:
        """Launch on a new database."""
        self.file = directory / "dbos.sqlite"
        DBOS(
            config={
                "name": "bench",
                "system_database_url": f"sqlite:///{self.file}",
                "run_admin_server": False,
                "log_level": "ERROR",
            }
        )
        DBOS.launch()

    async def run(self, prompt: str) -> str:
        """Call the workflow."""
        with SetWorkflowID(json.loads(prompt)["run"]):
            return str(await run_agent(prompt))

    async def stop(self) -> None:
        """Shut down."""
        DBOS.destroy()

    def notes(self) -> dict[str, str]:
        """How the database is kept: DBOS leaves SQLite at its defaults."""
        with sqlite3.connect(self.file) as database:
            mode = database.execute("PRAGMA journal_mode").fetchone()[0]
            level = database.execute("PRAGMA synchronous").fetchone()[0]
        return {"sqlite": f"{sqlite3.sqlite_version}, journal_mode={mode}, synchronous={level}"}

    async def state(self, prompt: str) -> int | None:
        """What the steps of the run take in their table."""
        query = "SELECT SUM(LENGTH(output)) FROM operation_outputs WHERE workflow_uuid = ?"
        with sqlite3.connect(self.file) as database:
            return int(database.execute(query, (json.loads(prompt)["run"],)).fetchone()[0])


if __name__ == "__main__":
    measure.main(lambda plan: Dbos())
