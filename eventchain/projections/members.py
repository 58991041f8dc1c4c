"""Members of JSON payloads as they are written there, without parsing the rest into objects."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Members = tuple[str, ...]

_NOTHING = msgspec.Raw()
_ONE_LEVEL = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_NO_FIELD = re.compile(r'["\\\x00-\x1f]')  # names that msgspec does not give to fields
_AT_ONCE = 2048


def member(payload: Any, members: Members) -> Any:
    """The JSON of the value at the end of a path of members, as ``msgspec.Raw``; empty where there is none,
    also in what is not JSON."""
    for name in members:
        try:
            payload = _ONE_LEVEL.decode(payload).get(name, _NOTHING)
        except _ERRORS:
            return _NOTHING
    return payload


class Reader:
    """Reads the same paths out of many payloads, going through each payload once for all of them."""

    def __init__(self, paths: tuple[Members, ...]) -> None:
        self._paths = paths
        self._shape = _Shape(paths)
        self._decoder = msgspec.json.Decoder(self._shape.struct)

    def __call__(self, payloads: Any) -> dict[Members, Any]:
        """For an Arrow array of binary a like one for each path: what :func:`member` gives, and nothing in
        payloads that are null or not UTF-8."""
        payloads = _text(payloads)
        pieces = [self._read(payloads.slice(at, _AT_ONCE)) for at in range(0, len(payloads), _AT_ONCE)]
        return {path: pa.concat_arrays([piece[path] for piece in pieces]) for path in self._paths}

    def _read(self, payloads: Any) -> dict[Members, Any]:
        structs, odd = self._structs(payloads)
        found = {}
        for path in self._paths:
            values = self._shape.values(structs, path)
            if values is None:
                values = [member(payload, path) for payload in payloads.to_pylist()]
            for index in odd:
                values[index] = member(payloads[index].as_py(), path)
            found[path] = strings(values)
        return found

    def _structs(self, payloads: Any) -> tuple[list[Any], list[int]]:
        """A struct for each payload, and the indices of those that have none: what is no JSON object."""
        # One call for all of them is twice as fast. It would take two values in one payload, or one that
        # goes on in the next payload; the second cannot be where all begin and end with a brace, and so the
        # count tells of the first.
        if pc.all(pc.and_(pc.starts_with(payloads, b"{"), pc.ends_with(payloads, b"}"))).as_py():
            whole = pa.ListArray.from_arrays(pa.array([0, len(payloads)], pa.int32()), payloads)
            try:
                structs = self._decoder.decode_lines(pc.binary_join(whole, b"\n")[0].as_py())
            except _ERRORS:
                structs = []
            if len(structs) == len(payloads):
                return structs, []
        structs = [self._decoded(payload) for payload in payloads.to_pylist()]
        return structs, [index for index, struct in enumerate(structs) if struct is None]

    def _decoded(self, payload: bytes) -> Any:
        try:
            return self._decoder.decode(payload)
        except _ERRORS:
            return None


@lru_cache(256)
def reader(paths: tuple[Members, ...]) -> Reader:
    return Reader(paths)


class _Shape:
    """A struct with a field for the first member of each path, and shapes below those that go on."""

    def __init__(self, paths: Sequence[Members]) -> None:
        ends = {path[0] for path in paths if len(path) == 1}
        deeper: dict[str, list[Members]] = {}
        for path in paths:
            if path[0] not in ends:  # else it is read below the member, which is wanted as it is written
                deeper.setdefault(path[0], []).append(path[1:])
        self._below = {name: _Shape(rest) for name, rest in deeper.items() if not _NO_FIELD.search(name)}
        leaves = sorted(name for name in ends if not _NO_FIELD.search(name))
        self._fields = {name: f"f{index}" for index, name in enumerate([*leaves, *self._below])}
        kinds: list[tuple[Any, Any]] = [(msgspec.Raw, _NOTHING)] * len(leaves)
        kinds += [(shape.struct | None, None) for shape in self._below.values()]
        self.struct: Any = msgspec.defstruct(
            "Members",
            [(field, *kind) for field, kind in zip(self._fields.values(), kinds, strict=True)],
            rename={field: name for name, field in self._fields.items()},
            gc=False,
        )

    def values(self, structs: Sequence[Any], path: Members) -> list[Any] | None:
        """What the structs hold at a path; None when they have no field for it."""
        field = self._fields.get(path[0])
        if field is None or (len(path) > 1) != (path[0] in self._below):
            return None
        last = len(path) == 1
        if None in structs:
            nothing = _NOTHING if last else None
            found = [nothing if struct is None else getattr(struct, field) for struct in structs]
        else:
            found = list(map(attrgetter(field), structs))
        return found if last else self._below[path[0]].values(found, path[1:])


def strings(texts: Sequence[Any]) -> Any:
    """An Arrow array of binary out of anything with bytes in it."""
    ends = np.zeros(len(texts) + 1, np.int32)
    np.cumsum(np.fromiter(map(len, texts), np.int32, len(texts)), out=ends[1:])
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(b"".join(texts))]
    return pa.Array.from_buffers(pa.binary(), len(texts), buffers)


def _text(payloads: Any) -> Any:
    """Payloads to read JSON from: an empty object for null and for what is not UTF-8."""
    try:
        payloads.cast(pa.string())
    except pa.ArrowInvalid:
        valid = [payload is not None and _is_text(payload) for payload in payloads.to_pylist()]
        return pc.if_else(pa.array(valid), payloads, b"{}")
    return payloads.fill_null(b"{}") if payloads.null_count else payloads


def _is_text(payload: bytes) -> bool:
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True
