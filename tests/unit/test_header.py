"""Headers: targets, work, links and seals, with Bitcoin's own blocks as known answers."""

from __future__ import annotations

import struct
from fractions import Fraction

import numpy as np
import plain_format as plain
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventchain.errors import FormatError
from eventchain.formats import header as header_format
from eventchain.formats.header import (
    HEADER,
    MAX_EXTRANONCE,
    ROLL_MASK,
    VERSION,
    ZERO,
    are_targets,
    at_most,
    bits_for_difficulty,
    bits_of,
    header_hashes,
    link_of,
    links_of,
    meets_target,
    merkle_root,
    merkle_roots,
    seal_of,
    seals_of,
    sha256,
    sha256d,
    target_of,
    target_words,
    unmined,
    with_counters,
    work_of,
)

GENESIS = bytes.fromhex(  # Bitcoin's first block
    "01000000"
    "0000000000000000000000000000000000000000000000000000000000000000"
    "3ba3edfd7a7b12b27ac72c3e67768f617fc81bc3888a51323a9fb8aa4b1e5e4a"
    "29ab5f49ffff001d1dac2b7c"
)
GENESIS_HASH = "000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f"
BLOCK_1 = bytes.fromhex(
    "01000000"
    "6fe28c0ab6f1b372c1a6a246ae63f74f931e8365e15a089c68d6190000000000"
    "982051fd1e4ba744bbbe680e1fee14677ba1a3c3540bf7b1cdb606e857233e0e"
    "61bc6649ffff001d01e36299"
)
BLOCK_1_HASH = "00000000839a8e6886ab5951d76f411475428afc90947ee320161bbf18eb6048"
BLOCK_125552 = bytes.fromhex(
    "01000000"
    "81cd02ab7e569e8bcd9317e2fe99f2de44d49ab2b8851ba4a308000000000000"
    "e320b6c2fffc8d750423db8b1eb942ae710e951ed797f7affc8892b0f1fc122b"
    "c7f5d74df2b9441a42a14695"
)
BLOCK_125552_HASH = "00000000000000001e8d6829a8a21adc5d38d0a473b144b6765798e61f98bd1d"
BITCOIN = [(GENESIS, GENESIS_HASH), (BLOCK_1, BLOCK_1_HASH), (BLOCK_125552, BLOCK_125552_HASH)]


def headers_of(*raw):
    return np.frombuffer(b"".join(raw), HEADER)


# -- layout


def test_the_layout_is_bitcoins():
    assert HEADER.itemsize == 80
    header = headers_of(GENESIS)[0]
    assert (header["version"], header["time"], header["bits"]) == (1, 1231006505, 0x1D00FFFF)
    assert header["nonce"] == 2083236893
    assert header["merkle_root"].tobytes() == GENESIS[36:68]
    assert headers_of(BLOCK_1)["prev"][0].tobytes() == sha256d(GENESIS)
    assert header.tobytes() == GENESIS


@given(st.binary(min_size=80, max_size=80))
def test_digests_keep_their_trailing_zeros(raw):
    raw = raw[:30] + bytes(6) + raw[36:62] + bytes(6) + raw[68:]
    header = headers_of(raw)[0]
    version, prev, root, time, bits, nonce = struct.unpack("<I32s32sIII", raw)
    assert (header["version"], header["time"], header["bits"], header["nonce"]) == (
        version,
        time,
        bits,
        nonce,
    )
    assert (header["prev"].tobytes(), header["merkle_root"].tobytes()) == (prev, root)


@pytest.mark.parametrize(("raw", "shown"), BITCOIN)
def test_bitcoin_blocks(raw, shown):
    assert header_hashes(headers_of(raw)).tobytes()[::-1].hex() == shown  # Bitcoin shows them reversed
    assert meets_target(headers_of(raw)).tolist() == [True]
    nonce = (int.from_bytes(raw[76:], "little") + 1) % 2**32
    assert meets_target(headers_of(raw[:76] + nonce.to_bytes(4, "little"))).tolist() == [False]


# -- targets

KNOWN_TARGETS = [
    (0x1D00FFFF, 0xFFFF << 208),
    (0x1B0404CB, 0x00000000000404CB000000000000000000000000000000000000000000000000),
    (0x207FFFFF, 0x7FFFFF << 232),
    (0x2100FFFF, 0xFFFF << 240),  # the largest of 256 bits
    (0x1E00FFFF, 0xFFFF << 216),
    (0x03123456, 0x123456),
    (0x04123456, 0x12345600),
    (0x02123400, 0x1234),
    (0x01120000, 0x12),
    (0x01010000, 1),  # the smallest
    (0x02008000, 0x80),
    (0x0300FFFF, 0xFFFF),
]


