"""How far a task is, told to one user: the latest state is published by a task of its own, at most once per interval,
and the end once and last."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from types import TracebackType
from typing import Literal, Optional, Union

from nats.errors import ConnectionClosedError, ConnectionDrainingError
from nats.js import JetStreamContext
from nats.js.api import PubAck
from nats.js.errors import APIError

from ._subject import quoted

#: The longest wait for one acknowledgement, in seconds.
_ACK_WAIT = 2.0
#: Between two attempts to publish the end, in seconds.
_RETRY_PAUSE = 0.25
#: Longest message, in characters; what follows is cut off.
_MESSAGE_CHARS_MAX = 1000
#: The connection is closed for good, or is being drained: nothing that is published later succeeds.
_OVER = (ConnectionClosedError, ConnectionDrainingError)

_log = logging.getLogger("sidestream_publish")


@dataclass(frozen=True)
class Wire:
    """Where and how a run is published; times in seconds."""

    jetstream: JetStreamContext
    subject: str
    task: str
    run: str
    interval: float
    patience: float


class Progress:
    """One run of a task. Updates never wait, and nothing that NATS does makes them fail; only the end is waited for.

    The first end counts: everything after it changes nothing. As `async with`, the run is completed when the scope is
    left, and failed with the exception's text when it is left by one. A run that is dropped without an end stays as it
    is. One whose connection was closed for good publishes no more, and its end fails at once.
    From other threads: `loop.call_soon_threadsafe(progress.update, 50)`.
    """

    def __init__(self, wire: Wire) -> None:
        """Made by `Publisher.progress`."""
        self._wire = wire
        self._state: Literal["running", "completed", "failed"] = "running"
        self._percent = 0
        self._message = ""
        #: The sequence of the subject's last message, as far as is known; 0: there is none, as of a task never run.
        self._last = 0
        self._fresh = asyncio.Event()
        self._ended = asyncio.Event()
        #: Nothing more can be published; the outcome says why.
        self._lost = False
        self._outcome = asyncio.get_running_loop().create_task(self._work())
        # Who waits for the end is told of its failure; that nobody does is no fault of the event loop's.
        self._outcome.add_done_callback(lambda outcome: outcome.cancelled() or outcome.exception())

    def update(self, percent: float, message: str = "") -> bool:
        """Says how far the task is.

        The percentage never goes down: a lower one, or NaN, leaves it as it is; fractions are cut off. An empty message
        keeps the last one. `False` after the end, which it does not change, and when nothing can be published any more.
        Raises a `TypeError` for arguments of other types.
        """
        if not isinstance(percent, (Real, Decimal)):
            raise TypeError(f"percent must be a number: {quoted(percent)}")
        if not isinstance(message, str):
            raise TypeError(f"message must be a str: {quoted(message)}")
        if self._state != "running" or self._lost:
            return False
        if percent > self._percent:
            self._percent = int(min(percent, 100))
        if message:
            self._message = _cut(message)
        self._fresh.set()
        return True

    async def complete(self) -> PubAck:
        """Ends the run at 100 percent and waits until the stream has it. After another end, waits for that one."""
        if self._state == "running" and not self._lost:
            self._percent = 100
            self._end("completed")
        return await asyncio.shield(self._outcome)

    async def fail(self, why: str | BaseException) -> PubAck:
        """Ends the run where it is, says why, and waits until the stream has it.

        After another end, waits for that one.
        """
        if self._state == "running" and not self._lost:
            self._message = _cut(str(why) or type(why).__name__)
            self._end("failed")
        return await asyncio.shield(self._outcome)

    async def __aenter__(self) -> Progress:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self.complete()
            return
        try:
            await self.fail(error)
        except Exception:
            # The scope's own exception comes first.
            _log.warning("the failure of task %s could not be published", self._wire.task, exc_info=True)

    def _end(self, state: Literal["completed", "failed"]) -> None:
        self._state = state
        self._fresh.set()
        self._ended.set()

    async def _work(self) -> PubAck:
        while True:
            self._fresh.clear()
            if self._state != "running":
                return await self._publish_end(self._payload())
            sent = await self._publish_running(self._payload())
            # The end does not wait for the interval.
            try:
                await asyncio.wait_for(self._ended.wait(), self._wire.interval)
            except asyncio.TimeoutError:
                pass
            # What was not acknowledged is sent again.
            if sent:
                await self._fresh.wait()

    async def _publish_running(self, payload: bytes) -> bool:
        # One that waited on the way, on a connection that broke, must not be stored behind the end: it is refused where
        # the subject's last message is no longer the one before it. A refusal says which one that is now: that of an
        # earlier run, or one of ours that was never acknowledged. Gives whether the stream has it. Raises where it never
        # will.
        wire = self._wire
        for _ in range(2):
            headers = {"Sse-Event": "progress", "Nats-Expected-Last-Subject-Sequence": str(self._last)}
            try:
                ack = await wire.jetstream.publish(wire.subject, payload, timeout=_ACK_WAIT, headers=headers)
                self._last = ack.seq
                return True
            except _OVER:
                self._lost = True
                raise
            except Exception as refused:
                _log.debug("an update of task %s was not acknowledged", wire.task, exc_info=True)
                now = _last_of(refused)
                if now is None:
                    return False
                self._last = now
        return False

    async def _publish_end(self, payload: bytes) -> PubAck:
        # Tried again with the same id until it is acknowledged, so that it is stored once.
        headers = {"Sse-Event": "progress", "Nats-Msg-Id": f"{self._wire.run}.end"}
        started = time.monotonic()
        while True:
            try:
                return await self._wire.jetstream.publish(
                    self._wire.subject, payload, timeout=_ACK_WAIT, headers=headers
                )
            except _OVER:
                raise
            except Exception:
                if time.monotonic() - started >= self._wire.patience:
                    raise
                await asyncio.sleep(_RETRY_PAUSE)

    def _payload(self) -> bytes:
        # The order of fields is that of the other libraries.
        payload = {
            "task": self._wire.task,
            "run": self._wire.run,
            "state": self._state,
            "percent": self._percent,
            "message": self._message,
            "updated": time.time_ns() // 1_000_000,
        }
        return json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode()


def _last_of(refused: Exception) -> int | None:
    # The sequence of the subject's last message, where a refusal tells it; the server has it in its text alone.
    text = refused.description or "" if isinstance(refused, APIError) else ""
    told = re.fullmatch(r"wrong last sequence: (\d+)", text)
    return int(told[1]) if told else None


def _cut(message: str) -> str:
    # A lone surrogate, as in the name of a broken file, has no bytes: it must not end the worker.
    return message[:_MESSAGE_CHARS_MAX].encode(errors="replace").decode()
