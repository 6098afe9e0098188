"""A worker whose sandbox agent kills it (SIGKILL) in the middle of each command, once. Used by test_sandbox.py."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import inngest
from agents import ModelResponse, RunConfig, Usage, set_tracing_disabled
from agents.models.interface import Model
from agents.run_config import SandboxRunConfig
from agents.sandbox import Manifest, SandboxAgent
from agents.sandbox.entries import File
from agents.sandbox.sandboxes.unix_local import UnixLocalSandboxClient
from agents.testing import assistant_message, function_call

from inngest_agents import DurableOptions, DurableRunner

set_tracing_disabled(True)

LOG = Path(os.environ["LOG"])

COMMANDS = ["echo one >> notes.txt", "cat notes.txt seed.txt > both.txt", "cat both.txt"]


def note(what: str) -> None:
    with LOG.open("a") as file:
        file.write(f"{what}\n")


class Coder(Model):
    """Answers by what the input shows, so that it is the same model in every process."""

    async def get_response(self, system_instructions: Any, input: Any, *args: Any, **kwargs: Any) -> ModelResponse:
        done = [item for item in input if item.get("type") == "function_call_output"]
        note(f"model {len(done)}")
        if len(done) == len(COMMANDS):
            output: list[Any] = [assistant_message(done[-1]["output"].partition("Output:\n")[2])]
        else:
            # Once for each command, the worker dies before the command has done anything.
            dying = f"[ -e died-{len(done)} ] || {{ touch died-{len(done)}; kill -9 {os.getpid()}; exit; }}; "
            output = [function_call("exec_command", {"cmd": dying + COMMANDS[len(done)]}, call_id=f"c{len(done)}")]
        return ModelResponse(output=output, usage=Usage(requests=1), response_id=f"r{len(done)}")

    def stream_response(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError


class Client(UnixLocalSandboxClient):
    """Notes what is asked of it."""

    async def create(self, **kwargs: Any) -> Any:
        session = await super().create(**kwargs)
        note(f"create {session.state.manifest.root}")
        return session

    async def resume(self, state: Any) -> Any:
        note("resume")
        return await super().resume(state)

    async def delete(self, session: Any) -> Any:
        note("delete")
        return await super().delete(session)


def build(client: inngest.Inngest) -> list[Any]:
    manifest = Manifest(entries={"seed.txt": File(content=b"seed\n")})
    coder = SandboxAgent(name="coder", model=Coder(), default_manifest=manifest)

    @client.create_function(fn_id="code", trigger=inngest.TriggerEvent(event="code"), retries=20)
    async def code(ctx: inngest.Context) -> Any:
        options = DurableOptions(checkpoint=os.environ["CHECKPOINT"] == "1")
        run_config = RunConfig(sandbox=SandboxRunConfig(client=Client()))
        result = await DurableRunner.run(coder, "go", step=ctx.step, options=options, run_config=run_config)
        return result.final_output

    serve_in_forks()
    return [code]


def serve_in_forks() -> None:
    """Let a child go on and serve; when it is killed, fork the next one."""
    while (child := os.fork()) != 0:
        os.waitpid(child, 0)
