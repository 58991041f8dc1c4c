"""A chain store in any SQL database. What differs between databases is a :class:`Database`'s."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from sqlalchemy import (
    Boolean,
    Connection,
    LargeBinary,
    Select,
    Table,
    bindparam,
    delete,
    func,
    insert,
    literal,
    or_,
    select,
    text,
    true,
    update,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from eventchain.chainstores import schema
from eventchain.contracts.chain_store import Blocks, Branch, Extent, Incarnation, Piece, Tile
from eventchain.errors import StoreError
from eventchain.formats.event import EVENT_SCHEMA
from eventchain.formats.header import HEADER

MAX_ID = 2**63 - 1
MAX_LEVEL = 7
"""256**8 leaves are more than positions can number."""
MAX_STRAYS = 1000
UNMINED = bytes(4)

# What a value of a type that its column does not allow is read as: nothing that was ever written there.
_INT, _BYTES, _TEXT = (int,), (bytes,), (str,)
_NULLABLE = (bytes, type(None))
_WRONG = {_INT: -(2**63), _BYTES: b"", _TEXT: "\ufffd", _NULLABLE: b"\xff"}


class Database(Protocol):
    """One database of one kind, open, with the tables of :mod:`eventchain.chainstores.schema` in it."""

    @property
    def url(self) -> str: ...

    @property
    def driver_error(self) -> type[Exception]:
        """The base of what the driver's own cursor raises."""
        ...

    def writer(self) -> AbstractContextManager[None]:
        """Hold the right to write, or LockedError at once."""
        ...

    def reading(self) -> AbstractContextManager[Connection]:
        """A connection that sees the last commit. May be called from several threads."""
        ...

    def snapshot(self) -> AbstractContextManager[Connection]:
        """A connection whose reads all see one and the same commit."""
        ...

    def writing(self) -> AbstractContextManager[Connection]:
        """A connection in a transaction that commits on leaving, durable, or rolls back on an exception."""
        ...

    def scrub(self, *, rows: bool) -> None:
        """See the contract of a chain store. Its writer calls it, in no transaction."""
        ...

    def explain(self, error: Exception) -> StoreError:
        """What a foreign error means and what to do about it."""
        ...

    def close(self) -> None: ...


class _Contains(FunctionElement[bool]):
    """Whether bytes contain other bytes."""

    type = Boolean()
    inherit_cache = True


@compiles(_Contains)
def _position(element: _Contains, compiler: SQLCompiler, **options: Any) -> str:
    whole, part = (compiler.process(clause, **options) for clause in element.clauses)
    return f"position({part} in {whole}) > 0"


@compiles(_Contains, "sqlite")
def _instr(element: _Contains, compiler: SQLCompiler, **options: Any) -> str:
    return f"instr({compiler.process(element.clauses, **options)}) > 0"


