"""Sealing a backlog: events are read, hashed and linked ahead while the devices mine.

The main thread owns the chain store. A reader thread keeps a few batches of hashed leaves ready, the
engine's threads search, and every turn of the loop commits what was built and what was found. Built blocks
are durable before they are searched, so an interruption loses at most the searches in flight.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from eventchain.ahead import ahead
from eventchain.chain.arrivals import Arrivals
from eventchain.chain.backlog import Chunk, chunks
from eventchain.chain.build import CLOCK_TOLERANCE, Builder, Built, Clock, Snapshot
from eventchain.chain.nodes import damaged
from eventchain.chain.tip import HEIGHT_BITS, SCAN, Tip
from eventchain.contracts.chain_store import Blocks, ChainStore
from eventchain.contracts.event_store import EventStore
from eventchain.errors import PolicyError
from eventchain.formats.manifest import Manifest
from eventchain.mining.engine import Engine, Mined

AHEAD = 16_384
"""Blocks searched at once, at most: enough for any device, little enough to hold."""
TURN = 0.5
"""Seconds that a turn waits for solutions when there is nothing to build."""
POLL = 0.02
"""Seconds between two looks for new events, while some arrive."""
LONGEST_WAIT = 0.5
"""Seconds between two looks when none have arrived for a while; every wait doubles the next one."""
CLOCK_EVERY = 60.0
"""Seconds between two looks at the event store's clock."""
_HEIGHT = (1 << HEIGHT_BITS) - 1


@dataclass
class Progress:
    """How far a sealing run is; all counts are of this run. ``rate``: hashes a second over all devices now;
    ``expected_hashes``: what the blocks that are searched still cost on average; ``sealed_position``: the
    trunk's highest sealed position; ``events_replayed``: for snapshots, since these are waited for."""

    events_built: int = 0
    events_sealed: int = 0
    blocks_built: int = 0
    blocks_sealed: int = 0
    snapshots_sealed: int = 0
    hashes: int = 0
    rate: float = 0.0
    expected_hashes: int = 0
    sealed_position: int | None = None
    events_replayed: int = 0


class Snapshots(Protocol):
    """Where snapshots come from: made of what is sealed, while more is. ``replayed``: the events that they
    were made of so far."""

    replayed: int

    def ready(self) -> list[Snapshot]:
        """Those to be built now."""
        ...

    def settled(self, sealed: Mapping[str, int]) -> bool:
        """Whether all that these sealed heights of branches, by origin, make due has been given. Where not,
        it is worked on."""
        ...


class _Waiting(NamedTuple):
    """A block that is built and not sealed: the size of its branch's log, the highest position in it, and
    whether it is a snapshot's."""

    size: int
    position: int | None
    pins: bool


class Reached(NamedTuple):
    """The size of the trunk's log, and the highest position in it, at its newest sealed block."""

    size: int = 0
    position: int | None = None


