"""Sandbox agents: a real local sandbox, opened once, worked in step by step, and closed once."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agents import Agent, MaxTurnsExceeded, RunConfig, Runner, RunState, UserError
from agents.run_config import SandboxRunConfig
from agents.sandbox import LocalSnapshotSpec, Manifest, SandboxAgent
from agents.sandbox.capabilities import Filesystem, Memory, Shell
from agents.sandbox.config import MemoryGenerateConfig
from agents.sandbox.entries import File, LocalFile
from agents.sandbox.sandboxes.unix_local import UnixLocalSandboxClient
from agents.testing import ModelStep, ScriptedModel, assistant_message, function_call

from inngest_agents import DurableRunner, SandboxLostError
from inngest_agents.instrument import sandbox_session
from inngest_agents.testing import ReplayedRun, replayed


class CountingClient(UnixLocalSandboxClient):
    """Counts what is asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.did: list[str] = []
        self.roots: list[Path] = []

    async def create(self, **kwargs: Any) -> Any:
        self.did.append("create")
        session = await super().create(**kwargs)
        self.roots.append(Path(session.state.manifest.root))
        return session

    async def resume(self, state: Any) -> Any:
        self.did.append("resume")
        return await super().resume(state)

    async def delete(self, session: Any) -> Any:
        self.did.append("delete")
        return await super().delete(session)


async def in_fresh_processes(main: Callable[[Any], Any]) -> ReplayedRun[Any]:
    """Each request comes to a process in which no sandbox is open."""

    async def handler(step: Any) -> Any:
        sandbox_session._open.clear()
        return await main(step)

    return await replayed(handler)


def run(cmd: str, call_id: str, **more: Any) -> Any:
    return function_call("exec_command", {"cmd": cmd, **more}, call_id=call_id)


def script() -> list[Any]:
    return [
        [run("echo one >> notes.txt; cat notes.txt seed.txt", "c1")],
        [run("echo two >> notes.txt", "c2"), run("pwd | wc -l", "c3")],
        [run("cat notes.txt", "c4")],
        [assistant_message("done")],
    ]


def coder(model: ScriptedModel, **more: Any) -> SandboxAgent[Any]:
    manifest = Manifest(entries={"seed.txt": File(content=b"seed\n")})
    return SandboxAgent(name="coder", model=model, instructions="Code.", default_manifest=manifest, **more)


def config(client: Any, **more: Any) -> RunConfig:
    return RunConfig(sandbox=SandboxRunConfig(client=client, **more))


def same(value: Any) -> str:
    """Without what differs in each sandbox: directories, times, ids of chunks."""
    text = re.sub(r"/tmp/sandbox-local-\w+", "ROOT", repr(value))
    return re.sub(r"Wall time: [\d.]+|Chunk ID: \w+", "", text)


def asked(model: ScriptedModel) -> str:
    return same([(call.system_instructions, call.input, [tool.name for tool in call.tools]) for call in model.calls])


def steps(run: ReplayedRun[Any]) -> list[str]:
    return [step.partition("/")[2] for step in run.steps]


async def test_a_sandbox_is_opened_and_closed_once_and_each_command_is_a_step() -> None:
    plain_model, model, client = ScriptedModel(script()), ScriptedModel(script()), CountingClient()
    plain = await Runner.run(coder(plain_model), "x", run_config=config(CountingClient()))
    agent = coder(model)

    run = await replayed(lambda step: DurableRunner.run(agent, "x", step=step, run_config=config(client)))

    assert same(run.result.to_input_list()) == same(plain.to_input_list())
    assert "one\\nseed" in same(run.result.to_input_list())
    assert asked(model) == asked(plain_model)
    assert client.did == ["create", "delete"]
    assert not client.roots[0].exists()
    assert [step for step in steps(run) if "model" not in step and "prepare" not in step] == [
        "open sandbox coder",
        "1.1 exec_command",
        "2.1 exec_command",
        "2.2 exec_command",
        "3.1 exec_command",
        "close sandbox",
    ]
    assert run.result.stats.total_tool_calls == 4


