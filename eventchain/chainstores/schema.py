"""The one schema of every chain store. Nothing in it can be derived from the rest but tiles above level 0.

SQLite gets STRICT tables. ``blocks`` and ``tiles`` are clustered by their key: their rows are of even size
and it saves an index. The rows of ``pieces`` would lose a third of a page each that way, and
``branch_events`` holds payloads of any size; both are plain tables.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Column, Integer, LargeBinary, MetaData, Table, Text

I64 = BigInteger().with_variant(Integer(), "sqlite")  # STRICT tables know INTEGER (64 bits) and no BIGINT

metadata = MetaData()


def _key(name: str) -> Column[Any]:
    return Column(name, I64, primary_key=True, autoincrement=False, nullable=False)


def _column(name: str, type_: Any, nullable: bool = False) -> Column[Any]:
    return Column(name, type_, nullable=nullable)


branches = Table(
    "branches",
    metadata,
    _key("id"),  # rising from 1; the lowest is the trunk
    Column("origin", Text, nullable=False, unique=True),
    sqlite_strict=True,
)

incarnations = Table(
    "incarnations",
    metadata,
    _key("id"),  # never a branch's
    _column("branch", I64),
    Column("origin", Text, nullable=False, unique=True),
    _column("height", I64),  # of its first block
    _column("unfinished", I64),  # 1: what was deleted with it may still be in files
    sqlite_strict=True,
)

blocks = Table(
    "blocks",
    metadata,
    _key("branch"),
    _key("height"),
    _column("header", LargeBinary),  # 80 bytes; its time (bytes 68 to 72) is 0 until the block is mined
    _column("extranonce", I64),
    _column("manifest", LargeBinary),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

tiles = Table(
    "tiles",
    metadata,
    _key("branch"),
    _key("level"),
    _key("tile"),
    _column("hashes", LargeBinary),  # 32 bytes each, 256 in a full tile
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

pieces = Table(
    "pieces",
    metadata,
    _key("branch"),
    _key("tile"),
    _column("salts", LargeBinary),  # 16 bytes a leaf; then commitments of erased ones
    _column("positions", LargeBinary),  # big-endian i64 a leaf
    _column("digest", LargeBinary),
    sqlite_strict=True,
)

branch_events = Table(
    "branch_events",
    metadata,
    _key("branch"),
    _key("position"),
    _column("stream", Text),
    _column("version", I64),
    _column("id", Text),
    _column("type", Text),
    _column("time", I64),  # microseconds since 1970 UTC
    _column("data", LargeBinary, nullable=True),
    _column("metadata", LargeBinary, nullable=True),
    sqlite_strict=True,
)