class SQLChainStore:
    """The contract is :class:`eventchain.contracts.chain_store.ChainStore`. Readers may be called from any
    thread; the thread inside a transaction sees what it wrote, all others the last commit."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._writing = False
        self._turn = threading.Lock()
        self._own = threading.local()  # .connection, .snapshot: of what this thread is in

    @property
    def url(self) -> str:
        return self._database.url

    def close(self) -> None:
        self._database.close()

    # -- transactions

    @contextmanager
    def writer(self) -> Iterator[None]:
        with self._database.writer():
            self._writing = True
            try:
                yield
            finally:
                self._writing = False

    @contextmanager
    def transaction(self) -> Iterator[None]:
        if not self._writing:
            raise RuntimeError("a transaction belongs inside writer()")
        if getattr(self._own, "connection", None) is not None:
            raise RuntimeError("transactions do not nest")
        with self._turn, self._errors(), self._database.writing() as connection:
            self._own.connection = connection
            try:
                yield
            finally:
                self._own.connection = None

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        with self._errors(), self._database.snapshot() as connection:
            self._own.snapshot = connection
            try:
                yield
            finally:
                self._own.snapshot = None

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, OverflowError, self._database.driver_error) as error:
            raise self._database.explain(error) from error

    def _read(
        self, statement: Select[Any], *types: tuple[type, ...], **parameters: int
    ) -> list[Sequence[Any]]:
        """The result's columns. A value that is not of its column's type (possible only after an edit of the
        schema, made and undone) is replaced by one that was never there."""
        own = getattr(self._own, "connection", None)
        if own is None:
            own = getattr(self._own, "snapshot", None)
        with self._errors(), nullcontext(own) if own is not None else self._database.reading() as connection:
            # Straight from the driver's cursor: plain tuples, no Row objects, the values need no conversion.
            rows = connection.execute(statement, parameters).cursor.fetchall()
        columns: list[Sequence[Any]] = list(zip(*rows, strict=True)) or [()] * len(types)
        for i, allowed in enumerate(types):
            if not set(map(type, columns[i])) <= set(allowed):
                columns[i] = [value if type(value) in allowed else _WRONG[allowed] for value in columns[i]]
        return columns

    def _write(self, statement: Any, **columns: Iterable[Any]) -> int:
        """Execute a statement (a constant, compiled once) for each row of these columns, which are named as
        its parameters. Returns how many rows of the table it has changed."""
        connection = getattr(self._own, "connection", None)
        if connection is None:
            raise RuntimeError("writes belong inside transaction()")
        home = connection.get_execution_options().get("schema_translate_map", {}).get(None)
        command, names = _compiled(statement, connection.dialect, home)
        rows = list(zip(*(columns[name] for name in names), strict=True))
        if not rows:
            return 0
        with self._errors():  # straight to the driver's cursor: the values need no conversion
            return int(connection.exec_driver_sql(command, rows).rowcount)

    # -- branches

    def branches(self) -> list[Branch]:
        return list(map(Branch, *self._read(_BRANCHES, _INT, _TEXT)))

    def add_branch(self, origin: str) -> Branch:
        branch = Branch(self._next_id(), origin)
        self._write(_ADD_BRANCH, id=[branch.id], origin=[branch.origin])
        return branch

    def _next_id(self) -> int:
        highest = max([0, *(one.id for one in self.branches()), *(one.id for one in self.incarnations())])
        if highest == MAX_ID:
            raise StoreError(f"{self.url}: no branch id is left", hint="run `eventchain verify`")
        return highest + 1

    # -- incarnations

    def incarnations(self) -> list[Incarnation]:
        t = schema.incarnations
        query = select(t.c.id, t.c.branch, t.c.origin, t.c.height, t.c.unfinished).order_by(t.c.id)
        *columns, unfinished = self._read(query, _INT, _INT, _TEXT, _INT, _INT)
        return list(map(Incarnation, *columns, map(bool, unfinished)))

    def add_incarnation(self, branch: int, origin: str, height: int) -> Incarnation:
        incarnation = Incarnation(self._next_id(), branch, origin, height)
        self._add_incarnation(incarnation)
        return incarnation

    def _add_incarnation(self, new: Incarnation) -> None:
        row = {name: [value] for name, value in new._asdict().items()}
        self._write(_ADD_INCARNATION, **row | {"unfinished": [int(new.unfinished)]})

    def put_incarnation(self, incarnation: Incarnation) -> None:
        self._write(_MARK_INCARNATION, of=[incarnation.id], new_unfinished=[int(incarnation.unfinished)])

    def swap(self, incarnation: Incarnation, leaf: int) -> None:
        old, new, aside = incarnation.branch, incarnation.id, -1  # no row's number, but in here
        first_tiles = [leaf >> 8 * (level + 1) for level in range(MAX_LEVEL + 1)]
        self._write(_MOVE_BLOCKS, of=[old], to=[aside], first=[incarnation.height])
        self._write(_MOVE_PIECES, of=[old], to=[aside], first=[first_tiles[0]])
        for level, tile in enumerate(first_tiles):
            self._write(_MOVE_TILES, of=[old], to=[aside], at=[level], first=[tile])
        for move in (_MOVE_ALL_BLOCKS, _MOVE_ALL_TILES, _MOVE_ALL_PIECES):
            self._write(move, of=[new], to=[old])
            self._write(move, of=[aside], to=[new])
        origin = next(branch.origin for branch in self.branches() if branch.id == old)
        self._write(_NAME_INCARNATION, of=[new], new_origin=[origin])
        self._write(_NAME_BRANCH, of=[old], new_origin=[incarnation.origin])
        self._write(_DROP_UPPER_TILES, of=[new])
        self._write(_STRIP_PIECES, of=[new], nothing=[b""], none=[b""])
        self.put_incarnation(incarnation._replace(unfinished=True))

    def close_branch(self, branch: Branch) -> None:
        self._write(_DROP_BRANCH, of=[branch.id])
        self._write(_DROP_EVENTS, of=[branch.id])
        closed = Incarnation(branch.id, branch.id, branch.origin, 0)
        self._add_incarnation(closed)
        self.drop(closed)

    def drop(self, incarnation: Incarnation) -> None:
        for table in (_DROP_BLOCKS, _DROP_TILES, _DROP_PIECES):
            self._write(table, of=[incarnation.id])
        self.put_incarnation(incarnation._replace(unfinished=True))

    # -- blocks

    def blocks(self, branch: int, first: int, limit: int) -> Blocks:
        return self._blocks(_BLOCKS, of=branch, first=max(first, 0), most=limit)

    def last_block(self, branch: int) -> Blocks:
        return self._blocks(_LAST_BLOCK, of=branch)

    def marked(self, branch: int, marks: Sequence[bytes], first: int, limit: int) -> Blocks:
        t = schema.blocks
        found = or_(*(_Contains(t.c.manifest, literal(mark, LargeBinary)) for mark in marks))
        query = _BLOCKS.where(found)
        return self._blocks(query, of=branch, first=max(first, 0), most=limit)

    def extents(self) -> list[Extent]:
        t = schema.blocks
        query = select(t.c.branch, func.min(t.c.height), func.max(t.c.height), func.count())
        query = query.where(t.c.branch.not_in(select(schema.incarnations.c.id)))
        return list(map(Extent, *self._read(query.group_by(t.c.branch).order_by(t.c.branch), *[_INT] * 4)))

    def _blocks(self, query: Select[Any], **parameters: int) -> Blocks:
        heights, headers, extranonces, manifests = self._read(query, _INT, _BYTES, _INT, _BYTES, **parameters)
        size = HEADER.itemsize
        if not set(map(len, headers)) <= {size}:
            headers = [header if len(header) == size else bytes(size) for header in headers]
        return Blocks(
            np.array(heights, np.int64),
            np.frombuffer(bytearray().join(headers), HEADER),  # of a bytearray: the caller may write in it
            np.array(extranonces, np.int64),
            list(manifests),
        )

    def add_blocks(self, branch: int, blocks: Blocks) -> None:
        owner = [branch] * len(blocks)
        self._write(_ADD_BLOCKS, branch=owner, manifest=blocks.manifests, **_seal_columns(blocks))

    def solve_blocks(self, branch: int, blocks: Blocks) -> int:
        count = len(blocks.heights)
        columns = {f"new_{name}": values for name, values in _seal_columns(blocks).items()}
        return self._write(_SOLVE_BLOCKS, of=[branch] * count, unmined=[UNMINED] * count, **columns)

    # -- the log

    def tiles(self, branch: int, level: int, first: int, limit: int) -> list[Tile]:
        where = {"of": branch, "at": level, "first": max(first, 0), "most": limit}
        return list(map(Tile, *self._read(_TILES, _INT, _INT, _BYTES, **where)))

    def pieces(self, branch: int, first: int, limit: int) -> list[Piece]:
        where = {"of": branch, "first": max(first, 0), "most": limit}
        return list(map(Piece, *self._read(_PIECES, _INT, _BYTES, _BYTES, _BYTES, **where)))

    def put_tiles(self, branch: int, tiles: list[Tile]) -> None:
        if not tiles:
            return
        levels, places, hashes = map(list, zip(*tiles, strict=True))
        for level in set(levels):
            found = [tile.index for tile in tiles if tile.level == level]
            self._write(_CLEAR_TILES, of=[branch], at=[level], first=[min(found)], last=[max(found)])
        self._write(_ADD_TILES, branch=[branch] * len(tiles), level=levels, tile=places, hashes=hashes)

    def put_pieces(self, branch: int, pieces: list[Piece]) -> None:
        if not pieces:
            return
        places, salts, positions, digests = map(list, zip(*pieces, strict=True))
        self._write(_CLEAR_PIECES, of=[branch], first=[min(places)], last=[max(places)])
        owner = [branch] * len(pieces)
        self._write(_ADD_PIECES, branch=owner, tile=places, salts=salts, positions=positions, digest=digests)

    # -- the events of child branches

    def events(self, branch: int, after: int | None, limit: int) -> Any:
        types = (_INT, _TEXT, _INT, _TEXT, _TEXT, _INT, _NULLABLE, _NULLABLE)
        after = -1 if after is None else max(after, -1)
        columns = self._read(_EVENTS, *types, of=branch, after=after, most=limit)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, EVENT_SCHEMA, strict=True)]
        return pa.RecordBatch.from_arrays(arrays, schema=EVENT_SCHEMA)

    def add_events(self, branch: int, batch: Any) -> None:
        columns = {name: batch[name].to_pylist() for name in EVENT_SCHEMA.names}
        self._write(_ADD_EVENTS, branch=[branch] * batch.num_rows, **columns)

    # -- for erasures

    def scrub(self, *, rows: bool = False) -> None:
        if not self._writing or getattr(self._own, "connection", None) is not None:
            raise RuntimeError("scrubbing belongs inside writer(), in no transaction")
        with self._errors():
            self._database.scrub(rows=rows)

    # -- for verify

    def strays(self) -> list[str]:
        blocks, tiles, pieces, events = schema.blocks, schema.tiles, schema.pieces, schema.branch_events
        return [
            *self._strays(blocks, blocks.c.height < 0),
            *self._strays(tiles, or_(tiles.c.level < 0, tiles.c.level > MAX_LEVEL, tiles.c.tile < 0)),
            *self._strays(pieces, pieces.c.tile < 0),
            *self._strays(events, events.c.position < 0),
        ]

    def _strays(self, table: Table, out_of_range: Any) -> list[str]:
        known: Any = table.c.branch.in_(select(schema.branches.c.id))
        if table is not schema.branch_events:
            known = or_(known, table.c.branch.in_(select(schema.incarnations.c.id)))
        stray = or_(known.is_not(true()), out_of_range)
        keys = list(table.primary_key.columns)
        query = select(*keys).where(stray).order_by(*keys).limit(MAX_STRAYS)
        branches = {branch.id for branch in self.branches()}
        found = []
        for row in zip(*self._read(query, *[_INT] * len(keys)), strict=True):
            where = ", ".join(f"{key.name} {value}" for key, value in zip(keys, row, strict=True))
            why = "out of range" if row[0] in branches else "there is no such branch"
            found.append(f"{table.name}: {where}: {why}")
        if len(found) == MAX_STRAYS:  # an edit may add any number of them
            ((count,),) = self._read(select(func.count()).select_from(table).where(stray), _INT)
            found.append(f"{table.name}: {count} such rows in all")
        return found


def _seal_columns(blocks: Blocks) -> dict[str, list[Any]]:
    """Heights, header bytes and extranonces as the values that a database takes."""
    raw = np.ascontiguousarray(blocks.headers).tobytes()
    size = HEADER.itemsize
    headers = [raw[i : i + size] for i in range(0, len(raw), size)]
    return {
        "height": blocks.heights.tolist(),
        "header": headers,
        "extranonce": blocks.extranonces.tolist(),
    }


# -- what is read all the time, made once

_BRANCHES = select(schema.branches.c.id, schema.branches.c.origin).order_by(schema.branches.c.id)
_BLOCK_ROWS = select(
    schema.blocks.c.height, schema.blocks.c.header, schema.blocks.c.extranonce, schema.blocks.c.manifest
).where(schema.blocks.c.branch == bindparam("of"))
_BLOCKS = (
    _BLOCK_ROWS.where(schema.blocks.c.height >= bindparam("first"))
    .order_by(schema.blocks.c.height)
    .limit(bindparam("most"))
)
_LAST_BLOCK = _BLOCK_ROWS.where(schema.blocks.c.height >= 0).order_by(schema.blocks.c.height.desc()).limit(1)
_TILES = (
    select(schema.tiles.c.level, schema.tiles.c.tile, schema.tiles.c.hashes)
    .where(schema.tiles.c.branch == bindparam("of"), schema.tiles.c.level == bindparam("at"))
    .where(schema.tiles.c.tile >= bindparam("first"))
    .order_by(schema.tiles.c.tile)
    .limit(bindparam("most"))
)
_PIECES = (
    select(*(schema.pieces.c[name] for name in ("tile", "salts", "positions", "digest")))
    .where(schema.pieces.c.branch == bindparam("of"), schema.pieces.c.tile >= bindparam("first"))
    .order_by(schema.pieces.c.tile)
    .limit(bindparam("most"))
)
_EVENTS = (
    select(*(schema.branch_events.c[name] for name in EVENT_SCHEMA.names))
    .where(schema.branch_events.c.branch == bindparam("of"))
    .where(schema.branch_events.c.position > bindparam("after"))
    .order_by(schema.branch_events.c.position)
    .limit(bindparam("most"))
)

# -- what is written

_ADD_BRANCH, _ADD_BLOCKS = insert(schema.branches), insert(schema.blocks)
_ADD_TILES, _ADD_PIECES = insert(schema.tiles), insert(schema.pieces)
_ADD_EVENTS = insert(schema.branch_events)
_ADD_INCARNATION = insert(schema.incarnations)
_SOLVE_BLOCKS = (
    update(schema.blocks)
    .where(schema.blocks.c.branch == bindparam("of"), schema.blocks.c.height == bindparam("new_height"))
    .where(func.substr(schema.blocks.c.header, text("69"), text("4")) == bindparam("unmined"))
    .values(header=bindparam("new_header"), extranonce=bindparam("new_extranonce"))
)


def _clear(table: Table) -> Any:
    """Of what is put hardly anything is there already. One statement over its range removes that, in every
    database, for much less than an upsert of each row."""
    among = table.c.tile.between(bindparam("first"), bindparam("last"))
    return delete(table).where(table.c.branch == bindparam("of"), among)


_CLEAR_PIECES = _clear(schema.pieces)
_CLEAR_TILES = _clear(schema.tiles).where(schema.tiles.c.level == bindparam("at"))


def _drop(table: Table, *which: Any) -> Any:
    return delete(table).where(table.c.branch == bindparam("of"), *which)


def _move(table: Table, *which: Any) -> Any:
    """Give rows to another branch or incarnation."""
    return update(table).where(table.c.branch == bindparam("of"), *which).values(branch=bindparam("to"))


_DROP_BLOCKS, _DROP_TILES = _drop(schema.blocks), _drop(schema.tiles)
_DROP_PIECES, _DROP_EVENTS = _drop(schema.pieces), _drop(schema.branch_events)
_DROP_UPPER_TILES = _drop(schema.tiles, schema.tiles.c.level > text("0"))
_DROP_BRANCH = delete(schema.branches).where(schema.branches.c.id == bindparam("of"))
_STRIP_PIECES = (
    update(schema.pieces)
    .where(schema.pieces.c.branch == bindparam("of"))
    .values(salts=bindparam("nothing", type_=LargeBinary), digest=bindparam("none", type_=LargeBinary))
)
_MOVE_ALL_BLOCKS, _MOVE_ALL_TILES = _move(schema.blocks), _move(schema.tiles)
_MOVE_ALL_PIECES = _move(schema.pieces)
_MOVE_BLOCKS = _move(schema.blocks, schema.blocks.c.height >= bindparam("first"))
_MOVE_PIECES = _move(schema.pieces, schema.pieces.c.tile >= bindparam("first"))
_MOVE_TILES = _move(
    schema.tiles, schema.tiles.c.level == bindparam("at"), schema.tiles.c.tile >= bindparam("first")
)
_NAME_BRANCH = (
    update(schema.branches)
    .where(schema.branches.c.id == bindparam("of"))
    .values(origin=bindparam("new_origin"))
)
_NAME_INCARNATION = (
    update(schema.incarnations)
    .where(schema.incarnations.c.id == bindparam("of"))
    .values(origin=bindparam("new_origin"))
)
_MARK_INCARNATION = (
    update(schema.incarnations)
    .where(schema.incarnations.c.id == bindparam("of"))
    .values(unfinished=bindparam("new_unfinished"))
)


@lru_cache(maxsize=64)  # a dialect is one store's
def _compiled(statement: Any, dialect: Any, home: str | None) -> tuple[str, list[str]]:
    """The statement's text, its tables in the schema ``home`` where there is one, and the names of its
    parameters in order (dialects here have positional ones)."""
    options = {"schema_translate_map": {None: home}, "render_schema_translate": True} if home else {}
    compiled = statement.compile(dialect=dialect, **options)
    return str(compiled), compiled.positiontup
