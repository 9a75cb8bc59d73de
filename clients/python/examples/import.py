"""What README.md shows, to be run: `NATS_URL=nats://127.0.0.1:4222 python examples/import.py`."""

import asyncio
import os

import nats
from sidestream_publish import Publisher


async def main() -> None:
    connection = await nats.connect(os.environ["NATS_URL"])
    publisher = Publisher(connection.jetstream())
    await publisher.notify("alice", "note", {"text": "the import begins"}, id="note-1")
    async with publisher.progress("alice", "import-7") as progress:
        for row in range(1, 201):
            progress.update(row / 2, f"row {row} of 200")
    print("200 rows")
    await connection.close()


asyncio.run(main())
