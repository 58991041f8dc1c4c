"""Small real chains for tests: our SQLite event store and a SQLite chain store, each a file, mined."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from eventchain_reference import open_backend
from oracle import check_chain

from eventchain.chain.build import Builder, Built
from eventchain.chain.sealing import Sealer
from eventchain.chain.tip import block_link
from eventchain.chainstores import open_chain_store
from eventchain.erasure.erase import Outcome, complete, record
from eventchain.erasure.plan import plan_erasure
from eventchain.erasure.remove import Remover, finish, plan_removal
from eventchain.eventstores import open_event_store
from eventchain.formats.anchor import Anchor
from eventchain.formats.event import EVENT_SCHEMA
from eventchain.formats.header import bits_for_difficulty
from eventchain.formats.manifest import Manifest, base_origin
from eventchain.formats.policy import Policy
from eventchain.mining.engine import Engine
from eventchain.verify import Report, verify

ORIGIN = "example.com/orders"
SNAPSHOTS = f"{ORIGIN}/balances"
ERASURES = f"{ORIGIN}/erasures"
SOURCE = "eventchain-sqlite/1"
BITS = bits_for_difficulty(4)
ERASED = (20, 199, 200)
"""The positions of events that are erased in the grown chain."""


class Clock:
    """Unix seconds that pass only when told to. It starts an hour ago, so that it may be moved on."""

    def __init__(self) -> None:
        self.now = int(time.time()) - 3600

    def __call__(self) -> float:
        return float(self.now)

    def tick(self, seconds: int = 1) -> None:
        self.now += seconds


@dataclass(frozen=True)
class Chain:
    """The two files of a chain."""

    folder: Path
    clock: Clock
    scheme: str = "sqlite"  # of the event store

    @property
    def chain_file(self) -> Path:
        return self.folder / "chain.db"

    @property
    def events_file(self) -> Path:
        return self.folder / "events.db"

    @property
    def events_url(self) -> str:
        return f"{self.scheme}:///{self.events_file}"

    def copy(self, folder: Path) -> Chain:
        folder.mkdir(parents=True, exist_ok=True)
        for file in (self.chain_file, self.events_file):
            shutil.copy(file, folder)
        return Chain(folder, self.clock, self.scheme)

    @contextmanager
    def opened(self, *, create: bool = False) -> Iterator[tuple[Any, Any]]:
        """The chain store and the event store."""
        with (
            closing(open_chain_store(f"sqlite:///{self.chain_file}", create=create)) as store,
            closing(open_event_store(self.events_url, create=create)) as events,
        ):
            yield store, events

    @contextmanager
    def working(self, *, create: bool = False, builder: type[Builder] = Builder) -> Iterator[Work]:
        """Both stores, the right to write and an engine. ``builder``: a forger brings his own."""
        with (
            self.opened(create=create) as (store, events),
            store.writer(),
            Engine(open_backend().devices, clock=self.clock) as engine,
        ):
            sealer = Sealer(store, engine, self.clock, events)
            if builder is not Builder:
                sealer.builder = builder(store, self.clock)
            yield Work(store, events, sealer)

    def complete(self) -> Outcome:
        """Destroy what is on record as erased."""
        with self.opened() as (store, events), store.writer():
            return complete(store, events)

    def erase(self, *positions: int) -> Outcome:
        with self.working() as work:
            work.record(positions)
        return self.complete()

    def remove(self, *positions: int) -> tuple[int, Any]:
        """Remove these events from the log, and mine everything from their block on anew."""
        with (
            self.opened() as (store, events),
            store.writer(),
            Engine(open_backend().devices, clock=self.clock) as engine,
        ):
            remover = Remover(store, events, engine, self.clock)
            plan = plan_removal(store, events, np.array(sorted(positions)))
            remover.record(plan, "a request", "dpo", 48)
            assert remover.rebuild()
            return finish(store, events)

    def verify(self, anchors: Sequence[Anchor] = (), now: float | None = None) -> Report:
        with self.opened() as (store, events):
            return verify(store, events, anchors, now=time.time() if now is None else now)

    def check(self) -> None:
        """Both readers: the oracle and verify find nothing."""
        with self.opened() as (store, events):
            check_chain(store, events)
            report = verify(store, events, now=time.time())
        assert report.wrong == [], report.wrong

    def sql(self, file: Path, *statements: str, parameters: Sequence[Any] = ()) -> int:
        """Play the administrator. Returns how many rows the last statement changed."""
        with closing(sqlite3.connect(file)) as connection:
            for statement in statements:
                changed = connection.execute(statement, parameters if statement == statements[-1] else ())
            connection.commit()
            return changed.rowcount


@dataclass(frozen=True)
class Work:
    """A chain while it is written."""

    store: Any
    events: Any
    sealer: Sealer

    @property
    def builder(self) -> Builder:
        return self.sealer.builder

    def seal(self, add: Callable[[Builder], Built | None]) -> Built | None:
        """Build in a transaction, then mine until all is sealed."""
        with self.store.transaction():
            built = add(self.builder)
        if built is not None:
            self.sealer.build(built)
            self.sealer.seal_all()
        return built

    def genesis(self, policy: Policy) -> None:
        self.seal(lambda builder: builder.add_genesis(ORIGIN, policy))

    def append(self, first: int, count: int) -> None:
        """Events number ``first`` on, in seven streams, some without data, some with metadata."""
        rows = [new_event(number) for number in range(first, first + count)]
        self.events.append_batches([pa.RecordBatch.from_pylist(rows, schema=EVENT_SCHEMA)])

    def snapshot(self, state: bytes) -> None:
        """A snapshot block of the trunk's newest sealed block."""
        trunk, tips = self.builder.trunk, self.builder.tips
        height = trunk.sealed_height
        events = child_event(
            stream=SNAPSHOTS,
            version=height,
            id=f"{trunk.branch.origin}/{height}",
            type="eventchain.snapshot",
            time=self.builder.now() * 10**6,
            data=state,
            metadata=b'{"filter":"","fingerprint":"1","projection":"balances","size":%d}' % trunk.log.size,
        )
        if SNAPSHOTS in tips:
            self.seal(lambda builder: builder.extend_child(tips[SNAPSHOTS], events, height))
        else:
            self.seal(lambda builder: builder.add_child(trunk, height, SNAPSHOTS, events, height))

    def record(self, positions: Sequence[int], block_events: int = 48) -> None:
        """Put an erasure on record and seal it; :meth:`Chain.complete` destroys what it names."""
        plan = plan_erasure(self.store, self.events, np.array(sorted(positions)))
        record(self.sealer, plan, "a request", "dpo", block_events)

    def child_lines(self) -> None:
        """An empty trunk block for the children that grew."""
        self.seal(lambda builder: builder.add_child_lines(builder.trunk))


