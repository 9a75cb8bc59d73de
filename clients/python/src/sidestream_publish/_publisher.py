"""Events for one user or for everybody. Progress has a file of its own."""

from __future__ import annotations

import json
import uuid
from typing import Any, Optional

from nats.js import JetStreamContext
from nats.js.api import PubAck

from ._progress import Progress, Wire
from ._subject import UserEncoding, is_header_value, is_prefix, is_token, leaf, user_token


class Publisher:
    """Publishes with the application's JetStream context. Raises a `ValueError` for what cannot be published.

    `prefix` is what all subjects begin with, and the sidecar's routes must too; `user_encoding` is what the sidecar's
    `identity.user_encoding` says. `progress_interval` is the least time between two messages of a progress that runs,
    in seconds. `progress_patience` is how long the end of a progress is tried again until NATS acknowledges it, in
    seconds: it must be less than the stream's duplicate window (two minutes unless it says otherwise), or the end may
    be stored twice.
    """

    def __init__(
        self,
        jetstream: JetStreamContext,
        *,
        prefix: str = "events",
        user_encoding: UserEncoding = "refuse",
        progress_interval: float = 0.1,
        progress_patience: float = 60.0,
    ) -> None:
        if not is_prefix(prefix):
            raise ValueError(
                f"{prefix!r} is not a subject prefix: plain tokens with dots between them, at most 128 bytes, "
                "`_` not first"
            )
        if user_encoding not in ("refuse", "base64url"):
            raise ValueError(f"{user_encoding!r} is not an encoding of user ids: refuse, base64url")
        self._jetstream = jetstream
        self._prefix = prefix
        self._encoding: UserEncoding = user_encoding
        self._interval = progress_interval
        self._patience = progress_patience

    async def notify(self, user: str, event: str, data: Any, *, id: str | None = None) -> PubAck:
        """Publishes to one user, as JSON, and waits for the stream's acknowledgement.

        A second message with the same `id` within the stream's duplicate window is not stored, whoever it is for.
        """
        return await self._publish(self.user_subject(user, event), event, data, id)

    async def broadcast(self, event: str, data: Any, *, id: str | None = None) -> PubAck:
        """The same to everybody."""
        return await self._publish(self.broadcast_subject(event), event, data, id)

    def progress(self, user: str, task: str) -> Progress:
        """Begins a run of a task that the user watches; to be used with `async with`. Needs a running event loop."""
        if not is_token(task):
            raise ValueError(f"{task!r} is not a task id: one plain subject token of at most 128 bytes")
        subject = f"{self._prefix}.user.{user_token(self._encoding, user)}.progress.{task}"
        return Progress(Wire(self._jetstream, subject, task, str(uuid.uuid4()), self._interval, self._patience))

    def user_subject(self, user: str, event: str) -> str:
        """The subject of an event for one user."""
        return f"{self._prefix}.user.{user_token(self._encoding, user)}.{leaf(event)}"

    def broadcast_subject(self, event: str) -> str:
        """The subject of an event for everybody."""
        return f"{self._prefix}.broadcast.{leaf(event)}"

    async def _publish(self, subject: str, event: str, data: Any, id: str | None) -> PubAck:
        payload = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        headers = {"Sse-Event": event}
        if id is not None:
            if not is_header_value(id):
                raise ValueError(
                    f"{id!r} is not a message id: 1 to 256 bytes, no control characters, no white space at its ends"
                )
            headers["Nats-Msg-Id"] = id
        return await self._jetstream.publish(subject, payload, headers=headers)
