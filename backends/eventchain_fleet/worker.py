"""The worker: pulls pieces from NATS, searches them on this host's devices and answers.

It opens no port, keeps nothing, and runs nothing but searches. Each device pulls by itself, from the queue of
pieces that take it about two seconds; several lie ready, so that a worker far away stays busy.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

from eventchain.contracts.backend import Device
from eventchain.errors import BackendError, EventChainError, FormatError
from eventchain.mining.backends import Choice, measure
from eventchain.mining.check import check
from eventchain.mining.schedule import Pace
from eventchain_fleet.connection import (
    ALIVE,
    OVER,
    Login,
    consumer_of,
    coordinator_subject,
    new_id,
    stream_of,
    this_host,
    worker_subject,
)
from eventchain_fleet.messages import MAX_CLASS, MAX_HEADERS, Alive, Done, Here, Over, Piece, Shut, tags_of
from eventchain_fleet.pieces import Cutter
from eventchain_fleet.roster import DEPTH, PIECE_SECONDS
from eventchain_fleet.streams import ACK_SECONDS

SANE_SECONDS = 30.0
"""A piece that would take longer is refused."""
SLICE_SECONDS = 0.25
"""How long a device searches between two looks at what was called off."""
MEASURE_SECONDS = 0.5
HERE_SECONDS = 2.0
PULL_SECONDS = 2.0
"""How long a pull waits for a piece before it is made anew, perhaps from another queue."""
RETRY_SECONDS = 0.5
SILENT_SECONDS = 5.0
"""Pieces of a coordinator that was not heard of for so long are let go."""
ASK_SECONDS = 1.0
"""How long NATS has to say that nobody listens where a coordinator should."""
REMEMBERED = 4096
"""Searches that are over and coordinators that a worker keeps in mind, of each."""
MAX_REMEMBERED_TAGS = 65_536
"""Headers of a search that it keeps in mind; of the last 64 searches. What it forgets is searched in vain."""
logger = logging.getLogger("eventchain")


class Worker:
    """``duty``: the share of the time that devices work, above 0 and at most 1. ``report``: called with the
    worker as often as it says that it is here."""

    def __init__(
        self,
        login: Login,
        group: str,
        choice: Choice,
        duty: float = 1.0,
        report: Callable[[Worker], None] = lambda worker: None,
    ) -> None:
        self.name = f"{this_host()}.{new_id() >> 32:08x}"
        self.group = group
        self._login, self._report = login, report
        self.units = [Unit(self, number, device, duty) for number, device in enumerate(choice.searchers)]
        self.connection: Any = None
        self.jetstream: Any = None
        self._over: OrderedDict[int, None] = OrderedDict()  # searches, oldest first
        self._solved: OrderedDict[int, set[int]] = OrderedDict()  # headers of a search, by tag
        self._heard: OrderedDict[int, float] = OrderedDict()  # coordinators, and when
        self._asking: asyncio.Task[None] | None = None
        self._end: asyncio.Future[None]

    def run(self) -> None:
        """Work until interrupted. Raises BackendError where NATS cannot be reached at the start or does not
        allow what a worker needs, when the worker is shut out, and when no device is left."""
        asyncio.run(self._run())

    async def _run(self) -> None:
        self._end = asyncio.get_running_loop().create_future()
        self.connection = await self._login.connect(this_host(), self._reconnected, self.end)
        self.jetstream = self.connection.jetstream()
        await self.connection.subscribe(OVER, cb=self._on_over)
        await self.connection.subscribe(ALIVE, cb=self._on_alive)
        await self.connection.subscribe(self.subject("shut"), cb=self._on_shut)
        loops = [self._stay_known(), *(loop for unit in self.units for loop in unit.loops())]
        tasks = [asyncio.create_task(self._guarded(loop)) for loop in loops]
        try:
            await self._end
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for unit in self.units:
                await unit.leave()
            with suppress(Exception):  # what is not sent is given to others when its time is over
                await asyncio.wait_for(self.connection.flush(), 1.0)
            await self.connection.close()

    async def _guarded(self, loop: Any) -> None:
        try:
            await loop
        except Exception as error:
            self.end(error)

    def end(self, error: Exception) -> None:
        if not self._end.done():
            self._end.set_exception(error)

    def subject(self, kind: str) -> str:
        return worker_subject(kind, self.group, self.name)

    async def publish(self, kind: str, data: bytes) -> None:
        with suppress(Exception):  # while NATS is away; what was asked is then asked again
            await self.connection.publish(self.subject(kind), data)

    async def _stay_known(self) -> None:
        while True:
            await self.say_here()
            self._report(self)
            await asyncio.sleep(HERE_SECONDS)

    async def say_here(self) -> None:
        for unit in self.units:
            if not unit.broken:
                await self.publish("here", unit.here().encode())

    async def _reconnected(self) -> None:
        self._heard.clear()  # nobody could be heard
        await self.say_here()

    async def _on_alive(self, message: Any) -> None:
        with suppress(FormatError):
            coordinator = Alive.decode(message.data).coordinator
            news = coordinator not in self._heard
            _remember(self._heard, coordinator, time.monotonic())
            if news:
                await self.say_here()
                self._asking = asyncio.create_task(self._ask_for_all_but(coordinator))

    async def _ask_for_all_but(self, coordinator: int) -> None:
        """A new coordinator often stands in for one that died: what that one asked for is let go at once."""
        from nats.errors import NoRespondersError

        async def ask(other: int) -> None:
            try:
                await self.connection.request(coordinator_subject(other), timeout=ASK_SECONDS)
            except NoRespondersError:
                self._heard[other] = -math.inf  # until it is heard again
            except Exception as error:  # it is there, since nobody says that it is not
                logger.debug("coordinator %016x: %s", other, str(error) or type(error).__name__)

        recently = time.monotonic() - SILENT_SECONDS
        others = [one for one, when in self._heard.items() if one != coordinator and when >= recently]
        await asyncio.gather(*map(ask, others))

    async def _on_over(self, message: Any) -> None:
        with suppress(FormatError):
            over = Over.decode(message.data)
            for search in over.searches:
                if over.tags:
                    tags = self._solved.get(search, set()).union(over.tags)
                    _remember(self._solved, search, set() if len(tags) > MAX_REMEMBERED_TAGS else tags, 64)
                else:
                    _remember(self._over, search, None)

    async def _on_shut(self, message: Any) -> None:
        with suppress(FormatError):
            reason = Shut.decode(message.data).reason
            self.end(
                BackendError(
                    f"this worker is shut out: {reason}",
                    hint="its hardware or its driver may be faulty: `eventchain backends` tests them",
                )
            )

    def is_void(self, piece: Piece) -> bool:
        """Nobody waits for its answer."""
        now = time.monotonic()
        heard = self._heard.get(piece.coordinator)
        if heard is None:
            _remember(self._heard, piece.coordinator, now)
        silent = heard is not None and heard < now - SILENT_SECONDS and self.connection.is_connected
        return silent or piece.search in self._over

    def called_off(self, search: int, tags: Any) -> Any:
        """Which headers of a search, by their tags (n,), need nothing more: (n,) bool."""
        solved = self._solved.get(search, set())
        return np.isin(tags, np.fromiter(solved, np.uint64, len(solved)))


class Unit:
    """One device of a worker, and the pieces that it holds."""

    def __init__(self, worker: Worker, number: int, device: Device, duty: float) -> None:
        self.device, self.number = device, number
        self.pieces = self.errors = 0
        self.broken = False
        self._worker, self._duty = worker, duty
        self._pace = Pace(PIECE_SECONDS)
        rate = measure(device, MEASURE_SECONDS) * duty
        self._pace.update(int(rate), 1.0)
        self.size_class = self._wanted_class()
        self._waiting: asyncio.Queue[tuple[Piece, asyncio.Event]] = asyncio.Queue()
        self._held: dict[int, Any] = {}  # messages that are not acknowledged, by the token of their piece

    @property
    def rate(self) -> float:
        """Hashes a second, rests included."""
        return self._pace.rate

    def here(self) -> Here:
        return Here(self.number, self.size_class, self.rate, self.pieces, self.errors, self.device.name)

    def loops(self) -> list[Any]:
        return [self._search_all(), self._keep(), *(self._pull() for _ in range(DEPTH - 1))]

    async def leave(self) -> None:
        """Give back what is held."""
        for message in list(self._held.values()):
            with suppress(Exception):
                await message.nak()

    def _wanted_class(self) -> int:
        return min(MAX_CLASS, max(0, round(math.log2(max(1.0, PIECE_SECONDS * self.rate)))))

    # -- pulling: each of these loops holds one piece that waits

    async def _pull(self) -> None:
        subscription, bound_to = None, -1
        while not self.broken:
            try:
                if subscription is None or bound_to != self.size_class:
                    if subscription is not None:
                        await subscription.unsubscribe()
                    bound_to = self.size_class
                    subscription = await self._worker.jetstream.pull_subscribe_bind(
                        consumer_of(bound_to), stream_of(self._worker.group)
                    )
                (message,) = await subscription.fetch(1, timeout=PULL_SECONDS)
            except TimeoutError:
                continue
            except Exception as error:  # no such queue yet, NATS is away: JetStream's and nats-py's errors
                logger.debug("no piece: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            await self._take(message)

    async def _take(self, message: Any) -> None:
        try:
            piece = Piece.decode(message.data)
            if Cutter(piece.work).hashes_left > SANE_SECONDS * max(self.rate, 2.0**self.size_class):
                raise FormatError("a piece is too large for this device")
        except FormatError as error:
            self.errors += 1
            logger.warning("refused: %s", error.message)
            await message.term()
            return
        known = piece.token in self._held  # then JetStream has lost sight of it, and knows it by this message
        self._held[piece.token] = message
        if known:
            return
        taken = asyncio.Event()
        self._waiting.put_nowait((piece, taken))
        await taken.wait()

    async def _keep(self) -> None:
        """Tell JetStream that what is held is being worked on."""
        while True:
            await asyncio.sleep(ACK_SECONDS / 3)
            for message in list(self._held.values()):
                with suppress(Exception):
                    await message.in_progress()

    # -- searching

    async def _search_all(self) -> None:
        while True:
            piece, taken = await self._waiting.get()
            taken.set()
            if not self._worker.is_void(piece):
                try:
                    await self._search(piece)
                except Exception as error:  # of a stranger's code
                    await self._set_aside(error)
                    return
            message = self._held.pop(piece.token)
            with suppress(Exception):
                await message.ack()

    async def _search(self, piece: Piece) -> None:
        loop = asyncio.get_running_loop()
        cutter, tags = Cutter(piece.work), tags_of(piece.work.headers)
        began, hashes = time.perf_counter(), 0
        while not self._worker.is_void(piece):
            if (off := self._worker.called_off(piece.search, tags)).any():
                cutter.abandon(np.flatnonzero(off))
            start = time.perf_counter()
            part = cutter.draw(self.rate / self._duty * SLICE_SECONDS, MAX_HEADERS)
            if part is not None:
                work = cutter.work(part)
                solutions = await loop.run_in_executor(None, self.device.search, work)
                hashes += check(work, solutions).hashes
                cutter.solve(part, solutions)
            rest = (time.perf_counter() - start) * (1 / self._duty - 1)
            if searched := cutter.exhausted:
                self.pieces += 1
                done = Done(piece.search, piece.token, cutter.solutions())
                await self._worker.publish("done", done.encode())
            if self._duty < 1:  # nobody waits for its rest
                await asyncio.sleep(rest)
            if searched:
                break
        if self._measured(hashes, time.perf_counter() - began):
            await self._worker.say_here()

    def _measured(self, hashes: int, seconds: float) -> bool:
        """Returns whether the device is of another size class now."""
        if seconds < SLICE_SECONDS / 2:  # says little of the device
            return False
        self._pace.update(hashes, seconds)
        exact = math.log2(max(1.0, PIECE_SECONDS * self.rate))
        if abs(exact - self.size_class) <= 0.75:  # not to and fro between two
            return False
        self.size_class = self._wanted_class()
        return True

    async def _set_aside(self, error: Exception) -> None:
        reason = error.message if isinstance(error, EventChainError) else f"{type(error).__name__}: {error}"
        self.broken = True
        logger.warning("set aside: %s: %s", self.device.name, reason)
        await self.leave()
        if all(unit.broken for unit in self._worker.units):
            self._worker.end(BackendError(f"no device is left to mine on: {self.device.name}: {reason}"))


def _remember(known: OrderedDict[int, Any], key: int, value: Any, most: int = REMEMBERED) -> None:
    known[key] = value
    known.move_to_end(key)
    while len(known) > most:
        known.popitem(last=False)
