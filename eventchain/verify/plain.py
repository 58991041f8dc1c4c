"""Runs of plain blocks, many at a time: mined, in order, and saying no more than every block must.

Nearly all blocks of a chain are like that, and nothing needs to be said of them. Whatever is not in order
by these columns is walked again block by block, which decides: what is read here can only save time.
"""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from eventchain.contracts.chain_store import Blocks
from eventchain.formats import header as fmt
from eventchain.formats.hashing import equal_rows
from eventchain.formats.log import Hashes
from eventchain.formats.policy import Policy
from eventchain.verify.headers import Derived

_NUMBER = rb"(0|[1-9][0-9]{0,17})"
_DIGEST = rb"([A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=)"  # the one spelling of 32 bytes
_LINES = (rb"%s\n([1-9][0-9]{0,17})\n%b\nheight %b\nleaves %b\nposition %b\nbuilt %b\nsealed %b %b\n") % (
    b"%s",
    _DIGEST,
    _NUMBER,
    _DIGEST,
    _NUMBER,
    _NUMBER,
    _NUMBER,
    _DIGEST,
)
_SIX_BITS = np.zeros(256, np.uint8)
_SIX_BITS[np.frombuffer(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", np.uint8)] = (
    np.arange(64)
)


class Said(NamedTuple):
    """What the manifests of n rows say. ``plain``: (n,) bool, whether a row's is plain; where not, it is zero
    in all others: (n,) int64, digests (n, 32) uint8."""

    plain: NDArray[np.bool_]
    size: NDArray[np.int64]
    root: Hashes
    height: NDArray[np.int64]
    leaves: Hashes
    position: NDArray[np.int64]
    built: NDArray[np.int64]
    named: NDArray[np.int64]
    seal: Hashes


def read(origin: str, manifests: list[bytes]) -> Said:
    """What plain manifests of this origin say: those that the strict parser would read as nothing else."""
    matches = list(map(_pattern(origin).fullmatch, manifests))
    plain = np.array([match is not None for match in matches], np.bool_)
    groups = zip(*(match.groups() for match in matches if match is not None), strict=True)
    columns: list[NDArray[np.generic]] = []
    for kind, found in zip((0, 1, 0, 1, 0, 0, 0, 1), list(groups) or [()] * 8, strict=True):
        values = _digests(b"".join(found)) if kind else np.array(list(map(int, found)), np.int64)
        column = np.zeros((len(plain), *values.shape[1:]), values.dtype)
        column[plain] = values
        columns.append(column)
    return Said(plain, *columns)  # type: ignore[arg-type]  # numbers and digests, in this order


@cache
def _pattern(origin: str) -> re.Pattern[bytes]:
    return re.compile(_LINES % re.escape(origin.encode()))


def _digests(text: bytes) -> Hashes:
    """Digests of 44 letters each, (n, 32) uint8."""
    six = _SIX_BITS[np.frombuffer(text, np.uint8)].reshape(-1, 11, 4)
    raw = np.empty((len(six), 11, 3), np.uint8)
    for byte, up, down in ((0, 2, 4), (1, 4, 2), (2, 6, 0)):
        raw[:, :, byte] = six[:, :, byte] << up | six[:, :, byte + 1] >> down
    return raw.reshape(-1, 33)[:, :32]


def in_order(rows: Blocks, found: Derived, said: Said, latest: float) -> NDArray[np.bool_]:
    """Whether each row is in order by itself and after the row before it, if that is: (n,) bool, false for
    the first. ``latest``: unix seconds that no time may be beyond."""
    headers, time = rows.headers, rows.headers["time"].astype(np.int64)
    own = said.plain & found.fits & found.met & (said.height == rows.heights) & (said.named < said.height)
    own &= headers["version"] & np.uint32(0xFFFFFFFF ^ fmt.ROLL_MASK) == fmt.VERSION
    own &= (time > 0) & (time >= said.built) & (time <= latest) & (said.built <= latest)
    after: NDArray[np.bool_] = own & np.roll(said.plain, 1)
    after[:1] = False
    grows = np.diff(said.size, prepend=0) > 0
    after &= np.diff(said.height, prepend=0) == 1
    after &= np.where(grows, np.diff(said.position, prepend=0) >= 0, np.diff(said.position, prepend=0) == 0)
    for column in (said.size, said.built, said.named):
        after &= np.diff(column, prepend=0) >= 0
    after[1:] &= equal_rows(headers["prev"][1:], found.links[:-1])
    return after


def allowed(
    policy: Policy, bits: NDArray[np.uint32], size: NDArray[np.int64], ahead: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Whether the policy allows each block: (n,) bool. size: (n + 1,), of the log before the first block and
    after each; ahead: (n,), how far each is ahead of the sealed block that it names."""
    distinct, where = np.unique(bits, return_inverse=True)
    easiest = fmt.target_of(policy.bits)
    hard = np.array([fmt.target_of(one) <= easiest for one in distinct.tolist()], np.bool_)
    fine: NDArray[np.bool_] = (
        hard[where.reshape(-1)] & (np.diff(size) <= policy.events) & (ahead <= policy.lag)
    )
    return fine
