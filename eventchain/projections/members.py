"""Members of JSON payloads as they are written there, without parsing the rest into objects."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from operator import attrgetter
from typing import Any

import msgspec

Members = tuple[str, ...]

_ONE_LEVEL = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_NO_FIELD = re.compile(r'["\\\x00-\x1f]')  # names that msgspec does not give to fields


NOTHING = msgspec.Raw()


def member(payload: Any, members: Members) -> Any:
    """The JSON of the value at the end of a path of members, as ``msgspec.Raw``; empty where there is none,
    also in what is not JSON."""
    for name in members:
        try:
            payload = _ONE_LEVEL.decode(payload).get(name, NOTHING)
        except _ERRORS:
            return NOTHING
    return payload


class Reader:
    """Reads the same paths out of many payloads, going through each payload once for all of them."""

    def __init__(self, paths: tuple[Members, ...]) -> None:
        self._paths = paths
        self._shape = _Shape(paths)
        self._decode = msgspec.json.Decoder(self._shape.struct).decode

    def __call__(self, payloads: Sequence[bytes]) -> dict[Members, list[Any]]:
        """For each path a list as long as ``payloads`` of what :func:`member` gives."""
        odd: list[int] = []
        try:
            structs = list(map(self._decode, payloads))
        except _ERRORS:
            structs = list(map(self._decoded, payloads))
            odd = [index for index, struct in enumerate(structs) if struct is None]
        found = {}
        for path in self._paths:
            values = self._shape.values(structs, path)
            if values is None:
                values = [member(payload, path) for payload in payloads]
            for index in odd:
                values[index] = member(payloads[index], path)
            found[path] = values
        return found

    def _decoded(self, payload: bytes) -> Any:
        try:
            return self._decode(payload)
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
        kinds = [msgspec.Raw] * len(leaves) + [shape.struct | None for shape in self._below.values()]
        self.struct: Any = msgspec.defstruct(
            "Members",
            [
                (field, kind, NOTHING if kind is msgspec.Raw else None)
                for field, kind in zip(self._fields.values(), kinds, strict=True)
            ],
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
            nothing = NOTHING if last else None
            found = [nothing if struct is None else getattr(struct, field) for struct in structs]
        else:
            found = list(map(attrgetter(field), structs))
        return found if last else self._below[path[0]].values(found, path[1:])
