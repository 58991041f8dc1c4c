"""What travels between a coordinator and its workers: data of a fixed, versioned layout, nothing that is run.

Every message begins with four bytes that name its kind and version. Integers are big-endian, but for those
inside an 80-byte header. A message is as long as its counts say, to the byte, and is refused otherwise: every
``decode`` raises FormatError for anything that its ``encode`` cannot have made.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from eventchain.contracts.backend import MAX_ROLLS, NONCES, Solutions, Work
from eventchain.errors import FormatError
from eventchain.formats.header import HEADER, are_targets

MAX_HEADERS = 8192
"""In a piece: less than 1 MiB, which is what a NATS server takes by default."""
MAX_CLASS = 63
NAME_BYTES, REASON_BYTES = 64, 200
MAX_SEARCHES, MAX_TAGS = 64, 4096
_SOLUTION = np.dtype([("index", ">u4"), ("counter", ">u8")])


def tags_of(headers: NDArray[Any]) -> NDArray[np.uint64]:
    """What a header is called when its search is called off: (n,) uint64, the first bytes of the merkle root,
    which is another for every manifest and extranonce."""
    tags: NDArray[np.uint64] = np.ascontiguousarray(headers["merkle_root"][:, :8]).view(">u8")[:, 0]
    return tags.astype(np.uint64)


@dataclass(frozen=True, slots=True)
class Piece:
    """Coordinator to worker: search this. ``token`` is random: who answers must have been given it.

    b"ECp1" | coordinator u64 | search u64 | token u64 | rolls u32 | n u32 | count u64 | n headers of 80 bytes
    | n starts u64; n is from 1 to MAX_HEADERS, count from 1 to rolls · 2^32
    """

    LAYOUT: ClassVar = struct.Struct(">4sQQQIIQ")
    MAGIC: ClassVar = b"ECp1"

    coordinator: int
    search: int
    token: int
    work: Work

    def encode(self) -> bytes:
        work = self.work
        head = (self.coordinator, self.search, self.token, work.rolls, len(work.headers), work.count)
        fixed = self.LAYOUT.pack(self.MAGIC, *head)
        return fixed + work.headers.tobytes() + work.start.astype(">u8").tobytes()

    @classmethod
    def decode(cls, data: bytes) -> Piece:
        coordinator, search, token, rolls, n, count = _fixed(cls, data)
        rest = _rest(cls, data, n, MAX_HEADERS, HEADER.itemsize + 8)
        if not n or not 1 <= rolls <= MAX_ROLLS or rolls & (rolls - 1) or not 1 <= count <= rolls * NONCES:
            raise FormatError(f"a piece of {n} headers, {rolls} versions and {count} counters")
        headers = np.frombuffer(rest, HEADER, n).copy()
        if not are_targets(headers["bits"]).all():
            raise FormatError("a piece has a header whose bits are no target")
        start = np.frombuffer(rest, ">u8", n, n * HEADER.itemsize).astype(np.uint64)
        return cls(coordinator, search, token, Work(headers, start, count, rolls))


@dataclass(frozen=True, slots=True)
class Done:
    """Worker to coordinator: the piece is searched, and this was found.

    b"ECd1" | search u64 | token u64 | n u32 | n solutions of index u32, counter u64; n is at most MAX_HEADERS
    """

    LAYOUT: ClassVar = struct.Struct(">4sQQI")
    MAGIC: ClassVar = b"ECd1"

    search: int
    token: int
    solutions: Solutions

    def encode(self) -> bytes:
        found = np.empty(len(self.solutions.index), _SOLUTION)
        found["index"], found["counter"] = self.solutions.index, self.solutions.counter
        return self.LAYOUT.pack(self.MAGIC, self.search, self.token, len(found)) + found.tobytes()

    @classmethod
    def decode(cls, data: bytes) -> Done:
        search, token, n = _fixed(cls, data)
        found = np.frombuffer(_rest(cls, data, n, MAX_HEADERS, _SOLUTION.itemsize), _SOLUTION, n)
        solutions = Solutions(found["index"].astype(np.uint32), found["counter"].astype(np.uint64))
        return cls(search, token, solutions)


@dataclass(frozen=True, slots=True)
class Here:
    """Worker to everybody, every two seconds for each of its devices: I am here.

    b"ECh1" | number u16, which device of the worker | size class u8 | rate f64, hashes a second | pieces u64,
    answered so far | errors u32, pieces refused or failed | name of the device, NAME_BYTES of UTF-8, padded
    with zeros
    """

    LAYOUT: ClassVar = struct.Struct(f">4sHBdQI{NAME_BYTES}s")
    MAGIC: ClassVar = b"ECh1"

    number: int
    size_class: int
    rate: float
    pieces: int
    errors: int
    name: str

    def encode(self) -> bytes:
        numbers = (self.number, self.size_class, self.rate, self.pieces, self.errors)
        return self.LAYOUT.pack(self.MAGIC, *numbers, _padded(self.name, NAME_BYTES))

    @classmethod
    def decode(cls, data: bytes) -> Here:
        number, size_class, rate, pieces, errors, name = _fixed(cls, data)
        _rest(cls, data, 0, 0, 0)
        if size_class > MAX_CLASS or not 0 <= rate < 1e24:
            raise FormatError(f"a device of size class {size_class} with {rate} hashes a second")
        return cls(number, size_class, rate, pieces, errors, _text(name))


@dataclass(frozen=True, slots=True)
class Alive:
    """Coordinator to everybody, once a second.

    b"ECa1" | coordinator u64 | pieces u32, that are out | workers u32, that it knows | hashes left f64 in the
    searches that run | rate f64, hashes a second that were answered lately | host name, NAME_BYTES of UTF-8,
    padded with zeros
    """

    LAYOUT: ClassVar = struct.Struct(f">4sQIIdd{NAME_BYTES}s")
    MAGIC: ClassVar = b"ECa1"

    coordinator: int
    pieces: int
    workers: int
    hashes_left: float
    rate: float
    host: str

    def encode(self) -> bytes:
        numbers = (self.coordinator, self.pieces, self.workers, self.hashes_left, self.rate)
        return self.LAYOUT.pack(self.MAGIC, *numbers, _padded(self.host, NAME_BYTES))

    @classmethod
    def decode(cls, data: bytes) -> Alive:
        coordinator, pieces, workers, left, rate, host = _fixed(cls, data)
        _rest(cls, data, 0, 0, 0)
        if not left >= 0 or not 0 <= rate < 1e24:
            raise FormatError(f"a coordinator with {left} hashes left and {rate} a second")
        return cls(coordinator, pieces, workers, left, rate, _text(host))


@dataclass(frozen=True, slots=True)
class Over:
    """Coordinator to all workers: these headers need nothing more in these searches; without any header,
    these searches are over.

    b"ECo1" | searches u32 | tags u32 | searches u64 each | tags u64 each (see ``tags_of``); at most
    MAX_SEARCHES and MAX_TAGS
    """

    LAYOUT: ClassVar = struct.Struct(">4sII")
    MAGIC: ClassVar = b"ECo1"

    searches: tuple[int, ...]
    tags: tuple[int, ...]

    def encode(self) -> bytes:
        numbers = (*self.searches, *self.tags)
        head = self.LAYOUT.pack(self.MAGIC, len(self.searches), len(self.tags))
        return head + struct.pack(f">{len(numbers)}Q", *numbers)

    @classmethod
    def decode(cls, data: bytes) -> Over:
        searches, tags = _fixed(cls, data)
        if searches > MAX_SEARCHES or tags > MAX_TAGS:
            raise FormatError(f"{searches} searches and {tags} headers are said to be over")
        rest = _rest(cls, data, searches + tags, MAX_SEARCHES + MAX_TAGS, 8)
        numbers = struct.unpack(f">{searches + tags}Q", rest)
        return cls(numbers[:searches], numbers[searches:])


@dataclass(frozen=True, slots=True)
class Shut:
    """Coordinator to one worker, and to whoever looks on: you get no more work.

    b"ECs1" | reason, REASON_BYTES of UTF-8, padded with zeros
    """

    LAYOUT: ClassVar = struct.Struct(f">4s{REASON_BYTES}s")
    MAGIC: ClassVar = b"ECs1"

    reason: str

    def encode(self) -> bytes:
        return self.LAYOUT.pack(self.MAGIC, _padded(self.reason, REASON_BYTES))

    @classmethod
    def decode(cls, data: bytes) -> Shut:
        (reason,) = _fixed(cls, data)
        _rest(cls, data, 0, 0, 0)
        return cls(_text(reason))


def _fixed(kind: Any, data: bytes) -> tuple[Any, ...]:
    """The fields of the fixed part, after the magic."""
    if len(data) < kind.LAYOUT.size or data[:4] != kind.MAGIC:
        raise FormatError(f"{len(data)} bytes are no {kind.__name__} message of version 1")
    return tuple(kind.LAYOUT.unpack_from(data)[1:])


def _rest(kind: Any, data: bytes, n: int, most: int, size: int) -> bytes:
    """What follows the fixed part: n entries of ``size`` bytes."""
    if n > most or len(data) != kind.LAYOUT.size + n * size:
        raise FormatError(f"a {kind.__name__} message with {n} entries has {len(data)} bytes")
    return data[kind.LAYOUT.size :]


def _padded(text: str, size: int) -> bytes:
    return text.encode("utf-8", "replace")[:size].decode("utf-8", "ignore").encode()


def _text(raw: bytes) -> str:
    try:
        return raw.rstrip(b"\0").decode()
    except UnicodeDecodeError:
        raise FormatError("a name is not UTF-8") from None
