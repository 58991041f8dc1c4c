"""Looking on at a fleet: what its workers and coordinators say of themselves, as rows and as metrics."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from eventchain.errors import BackendError, FormatError
from eventchain.loop import LoopThread
from eventchain_fleet.connection import ALIVE, ROOT, Login, this_host, worker_of
from eventchain_fleet.messages import Alive, Here, Shut
from eventchain_fleet.roster import MAX_DEVICES, MAX_WORKERS, SILENT_SECONDS

FORGET_SECONDS = 600.0
"""Workers that left are shown for so long."""


@dataclass(slots=True)
class Row:
    """A device of a worker. seen: seconds since it was heard of; rate: hashes a second; shut_out: why, if it
    is"""

    group: str
    worker: str
    number: int
    device: str
    rate: float
    pieces: int
    errors: int
    seen: float
    shut_out: str | None = None

    @property
    def there(self) -> bool:
        return self.seen < SILENT_SECONDS and self.shut_out is None


class Watch:
    """Listens until it is closed. Raises BackendError where NATS cannot be reached, and later where it does
    not let this login listen."""

    def __init__(self, login: Login) -> None:
        self._lock = threading.Lock()
        self._here: dict[tuple[str, str], dict[int, tuple[float, Here]]] = {}
        self._shut: dict[tuple[str, str], str] = {}
        self._coordinators: dict[int, tuple[float, Alive]] = {}
        self._connection: Any = None
        self._refused: BackendError | None = None
        self._thread = LoopThread("fleet")
        try:
            self._thread.call(self._open(login))
        except BaseException:
            self.close()
            raise

    async def _open(self, login: Login) -> None:
        self._connection = await login.connect(f"watch-{this_host()}", on_refused=self._on_refused)
        await self._connection.subscribe(f"{ROOT}.here.*.*.*", cb=self._on_here)
        await self._connection.subscribe(f"{ROOT}.shut.*.*.*", cb=self._on_shut)
        await self._connection.subscribe(ALIVE, cb=self._on_alive)

    def _on_refused(self, error: BackendError) -> None:
        self._refused = self._refused or error

    async def _on_here(self, message: Any) -> None:
        with suppress(FormatError), self._lock:
            here = Here.decode(message.data)
            key = worker_of(message.subject)
            if here.number < MAX_DEVICES and (key in self._here or len(self._here) < MAX_WORKERS):
                self._here.setdefault(key, {})[here.number] = time.monotonic(), here

    async def _on_shut(self, message: Any) -> None:
        with suppress(FormatError), self._lock:
            if len(self._shut) < MAX_WORKERS:
                self._shut[worker_of(message.subject)] = Shut.decode(message.data).reason

    async def _on_alive(self, message: Any) -> None:
        with suppress(FormatError), self._lock:
            alive = Alive.decode(message.data)
            if len(self._coordinators) < MAX_DEVICES:
                self._coordinators[alive.coordinator] = time.monotonic(), alive

    def rows(self) -> list[Row]:
        """Every device of every worker, the fastest first."""
        if self._refused is not None:
            raise self._refused
        now = time.monotonic()
        with self._lock:
            for key in [key for key, devices in self._here.items() if _is_old(devices, now)]:
                del self._here[key]
                self._shut.pop(key, None)
            rows = [
                Row(*key, here.number, here.name, here.rate, here.pieces, here.errors, now - seen,
                    self._shut.get(key))
                for key, devices in self._here.items()
                for seen, here in devices.values()
            ]  # fmt: skip
        return sorted(rows, key=lambda row: (not row.there, -row.rate, row.worker, row.number))

    def coordinators(self) -> list[Alive]:
        """Those that were heard of lately."""
        now = time.monotonic()
        with self._lock:
            self._coordinators = {
                key: (seen, alive)
                for key, (seen, alive) in self._coordinators.items()
                if seen > now - SILENT_SECONDS
            }
            return [alive for _, alive in self._coordinators.values()]

    def as_dict(self) -> dict[str, Any]:
        rows, coordinators = self.rows(), self.coordinators()
        return {
            "workers": [asdict(row) | {"there": row.there} for row in rows],
            "rate": sum(row.rate for row in rows if row.there),
            "coordinators": [asdict(one) for one in coordinators],
            "pieces_out": sum(one.pieces for one in coordinators),
        }

    def collect(self) -> Iterator[Any]:
        """The same for Prometheus."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        rows, coordinators = self.rows(), self.coordinators()
        there = {(row.group, row.worker) for row in rows if row.there}
        shut = {(row.group, row.worker) for row in rows if row.shut_out is not None}
        for name, text, value in (
            ("workers", "Workers that are there", len(there)),
            ("workers_shut_out", "Workers that were shut out", len(shut)),
            ("coordinators", "Processes that hand out work", len(coordinators)),
            ("pieces_out", "Pieces handed out and not answered", sum(one.pieces for one in coordinators)),
        ):
            yield GaugeMetricFamily(f"eventchain_fleet_{name}", text, value)
        labels = ["group", "worker", "device"]
        rate = GaugeMetricFamily("eventchain_fleet_mhs", "MH/s of a worker's device", labels=labels)
        pieces = CounterMetricFamily("eventchain_fleet_pieces", "Pieces that it searched", labels=labels)
        errors = CounterMetricFamily("eventchain_fleet_errors", "Pieces refused or failed", labels=labels)
        for row in rows:
            values = [row.group, row.worker, f"{row.number}: {row.device}"]
            rate.add_metric(values, row.rate / 1e6 if row.there else 0.0)
            pieces.add_metric(values, row.pieces)
            errors.add_metric(values, row.errors)
        yield from (rate, pieces, errors)

    def close(self) -> None:
        self._thread.close(self._disconnect())

    async def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(Exception):  # it may be gone already
                await asyncio.wait_for(self._connection.close(), 1.0)


def _is_old(devices: dict[int, tuple[float, Here]], now: float) -> bool:
    return max(seen for seen, _ in devices.values()) < now - FORGET_SECONDS
