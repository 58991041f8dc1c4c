"""The server: one thread with an asyncio loop that all connections share and none of them can hold up.

A connection works on one block at a time, as far as there are enough on one that nobody else works on. What a
miner sends is checked here; what solves a block waits for the engine, which checks it again.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import secrets
import socket
import time
from collections import OrderedDict
from contextlib import suppress
from typing import Any

import numpy as np

from eventchain.contracts.backend import Sealed, Task
from eventchain.errors import BackendError, FormatError
from eventchain.formats.header import HEADER
from eventchain.loop import LoopThread
from eventchain_stratum import protocol
from eventchain_stratum.accounts import Accounts
from eventchain_stratum.allowance import Allowance
from eventchain_stratum.jobs import Block, Blocks, Job, Key
from eventchain_stratum.protocol import Refused
from eventchain_stratum.vardiff import Vardiff

MAX_CONNECTIONS = 512
"""Well below the files that a process may open, which are often 1,024."""
MAX_STRANGERS = 64
"""Connections that have not given the password yet; one more, and the oldest of them is closed."""
LOGIN_SECONDS = 15.0
"""How long a connection may take to do so."""
MAX_JOBS = 8
"""Of a connection, the newest: shares of older ones come too late."""
REFRESH_SECONDS = 45.0
"""A job gets the time of day so often. cpuminer gives up a connection that is silent for two minutes."""
MAX_UNSENT = 2**18
"""Bytes that wait for a miner that does not read; one more line, and it is cut off."""
MAX_WARNED = 1000
"""Addresses that are warned of."""
MAX_WORKERS = 16
"""Names that one connection may authorize."""
TURN_SECONDS, GATHER_SECONDS = 0.25, 0.01
"""The engine is answered after so long. When something is found, with all that follows within the latter."""
TICK_SECONDS = 1.0
logger = logging.getLogger("eventchain")


class Connection:
    """A miner's end of the line, and what it was given."""

    def __init__(self, writer: asyncio.StreamWriter, extranonce1: bytes, now: float) -> None:
        self.writer = writer
        self.extranonce1 = extranonce1
        self.peer = str((writer.get_extra_info("peername") or ["somewhere"])[0])
        self.since = now
        self.subscribed = False
        self.workers: list[str] = []
        self.mask = 0
        self.vardiff = Vardiff(now)
        self.jobs: OrderedDict[str, Job] = OrderedDict()
        self.given = now  # when the newest job was
        self._difficulty = 0.0  # that it was told
        self.allowance = Allowance(now)

    @property
    def ready(self) -> bool:
        return self.subscribed and bool(self.workers)

    @property
    def block(self) -> Block | None:
        """What it works on."""
        newest = next(reversed(self.jobs.values()), None)
        return newest.block if newest is not None else None

    def send(self, line: bytes) -> None:
        if self.writer.transport.get_write_buffer_size() > MAX_UNSENT:
            self.writer.transport.abort()
        elif not self.writer.is_closing():
            self.writer.write(line)

    def give(self, job: Job, clean: bool, now: float) -> None:
        self.jobs[job.id] = job
        self.given = now
        while len(self.jobs) > MAX_JOBS:
            self.jobs.popitem(last=False)
        if job.difficulty != self._difficulty:
            self._difficulty = job.difficulty
            told = int(job.difficulty) if job.difficulty >= 1 else job.difficulty
            self.send(protocol.notification("mining.set_difficulty", [told]))
        self.send(protocol.notification("mining.notify", job.notify(clean)))


