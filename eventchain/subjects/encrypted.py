"""An event store of ours whose payloads are encrypted under a key for each subject."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from eventchain.contracts.event_store import NewEvent
from eventchain.errors import ConfigError, FormatError, StoreError
from eventchain.formats.envelope import MARK, NONCE, Envelope, associated, is_envelope
from eventchain.subjects.keys import KeyStore
from eventchain.subjects.wrapping import aead

PAYLOAD = ("data", "metadata")


class Decrypted(NamedTuple):
    """batch: Arrow rows of EVENT_SCHEMA as they were before they were encrypted. forgotten: (n,) bool, which
    of them are tombstones: their keys were destroyed, and what was encrypted is null, as in events that were
    erased; all else of them is there."""

    batch: Any
    forgotten: NDArray[np.bool_]


class Encrypted:
    """An :class:`~eventchain.contracts.event_store.AppendableEventStore` that encrypts what is appended for a
    subject. What it reads is what the store keeps, ciphertext and all: that is what the chain seals.
    :meth:`decrypted` makes it readable.

    metadata: whether that is encrypted too, or data alone. Raises ConfigError for a store that another
    application writes.
    """

    def __init__(self, store: Any, keys: KeyStore, *, metadata: bool = False) -> None:
        if not hasattr(store, "append"):
            raise ConfigError(
                f"{store.url} is another application's store: it does not encrypt for us",
                hint="[encryption] is for sqlite:// and postgresql:// stores",
            )
        self.keys = keys
        self._store = store
        self._columns = PAYLOAD if metadata else PAYLOAD[:1]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)  # all that it does as the store does

    def close(self) -> None:
        self._store.close()
        self.keys.close()

    def append(
        self,
        stream: str,
        expected_version: int | None,
        events: Sequence[NewEvent],
        *,
        subject: str | None = None,
    ) -> list[int]:
        """Append to one stream, as the store does; with a ``subject``, encrypted under its key, which is made
        if it has none. Stream, id, type and time stay readable. Raises what the store does, FormatError for a
        payload that looks encrypted already, and what the key store does."""
        for one in events:
            for payload in (one.data, one.metadata):
                if payload is not None and is_envelope(payload):
                    raise FormatError(f"a payload of event {one.id!r} looks as if it were encrypted already")
        positions: list[int]
        if subject is None:
            positions = self._store.append(stream, expected_version, events)
            return positions
        with self.keys.held(subject) as (handle, key):
            cipher = aead(key)
            hidden = [self._hidden(stream, one, handle, cipher) for one in events]
            positions = self._store.append(stream, expected_version, hidden)
            return positions

    def _hidden(self, stream: str, event: NewEvent, handle: bytes, cipher: Any) -> NewEvent:
        hidden: dict[str, Any] = {}
        for column in self._columns:
            payload = getattr(event, column)
            if payload is not None:
                nonce = os.urandom(NONCE)
                try:
                    beside = associated(
                        handle, stream.encode(), event.id.encode(), event.type.encode(), column
                    )
                except UnicodeEncodeError as error:
                    raise FormatError(
                        f"the event {event.id!r} has lone surrogates", hint="text is kept as UTF-8"
                    ) from error
                hidden[column] = bytes(Envelope(handle, nonce, cipher.encrypt(nonce, payload, beside)))
        return event._replace(**hidden)

    def decrypted(self, batch: Any) -> Decrypted:
        """Rows that this store gave, made readable; plain payloads stay as they are.

        Raises StoreError for a ciphertext that is not this event's or was altered, and for one whose key the
        key store never had: a wrong or an older one.
        """
        found = {name: rows for name in PAYLOAD if (rows := _envelopes(batch, name))}
        forgotten = np.zeros(batch.num_rows, np.bool_)
        if not found:
            return Decrypted(batch, forgotten)
        keys = self.keys.keys({envelope.handle for rows in found.values() for _, envelope in rows})
        ciphers = {handle: None if key is None else aead(key) for handle, key in keys.items()}
        from cryptography.exceptions import InvalidTag  # what aead needs is there

        names = [batch[name].cast(pa.binary()).to_pylist() for name in ("stream", "id", "type")]
        texts = list(zip(*names, strict=True))
        for name, rows in found.items():
            values = batch[name].to_pylist()
            for row, envelope in rows:
                if envelope.handle not in ciphers:
                    raise StoreError(
                        f"{self.keys.url} knows no key of the event {_at(batch, row)}",
                        hint="is it the key store of these events, and not an older copy?",
                    )
                cipher = ciphers[envelope.handle]
                if cipher is None:
                    forgotten[row], values[row] = True, None
                    continue
                stream, event_id, type_ = texts[row]
                beside = associated(envelope.handle, stream, event_id, type_, name)
                try:
                    values[row] = cipher.decrypt(envelope.nonce, envelope.ciphertext, beside)
                except InvalidTag as error:
                    raise StoreError(
                        f"the {name} of the event {_at(batch, row)} is not what was encrypted",
                        hint="`eventchain verify` names everything that is wrong",
                    ) from error
            at = batch.schema.get_field_index(name)
            batch = batch.set_column(at, batch.schema.field(at), pa.array(values, pa.binary()))
        return Decrypted(batch, forgotten)


def _envelopes(batch: Any, column: str) -> list[tuple[int, Envelope]]:
    """The encrypted payloads of a column, with their rows."""
    rows = encrypted_rows(batch[column])
    found = []
    for row, payload in zip(rows.tolist(), batch[column].take(pa.array(rows)).to_pylist(), strict=True):
        try:
            found.append((row, Envelope.parse(payload)))
        except FormatError as error:
            raise StoreError(f"the event {_at(batch, row)} has {error.message}", hint=error.hint) from error
    return found


def encrypted_rows(values: Any, start: bytes = MARK) -> NDArray[np.int64]:
    """The rows of an Arrow array of binary that begin so: with a mark, or a magic and a handle."""
    from pyarrow import compute  # takes a while to load

    begins = compute.starts_with(values, start).fill_null(False)
    return np.flatnonzero(begins.to_numpy(zero_copy_only=False))


def _at(batch: Any, row: int) -> str:
    return f"at position {batch['position'][row].as_py()}"