@pytest.mark.parametrize(("bits", "target"), KNOWN_TARGETS)
def test_known_targets(bits, target):
    assert target_of(bits) == target == plain.target(bits)
    assert bits_of(target) == bits
    assert target_words(np.array([bits], np.uint32)).tobytes() == target.to_bytes(32, "little")


@pytest.mark.parametrize(
    "bits",
    [
        0x00000000,  # zero
        0x1D000000,
        0x00FFFFFF,  # shifted out
        0x00123456,
        0x01003456,
        0x1D800000,  # negative
        0x04923456,
        0x01FEDCBA,
        0x20FFFFFF,  # would be the largest, but for its sign
        0x21010000,  # 257 bits
        0x2100FFFF + 1,
        0x227FFFFF,
        0xFF123456,
        0xFFFFFFFF,
        0x1E0000FF,  # not canonical: 0x1d00ff00
        0x1E00007F,
        0x22000001,
        0x01123456,  # digits lost below one
        0x02123456,
        0x03000001,
    ],
)
def test_bits_that_are_refused(bits):
    with pytest.raises(FormatError, match=f"{bits:08x} is not a canonical compact target"):
        target_of(bits)
    with pytest.raises(FormatError):
        target_words(np.array([0x1D00FFFF, bits], np.uint32))


@given(st.integers(0, 2**32 - 1))
def test_what_is_accepted_is_canonical(bits):
    try:
        target = target_of(bits)
    except FormatError:
        return
    assert target == plain.target(bits)
    assert 0 < target < 2**256
    assert bits_of(target) == bits


@given(
    st.lists(st.sampled_from([0x1D00FFFF, 0x207FFFFF, 0, 0xFFFFFFFF, 0x1D00FFFE, 0x1E0000FF]), max_size=30)
)
def test_many_bits_at_once(bits):
    def one(value):
        try:
            return target_of(value)
        except FormatError:
            return None

    expected = [one(value) is not None for value in bits]
    assert are_targets(np.array(bits, np.uint32)).tolist() == expected
    good = [value for value in bits if one(value)]
    words = target_words(np.array(good, np.uint32))
    assert [row.tobytes() for row in words] == [one(value).to_bytes(32, "little") for value in good]


@given(st.integers(0, 255).flatmap(lambda n: st.integers(2**n, 2 ** (n + 1) - 1)))
def test_rounding_is_down_and_keeps_16_bits(target):
    rounded = target_of(bits_of(target))
    assert rounded <= target < rounded + max(1, rounded >> 14)
    assert bits_of(rounded) == bits_of(target)


@given(st.floats(0, 224))
def test_difficulty_is_reached_by_the_smallest_step(difficulty):
    bits = bits_for_difficulty(difficulty)
    wanted = Fraction(2 ** (difficulty % 1)) * 2 ** int(difficulty)
    tolerance = 1 + Fraction(1, 2**50)  # a float's power of two
    assert Fraction(2**256, target_of(bits) + 1) * tolerance >= wanted
    if bits != 0x2100FFFF:
        assert Fraction(2**256, easier(bits) + 1) < wanted * tolerance


def easier(bits):
    """The next larger target that compact bits can state."""
    target = target_of(bits)
    step = 0
    while bits_of(target + (1 << step)) == bits:
        step += 1
    return target_of(bits_of(target + (1 << step)))


@pytest.mark.parametrize("difficulty", range(225))
def test_whole_difficulties(difficulty):
    bits = bits_for_difficulty(difficulty)
    assert Fraction(2**256, target_of(bits) + 1) >= 2**difficulty
    assert work_of(bits) >= 2**difficulty
    if difficulty:
        assert Fraction(2**256, easier(bits) + 1) < 2**difficulty


def test_known_difficulties():
    assert [bits_for_difficulty(d) for d in (0, 1, 8, 20, 32)] == [
        0x2100FFFF,
        0x207FFFFF,
        0x2000FFFF,
        0x1E0FFFFF,
        0x1D00FFFF,
    ]


@pytest.mark.parametrize("difficulty", [-0.001, -1, 224.001, 1e9, float("nan"), float("inf")])
def test_difficulties_that_are_refused(difficulty):
    with pytest.raises(FormatError, match="not between 0 and 224"):
        bits_for_difficulty(difficulty)


@pytest.mark.parametrize(("bits", "work"), [(0x1D00FFFF, 0x100010001), (0x207FFFFF, 2), (0x2100FFFF, 1)])
def test_work_is_counted_as_bitcoin_does(bits, work):
    assert work_of(bits) == work


