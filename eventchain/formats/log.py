"""The Merkle log: an append-only tree over all leaves of a branch, kept as tiles.

Hashes and proofs: RFC 6962 section 2.1 and RFC 9162 sections 2.1.3 and 2.1.4. Tiles: C2SP tlog-tiles (256
wide, so level L of the tiles holds the tree's level 8·L). A node is named by its tree level and its index
in that level; a complete node at level k covers the leaves ``index·2^k`` to ``(index + 1)·2^k``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from eventchain.formats.hashing import hash_levels

Hashes = NDArray[np.uint8]
"""(n, 32) uint8"""
NodeReader = Callable[[int, int], bytes]
"""Gives the hash of the complete node at (level, index)."""

EMPTY_ROOT = hashlib.sha256(b"").digest()
TILE_LEVELS = 8


def node_hash(left: bytes, right: bytes) -> bytes:
    """``H(0x01 ‖ left ‖ right)``"""
    return hashlib.sha256(b"\x01" + left + right).digest()


def pair_up(hashes: Hashes) -> Hashes:
    """One level up: (2n, 32) uint8, or (n, 64), to (n, 32)."""
    nodes: Hashes = np.ascontiguousarray(hashes).reshape(-1, 32)
    return hash_levels(nodes, levels=1)[0] if len(nodes) else nodes


class Frontier:
    """What is needed of a log to append to it: the roots of its complete subtrees, one for each bit of its
    size. Everything else of the log lies in tiles.

    added: of each level, the nodes that the last leaves appended have completed
    """

    def __init__(self, size: int = 0, peaks: dict[int, bytes] | None = None) -> None:
        self.size = size
        self.added: list[Hashes] = []
        self._peaks = dict(peaks or {})  # level -> hash, present where the size has that bit

    @classmethod
    def read(cls, size: int, node: NodeReader) -> Frontier:
        """The frontier of a log of ``size`` leaves whose nodes can be read."""
        levels = [level for level in range(size.bit_length()) if size >> level & 1]
        return cls(size, {level: node(level, (size >> level) - 1) for level in levels})

    def append(self, leaves: Hashes) -> None:
        self.extend(leaves, ())

    def extend(self, leaves: Hashes, sizes: Sequence[int]) -> list[bytes]:
        """Append leaves, and give the log's root at each of these sizes on the way (rising, from the size
        before to the size after). One hashing call, whatever the number of sizes."""
        before, peaks = self.size, self._peaks
        self.size += len(leaves)
        rows = self.added = [leaves, *hash_levels(leaves, before, peaks)]
        self._peaks = {}
        for level in range(self.size.bit_length()):
            if self.size >> level & 1:
                new = level < len(rows) and len(rows[level])
                self._peaks[level] = rows[level][-1].tobytes() if new else peaks[level]

        if list(sizes) in ([], [self.size]):
            return [self.root() for _ in sizes]
        # The root of each size: its complete subtrees, from the smallest up. Those that were complete before
        # are the peaks.
        wanted = np.array(sizes, np.int64)
        roots = np.zeros((len(wanted), 32), np.uint8)
        begun = np.zeros(len(wanted), np.bool_)
        for level in range(self.size.bit_length()):
            has = np.flatnonzero(wanted >> level & 1)
            peak = np.frombuffer(peaks.get(level, bytes(32)), np.uint8).reshape(1, 32)
            nodes = np.concatenate([peak, *rows[level : level + 1]])[
                (wanted[has] >> level) - (before >> level)
            ]
            over = begun[has]
            if over.any():
                pairs = np.concatenate([nodes[over], roots[has[over]]], axis=1)
                roots[has[over]] = pair_up(pairs.reshape(-1, 32))
            roots[has[~over]] = nodes[~over]
            begun[has] = True
        return [root.tobytes() if size else EMPTY_ROOT for root, size in zip(roots, sizes, strict=True)]

    def root(self) -> bytes:
        """The log's root now (RFC 6962 MTH)."""
        return _fold(self._peaks)


def _fold(peaks: dict[int, bytes]) -> bytes:
    """The root over complete subtrees of these levels, from the smallest up."""
    root: bytes | None = None
    for level in sorted(peaks):
        root = peaks[level] if root is None else node_hash(peaks[level], root)
    return EMPTY_ROOT if root is None else root


def root_of(leaves: Hashes) -> bytes:
    """The root over just these leaves."""
    return roots_of(leaves, [len(leaves)])[0]


