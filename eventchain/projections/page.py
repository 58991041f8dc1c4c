"""Many events at once: as columns, and as objects for who needs them.

All projections of a pass see the same pages, so what one of them had made is there for the others: events as
objects and their parsed JSON, members of payloads, groups, numbers. Each is made only for the rows that
somebody asks for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eventchain.errors import ProjectionError
from eventchain.projections.event import Event, events_of
from eventchain.projections.members import reader
from eventchain.projections.numbers import NotANumber, Numbers, numbers
from eventchain.projections.path import Path


class Page:
    """A record batch of EVENT_SCHEMA. paths: what the pass reads out of payloads, so that each payload is
    gone through once for all of them."""

    def __init__(self, batch: Any, paths: Sequence[Path] = ()) -> None:
        self.batch = batch
        self._events = _Cells(batch.num_rows)
        self._texts = {path: _Texts(batch.num_rows) for path in paths if path.members}
        self._groups: dict[Path, Groups] = {}
        self._numbers: dict[Path, _NumberCells] = {}

    def events(self, rows: Any) -> Any:
        """An array of :class:`Event`."""
        if len(missing := self._events.missing(rows)):
            whole = len(missing) == self.batch.num_rows
            self._events.put(missing, events_of(self.batch if whole else self.batch.take(pa.array(missing))))
        return self._events.values[rows]

    def texts(self, path: Path, rows: Any) -> Any:
        """The JSON at a path into a payload, an Arrow array of binary, empty where there is none."""
        texts = self._texts.setdefault(path, _Texts(self.batch.num_rows))
        if len(missing := texts.missing(rows)):
            together = [one for one in self._texts if one.column == path.column]
            found = reader(tuple(one.members for one in together))(self.column(path.column, missing))
            for one in together:
                self._texts[one].add(missing, found[one.members])
        return texts.of(rows)

    def column(self, name: str, rows: Any) -> Any:
        """A column of the batch, of these rows."""
        column = self.batch.column(name)
        return column if len(rows) == len(column) else column.take(pa.array(rows))

    def groups(self, path: Path, rows: Any) -> Groups:
        """What there is at a path; these rows have their codes."""
        groups = self._groups.get(path)
        if groups is None:
            groups = self._groups[path] = Groups(self.batch.num_rows)
            if not path.members:
                column = self.batch.column(path.column).dictionary_encode()
                groups.fill(column.indices.to_numpy(), column.dictionary.to_pylist())
        if len(missing := groups.cells.missing(rows)):
            groups.add(missing, self.texts(path, missing))
        return groups

    def numbers(self, path: Path, rows: Any) -> tuple[Any, Numbers]:
        """Which of these rows have a number at a path, as booleans, and those numbers. Raises NotANumber,
        its index a row of the page, for something else than a number or null."""
        cells = self._numbers.setdefault(path, _NumberCells(self.batch.num_rows))
        if len(missing := cells.missing(rows)):
            cells.add(missing, self.texts(path, missing))
        present = cells.present[rows]
        return present, Numbers(cells.values[rows[present]], cells.scale)


class Events:
    """Some rows of a page in their order: iterable as :class:`Event`, and in columns.

    page: shared by all projections of a pass; rows: int64 indices into it.
    """

    def __init__(self, page: Page, rows: Any) -> None:
        self.page = page
        self.rows = rows

    @classmethod
    def of(cls, batch: Any) -> Events:
        """All rows of a record batch of EVENT_SCHEMA."""
        return cls(Page(batch), np.arange(batch.num_rows))

    def where(self, mask: Any) -> Events:
        """Those for which a boolean array, one value for each event here, is true."""
        return self if mask.all() else Events(self.page, self.rows[mask])

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Event]:
        return iter(self.page.events(self.rows).tolist())

    def integers(self, name: str) -> Any:
        """A column as an int64 array: position, version or time, UNKNOWN where it is not known."""
        return self.page.batch.column(name).to_numpy()[self.rows]

    def column(self, path: Path) -> list[Any]:
        """What each event has at a path: a column's value, a payload's JSON text, empty where there is none,
        or a whole payload as it is."""
        if path.members:
            return self.page.texts(path, self.rows).to_pylist()  # type: ignore[no-any-return]
        return self.page.column(path.column, self.rows).to_pylist()  # type: ignore[no-any-return]

    def values(self, path: Path) -> tuple[Any, Sequence[Any]]:
        """Codes, one for each event, and what they are indices of: as in ``column``."""
        groups = self.page.groups(path, self.rows)
        return groups.cells.values[self.rows], groups.values

    def groups(self, path: Path) -> tuple[Any, Sequence[str | None]]:
        """Codes, one for each event, and the names that they are indices of: text at the path, JSON strings
        without their quotes, other JSON scalars as they are written; None for everything else."""
        groups = self.page.groups(path, self.rows)
        return groups.cells.values[self.rows], groups.names

    def numbers(self, path: Path) -> tuple[Any, Numbers]:
        """Which events have a number at the path into a payload, as booleans, and those numbers: JSON
        numbers and strings that hold one. Raises ProjectionError, naming the event, for anything else but
        null."""
        try:
            return self.page.numbers(path, self.rows)
        except NotANumber as error:
            (event,) = self.page.events(np.array([error.index]))
            raise failed(event, f"{path}: {error}") from None


def failed(event: Event, why: object) -> ProjectionError:
    """What a projection's own exception at an event becomes."""
    text = f"{type(why).__name__}: {why}" if isinstance(why, BaseException) else why
    return ProjectionError(f"failed at the event at position {event.position} ({event.id}): {text}")


