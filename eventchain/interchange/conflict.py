"""Why a store refused a file's events: which event, where in the file, and what has its place."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow.compute as pc

from eventchain.errors import ConflictError
from eventchain.interchange.files import place, read_events, read_once

HINT_STORE = "was this file imported before? ids and versions are unique over the whole store"
HINT_FILE = "ids are unique over the whole store: two CloudEvents sources that use one id collide"


class Watched:
    """Passes batches on, and keeps the last one: the store refuses an event of that."""

    def __init__(self, batches: Iterable[Any]) -> None:
        self._batches = batches
        self.last: Any = None

    def __iter__(self) -> Iterator[Any]:
        for batch in self._batches:
            self.last = batch
            yield batch


def explained(
    error: ConflictError, path: str | os.PathLike[str], refused: Any, stored: Iterable[Any]
) -> ConflictError:
    """What ``error`` becomes: it names the first event of the batch ``refused`` (whose positions count the
    file's events) that repeats an id or a stream's version, of ``stored``, the store's own batches, or of an
    earlier line. The file is read again for that, standard input and pipes cannot be.
    """
    ids = refused["id"].to_pylist()
    keys = list(zip(refused["stream"].to_pylist(), refused["version"].to_pylist(), strict=True))
    wanted = {*ids, *keys}  # strings and pairs
    taken = {name for batch in stored for name, _ in _names(batch, refused) if name in wanted}
    seen: dict[Any, int] = {}
    first = refused["position"][0].as_py()
    if not read_once(path):
        for batch in read_events(path):
            if batch["position"][0].as_py() >= first:
                break
            for name, row in _names(batch, refused):
                if name in wanted:
                    seen.setdefault(name, row)
    for row, (id_, key) in enumerate(zip(ids, keys, strict=True), first):
        for name, what in ((id_, f"event id {id_!r}"), (key, f"version {key[1]} of stream {key[0]!r}")):
            if name in taken:
                return ConflictError(f"{place(path, row)}: {what} is in the store already", hint=HINT_STORE)
            if name in seen:
                before = place(path, seen[name], short=True)
                return ConflictError(f"{place(path, row)}: {what} stands on {before} too", hint=HINT_FILE)
        seen[id_] = seen[key] = row
    return error


def _names(batch: Any, refused: Any) -> Iterator[tuple[Any, int]]:
    """Ids and (stream, version) of the events that might be the same as one of ``refused``, with their
    positions."""
    for name in ("id", "stream"):
        rows = batch.filter(pc.is_in(batch[name], value_set=refused[name]))
        positions = rows["position"].to_pylist()
        if name == "id":
            yield from zip(rows["id"].to_pylist(), positions, strict=True)
        else:
            pairs = zip(rows["stream"].to_pylist(), rows["version"].to_pylist(), strict=True)
            yield from zip(pairs, positions, strict=True)
