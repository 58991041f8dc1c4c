"""Exact numbers out of JSON: whole multiples of a power of ten, as arrays."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

MAX_DIGITS = 1000
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")  # RFC 8259
_FITS = 18  # digits that an int64 holds, whatever they are


class Numbers(NamedTuple):
    """units: int64, or Python integers as objects where those are too small; the numbers are
    units / 10^scale."""

    units: Any
    scale: int

    def at(self, scale: int) -> Numbers:
        """The same numbers at a scale not smaller."""
        if scale == self.scale:
            return self
        factor = 10 ** (scale - self.scale)
        units = self.units
        if units.dtype != object and (factor >= 2**63 or (abs(units) > 2**63 // factor - 1).any()):
            units = units.astype(object)
        return Numbers(units * factor, scale)


class NotANumber(ValueError):
    """text: the JSON that is none; index: of the first such."""

    def __init__(self, index: int, text: str) -> None:
        super().__init__(f"{text[:60]} is not a number of at most {MAX_DIGITS} digits")
        self.index = index
        self.text = text


def numbers(texts: Any) -> Numbers:
    """The numbers that JSON texts are, or hold as strings: an Arrow array of binary. Raises NotANumber."""
    return short_numbers(texts) or _any(texts.to_pylist())


def short_numbers(texts: Any) -> Numbers | None:
    """The same where all are short and without quotes and exponents, as in nearly all events; else None."""
    lengths = pc.binary_length(texts).to_numpy()
    if not len(texts) or lengths.max() > _FITS:
        return None
    points = pc.find_substring(texts, b".").to_numpy()
    scale = int(np.where(points < 0, 0, lengths - points - 1).max())
    try:
        strings = texts.cast(pa.string())
        if scale == 0:
            return Numbers(strings.cast(pa.int64()).to_numpy(), 0)
        decimals = strings.cast(pa.decimal128(38, scale))
    except pa.ArrowInvalid:
        return None
    halves = np.frombuffer(decimals.buffers()[1], np.int64).reshape(-1, 2)  # low, high
    halves = halves[decimals.offset : decimals.offset + len(decimals)]
    return None if (halves[:, 0] >> 63 != halves[:, 1]).any() else Numbers(halves[:, 0], scale)


def _any(texts: Sequence[bytes]) -> Numbers:
    values = [_decimal(index, text.decode()) for index, text in enumerate(texts)]
    scale = max((-int(value.as_tuple().exponent) for value in values), default=0)
    scale = max(scale, 0)
    units = np.empty(len(values), object)
    units[:] = [_units(value, scale) for value in values]
    return Numbers(units, scale)


def _decimal(index: int, text: str) -> Decimal:
    written = text
    if text.startswith('"'):
        written = json.loads(text)
    if not _NUMBER.fullmatch(written) or len(written) > MAX_DIGITS:
        raise NotANumber(index, text)
    value = Decimal(written)
    if abs(value.adjusted()) > MAX_DIGITS:
        raise NotANumber(index, text)
    return value


def _units(value: Decimal, scale: int) -> int:
    sign, digits, exponent = value.as_tuple()
    units: int = int("".join(map(str, digits))) * 10 ** (int(exponent) + scale)
    return -units if sign else units
