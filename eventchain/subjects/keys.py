"""The key store: the key of each subject, wrapped, in an SQLite file or a PostgreSQL database of its own.

Its one table names no subject. It finds one by HMAC-SHA256 (RFC 2104) of the name under an index key, which
lies in the table too, wrapped like the others. A row is a key's whole life: in use (``subject``), being
forgotten (``closing``), destroyed (``wrapped`` null). A destroyed one stays, as random bytes that say that
whatever has this handle was forgotten, and is not just unknown here.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple

from sqlalchemy import Column, Connection, LargeBinary, MetaData, Table, insert, or_, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from eventchain.errors import ConfigError, StoreError
from eventchain.formats.envelope import HANDLE
from eventchain.subjects.wrapping import KEY, WrappingKey, read_wrapping_key
from eventchain.urls import without_password

TABLE = "subject_keys"
INDEX = bytes(HANDLE)
"""The handle of the index key."""
AT_ONCE = 500
"""Keys in one statement or transaction."""

metadata = MetaData()
table = Table(
    TABLE,
    metadata,
    Column("handle", LargeBinary, primary_key=True),
    Column("subject", LargeBinary, unique=True),  # HMAC of the name of who uses the key
    Column("closing", LargeBinary),  # the same, while the subject is being forgotten
    Column("wrapped", LargeBinary),  # see .wrapping; null once the key was destroyed
    Column("wrapping", LargeBinary),  # the id of the wrapping key
    sqlite_strict=True,
)
_KEY_OF = select(table.c.handle, table.c.wrapped, table.c.wrapping)


class SubjectKey(NamedTuple):
    handle: bytes
    key: bytes


class KeyStore:
    """url: ``sqlite:///keys.db`` or ``postgresql://user@host/database``; wrapping_key, old_wrapping_key:
    where they are (see :mod:`.wrapping`). New keys are wrapped by the first, keys wrapped by either are read.

    Nothing is opened before it is needed: who never looks into a payload needs neither store nor wrapping
    key. Usable from several threads and processes. Raises StoreError, and ConfigError for a wrapping key.
    """

    def __init__(self, url: str, wrapping_key: str, old_wrapping_key: str | None = None) -> None:
        self.url = without_password(url)
        self._address = url
        self._places = [place for place in (wrapping_key, old_wrapping_key) if place is not None]

    # -- for who appends and reads

    @contextmanager
    def held(self, subject: str) -> Iterator[SubjectKey]:
        """The subject's key, made where it has none. It is not closed while it is held: what is appended with
        it will be found by whoever forgets the subject."""
        name = self._name_of(subject)
        while True:
            with self._transaction() as connection:
                query = _KEY_OF.where(table.c.subject == name).with_for_update(read=True)
                found = connection.execute(query).first()
                if found is not None:
                    yield SubjectKey(found[0], self._unwrapped(*found))
                    return
            self._add(os.urandom(HANDLE), subject=name)

    def keys(self, handles: Iterable[bytes]) -> dict[bytes, bytes | None]:
        """The keys of those handles that there are, None for one that was destroyed."""
        found: dict[bytes, bytes | None] = {}
        for some in _parts(list(handles)):
            with self._reading() as connection:
                rows = connection.execute(_KEY_OF.where(table.c.handle.in_(some))).all()
            for handle, wrapped, wrapping in rows:
                found[handle] = None if wrapped is None else self._unwrapped(handle, wrapped, wrapping)
        return found

    # -- for who forgets

    def handles(self, subject: str) -> list[bytes]:
        """Of the subject's key, and of those that are being forgotten."""
        name = self._name_of(subject)
        with self._reading() as connection:
            query = select(table.c.handle).where(or_(table.c.subject == name, table.c.closing == name))
            return [row[0] for row in connection.execute(query)]

    def begin_forgetting(self, subject: str) -> list[bytes]:
        """Close the subject's key: it still opens what is there, and nothing more is encrypted with it. Waits
        for those who hold it. The handles to be forgotten, also those that an earlier call closed."""
        name = self._name_of(subject)
        with self._transaction() as connection:
            change = update(table).where(table.c.subject == name).values(subject=None, closing=name)
            connection.execute(change)
            query = select(table.c.handle).where(table.c.closing == name)
            return [row[0] for row in connection.execute(query)]

    def destroy(self, handles: Sequence[bytes]) -> None:
        """Destroy keys, so that the store's files hold them no more. Doing it again does no harm, and
        completes what was broken off."""
        with self._transaction() as connection:
            change = update(table).where(table.c.handle.in_(handles)).values(wrapped=None, wrapping=None)
            connection.execute(change)
        self._scrub()

    def end_forgetting(self, handles: Sequence[bytes]) -> None:
        """Take away what led from the subject's name to its destroyed keys."""
        with self._transaction() as connection:
            done = table.c.handle.in_(handles) & table.c.wrapped.is_(None)
            connection.execute(update(table).where(done).values(closing=None))

    # -- for who keeps it

    def exists(self) -> bool:
        found: bool = self._database.exists()
        return found

    def create(self) -> None:
        """Make the store where there is none yet. Raises StoreError for one of another wrapping key."""
        _ = self._wrapping  # nothing is made without one
        self._database.create()
        self._add(INDEX)
        _ = self._index

    def rotate(self, report: Callable[[int], None] = lambda keys: None) -> int:
        """Wrap every key by the first wrapping key. Done in parts, each all or nothing; broken off it is gone
        on with by the next call. ``report`` is told of keys as they are done; returns how many were."""
        count = 0
        while done := self._rotate_some():
            count += done
            report(done)
        self._scrub()
        return count

    def _rotate_some(self) -> int:
        newest = self._wrapping[0]
        with self._transaction() as connection:
            old = table.c.wrapped.is_not(None) & (table.c.wrapping != newest.id)
            rows = connection.execute(_KEY_OF.where(old).limit(AT_ONCE).with_for_update()).all()
            for handle, wrapped, wrapping in rows:
                values = self._wrapped(handle, self._unwrapped(handle, wrapped, wrapping))
                connection.execute(update(table).where(table.c.handle == handle).values(values))
        return len(rows)

    def close(self) -> None:
        if "_database" in self.__dict__:
            self._database.engine.dispose()

    # -- inside

    @cached_property
    def _database(self) -> Any:
        scheme = self._address.partition(":")[0]
        if scheme == "sqlite":
            from eventchain.subjects.databases import SQLite

            return SQLite(self._address)
        if scheme == "postgresql":
            from eventchain.subjects.databases import PostgreSQL

            return PostgreSQL(self._address)
        raise ConfigError(
            f"no kind of key store has the URL {self.url!r}",
            hint="write it as sqlite:///keys.db or postgresql://user@host/database",
        )

    @cached_property
    def _wrapping(self) -> list[WrappingKey]:
        return [read_wrapping_key(place) for place in self._places]

    @cached_property
    def _index(self) -> bytes:
        key = self.keys([INDEX]).get(INDEX)
        if key is None:
            raise StoreError(f"{self.url} lacks its index key", hint="restore the key store from a copy")
        return key

    def _name_of(self, subject: str) -> bytes:
        try:
            name = subject.encode()
        except UnicodeEncodeError:
            name = b""
        if not name:
            raise ConfigError(f"{subject!r} cannot be the name of a subject", hint="it is some text")
        return hmac.digest(self._index, name, "sha256")

    def _wrapped(self, handle: bytes, key: bytes) -> dict[str, bytes]:
        newest = self._wrapping[0]
        return {"wrapped": newest.wrap(handle, key), "wrapping": newest.id}

    def _unwrapped(self, handle: bytes, wrapped: bytes, wrapping: bytes) -> bytes:
        for key in self._wrapping:
            if key.id == wrapping:
                return key.unwrap(handle, wrapped)
        raise StoreError(
            f"{self.url} holds a key that was wrapped by another wrapping key",
            hint="old_wrapping_key names the one before; `eventchain keys rotate` then wraps all anew",
        )

    def _add(self, handle: bytes, subject: bytes | None = None) -> None:
        """A new key, unless there is one by now."""
        values = {"handle": handle, "subject": subject, **self._wrapped(handle, os.urandom(KEY))}
        try:
            with self._transaction() as connection:
                connection.execute(insert(table).values(values))
        except StoreError as error:
            if not isinstance(error.__cause__, IntegrityError):
                raise

    def _scrub(self) -> None:
        try:
            self._database.scrub()
        except SQLAlchemyError as error:
            raise self._database.explain(error) from error

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        try:
            with self._database.engine.connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise self._database.explain(error) from error

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        """Committed and durable on leaving, rolled back on an exception."""
        try:
            with self._database.engine.begin() as connection:
                connection.exec_driver_sql(self._database.begin)
                yield connection
        except SQLAlchemyError as error:
            raise self._database.explain(error) from error


def _parts(items: list[bytes]) -> Iterator[list[bytes]]:
    for first in range(0, len(items), AT_ONCE):
        yield items[first : first + AT_ONCE]
