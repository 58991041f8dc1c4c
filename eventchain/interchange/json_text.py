"""JSON as text: the members of an object, their numbers as written and ``data`` as it stands."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from json.encoder import encode_basestring
from typing import Any

from eventchain.errors import FormatError

_SPACE = frozenset(" \t\n\r")
_EMPTY = re.compile(r"{[ \t\n\r]*}")
_MEMBER = re.compile(  # a name and, if it is a string, its value, both without escapes: nearly always
    r'([{,])[ \t\n\r]*"([^"\\\x00-\x1f]*)"[ \t\n\r]*:[ \t\n\r]*(?:"([^"\\\x00-\x1f]*)")?'
)


class Number(str):
    """A JSON number as written."""

    __slots__ = ()


def _refuse(constant: str) -> Any:
    raise FormatError(f"{constant} is not JSON")


_DECODER = json.JSONDecoder(parse_int=Number, parse_float=Number, parse_constant=_refuse)


def members_of(text: str) -> tuple[dict[str, Any], str | None]:
    """The members of a JSON object: their values, except of ``data`` as it stands. Raises FormatError, for a
    name given twice too."""
    members: dict[str, Any] = {}
    data = None
    at, sign = _skip(text, 0), "{"
    if match := _EMPTY.match(text, at):
        at, sign = match.end() - 1, "}"
    while sign != "}":
        start, value = at, None
        if (match := _MEMBER.match(text, at)) and match[1] == sign:
            name, value, at = match[2], match[3], match.end()
            start = at if value is None else match.start(3) - 1
        else:  # broken, or a name with escapes
            at = _expect(text, at, sign)
            if text[at : at + 1] != '"':
                raise FormatError(f"not JSON: a name in quotes is missing at character {at + 1}")
            name, at = _value(text, at)
            start = at = _expect(text, at, ":")
        if value is None:
            value, at = _value(text, at)
        if name in members or (name == "data" and data is not None):
            raise FormatError(f"{name!r} is given twice")
        if name == "data":
            data = text[start:at]
        else:
            members[name] = value
        at = _skip(text, at)
        sign = "}" if text[at : at + 1] == "}" else ","
    at = _expect(text, at, "}")
    if at != len(text):
        raise FormatError(f"not JSON: something follows the object at character {at + 1}")
    return members, data


def _skip(text: str, at: int) -> int:
    while text[at : at + 1] in _SPACE:
        at += 1
    return at


def _expect(text: str, at: int, sign: str) -> int:
    """The place after a sign and the white space around it."""
    at = _skip(text, at)
    if text[at : at + 1] != sign:
        raise FormatError(f"not JSON: {sign!r} is missing at character {at + 1}")
    return _skip(text, at + 1)


def _value(text: str, at: int) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(text, at)
    except json.JSONDecodeError as error:
        raise FormatError(f"not JSON: {error.msg} at character {error.pos + 1}") from error


def is_json(data: bytes) -> bool:
    """Whether these bytes are one JSON value and nothing else, on one line, and come back when embedded."""
    if b"\n" in data:
        return False
    try:
        text = data.decode()
        return bool(text) and text[0] not in " \t\r" and _value(text, 0)[1] == len(text)
    except (FormatError, UnicodeDecodeError, RecursionError):
        return False


def members_text(members: Mapping[str, Any]) -> bytes:
    """The inside of a JSON object without members in members. Raises FormatError for others."""
    parts = []
    for name, value in members.items():
        if type(value) is str:
            parts.append(f"{encode_basestring(name)}:{encode_basestring(value)}")
        elif isinstance(value, dict | list):
            raise FormatError(f"the attribute {name} is not a string, a number or a boolean")
        else:
            plain = value if isinstance(value, Number) else json.dumps(value)
            parts.append(f"{encode_basestring(name)}:{plain}")
    return ",".join(parts).encode()
