"""The feed of a ringcast server, from a backend's side: publishing, and hearing clients.

Needs Python 3.9 or newer and nothing else. docs/publishing.md shows how it is used; docs/protocol.md has the lines of the feed
and the codes of errors.
"""

from __future__ import annotations

import asyncio
import base64
import collections
import json
import logging
import os
import random
import select
import socket
import threading
import time
import uuid
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, AsyncIterator, Callable, Coroutine, Iterator, Optional, Sequence, Union

#: The longest wait before the first attempt to connect again, and the longest of all, in seconds. Each wait is random.
RETRY_FIRST = 0.05
RETRY_MAX = 2.0
#: The first line of each connection. The server tells a connection that it refuses so and closes it; until this line is answered,
#: nothing else is sent, so that no command's outcome is unknown for that.
GREETING = b'{"op":"history","channel":"-","limit":0,"ref":0}\n'
#: The most bytes that are handed to the socket at once, or read from it.
CHUNK = 256 * 1024

Answer = dict[str, Any]
Decision = Union[bool, Sequence[str], "dict[str, Any]"]


class FeedError(Exception):
    """An error with a `code` for programs and a `message`. The code is one of the server's, or

    - `not_sent`: the command did not reach the server in time, so it was not carried out;
    - `outcome_unknown`: the connection was cut, or the time was up, before the answer: the command may have been carried out;
    - `busy`: too many commands wait for answers already, so this one was not taken;
    - `closed`: the program has closed the feed, and the command was not sent.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class _Call:
    """A command that is not answered yet."""

    __slots__ = ("ref", "line", "retry", "pick", "future", "deadline", "is_sent", "may_be_done")

    def __init__(self, ref: int, line: bytes, retry: bool, pick: Optional[Callable[[Answer], Any]], deadline: float) -> None:
        self.ref, self.line, self.retry, self.pick, self.deadline = ref, line, retry, pick, deadline
        self.is_sent = self.may_be_done = False
        self.future: Future[Any] = Future()
        # The command is on its way, so its future cannot be cancelled.
        self.future.set_running_or_notify_cancel()

    def fail(self, error: FeedError) -> None:
        if not self.future.done():
            self.future.set_exception(error)

    def fail_unknown(self, event: str) -> None:
        advice = "it may be repeated, a publish with the same key" if self.retry else "a publish that has a key may be repeated"
        text = f"{event}: whether the command was carried out is unknown; {advice}"
        self.fail(FeedError("outcome_unknown", text))


class _Commands:
    """The commands of the feed. `Feed` returns their results, `Feed.soon` a future of each, and `AsyncFeed` an awaitable."""

    auto_key: bool

    def call(self, command: Answer, *, retry: bool = False, pick: Optional[Callable[[Answer], Any]] = None) -> Any:
        """Carries out any command; its result is the server's answer. `retry`, here and below: sends the command again if the
        connection is cut before the answer, so that it may be carried out twice."""
        raise NotImplementedError

    def publish(
        self, channel: Union[str, Sequence[str]], data: Any, *,
        event: Optional[str] = None, key: Optional[str] = None, **more: Any,
    ) -> Any:
        """Publishes an event (`data` is JSON, or bytes) to a channel, or to several; its result is the id, or one per channel."""
        where = {"channel": channel} if isinstance(channel, str) else {"channels": list(channel)}
        item = self._item({**where, "data": data, "event": event, "key": key, **more})
        name = "id" if isinstance(channel, str) else "ids"
        return self.call({"op": "publish", **item}, retry="key" in item, pick=lambda answer: answer[name])

    def batch(self, items: Sequence[Answer]) -> Any:
        """Publishes all of these events (`channel`, `data`, `event`, `key`) or, if one is refused, none; its result is the ids."""
        made = [self._item(item) for item in items]
        retry = all("key" in item for item in made)
        return self.call({"op": "batch", "items": made}, retry=retry, pick=lambda answer: answer["ids"])

    def end(self, channel: str, *, retry: bool = False) -> Any:
        """Ends a channel."""
        return self.call({"op": "end", "channel": channel}, retry=retry, pick=lambda _: None)

    def kick(self, *, retry: bool = False, **target: Any) -> Any:
        """Ends the connections of one `conn`, `user`, `channel` or `jti` (with a `reason`); its result is their number."""
        return self.call({"op": "kick", **target}, retry=retry, pick=lambda answer: answer["kicked"])

    def unsubscribe(self, user: str, channel: str, *, reason: Optional[str] = None, retry: bool = False) -> Any:
        """Takes a user off a channel; its result is the number of subscriptions that end."""
        command = _without_none({"op": "unsubscribe", "user": user, "channel": channel, "reason": reason})
        return self.call(command, retry=retry, pick=lambda answer: answer["unsubscribed"])

    def send(self, data: Any, *, conn: Optional[str] = None, user: Optional[str] = None, retry: bool = False) -> Any:
        """Sends a message to one connection, or to all connections of a user."""
        command = {"op": "send", **_without_none({"conn": conn, "user": user}), **_payload(data)}
        return self.call(command, retry=retry, pick=lambda _: None)

    def presence(self, channel: str) -> Any:
        """The users on a channel: `connections`, `count` and `users`."""
        return self.call({"op": "presence", "channel": channel}, retry=True, pick=_members)

    def history(self, channel: str, *, after: Optional[str] = None, limit: Optional[int] = None) -> Any:
        """A channel's events after an id: `events`, `complete_since`, and `more` if there are further ones."""
        command = _without_none({"op": "history", "channel": channel, "after": after, "limit": limit})
        return self.call(command, retry=True, pick=_members)

    def stats(self) -> Any:
        """The server's figures."""
        return self.call({"op": "stats"}, retry=True, pick=lambda answer: answer["stats"])

    def _item(self, item: Answer) -> Answer:
        made = _without_none({name: value for name, value in item.items() if name != "data"})
        if "key" not in made and self.auto_key:
            made["key"] = str(uuid.uuid4())
        return {**made, **(_payload(item["data"]) if "data" in item else {})}


