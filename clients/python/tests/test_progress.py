"""What needs no server: a JetStream context of the right shape answers, fails or waits as the test says."""

import asyncio
import gc
import json
import logging
import unittest
from types import SimpleNamespace

from nats.errors import ConnectionClosedError, ConnectionDrainingError
from sidestream_publish import Publisher


class Fake:
    """Keeps what is published; `answer` decides what becomes of it."""

    def __init__(self, answer=None):
        self.sent = []
        self.answer = answer

    async def publish(self, subject, payload, timeout=None, headers=None):
        message = json.loads(payload)
        message["id"] = headers.get("Nats-Msg-Id")
        self.sent.append(message)
        if self.answer is not None:
            await self.answer(message, len(self.sent))
        return SimpleNamespace(stream="EVENTS", seq=len(self.sent), duplicate=False)


async def gone(message, count):
    raise ConnectionError("NATS is gone")


async def over_for(progress):
    """Waits until nothing can be published any more."""
    while progress.update(50):
        await asyncio.sleep(0)


class ProgressTest(unittest.IsolatedAsyncioTestCase):
    async def test_while_a_message_is_on_its_way_updates_are_merged_to_the_latest(self):
        held, begun = asyncio.Event(), asyncio.Event()

        async def hold_the_first(message, count):
            begun.set()
            if count == 1:
                await held.wait()

        jetstream = Fake(hold_the_first)
        progress = Publisher(jetstream, progress_interval=0).progress("alice", "t")
        await begun.wait()
        for percent in range(91):
            progress.update(percent, f"at {percent}")
        held.set()
        await progress.complete()
        found = [(m["percent"], m["state"], m["message"]) for m in jetstream.sent]
        self.assertEqual(found, [(0, "running", ""), (100, "completed", "at 90")])

    async def test_the_end_is_published_again_with_the_same_id_and_payload(self):
        async def lose_two(message, count):
            if message["state"] != "running" and count < 4:
                raise ConnectionError("lost")

        jetstream = Fake(lose_two)
        async with Publisher(jetstream).progress("alice", "t") as progress:
            await asyncio.sleep(0)
        ends = [m for m in jetstream.sent if m["state"] == "completed"]
        self.assertEqual(len(ends), 4 - sum(m["state"] == "running" for m in jetstream.sent))
        self.assertRegex(ends[0]["id"], r"^[0-9a-f-]{36}\.end$")
        self.assertTrue(all(end == ends[0] for end in ends))
        self.assertFalse(progress.update(50))

    async def test_of_two_ends_at_the_same_time_the_first_counts(self):
        jetstream = Fake()
        progress = Publisher(jetstream).progress("alice", "t")
        failed, completed = await asyncio.gather(progress.fail("first"), progress.complete())
        self.assertIs(failed, completed)
        ends = [(m["state"], m["percent"]) for m in jetstream.sent if m["state"] != "running"]
        self.assertEqual(ends, [("failed", 0)])

    async def test_an_end_that_nobody_acknowledges_is_the_callers_error_but_for_a_scope_that_has_one(self):
        publisher = Publisher(Fake(gone), progress_patience=0)
        with self.assertRaisesRegex(ConnectionError, "NATS is gone"):
            await publisher.progress("alice", "t").complete()
        with self.assertRaisesRegex(ConnectionError, "NATS is gone"):
            async with publisher.progress("alice", "t"):
                pass
        logging.disable(logging.WARNING)
        self.addCleanup(logging.disable, logging.NOTSET)
        with self.assertRaisesRegex(KeyError, "own"):
            async with publisher.progress("alice", "t"):
                raise KeyError("own")

    async def test_once_the_connection_is_closed_nothing_is_published_any_more_and_the_end_says_so_at_once(self):
        for over in [ConnectionClosedError, ConnectionDrainingError]:

            async def lost_then_closed(message, count):
                raise ConnectionError("lost") if count == 1 else over()

            jetstream = Fake(lost_then_closed)
            progress = Publisher(jetstream, progress_interval=0).progress("alice", "t")
            await asyncio.wait_for(over_for(progress), 60)
            with self.assertRaises(over):
                await progress.complete()
            with self.assertRaises(over):
                await progress.fail("why")
            self.assertEqual(len(jetstream.sent), 2)

    async def test_an_end_is_not_tried_again_once_the_connection_is_closed(self):
        async def closed_at_the_end(message, count):
            if message["state"] != "running":
                raise ConnectionClosedError

        jetstream = Fake(closed_at_the_end)
        with self.assertRaises(ConnectionClosedError):
            await Publisher(jetstream).progress("alice", "t").complete()
        self.assertEqual([m["state"] for m in jetstream.sent if m["state"] != "running"], ["completed"])

    async def test_that_nobody_waits_for_an_end_that_failed_is_no_fault_of_the_loop(self):
        told = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))

        async def closed(message, count):
            raise ConnectionClosedError

        progress = Publisher(Fake(closed)).progress("alice", "t")
        await asyncio.wait_for(over_for(progress), 60)
        await asyncio.sleep(0)
        del progress
        gc.collect()
        self.assertEqual(told, [])

    async def test_a_failure_says_why_in_a_few_words(self):
        for why, message in [(ValueError("bad"), "bad"), (ValueError(), "ValueError"), (ValueError("\ud800"), "?")]:
            jetstream = Fake()
            with self.assertRaises(ValueError):
                async with Publisher(jetstream).progress("alice", "t"):
                    raise why
            self.assertEqual((jetstream.sent[-1]["state"], jetstream.sent[-1]["message"]), ("failed", message))

    async def test_a_scope_that_is_cancelled_fails_and_stays_cancelled(self):
        jetstream, inside = Fake(), asyncio.Event()

        async def work():
            async with Publisher(jetstream).progress("alice", "t"):
                inside.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(work())
        await inside.wait()
        task.cancel()
        with self.assertRaises(asyncio.CancelledError):
            await task
        self.assertEqual((jetstream.sent[-1]["state"], jetstream.sent[-1]["message"]), ("failed", "CancelledError"))

    async def test_an_update_of_other_types_is_refused_by_name_and_changes_nothing(self):
        jetstream = Fake()
        progress = Publisher(jetstream).progress("alice", "t")
        for none in [None, "50", {}, 1j]:
            with self.assertRaisesRegex(TypeError, "^percent must be a number: "):
                progress.update(none)
        for none in [None, 42, b"text"]:
            with self.assertRaisesRegex(TypeError, "^message must be a str: "):
                progress.update(50, none)
        await progress.fail("why")
        self.assertEqual(jetstream.sent[-1]["percent"], 0)

    async def test_what_is_no_text_names_nobody_and_nothing_and_the_error_says_what_is_allowed(self):
        jetstream = Fake()
        for encoding in ["refuse", "base64url"]:
            publisher = Publisher(jetstream, user_encoding=encoding)
            for none in [None, 42, b"alice", ["alice"], True]:
                with self.assertRaisesRegex(ValueError, "is not a user id: one plain subject token"):
                    await publisher.notify(none, "note", {})
                with self.assertRaisesRegex(ValueError, "is not an event name: 1 to 256 bytes"):
                    await publisher.broadcast(none, {})
                with self.assertRaisesRegex(ValueError, "is not a task id: one plain subject token"):
                    publisher.progress("alice", none)
                with self.assertRaisesRegex(ValueError, "is not a subject prefix: plain tokens"):
                    Publisher(jetstream, prefix=none)
                if none is not None:
                    with self.assertRaisesRegex(ValueError, "is not a message id: 1 to 256 bytes"):
                        await publisher.notify("alice", "note", {}, id=none)
        self.assertEqual(jetstream.sent, [])

    async def test_what_cannot_be_published_is_refused_before_anything_is_sent(self):
        jetstream = Fake()
        publisher = Publisher(jetstream)
        for user, event, data, id in [
            ("a.b", "note", {}, None),
            ("alice", "sidestream.gap", {}, None),
            ("alice", "\ud800", {}, None),
            ("alice", "note", float("nan"), None),
            ("alice", "note", {}, "a\nb"),
        ]:
            with self.assertRaises(ValueError):
                await publisher.notify(user, event, data, id=id)
        with self.assertRaises(ValueError):
            publisher.progress("alice", "a.b")
        with self.assertRaises(ValueError):
            Publisher(jetstream, user_encoding="rot13")
        self.assertEqual(jetstream.sent, [])


if __name__ == "__main__":
    unittest.main()
