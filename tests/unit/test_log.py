"""The Merkle log: roots, frontiers, tiles and proofs, held against RFC 6962 as it is written."""

from __future__ import annotations

import hashlib
from itertools import pairwise

import numpy as np
import plain_format as plain
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventchain.formats.log import (
    EMPTY_ROOT,
    Frontier,
    consistency_proof,
    inclusion_proof,
    is_consistent,
    node_hash,
    pair_up,
    range_root,
    root_from_inclusion,
    root_of,
    roots_of,
    tile_roots,
)

# The eight leaves that Certificate Transparency's own tests use, with their published roots and proofs
# (certificate-transparency, merkletree tests).
CT_INPUTS = [
    "",
    "00",
    "10",
    "2021",
    "3031",
    "40414243",
    "5051525354555657",
    "606162636465666768696a6b6c6d6e6f",
]
CT_LEAVES = [hashlib.sha256(b"\0" + bytes.fromhex(text)).digest() for text in CT_INPUTS]
CT_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
CT_INCLUSION = [  # index, size, path
    (0, 1, []),
    (
        0,
        8,
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        5,
        8,
        [
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (2, 3, ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]),
    (
        1,
        5,
        [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
]
CT_CONSISTENCY = [  # old, new, path
    (1, 1, []),
    (
        1,
        8,
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        6,
        8,
        [
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (
        2,
        5,
        [
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
]


def hashes_of(leaves):
    return np.frombuffer(b"".join(leaves), np.uint8).reshape(-1, 32)


def made_up(count):
    return [hashlib.sha256(i.to_bytes(4, "big")).digest() for i in range(count)]


LEAVES = made_up(1200)


def reader(leaves):
    """Nodes of a log, each computed anew."""

    def node(level, index):
        covered = leaves[index << level : (index + 1) << level]
        assert len(covered) == 1 << level, "a node that is not complete was asked for"
        return plain.mth(covered)

    return node


# -- roots


def test_published_roots():
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert root_of(np.empty((0, 32), np.uint8)) == EMPTY_ROOT == Frontier().root()
    frontier = Frontier()
    for size, root in enumerate(CT_ROOTS, 1):
        frontier.append(hashes_of(CT_LEAVES[size - 1 : size]))
        assert frontier.size == size
        assert frontier.root().hex() == root
        assert root_of(hashes_of(CT_LEAVES[:size])).hex() == root
        assert range_root(0, size, reader(CT_LEAVES)).hex() == root


@pytest.mark.parametrize("size", [*range(70), 255, 256, 257, 511, 513, 1023, 1024, 1025, 1200])
def test_root_of_every_size(size):
    assert root_of(hashes_of(LEAVES[:size])) == plain.mth(LEAVES[:size])
    assert range_root(0, size, reader(LEAVES)) == plain.mth(LEAVES[:size])


@given(st.lists(st.integers(0, 300), max_size=8))
def test_appended_in_any_chunks(chunks):
    frontier, size = Frontier(), 0
    for chunk in chunks:
        if size + chunk > len(LEAVES):
            return
        frontier.append(hashes_of(LEAVES[size : size + chunk]))
        size += chunk
        assert frontier.size == size
        assert frontier.root() == root_of(hashes_of(LEAVES[:size]))
    assert frontier.root() == plain.mth(LEAVES[:size])


@given(st.integers(0, 600), st.integers(0, 600))
def test_a_frontier_read_back_goes_on(size, more):
    frontier = Frontier.read(size, reader(LEAVES))
    assert frontier.size == size
    assert frontier.root() == plain.mth(LEAVES[:size])
    frontier.append(hashes_of(LEAVES[size : size + more]))
    assert frontier.root() == plain.mth(LEAVES[: size + more])


def test_appending_leaves_the_leaves_alone():
    leaves = hashes_of(LEAVES[:7]).copy()
    root_of(leaves)
    assert leaves.tobytes() == b"".join(LEAVES[:7])


def test_nodes_and_tiles():
    assert node_hash(b"a" * 32, b"b" * 32) == plain.sha256(b"\x01" + b"a" * 32 + b"b" * 32)
    pairs = pair_up(hashes_of(LEAVES[:6]))
    assert [row.tobytes() for row in pairs] == [plain.mth(LEAVES[i : i + 2]) for i in (0, 2, 4)]
    every_second = np.repeat(hashes_of(LEAVES[:4]), 2, axis=0)[::2]
    assert pair_up(every_second).tobytes() == pairs[:2].tobytes()
    roots = tile_roots(hashes_of(LEAVES[:1024]))
    assert [row.tobytes() for row in roots] == [plain.mth(LEAVES[i : i + 256]) for i in range(0, 1024, 256)]
    assert tile_roots(np.empty((0, 32), np.uint8)).shape == (0, 32)


# -- inclusion


@pytest.mark.parametrize(("index", "size", "path"), CT_INCLUSION)
def test_published_inclusion(index, size, path):
    found = inclusion_proof(index, size, reader(CT_LEAVES))
    assert [step.hex() for step in found] == path
    assert root_from_inclusion(CT_LEAVES[index], index, size, found).hex() == CT_ROOTS[size - 1]


@pytest.mark.parametrize("size", range(1, 71))
def test_inclusion_of_every_leaf(size):
    leaves = LEAVES[:size]
    root, node = plain.mth(leaves), reader(leaves)
    for index in range(size):
        path = inclusion_proof(index, size, node)
        assert path == plain.path(index, leaves)
        assert root_from_inclusion(leaves[index], index, size, path) == root


@given(st.data())
@settings(max_examples=40)
def test_inclusion_in_larger_logs_and_what_must_fail(data):
    size = data.draw(st.integers(2, 1200))
    index = data.draw(st.integers(0, size - 1))
    leaves = LEAVES[:size]
    root = plain.mth(leaves)
    path = inclusion_proof(index, size, reader(leaves))
    assert path == plain.path(index, leaves)
    assert root_from_inclusion(leaves[index], index, size, path) == root

    def fails(leaf=leaves[index], index=index, size=size, path=path):
        return root_from_inclusion(leaf, index, size, path) != root

    at = data.draw(st.integers(0, len(path) - 1))
    assert fails(path=[*path[:at], flipped(data, path[at]), *path[at + 1 :]])
    assert fails(leaf=flipped(data, leaves[index]))
    assert fails(path=path[:at] + path[at + 1 :])
    assert fails(path=[*path[:at], data.draw(st.sampled_from(LEAVES)), *path[at:]])
    assert fails(path=[*path, bytes(32)])
    other = data.draw(st.integers(-2, size + 2).filter(lambda other: other != index))
    assert fails(index=other)


@pytest.mark.parametrize("size", range(1, 40))
def test_a_path_is_for_one_index_only(size):
    leaves = LEAVES[:size]
    root, node = plain.mth(leaves), reader(leaves)
    for index in range(size):
        path = inclusion_proof(index, size, node)
        for other in range(-1, size + 2):
            if other != index:
                assert root_from_inclusion(leaves[index], other, size, path) != root


@pytest.mark.parametrize(("index", "size"), [(-1, 5), (5, 5), (0, 0), (7, 2)])
def test_no_proof_outside_the_log(index, size):
    assert root_from_inclusion(bytes(32), index, size, []) is None
    with pytest.raises(ValueError, match="no leaf"):
        inclusion_proof(index, size, reader(LEAVES))


# -- consistency


@pytest.mark.parametrize(("old", "new", "path"), CT_CONSISTENCY)
def test_published_consistency(old, new, path):
    found = consistency_proof(old, new, reader(CT_LEAVES))
    assert [step.hex() for step in found] == path
    assert is_consistent(old, new, *map(bytes.fromhex, (CT_ROOTS[old - 1], CT_ROOTS[new - 1])), found)


@pytest.mark.parametrize("new", range(1, 41))
def test_consistency_of_every_pair(new):
    node = reader(LEAVES[:new])
    root = plain.mth(LEAVES[:new])
    for old in range(1, new + 1):
        old_root = plain.mth(LEAVES[:old])
        path = consistency_proof(old, new, node)
        assert path == plain.proof(old, LEAVES[:new])
        assert is_consistent(old, new, old_root, root, path)
        assert not is_consistent(old, new, root if old < new else bytes(32), root, path)
        assert not is_consistent(old, new, old_root, bytes(32), path)
        assert not is_consistent(old, new, old_root, root, [*path, bytes(32)])
        for other in range(1, new):
            if other != old:
                assert not is_consistent(other, new, old_root, root, path)


@given(st.data())
@settings(max_examples=40)
def test_consistency_in_larger_logs_and_what_must_fail(data):
    new = data.draw(st.integers(2, 1200))
    old = data.draw(st.integers(1, new - 1))
    roots = plain.mth(LEAVES[:old]), plain.mth(LEAVES[:new])
    path = consistency_proof(old, new, reader(LEAVES[:new]))
    assert path == plain.proof(old, LEAVES[:new])
    assert is_consistent(old, new, *roots, path)
    at = data.draw(st.integers(0, len(path) - 1))
    assert not is_consistent(old, new, *roots, [*path[:at], flipped(data, path[at]), *path[at + 1 :]])
    assert not is_consistent(old, new, *roots, path[:at] + path[at + 1 :])
    assert not is_consistent(old, new, *roots, [*path[:at], data.draw(st.sampled_from(LEAVES)), *path[at:]])
    assert not is_consistent(old, new, flipped(data, roots[0]), roots[1], path)
    assert not is_consistent(old, new, roots[0], flipped(data, roots[1]), path)
    assert not is_consistent(new, old, roots[1], roots[0], path)


def test_consistency_of_equal_and_empty_logs():
    root = plain.mth(LEAVES[:5])
    assert consistency_proof(5, 5, reader(LEAVES)) == []
    assert is_consistent(5, 5, root, root, [])
    assert not is_consistent(5, 5, root, root, [root])
    assert not is_consistent(0, 5, EMPTY_ROOT, root, [])
    assert not is_consistent(-1, 5, root, root, [root])
    assert not is_consistent(3, 5, root, root, [])
    for old, new in [(0, 5), (6, 5), (-1, 2)]:
        with pytest.raises(ValueError, match="no consistency proof"):
            consistency_proof(old, new, reader(LEAVES))


def flipped(data, digest):
    bit = data.draw(st.integers(0, 255))
    return (int.from_bytes(digest, "big") ^ 1 << bit).to_bytes(32, "big")


# -- many roots at once


@given(st.integers(0, 400), st.lists(st.integers(0, 60), max_size=12), st.data())
def test_roots_on_the_way(before, steps, data):
    """The log's root at any rising sizes from the size before to the size after."""
    after = before + sum(steps)
    frontier = Frontier.read(before, reader(LEAVES))
    sizes = sorted(data.draw(st.lists(st.integers(before, after), max_size=6)))
    roots = frontier.extend(hashes_of(LEAVES[before:after]), sizes)
    assert roots == [plain.mth(LEAVES[:size]) for size in sizes]
    assert (frontier.size, frontier.root()) == (after, plain.mth(LEAVES[:after]))
    for level, nodes in enumerate(frontier.added):
        places = range(before >> level, after >> level)
        assert [bytes(node) for node in nodes] == [
            plain.mth(LEAVES[place << level : (place + 1) << level]) for place in places
        ]


@given(st.lists(st.sampled_from([0, 1, 2, 3, 5, 16, 31]) | st.integers(0, 130), max_size=9))
def test_roots_of_runs(counts):
    ends = np.cumsum([0, *counts]).tolist()
    runs = [LEAVES[first:end] for first, end in pairwise(ends)]
    assert roots_of(hashes_of(LEAVES[: ends[-1]]), counts) == [plain.mth(run) for run in runs]