def roots_of(leaves: Hashes, counts: Sequence[int]) -> list[bytes]:
    """The roots over each of several runs of leaves that lie end to end, ``counts`` long.

    Runs of one length are hashed together, one call a level: a lone last node goes up a level unpaired,
    which is RFC 6962's tree.
    """
    ends = np.cumsum(counts, dtype=np.int64)
    roots = [EMPTY_ROOT] * len(counts)
    for count in set(counts) - {0}:
        same = [number for number, length in enumerate(counts) if length == count]
        first = ends[same] - count
        rows = leaves[(first[:, None] + np.arange(count)).reshape(-1)].reshape(len(same), count, 32)
        while rows.shape[1] > 1:
            pairs = rows.shape[1] // 2
            above = pair_up(rows[:, : 2 * pairs].reshape(-1, 32)).reshape(len(same), pairs, 32)
            lone = rows[:, 2 * pairs :]
            rows = np.concatenate([above, lone], axis=1) if lone.shape[1] else above
        for number, root in zip(same, rows, strict=True):
            roots[number] = root.tobytes()
    return roots


def tile_roots(tiles: Hashes) -> Hashes:
    """The roots of n full tiles laid end to end: (256·n, 32) uint8 to (n, 32)."""
    return hash_levels(tiles, levels=TILE_LEVELS)[-1] if len(tiles) else tiles


def range_root(first: int, end: int, node: NodeReader) -> bytes:
    """The root over leaves ``first`` to ``end`` (RFC 6962 MTH), read from complete nodes.

    ``first`` is a multiple of the largest power of two below the count, as in every range of a proof.
    """
    if first == end:
        return EMPTY_ROOT
    count = end - first
    if count & (count - 1) == 0:
        level = count.bit_length() - 1
        return node(level, first >> level)
    split = first + _split(count)
    return node_hash(range_root(first, split, node), range_root(split, end, node))


def _split(count: int) -> int:
    """The largest power of two smaller than ``count`` (2 or more)."""
    return 1 << (count - 1).bit_length() - 1


# -- proofs -------------------------------------------------------------------------------------------


def inclusion_proof(index: int, size: int, node: NodeReader) -> list[bytes]:
    """The audit path of leaf ``index`` in the log of ``size`` leaves, nearest hash first (RFC 6962 2.1.1)."""
    if not 0 <= index < size:
        raise ValueError(f"no leaf {index} in a log of {size}")
    path: list[bytes] = []
    first, end = 0, size
    while end - first > 1:
        split = first + _split(end - first)
        if index < split:
            path.append(range_root(split, end, node))
            end = split
        else:
            path.append(range_root(first, split, node))
            first = split
    return path[::-1]


def root_from_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """The root that the audit path leads to, or None for a path that cannot belong to this place
    (RFC 9162 2.1.3.2)."""
    if not 0 <= index < size:
        return None
    node, last, root = index, size - 1, leaf
    for step in path:
        if last == 0:
            return None
        if node & 1 or node == last:
            root = node_hash(step, root)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            root = node_hash(root, step)
        node, last = node >> 1, last >> 1
    return root if last == 0 else None


def consistency_proof(old: int, new: int, node: NodeReader) -> list[bytes]:
    """Proof that the log of ``old`` leaves is a prefix of the one of ``new`` (RFC 6962 2.1.2)."""
    if not 0 < old <= new:
        raise ValueError(f"no consistency proof from size {old} to {new}")
    path: list[bytes] = []
    first, end, whole = 0, new, True
    while old != end:
        split = first + _split(end - first)
        if old <= split:
            path.append(range_root(split, end, node))
            end = split
        else:
            path.append(range_root(first, split, node))
            first, whole = split, False
    if not whole:
        path.append(range_root(first, end, node))
    return path[::-1]


def is_consistent(old: int, new: int, old_root: bytes, new_root: bytes, path: Sequence[bytes]) -> bool:
    """Whether the proof shows that one log extends the other (RFC 9162 2.1.4.2)."""
    if old == new:
        return not path and old_root == new_root
    if not 0 < old < new:
        return False
    steps = list(path)
    if old & (old - 1) == 0:
        steps.insert(0, old_root)
    if not steps:
        return False
    node, last = old - 1, new - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    seen_old = seen_new = steps[0]
    for step in steps[1:]:
        if last == 0:
            return False
        if node & 1 or node == last:
            seen_old, seen_new = node_hash(step, seen_old), node_hash(step, seen_new)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            seen_new = node_hash(seen_new, step)
        node, last = node >> 1, last >> 1
    return last == 0 and seen_old == old_root and seen_new == new_root