class Server:
    """It listens until :meth:`close`. The methods are for other threads.

    Raises BackendError where it cannot listen on the address.
    """

    def __init__(self, host: str, port: int, password: str | None) -> None:
        self._password = password
        self._blocks = Blocks()
        self._connections: dict[Connection, None] = {}
        self._accounts = Accounts()
        self._solved: dict[Key, tuple[bytes, int]] = {}  # header and extranonce, until the engine is told
        self._news = asyncio.Event()
        self._hashes = 0
        self._offset = time.time() - time.monotonic()  # of the engine's clock
        self._handed = 0
        self._warned: set[str] = set()
        self._extranonce1 = secrets.randbelow(2**31)
        self._server: asyncio.Server | None = None
        self._thread = LoopThread("stratum")
        try:
            self.port = self._thread.call(self._begin(host, port))
        except OSError as error:
            self.close()
            reason = error.strerror or str(error)
            if error.errno and not isinstance(error, socket.gaierror):
                reason = os.strerror(error.errno)  # asyncio's own repeats the address
            raise BackendError(
                f"cannot listen on {host}:{port}: {reason}",
                hint="another program may listen there, or the address is not this host's",
            ) from error

    # -- for other threads

    def mine(self, task: Task) -> Sealed:
        return self._thread.call(self._mine(task))

    def close(self) -> None:
        """Close every connection and stop."""
        self._thread.close(self._end())

    # -- on the loop's thread: begin and end

    async def _begin(self, host: str, port: int) -> int:
        """Returns the port where it listens."""
        self._server = await asyncio.start_server(
            self._serve, host, port, limit=protocol.MAX_LINE, backlog=256
        )
        self._ticking = asyncio.create_task(self._tick())
        found: int = self._server.sockets[0].getsockname()[1]
        return found

    async def _end(self) -> None:
        if self._server is not None:
            self._server.close()
        for connection in self._connections:
            connection.writer.transport.abort()
        await asyncio.sleep(0)  # the transports close

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = time.monotonic()
            for connection in list(self._connections):
                if not connection.ready:
                    if now - connection.since > LOGIN_SECONDS:
                        connection.writer.transport.abort()
                    continue
                changed = connection.block is not None and connection.vardiff.adjust(now)
                if changed or now - connection.given > REFRESH_SECONDS:
                    self._refresh(connection)

    # -- the engine's blocks

    async def _mine(self, task: Task) -> Sealed:
        if self._ticking.done():
            self._ticking.result()  # a fault of ours: it never ends by itself
        self._offset = task.now - time.monotonic()
        self._blocks.keep(task, self._solved)
        self._hand_out()
        if not self._solved:
            self._news.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), TURN_SECONDS)
        if self._solved:
            await asyncio.sleep(GATHER_SECONDS)
        keys = [
            (header["prev"].tobytes(), said)
            for header, said in zip(task.headers, task.manifests, strict=True)
        ]
        found = [(row, *self._solved[key]) for row, key in enumerate(keys) if key in self._solved]
        self._solved.clear()
        hashes, self._hashes = self._hashes, 0
        now = time.monotonic()
        return Sealed(
            np.array([row for row, _, _ in found], np.uint32),
            np.frombuffer(b"".join(header for _, header, _ in found), HEADER),
            np.array([extranonce for _, _, extranonce in found], np.uint64),
            hashes,
            sum(connection.vardiff.rate(now) for connection in self._connections if connection.ready),
        )

    def _hand_out(self) -> None:
        """Everybody whose block is solved gets another one."""
        for connection in self._connections:
            if connection.ready and (connection.block is None or connection.block.solved):
                self._next(connection)

    def _next(self, connection: Connection) -> None:
        now = time.monotonic()
        if (block := self._blocks.draw(connection, now)) is not None:
            connection.jobs.clear()
            connection.give(self._job(connection, block), True, now)

    def _refresh(self, connection: Connection) -> None:
        """The same block with another time and difficulty; shares of the jobs before still count."""
        if (block := connection.block) is not None and not block.solved:
            connection.give(self._job(connection, block), False, time.monotonic())

    def _job(self, connection: Connection, block: Block) -> Job:
        self._handed += 1
        return Job(
            f"{self._handed:x}", block, connection.extranonce1,
            connection.vardiff.work, connection.mask, self._now(),
        )  # fmt: skip

    def _now(self) -> int:
        """Unix seconds by the engine's clock."""
        return int(time.monotonic() + self._offset)

    # -- a connection

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        strangers = [
            other for other in self._connections if not other.workers and not other.writer.is_closing()
        ]
        if len(strangers) >= MAX_STRANGERS:
            strangers[0].writer.transport.abort()
        connection = Connection(writer, self._new_extranonce1(), time.monotonic())
        self._connections[connection] = None
        with suppress(OSError):
            link = writer.get_extra_info("socket")
            link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        try:
            await self._converse(connection, reader)
        except FormatError as error:
            self._warn(connection, f"was cut off: {error}")
        except (OSError, asyncio.CancelledError):
            pass  # it is gone, or we are to be
        except Exception:  # a fault of ours must not end the others
            logger.exception("a miner at %s was cut off", connection.peer)
        finally:
            del self._connections[connection]
            if connection.block is not None:
                connection.block.holders.pop(connection, None)
            for worker in connection.workers:
                self._accounts.leave(worker)
            writer.close()

    def _warn(self, connection: Connection, text: str) -> None:
        """Once an address: whoever floods us must not fill the logs."""
        if connection.peer not in self._warned and len(self._warned) < MAX_WARNED:
            self._warned.add(connection.peer)
            logger.warning("a miner at %s %s", connection.peer, text)

    def _new_extranonce1(self) -> bytes:
        """One that no other connection has. Never 0, where the engine's own counting begins."""
        taken = {connection.extranonce1 for connection in self._connections}
        while True:
            self._extranonce1 = self._extranonce1 % (2**31 - 1) + 1
            candidate = self._extranonce1.to_bytes(protocol.EXTRANONCE1_SIZE, "big")
            if candidate not in taken:
                return candidate

    async def _converse(self, connection: Connection, reader: asyncio.StreamReader) -> None:
        while (line := await self._line(reader)).endswith(b"\n"):
            if not line.strip():
                continue
            request = protocol.request(line)
            wait = connection.allowance.spend(time.monotonic())
            try:
                reply = protocol.answer(request.id, self._do(connection, request))
            except Refused as refused:
                reply = protocol.refusal(request.id, refused)
                if refused.code == protocol.UNAUTHORIZED and not connection.workers:
                    wait = max(wait, 1.0)  # whoever guesses passwords guesses slowly
            connection.send(reply)
            if (
                request.method in ("mining.subscribe", "mining.authorize", "mining.submit")
                and connection.ready
            ):
                block = connection.block
                if block is None or block.solved:
                    self._next(connection)
                elif next(reversed(connection.jobs.values())).full or connection.vardiff.adjust(
                    time.monotonic()
                ):
                    self._refresh(connection)
            await asyncio.sleep(wait)  # also with 0: the others get their turn

    async def _line(self, reader: asyncio.StreamReader) -> bytes:
        try:
            return await reader.readline()
        except ValueError:
            raise FormatError(f"a line of more than {protocol.MAX_LINE} bytes") from None

    def _do(self, connection: Connection, request: protocol.Request) -> Any:
        """The result of a request. Raises Refused."""
        match request.method:
            case "mining.subscribe":
                connection.subscribed = True
                own = connection.extranonce1.hex()
                notices = [["mining.set_difficulty", own], ["mining.notify", own]]
                return [notices, own, protocol.EXTRANONCE2_SIZE]
            case "mining.authorize":
                return self._authorize(connection, *protocol.login(request.params or []))
            case "mining.configure":
                answered, mask = protocol.configured(request.params or [])
                connection.mask = connection.mask if mask is None else mask
                return answered
            case "mining.submit":
                return self._submit(connection, request.params or [])
        raise Refused(protocol.OTHER, "there is no such method")

    def _authorize(self, connection: Connection, worker: str, password: str) -> bool:
        if self._password is not None and not hmac.compare_digest(password.encode(), self._password.encode()):
            self._warn(connection, "gave a wrong password")
            raise Refused(protocol.UNAUTHORIZED, "wrong password")
        if worker not in connection.workers:
            if len(connection.workers) >= MAX_WORKERS:
                raise Refused(protocol.UNAUTHORIZED, "too many workers on one connection")
            connection.workers.append(worker)
            self._accounts.join(worker)
        return True

    def _submit(self, connection: Connection, params: list[Any]) -> bool:
        if not connection.subscribed:
            raise Refused(protocol.NOT_SUBSCRIBED, "subscribe first")
        submission = protocol.submission(params)
        if submission.worker not in connection.workers:
            raise Refused(protocol.UNAUTHORIZED, "authorize this worker first")
        account = self._accounts[submission.worker]
        try:
            job = connection.jobs.get(submission.job)
            if job is None:
                raise Refused(protocol.STALE, "this job is over")
            share = job.check(submission, self._now())
        except Refused as refused:
            account.refuse(refused.code)
            raise
        connection.allowance.give_back()
        connection.vardiff.share(job.work)
        account.accept(job.work, share.solves)
        self._hashes += job.work
        if share.solves:
            self._solved[job.block.key] = share.header, share.extranonce
            self._blocks.solve(job.block)
            self._news.set()
            self._thread.loop.call_soon(self._hand_out)  # when the miner has its answer
        return True
