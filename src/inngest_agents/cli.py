"""The command line: `inngest-agents dev`, `runs`, `show`.

Commands import what they need when they run, so that the help is there at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

if TYPE_CHECKING:
    from inngest_agents.local import Run, Store

try:
    import typer
except ModuleNotFoundError:
    sys.exit("the command line needs more packages: pip install 'inngest-agents[local]'")

DEFAULT_DB = Path(".inngest-agents/state.db")

app = typer.Typer(
    name="inngest-agents",
    help="Run Inngest functions and durable agents on an embedded engine, and look at their runs.",
    no_args_is_help=True,
    add_completion=False,
)

Db = Annotated[Path, typer.Option("--db", help="The file that keeps the state.", dir_okay=False)]


@app.command()
def dev(
    url: Annotated[list[str] | None, typer.Option("--url", "-u", help="Where an app serves Inngest.")] = None,
    *,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "-p", help="The port to listen on.")] = 8288,
    db: Db = DEFAULT_DB,
    poll: Annotated[float, typer.Option(help="Ask apps for changed functions every so many seconds; 0: never.")] = 5.0,
    no_console: Annotated[bool, typer.Option("--no-console", help="A line per change instead of the view.")] = False,
) -> None:
    """Run the embedded engine: for development. Point apps at it by INNGEST_DEV=1 (or the engine's URL)."""
    _need("uvicorn", "starlette", "rich", "cel")
    from rich.console import Console

    from inngest_agents.local.dev import run_dev

    console = Console()
    live = console.is_terminal and not no_console
    try:
        run_dev(url or [], host=host, port=port, db=db, poll_seconds=poll, live=live, console=console)
    except OSError as error:
        _fail(f"can't listen on {host}:{port}: {error.strerror or error}")


@app.command()
def runs(
    *,
    db: Db = DEFAULT_DB,
    limit: Annotated[int, typer.Option("--limit", "-n", help="At most so many.")] = 20,
) -> None:
    """List the latest runs."""
    import time

    store = _open(db)
    from rich.console import Console

    from inngest_agents.local.console import runs_table

    Console().print(runs_table(store.runs(limit=limit), time.time_ns()))


@app.command()
def show(
    run: Annotated[str, typer.Argument(help="The run's id, or its beginning or end; `last` for the latest.")],
    *,
    db: Db = DEFAULT_DB,
) -> None:
    """Draw one run as a waterfall of its steps."""
    import time

    store = _open(db)
    from rich.console import Console

    from inngest_agents.local.console import waterfall

    found = _find(store, run)
    Console().print(waterfall(found, store.steps(found.id), time.time_ns()))


def _open(db: Path) -> Store:
    """The state file, which must be there."""
    _need("rich", "cel")
    from inngest_agents.local.store import Store, StoreVersionError

    if not db.exists():
        _fail(f"there is no {db}; run `inngest-agents dev` first, or name another file with --db")
    try:
        return Store(db)
    except StoreVersionError as error:
        _fail(str(error))


def _find(store: Store, run: str) -> Run:
    """The one run that a person means."""
    found = store.runs(limit=1) if run == "last" else store.find_runs(run)
    if not found:
        _fail(f"no run {run}")
    if len(found) > 1:
        _fail(f"{run} could be each of {', '.join(r.id for r in found)}")
    return found[0]


def _need(*modules: str) -> None:
    """Say what to install if a module of the extra is missing."""
    from importlib.util import find_spec

    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        _fail(f"this command needs {', '.join(missing)}: pip install 'inngest-agents[local]'")


def _fail(message: str) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(1)


if __name__ == "__main__":
    app()
