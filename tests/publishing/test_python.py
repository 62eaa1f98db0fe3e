"""The Python client of the feed (clients/python) against the real server."""

import asyncio
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "clients/python"))

from ringcast_feed import AsyncFeed, Feed, FeedError  # noqa: E402

CONFIG = """
[namespace."*"]
history_events = 20000
history_bytes = "64MiB"
presence = true
"""
EVENTS = 10_000
PATIENCE = 20


def eventually(what, look):
    """Calls `look` until it returns something true, and returns that."""
    deadline = time.monotonic() + PATIENCE
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"this did not happen in time: {what}")
        time.sleep(0.01)


class Server:
    """The real server, in a folder of its own."""

    def __init__(self, config=CONFIG):
        self.folder = Path(tempfile.mkdtemp(prefix="ringcast-publishing-"))
        self.feed_path = str(self.folder / "feed.sock")
        (self.folder / "ringcast.toml").write_text(config)
        self.open = []
        self.start()

    def start(self):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RINGCAST_")}
        log = self.folder / "log"
        with open(log, "wb") as out:
            self.process = subprocess.Popen(
                [ROOT / "target/debug/ringcast", "serve", "--config", self.folder / "ringcast.toml", "--feed", self.feed_path,
                 "--listen", "127.0.0.1:0", "--admin", "off", "--shards", "1", "--no-pin", "--log-format", "json"],
                stderr=out, env=environment)

        def ready():
            assert self.process.poll() is None, log.read_text()
            lines = [json.loads(line) for line in log.read_text().splitlines(True) if line.endswith("\n")]
            addresses = [line["address"] for line in lines if line["message"] == "listening"]
            return addresses if any(line["message"] == "ready" for line in lines) else None

        self.port = int(eventually("the server is ready", ready)[0].rsplit(":", 1)[1])

    def kill(self):
        self.process.kill()
        self.process.wait()

    def freeze(self):
        """Stops the process, and returns once all of its threads stand still."""
        self.process.send_signal(signal.SIGSTOP)
        tasks = Path(f"/proc/{self.process.pid}/task")
        eventually("all threads stand still", lambda: all(") T " in (task / "stat").read_text() for task in tasks.iterdir()))

    def thaw(self):
        self.process.send_signal(signal.SIGCONT)

    def get(self, path, headers={}):
        """Begins a request and returns its answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        self.open += [answer, connection]
        return answer

    def close(self):
        for end in self.open:
            end.close()
        self.kill()
        shutil.rmtree(self.folder)


class Cutter:
    """A proxy in front of the feed, which cuts connections within a line."""

    def __init__(self, feed_path, each, times):
        self.path, self.feed_path, self.each, self.left, self.cuts = feed_path + ".cut", feed_path, each, times, 0
        self.passed, self.lock = 0, threading.Lock()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(16)
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client = self.listener.accept()[0]
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(self.feed_path)
            threading.Thread(target=self.join, args=(client, server), daemon=True).start()

    def join(self, client, server):
        with client, server:
            back = threading.Thread(target=self.copy, args=(server, client), daemon=True)
            back.start()
            self.copy(client, server)
            back.join()

    def copy(self, source, sink):
        try:
            while True:
                chunk = source.recv(16384)
                with self.lock:
                    self.passed += len(chunk)
                    is_cut = self.left > 0 and self.passed >= self.each
                    if is_cut:
                        self.passed, self.left, self.cuts = 0, self.left - 1, self.cuts + 1
                sink.sendall(chunk[: len(chunk) // 2] if is_cut else chunk)
                if is_cut or not chunk:
                    break
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


class WebSocketClient:
    """A WebSocket that sends text messages and ignores what comes."""

    def __init__(self, server, channel):
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)
        self.socket.sendall((
            f"GET /ws?channel={channel} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n").encode())
        assert b" 101 " in self.socket.recv(4096)

    def send(self, message):
        payload = json.dumps(message).encode()
        assert len(payload) < 126
        # A mask of zeros leaves the payload as it is.
        self.socket.sendall(bytes([0x81, 0x80 | len(payload), 0, 0, 0, 0]) + payload)

    def close(self):
        self.socket.close()


def history_of(feed, channel):
    """All events of a channel, page by page."""
    events, after = [], None
    while True:
        page = feed.history(channel, after=after, limit=1000)["events"]
        if not page:
            return events
        events += page
        after = page[-1]["id"]


def numbers(events):
    return [event["data"]["n"] for event in events]


class FeedTest(unittest.TestCase):
    def server(self, config=CONFIG):
        server = Server(config)
        self.addCleanup(server.close)
        return server

    def feed(self, path, **options):
        feed = Feed(path, **options)
        self.addCleanup(feed.close)
        return feed

    def fails(self, code, run):
        with self.assertRaises(FeedError) as caught:
            run()
        self.assertEqual(caught.exception.code, code, caught.exception.message)
        return caught.exception.message

    def test_each_event_comes_once_and_in_order_however_often_the_connection_is_cut(self):
        server = self.server()
        stream = server.get("/sse?channel=c", {"Accept": "text/event-stream"})
        cutter = Cutter(server.feed_path, 100_000, 12)
        self.addCleanup(cutter.close)
        feed = self.feed(cutter.path)
        futures = [feed.soon.publish("c", {"n": n}, key=f"cut-{n}") for n in range(EVENTS)]
        ids = [future.result() for future in futures]
        self.assertEqual(cutter.cuts, 12)
        events = history_of(self.feed(server.feed_path), "c")
        self.assertEqual(numbers(events), list(range(EVENTS)))
        self.assertEqual([event["id"] for event in events], ids)
        told = []
        while len(told) <= EVENTS:
            line = stream.readline()
            if line.startswith(b"id: "):
                told.append(line[4:].decode().strip())
        self.assertEqual(told[1:], ids)
        stream.close()

    def test_over_kill_9_and_restart_each_event_is_in_the_history_of_the_server_that_has_answered_once(self):
        server = self.server()
        feed = self.feed(server.feed_path, auto_key=True)
        answered = []
        futures = []
        for n in range(EVENTS):
            futures.append(feed.soon.publish("c", {"n": n}))
            futures[-1].add_done_callback(answered.append)
            if n == EVENTS // 2:
                eventually("events are answered", lambda: len(answered) > 100)
                server.kill()
        server.start()
        ids = [future.result() for future in futures]
        self.assertEqual(len(set(ids)), EVENTS)
        events = history_of(feed, "c")
        later = {event["id"] for event in events}
        expected = [n for n in range(EVENTS) if ids[n] in later]
        self.assertTrue(0 < len(expected) < EVENTS, len(expected))
        self.assertEqual(numbers(events), expected)

    def test_without_a_key_a_publish_fails_at_a_cut_and_says_that_its_outcome_is_unknown(self):
        server = self.server()
        cutter = Cutter(server.feed_path, 500_000, 1)
        self.addCleanup(cutter.close)
        feed = self.feed(cutter.path)
        feed.publish("other", 1)
        futures = [feed.soon.publish("c", {"n": n, "text": "x" * 1000}) for n in range(3000)]
        errors = {n: future.exception() for n, future in enumerate(futures) if future.exception()}
        self.assertTrue(0 < len(errors) < 3000, len(errors))
        for error in errors.values():
            self.assertEqual(error.code, "outcome_unknown")
            self.assertRegex(error.message, "cut before the answer.*is unknown.*key")
        seen = numbers(history_of(self.feed(server.feed_path), "c"))
        self.assertEqual(len(set(seen)), len(seen))
        self.assertEqual([n for n in range(3000) if n not in errors and n not in set(seen)], [])
        self.assertNotIn(2999, errors)

    def test_commands_wait_for_a_server_that_is_away_and_fail_when_their_time_is_up(self):
        server = self.server()
        server.kill()
        waiting = self.feed(server.feed_path).soon.publish("c", {"n": 1})
        hasty = self.feed(server.feed_path, timeout=0.2)
        message = self.fails("not_sent", lambda: hasty.publish("c", {"n": 2}))
        self.assertRegex(message, r"not sent within 0.2 s: .*feed.sock: no server listens there; is it running\?")
        server.start()
        waiting.result()
        self.assertEqual(numbers(history_of(self.feed(server.feed_path), "c")), [1])
        nowhere = self.feed("/nowhere/feed.sock", timeout=0.1)
        self.assertIn("there is no such socket", self.fails("not_sent", lambda: nowhere.publish("c", 1)))
        self.fails("not_sent", nowhere.listen)

    def test_errors_batches_and_data(self):
        feed = self.feed(self.server().feed_path)
        message = self.fails("bad_channel", lambda: feed.publish("a b", 1))
        self.assertRegex(message, 'a channel name holds a byte that is not allowed.*"a b"')
        long, following = feed.soon.publish("c", "x" * (2 << 20)), feed.soon.publish("d", 2)
        self.fails("too_long", long.result)
        following.result()
        self.fails("unknown_op", lambda: feed.call({"op": "fly"}))
        self.assertRaises(ValueError, lambda: feed.publish("c", float("nan")))
        first = feed.publish(["d", "e"], 1, key="k")
        self.assertEqual(feed.publish(["d", "e"], 1, key="k"), first)
        self.fails("bad_field", lambda: feed.publish("d", 1, key="k"))
        batch = [{"channel": "c", "data": 1}, {"channel": "$c", "data": 2}]
        self.assertRegex(self.fails("bad_channel", lambda: feed.batch(batch)), r"^items\[1\]: ")
        self.assertEqual(feed.history("c")["events"], [])
        ids = feed.batch([
            {"channel": "c", "data": {"a": ["ü", 1.5, None]}, "event": "e"},
            {"channel": "c", "data": "line\nline", "key": "l"},
            {"channel": "c", "data": b"\x00\xff"},
        ])
        self.assertEqual(feed.history("c")["events"], [
            {"id": ids[0], "channel": "c", "event": "e", "data": {"a": ["ü", 1.5, None]}},
            {"id": ids[1], "channel": "c", "data": "line\nline"},
            {"id": ids[2], "channel": "c", "data_b64": "AP8="},
        ])
        feed.end("c", retry=True)
        self.assertEqual(feed.kick(user="u"), 0)
        self.assertEqual(feed.unsubscribe("u", "c"), 0)
        self.assertEqual(len(feed.stats()["shards"]), 1)

    def test_clients_are_heard_and_answered_also_after_a_restart(self):
        server = self.server()
        feed = self.feed(server.feed_path)
        told = feed.listen()
        client = WebSocketClient(server, "c")
        self.addCleanup(client.close)
        connect = next(told)
        self.assertEqual((connect["op"], connect["transport"]), ("connect", "ws"))
        client.send({"send": {"hi": "ü"}})
        self.assertEqual(next(told), {"op": "message", "conn": connect["conn"], "data": {"hi": "ü"}})
        feed.send({"back": 1}, conn=connect["conn"])
        eventually("the client has the answer", lambda: b'"back":1' in client.socket.recv(4096))
        self.assertEqual(feed.presence("c"), {"connections": 1, "count": 0, "users": []})
        self.assertEqual(feed.kick(channel="c", reason="test"), 1)
        self.assertEqual(next(told), {"op": "disconnect", "conn": connect["conn"], "reason": "kicked"})
        server.kill()
        server.start()
        self.assertEqual(next(told), {"op": "lost"})
        again = WebSocketClient(server, "c")
        self.addCleanup(again.close)
        self.assertEqual(next(told)["op"], "connect")
        threading.Timer(0.05, feed.close).start()
        self.assertEqual([line["op"] for line in told if line["op"] != "disconnect"], [])

    def test_the_backend_decides_about_clients_without_a_token(self):
        server = self.server("[auth]\nask_backend = true\n[namespace.\"*\"]\npresence = true")
        feed = self.feed(server.feed_path)

        def decide(question):
            if question.get("cookie") == "broken":
                raise KeyError("no database")
            name = question["channels"][0]
            return {"allow": True, "user": "ann"} if name == "open" else ["some"] if name == "some" else False

        listener = feed.authorize(decide)
        stream = server.get("/sse?channel=open")
        self.assertEqual(stream.status, 200)
        self.assertEqual(feed.presence("open")["users"], [{"user": "ann", "connections": 1}])
        self.assertEqual(server.get("/sse?channel=some").status, 200)
        self.assertIn(server.get("/sse?channel=secret").status, (401, 403))
        with self.assertLogs("ringcast_feed", "ERROR"):
            self.assertIn(server.get("/sse?channel=open", {"Cookie": "broken"}).status, (401, 403))
        listener.close()
        stream.close()
        # Slow decisions do not wait for one another.
        barrier = threading.Barrier(4)
        feed.authorize(lambda _: barrier.wait(PATIENCE) >= 0, workers=4)
        with ThreadPoolExecutor(4) as pool:
            self.assertEqual([answer.status for answer in pool.map(server.get, [f"/sse?channel=x{n}" for n in range(4)])], [200] * 4)

    def test_what_is_pending_is_bounded_and_publishers_wait(self):
        server = self.server()
        feed = self.feed(server.feed_path, max_pending=500)
        feed.publish("c", {"n": 0})
        server.freeze()
        futures = [feed.soon.publish("c", {"n": n}) for n in range(1, 501)]
        is_taken = threading.Event()

        def one_more():
            futures.append(feed.soon.publish("c", {"n": 501}))
            is_taken.set()

        threading.Thread(target=one_more).start()
        self.assertFalse(is_taken.wait(0.1))
        server.thaw()
        self.assertTrue(is_taken.wait(PATIENCE))
        feed.flush()
        self.assertEqual(numbers(history_of(feed, "c")), list(range(502)))
        hasty = self.feed(server.feed_path, max_pending=1, timeout=0.3)
        hasty.publish("c", {"n": 502})
        server.freeze()
        late = hasty.soon.publish("c", {"n": 503}, key="late")
        self.fails("busy", lambda: hasty.publish("c", 1))
        self.assertRegex(self.fails("outcome_unknown", late.result), "no answer came within 0.3 s.*same key")
        server.thaw()
        eventually("the server answers", lambda: not hasty.soon.publish("c", {"n": 503}, key="late").exception())
        self.assertEqual(numbers(history_of(feed, "c")), list(range(504)))

    def test_a_command_that_was_sent_and_cannot_be_sent_again_has_an_unknown_outcome(self):
        server = self.server()
        feed = self.feed(server.feed_path, timeout=1)
        feed.publish("c", 1)
        server.freeze()
        sent = feed.soon.publish("c", 2, key="k")
        eventually("it is sent", lambda: all(call.is_sent for call in feed._calls.values()))
        server.kill()
        eventually("the cut is noticed", lambda: feed._sock is None)
        unsent = feed.soon.publish("c", 3, key="l")
        self.fails("outcome_unknown", sent.result)
        self.fails("not_sent", unsent.result)

    def test_a_command_without_an_answer_in_time_counts_as_pending(self):
        server = self.server()
        feed = self.feed(server.feed_path, timeout=0.3, max_pending=1)
        feed.publish("c", 1)
        server.freeze()
        self.fails("outcome_unknown", lambda: feed.publish("c", 2))
        self.fails("busy", lambda: feed.publish("c", 3))
        server.thaw()
        feed.flush()
        feed.publish("c", 4)

    def test_many_threads_share_a_feed(self):
        server = self.server()
        with Feed(server.feed_path, max_pending=100) as feed:
            with ThreadPoolExecutor(16) as pool:
                ids = list(pool.map(lambda n: feed.publish("c", {"n": n}), range(2000)))
            self.assertEqual(len(set(ids)), 2000)
            feed.soon.publish("d", 1)
        self.fails("closed", lambda: feed.publish("c", 1))
        self.fails("closed", feed.listen)
        self.assertEqual(len(self.feed(server.feed_path).history("d")["events"]), 1)

    def test_closing_is_final(self):
        server = self.server()
        feed = self.feed(server.feed_path)
        feed.publish("c", 1)
        server.freeze()
        sent = feed.soon.publish("c", 2)
        eventually("it is sent", lambda: all(call.is_sent for call in feed._calls.values()))
        feed.close()
        self.assertIn("the feed was closed", self.fails("outcome_unknown", sent.result))
        server.thaw()
        nowhere = self.feed("/nowhere/feed.sock")
        unsent = nowhere.soon.publish("c", 1)
        nowhere.close()
        self.fails("closed", unsent.result)

    def test_a_fork_has_a_connection_of_its_own(self):
        server = self.server()
        feed = self.feed(server.feed_path)
        feed.publish("c", {"n": 0})
        child = os.fork()
        if child == 0:
            try:
                feed.publish("c", {"n": 1})
                os._exit(0)
            finally:
                os._exit(1)
        self.assertEqual(os.waitpid(child, 0)[1], 0)
        feed.publish("c", {"n": 2})
        self.assertEqual(numbers(history_of(feed, "c")), [0, 1, 2])

    def test_a_connection_that_the_server_refuses_says_why(self):
        server = self.server("[feed]\nmax_connections = 1")
        first = self.feed(server.feed_path)
        first.publish("c", 1)
        message = self.fails("full", lambda: self.feed(server.feed_path, timeout=0.3).publish("c", 1))
        self.assertIn("max_connections", message)
        waiting = self.feed(server.feed_path).soon.publish("c", 2)
        self.assertIn("max_connections", self.fails("full", self.feed(server.feed_path, timeout=0.3).listen))
        first.close()
        waiting.result()
        if os.getuid() == 0:
            reader = self.feed(self.server('[feed]\nreaders = ["root"]').feed_path)
            self.fails("forbidden", lambda: reader.publish("c", 1))
            self.fails("forbidden", lambda: reader.listen("messages"))
            # Another user is refused at once, and not when the time is up.
            stranger = self.feed(self.server('[feed]\nallow_users = ["nobody"]').feed_path, timeout=PATIENCE)
            started = time.monotonic()
            self.fails("forbidden", lambda: stranger.publish("c", 1))
            self.fails("forbidden", lambda: stranger.listen("messages"))
            self.assertLess(time.monotonic() - started, PATIENCE / 2)

    def test_asyncio(self):
        server = self.server()

        async def main():
            async with AsyncFeed(server.feed_path, max_pending=50) as feed:
                ids = await asyncio.gather(*(feed.publish("c", {"n": n}) for n in range(2000)))
                self.assertEqual(len(set(ids)), 2000)
                with self.assertRaises(FeedError) as caught:
                    await feed.publish("a b", 1)
                self.assertEqual(caught.exception.code, "bad_channel")
                told = await feed.listen("messages")
                client = await asyncio.to_thread(WebSocketClient, server, "c")
                self.addCleanup(client.close)
                # A wait that is given up loses no message.
                with self.assertRaises(asyncio.TimeoutError):
                    await asyncio.wait_for(told.__anext__(), 0.05)
                for n in range(300):
                    client.send({"send": n})
                heard = []
                async for line in told:
                    heard.append(line["data"])
                    if len(heard) == 300:
                        told.close()
                self.assertEqual(heard, list(range(300)))
                return await feed.history("c", limit=1000)

        self.assertEqual(len(asyncio.run(main())["events"]), 1000)

    def test_asyncio_decides_about_clients(self):
        server = self.server("[auth]\nask_backend = true")

        async def main():
            async with AsyncFeed(server.feed_path) as feed:
                async def decide(question):
                    await asyncio.sleep(0)
                    return question["channels"] == ["open"]

                await feed.authorize(decide)
                answers = [await asyncio.to_thread(server.get, f"/sse?channel={name}") for name in ("open", "secret")]
                return [answer.status for answer in answers]

        self.assertIn(asyncio.run(main()), ([200, 401], [200, 403]))


if __name__ == "__main__":
    unittest.main()
