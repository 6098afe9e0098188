"""A small MCP server for tests: `python mcp_weather.py LOG [PORT]`; over stdio, or over streamable HTTP on a port.

It appends a line to LOG for each start and each call.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from mcp.server.mcpserver import MCPServer

log = Path(sys.argv[1])
server = MCPServer("weather", log_level="ERROR")


def note(line: str) -> None:
    with log.open("a") as file:
        file.write(line + "\n")


@server.tool()
def get_weather(city: str) -> str:
    """Tell the weather."""
    note(f"get_weather {city}")
    return f"The weather in {city} is sunny."


@server.tool()
def fails(city: str) -> str:
    """Fail."""
    note(f"fails {city}")
    raise RuntimeError("the station is away")


@server.tool()
def vanish() -> str:
    """Die in the middle of the call, the first time."""
    note("vanish")
    if log.read_text().split().count("vanish") == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return "still there"


@server.tool()
def secret() -> str:
    """Not for everybody."""
    note("secret")
    return "42"


@server.prompt()
def tone(mood: str) -> str:
    """How to speak."""
    note(f"prompt {mood}")
    return f"Speak in a {mood} tone."


if __name__ == "__main__":
    note("start")
    if len(sys.argv) > 2:
        server.run(transport="streamable-http", port=int(sys.argv[2]))
    else:
        server.run()