# -- work


@given(
    st.lists(
        st.tuples(
            st.binary(min_size=76, max_size=76),
            st.sampled_from([0x2100FFFF, 0x207FFFFF, 0x1D00FFFF, 0x20010000]),
        ),
        max_size=20,
    )
)
def test_meets_target_is_what_the_format_says(pairs):
    raws = [raw[:72] + struct.pack("<I", bits) + raw[72:] for raw, bits in pairs]
    assert meets_target(headers_of(*raws)).tolist() == [plain.work_is_done(raw) for raw in raws]
    assert [row.tobytes() for row in header_hashes(headers_of(*raws))] == [plain.sha256d(raw) for raw in raws]


def test_a_hash_is_compared_word_by_word():
    """A hash equal to the target meets it; one more, in any byte, does not."""
    target = target_of(0x1B0404CB)
    hashes = [target, target + 1, target - 1, 0, 2**256 - 1]
    hashes += [target + (1 << shift) for shift in range(0, 255, 8)]
    hashes += [target - 2**192 + 2**191, target + 2**192 - 2**191]
    raw = b"".join(value.to_bytes(32, "little") for value in hashes)
    targets = target_words(np.full(len(hashes), 0x1B0404CB, np.uint32))
    met = at_most(np.frombuffer(raw, np.uint8).reshape(-1, 32), targets)
    assert met.tolist() == [value <= target for value in hashes]


@given(st.lists(st.tuples(st.integers(0, 2**256 - 1), st.integers(0, 2**256 - 1)), max_size=8))
def test_hashes_are_compared_as_integers(pairs):
    pairs += [(b, a) for a, b in pairs] + [(a, a) for a, _ in pairs]
    left, right = (b"".join(pair[i].to_bytes(32, "little") for pair in pairs) for i in (0, 1))
    met = at_most(np.frombuffer(left, np.uint8).reshape(-1, 32), np.frombuffer(right, "<u4").reshape(-1, 8))
    assert met.tolist() == [a <= b for a, b in pairs]


def test_a_target_is_met_to_its_last_byte(monkeypatch):
    """Hashes that differ from their target in one word alone."""
    target = target_of(0x1B0404CB)
    hashes = [value for word in range(8) for value in (target + (1 << 32 * word), target - (1 << 32 * word))]
    hashes = [target, *(value for value in hashes if value >= 0)]
    raw = b"".join(value.to_bytes(32, "little") for value in hashes)
    monkeypatch.setattr(
        header_format, "header_hashes", lambda _: np.frombuffer(raw, np.uint8).reshape(-1, 32)
    )
    headers = np.zeros(len(hashes), HEADER)
    headers["bits"] = 0x1B0404CB
    assert meets_target(headers).tolist() == [value <= target for value in hashes]


def test_bits_out_of_format_are_an_error_not_a_hit():
    headers = np.zeros(2, HEADER)
    headers["bits"] = 0x2100FFFF, 0xFFFFFFFF
    with pytest.raises(FormatError):
        meets_target(headers)


def test_no_headers_and_headers_that_are_not_contiguous():
    assert header_hashes(np.zeros(0, HEADER)).shape == (0, 32)
    assert meets_target(np.zeros(0, HEADER)).tolist() == []
    assert target_words(np.zeros(0, np.uint32)).shape == (0, 8)
    every_second = headers_of(GENESIS, BLOCK_1, BLOCK_125552)[::2]
    assert header_hashes(every_second).tobytes() == sha256d(GENESIS) + sha256d(BLOCK_125552)
    assert meets_target(every_second).tolist() == [True, True]


# -- counters


