"""A NATS JetStream stream as an event store, through nats-py; read only."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from datetime import datetime
from threading import RLock
from time import sleep
from typing import Any, TypeVar

import pyarrow as pa

from eventchain.errors import ConfigError, StoreError
from eventchain.eventstores.index_check import PlainCheck
from eventchain.formats.event import EVENT_SCHEMA, UNKNOWN, irregular_id, joined
from eventchain.loop import LoopThread
from eventchain.nats.client import connect
from eventchain.nats.failures import explained
from eventchain.nats.headers import headers_of
from eventchain.nats.urls import parse_url

# isort: split
# Only after ours, which says what to do where the library is missing.
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError, ServiceUnavailableError

T = TypeVar("T")

ID_HEADER = "Nats-Msg-Id"
TYPE_HEADER = "ce-type"
TIMEOUT = 10.0
"""Seconds that an answer of the server may take."""
FETCH = 1024
"""Messages asked for at a time."""
FETCH_TIMEOUT = 1.0
QUIET_SECONDS = 600.0
"""After so long without a fetch the server forgets a consumer."""
HINT = "is nats-server running there, with JetStream (-js)?"
NATS_ERRORS = (NatsError, OSError, asyncio.TimeoutError)


class JetStreamEventStore:
    """``nats://host:4222/STREAM?credentials=FILE``.

    Declaration 1: position = the sequence, stream = the subject, version unknown, id = the header
    ``Nats-Msg-Id`` or, without one, ``<stream>/<sequence>``; type = the header ``ce-type`` or empty; time =
    the server's timestamp in whole microseconds; data = the payload; metadata = a JSON object with sorted
    keys and no spaces: ``headers`` (name to value, in the order of their names), ``raw`` and ``timestamp``
    (nanoseconds since 1970 as a string). ``raw`` is there only where the headers are more than that says, a
    name more than once or a value that is not UTF-8: the whole block as it was sent, in hex, beside the
    headers that nats-py makes of it.

    A subject that is not UTF-8 is read with U+FFFD in it, and the id says so (``irregular_id``).

    The server numbers messages when it takes them, so the last sequence is safe to seal. Usable from several
    threads, which take turns. Failures are StoreError.
    """

    source = "nats-jetstream/1"
    creatable = False

    def __init__(self, url: str) -> None:
        self._server = parse_url(url, "credentials")
        self._stream = self._server.path
        if not self._stream or "/" in self._stream:
            raise ConfigError(
                f"{self.url!r} names no stream", hint="write it as nats://localhost:4222/ORDERS"
            )
        self._turn = RLock()
        self._loop = LoopThread("nats")
        self._connection: Any = None
        self._consumer: Any = None
        self._following: int | None = None  # the sequence after the last that the consumer gave
        try:
            self._call(self._info())
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        return self._server.shown

    # -- the contract

    def read(self, after: int | None, limit: int) -> Any:
        return self._call(self._read(0 if after is None else after, limit))

    def head(self) -> int | None:
        """The newest sequence that holds a message."""
        state = self._call(self._info()).state
        return int(state.last_seq) if state.messages else None

    def wait(self, seconds: float) -> None:
        sleep(seconds)

    def find(self, event_id: str) -> Any:
        """By reading the whole stream: JetStream has no index of ids."""
        found, after = [], 0
        while (batch := self.read(after, 16 * FETCH)).num_rows:
            rows = batch["id"].to_pylist()
            found += [batch.slice(row, 1) for row, name in enumerate(rows) if name == event_id]
            after = batch["position"][-1].as_py()
        return joined(found)

    def index_check(self) -> PlainCheck:
        """None: a stream has no index beside its messages."""
        return PlainCheck()

    def how_to_erase(self, ranges: Sequence[tuple[int, int]], *, rows: bool = False) -> str:
        """Whole messages: JetStream overwrites one that is removed so with random bytes."""
        sequences = (sequence for first, last in ranges for sequence in range(first, last + 1))
        return "\n".join(f"nats stream rmm {self._stream} {sequence} --force" for sequence in sequences)

    def now(self) -> int:
        """The server's clock, as it stands in its answers."""

        async def ask() -> int:
            answer = await self._connection.request(f"$JS.API.STREAM.INFO.{self._stream}", timeout=TIMEOUT)
            said = json.loads(answer.data)["ts"]
            return int(datetime.fromisoformat(said[:19] + "+00:00").timestamp())

        return self._call(ask())

    def close(self) -> None:
        with self._turn:
            self._loop.close(self._leave())

    # -- on the loop's thread

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        async def connected() -> T:
            try:
                if self._connection is None:
                    credentials = self._server.options.get("credentials")
                    self._connection = await connect(self._server, TIMEOUT, credentials)
            except BaseException:
                work.close()
                raise
            return await asyncio.wait_for(work, 6 * TIMEOUT)

        with self._turn:
            try:
                return self._loop.call(connected())
            except NotFoundError as error:
                raise StoreError(
                    f"{self.url}: there is no stream {self._stream}", hint="`nats stream ls` lists them"
                ) from error
            except NATS_ERRORS as error:
                self._loop.call(self._disconnect())
                message, hint = explained(error, self._server)
                raise StoreError(message, hint=hint or HINT) from None  # it may show a password

    async def _disconnect(self) -> None:
        connection, self._connection, self._consumer = self._connection, None, None
        if connection is not None:
            await connection.close()

    async def _leave(self) -> None:
        await asyncio.wait_for(self._disconnect(), TIMEOUT)

    async def _info(self) -> Any:
        return await self._connection.jetstream(timeout=TIMEOUT).stream_info(self._stream)

    async def _read(self, after: int, limit: int) -> Any:
        state = (await self._info()).state
        columns: list[list[Any]] = [[] for _ in EVENT_SCHEMA]
        count = 0
        if self._consumer is None or self._following != after + 1:
            await self._consume_from(after + 1)
        following = after + 1
        while count < limit and following <= state.last_seq:
            try:
                messages = await self._consumer.fetch(min(FETCH, limit - count), timeout=FETCH_TIMEOUT)
            except (TimeoutError, ServiceUnavailableError):  # nats-py raises both its own and asyncio's
                if await self._is_over(following):
                    break
                continue
            for message in messages:
                following = message.metadata.sequence.stream + 1
                for column, value in zip(columns, _row(self._stream, message), strict=True):
                    column.append(value)
            count += len(messages)
        self._following = following
        arrays = [pa.array(column, field.type) for column, field in zip(columns, EVENT_SCHEMA, strict=True)]
        return pa.RecordBatch.from_arrays(arrays, schema=EVENT_SCHEMA)

    async def _is_over(self, following: int) -> bool:
        """After a fetch that brought nothing: whether nothing follows (it was deleted, up to the end), or the
        server was slow, or has forgotten the consumer."""
        try:
            return int((await self._consumer.consumer_info()).num_pending) == 0
        except NotFoundError:
            await self._consume_from(following)
            return False

    async def _consume_from(self, sequence: int) -> None:
        js = self._connection.jetstream(timeout=TIMEOUT)
        if self._consumer is not None:
            old, self._consumer = self._consumer, None
            await old.unsubscribe()
            with suppress(NotFoundError):
                await js.delete_consumer(self._stream, old._consumer)
        config = ConsumerConfig(
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=sequence,
            ack_policy=AckPolicy.NONE,
            inactive_threshold=QUIET_SECONDS,
            mem_storage=True,
        )
        self._consumer = await js.pull_subscribe("", stream=self._stream, config=config)