class Sealer:
    """Seals a chain store's backlog, or only links it where there is no engine. Use inside
    ``store.writer()``."""

    def __init__(
        self,
        store: ChainStore,
        engine: Engine | None,
        clock: Clock,
        events: EventStore | None = None,
        snapshots: Snapshots | None = None,
        builder: Builder | None = None,
    ) -> None:
        self.builder = builder or Builder(store, clock)
        self.progress = Progress()
        self._store = store
        self._engine = engine
        self._clock = clock
        self._events = events
        self._found: list[Mined] = []  # solutions that are not durable yet
        self._unsealed: dict[tuple[int, int], _Waiting] = {}  # by branch and height
        self._snapshots = snapshots
        self._due: list[Snapshot] = []  # to be built
        self._unnamed_since = math.inf
        self.sealed = self._reached()
        self._began_at = self.sealed.size
        self._clock_due = -math.inf

    def resume(self) -> None:
        """Search again what was built and not mined."""
        for tip in self.builder.tips.values():
            first = tip.sealed_height + 1
            while len(blocks := self._store.blocks(tip.branch.id, first, SCAN)):
                self._submit(Built(tip.branch.id, blocks, list(map(Manifest.parse, blocks.manifests))))
                first = int(blocks.heights[-1]) + 1

    def rates(self) -> dict[str, float]:
        """Hashes a second of each device that mines."""
        return {} if self._engine is None else {name: 1e6 * r for name, r in self._engine.rate().items()}

    def build(self, built: Built) -> None:
        """Take on blocks that were added by the builder in a transaction that has been committed."""
        self.progress.blocks_built += len(built.blocks)
        self._submit(built)

    def seal_all(self, report: Callable[[Progress], None] = lambda progress: None) -> None:
        """Mine until every built block is sealed."""
        while self._unsealed:
            self._turn(None, TURN)
            report(self.progress)

    def keep(self) -> None:
        """Commit what was found and not committed yet, as when a run is broken off. The last thing to do
        with a sealer: its tips stay as they are."""
        if self._engine is not None:
            self._found.append(self._engine.collect(0.0))
        with self._store.transaction():
            self._solve(Mined.join(self._found))

    def link_backlog(
        self, block_events: int, report: Callable[[Progress], None] = lambda progress: None
    ) -> None:
        """Build and link the blocks of every event that the store held at the start, and leave the mining to
        a later run. Raises PolicyError where the policy's ``lag`` allows no more blocks ahead."""
        trunk = self.builder.trunk
        with self._read_ahead(block_events) as chunks:
            for chunk in chunks:
                room = self.builder.room(trunk)
                if room > 0:
                    self._turn(chunk.split(room)[0], None)
                    report(self.progress)
                if room < len(chunk.counts):
                    raise PolicyError(
                        f"block {trunk.height + 1} may not be built: the newest sealed block would be more "
                        f"than the {trunk.policy.lag} blocks behind that the policy allows",
                        hint="mine what is linked first",
                    )

    def seal_backlog(
        self, block_events: int, report: Callable[[Progress], None] = lambda progress: None
    ) -> None:
        """Build and mine until every event that the store held at the start is sealed, and every snapshot
        that is due by then.

        Raises PolicyError where the event store's clock does not fit.
        """
        trunk = self.builder.trunk
        with self._read_ahead(block_events) as chunks:
            pending: Chunk | None = next(chunks, None)
            while pending is not None or self._unsealed or not self._settled():
                room = min(self.builder.room(trunk), AHEAD - len(self._unsealed))
                if pending is not None and room > 0:
                    now, pending = pending.split(room)
                    self._turn(now, 0.0)
                    pending = pending or next(chunks, None)
                else:
                    self._turn(None, TURN)
                report(self.progress)
        self._name_children()
        self.seal_all(report)

    def seal_snapshots(self, report: Callable[[Progress], None] = lambda progress: None) -> None:
        """Build and mine until every snapshot is sealed that what is built already makes due."""
        while self._unsealed or not self._settled():
            self._turn(None, TURN)
            report(self.progress)
        self._name_children()
        self.seal_all(report)

    def _settled(self) -> bool:
        """Whether no snapshot is due that is not built yet."""
        if self._snapshots is None:
            return True
        self.progress.events_replayed = self._snapshots.replayed
        sealed = {origin: tip.sealed_height for origin, tip in self.builder.tips.items()}
        return self._snapshots.settled(sealed) and not self._due

    def _name_children(self) -> None:
        """Blocks without events that put every child branch under its parent's work."""
        with self._store.transaction():
            lines = self.builder.add_all_child_lines()
        for built in lines:
            self.build(built)

    def follow(self, block_events: int, block_seconds: float, report: Callable[[Progress], None]) -> None:
        """Seal events as they arrive, until ``report`` raises: a block is closed when ``block_events`` wait
        for it, or ``block_seconds`` after the first of them was noticed unless mining is behind. Blocks are
        mined meanwhile. A store that tells nobody of new events is looked at after a quarter of
        ``block_seconds`` at the latest.

        Raises PolicyError where the event store's clock does not fit.
        """
        assert self._events is not None
        told = getattr(self._events, "told", False)
        longest = LONGEST_WAIT if told else min(LONGEST_WAIT, max(POLL, block_seconds / 4))
        pause = POLL
        arrivals = Arrivals(self._store, self.builder.trunk, self._events, block_events)
        while True:
            news = arrivals.look()
            chunk = arrivals.full()
            if (
                chunk is None
                and time.monotonic() >= arrivals.since + block_seconds
                and self._keeps_up(block_seconds)
            ):
                chunk = arrivals.rest()
            if chunk is not None:
                self._check_clock()
                self._build_in_turns(chunk, report)
            elif self._unsealed or not self._settled():
                self._turn(None, POLL)
            elif self._unnamed_for(block_seconds):
                self._name_children()
            elif not news:
                self._turn(None, 0.0)  # devices may fail before they are given anything
                self._events.wait(min(pause, max(0.0, arrivals.since + block_seconds - time.monotonic())))
                pause = min(2 * pause, longest)
            if news or chunk is not None:
                pause = POLL
            report(self.progress)

    def _unnamed_for(self, seconds: float) -> bool:
        """Whether a child branch has waited so long for a block of its parent that names it."""
        if not self.builder.unnamed:
            self._unnamed_since = math.inf
            return False
        self._unnamed_since = min(self._unnamed_since, time.monotonic())
        return time.monotonic() >= self._unnamed_since + seconds

    def _keeps_up(self, seconds: float) -> bool:
        """Whether what is searched will be found soon. While devices are behind, blocks had better fill."""
        if self._engine is None or not self._unsealed:
            return True
        self._measure()
        return self.progress.expected_hashes <= self.progress.rate * max(seconds, TURN)

    def _build_in_turns(self, chunk: Chunk, report: Callable[[Progress], None]) -> None:
        """Build a chunk as far as ``lag`` and AHEAD allow at a time, mining meanwhile."""
        rest: Chunk | None = chunk
        while rest is not None:
            room = min(self.builder.room(self.builder.trunk), AHEAD - len(self._unsealed))
            if room > 0:
                now, rest = rest.split(room)
                self._turn(now, 0.0)
            else:
                self._turn(None, TURN)
            report(self.progress)

    def _read_ahead(self, block_events: int) -> AbstractContextManager[Iterator[Chunk]]:
        assert self._events is not None
        self._check_clock()
        return ahead(chunks(self._store, self.builder.trunk, self._events, block_events))

    # -- one turn: build, collect, commit

    def _turn(self, chunk: Chunk | None, timeout: float | None) -> None:
        """``timeout``: seconds to wait for solutions; None searches nothing."""
        if self._snapshots is not None:
            self._due += self._snapshots.ready()
        if self._engine is not None and timeout is not None:
            busy = self._unsealed and not self._due
            self._found.append(self._engine.collect(timeout if busy else min(timeout, POLL)))
        mined = Mined.join(self._found)
        if chunk is None and not len(mined) and not self._due:
            self._measure()
            return
        built: list[Built] = []
        with self._store.transaction():
            if self._solve(mined) != len(mined):
                raise damaged("a block that was being mined is gone, or has a solution from elsewhere")
            built += self._build_snapshots(
                len(chunk.counts) if chunk else 0
            )  # first, so that the trunk's next block names them
            if chunk is not None:
                self._check_clock()
                built.append(self.builder.extend(self.builder.trunk, chunk.leaves, chunk.counts, chunk.late))
        self._found = []
        self._advance(mined)  # durable now, so its seals may be named
        if chunk is not None:
            self.progress.events_built += len(chunk.leaves)
        for blocks in built:
            self.progress.blocks_built += len(blocks.blocks)
            if timeout is not None:
                self._submit(blocks)
        self._measure()

    def _build_snapshots(self, reserved: int) -> list[Built]:
        """Those that are due, as far as the policy's ``lag`` allows. reserved: blocks that the trunk is about
        to get."""
        built: list[Built] = []
        waiting, self._due = self._due, []
        for snapshot in waiting:
            own, parent = self.builder.branch(snapshot.origin), self.builder.tips[snapshot.parent]
            taken = reserved if parent is self.builder.trunk else 0
            if self.builder.room(parent) > taken and (own is None or self.builder.room(own) > 0):
                built += self.builder.add_snapshot(snapshot)
            else:
                self._due.append(snapshot)
        return built

    def _solve(self, mined: Mined) -> int:
        """Write solutions; returns how many blocks took theirs."""
        written = 0
        for tip, rows in self._by_tip(mined.keys):
            solved = Blocks(
                mined.keys[rows] & _HEIGHT, mined.headers[rows], mined.extranonces[rows].astype(np.int64), []
            )
            written += self._store.solve_blocks(tip.branch.id, solved)
        return written

    def _submit(self, built: Built) -> None:
        blocks = built.blocks
        unmined = np.flatnonzero(blocks.headers["time"] == 0)
        for row, said in enumerate(built.said):
            waiting = _Waiting(said.size, said.position, said.pin is not None)
            self._unsealed[built.branch, int(blocks.heights[row])] = waiting
        if len(unmined) and self._engine:
            self._engine.submit(
                self._key(built.branch) | blocks.heights[unmined],
                blocks.headers[unmined],
                [blocks.manifests[row] for row in unmined],
                built.not_before[unmined],
            )

    def _key(self, branch: int) -> int:
        """What the engine knows a branch's blocks by: the branch's number here above the height's bits."""
        return [tip.branch.id for tip in self.builder.tips.values()].index(branch) << HEIGHT_BITS

    def _by_tip(self, keys: NDArray[np.int64]) -> Iterator[tuple[Tip, NDArray[np.int64]]]:
        """The rows of each branch among the keys, by rising height."""
        numbers = keys >> HEIGHT_BITS
        tips = list(self.builder.tips.values())
        for number in np.unique(numbers):
            rows = np.flatnonzero(numbers == number)
            yield tips[number], rows[np.argsort(keys[rows])]

    def _advance(self, mined: Mined) -> None:
        for tip, rows in self._by_tip(mined.keys):
            for row in rows:
                before = tip.sealed_height
                header, extranonce = mined.headers[row].tobytes(), int(mined.extranonces[row])
                tip.mined(int(mined.keys[row]) & _HEIGHT, header, extranonce)
                for height in range(before + 1, tip.sealed_height + 1):
                    self._block_sealed(tip, height)

    def _block_sealed(self, tip: Tip, height: int) -> None:
        size, position, pins = self._unsealed.pop((tip.branch.id, height))
        self.progress.blocks_sealed += 1
        self.progress.snapshots_sealed += pins
        if tip is self.builder.trunk:
            self.sealed = Reached(size, position)
            self.progress.events_sealed = size - self._began_at
            self.progress.sealed_position = position

    def _reached(self) -> Reached:
        if not self.builder.tips or self.builder.trunk.sealed is None:
            return Reached()
        trunk = self.builder.trunk
        rows = self._store.blocks(trunk.branch.id, trunk.sealed_height, 1)
        if not len(rows) or rows.heights[0] != trunk.sealed_height:
            return Reached(trunk.log.size, trunk.position)  # an incarnation that is built, none of it sealed
        said = Manifest.parse(rows.manifests[0])
        return Reached(said.size, said.position)

    def _measure(self) -> None:
        if self._engine is None:
            return
        self.progress.hashes = self._engine.hashes
        self.progress.rate = sum(self.rates().values())
        self.progress.expected_hashes = self._engine.expected_hashes

    def _check_clock(self) -> None:
        """Once a minute: the event store may be busy reading for us."""
        assert self._events is not None
        if time.monotonic() < self._clock_due:
            return
        self._clock_due = time.monotonic() + CLOCK_EVERY
        apart = self.builder.now() - self._events.now()
        if abs(apart) > CLOCK_TOLERANCE:
            raise PolicyError(
                f"the event store's clock and the blocks' are {abs(apart)} seconds apart",
                hint="set both clocks right; a block must not claim another time than its events' store",
            )
