"""The service: follow the event store, seal, announce; outlive stores that go away; stand by for another.

One process seals, whoever holds the chain store's writer lock. Others stand by: they try for the lock every
second, which the system or the database releases when its holder dies.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from threading import Event

from eventchain.assembly import Chain, open_chain
from eventchain.chain.sealing import Progress, Sealer
from eventchain.config import Config
from eventchain.errors import LockedError, PolicyError, StoreError
from eventchain.formats.header import work_of
from eventchain.mining.backends import Choice
from eventchain.service.announce import DRAIN_SECONDS, Announcer, Herald
from eventchain.service.log import say
from eventchain.service.observe import observed
from eventchain.service.state import SEALING, STANDBY, WAITING, State
from eventchain.service.watermark import Watermark

STANDBY_SECONDS = 1.0
FIRST_RETRY, LAST_RETRY = 0.5, 10.0
"""Seconds before a store that failed is opened again: doubled each time, from the first to the last."""
CATCH_UP_BLOCKS = 16
"""A backlog of more full blocks than this is read ahead and sealed in large batches first."""


class Stopped(KeyboardInterrupt):
    """The service was told to stop: what was found is kept, as at an interruption."""


class Service:
    """``stop`` ends :meth:`run` within a second or so; blocks that are not mined then are left for the next
    run. ``clock`` is for the age of things, in seconds."""

    def __init__(
        self,
        config: Config,
        choice: Choice,
        announcers: Sequence[Announcer] = (),
        *,
        block_events: int | None = None,
        block_seconds: float = 1.0,
        stop: Event | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.state = State(clock)
        self.stop = stop or Event()
        self._config, self._choice = config, choice
        self._block_events, self._block_seconds = block_events, block_seconds
        self._clock = clock
        self._heralds = [Herald(one, self._not_announced) for one in announcers]

    def run(self) -> None:
        """Serve until stopped. Raises BackendError when no device is left to mine on, ConfigError for a
        configuration that cannot work."""
        retry, began = FIRST_RETRY, self._clock()
        try:
            while not self.stop.is_set():
                try:
                    began = self._clock()
                    with open_chain(self._config) as chain, observed(self.state, self._config.store):
                        self._serve(chain)
                except Stopped:
                    break
                except LockedError as error:
                    self._become(STANDBY, error.message)
                    self._pause(STANDBY_SECONDS)
                except (StoreError, PolicyError) as error:
                    if self._clock() >= began + LAST_RETRY:  # it was well for a while
                        retry = FIRST_RETRY
                    with self.state.lock:
                        self.state.store_errors += 1
                    self._become(WAITING, str(error))
                    self._pause(retry)
                    retry = min(2 * retry, LAST_RETRY)
        finally:
            say("stopping")
            for herald in self._heralds:
                herald.stop()
            until = time.monotonic() + DRAIN_SECONDS
            for herald in self._heralds:
                herald.join(until - time.monotonic())

    def _serve(self, chain: Chain) -> None:
        with chain.sealing(
            self._choice, self._benched, on_dropped=self._no_snapshots, on_notice=self._told
        ) as sealer:
            self._become(SEALING, "")
            policy = sealer.builder.trunk.policy
            block_events = min(self._block_events or policy.events, policy.events)
            turn = _Turn(self, sealer, block_events)
            self.state.newest = chain.events.head()
            turn(sealer.progress)
            if self.state.backlog.events > CATCH_UP_BLOCKS * block_events:
                say("catching up", events=self.state.backlog.events)
                sealer.seal_backlog(block_events, turn)
                say("caught up")
            sealer.follow(block_events, self._block_seconds, turn)

    def _become(self, role: str, trouble: str) -> None:
        with self.state.lock:
            news = (role, trouble) != (self.state.role, self.state.trouble)
            self.state.role, self.state.trouble = role, trouble
            self.state.alive()
        if news:
            level = logging.WARNING if role == WAITING else logging.INFO
            say(role, level=level, **({"reason": trouble} if trouble else {}))

    def _pause(self, seconds: float) -> None:
        self.stop.wait(seconds)
        self.state.alive()

    def _benched(self, device: str, reason: str) -> None:
        with self.state.lock:
            self.state.hardware_errors[device] = self.state.hardware_errors.get(device, 0) + 1
        say("a device is set aside", level=logging.ERROR, device=device, reason=reason)

    def _no_snapshots(self, projection: str, reason: str) -> None:
        with self.state.lock:
            self.state.projection_errors += 1
        say("no more snapshots", level=logging.ERROR, projection=projection, reason=reason)

    def _told(self, text: str) -> None:
        say("notice", level=logging.WARNING, text=text)

    def _not_announced(self, announcer: str, reason: str) -> None:
        say("not announced, will be tried again", level=logging.WARNING, by=announcer, reason=reason)

    def announce(self, mark: Watermark) -> None:
        for herald in self._heralds:
            herald.tell(mark)


class _Turn:
    """Called after every turn of a sealer: counts, announces, and stops."""

    def __init__(self, service: Service, sealer: Sealer, block_events: int) -> None:
        self._service, self._sealer = service, sealer
        self._block_events = block_events
        self._before = Progress()

    def __call__(self, progress: Progress) -> None:
        service, state = self._service, self._service.state
        trunk = self._sealer.builder.trunk
        now = service._clock()
        mark = None
        with state.lock:
            state.alive()
            state.events_sealed += progress.events_sealed - self._before.events_sealed
            state.blocks_sealed += progress.blocks_sealed - self._before.blocks_sealed
            state.snapshots_sealed += progress.snapshots_sealed - self._before.snapshots_sealed
            state.hashes += progress.hashes - self._before.hashes
            state.rates = self._sealer.rates()
            rate = sum(state.rates.values())
            state.capacity = rate / work_of(trunk.policy.bits) * self._block_events
            state.backlog.observe(now, state.newest, self._sealer.sealed.position)
            if trunk.sealed and (state.watermark is None or state.watermark.seal != trunk.sealed.seal):
                state.watermark = mark = Watermark.of(self._sealer, time.time())
        self._before = replace(progress)
        if mark is not None:
            say("sealed", height=mark.height, position=mark.position, events=mark.size)
            service.announce(mark)
        if service.stop.is_set():
            raise Stopped
