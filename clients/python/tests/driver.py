"""Does what the tests say: one JSON command a line on standard input, one JSON answer a line on standard output.

The drivers of the other libraries understand the same commands.
"""

import asyncio
import json
import math
import os
import sys

import nats
from sidestream_publish import Publisher


def stored(ack):
    return {"seq": ack.seq, "duplicate": bool(ack.duplicate)}


def each(values, subject):
    def one(value):
        try:
            return subject(value)
        except ValueError:
            return None

    return [one(value) for value in values]


class Driver:
    def __init__(self, jetstream):
        self.jetstream = jetstream
        self.publisher = Publisher(jetstream)
        self.progress = None

    async def configure(self, prefix, encoding, patience=60_000):
        self.publisher = Publisher(
            self.jetstream, prefix=prefix, user_encoding=encoding, progress_patience=patience / 1000
        )
        return {}

    async def subjects(self, users, events):
        return {
            "users": each(users, lambda user: self.publisher.user_subject(user, "note")),
            "events": each(events, self.publisher.broadcast_subject),
        }

    async def notify(self, user, event, data, id=None):
        return stored(await self.publisher.notify(user, event, data, id=id))

    async def broadcast(self, event, data, id=None):
        return stored(await self.publisher.broadcast(event, data, id=id))

    async def begin(self, user, task):
        self.progress = self.publisher.progress(user, task)
        return {}

    async def update(self, percent=None, message=""):
        return {"runs": self.progress.update(math.nan if percent is None else percent, message)}

    async def storm(self):
        """Ten callers at the same time, a hundred updates each, none in order."""

        async def call(caller):
            for update in range(100):
                self.progress.update((update * 37 + caller * 11) % 100, f"caller {caller}")
                await asyncio.sleep(0.005)

        await asyncio.gather(*map(call, range(10)))
        return {}

    async def complete(self):
        return stored(await self.progress.complete())

    async def fail(self, message):
        return stored(await self.progress.fail(message))

    async def within(self, user, task, error):
        async with self.publisher.progress(user, task) as progress:
            progress.update(30, "within")
            if error:
                raise RuntimeError(error)
        return {}


async def main():
    async def ignore(_):
        pass

    connection = await nats.connect(
        os.environ["NATS_URL"], reconnect_time_wait=0.1, max_reconnect_attempts=-1, error_cb=ignore
    )
    driver = Driver(connection.jetstream())
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        command = json.loads(line)
        try:
            answer = await getattr(driver, command.pop("do"))(**command)
        except Exception as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)
    await connection.close()


asyncio.run(main())