class _Soon(_Commands):
    """The commands, each with a future: many may be on their way at the same time, and they are carried out in the order of the
    calls. A callback of a future must not wait for the feed."""

    def __init__(self, feed: Feed) -> None:
        self._feed, self.auto_key = feed, feed.auto_key

    def call(self, command: Answer, *, retry: bool = False, pick: Optional[Callable[[Answer], Any]] = None) -> Future[Any]:
        return self._feed._submit(command, retry, pick, waits=True)


class Feed(_Commands):
    """The feed of a server, for any number of threads. It connects with the first command and again after each cut, until it is
    closed; `with Feed() as feed:` waits for all answers and closes it. A fork is given a connection of its own.

    `path` is the feed's socket, by default `$RINGCAST_FEED` or /run/ringcast/feed.sock. `timeout` is the seconds for each
    command, attempts after a cut included; it must be shorter than the server's `[feed] idempotency_window`. `auto_key` gives
    each publish that has no key a random one. `max_pending` and `max_pending_bytes` are the most commands without an answer;
    further ones wait for room.
    """

    def __init__(
        self, path: Optional[str] = None, *, timeout: float = 10.0, auto_key: bool = False,
        max_pending: int = 10_000, max_pending_bytes: int = 64 << 20,
    ) -> None:
        self.path = path or os.environ.get("RINGCAST_FEED") or "/run/ringcast/feed.sock"
        self.timeout, self.auto_key = timeout, auto_key
        self.max_pending, self.max_pending_bytes = max_pending, max_pending_bytes
        #: The same commands, each as a future of its result.
        self.soon = _Soon(self)
        self._is_closed = False
        self._sock: Optional[socket.socket] = None
        self._listeners: weakref.WeakSet[Listener] = weakref.WeakSet()
        self._begin()
        _feeds.add(self)

    def _begin(self) -> None:
        """Sets up what belongs to this process alone."""
        self._changed = threading.Condition()
        self._calls: dict[int, _Call] = {}
        self._unsent: dict[int, _Call] = {}
        self._due: collections.deque[_Call] = collections.deque()
        self._bytes, self._next = 0, 1
        self._thread: Optional[threading.Thread] = None
        self._cause: Optional[FeedError] = None
        self._is_final = self._is_greeted = self._is_broken = False

    def _after_fork(self) -> None:
        for end in [self._sock, *((self._wakes, self._waker) if self._thread else ())]:
            if end is not None:
                end.close()
        self._sock = None
        self._listeners = weakref.WeakSet()
        self._begin()

    def call(self, command: Answer, *, retry: bool = False, pick: Optional[Callable[[Answer], Any]] = None) -> Any:
        return self._submit(command, retry, pick, waits=True).result()

    def listen(self, *what: str) -> Listener:
        """Listens to clients, to `messages`, `connections` or (without an argument) both: returns an iterator over dicts with an
        `op`, once the server knows of it. It has a connection of its own. What is not taken from it is not read, so that the
        server holds up the clients' messages. `{"op": "lost"}` stands where the connection was cut and lines were lost."""
        if self._is_closed:
            raise FeedError("closed", "the feed was closed by this program")
        listener = Listener(self.path, what or ("messages", "connections"), self.timeout)
        self._listeners.add(listener)
        return listener

    def authorize(self, decide: Callable[[Answer], Decision], *, workers: int = 8) -> Listener:
        """Decides about clients without a token, where the server has `[auth] ask_backend`. `decide` is called in up to `workers`
        threads with each question, and answers with True, False, the allowed channels, or `{"allow": …, "user": …}`. If it
        raises, the client is refused and the error is logged. Returns the listener, for `close()`."""
        listener = self.listen("authorize")
        room = threading.Semaphore(workers)

        def answer(question: Answer) -> None:
            decision: Answer = {"allow": False}
            try:
                made = decide(question)
                if isinstance(made, dict):
                    decision = _without_none({"allow": made["allow"], "user": made.get("user")})
                else:
                    decision = {"allow": made if isinstance(made, bool) else list(made)}
            except Exception:
                logging.getLogger(__name__).exception("the decision about a client failed, so it is refused")
            finally:
                listener._write({"op": "authorized", "conn": question["conn"], "ask": question["ask"], **decision})
                room.release()

        def answer_all() -> None:
            with ThreadPoolExecutor(workers) as pool:
                for line in listener:
                    if line["op"] == "authorize":
                        room.acquire()
                        pool.submit(answer, line)

        threading.Thread(target=answer_all, name="ringcast-authorize", daemon=True).start()
        return listener

    # The end.

    def flush(self) -> None:
        """Waits until no command is pending. Their errors are in their futures."""
        with self._changed:
            self._changed.wait_for(lambda: not self._calls)

    def close(self) -> None:
        """Ends the connections at once and for good. Commands without an answer fail; `flush()` before waits for them."""
        with self._changed:
            if self._is_closed:
                return
            self._is_closed = True
            for call in list(self._calls.values()):
                if call.is_sent or call.may_be_done:
                    call.fail_unknown("the feed was closed")
                else:
                    call.fail(FeedError("closed", "the feed was closed before the command was sent"))
                self._forget(call)
            thread = self._thread
            self._wake()
        for listener in list(self._listeners):
            listener.close()
        if thread and thread is not threading.current_thread():
            thread.join()

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.flush()
        self.close()

    # The connection, which a thread of its own looks after.

    def _submit(self, command: Answer, retry: bool, pick: Optional[Callable[[Answer], Any]], waits: bool) -> Future[Any]:
        text = json.dumps(command, allow_nan=False, separators=(",", ":"))
        with self._changed:
            deadline = time.monotonic() + self.timeout
            is_free = lambda: self._is_closed or len(self._calls) < self.max_pending and self._bytes < self.max_pending_bytes
            if not self._changed.wait_for(is_free, self.timeout if waits else 0):
                raise FeedError("busy", f"{len(self._calls)} commands wait for answers already")
            if self._is_closed:
                raise FeedError("closed", "the feed was closed by this program")
            ref = self._next
            self._next += 1
            line = f'{text[:-1]},"ref":{ref}}}\n'.encode("ascii")
            call = _Call(ref, line, retry, pick, deadline)
            self._calls[ref] = call
            self._bytes += len(line)
            self._due.append(call)
            self._unsent[ref] = call
            if self._thread is None:
                self._wakes, self._waker = socket.socketpair()
                self._wakes.setblocking(False)
                self._waker.setblocking(False)
                self._thread = threading.Thread(target=self._run, name="ringcast-feed", daemon=True)
                self._thread.start()
            elif len(self._unsent) == 1:
                self._wake()
        return call.future

    def _wake(self) -> None:
        if self._thread:
            try:
                self._waker.send(b"x")
            except BlockingIOError:
                pass  # It is woken already.

    def _run(self) -> None:
        tries, again, out = 0, 0.0, memoryview(b"")
        rest: list[bytes] = []
        while True:
            with self._changed:
                now = time.monotonic()
                self._expire(now)
                if self._is_closed:
                    break
                if self._sock is None and self._calls and now >= again:
                    self._sock, cause, self._is_final = _connect(self.path)
                    if self._sock is None:
                        again, tries = self._end(cause, tries)
                        continue
                    self._is_greeted = self._is_broken = False
                    rest, out = [], memoryview(GREETING)
                if self._is_greeted and not self._is_broken and not out:
                    out = self._take()
                pauses = [self._due[0].deadline] if self._due else []
                if self._sock is None and self._calls:
                    pauses.append(again)
            poll = select.poll()
            poll.register(self._wakes, select.POLLIN)
            if self._sock is not None:
                poll.register(self._sock, select.POLLIN | (select.POLLOUT if out else 0))
            ready = dict(poll.poll(max(0, (min(pauses) - now) * 1000 + 1) if pauses else None))
            if self._wakes.fileno() in ready:
                self._wakes.recv(4096)
            if self._sock is None or self._sock.fileno() not in ready:
                continue
            events = ready[self._sock.fileno()]
            try:
                if out and events & select.POLLOUT:
                    try:
                        out = out[self._sock.send(out):]
                    except (BrokenPipeError, ConnectionResetError):
                        # The reason that the server gave before it closed the connection is still to be read.
                        self._is_broken, out, events = True, memoryview(b""), select.POLLIN
                if events & ~select.POLLOUT and self._hear(self._sock.recv(CHUNK), rest):
                    tries = 0
            except BlockingIOError:
                continue
            except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
                # The last four stand for a line that no feed would send.
                with self._changed:
                    before = self._cause
                    again, tries = self._end(before or FeedError("not_sent", f"{self.path}: {error}"), tries)
        for end in (self._sock, self._wakes, self._waker):
            if end is not None:
                end.close()

    def _end(self, cause: Optional[FeedError], tries: int) -> tuple[float, int]:
        """Notes that there is no connection; returns when to try again, and the number of attempts."""
        if self._sock:
            self._sock.close()
            self._sock = None
        self._is_greeted = False
        self._cause = cause
        self._sort_out()
        return time.monotonic() + random.uniform(0, min(RETRY_MAX, RETRY_FIRST * 2**tries)), tries + 1

    def _take(self) -> memoryview:
        """The next commands for the socket."""
        lines, size = [], 0
        while self._unsent and size < CHUNK:
            call = self._unsent.pop(next(iter(self._unsent)))
            call.is_sent = True
            lines.append(call.line)
            size += len(call.line)
        return memoryview(b"".join(lines))

    def _hear(self, chunk: bytes, rest: list[bytes]) -> bool:
        """Takes what the server has sent; returns whether a command was carried out."""
        if not chunk:
            raise OSError("the server has closed it")
        if b"\n" not in chunk:
            rest.append(chunk)
            return False
        lines = b"".join([*rest, chunk]).split(b"\n")
        rest[:] = [lines.pop()]
        answers = [json.loads(line) for line in lines]
        with self._changed:
            for answer in answers:
                self._settle(answer) if self._is_greeted else self._greet(answer)
        return any("ok" in answer for answer in answers)

    def _greet(self, answer: Answer) -> None:
        if answer.get("ok"):
            self._is_greeted, self._cause = True, None
            return
        self._cause = _error(answer)
        self._is_final = self._cause.code != "full"
        raise OSError(self._cause.message)

    def _settle(self, answer: Answer) -> None:
        # Answers come in the order of the lines, so one to a line that the server could not read is that to the oldest.
        found = self._calls.get(answer["ref"]) if "ref" in answer else next(iter(self._calls.values()), None)
        if found is None:
            return
        if "error" in answer:
            found.fail(_error(answer))
        elif not found.future.done():
            found.future.set_result(found.pick(answer) if found.pick else answer)
        self._forget(found)

    def _sort_out(self) -> None:
        """Sorts the commands after a cut: those that may be sent again, and those whose outcome is unknown."""
        for call in list(self._calls.values()):
            call.may_be_done = call.may_be_done or call.is_sent
            if call.is_sent and not call.retry:
                call.fail_unknown("the connection was cut before the answer")
            elif self._is_final and self._cause:
                call.fail_unknown(self._cause.message) if call.may_be_done else call.fail(self._cause)
            call.is_sent = False
            if call.future.done():
                self._forget(call)
        self._unsent = dict(self._calls)

    def _expire(self, now: float) -> None:
        while self._due and (self._due[0].deadline <= now or self._due[0].future.done()):
            call = self._due.popleft()
            if call.future.done():
                continue
            if call.is_sent or call.may_be_done:
                call.fail_unknown(f"no answer came within {self.timeout} s")
                # A command that was sent counts as pending until its answer comes or the connection is cut.
                if call.is_sent:
                    continue
            else:
                cause = self._cause or FeedError("not_sent", "the server takes no commands at the moment")
                call.fail(FeedError(cause.code, f"not sent within {self.timeout} s: {cause.message}"))
            self._forget(call)

    def _forget(self, call: _Call) -> None:
        del self._calls[call.ref]
        self._unsent.pop(call.ref, None)
        self._bytes -= len(call.line)
        call.line = b""
        self._changed.notify_all()