async def test_a_sandbox_is_found_again_by_each_process_and_no_replay_alone_looks_for_it() -> None:
    model, client = ScriptedModel(script()), CountingClient()
    agent = coder(model)

    run = await in_fresh_processes(lambda step: DurableRunner.run(agent, "x", step=step, run_config=config(client)))

    text = same(run.result.to_input_list())
    assert "one\\nseed" in text
    assert "one\\ntwo" in text
    assert client.did.count("create") == client.did.count("delete") == 1
    in_the_sandbox = [step for step in steps(run) if "model" not in step and "open" not in step]
    assert client.did.count("resume") == len(in_the_sandbox)
    assert not client.roots[0].exists()


async def test_what_a_command_changed_is_not_undone_where_the_sandbox_is_found_again(tmp_path: Path) -> None:
    """Neither the manifest's files nor a snapshot are put in place of what earlier steps made."""
    turns = [[run("echo mine > seed.txt", "c1")], [run("cat seed.txt", "c2")], [assistant_message("done")]]
    client, agent = CountingClient(), coder(ScriptedModel(turns))
    chosen = config(client, snapshot=LocalSnapshotSpec(base_path=tmp_path))

    ended = await in_fresh_processes(lambda step: DurableRunner.run(agent, "x", step=step, run_config=chosen))

    assert "Output:\\nmine" in same(ended.result.to_input_list())
    assert os.listdir(tmp_path)  # the snapshot, which is made when the sandbox is closed


async def test_a_sandbox_that_is_gone_ends_the_run() -> None:
    turns = [[run("echo one > notes.txt", "c1")], [run("cat notes.txt", "c2")], [assistant_message("done")]]
    client, agent = CountingClient(), coder(ScriptedModel(turns))
    was_there: list[bool] = []

    async def main(step: Any) -> Any:
        if client.roots and (client.roots[0] / "notes.txt").exists():
            shutil.rmtree(client.roots[0])
            was_there.append(True)
        return await DurableRunner.run(agent, "x", step=step, run_config=config(client))

    with pytest.raises(SandboxLostError, match=r"agent 'coder' \(unix_local\)"):
        await in_fresh_processes(main)
    assert was_there == [True]
    assert client.did.count("create") == 1
    assert not client.roots[0].exists()  # no empty one was left in its place


async def test_a_command_in_the_background_lives_on_between_requests() -> None:
    def answer(call: Any) -> Any:
        number = re.search(r"session ID (\d+)", str(call.input))
        assert number is not None
        given = {"session_id": int(number[1]), "chars": "hello\n", "yield_time_ms": 2000}
        return ModelStep([function_call("write_stdin", given, call_id="c2")])

    turns: list[Any] = [
        [run("read line; echo got $line", "c1", tty=True, yield_time_ms=250)],
        ModelStep(responder=answer),
        [assistant_message("done")],
    ]
    agent, client = coder(ScriptedModel(turns)), CountingClient()
    ended = await replayed(lambda step: DurableRunner.run(agent, "x", step=step, run_config=config(client)))
    assert "got hello" in str(ended.result.to_input_list())


async def test_a_run_that_fails_closes_its_sandbox() -> None:
    client, agent = CountingClient(), coder(ScriptedModel(script()))
    with pytest.raises(MaxTurnsExceeded):
        await replayed(lambda step: DurableRunner.run(agent, "x", step=step, max_turns=2, run_config=config(client)))
    assert client.did == ["create", "delete"]


async def test_a_closing_that_fails_is_tried_again_and_harms_no_result() -> None:
    class Stubborn(CountingClient):
        async def delete(self, session: Any) -> Any:
            if self.did.count("delete") == 0:
                self.did.append("delete")
                raise RuntimeError("busy")
            return await super().delete(session)

    client, agent = Stubborn(), coder(ScriptedModel(script()))
    ended = await replayed(
        lambda step: DurableRunner.run(agent, "x", step=step, run_config=config(client)), max_attempts=2
    )
    assert ended.result.final_output == "done"
    assert client.did.count("delete") == 2
    assert not client.roots[0].exists()