class _Cells:
    """A column of a page that is filled bit by bit."""

    def __init__(self, rows: int, kind: Any = object) -> None:
        self.values = np.zeros(rows, kind)
        self._known = np.zeros(rows, bool)

    def missing(self, rows: Any) -> Any:
        """Those of the rows that are not filled yet."""
        return rows[~self._known[rows]]

    def put(self, rows: Any, values: Any) -> None:
        self.values[rows] = values
        self._known[rows] = True


class _Texts(_Cells):
    """JSON texts; values: where each is in ``_all``."""

    def __init__(self, rows: int) -> None:
        super().__init__(rows, np.int64)
        self._all = pa.array([], pa.binary())

    def add(self, rows: Any, texts: Any) -> None:
        self.put(rows, np.arange(len(self._all), len(self._all) + len(texts)))
        self._all = pa.concat_arrays([self._all, texts]) if len(self._all) else texts

    def of(self, rows: Any) -> Any:
        at = self.values[rows]
        whole = len(at) == len(self._all) and (at == np.arange(len(at))).all()
        return self._all if whole else self._all.take(pa.array(at))


class Groups:
    """Rows by what they have at a path. cells: codes; values: what the codes stand for, text of a column or
    JSON of a payload, empty for none; names: the same as text to group by."""

    def __init__(self, rows: int) -> None:
        self.cells = _Cells(rows, np.int64)
        self.values: list[Any] = []
        self.names: list[str | None] = []

    def fill(self, codes: Any, values: Sequence[str]) -> None:
        self.values.extend(values)
        self.names.extend(values)
        self.cells.put(slice(None), codes)

    def add(self, rows: Any, texts: Any) -> None:
        found = texts.dictionary_encode()
        codes, new = found.indices.to_numpy(), found.dictionary.to_pylist()
        if self.values:  # most often all rows are asked for at once, and there are none yet
            known = dict(zip(self.values, count(), strict=False))
            of_all = {value: known.setdefault(value, len(known)) for value in new}
            codes = np.array(list(of_all.values()), np.int64)[codes]
            new = list(known)[len(self.values) :]
        self.cells.put(rows, codes)
        self.values.extend(new)
        self.names.extend(_names(new))


class _NumberCells(_Cells):
    """Numbers as units of 10^-scale; present: where there is one."""

    def __init__(self, rows: int) -> None:
        super().__init__(rows, np.int64)
        self.present = np.zeros(rows, bool)
        self.scale = 0

    def add(self, rows: Any, texts: Any) -> None:
        wanted = pc.and_(pc.not_equal(texts, b""), pc.not_equal(texts, b"null"))
        filled = rows[wanted.to_numpy(zero_copy_only=False)]
        try:
            new = numbers(texts if len(filled) == len(rows) else texts.filter(wanted))
        except NotANumber as error:
            raise NotANumber(int(filled[error.index]), error.text) from None
        scale = max(self.scale, new.scale)
        old, new = Numbers(self.values, self.scale).at(scale), new.at(scale)
        self.values = old.units.astype(np.result_type(old.units, new.units), copy=False)
        self.scale = scale
        self.present[filled] = True
        self.put(rows, 0)
        self.put(filled, new.units)


def _names(values: list[bytes]) -> list[str | None]:
    """Most often all are strings without escapes: then the text of all of them is cut where two meet. With
    anything else among them there are fewer such places, or other counts of quotes."""
    joined = b"".join(values)
    if joined[:1] == joined[-1:] == b'"' and b"\\" not in joined and joined.count(b'"') == 2 * len(values):
        names = joined[1:-1].decode().split('""')
        if len(names) == len(values):
            return [*names]
    return list(map(_name, values))


def _name(value: bytes) -> str | None:
    if value[:1] in b"{[n":  # also for nothing
        return None
    if value.startswith(b'"') and b"\\" not in value:
        return value[1:-1].decode()
    if value.startswith(b'"'):
        name: str = json.loads(value)
        return name
    return value.decode()