_feeds: weakref.WeakSet[Feed] = weakref.WeakSet()


def _after_fork() -> None:
    for feed in list(_feeds):
        feed._after_fork()


os.register_at_fork(after_in_child=_after_fork)


def _without_none(members: Answer) -> Answer:
    return {name: value for name, value in members.items() if value is not None}


def _members(answer: Answer) -> Answer:
    return {name: value for name, value in answer.items() if name not in ("ref", "ok")}


def _error(answer: Answer) -> FeedError:
    return FeedError(answer["error"]["code"], answer["error"]["message"])


def _payload(data: Any) -> Answer:
    if isinstance(data, (bytes, bytearray, memoryview)):
        return {"data_b64": base64.b64encode(data).decode("ascii")}
    return {"data": data}


def _connect(path: str) -> tuple[Optional[socket.socket], Optional[FeedError], bool]:
    """Connects; returns the socket, or an error and whether further attempts would be of no use."""
    sock = socket.socket(socket.AF_UNIX)
    sock.setblocking(False)
    try:
        sock.connect(path)
        return sock, None, False
    except OSError as error:
        sock.close()
        hint = {
            FileNotFoundError: "there is no such socket; is the server running, and is this its feed?",
            ConnectionRefusedError: "no server listens there; is it running?",
            PermissionError: "this user may not connect; see [feed] mode and group in the server's configuration",
        }.get(type(error), str(error))
        return None, FeedError("not_sent", f"{path}: {hint}"), isinstance(error, PermissionError)


