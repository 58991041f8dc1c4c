"""How two states differ, member by member where both are JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

ABSENT: Any = object()
"""Stands for a member that is not there."""


class Change(NamedTuple):
    """path: a JSON Pointer (RFC 6901), empty for the whole; before, after: JSON values, or ABSENT."""

    path: str
    before: Any
    after: Any


def differences(before: bytes, after: bytes) -> Iterator[Change]:
    """What differs between two states, in the order of their members. States that are not JSON differ as a
    whole; their values here are None."""
    if before == after:
        return
    parsed = _parsed(before), _parsed(after)
    if ABSENT in parsed or parsed[0] == parsed[1]:
        yield Change("", None, None)
    else:
        yield from _between("", *parsed)


def values_at(state: bytes, paths: list[str]) -> list[Any]:
    """The values at some paths of a state, ABSENT where there is none."""
    whole = _parsed(state)
    return [state if path == "" else _follow(whole, path) for path in paths]


def _between(path: str, before: Any, after: Any) -> Iterator[Change]:
    if isinstance(before, dict) and isinstance(after, dict):
        keys = sorted({*before, *after})
        pairs = [(_step(path, key), before.get(key, ABSENT), after.get(key, ABSENT)) for key in keys]
    elif isinstance(before, list) and isinstance(after, list):
        length = max(len(before), len(after))
        pairs = [
            (f"{path}/{i}", before[i] if i < len(before) else ABSENT, after[i] if i < len(after) else ABSENT)
            for i in range(length)
        ]
    else:
        yield Change(path, before, after)
        return
    for inner, old, new in pairs:
        if type(old) is not type(new) or old != new:
            yield from _between(inner, old, new)


def _step(path: str, key: str) -> str:
    return f"{path}/{key.replace('~', '~0').replace('/', '~1')}"


def _follow(value: Any, path: str) -> Any:
    for part in path.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            return ABSENT
    return value


def _parsed(state: bytes) -> Any:
    try:
        return json.loads(state)
    except (ValueError, RecursionError):
        return ABSENT
