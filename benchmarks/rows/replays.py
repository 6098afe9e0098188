"""What it costs to make the requests of a run again, beside plain passes of the same turns."""

from __future__ import annotations

import contextlib
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks import measure, workloads

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from benchmarks.workloads import Workload

REPEATS = 9
"""How often the request in which everything is remembered is made."""

REPEATS_OF_ALL = 3
"""How often each of the others is: what the garbage collector takes, it takes from one of them."""


@dataclass
class Request:
    """One Call Request, kept so that it can be made again."""

    scope: dict[str, Any]
    body: bytes

    def of(self, function: str, instead_of: str) -> Request:
        """The same for another function of the app."""
        query = self.scope["query_string"].replace(instead_of.encode(), function.encode())
        return Request({**self.scope, "query_string": query}, self.body)


@dataclass
class Recorder:
    """An ASGI app around the functions' own, which keeps the Call Requests while it is told to."""

    app: Any
    requests: list[Request] | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass the request on."""
        if self.requests is None or scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        chunks = []
        while True:
            message = await receive()
            chunks.append(message.get("body", b""))
            if not message.get("more_body"):
                break
        request = Request(dict(scope), b"".join(chunks))
        self.requests.append(request)
        await self.app(scope, _receiver(request.body), send)

    async def again(self, request: Request) -> None:
        """Make a Call Request again; past the last memo it does the next step, and nobody hears of it.

        Raises:
            RuntimeError: it was not answered as it should be.
        """
        statuses: list[int] = []

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        await self.app(dict(request.scope), _receiver(request.body), send)
        if statuses not in ([200], [206]):
            raise RuntimeError(f"the request made again was answered with {statuses}")


def _receiver(body: bytes) -> Callable[[], Awaitable[dict[str, Any]]]:
    """Gives a body that is there already; the client then never goes away."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        return messages.pop() if messages else {"type": "http.disconnect"}

    return receive


async def compare(run: Any, recorder: Recorder, workload: Workload, durable: str, plain: str) -> None:
    """Run in the standard way, make its requests again, and compare them with plain passes.

    The request that finds all steps is compared with a whole plain pass, and all requests together with plain passes
    that are cut after the step which each of them has done: by themselves, and as the same request to a function that
    makes just this pass, which costs the web framework and the Inngest SDK what the durable one does.

    Args:
        run: makes the durable run.
        recorder: keeps its requests.
        workload: what to run.
        durable: the id of the function that was asked.
        plain: the id of the function that makes a plain pass of the same prompt.
    """
    recorded: list[Request] = []
    recorder.requests = recorded
    await measure.sample(run, workload)
    recorder.requests = None
    last = recorded[-1]
    pairs = [(await _timed(recorder.again(last)), await _timed(_plain(workload))) for _ in range(REPEATS)]
    requests = plain_passes = plain_requests = 0.0
    for done, request in enumerate(recorded):
        for _ in range(REPEATS_OF_ALL):
            requests += (await _timed(recorder.again(request))).cpu / REPEATS_OF_ALL
            plain_passes += (await _timed(_plain(workload, done + 1))).cpu / REPEATS_OF_ALL
            with workloads.cut_after(done + 1):
                plain_requests += (await _timed(recorder.again(request.of(plain, durable)))).cpu / REPEATS_OF_ALL
    measure.emit(
        "replay",
        workload=workload.name,
        steps=workload.steps,
        requests=len(recorded),
        replay=statistics.median(durable.wall / plain.wall for durable, plain in pairs),
        plain=statistics.median(plain.wall for _, plain in pairs),
        deepest=statistics.median(durable.cpu / plain.cpu for durable, plain in pairs),
        cpu_per_request=requests / len(recorded),
        cpu_ratio=requests / plain_passes,
        cpu_ratio_served=requests / plain_requests,
    )


async def _plain(workload: Workload, steps: int | None = None) -> None:
    """One plain pass, cut after so many steps if a number is given."""
    with workloads.cut_after(steps), contextlib.suppress(workloads.Cut):
        await measure.plain(workload.prompt("replay"))


class _Cost(NamedTuple):
    """What a piece of work took."""

    wall: float
    cpu: float


async def _timed(work: Awaitable[None]) -> _Cost:
    """The wall and processor time of a piece of work."""
    wall, cpu = time.perf_counter(), time.process_time()
    await work
    return _Cost(time.perf_counter() - wall, time.process_time() - cpu)