def _row(stream: str, message: Any) -> tuple[Any, ...]:
    said = headers_of(message.headers.raw) if message.headers is not None else {}
    headers, more = (message.headers, True) if said is None else (said, False)
    sequence = message.metadata.sequence.stream
    # $JS.ACK.<stream>.<consumer>.<delivered>.<sequence>.<consumer sequence>.<nanoseconds>.<pending>; newer
    # servers put a domain and an account before the stream. nats-py's datetime has no nanoseconds.
    fields = message.reply.split(".")
    nanoseconds = int(fields[7 if len(fields) == 9 else 9])
    metadata: dict[str, Any] = {"headers": dict(sorted(headers.items())), "timestamp": str(nanoseconds)}
    if more:
        metadata["raw"] = message.headers.raw.hex()
    event_id = headers.get(ID_HEADER) or f"{stream}/{sequence}"
    subject = message.subject.encode(errors="surrogateescape")
    text = subject.decode(errors="replace")
    if text != message.subject:
        event_id = irregular_id(hashlib.sha256(subject).hexdigest(), ["stream"], event_id)
    return (
        sequence,
        text,
        UNKNOWN,
        event_id,
        headers.get(TYPE_HEADER, ""),
        nanoseconds // 1000,
        message.data,
        json.dumps(dict(sorted(metadata.items())), separators=(",", ":"), ensure_ascii=False).encode(),
    )
