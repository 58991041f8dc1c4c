"""Many events at once: as columns, and as objects for who needs them.

All projections of a pass see the same pages, so what one of them had made is there for the others: events as
objects and their parsed JSON, members of payloads, groups, numbers. Each is made only for the rows that
somebody asks for.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import compress, count
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from eventchain.errors import ProjectionError
from eventchain.projections.event import Event, events_of
from eventchain.projections.members import reader
from eventchain.projections.numbers import NotANumber, Numbers, numbers
from eventchain.projections.path import Path

_NULL = msgspec.Raw(b"null")


class Page:
    """A record batch of EVENT_SCHEMA. paths: what the pass reads out of payloads, so that each payload is
    gone through once for all of them."""

    def __init__(self, batch: Any, paths: Sequence[Path] = ()) -> None:
        self.batch = batch
        self._events = _Cells(batch.num_rows)
        self._texts = {path: _Cells(batch.num_rows) for path in paths if path.members}
        self._groups: dict[Path, Groups] = {}
        self._numbers: dict[Path, _NumberCells] = {}

    def events(self, rows: Any) -> Any:
        """An array of :class:`Event`."""
        if len(missing := self._events.missing(rows)):
            self._events.put(missing, events_of(self.batch.take(pa.array(missing))))
        return self._events.values[rows]

    def texts(self, path: Path, rows: Any) -> list[Any]:
        """The JSON at a path into a payload as ``msgspec.Raw``, empty where there is none."""
        cells = self._texts.setdefault(path, _Cells(self.batch.num_rows))
        if len(missing := cells.missing(rows)):
            payloads = _payloads(self.batch.column(path.column).take(pa.array(missing)))
            together = [one for one in self._texts if one.column == path.column]
            found = reader(tuple(one.members for one in together))(payloads)
            for one in together:
                self._texts[one].put(missing, found[one.members])
        texts: list[Any] = cells.values[rows].tolist()
        return texts

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
            return list(map(bytes, self.page.texts(path, self.rows)))
        values: list[Any] = self.page.batch.column(path.column).take(pa.array(self.rows)).to_pylist()
        return values

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
    text = f"{type(why).__name__}: {why}" if isinstance(why, Exception) else why
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
        if isinstance(values, list):  # numpy would look into each for a sequence
            values = np.fromiter(values, self.values.dtype, len(values))
        self.values[rows] = values
        self._known[rows] = True


class Groups:
    """Rows by what they have at a path. cells: codes; values: what the codes stand for, text of a column or
    JSON of a payload, empty for none; names: the same as text to group by."""

    def __init__(self, rows: int) -> None:
        self.cells = _Cells(rows, np.int64)
        self._codes: defaultdict[Any, int] = defaultdict(count().__next__)
        self.names: list[str | None] = []

    @property
    def values(self) -> Sequence[Any]:
        return list(self._codes)

    def fill(self, codes: Any, values: Sequence[str]) -> None:
        self._codes.update({value: code for code, value in enumerate(values)})
        self.names.extend(values)
        self.cells.put(slice(None), codes)

    def add(self, rows: Any, texts: Sequence[Any]) -> None:
        self.cells.put(rows, list(map(self._codes.__getitem__, map(bytes, texts))))
        self.names.extend(map(_name, list(self._codes)[len(self.names) :]))


class _NumberCells(_Cells):
    """Numbers as units of 10^-scale; present: where there is one."""

    def __init__(self, rows: int) -> None:
        super().__init__(rows, np.int64)
        self.present = np.zeros(rows, bool)
        self.scale = 0

    def add(self, rows: Any, texts: Sequence[Any]) -> None:
        wanted = [bool(text) and text != _NULL for text in texts]
        filled = rows[wanted]
        try:
            new = numbers(list(compress(texts, wanted)))
        except NotANumber as error:
            raise NotANumber(int(filled[error.index]), error.text) from None
        scale = max(self.scale, new.scale)
        old, new = Numbers(self.values, self.scale).at(scale), new.at(scale)
        self.values = old.units.astype(np.result_type(old.units, new.units), copy=False)
        self.scale = scale
        self.present[filled] = True
        self.put(rows, 0)
        self.put(filled, new.units)


def _payloads(column: Any) -> list[bytes]:
    """Payloads to read JSON from: nothing in place of null and of what is not UTF-8, which is not JSON."""
    try:
        column.cast(pa.string())
    except pa.ArrowInvalid:
        return [payload if _is_text(payload) else b"" for payload in column.to_pylist()]
    return (column.fill_null(b"") if column.null_count else column).to_pylist()  # type: ignore[no-any-return]


def _is_text(payload: bytes | None) -> bool:
    try:
        return payload is not None and payload.decode() is not None
    except UnicodeDecodeError:
        return False


def _name(value: bytes) -> str | None:
    if value[:1] in b"{[n":  # also for nothing
        return None
    if value.startswith(b'"'):
        name: str = json.loads(value)
        return name
    return value.decode()