class Listener:
    """Lines that the server tells over a connection of its own, as an iterator. `close()` may be called by any thread."""

    def __init__(self, path: str, what: Sequence[str], timeout: float) -> None:
        self._path, self._what = path, list(what)
        self._lines: collections.deque[Answer] = collections.deque()
        self._rest: list[bytes] = []
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._sock: Optional[socket.socket] = None
        self._open(time.monotonic() + timeout)

    def __iter__(self) -> Iterator[Answer]:
        return self

    def __next__(self) -> Answer:
        line = self.next()
        if line is None:
            raise StopIteration
        return line

    def next(self) -> Optional[Answer]:
        """The next line, or None after the end. Only one thread at a time may call it."""
        while not self._closed.is_set():
            if self._lines:
                return self._lines.popleft()
            try:
                self._read()
            except (OSError, ValueError):
                if self._open(None):
                    # Lines that were to be told while the connection was cut are lost.
                    self._lines.append({"op": "lost"})
        return None

    def close(self) -> None:
        """Ends the connection at once and for good."""
        self._closed.set()
        with self._lock:
            if self._sock:
                try:
                    self._sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # It has ended already.
                self._sock.close()

    def _write(self, line: Answer) -> None:
        with self._lock:
            try:
                if self._sock:
                    self._sock.sendall(json.dumps(line).encode("ascii") + b"\n")
            except OSError:
                pass  # The answer to a question of a connection that has ended is of no use.

    def _open(self, deadline: Optional[float]) -> bool:
        """Connects and listens, until it succeeds or the time is up; returns False once the listener is closed."""
        tries = 0
        while not self._closed.is_set():
            sock, cause, is_final = _connect(self._path)
            if sock:
                with self._lock:
                    if self._sock:
                        self._sock.close()
                    self._sock, self._rest = sock, []
                    sock.settimeout(max(0.01, deadline - time.monotonic()) if deadline else None)
                try:
                    self._write({"op": "listen", "what": self._what, "ref": 1})
                    answer = None
                    while answer is None:
                        answer = self._read()
                    if answer.get("ok"):
                        sock.settimeout(None)
                        return True
                    cause = _error(answer)
                    is_final = cause.code != "full"
                except (OSError, ValueError) as error:
                    cause = FeedError("not_sent", f"{self._path}: {error}")
            if cause and (is_final or deadline and time.monotonic() >= deadline):
                self.close()
                raise cause
            self._closed.wait(random.uniform(0, min(RETRY_MAX, RETRY_FIRST * 2**tries)))
            tries += 1
        return False

    def _read(self) -> Optional[Answer]:
        """Waits for bytes, keeps the lines about clients, and returns an answer if there is one."""
        sock = self._sock
        chunk = sock.recv(CHUNK) if sock else b""
        if not chunk:
            raise OSError("the server has closed the connection")
        self._rest.append(chunk)
        if b"\n" not in chunk:
            return None
        lines = b"".join(self._rest).split(b"\n")
        self._rest = [lines.pop()]
        made = [json.loads(line) for line in lines]
        self._lines.extend(line for line in made if "op" in line)
        return next((line for line in made if "op" not in line), None)


