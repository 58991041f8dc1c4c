"""Putting the parts together: from a configuration to stores, devices, a sealer and a verification."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from eventchain.chain.fit import require_fit
from eventchain.chain.sealing import Sealer, Snapshots
from eventchain.chainstores import open_chain_store
from eventchain.config import DEFAULT_FILE, Config, Encryption, Mining
from eventchain.contracts.chain_store import ChainStore
from eventchain.contracts.event_store import EventStore
from eventchain.eventstores import open_event_store
from eventchain.formats.anchor import Anchor
from eventchain.mining.backends import Choice, choose
from eventchain.mining.engine import Engine
from eventchain.projections.spec import Spec

if TYPE_CHECKING:
    from eventchain.chain.sealed import Receipt
    from eventchain.erasure.records import Records
    from eventchain.erasure.remove import Remover
    from eventchain.snapshots.branch import Pin
    from eventchain.snapshots.check import Checked
    from eventchain.snapshots.restore import Restored
    from eventchain.subjects import KeyStore
    from eventchain.verify import Report


def _ignore(*what: str) -> None:
    pass


class Chain:
    """An event store and the chain that seals it. Use it as a context manager, or close it."""

    def __init__(
        self,
        events: EventStore,
        store: ChainStore,
        anchors: Sequence[Anchor] = (),
        mining: Mining | None = None,
        clock: Callable[[], float] = time.time,
        projections: Mapping[str, Spec] | None = None,
        backends: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.events = events
        self.store = store
        self.anchors = tuple(anchors)
        self.mining = mining or Mining()
        self.projections = dict(projections or {})
        self._clock = clock
        self._backends = dict(backends or {})

    def choose(self, backend: str | None = None, device: str | None = None) -> Choice:
        """The backend and devices to mine with, tested; the configuration's where an argument is None.
        Another backend than the configured one does not take the configured device."""
        return choose_as_configured(self.mining, backend, device, self._backends)

    @contextmanager
    def sealing(
        self,
        choice: Choice | str | None = None,
        on_benched: Callable[[str, str], None] = _ignore,
        duty: int | None = None,
        *,
        take: Sequence[str] | None = None,
        on_dropped: Callable[[str, str], None] = _ignore,
        on_notice: Callable[[str], None] = _ignore,
    ) -> Iterator[Sealer]:
        """A sealer that holds the chain store's writer lock; ``choice`` may be just a backend's name,
        ``duty`` is the percentage of the time that devices work, the configuration's by default. It has
        already begun to mine what is built and not mined yet.

        It takes the snapshots that become due by the configuration, or with ``take`` one of each of these
        projections, at the head. A projection that fails takes no more of them, of which ``on_dropped`` is
        told by name and reason; ``on_notice`` is told what a user should know. Both in another thread.

        Raises LockedError when another writer is at it, and StoreError when the two stores do not belong
        together. What it has made durable stays on leaving, also
        by an exception; the next one goes on there.
        """
        if not isinstance(choice, Choice):
            choice = self.choose(choice)
        share = (duty or self.mining.duty) / 100
        with (
            self.store.writer(),
            Engine(choice.devices, clock=self._clock, duty=share, on_benched=on_benched) as engine,
            self._snapshots_beside(take, on_dropped, on_notice) as snapshots,
        ):
            events = self._as_sealed()
            require_fit(self.store, events, self.anchors)
            sealer = Sealer(self.store, engine, self._clock, events, snapshots)
            try:
                sealer.resume()
                yield sealer
            except KeyboardInterrupt:
                engine.close()
                sealer.keep()  # what the last slices found
                raise

    @contextmanager
    def _snapshots_beside(
        self,
        take: Sequence[str] | None,
        on_dropped: Callable[[str, str], None],
        on_notice: Callable[[str], None],
    ) -> Iterator[Snapshots | None]:
        names = take or [name for name, spec in self.projections.items() if spec.every is not None]
        if not names:
            yield None
            return
        from eventchain.snapshots.beside import Beside
        from eventchain.snapshots.series import series_named
        from eventchain.snapshots.take import Taker, at_the_head, by_policy

        taker = Taker(
            self.store,
            self.events,
            series_named(self.store, self.projections, *names),
            at_the_head if take else by_policy,
            dropped=lambda series, error: on_dropped(series.name, str(error)),
            notice=on_notice,
        )
        beside = Beside(taker, lambda error: on_dropped(", ".join(names), str(error)))
        with beside.working():
            yield beside

    @contextmanager
    def linking(self) -> Iterator[Sealer]:
        """A sealer that holds the writer lock and has no devices: it builds and links, and mines nothing."""
        with self.store.writer():
            events = self._as_sealed()
            require_fit(self.store, events, self.anchors)
            yield Sealer(self.store, None, self._clock, events)

    @contextmanager
    def removing(
        self, choice: Choice | str | None = None, on_benched: Callable[[str, str], None] = _ignore
    ) -> Iterator[Remover]:
        """What removes events from the log; it holds the chain store's writer lock, as a sealer does."""
        from eventchain.erasure.remove import Remover, as_sealed

        if not isinstance(choice, Choice):
            choice = self.choose(choice)
        share = self.mining.duty / 100
        with (
            self.store.writer(),
            Engine(choice.devices, clock=self._clock, duty=share, on_benched=on_benched) as engine,
        ):
            require_fit(self.store, as_sealed(self.store, self.events), self.anchors)
            yield Remover(self.store, self.events, engine, self._clock)

    def _as_sealed(self) -> EventStore:
        """The event store without what was removed from the log. Raises StoreError while a removal is under
        way."""
        from eventchain.erasure.remove import as_sealed, require_complete

        require_complete(self.store)
        return as_sealed(self.store, self.events)

    def receipt(self, event: str | int) -> Receipt:
        """Whether the event with this id, or at this position, is sealed, and where. Raises StoreError where
        there is no such event."""
        from eventchain.chain.sealed import find_event, receipt_of

        return receipt_of(self.store, find_event(self.events, event))

    def wait_sealed(
        self, event: str | int, *, confirmations: int = 0, timeout: float | None = None
    ) -> Receipt:
        """Wait until the event with this id, or at this position, is sealed, with so many sealed blocks on
        top. Raises NotSealedError after ``timeout`` seconds, StoreError where there is no such event."""
        from eventchain.chain.sealed import Receipt, Waiting

        waiting = Waiting(self.store, self.events, event, confirmations, timeout)
        while not isinstance(found := waiting.look(), Receipt):
            time.sleep(found)
        return found

    async def wait_sealed_async(
        self, event: str | int, *, confirmations: int = 0, timeout: float | None = None
    ) -> Receipt:
        """:meth:`wait_sealed` for a coroutine. The stores are read in a thread."""
        from asyncio import sleep, to_thread

        from eventchain.chain.sealed import Receipt, Waiting

        waiting = await to_thread(Waiting, self.store, self.events, event, confirmations, timeout)
        while not isinstance(found := await to_thread(waiting.look), Receipt):
            await sleep(found)
        return found

    def sealed_events(self, after: int | None = None) -> Iterator[Any]:
        """Arrow batches of the sealed events that follow position ``after`` (None: from the first), up to
        what is sealed now; each is held against its leaf. Raises StoreError at one that is missing or was
        altered. Call it again with the last position seen for what is sealed later."""
        from eventchain.chain.feed import sealed_events

        return sealed_events(self.store, self.events, after)

    def state(self, name: str, at: int | datetime | None = None) -> Any:
        """The state of a configured projection at its parent's newest sealed block, at the sealed block of
        the height ``at``, or at the newest one that was built by the time ``at``. It begins at the newest
        snapshot that fits and replays the events since; :meth:`restore` also says what it did.

        Raises ProjectionError where there is no such projection or block or the projection fails, StoreError
        at an event or a snapshot that is missing or was altered.
        """
        return self.restore(name, at).state

    def restore(
        self,
        name: str,
        at: int | datetime | None = None,
        progress: Callable[[int], None] = lambda events: None,
    ) -> Restored:
        """:meth:`state`, with its bytes, the block, and the snapshot that it began at."""
        from eventchain.snapshots.restore import height_by, restore
        from eventchain.snapshots.series import series_named

        (series,) = series_named(self.store, self.projections, name)
        if isinstance(at, datetime):
            at = height_by(self.store, self.events, series, at.timestamp())
        return restore(self.store, self.events, series, at, progress)

    def snapshots(self, name: str) -> list[Pin]:
        """The sealed snapshots of a configured projection, oldest first, without their states. Raises
        ProjectionError where there is no such projection."""
        from eventchain.snapshots.branch import snapshots_of
        from eventchain.snapshots.series import series_named

        (series,) = series_named(self.store, self.projections, name)
        return snapshots_of(self.store, self.events, series)

    def check_snapshots(
        self, names: Sequence[str], progress: Callable[[int], None] = lambda events: None
    ) -> Iterator[Checked]:
        """Replay the events and compare all sealed snapshots of these projections with what they give. Raises
        ProjectionError where a projection cannot be used, StoreError at an event that is missing or was
        altered."""
        from eventchain.snapshots.check import check
        from eventchain.snapshots.series import series_named

        series = series_named(self.store, self.projections, *names)
        return check(self.store, self.events, series, progress)

    def erasures(self) -> Records:
        """The records of what was lawfully erased, oldest first."""
        from eventchain.erasure.records import Records

        return Records(self.store)

    def verify(
        self,
        anchors: Sequence[Anchor] = (),
        progress: Callable[[int], None] = lambda leaves: None,
    ) -> Report:
        """Check everything against both stores, the configuration's anchor and these."""
        from eventchain.verify import verify

        every = (*self.anchors, *anchors)
        return verify(self.store, self.events, every, now=self._clock(), progress=progress)

    def close(self) -> None:
        self.events.close()
        self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def choose_as_configured(
    mining: Mining,
    backend: str | None = None,
    device: str | None = None,
    backends: Mapping[str, Mapping[str, Any]] | None = None,
) -> Choice:
    """See :meth:`Chain.choose`; ``backends``: settings by the name of the backend that takes them."""
    backend = backend or mining.backend
    if device is None and backend.casefold() == mining.backend.casefold():
        device = mining.device
    return choose(backend, device, (backends or {}).get(backend.casefold()))


def open_events(config: Config) -> Any:
    """The event store of a configuration, with the keys that it names, if any. Raises ConfigError or
    StoreError."""
    events = open_event_store(config.store)
    if config.encryption is None:
        return events
    from eventchain.subjects import Encrypted

    try:
        return Encrypted(events, key_store(config.encryption), metadata=config.encryption.metadata)
    except BaseException:
        events.close()
        raise


def key_store(encryption: Encryption) -> KeyStore:
    """The key store of a configuration. It is opened when it is used first."""
    from eventchain.subjects import KeyStore

    return KeyStore(encryption.keys, encryption.wrapping_key, encryption.old_wrapping_key)


def open_chain(config: Config | str | Path = DEFAULT_FILE) -> Chain:
    """Open what a configuration names. Raises ConfigError or StoreError."""
    if not isinstance(config, Config):
        config = Config.load(config)
    events = open_events(config)
    try:
        store = open_chain_store(config.chain)
    except BaseException:
        events.close()
        raise
    anchors = (config.anchor,) if config.anchor else ()
    return Chain(
        events, store, anchors, config.mining, projections=config.projections, backends=config.backends
    )
