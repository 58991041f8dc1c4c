"""Projections that need no code: the last data of every stream, counts, and exact sums."""

from __future__ import annotations

import json
from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, Context, Decimal
from typing import Any

import msgspec

from eventchain.errors import ProjectionError
from eventchain.projections.event import Event
from eventchain.projections.path import Path
from eventchain.projections.projection import Projection, canonical

_EXACT = Context(prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[])
MAX_DIGITS = 1000


class Latest(Projection[dict[str, bytes]]):
    """The data of every stream's last event.

    Dumped as a JSON object, streams in the order of their UTF-8 bytes, the data as it stands in the store:
    what is not JSON becomes ``{"base64":"…"}``, no data null.
    """

    def initial(self) -> dict[str, bytes]:
        return {}

    def apply(self, state: dict[str, bytes], event: Event) -> dict[str, bytes]:
        state[event.stream] = b"null" if event.data is None else event.data
        return state

    def dump(self, state: dict[str, bytes]) -> bytes:
        encode = msgspec.json.encode
        return b"{" + b",".join(encode(name) + b":" + _as_json(state[name]) for name in sorted(state)) + b"}"

    def load(self, data: bytes) -> dict[str, bytes]:
        return {
            name: bytes(value)
            for name, value in msgspec.json.decode(data, type=dict[str, msgspec.Raw]).items()
        }


class Count(Projection[dict[str, int]]):
    """How many events there are of each ``by``: ``type``, ``stream``, or a member as ``data.channel``."""

    def __init__(self, by: str = "type") -> None:
        self.by = Path.parse(by)

    @property
    def options(self) -> dict[str, Any]:
        return {"by": str(self.by)}

    def initial(self) -> dict[str, int]:
        return {}

    def apply(self, state: dict[str, int], event: Event) -> dict[str, int]:
        key = self.by.key(event)
        if key is not None:
            state[key] = state.get(key, 0) + 1
        return state


class Sum(Projection[dict[str, Decimal]]):
    """The exact sum of the number at ``path`` in the data, as ``data.amount``, for each ``by``.

    Numbers may be JSON numbers or strings that hold one. Events without it, or with null, add nothing;
    anything else is an error. Dumped as a JSON object of strings in plain decimal notation.
    """

    def __init__(self, path: str, by: str = "stream") -> None:
        self.path = Path.parse(path)
        self.by = Path.parse(by)

    @property
    def options(self) -> dict[str, Any]:
        return {"path": str(self.path), "by": str(self.by)}

    def initial(self) -> dict[str, Decimal]:
        return {}

    def apply(self, state: dict[str, Decimal], event: Event) -> dict[str, Decimal]:
        raw = self.path.raw(event)
        key = self.by.key(event)
        if raw is not None and raw != b"null" and key is not None:
            state[key] = _EXACT.add(state.get(key, Decimal(0)), _number(raw))
        return state

    def dump(self, state: dict[str, Decimal]) -> bytes:
        return canonical({key: plain(value) for key, value in state.items()})

    def load(self, data: bytes) -> dict[str, Decimal]:
        return {key: Decimal(value) for key, value in json.loads(data).items()}


def plain(value: Decimal) -> str:
    """The one plain decimal notation of a number: no exponent, no trailing zeros, no negative zero."""
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _number(raw: bytes) -> Decimal:
    text = raw.decode()
    if text.startswith('"'):
        text = json.loads(text)
    try:
        value = Decimal(text)
    except ArithmeticError:
        value = Decimal("nan")
    if not value.is_finite() or len(text) > MAX_DIGITS or abs(value.adjusted()) > MAX_DIGITS:
        raise ProjectionError(f"{text[:60]} is not a number of at most {MAX_DIGITS} digits")
    return value


def _as_json(data: bytes) -> bytes:
    try:
        json.loads(data)
        return data
    except ValueError:
        import base64

        return b'{"base64":"' + base64.b64encode(data) + b'"}'
