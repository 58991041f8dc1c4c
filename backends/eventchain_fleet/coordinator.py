"""The coordinator: turns searches into pieces on NATS and gathers what the workers answer.

All of it runs on one thread of its own, in an asyncio loop. What is out is only remembered here, and never
for long: a piece that is not answered while its lease runs is handed out again, so a worker, a NATS server or
a message may vanish at any moment. The chain store knows what is to be mined; a coordinator that is started
anew begins with that.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any

from eventchain.contracts.backend import Device, Solutions, Work
from eventchain.errors import BackendError, FormatError
from eventchain.loop import LoopThread
from eventchain.mining.check import check
from eventchain.mining.schedule import Pace
from eventchain_fleet.connection import (
    ALIVE,
    OVER,
    ROOT,
    Login,
    coordinator_subject,
    new_id,
    this_host,
    worker_of,
    worker_subject,
)
from eventchain_fleet.messages import (
    MAX_HEADERS,
    MAX_SEARCHES,
    MAX_TAGS,
    Alive,
    Done,
    Here,
    Over,
    Piece,
    Shut,
    tags_of,
)
from eventchain_fleet.pieces import Cutter, Part
from eventchain_fleet.roster import RECENT_SECONDS, Queue, Roster
from eventchain_fleet.searches import Lent, Search
from eventchain_fleet.streams import Streams

LEASE_SECONDS = 20.0
"""After so long without an answer a piece is handed out again. It takes about two seconds, and up to two
others go before it."""
SEARCH_SECONDS = 60.0
"""A search returns what it has after so long, if anything was answered: its caller begins another, and no
header waits longer for what others withhold."""
FIRST_WORKER_SECONDS = 3.0
"""How long a worker is waited for in the beginning,"""
FALLBACK_SECONDS = 1.0
"""and where there is a fallback."""
TURN_SECONDS, ALIVE_SECONDS, LOOK_SECONDS = 0.25, 1.0, 5.0
"""How often time is seen to pass, everybody is told that the coordinator is there, and streams are looked
after."""
MAX_NAMED = 1000
"""Workers that are warned of when they are shut out: whoever floods us must not fill the logs."""
logger = logging.getLogger("eventchain")


class Coordinator:
    """Use from any thread; it lives as long as the process, or until :meth:`close`.

    groups: of workers that are given work
    local: devices of this host that search while there is no worker; may be none
    rate: hashes a second of whoever searches now

    Raises BackendError where NATS cannot be used, or no worker is there and no local device either.
    """

    def __init__(self, login: Login, groups: Sequence[str], local: Sequence[Device] = ()) -> None:
        self._login, self._groups = login, tuple(groups)
        self._local = {device: Pace(TURN_SECONDS) for device in local}
        self.rate = 0.0
        self._id = new_id()
        self._roster = Roster()
        self._searches: list[Search] = []
        self._handed = 0
        self._rate: deque[tuple[float, float]] = deque()  # when, and how many hashes were answered
        self._lonely_since: float | None = None
        self._failure: BaseException | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._connection: Any = None
        self._unsure = False  # whether the streams are still there
        self._streams: Streams
        self._thread = LoopThread("fleet")
        try:
            self._thread.call(self._open())
        except BaseException:
            self.close()
            raise

    # -- for the devices

    @property
    def summary(self) -> str:
        count = len(self._roster.workers)
        return f"{count or 'no'} worker{'' if count == 1 else 's'} at {self._login.shown}"

    def search(self, work: Work) -> Solutions:
        return self._thread.call(self._search(work))

    def interrupt(self) -> None:
        """Searches in flight return what they have."""
        self._thread.call(self._interrupt())

    def close(self) -> None:
        self._thread.close(self._disconnect())

    # -- on the loop's thread: begin and end

    async def _open(self) -> None:
        self._connection = await self._login.connect(
            f"coordinator-{this_host()}-{os.getpid()}", self._reconnected, self._fail
        )
        self._streams = Streams(self._connection, self._groups)
        try:
            await self._streams.prepare()
        except Exception as error:
            raise self._failure or BackendError(
                f"JetStream cannot be used: {error or type(error).__name__}",
                hint="start nats-server with -js, and let this login make streams (docs/fleet.md)",
            ) from error
        await self._connection.subscribe(f"{ROOT}.here.*.*.*", cb=self._on_here)
        await self._connection.subscribe(f"{ROOT}.done.*.*.*", cb=self._on_done)
        await self._connection.subscribe(coordinator_subject(self._id), cb=self._on_question)
        await self._say_alive()  # workers answer at once
        patience = FALLBACK_SECONDS if self._local else FIRST_WORKER_SECONDS
        while self._lonely and patience > 0:
            await asyncio.sleep(0.02)
            patience -= 0.02  # not by the clock: who answered while this host stood still is heard now
        if self._failure is not None:
            raise self._failure
        if self._lonely and not self._local:
            raise BackendError(
                f"no worker of group {' or '.join(self._groups)} is there",
                hint="start `eventchain worker` on some host, or allow [fleet] fallback",
            )
        self._spawn(self._tend())
        self._spawn(self._look_after_streams())
        for device in self._local:
            self._spawn(self._search_here(device))

    async def _disconnect(self) -> None:
        await self._interrupt()
        if self._connection is not None:
            with suppress(Exception):  # it may be gone already
                await asyncio.wait_for(self._connection.close(), 1.0)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        async def guarded() -> None:
            try:
                await work
            except Exception as error:  # a fault of ours
                self._fail(error)

        task = asyncio.create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _fail(self, error: BaseException) -> None:
        """Whoever searches is told."""
        self._failure = error
        for search in self._searches:
            search.over.set()

    async def _reconnected(self) -> None:
        """NATS is back. It may have lost everything, also what it had acknowledged."""
        self._unsure = True

    async def _look_after_streams(self) -> None:
        """Make streams and consumers that are gone, and hand out again what was in the streams. JetStream may
        take its time to answer: nobody waits for this."""
        due = 0.0
        while True:
            now = time.monotonic()
            if self._connection.is_connected:
                if self._unsure or now >= due:
                    due = now + LOOK_SECONDS
                    with suppress(Exception):  # it is not well yet: the next turn tries again
                        if await self._streams.prepare():
                            self._take_back_all()
                        self._unsure = False
                for queue in [one for one in self._roster.queues.values() if one.devices]:
                    if await self._streams.prepare_queue(queue):  # all that is not acknowledged comes again
                        for search in self._searches:
                            search.twice = True
                self._hand_out()
            await asyncio.sleep(TURN_SECONDS)

    def _take_back_all(self) -> None:
        for search in self._searches:
            search.twice = True  # workers still hold some
            for piece in search.pieces.values():
                self._end_lease(piece)
        for queue in self._roster.queues.values():
            queue.forgive()
        self._hand_out()

    # -- searches

    async def _search(self, work: Work) -> Solutions:
        search = Search(new_id(), Cutter(work), time.monotonic(), asyncio.Event())
        self._searches.append(search)
        try:
            self._hand_out()
            self._end_if_done(search)
            await search.over.wait()
            if isinstance(self._failure, BackendError):
                raise self._failure
            if self._failure is not None:
                raise BackendError(f"the fleet's coordinator failed: {self._failure!r}") from self._failure
        finally:
            self._searches.remove(search)
            for piece in search.pieces.values():
                self._let_go(piece)
            if search.pieces:
                await self._publish(OVER, Over((search.id,), ()).encode())
            self._hand_out()
        found = search.cutter.solutions()
        return Solutions(found.index, found.counter, int(search.hashes))

    async def _interrupt(self) -> None:
        for search in self._searches:
            search.over.set()
        await asyncio.sleep(0)  # their ends are published
        with suppress(Exception):
            await self._connection.flush(1)

    def _hand_out(self) -> None:
        """Fill the queues, from the oldest search first."""
        now = time.monotonic()
        hungry = list(self._streams.ready)
        while hungry := [queue for queue in hungry if queue.has_room(now)]:
            for queue in sorted(hungry, key=lambda queue: queue.fed):
                if not self._hand_to(queue, now):
                    return
                self._handed += 1
                queue.fed = self._handed

    def _hand_to(self, queue: Queue, now: float) -> bool:
        """Not more at once than the queue's share of what is left, so that little is spread over all workers
        too, and the last pieces end together."""
        left = sum(search.cutter.hashes_left for search in self._searches)
        size = queue.size_of(left * self._roster.share_of(queue))
        for search in self._searches:
            if (part := search.cutter.draw(size, MAX_HEADERS)) is not None:
                queue.out, queue.load = queue.out + 1, queue.load + part.hashes
                piece = Lent(search, new_id(), part, queue, now, queue.due(now))
                search.pieces[piece.token] = piece
                search.cut |= len(part.rows) == 1
                search.on_lease += 1
                self._spawn(self._send(piece))
                return True
        return False

    async def _send(self, piece: Lent) -> None:
        work = piece.search.cutter.work(piece.part)
        message = Piece(self._id, piece.search.id, piece.token, work).encode()
        try:
            await self._streams.publish(piece.queue, message)
        except Exception as error:  # no answer, no stream, no connection
            logger.info("a piece was not taken by NATS: %s", str(error) or type(error).__name__)
            self._unsure = True
            await asyncio.sleep(TURN_SECONDS)
            self._end_lease(piece)

    def _end_lease(self, piece: Lent, *, lost: bool = True) -> None:
        """``lost``: what was in the piece is to be handed out again. Its answer counts should it come."""
        if piece.on_lease:
            piece.on_lease = False
            piece.search.on_lease -= 1
            piece.queue.out -= 1
            piece.queue.load -= piece.part.hashes
            if lost:
                piece.search.cutter.put_back(piece.part)

    def _let_go(self, piece: Lent) -> None:
        """Nobody waits for its answer any more."""
        if piece.on_lease:
            now = time.monotonic()
            piece.search.hashes += piece.queue.searched(piece.part.hashes, piece.since, piece.due, now)
        self._end_lease(piece, lost=False)

    # -- answers

    async def _on_done(self, message: Any) -> None:
        group, worker = worker_of(message.subject)
        try:
            done = Done.decode(message.data)
        except FormatError as error:
            await self._shut_out(group, worker, error.message)
            return
        search = next((one for one in self._searches if one.id == done.search), None)
        piece = search.pieces.pop(done.token, None) if search else None
        if search is None or piece is None:
            return  # late, or twice, or from somebody who was not asked
        if (group, worker) in self._roster.shut:
            self._end_lease(piece)
            self._hand_out()
            return
        try:
            checked = check(search.cutter.work(piece.part), done.solutions)
        except BackendError as error:
            self._end_lease(piece)
            await self._shut_out(group, worker, error.message)
            self._hand_out()
            return
        now = time.monotonic()
        if piece.on_lease:
            piece.queue.answered(piece.part.hashes, now)
        self._end_lease(piece, lost=False)
        wanted = search.cutter.is_wanted(piece.part)
        if wanted.all():
            self._account(group, worker, piece, len(checked.index))
        hashes = float(checked.tried[wanted].sum())
        self._rate.append((now, hashes))
        search.hashes += hashes
        search.answered = True
        await self._solved(search, piece.part, Solutions(checked.index, checked.counter))
        self._hand_out()
        if (known := self._roster.workers.get((group, worker))) and known.hides:
            reason = f"it should have solved {known.due:.0f} headers, and solved {known.found}"
            await self._shut_out(group, worker, reason)

    def _account(self, group: str, worker: str, piece: Lent, found: int) -> None:
        """How much the worker should have found of what nobody else had found any of."""
        if known := self._roster.workers.get((group, worker)):
            known.due += piece.search.cutter.odds(piece.part)
            known.found += found

    async def _solved(self, search: Search, part: Part, solutions: Solutions) -> None:
        """Take solutions, and call off whatever else is out for the same headers."""
        rows = search.cutter.solve(part, solutions)
        if len(rows):
            tags = tags_of(search.cutter.headers[rows])
            called_off = self._call_off(search) if search.cut else search.twice
            for other in self._searches:
                if other is not search and len(same := other.rows_of(tags)):
                    other.cutter.abandon(same)
                    called_off |= self._call_off(other)
            if called_off:
                concerned = tuple(one.id for one in self._searches)[:MAX_SEARCHES]
                for at in range(0, len(tags), MAX_TAGS):
                    over = Over(concerned, tuple(tags[at : at + MAX_TAGS].tolist()))
                    await self._publish(OVER, over.encode())
        self._end_if_done(search)

    def _call_off(self, search: Search) -> bool:
        """Wait no longer for pieces whose headers are all solved. Returns whether there was one."""
        solved = [piece for piece in search.pieces.values() if not search.cutter.is_wanted(piece.part).any()]
        for piece in solved:
            self._let_go(piece)
            del search.pieces[piece.token]
        self._end_if_done(search)
        return bool(solved)

    def _end_if_done(self, search: Search) -> None:
        if not search.on_lease and search.cutter.exhausted:
            search.over.set()

    async def _shut_out(self, group: str, worker: str, reason: str) -> None:
        if (group, worker) not in self._roster.shut and len(self._roster.shut) < MAX_NAMED:
            logger.warning("worker %s (%s) is shut out: %s", worker, group, reason)
        self._roster.shut_out(group, worker, reason)
        await self._publish(worker_subject("shut", group, worker), Shut(reason).encode())

    # -- workers

    async def _on_question(self, message: Any) -> None:
        """Whether we are there: who asks is told when we are not."""

    async def _on_here(self, message: Any) -> None:
        group, worker = worker_of(message.subject)
        if group not in self._groups:
            return
        if reason := self._roster.shut.get((group, worker)):
            await self._publish(worker_subject("shut", group, worker), Shut(reason).encode())
            return
        try:
            here = Here.decode(message.data)
        except FormatError as error:
            await self._shut_out(group, worker, error.message)
            return
        self._roster.heard(group, worker, here, time.monotonic())

    async def _tend(self) -> None:
        """Time passes: leases end, workers fall silent, searches take too long."""
        alive_due = 0.0
        while True:
            now = time.monotonic()
            self._roster.forget_silent(now)
            self._look_after_loneliness(now)
            if self._connection.is_connected:
                self._end_leases(now)
            self._hand_out()
            if now >= alive_due:
                alive_due = now + ALIVE_SECONDS
                await self._say_alive()
            await asyncio.sleep(TURN_SECONDS)

    def _end_leases(self, now: float) -> None:
        """Take back what is not answered in time: after the whole lease, or as soon as it is due where some
        device has nothing else to do."""
        idle = all(search.cutter.exhausted for search in self._searches) and any(
            queue.has_room(now) for queue in self._streams.ready
        )
        for search in self._searches:
            for piece in search.pieces.values():
                if not piece.on_lease:
                    continue
                late = now >= piece.since + LEASE_SECONDS or (idle and now >= piece.due)
                if late:
                    piece.queue.missed(piece.since, now)
                if late or not piece.queue.devices:
                    self._end_lease(piece)
            if search.answered and search.since < now - SEARCH_SECONDS:
                search.over.set()

    async def _say_alive(self) -> None:
        now = time.monotonic()
        while self._rate and self._rate[0][0] < now - RECENT_SECONDS:
            self._rate.popleft()
        out = sum(queue.out for queue in self._roster.queues.values())
        left = sum(search.cutter.hashes_left for search in self._searches)
        rate = sum(hashes for _, hashes in self._rate) / RECENT_SECONDS
        self.rate = sum(pace.rate for pace in self._local.values()) if self._lonely else self._roster.rate
        alive = Alive(self._id, out, len(self._roster.workers), left, rate, this_host())
        await self._publish(ALIVE, alive.encode())

    async def _publish(self, subject: str, data: bytes) -> None:
        """Of what only hurries things: whether it arrives does not matter."""
        with suppress(Exception):  # not connected just now
            await self._connection.publish(subject, data)

    # -- without workers

    @property
    def _lonely(self) -> bool:
        return not self._roster.workers

    def _look_after_loneliness(self, now: float) -> None:
        if not self._lonely:
            if self._lonely_since is not None:
                logger.warning("the fleet has a worker again")
            self._lonely_since = None
        elif self._lonely_since is None:
            self._lonely_since = now
            meanwhile = f"mining on {', '.join(device.name for device in self._local)}" if self._local else ""
            logger.warning("the fleet has no worker: %s", meanwhile or "waiting for one")

    async def _search_here(self, device: Device) -> None:
        """Search on a device of this host while there is no worker."""
        pace = self._local[device]
        while True:
            search = next((one for one in self._searches if not one.cutter.exhausted), None)
            if search is None or not self._lonely:
                await asyncio.sleep(TURN_SECONDS / 10)
                continue
            part = search.cutter.draw(pace.budget, MAX_HEADERS)
            assert part is not None
            work = search.cutter.work(part)
            began = time.perf_counter()
            solutions = await asyncio.to_thread(device.search, work)
            checked = check(work, solutions)
            pace.update(checked.hashes, time.perf_counter() - began)
            search.hashes += checked.hashes
            search.answered = True
            await self._solved(search, part, Solutions(checked.index, checked.counter))