@pytest.mark.parametrize("max_turns", [10, 2])
async def test_a_closing_that_fails_for_good_is_a_warning_and_leaves_a_stream_its_end(
    max_turns: int, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(CountingClient):
        async def delete(self, session: Any) -> Any:
            await super().delete(session)
            raise RuntimeError("gone already")

    client, agent = Broken(), coder(ScriptedModel(script()))

    async def main(step: Any) -> Any:
        result = DurableRunner.run_streamed(agent, "x", step=step, run_config=config(client), max_turns=max_turns)
        return await result.wait()

    if max_turns == 10:
        assert (await replayed(main)).result.final_output == "done"
    else:
        with pytest.raises(MaxTurnsExceeded):
            await replayed(main)
    assert client.did == ["create", "delete"]
    assert caplog.text.count("Failed to clean up sandbox resources after streamed run") == 1


async def test_an_opening_that_fails_is_tried_again_and_leaves_nothing() -> None:
    class Broken(CountingClient):
        async def create(self, **kwargs: Any) -> Any:
            session = await super().create(**kwargs)
            if self.did.count("create") == 1:
                session._inner.state.manifest.entries["x"] = LocalFile(src=Path("/nonexistent/file"))
            return session

    client, agent = Broken(), coder(ScriptedModel(script()))
    ended = await replayed(
        lambda step: DurableRunner.run(agent, "x", step=step, run_config=config(client)), max_attempts=2
    )
    assert ended.result.final_output == "done"
    assert client.did.count("create") == client.did.count("delete") == 2
    assert not any(root.exists() for root in client.roots)


def asking(tools: Any) -> None:
    tools.exec_command.needs_approval = True


async def test_an_approval_closes_the_sandbox_and_the_next_run_goes_on_in_its_workspace(tmp_path: Path) -> None:
    turns = [
        [function_call("note", {}, call_id="c0")],
        [run("cat seed.txt >> notes.txt; cat notes.txt", "c1")],
        [assistant_message("done")],
    ]
    client = CountingClient()
    agent = coder(ScriptedModel(turns[1:]), capabilities=[Shell(configure_tools=asking)])
    chosen = config(client, snapshot=LocalSnapshotSpec(base_path=tmp_path))

    async def main(step: Any) -> Any:
        result = await DurableRunner.run(agent, "x", step=step, run_config=chosen)
        assert [item.name for item in result.interruptions] == ["exec_command"]
        state = await RunState.from_json(agent, json.loads(json.dumps(result.to_state().to_json())))
        state.approve(state.get_interruptions()[0])
        return await DurableRunner.run(agent, state, step=step, run_config=chosen)

    ended = await in_fresh_processes(main)

    assert "Output:\\nseed" in same(ended.result.to_input_list())
    assert client.did.count("create") == 1
    assert client.did.count("delete") == 2
    assert not client.roots[0].exists()


@pytest.mark.parametrize("fresh", [False, True])
async def test_a_streamed_run_works_in_its_sandbox_and_closes_it(fresh: bool) -> None:
    client, agent = CountingClient(), coder(ScriptedModel(script()))

    async def main(step: Any) -> Any:
        result = DurableRunner.run_streamed(agent, "x", step=step, run_config=config(client))
        return await result.wait()

    ended = await (in_fresh_processes(main) if fresh else replayed(main))

    assert ended.result.final_output == "done"
    assert "one\\ntwo" in same(ended.result.to_input_list())
    assert steps(ended).count("close sandbox") == 1
    assert client.did.count("create") == client.did.count("delete") == 1
    assert not client.roots[0].exists()


async def test_a_streamed_run_that_fails_closes_its_sandbox() -> None:
    client, agent = CountingClient(), coder(ScriptedModel(script()))

    async def main(step: Any) -> Any:
        await DurableRunner.run_streamed(agent, "x", step=step, max_turns=2, run_config=config(client)).wait()

    with pytest.raises(MaxTurnsExceeded):
        await replayed(main)
    assert client.did == ["create", "delete"]


async def test_a_stream_that_is_cancelled_before_its_turn_on_a_replay_has_not_diverged() -> None:
    stopped = asyncio.Event()

    async def wait(_: Any) -> Any:
        stopped.set()
        await asyncio.Event().wait()

    client, agent = CountingClient(), coder(ScriptedModel([[run("pwd", "c1")], ModelStep.respond(wait)]))

    async def main(step: Any) -> int:
        result = DurableRunner.run_streamed(agent, "x", step=step, run_config=config(client))

        async def cancel() -> None:
            await stopped.wait()
            result.cancel()

        cancelling = asyncio.create_task(cancel())
        await result.wait()
        await cancelling
        return len(result.raw_responses)

    assert (await replayed(main)).result == 0
    assert client.did == ["create", "delete"]


def through_a_handoff(made: Agent[Any], model: ScriptedModel) -> Agent[Any]:
    return Agent(name="front", model=model, handoffs=[made])


def through_a_tool(made: Agent[Any], model: ScriptedModel) -> Agent[Any]:
    return Agent(name="front", model=model, tools=[made.as_tool("code", "Writes code")])


def through_a_streamed_tool(made: Agent[Any], model: ScriptedModel) -> Agent[Any]:
    return Agent(name="front", model=model, tools=[made.as_tool("code", "Writes code", on_stream=lambda _: None)])


@pytest.mark.parametrize("reach", [through_a_handoff, through_a_tool, through_a_streamed_tool])
@pytest.mark.parametrize("fresh", [False, True])
async def test_a_sandbox_agent_works_wherever_a_run_reaches_it(reach: Any, fresh: bool) -> None:
    front = [
        [function_call("transfer_to_coder", {}, call_id="f1")]
        if reach is through_a_handoff
        else [function_call("code", {"input": "x"}, call_id="f1")],
        [assistant_message("all done")],
    ]
    plain_model, model, client = ScriptedModel(script()), ScriptedModel(script()), CountingClient()
    plain = await Runner.run(reach(coder(plain_model), ScriptedModel(front)), "x", run_config=config(CountingClient()))
    agent = reach(coder(model), ScriptedModel(front))

    async def main(step: Any) -> Any:
        return await DurableRunner.run(agent, "x", step=step, run_config=config(client))

    ended = await (in_fresh_processes(main) if fresh else replayed(main))

    assert same(ended.result.to_input_list()) == same(plain.to_input_list())
    assert asked(model) == asked(plain_model)
    assert client.did.count("create") == client.did.count("delete") == 1
    assert not client.roots[0].exists()


async def test_a_session_that_the_user_has_opened_is_used_as_it_is() -> None:
    plain_model, model = ScriptedModel(script()), ScriptedModel(script())
    client = UnixLocalSandboxClient()
    async with await client.create(manifest=Manifest(entries={"seed.txt": File(content=b"seed\n")})) as session:
        chosen = RunConfig(sandbox=SandboxRunConfig(session=session))
        plain = await Runner.run(coder(plain_model), "x", run_config=chosen)
        await session.rm(Path("notes.txt"))
        agent = coder(model)
        ended = await replayed(lambda step: DurableRunner.run(agent, "x", step=step, run_config=chosen))
        assert (Path(session.state.manifest.root) / "notes.txt").read_text() == "one\ntwo\n"
    await client.delete(session)
    assert same(ended.result.to_input_list()) == same(plain.to_input_list())
    assert asked(model) == asked(plain_model)
    assert "close sandbox" not in steps(ended)


async def test_the_directory_of_a_run_is_looked_for_as_the_runner_does() -> None:
    client, agent = CountingClient(), coder(ScriptedModel(script()))
    with pytest.raises(UserError, match="`missing` does not exist"):
        await replayed(lambda step: DurableRunner.run(agent, "x", step=step, run_config=config(client, cwd="missing")))
    assert client.did == ["create", "delete"]


async def test_runs_may_share_a_sandbox_agent_at_the_same_time() -> None:
    client = CountingClient()
    agent = coder(
        ScriptedModel([[run("sleep 0.2; ls", f"c{n}")] for n in range(2)] + [[assistant_message("done")]] * 2)
    )
    both = await asyncio.gather(
        *(replayed(lambda step: DurableRunner.run(agent, "x", step=step, run_config=config(client))) for _ in range(2))
    )
    assert [one.result.final_output for one in both] == ["done", "done"]
    assert client.did.count("create") == client.did.count("delete") == 2


async def test_memories_are_made_in_the_step_that_closes_the_sandbox(tmp_path: Path) -> None:
    def remember(model: ScriptedModel) -> Memory:
        return Memory(read=None, generate=MemoryGenerateConfig(phase_one_model=model, phase_two_model=model))

    def memory_model() -> ScriptedModel:
        artifacts = {"rollout_summary": "s", "rollout_slug": "slug", "raw_memory": "m"}
        return ScriptedModel([[assistant_message(json.dumps(artifacts))], [assistant_message("merged")]])

    plain_memory, memory, client = memory_model(), memory_model(), CountingClient()
    more = {"capabilities": [Shell(), Filesystem(), remember(plain_memory)]}
    await Runner.run(coder(ScriptedModel(script()), **more), "x", run_config=config(CountingClient()))
    agent = coder(ScriptedModel(script()), capabilities=[Shell(), Filesystem(), remember(memory)])

    ended = await in_fresh_processes(lambda step: DurableRunner.run(agent, "x", step=step, run_config=config(client)))

    assert len(memory.calls) == len(plain_memory.calls) == 2
    assert ended.result.stats.total_model_calls == 4 + 2
    assert client.did.count("create") == client.did.count("delete") == 1


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("streamed", [False, True])
async def test_memories_that_cannot_be_made_are_the_warning_of_the_runner(
    durable: bool, streamed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    turns = [[run("touch sessions", "c1")], [assistant_message("done")]]  # where the SDK wants a directory
    memory = Memory(read=None, generate=MemoryGenerateConfig(phase_one_model=ScriptedModel()))
    agent = coder(ScriptedModel(turns), capabilities=[Shell(), Filesystem(), memory])

    async def main(step: Any) -> Any:
        runner: Any = DurableRunner if durable else Runner
        more = {"run_config": config(CountingClient()), **({"step": step} if durable else {})}
        if not streamed:
            return await runner.run(agent, "x", **more)
        result = runner.run_streamed(agent, "x", **more)
        async for _ in result.stream_events():
            pass
        return result

    assert (await replayed(main)).result.final_output == "done"
    kind = "streamed run" if streamed else "run"
    assert caplog.text.count(f"Failed to enqueue sandbox memory after {kind}") == 1


@pytest.mark.parametrize("reach", [through_a_tool, through_a_streamed_tool])
async def test_an_agent_tool_that_runs_out_of_time_leaves_no_sandbox_open(reach: Any) -> None:
    client = CountingClient()
    model = ScriptedModel([[run("touch begun", "c1")], [run("sleep 20", "c2", yield_time_ms=20_000)]])
    front = ScriptedModel([[function_call("code", {"input": "x"}, call_id="f1")], [assistant_message("no code")]])
    agent = reach(coder(model), front)
    tool: Any = agent.tools[0]
    tool.timeout_seconds = 2

    ended = await replayed(lambda step: DurableRunner.run(agent, "x", step=step, run_config=config(client)))

    assert ended.result.final_output == "no code"
    assert client.did.count("create") == client.did.count("delete") == 1
    assert not client.roots[0].exists()
    assert [step for step in steps(ended) if "timed out" in step or "close" in step] == ["1.1 code timed out"]
