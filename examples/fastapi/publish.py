"""All that the application has to know of events: where they go, and under which name.

What was `send_to_user` and `broadcast` with a queue for each client is a publish with its acknowledgement here; who listens, and where,
is not the application's business any more.
"""

import json

import nats


class Publisher:
    """A connection to NATS that publishes events."""

    @classmethod
    async def connect(cls, servers: str) -> "Publisher":
        self = cls()
        self.connection = await nats.connect(servers, name="fastapi-example", max_reconnect_attempts=-1)
        self.stream = self.connection.jetstream()
        return self

    async def _publish(self, subject: str, name: str, data: dict, id: str) -> int:
        # Nats-Msg-Id: the same event published twice, as after a time-out, is stored once.
        headers = {"Sse-Event": name, "Nats-Msg-Id": id}
        return (await self.stream.publish(subject, json.dumps(data).encode(), headers=headers)).seq

    async def send_to_user(self, user: str, name: str, data: dict, id: str) -> int:
        return await self._publish(f"events.user.{user}.{name}", name, data, id)

    async def broadcast(self, name: str, data: dict, id: str) -> int:
        return await self._publish(f"events.broadcast.{name}", name, data, id)

    async def progress(self, user: str, task: str, step: str, state: dict) -> int:
        """A subject for each task, so that the stream can say how far each has come. `step` names the report."""
        subject = f"events.user.{user}.progress.{task}"
        return await self._publish(subject, "progress", {"task": task, **state}, f"{task}-{step}")

    async def close(self) -> None:
        await self.connection.drain()
