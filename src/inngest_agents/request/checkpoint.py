"""Saves finished steps while the request stays open (specification, section 10.3.1).

One save is `POST {api}/v1/checkpoint/{run_id}/async` with the opcodes that the 206 answer would have held. A step that
has ended is sent at once, while the next model call already goes on; steps that end while a save is under way go out
together with the next one. Holding a save back, so that a tool's result goes out with the next response, made a step of
an instant model 0.4 ms faster; but a process that dies meanwhile repeats the tool, so it was taken out again.

A save is repeated on a cut connection or a 5xx, since the server ignores a step that it has already; no sooner than a
`Retry-After` says. If it stays impossible for some seconds, the steps are answered in the 206 as if there were no
checkpointing. 409 means that another worker owns the run, 404 that the run has ended: then everything stops. But a 404
of a path that is not there says nothing of the run.
"""

from __future__ import annotations

import asyncio
import enum
import json
import logging
import math
import re
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from inngest_agents._inngest_sdk import CheckpointTarget, StepResponse
from inngest_agents.request import _http

logger = logging.getLogger("inngest_agents")

NO_ROUTE: Final = ("page not found", "<html", "<!doctype", '{"detail":"not found"}', "cannot post")
"""What servers and proxies say of a path that they do not have: the run is not over, the address is wrong."""

RUN_GONE: Final = ("run not found", "metadata not found")
"""What the real server says, with status 400, of a run that has ended (specification: 404)."""

PASSING: Final = (408, 425, 429)
"""Answers below 500 that may be another the next time (a proxy says 408 when a connection was idle for long)."""

RETRY_DELAYS: Final = (0.05, 0.2)
"""Seconds before a save is tried again; then the 206 takes over."""

RESTART_DELAYS: Final = (0.5, 1.0, 2.0, 4.0)
"""The same after these, unless the API was away for that long already: mostly it restarts, and where the engine does
so, too, the request is cut off and its 206 arrives nowhere. With the 50 seconds that a request takes by default they
stay below the minute after which proxies cut it off."""

PATIENCE_SECONDS: Final = 15.0
"""How long a save is tried again at most: one that is not answered takes longer each time than one that is refused."""

TIMEOUT_SECONDS: Final = 10.0
"""How long one save may take. A slow API costs time and never a step."""

FRESH_SECONDS: Final = 5.0
"""How old the engine's last word that the run is this request's may be where a step starts. Engines send a request that
was cut anew after ten seconds and more."""

ASK_SECONDS: Final = 2.0
"""How long an answer to whose the run is, is waited for in a request that saves nothing: perhaps as no worker reaches
the API."""

MAX_OUTPUT: Final = 4 * 1024 * 1024
"""Bytes of one step's output that the server takes."""

ULID_DIGITS: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

PLAIN_DIGITS: Final = str.maketrans(ULID_DIGITS, "0123456789ABCDEFGHIJKLMNOPQRSTUV")
"""From the digits of a ULID, which has no letters that look like others, to those that `int` takes."""


_away: Final[set[str]] = set()
"""The origins of the APIs that were waited for in vain, and have taken no save since."""


def encoded(value: Any) -> bytes:
    """JSON as it is sent."""
    return json.dumps(value, separators=(",", ":")).encode()


def output_size(text: bytes) -> int:
    """Bytes that a step's encoded output takes in the server, which writes `<`, `>` and `&` with six characters."""
    size = len(text) + len('{"data":}')
    return size + 5 * sum(text.count(char) for char in (b"<", b">", b"&")) if size > MAX_OUTPUT // 6 else size


class SaveOutcome(enum.Enum):
    """What became of the saves so far."""

    SAVED = "saved"
    FAILED = "failed"
    """Some steps could not be saved and must be answered in the 206."""
    LOST = "lost"
    """The run belongs to another worker."""
    OVER = "over"
    """The run has ended; it was cancelled, mostly."""


