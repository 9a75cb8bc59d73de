"""Publishes one event to one user and one to everybody, and prints where the stream keeps them.

Needs a NATS server with a stream that captures `events.>`; `sidestream dev` makes one and prints its address.

    python3 -m venv .venv && .venv/bin/pip install -r requirements.txt
    NATS_URL=nats://127.0.0.1:4222 .venv/bin/python publish.py

The payload is what the browser gets as `event.data`, the header `Sse-Event` becomes the event's name. `publish` waits for the
stream's acknowledgement: before it the event is only on its way.
"""

import asyncio
import json
import os

import nats


async def main() -> None:
    connection = await nats.connect(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"), allow_reconnect=False)
    try:
        for subject, name in [("events.user.alice.note", "note"), ("events.broadcast.news", "news")]:
            payload = json.dumps({"text": "hello from Python"}).encode()
            ack = await connection.jetstream().publish(subject, payload, headers={"Sse-Event": name})
            print(json.dumps({"stream": ack.stream, "seq": ack.seq}, separators=(",", ":")))
    finally:
        await connection.close()


if __name__ == "__main__":
    asyncio.run(main())
