"""Blocks kept in columns: what goes in comes out."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventchain.errors import FormatError
from eventchain.formats.manifest import Manifest, Sealed
from eventchain.verify.plain import read
from eventchain.verify.walk import Block, BlockTable, Plain

DIGEST = st.binary(min_size=32, max_size=32)
NUMBER = st.integers(0, 10**18 - 1)
LARGE = st.integers(0, 2**63 - 1)
ORIGIN = "example.com/orders"


def manifests(number):
    return st.builds(
        Manifest,
        origin=st.sampled_from([ORIGIN, "example.com/orders.", "example.com/orders/x", "exampleXcom/orders"]),
        size=number,
        root=DIGEST,
        height=number,
        leaves=DIGEST,
        built=number,
        position=st.none() | number,
        late=st.integers(0, 1),
        sealed=st.none() | st.builds(Sealed, number, DIGEST),
    )


@given(st.lists(st.tuples(manifests(NUMBER | LARGE), st.binary(max_size=3)), max_size=8))
def test_plain_manifests_are_read_as_by_the_strict_parser(drawn):
    raws = [bytes(manifest) + more for manifest, more in drawn]
    said = read(ORIGIN, raws)
    for row, ((manifest, more), raw) in enumerate(zip(drawn, raws, strict=True)):
        numbers = [manifest.size, manifest.height, manifest.position, manifest.built]
        numbers += [manifest.sealed.height if manifest.sealed else None]
        plain = manifest.origin == ORIGIN and not manifest.late and not more and manifest.size
        plain = plain and all(number is not None and number < 10**18 for number in numbers)
        assert said.plain[row] == bool(plain)
        if plain:
            columns = said.size, said.height, said.position, said.built, said.named
            assert [int(column[row]) for column in columns] == numbers
            digests = (said.root[row].tobytes(), said.leaves[row].tobytes(), said.seal[row].tobytes())
            assert digests == (manifest.root, manifest.leaves, manifest.sealed.seal)
            assert Manifest.parse(raw) == manifest


@pytest.mark.parametrize("last", "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=")
def test_only_one_spelling_of_a_digest(last):
    manifest = Manifest(ORIGIN, 1, bytes(32), 1, bytes(32), 0, 0, sealed=Sealed(0, bytes(32)))
    raw = bytes(manifest).replace(b"A=\nheight", last.encode() + b"=\nheight")
    try:
        Manifest.parse(raw)
    except FormatError:
        assert not read(ORIGIN, [raw]).plain[0]
    else:
        assert read(ORIGIN, [raw]).plain[0]


@given(
    st.lists(
        st.tuples(
            st.none() | manifests(LARGE), DIGEST, st.none() | DIGEST, st.booleans(), st.booleans(), LARGE
        ),
        max_size=70,
    )
)
def test_blocks_one_by_one(drawn):
    table, blocks, end = BlockTable(ORIGIN), [], 0
    for height, (said, link, seal, vague, broken, more) in enumerate(drawn):
        first, end = end, max(end, min(end + more, 2**63 - 1))
        blocks.append(Block(3 * height, said, link, broken, seal, first, end, vague, broken))
        table.append(blocks[-1])
    assert list(table) == blocks == list(table.spoken()) == table[:]
    assert [table.row_of(height) for height in range(3 * len(blocks))] == [
        height // 3 if height % 3 == 0 else -1 for height in range(3 * len(blocks))
    ]


def test_a_run_of_plain_blocks():
    table = BlockTable(ORIGIN)
    genesis = Manifest(ORIGIN, 0, bytes(32), 0, bytes(32), 5)
    table.append(Block(0, genesis, b"l" * 32, True, b"s" * 32))
    count = 100
    numbers = np.arange(1, count + 1)
    digests = {
        name: np.frombuffer(b"".join(bytes([n]) + name[:1].encode() * 31 for n in numbers), np.uint8)
        for name in ("root", "leaves", "link", "seal")
    }
    table.extend(
        Plain(
            height=numbers,
            size=2 * numbers,
            position=3 * numbers,
            built=4 * numbers,
            named=numbers - 1,
            **{name: column.reshape(-1, 32) for name, column in digests.items()},
        ),
        ORIGIN,
    )
    assert len(table) == count + 1
    assert table[0].said == genesis
    block = table[-1]
    said = Manifest(
        ORIGIN,
        200,
        b"\x64" + b"r" * 31,
        100,
        b"\x64" + b"l" * 31,
        400,
        300,
        sealed=Sealed(99, b"\x63" + b"s" * 31),
    )
    expected = Block(100, said, b"\x64" + b"l" * 31, True, b"\x64" + b"s" * 31, 198, 200)
    assert block == expected
    assert list(table.spoken()) == [table[0]]
    table.cap(150)
    assert table[-1] == dataclasses.replace(expected, first=150, end=150)