class _Said(NamedTuple):
    """What came of sending a save."""

    status: int | None
    """None: no answer."""
    reason: str
    retry_after: float | None = None
    """Seconds after which the API asks to be asked again."""


class Checkpointer:
    """The saves of one request of the engine.

    Args:
        target: where and as what steps are saved.
        on_lost: called once when the run belongs to another worker (`LOST`) or has ended (`OVER`).
    """

    def __init__(self, target: CheckpointTarget, *, on_lost: Callable[[SaveOutcome], None]) -> None:
        self._target = target
        self._on_lost = on_lost
        self._prefix = json.dumps(dict(target.ids))[:-1] + ', "steps": ['
        self._headers = (*target.headers.items(), ("content-type", "application/json"))
        self._key = 0
        self._waiting: list[tuple[bytes, StepResponse]] = []
        self._sending: list[tuple[bytes, StepResponse]] = []
        self._outcome = SaveOutcome.SAVED
        self._worker: asyncio.Task[None] | None = None
        self._asking: asyncio.Task[None] | None = None
        self._owned_at = min(made_at(target.ids.get("request_id")), time.time())
        """When the engine sent the request, or when the last save was sent that it has taken; by the clock that goes on
        while a process sleeps."""

    @property
    def outcome(self) -> SaveOutcome:
        """What became of the saves so far; those under way are not waited for."""
        return self._outcome

    @property
    def unsaved(self) -> list[StepResponse]:
        """The steps that the 206 must answer."""
        return [response for _, response in (*self._sending, *self._waiting)]

    def maybe_saved(self, response: StepResponse) -> bool:
        """Whether an unsaved step was sent: the server may have it, and only its answer was lost."""
        return any(sent is response for _, sent in self._sending)

    def add(self, opcode: bytes, response: StepResponse) -> None:
        """Save a finished step soon.

        Args:
            opcode: the step's opcode, encoded.
            response: the same for the 206.
        """
        self._waiting.append((opcode, response))
        if self._worker is None and self._outcome is SaveOutcome.SAVED:
            self._worker = asyncio.get_running_loop().create_task(self._work())

    async def flush(self) -> SaveOutcome:
        """Wait until every step added so far is saved, or until it is clear that it will not be."""
        while self._worker is not None:
            await asyncio.wait((self._worker,))
        return self._outcome

    @property
    def is_doubtful(self) -> bool:
        """Whether the run may be another worker's by now, as the engine's last word on it is old.

        A process that was suspended (or a machine) may find a request, or the answer to a save, that the engine has
        sent long before, and meanwhile another worker has gone on with the run, or ended it.
        """
        return is_old(self._owned_at)

    async def flush_and_own(self) -> SaveOutcome:
        """`flush`, and then make sure that the run is still this request's: for what must not happen twice."""
        outcome = await self.flush()
        if outcome is SaveOutcome.SAVED and self.is_doubtful:
            await self.confirm()
        return self._outcome

    async def confirm(self, patience: float | None = None) -> None:
        """Ask whether the run still belongs to this request, by a save without steps; if not, `on_lost` is called.

        If nobody answers, nothing is known, and `outcome` stays what it was.

        Args:
            patience: seconds after which an answer is waited for no more; one that comes later is heeded all the same.
        """
        if self._outcome is not SaveOutcome.SAVED:
            return
        if self._asking is None:
            self._asking = asyncio.get_running_loop().create_task(self._ask())
        await asyncio.wait((self._asking,), timeout=patience)

    async def _ask(self) -> None:
        try:
            outcome = await self._save(self._prefix.encode() + b"]}", steps=0)
        finally:
            self._asking = None
        if outcome in (SaveOutcome.LOST, SaveOutcome.OVER) and self._outcome is SaveOutcome.SAVED:
            self._outcome = outcome
            self._on_lost(outcome)

    async def _work(self) -> None:
        try:
            while self._waiting and self._outcome is SaveOutcome.SAVED:
                await asyncio.sleep(0)  # what ends in this turn of the loop goes out together
                self._sending, self._waiting = self._waiting, []
                body = self._prefix.encode() + b",".join(step for step, _ in self._sending) + b"]}"
                self._outcome = await self._save(body, steps=len(self._sending))
                if self._outcome is SaveOutcome.SAVED:
                    self._sending = []
        except asyncio.CancelledError:  # with all that runs in the event loop, which ends
            self._outcome = SaveOutcome.FAILED
            raise
        finally:
            self._worker = None
        if self._outcome in (SaveOutcome.LOST, SaveOutcome.OVER):
            self._on_lost(self._outcome)

    async def _save(self, body: bytes, *, steps: int) -> SaveOutcome:
        origin = self._target.url.partition("/v1/")[0]
        later = RESTART_DELAYS if steps and origin not in _away else ()
        started = time.monotonic()
        for delay in (*RETRY_DELAYS, *later, None):
            sent_at = time.time()
            status, reason, asked = await self._post(body)
            if status == 401 and self._key + 1 < len(self._target.signing_keys):
                self._key += 1  # a one-way switch (section 10.3.4)
                status, reason, asked = await self._post(body)
            if status is not None and status < 300:
                self._owned_at = sent_at
                _away.discard(origin)
                return SaveOutcome.SAVED
            gone = _says_gone(status, reason)
            if status == 409 or gone:
                logger.warning(
                    "run %s: %s; this worker stops working on it",
                    self._target.ids["run_id"],
                    "another worker owns it now" if status == 409 else "it has ended",
                )
                return SaveOutcome.OVER if gone else SaveOutcome.LOST
            passes = status is None or status >= 500 or status in PASSING
            if delay is None or not passes:
                break
            wait = max(delay, asked or 0.0)
            if time.monotonic() + wait - started > PATIENCE_SECONDS:
                break
            await asyncio.sleep(wait)
        if not steps:  # `confirm` has asked
            logger.debug("run %s: nobody says whose it is (%s)", self._target.ids["run_id"], reason)
            return SaveOutcome.FAILED
        if passes:
            _away.add(origin)
        logger.warning(
            "run %s: could not save %d finished steps at %s (%s); they are answered in the standard way",
            self._target.ids["run_id"],
            steps,
            self._target.url,
            reason,
        )
        return SaveOutcome.FAILED

    async def _post(self, body: bytes) -> _Said:
        headers = self._headers
        if self._target.signing_keys:
            headers = (*headers, ("authorization", f"Bearer {self._target.signing_keys[self._key]}"))
        try:
            status, text, retry_after = await _http.post(self._target.url, headers, body, TIMEOUT_SECONDS)
        except Exception as error:  # noqa: BLE001  whatever it is, the steps are not saved: a RuntimeError, where the
            # process ends and no thread looks up the host's name any more
            return _Said(None, f"{type(error).__name__}: {error}")
        return _Said(status, f"HTTP {status}: {text[:300].decode(errors='replace')}", retry_after)


def made_at(request_id: object) -> float:
    """When the engine made a request, as its ULID tells; infinity if it is none."""
    if not isinstance(request_id, str) or re.fullmatch(f"[{ULID_DIGITS}]{{26}}", request_id) is None:
        return math.inf
    return int(request_id[:10].translate(PLAIN_DIGITS), 32) / 1000


def is_old(told_at: float) -> bool:
    """Whether the engine's word that the run is a request's, given then, may be true no more."""
    return time.time() - told_at > FRESH_SECONDS


def _says_gone(status: int | None, reason: str) -> bool:
    """Whether an answer says that the run has ended.

    A run that is given up for an address that has no such path would never go on: the engine waits for its answer.
    """
    if status in (404, 410):
        return not any(text in reason.lower() for text in NO_ROUTE)
    return status == 400 and any(text in reason for text in RUN_GONE)