@given(
    st.binary(min_size=80, max_size=80),
    st.integers(0, 16)
    .map(lambda k: 2**k)
    .flatmap(lambda r: st.tuples(st.just(r), st.integers(0, r * 2**32 - 1))),
)
def test_a_counter_sets_nonce_and_rolled_bits(raw, pair):
    rolls, counter = pair
    before = headers_of(raw)
    (found,) = with_counters(before, np.array([counter], np.uint64), rolls)
    version = struct.unpack("<I", raw[:4])[0] & ~0x1FFFE000 | (counter % rolls) << 13
    assert found.tobytes() == struct.pack("<I", version) + raw[4:76] + struct.pack("<I", counter // rolls)
    assert before.tobytes() == raw


def test_only_sixteen_version_bits_are_rolled():
    assert ROLL_MASK == sum(1 << bit for bit in range(13, 29)) == 0x1FFFE000
    (found,) = with_counters(headers_of(GENESIS), np.array([2**48 - 1], np.uint64), 2**16)
    assert (int(found["version"]), int(found["nonce"])) == (0x1FFFE001, 2**32 - 1)


# -- link and seal

MANIFEST = b"example.com/orders\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\nheight 0\n"


def test_known_link_and_seals():
    link = link_of(ZERO, MANIFEST, 0x207FFFFF)
    assert link.hex() == "7322d7c277fad8fa2762d6748ea7aff80bd92b6fc0c97dbca6488fa6479e0f79"
    mined = plain.header(VERSION | 5 << 13, ZERO, merkle_root(MANIFEST, 7), 1_700_000_000, 0x207FFFFF, 99)
    assert sha256d(mined).hex() == "bf2bd67b7d9a0ea45a0cfab198d4ff86d5af4dbaf841a0ca0f8c69fca0d0c667"
    assert (
        seal_of(ZERO, link, mined, 7).hex()
        == "047c60517c40dd64ff1738636fbf0a046ed22c7bf4ac34e8719afd7bc95a2b0b"
    )
    assert (
        seal_of(b"\x11" * 32, link, mined, 2**63 - 1).hex()
        == "74cb0d23d46dfb04e8e403db0e93be71bf9eeada093aa0c1d4ca68e4192932c6"
    )


@given(
    st.binary(min_size=32, max_size=32),
    st.binary(max_size=300),
    st.sampled_from([0x207FFFFF, 0x1D00FFFF]),
    st.integers(0, 2**63 - 1),
    st.binary(min_size=80, max_size=80),
)
def test_link_and_seal_are_what_the_format_says(prev, manifest, bits, extranonce, mined):
    link = link_of(prev, manifest, bits)
    assert link == plain.link(prev, manifest, bits) == sha256d(unmined(prev, manifest, bits))
    assert unmined(prev, manifest, bits) == plain.header(
        0x20000000, prev, plain.merkle_root(manifest, 0), 0, bits, 0
    )
    assert merkle_root(manifest, extranonce) == plain.merkle_root(manifest, extranonce)
    assert seal_of(prev, link, mined, extranonce) == plain.seal(prev, link, mined, extranonce)


@given(
    st.binary(min_size=32, max_size=32),
    st.lists(
        st.tuples(
            st.binary(max_size=200), st.sampled_from([0x207FFFFF, 0x1D00FFFF]), st.integers(0, 2**63 - 1)
        ),
        max_size=12,
    ),
    st.integers(0, 2**32),
)
def test_many_blocks_at_once(below, blocks, seed):
    """Roots, links and seals of a run of blocks are those of each."""
    manifests = [manifest for manifest, _, _ in blocks]
    extranonces = np.array([extranonce for _, _, extranonce in blocks], np.int64)
    rng = np.random.default_rng(seed)
    headers = np.frombuffer(rng.bytes(80 * len(blocks)), HEADER).copy()
    headers["bits"] = [bits for _, bits, _ in blocks]
    raw = pa.array(manifests, pa.binary())

    roots = merkle_roots(raw, extranonces)
    assert [r.tobytes() for r in roots] == [plain.merkle_root(manifest, n) for manifest, _, n in blocks]
    links = links_of(headers["prev"], merkle_roots(raw, np.zeros_like(extranonces)), headers["bits"])
    prevs = [prev.tobytes() for prev in headers["prev"]]
    assert [link.tobytes() for link in links] == [
        plain.link(prev, manifest, bits) for prev, (manifest, bits, _) in zip(prevs, blocks, strict=True)
    ]
    seals = []
    for its_link, mined, extranonce in zip(links, headers, extranonces.tolist(), strict=True):
        seals.append(
            plain.seal(seals[-1] if seals else below, its_link.tobytes(), mined.tobytes(), extranonce)
        )
    assert [seal.tobytes() for seal in seals_of(below, links, headers, extranonces)] == seals


@pytest.mark.parametrize("extranonce", [-1, -(2**63), 2**63, 2**64])
def test_extranonces_that_are_refused(extranonce):
    assert MAX_EXTRANONCE == 2**63 - 1
    with pytest.raises(FormatError, match="extranonce"):
        merkle_root(b"", extranonce)
    with pytest.raises(FormatError, match="extranonce"):
        seal_of(ZERO, ZERO, bytes(80), extranonce)


def test_hashes_of_parts():
    assert sha256(b"a", b"", b"bc") == plain.sha256(b"abc")
    assert sha256d(b"a", b"bc") == plain.sha256d(b"abc")