def new_event(number: int) -> dict[str, Any]:
    return {
        "position": number + 1,
        "stream": f"account-{number % 7}",
        "version": number // 7,
        "id": f"event-{number}",
        "type": "deposited" if number % 2 else "withdrawn",
        "time": number * 10**6,
        "data": None if number % 11 == 10 else b'{"amount":%d}' % (number * 10),
        "metadata": b'{"user":"u%d"}' % (number % 3) if number % 5 == 0 else None,
    }


def child_event(**values: Any) -> Any:
    return pa.RecordBatch.from_pylist([{"position": 0, **values}], schema=EVENT_SCHEMA)


def new_chain(folder: Path, policy: Policy | None = None) -> Chain:
    """Two new stores and a sealed genesis."""
    folder.mkdir(parents=True, exist_ok=True)
    chain = Chain(folder, Clock())
    with chain.working(create=True) as work:
        work.genesis(policy or Policy(BITS, 64, 1000, 0, SOURCE))
    return chain


def grown_chain(folder: Path) -> Chain:
    """Everything that a chain may hold: 372 events in blocks of up to 48 (two pieces, a tile of level 1), of
    which three are erased, three snapshots, blocks with child lines only, a tightened policy."""
    chain = new_chain(folder)
    seal = lambda: work.sealer.seal_backlog(48)  # noqa: E731
    with chain.working() as work:
        work.append(0, 200)
        chain.clock.tick()
        seal()  # 1 to 5
        work.snapshot(b"state 1")
        chain.clock.tick()
        work.record(ERASED)  # 6: no event, two child lines
    chain.complete()
    with chain.working() as work:
        chain.clock.tick()
        work.append(200, 100)
        seal()  # 7 to 9
        work.seal(lambda builder: builder.tighten(builder.trunk, Policy(BITS, 60, 900, 0, SOURCE)))  # 10
        chain.clock.tick()
        work.snapshot(b"state 2")
        work.append(300, 60)
        seal()  # 11 and 12, a child line on a block with events
        chain.clock.tick()
        work.snapshot(b"state 3")
        work.child_lines()  # 13
        chain.clock.tick()
        work.append(360, 12)
        seal()  # 14
    return chain


@contextmanager
def sealing(chain: Any, events: Any, clock: Clock) -> Iterator[Sealer]:
    """A sealer of any two stores."""
    with chain.writer(), Engine(open_backend().devices, clock=clock) as engine:
        yield Sealer(chain, engine, clock, events)


def begin(chain: Any, events: Any, clock: Clock) -> None:
    """A genesis, and everything that the event store holds sealed."""
    with sealing(chain, events, clock) as sealer:
        with chain.transaction():
            built = sealer.builder.add_genesis(ORIGIN, Policy(BITS, 64, 1000, 0, events.source))
        sealer.build(built)
        sealer.seal_all()
        sealer.seal_backlog(48)


def seal(chain: Any, events: Any, clock: Clock) -> None:
    with sealing(chain, events, clock) as sealer:
        sealer.seal_backlog(48)


def checked(chain: Any, events: Any) -> Report:
    return verify(chain, events, now=Clock()() + 7200)


def genesis_anchor(chain: Chain) -> Anchor:
    """What `init` prints and the configuration keeps."""
    with chain.opened() as (store, _):
        trunk = store.branches()[0]
        return Anchor(trunk.origin, 0, block_link(store.blocks(trunk.id, 0, 1), 0))


def newest_anchors(chain: Chain) -> list[Anchor]:
    """What a clean verification hands out: one for each branch, the trunk's first."""
    newest = chain.verify().newest
    assert newest
    return newest


def manifests(chain: Chain, origin: str = ORIGIN) -> list[Manifest]:
    with chain.opened() as (store, _):
        branch = next(branch for branch in store.branches() if base_origin(branch.origin) == origin)
        return [Manifest.parse(raw) for raw in store.blocks(branch.id, 0, 10_000).manifests]
