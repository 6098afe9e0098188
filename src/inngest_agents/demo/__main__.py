"""`python -m inngest_agents.demo [PROMPT] [--model NAME]`: durable agents, a killed worker, and the proof."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

PROMPT = "I'd like 3 kettles and 2 mugs, please. And order 1001 arrived broken: I want my money back."


def main(arguments: list[str] | None = None) -> int:
    """Play the demo; the exit code is 0 if the run ended well and everything was proved."""
    parser = argparse.ArgumentParser(prog="python -m inngest_agents.demo", description=__doc__)
    parser.add_argument("prompt", nargs="?", default=PROMPT, help="what the customer types")
    parser.add_argument("--model", help="a model of OpenAI's, or LiteLLM's name of one; default: see the README")
    parser.add_argument("--folder", type=Path, help="where the order book and the engine's state are kept")
    options = parser.parse_args(arguments)
    if options.model:
        os.environ["INNGEST_AGENTS_DEMO_MODEL"] = options.model
    folder = options.folder or Path(tempfile.mkdtemp(prefix="inngest-agents-demo-"))
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "order_book.db").exists():
        parser.error(f"{folder} holds the order book of another demo; its proof would count both")

    try:
        from inngest_agents.demo.models import chosen_model
        from inngest_agents.demo.processes import WorkerError
        from inngest_agents.demo.scenario import Scenario
        from inngest_agents.demo.show import Show
    except ModuleNotFoundError as error:
        sys.exit(f"the demo needs {error.name}: pip install 'inngest-agents[demo]'")

    show = Show()
    show.opening(options.prompt, chosen_model(), str(folder))
    try:
        outcome = Scenario(folder, show).play(options.prompt)
    except KeyboardInterrupt:
        return 130
    except (WorkerError, TimeoutError) as error:
        show.line((str(error), "bold red"), mark="✗")
        return 1
    show.closing(outcome)
    ended = outcome.run.error is None and outcome.run.output is not None
    proved = all(check.holds for check in outcome.checks)
    kills = f"{len(outcome.kills)} kills" if len(outcome.kills) != 1 else "1 kill"
    verdict = "PROVED: no side effect and no model call happened twice" if proved else "NOT PROVED, see above"
    show.line((f"{verdict} ({kills}, {outcome.seconds:.1f} s).", "bold green" if proved else "bold red"))
    show.line(f"Look for yourself: the table executions in {folder / 'order_book.db'}")
    show.line(f"and: inngest-agents show {outcome.run.id} --db {folder / 'engine.db'}")
    return 0 if ended and proved else 1


if __name__ == "__main__":
    sys.exit(main())
