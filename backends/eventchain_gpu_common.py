"""What the opencl and cuda backends share: a search as a row of launches, two of them in flight.

A backend gives a :class:`Session` for each search: its buffers and queues on the device. Everything else is
here: how much goes into a launch, which headers are still open, and what the results mean.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import deque
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
from eventchain_kernels.kept import keep, kept
from numpy.typing import NDArray

from eventchain.contracts.backend import Solutions, Work
from eventchain.formats.header import target_words
from eventchain.mining.jobs import JOB, expand, solutions, versions_a_job


def ready_bytes(versions: int) -> int:
    """Size of the kernel's ``Ready``: what a lane needs of a job, made on the device."""
    return 4 * (16 * versions + 7)


SLOTS = 2
"""Launches in flight: while one runs, the host makes and sends the next."""
LAUNCH_SECONDS = 0.05
MAX_JOBS = 2**16
MAX_CHUNK = 2**14
"""Hashes in a unit of work, at most: few beside a launch's, or some groups would run on alone at its end."""
MAX_HASHES = 2**31


class Session(Protocol):
    """The device's side of one search over ``n`` headers. Nothing has won at the start."""

    def submit(self, slot: int, jobs: NDArray[Any], chunk: int, units: int) -> None:
        """Start the kernels ``prepare_jobs`` and ``search`` over ``jobs``; returns at once. ``jobs`` is
        copied or kept alive until ``wait``."""
        ...

    def wait(self, slot: int) -> NDArray[np.uint32]:
        """Sleep until the slot's launch is over. Returns (n,) uint32: not 0 where a header is won."""
        ...

    def results(self) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        """After the last ``wait``: (n,) 1 + the winner's roll, or 0, and (n,) its nonce."""
        ...


class KernelDevice:
    """A device that runs the search kernels. Re-entrant: every search has a session of its own."""

    name: str
    lanes: int
    """Nonces that a group of work-items tries at once: the smallest useful chunk."""
    versions: int
    """Rolled versions that share a message schedule, where the work has so many: a power of two."""

    identity = ""
    """What the device's rate depends on: the device, its driver, the kernel. Empty: it is measured anew in
    every process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rate = 0.0

    def session(self, headers: int, versions: int) -> AbstractContextManager[Session]:
        """Buffers and queues for a search over so many headers with so many versions a job (1 or
        ``self.versions``), freed on leaving. Compiles at first use."""
        raise TypeError("a device has its own session")

    def search(self, work: Work) -> Solutions:
        if not len(work.headers) or not work.count:
            return solutions(*(np.zeros(0, np.uint32),) * 3, work.rolls)
        expected = 2.0**32 / (float(np.median(target_words(work.headers["bits"])[:, 7])) + 1)
        versions = versions_a_job(work.rolls, self.versions)
        # A sixteenth of the expected work: enough to be worth a unit, and little is tried past a hit.
        chunk = min(max(int(expected / 16 / versions) // self.lanes, 1) * self.lanes, MAX_CHUNK // versions)
        hashes = min(max(int(self.rate() * LAUNCH_SECONDS), self.lanes * versions), MAX_HASHES)
        # Of easy headers a launch gets no more than what solves nearly all of them; of many headers, as many
        # as it can solve.
        hashes = int(min(hashes, max(8 * expected * len(work.headers), 64 * self.lanes * versions)))
        jobs_each = int(min(max(hashes / expected, 1), MAX_JOBS))

        wanted = np.ones(len(work.headers), np.bool_)
        with self.session(len(work.headers), versions) as session:
            flying: deque[int] = deque()
            slot = 0
            chunks = expand(work, wanted, hashes=hashes, jobs=jobs_each, versions=versions)
            while True:
                if len(flying) == SLOTS:
                    wanted &= session.wait(flying.popleft()) == 0
                jobs = next(chunks, None)
                if jobs is None:
                    break
                session.submit(slot, jobs, chunk, _units(jobs, chunk))
                flying.append(slot)
                slot = (slot + 1) % SLOTS
            for slot in flying:
                session.wait(slot)
            winner, nonce = session.results()
        hit = np.flatnonzero(winner)
        return solutions(hit.astype(np.uint32), winner[hit] - np.uint32(1), nonce[hit], work.rolls)

    def rate(self) -> float:
        """Hashes a second, measured at first use on a job that nothing solves, and kept for later processes.
        It only sizes launches."""
        with self._lock:
            if not self._rate:
                name = f"rate-{hashlib.sha256(self.identity.encode()).hexdigest()[:20]}.json"
                self._rate = _rate_in(kept(name)) if self.identity else 0.0
                if not self._rate:
                    self._rate = self._measure()
                    if self.identity:
                        keep(name, json.dumps({"rate": self._rate, "of": self.identity}).encode())
            return self._rate

    def _measure(self) -> float:
        job = np.zeros(1, JOB)  # the target is 0, and no counter may win
        chunk = MAX_CHUNK // self.versions
        with self.session(1, self.versions) as session:
            seconds = 0.0
            for doubling in range(6, 32):
                # Drivers compile at the first launch, so one that took long is not believed at once.
                for _ in range(2):
                    job["count"] = count = self.lanes << doubling
                    started = time.perf_counter()
                    session.submit(0, job, chunk, _units(job, chunk))
                    session.wait(0)
                    seconds = time.perf_counter() - started
                    if seconds < LAUNCH_SECONDS / 2:
                        break
                if seconds >= LAUNCH_SECONDS / 2 or 2 * count * self.versions > MAX_HASHES:
                    break
        return count * self.versions / seconds


def _rate_in(raw: bytes) -> float:
    """The rate that was kept, 0 where there is none that can be one."""
    try:
        rate = float(json.loads(raw)["rate"])
    except (ValueError, KeyError, TypeError):
        return 0.0
    return rate if 1e3 < rate < 1e15 else 0.0


def _units(jobs: NDArray[Any], chunk: int) -> int:
    """Units of work that cover the longest of the jobs: a chunk of every job, then the next of every job."""
    return len(jobs) * -(-int(jobs["count"].max()) // chunk)
