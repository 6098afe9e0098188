"""Starts the servers that are measured."""

from __future__ import annotations

import socket
import subprocess
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports: list[int] = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def start_process(
    command: Sequence[str],
    log: IO[bytes],
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start a server that writes to a log."""
    return subprocess.Popen(command, env=environment, cwd=directory, stdout=log, stderr=log)


def stop_process(process: subprocess.Popen[bytes]) -> None:
    """Ask it to stop, and make it stop if it does not."""
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