class AsyncListener:
    """A listener for asyncio."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Optional[Answer]] = asyncio.Queue(100)
        threading.Thread(target=self._pump, name="ringcast-listen", daemon=True).start()

    def _pump(self) -> None:
        try:
            for line in self._listener:
                asyncio.run_coroutine_threadsafe(self._queue.put(line), self._loop).result()
            asyncio.run_coroutine_threadsafe(self._queue.put(None), self._loop).result()
        except RuntimeError:
            self._listener.close()  # The loop has ended.

    def __aiter__(self) -> AsyncIterator[Answer]:
        return self

    async def __anext__(self) -> Answer:
        line = await self._queue.get()
        if line is None:
            self._queue.put_nowait(None)
            raise StopAsyncIteration
        return line

    def close(self) -> None:
        """Ends the connection at once and for good."""
        self._listener.close()


class AsyncFeed(_Commands):
    """The feed for asyncio: the commands of `Feed`, to be awaited, over the thread of a `Feed`."""

    def __init__(self, path: Optional[str] = None, **options: Any) -> None:
        self._feed = Feed(path, **options)
        self.auto_key = self._feed.auto_key
        self._room: Optional[asyncio.Semaphore] = None

    async def call(self, command: Answer, *, retry: bool = False, pick: Optional[Callable[[Answer], Any]] = None) -> Any:
        self._room = self._room or asyncio.Semaphore(self._feed.max_pending)
        async with self._room:
            return await asyncio.wrap_future(self._feed._submit(command, retry, pick, waits=False))

    async def listen(self, *what: str) -> AsyncListener:
        return AsyncListener(await asyncio.to_thread(self._feed.listen, *what))

    async def authorize(self, decide: Callable[[Answer], Coroutine[Any, Any, Decision]], *, workers: int = 100) -> Listener:
        loop = asyncio.get_running_loop()

        def ask(question: Answer) -> Decision:
            return asyncio.run_coroutine_threadsafe(decide(question), loop).result()

        return await asyncio.to_thread(self._feed.authorize, ask, workers=workers)

    def close(self) -> None:
        self._feed.close()

    async def __aenter__(self) -> AsyncFeed:
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        if kind is None:
            await asyncio.to_thread(self._feed.flush)
        self.close()
