"""The mining engine: a pool of devices, each with a thread of its own, that solves headers.

What a device answers is re-checked here. One that answers wrongly or fails is *benched*: it gets no more
work, and what it was working on goes to the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from threading import Condition, Thread
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from eventchain.contracts.backend import Device, Miner, Task, Work
from eventchain.errors import BackendError
from eventchain.mining.check import check, check_sealed
from eventchain.mining.schedule import ROLLS, Mined, Schedule, Slice

__all__ = ["Engine", "Mined"]


def _ignore(device: str, reason: str) -> None:
    pass


class Engine:
    """Solves headers on the given devices and miners, the ones submitted first first. Every method may be
    called from any thread; use it as a context manager, or close it.

    clock: unix seconds, for the headers' time
    timer: seconds, to measure devices by
    slice_seconds: how long a device works between two looks at what there is to do, unless it says itself
    duty: which share of the time a device works, above 0 and at most 1; it rests after every slice. A miner
        does not: whose it is says how it works
    rolls: how many of a header's version values are tried with each nonce (see ``Work``), unless it is easy
    on_benched: called with a device's name and the reason, by the thread that calls ``collect``
    space: counters of a header after which its extranonce is rolled, ``rolls * 2**32`` unless a test
        wants less
    """

    def __init__(
        self,
        devices: Sequence[Device | Miner],
        *,
        clock: Callable[[], float] = time.time,
        slice_seconds: float = 0.25,
        duty: float = 1.0,
        timer: Callable[[], float] = time.perf_counter,
        rolls: int = ROLLS,
        on_benched: Callable[[str, str], None] = _ignore,
        space: int | None = None,
    ) -> None:
        if not devices:
            raise BackendError("there is no device to mine on", hint="see `eventchain backends`")
        if not 0 < duty <= 1:
            raise ValueError("duty must be above 0 and at most 1")
        self._duty = duty
        self._devices = tuple(devices)
        self._clock = clock
        self._timer = timer
        self._on_benched = on_benched
        seconds = [getattr(device, "slice_seconds", slice_seconds) for device in devices]
        self._schedule = Schedule(len(devices), slice_seconds=seconds, rolls=rolls, space=space)
        self._changed = Condition()  # guards everything below and the schedule
        self._mined: list[Mined] = []
        self._benched: list[tuple[str, str]] = []
        self._told = 0  # of the benched devices
        self._hashes = 0
        self._closed = False
        self._failure: BaseException | None = None  # of a device's thread, outside its device
        self._threads = [
            Thread(target=self._serve, args=(number,), name=f"mining on {device.name}", daemon=True)
            for number, device in enumerate(self._devices)
        ]
        for thread in self._threads:
            thread.start()

    # -- for the one who has headers to mine --------------------------------------------------------------

    def submit(
        self,
        keys: NDArray[np.int64],
        headers: NDArray[Any],
        manifests: Sequence[bytes],
        not_before: NDArray[np.int64],
    ) -> None:
        """Add headers to search; any number, also while others are searched.

        keys: (n,) int64, what the caller knows them by; headers: (n,) ``HEADER``, unmined (their merkle
        root is that of extranonce 0); manifests: n byte strings, read when an extranonce is rolled;
        not_before: (n,) int64, unix seconds, the least time that each may be mined at (its ``built``).

        Raises FormatError for bits that are no target, ValueError for arrays of different lengths.
        """
        with self._changed:
            self._schedule.add(keys, headers, manifests, not_before)
            self._changed.notify_all()

    def collect(self, timeout: float) -> Mined:
        """What has been solved since the last call, in no particular order. Waits up to ``timeout`` seconds
        for something, and returns at once when the engine is closed.

        Raises BackendError when every device is benched and nothing is left to collect.
        """
        deadline = time.monotonic() + timeout
        while True:
            with self._changed:
                self._changed.wait_for(self._has_news, max(0.0, deadline - time.monotonic()))
                if self._failure is not None:
                    raise self._failure
                if news := self._benched[self._told :]:
                    self._told = len(self._benched)
                else:
                    mined, self._mined = self._mined, []
                    if not mined and len(self._benched) == len(self._devices):
                        reasons = "; ".join(f"{device}: {reason}" for device, reason in self._benched)
                        raise BackendError(
                            f"no device is left to mine on: {reasons}",
                            hint="choose another with --backend or --device",
                        )
                    if mined or self._closed or time.monotonic() >= deadline:
                        return Mined.join(mined)
            for device, reason in news:  # outside the lock, so that it may call the engine
                self._on_benched(device, reason)

    def _has_news(self) -> bool:
        told = self._told == len(self._benched)
        ended = self._closed or self._failure is not None or not self._schedule.paces
        return bool(self._mined) or ended or not told

    @property
    def outstanding(self) -> int:
        """Submitted headers that are not solved yet."""
        with self._changed:
            return self._schedule.outstanding

    @property
    def expected_hashes(self) -> int:
        """How many hashes the outstanding headers will take on average: the sum of their work."""
        with self._changed:
            return self._schedule.expected_hashes

    @property
    def hashes(self) -> int:
        """Hashes tried so far, as far as they counted."""
        with self._changed:
            return self._hashes

    @property
    def benched(self) -> dict[str, str]:
        """Name and reason of each benched device."""
        with self._changed:
            return dict(self._benched)

    def rate(self) -> dict[str, float]:
        """MH/s of each device that is not benched, over its last few slices and the rests between them; 0
        before its first. Of one that is far away, what it says."""
        with self._changed:
            return {
                device.name: getattr(device, "hashes_per_second", pace.rate * self._duty_of(device)) / 1e6
                for number, pace in self._schedule.paces.items()
                for device in [self._devices[number]]
            }

    def _duty_of(self, device: Device | Miner) -> float:
        return 1.0 if isinstance(device, Miner) else self._duty

    def close(self, timeout: float = 60.0) -> None:
        """Stop when the slices in flight are done; what they find can still be collected. A device that
        does not come back within ``timeout`` seconds is left behind in its daemon thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for device in self._devices:
            if interrupt := getattr(device, "interrupt", None):
                interrupt()
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -- a device's thread --------------------------------------------------------------------------------

    def _serve(self, number: int) -> None:
        device = self._devices[number]
        try:
            if isinstance(device, Miner):
                self._employ(number, device)
                return
            while (piece := self._next(number)) is not None:
                began = self._timer()
                if not self._search(piece, device):
                    break
                self._rest((self._timer() - began) * (1 / self._duty - 1))
        except BaseException as error:  # not the device's: a manifest that cannot be read, a fault of ours
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _employ(self, number: int, miner: Miner) -> None:
        with ExitStack() as stack:
            try:
                stack.enter_context(miner)
            except BaseException as error:  # a stranger's code may raise anything
                self._bench(number, error)
                return
            while (piece := self._next(number)) is not None and self._mine(piece, miner):
                pass

    def _next(self, number: int) -> Slice | None:
        """Wait for work. None when the engine is closed."""
        device = self._devices[number]
        with self._changed:
            while not self._closed:
                if isinstance(device, Miner):
                    piece = self._schedule.task(number, device.width, int(self._clock()))
                else:
                    piece = self._schedule.next(number, int(self._clock()))
                if piece is not None:
                    return piece
                self._changed.wait()
        return None

    def _rest(self, seconds: float) -> None:
        """Sleep, but no longer than until the engine is closed."""
        if seconds > 0:
            with self._changed:
                self._changed.wait_for(lambda: self._closed, seconds)

    def _search(self, piece: Slice, device: Device) -> bool:
        """False when the device is benched for it."""
        work = piece.work
        assert isinstance(work, Work)
        # The device gets a copy: what it may write into its headers must not become part of a solution.
        copy = Work(work.headers.copy(), work.start.copy(), work.count, work.rolls)
        try:
            began = self._timer()
            solutions = device.search(copy)
            seconds = self._timer() - began
            checked = check(work, solutions)
        except BaseException as error:  # of a stranger's code, in a thread where nobody else would see it
            self._bench(piece.device, error, piece)
            return False
        with self._changed:
            self._schedule.paces[piece.device].update(checked.hashes, seconds)
            self._hashes += checked.hashes
            self._keep(self._schedule.report(piece, checked.index, checked.headers))
        return True

    def _mine(self, piece: Slice, miner: Miner) -> bool:
        """False when the miner is benched for it."""
        task = piece.work
        assert isinstance(task, Task)
        try:
            copy = Task(task.headers.copy(), tuple(task.manifests), task.not_before.copy(), task.now)
            sealed = check_sealed(task, miner.mine(copy))
        except BaseException as error:
            self._bench(piece.device, error, piece)
            return False
        with self._changed:
            self._schedule.paces[piece.device].set(sealed.rate)
            self._hashes += sealed.hashes
            self._keep(self._schedule.report(piece, sealed.index, sealed.headers, sealed.extranonces))
        return True

    def _keep(self, mined: Mined) -> None:
        if len(mined):
            self._mined.append(mined)
            self._changed.notify_all()

    def _bench(self, number: int, error: BaseException, piece: Slice | None = None) -> None:
        """Give a device no more work; what it was working on is for the others."""
        reason = error.message if isinstance(error, BackendError) else f"{type(error).__name__}: {error}"
        with self._changed:
            if piece is not None:
                self._schedule.give_back(piece)
            if number in self._schedule.paces:
                self._schedule.bench(number)
                self._benched.append((self._devices[number].name, reason))
            self._changed.notify_all()
