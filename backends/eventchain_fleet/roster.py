"""Who is in the fleet, who was shut out of it, and how much each kind of device may be given.

Bookkeeping only: no network, no clock. Nothing that a worker says of itself is believed further than it costs
nothing: how much a queue is given at once grows with what it has answered, never with what is claimed.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from eventchain_fleet.messages import Here

SILENT_SECONDS = 7.0
"""A worker that was not heard of for so long is gone."""
MAX_WORKERS, MAX_DEVICES = 20_000, 64
"""What a coordinator keeps in mind: of the fleet, and of a worker."""
MAX_SHUT = 20_000
DEPTH = 3
"""Pieces that are out for each device: one is searched, one lies ready there, one is on its way."""
FIRST_WINDOW, RECENT_SECONDS = 16, 10.0
"""Pieces that are out for a queue are at most this many more than it answered in the last seconds."""
PIECE_SECONDS = 2.0
"""What a piece takes a device of the queue's size class."""
GRACE_SECONDS = 2.0
"""For a piece's way to a worker far away and back."""
LONGEST_PAUSE = 60.0
FINEST = 32.0
"""A piece is not cut to less than this part of the usual size."""
FIRST_SIZE, GROWTH = 2.0**20, 8.0
"""Hashes in a queue's first piece; and a piece is at most so many times as large as one that was answered."""
SIGMAS, LEAST_DUE = 6.0, 36.0
"""A worker that found less than it should have, by so many standard deviations, hides what it finds."""
BELIEVED = 2.0
"""A device is believed to be at most so many times as fast as the pieces of its queue are for."""


@dataclass(slots=True)
class Worker:
    """devices: number to size class; rates: number to hashes a second, as it says; due, found: headers that
    it should have solved, on average, and has."""

    seen: float
    devices: dict[int, int] = field(default_factory=dict)
    rates: dict[int, float] = field(default_factory=dict)
    due: float = 0.0
    found: int = 0

    @property
    def hides(self) -> bool:
        return self.due > LEAST_DUE and self.found < self.due - SIGMAS * math.sqrt(self.due)


class Queue:
    """What devices of one size class in one group of workers pull from."""

    def __init__(self, group: str, size_class: int) -> None:
        self.group, self.size_class = group, size_class
        self.devices = 0
        self.out = 0  # pieces that are on lease,
        self.load = 0.0  # and their expected hashes
        self.fed = 0  # the number of the last piece that it was given: who waited longest is next
        self._proven = FIRST_SIZE / GROWTH
        self._answers: deque[float] = deque()
        self._misses = 0  # in a row
        self._paused_until = 0.0

    @property
    def size(self) -> float:
        """Expected hashes of its largest piece."""
        return min(2.0**self.size_class, self._proven * GROWTH)

    def size_of(self, share: float) -> float:
        """Expected hashes of its next piece where a device's share of the rest is so many."""
        return min(self.size, max(share, 2.0**self.size_class / FINEST))

    def has_room(self, now: float) -> bool:
        while self._answers and self._answers[0] < now - RECENT_SECONDS:
            self._answers.popleft()
        window = min(DEPTH * self.devices, FIRST_WINDOW + len(self._answers))
        if self._misses:  # a piece now and then, to see whether it is well again
            window = min(window, 1) if now >= self._paused_until else 0
        return self.out < window

    def due(self, now: float) -> float:
        """By when the last piece that it was given should be answered, with as much time again to spare."""
        pieces = self.load / 2.0**self.size_class / max(1, self.devices)
        return now + GRACE_SECONDS + 2 * PIECE_SECONDS * pieces

    def searched(self, hashes: float, since: float, due: float, now: float) -> float:
        """About how much of a piece of so many expected hashes is searched by now, which was given at
        ``since`` and is due at ``due``."""
        seconds = PIECE_SECONDS * hashes / 2.0**self.size_class
        end = since + max(seconds, (due - since - GRACE_SECONDS) / 2)
        return hashes * min(1.0, max(0.0, 1 - (end - now) / seconds))

    def answered(self, hashes: float, now: float) -> None:
        self._answers.append(now)
        self._misses = 0
        self._proven = min(max(self._proven, hashes), 2.0**self.size_class)

    def missed(self, since: float, now: float) -> None:
        """A piece that was given at ``since`` was not answered in time. Where nothing else was answered
        meanwhile either, the queue gets less, and is asked more and more rarely."""
        if self._answers and self._answers[-1] >= since:
            return
        self._proven = max(FIRST_SIZE / GROWTH, self._proven / GROWTH)
        if now >= self._paused_until:  # those that were given together count once
            self._misses += 1
            self._paused_until = now + min(2.0**self._misses, LONGEST_PAUSE)

    def forgive(self) -> None:
        """It was not the queue's fault."""
        self._misses = 0


class Roster:
    def __init__(self) -> None:
        self.workers: dict[tuple[str, str], Worker] = {}
        self.queues: dict[tuple[str, int], Queue] = {}
        self.shut: dict[tuple[str, str], str] = {}

    def heard(self, group: str, name: str, here: Here, now: float) -> None:
        """A worker, by its group and name, says that it is there."""
        key = group, name
        if key in self.shut:
            return
        worker = self.workers.get(key)
        if worker is None:
            if len(self.workers) >= MAX_WORKERS:
                return
            worker = self.workers[key] = Worker(now)
        worker.seen = now
        if here.number >= MAX_DEVICES:
            return
        worker.rates[here.number] = here.rate
        before = worker.devices.get(here.number)
        if before == here.size_class:
            return
        if before is not None:
            self.queues[group, before].devices -= 1
        worker.devices[here.number] = here.size_class
        queue = self.queues.setdefault((group, here.size_class), Queue(group, here.size_class))
        queue.devices += 1

    @property
    def rate(self) -> float:
        """Hashes a second of all workers, as they say, as far as that is believed."""
        return sum(
            min(worker.rates[number], BELIEVED * self.queues[key[0], size_class].size / PIECE_SECONDS)
            for key, worker in self.workers.items()
            for number, size_class in worker.devices.items()
        )

    def share_of(self, queue: Queue) -> float:
        """What part of all work a device of this queue should do, by its size class."""
        others = self.queues.values()
        return 1 / sum(one.devices * 2.0 ** (one.size_class - queue.size_class) for one in others)

    def forget_silent(self, now: float) -> None:
        for key, worker in list(self.workers.items()):
            if worker.seen < now - SILENT_SECONDS:
                self._remove(key)

    def shut_out(self, group: str, name: str, reason: str) -> None:
        while len(self.shut) >= MAX_SHUT:
            del self.shut[next(iter(self.shut))]
        self.shut[group, name] = reason
        self._remove((group, name))

    def _remove(self, key: tuple[str, str]) -> None:
        worker = self.workers.pop(key, None)
        for size_class in worker.devices.values() if worker else ():
            self.queues[key[0], size_class].devices -= 1
