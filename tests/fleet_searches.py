"""Searches for tests that upset a fleet in the middle of them."""

from __future__ import annotations

import secrets
import threading
import time

import numpy as np
from eventchain_fleet import FleetBackend
from waiting import PATIENCE

from eventchain.contracts.backend import Device, Solutions, Work
from eventchain.formats.header import HEADER, bits_for_difficulty
from eventchain.mining.check import check


def one_hard(hashes: float) -> Work:
    """It is never solved: its search ends when every counter was tried."""
    return work_of_headers(1, 200, int(hashes))


def many_easy(hashes: float) -> Work:
    """Each is surely solved by the counters that it has."""
    return work_of_headers(int(hashes) >> 14, 14, 2**24)


def work_of_headers(count: int, difficulty: float, counters: int) -> Work:
    headers = np.frombuffer(secrets.token_bytes(80 * count), HEADER).copy()
    headers["bits"] = bits_for_difficulty(difficulty)
    return Work(headers, np.zeros(count, np.uint64), counters, 16)


class Searching:
    """A hard header and many easy ones, each of so many hashes, searched at once by a fleet."""

    def __init__(self, backend: FleetBackend, hashes: float) -> None:
        self._roster = backend._coordinator._roster
        self._works = [one_hard(hashes), many_easy(hashes)]
        self._answers: dict[int, Solutions] = {}
        self._threads = [
            threading.Thread(target=self._search, args=(number, device), daemon=True)
            for number, device in enumerate(backend.devices[: len(self._works)])
        ]
        for thread in self._threads:
            thread.start()

    def _search(self, number: int, device: Device) -> None:
        self._answers[number] = device.search(self._works[number])

    def until_out(self, pieces: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while sum(queue.out for queue in self._roster.queues.values()) < pieces:
            assert not self._answers, "it ended too early"
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def end(self) -> None:
        """All was searched."""
        for thread in self._threads:
            thread.join(PATIENCE)
        found = [check(work, self._answers[number]).index for number, work in enumerate(self._works)]
        assert [len(one) for one in found] == [0, len(self._works[1].headers)]
