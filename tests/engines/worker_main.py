"""Serves `build(client)` of `file.py:build`, in a process that a test can kill. Started by the harness."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
from pathlib import Path

import inngest
import uvicorn

from inngest_agents.local.serve import functions_app


def main() -> None:
    target, port = sys.argv[1:]
    # The port is open before the functions are built: a target that forks serves it with one child after the other,
    # and what comes in between waits in the backlog.
    listening = socket.create_server(("127.0.0.1", int(port)), backlog=128)
    path, _, name = target.partition(":")
    spec = importlib.util.spec_from_file_location("worker_target", Path(__file__).parent / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    client = inngest.Inngest(
        app_id=os.environ["TEST_APP_ID"],
        is_production=False,
        api_base_url=os.environ["TEST_API_URL"],
        event_api_base_url=os.environ["TEST_EVENT_URL"],
    )
    app = functions_app(client, getattr(module, name)(client))
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])


if __name__ == "__main__":
    main()
