"""The command line: `inngest-agents dev`, `runs`, `show`, `costs`.

Commands import what they need when they run, so that the help is there at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType

    from inngest_agents.history.server import ServerRuns
    from inngest_agents.history.source import RunSource, RunSummary
    from inngest_agents.local import Store

try:
    import typer
except ModuleNotFoundError:
    sys.exit("the command line needs more packages: pip install 'inngest-agents[local]'")

T = TypeVar("T")

DEFAULT_DB = Path(".inngest-agents/state.db")

app = typer.Typer(
    name="inngest-agents",
    help="Run Inngest functions and durable agents on an embedded engine, and look at their runs.",
    no_args_is_help=True,
    add_completion=False,
)

Db = Annotated[Path, typer.Option("--db", help="The file that keeps the state.", dir_okay=False)]
Server = Annotated[
    str | None,
    typer.Option(
        "--url",
        help="Ask this Inngest server instead of a file: http://127.0.0.1:8288, https://api.inngest.com, … "
        "The key is INNGEST_API_KEY or INNGEST_SIGNING_KEY, the environment INNGEST_ENV.",
    ),
]


@app.command()
def dev(
    url: Annotated[list[str] | None, typer.Option("--url", "-u", help="Where an app serves Inngest.")] = None,
    *,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "-p", min=0, max=65535, help="The port to listen on.")] = 8288,
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
    url: Server = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many.")] = 20,
) -> None:
    """List the latest runs, of the embedded engine or (--url) of an Inngest server."""
    import time
    from itertools import islice

    if url is not None:
        source = _server(url)
        from inngest_agents.history.terminal import runs_table as server_runs

        _print(server_runs(_asked(lambda: list(islice(source.runs(), limit)))))
        return
    store = _open(db)
    from inngest_agents.local.console import runs_table

    _print(runs_table(store.runs(limit=limit), time.time_ns()))


@app.command()
def show(
    run: Annotated[str, typer.Argument(help="The run's id, or its beginning or end; `last` for the latest.")],
    *,
    db: Db = DEFAULT_DB,
    url: Server = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write one self-contained page.", dir_okay=False)] = None,
) -> None:
    """Draw one run as a waterfall of its steps; with --html, with what went in and out, as a page.

    A server (--url) is asked by its REST API v2, which the dev server, one of your own and Inngest Cloud have; it wants
    the whole id of a run.
    """
    import time

    source: RunSource
    if url is not None:
        source = _server(url)
    else:
        store = _open(db)
        from inngest_agents.history.embedded import EmbeddedRuns

        source = EmbeddedRuns(store)
    found = _find(source, run)
    if html is not None:
        from inngest_agents.stats.html import page

        report = _asked(lambda: source.report(found))
        _write(html, page(report))
        typer.echo(f"wrote {html}")
    elif url is not None:
        from inngest_agents.history.terminal import run_view

        _print(run_view(_asked(lambda: source.report(found))))
    else:
        from inngest_agents.local.console import waterfall

        stored = store.run(found.run_id)
        assert stored is not None
        _print(waterfall(stored, store.steps(stored.id), time.time_ns()))


@app.command()
def costs(
    *,
    by: Annotated[str, typer.Option(help="Some of day (UTC), function, agent, model.")] = "day,model",
    since: Annotated[str | None, typer.Option(help="E.g. 2026-11-01, or 7d for the last week.")] = None,
    until: Annotated[str | None, typer.Option(help="E.g. 2026-11-30: that day is the last.")] = None,
    db: Db = DEFAULT_DB,
    url: Server = None,
    csv: Annotated[str | None, typer.Option("--csv", help="Write CSV to this file; - for the terminal.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw into this .svg or .html.", dir_okay=False)] = None,
) -> None:
    """Sum what runs used and cost, of the embedded engine or (--url) of an Inngest server.

    A run counts for the day on which it started, and a run under way with what it has used so far. Runs without durable
    steps are left out, and counted.
    """
    import time

    from inngest_agents.history.costs import parse_dimensions, parse_moment, read_costs
    from inngest_agents.stats.costs import cost_csv, cost_plot, cost_table

    try:
        dimensions, now = parse_dimensions(by), time.time()
        start = None if since is None else parse_moment(since, now=now)
        end = None if until is None else parse_moment(until, now=now, is_end=True)
    except ValueError as error:
        _fail(str(error))
    if plot is not None and plot.suffix.lower() not in (".svg", ".html"):
        _fail(f"{plot}: a plot is an .svg or an .html file")
    source: RunSource
    if url is not None:
        source = _server(url)
    else:
        store = _open(db)
        from inngest_agents.history.embedded import EmbeddedRuns

        source = EmbeddedRuns(store)
    found = _asked(lambda: read_costs(source, dimensions, since=start, until=end))
    if csv == "-":
        typer.echo(cost_csv(found.rows, dimensions), nl=False)
    elif csv is not None:
        _write(Path(csv), cost_csv(found.rows, dimensions))
    if plot is not None:
        _write(plot, cost_plot(found.rows, dimensions, is_html=plot.suffix.lower() == ".html"))
    if csv != "-":
        typer.echo(cost_table(found.rows, dimensions) if found.rows else "no runs with durable steps")
    for note in found.notes():
        typer.echo(note, err=True)


def _server(url: str) -> ServerRuns:
    """A server, with the keys that the Inngest SDK and command line use too."""
    import os

    _need("httpx", "rich")
    from inngest_agents.history.server import ServerRuns

    key = os.environ.get("INNGEST_API_KEY") or os.environ.get("INNGEST_SIGNING_KEY") or ""
    return _asked(lambda: ServerRuns(url, key=key, environment=os.environ.get("INNGEST_ENV", "")))


def _asked(ask: Callable[[], T]) -> T:
    """What a source of runs answers; its errors are for the person at the terminal."""
    from inngest_agents.history.source import SourceError

    try:
        return ask()
    except SourceError as error:
        _fail(str(error))


def _write(path: Path, content: str) -> None:
    try:
        path.write_text(content, encoding="utf-8")
    except OSError as error:
        _fail(f"can't write {path}: {error.strerror or error}")


def _print(drawn: RenderableType) -> None:
    from rich.console import Console

    Console().print(drawn)


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


def _find(source: RunSource, run: str) -> RunSummary:
    """The one run that a person means."""
    found = _asked(lambda: source.find(run))
    if not found:
        _fail(f"no run {run}")
    if len(found) > 1:
        _fail(f"{run} could be each of {', '.join(r.run_id for r in found)}")
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
