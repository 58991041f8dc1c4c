"""The record of an erasure: which events were erased, why and by whom. It is the ``data`` of an event on the
branch ``<origin>/erasures``, and holds nothing of what was erased.

RFC 8785 JSON with the keys ``actor``, ``mode``, ``origin``, ``positions`` and ``reason``, all of them text
but ``positions``: ranges ``[first, last]`` in decimal text, since JSON numbers fail above 2^53. That of a
removal also has ``height`` (decimal text), ``link`` and ``seal`` (base64) of the old sealed head, and
``rebuilt`` and ``closed``: lists of the origins of branches, sorted. A record that does not print back to its
own bytes is invalid.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eventchain.errors import FormatError
from eventchain.formats.event import MAX_POSITION
from eventchain.formats.manifest import (
    base_origin,
    check_origin,
    decode_digest,
    encode_digest,
    parse_number,
)

BRANCH = "erasures"
"""The last part of the branch's origin."""
TYPE = "eventchain.erasure"
ERASED = "erased"
"""The payloads and salts are gone, the rows and leaves stay."""
REMOVED = "removed"
"""The events left the log altogether, and everything from their block on was mined anew."""
KEYS = ["actor", "mode", "origin", "positions", "reason"]
REMOVAL_KEYS = sorted([*KEYS, "closed", "height", "link", "rebuilt", "seal"])


@dataclass(frozen=True, slots=True)
class Removal:
    """height, link, seal: of the sealed head of the incarnation that was replaced; rebuilt, closed: origins
    of the branches that forked from or pinned what was replaced."""

    height: int
    link: bytes
    seal: bytes
    rebuilt: tuple[str, ...] = ()
    closed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Erasure:
    """origin: of the branch whose positions these are; ranges: rising, ``(first, last)``, both counted;
    removal: where the events left the log."""

    origin: str
    ranges: tuple[tuple[int, int], ...]
    reason: str
    actor: str
    removal: Removal | None = None

    def __bytes__(self) -> bytes:
        """The one spelling. Raises FormatError for text that is not Unicode."""
        told: dict[str, Any] = {
            "actor": self.actor,
            "mode": ERASED if self.removal is None else REMOVED,
            "origin": self.origin,
            "positions": [[str(first), str(last)] for first, last in self.ranges],
            "reason": self.reason,
        }
        if self.removal is not None:
            told |= {
                "closed": list(self.removal.closed),
                "height": str(self.removal.height),
                "link": encode_digest(self.removal.link),
                "rebuilt": list(self.removal.rebuilt),
                "seal": encode_digest(self.removal.seal),
            }
        # RFC 8785 for text and arrays is what Python prints: ASCII keys sort alike in UTF-8 and UTF-16.
        try:
            return json.dumps(told, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
        except UnicodeEncodeError as error:
            raise FormatError("the text of an erasure record has lone surrogates") from error

    @classmethod
    def parse(cls, raw: bytes) -> Erasure:
        """Raises FormatError for anything that does not print back to the same bytes."""
        try:
            told = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise FormatError("an erasure record that is no JSON") from error
        removed = isinstance(told, dict) and told.get("mode") == REMOVED
        keys = REMOVAL_KEYS if removed else KEYS
        if not isinstance(told, dict) or list(told) != keys:
            raise FormatError(f"an erasure record has the keys {', '.join(keys)}")
        lists = ("positions", "rebuilt", "closed")
        if not all(isinstance(told[key], str) for key in keys if key not in lists):
            raise FormatError("an erasure record with a value that is not text")
        if told["mode"] not in (ERASED, REMOVED):
            raise FormatError(f"an erasure record of the unknown mode {told['mode'][:40]!r}")
        record = cls(
            check_origin(told["origin"]),
            _ranges(told["positions"]),
            told["reason"],
            told["actor"],
            _removal(told) if removed else None,
        )
        if bytes(record) != raw:
            raise FormatError("an erasure record that does not print back to its own bytes")
        return record

    @property
    def count(self) -> int:
        """How many events it says were erased."""
        return sum(last - first + 1 for first, last in self.ranges)

    @property
    def positions(self) -> NDArray[np.int64]:
        """All of them, rising: (n,)."""
        return np.concatenate([np.arange(first, last + 1) for first, last in self.ranges])

    def covers(self, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each position (n,) is one of the record's: (n,)."""
        firsts, lasts = np.array(self.ranges, np.int64).T
        at = np.searchsorted(firsts, positions, side="right") - 1
        found: NDArray[np.bool_] = (at >= 0) & (positions <= lasts[at])
        return found


def _removal(told: dict[str, Any]) -> Removal:
    return Removal(
        parse_number(told["height"]),
        decode_digest(told["link"]),
        decode_digest(told["seal"]),
        _origins(told["rebuilt"]),
        _origins(told["closed"]),
    )


def _origins(told: Any) -> tuple[str, ...]:
    if not isinstance(told, list) or not all(isinstance(origin, str) for origin in told):
        raise FormatError("an erasure record whose branches are no list of text")
    origins = tuple(map(check_origin, told))
    if list(origins) != sorted(set(origins)):
        raise FormatError("an erasure record whose branches are not sorted, each once")
    return origins


def branch_of(origin: str) -> str:
    """The origin of the branch that holds the records of a chain."""
    return f"{base_origin(origin)}/{BRANCH}"


def ranges_of(positions: NDArray[np.int64]) -> tuple[tuple[int, int], ...]:
    """Rising positions (n,) as ranges; neighbours belong together."""
    cuts = np.flatnonzero(np.diff(positions) != 1) + 1
    firsts = positions[np.concatenate([np.zeros(1, np.int64), cuts])]
    lasts = positions[np.concatenate([cuts - 1, np.full(1, len(positions) - 1)])]
    return tuple(zip(firsts.tolist(), lasts.tolist(), strict=True))


def _ranges(told: Any) -> tuple[tuple[int, int], ...]:
    if not isinstance(told, list) or not told:
        raise FormatError("an erasure record without positions")
    ranges = []
    before = -2
    for pair in told:
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(end, str) for end in pair)):
            raise FormatError("an erasure record whose positions are no pairs of text")
        first, last = map(parse_number, pair)
        if not before + 1 < first <= last <= MAX_POSITION:
            raise FormatError("an erasure record whose ranges do not rise, or could be one")
        ranges.append((first, last))
        before = last
    return tuple(ranges)
