"""Manifests: one spelling for everything that can be said, and nothing else is read."""

from __future__ import annotations

import base64
import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eventchain.errors import FormatError
from eventchain.formats.header import bits_of
from eventchain.formats.manifest import (
    MAX_MANIFEST,
    Fork,
    Manifest,
    Pointer,
    Replaced,
    Sealed,
    base_origin,
    check_origin,
    decode_digest,
    encode_digest,
    parse_number,
)
from eventchain.formats.policy import Policy

EMPTY = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="


def digest(byte):
    return bytes([byte]) * 32


def b64(byte):
    return base64.b64encode(digest(byte)).decode()


# -- known answers: bytes written out by hand, and what they say

GENESIS = (
    b"example.com/orders\n"
    b"0\n"
    b"47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"
    b"height 0\n"
    b"leaves 47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"
    b"built 1763905000\n"
    b"policy bits=1e00ffff events=1024 lag=65536 late=0 source=eventsourcing-sqlite/1\n"
)
FULL = (
    b"example.com/orders@2\n"
    b"2049\n"
    b"AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\n"
    b"height 17\n"
    b"leaves AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=\n"
    b"position 9223372036854775807\n"
    b"late 3\n"
    b"built 1763905001\n"
    b"sealed 12 AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=\n"
    b"fork example.com/orders 4\n"
    b"pin example.com/orders 12 BAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQ=\n"
    b"child example.com/orders/balances 30 BQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQU=\n"
    b"child example.com/orders/erasures 5 BgYGBgYGBgYGBgYGBgYGBgYGBgYGBgYGBgYGBgYGBgY=\n"
    b"policy bits=1d00ffff events=512 lag=9 late=4 source=eventchain-sqlite/1\n"
    b"replaces example.com/orders 40 BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc= art.17/ticket=4711\n"
)
CHILD = (
    b"example.com/orders/balances\n"
    b"1\n"
    b"CAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAg=\n"
    b"height 13\n"
    b"leaves CAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAg=\n"
    b"position 0\n"
    b"built 1763905100\n"
    b"sealed 12 AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=\n"
    b"fork example.com/orders 12\n"
    b"pin example.com/orders 12 BAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQ=\n"
)
KNOWN = [
    (
        GENESIS,
        Manifest(
            origin="example.com/orders",
            size=0,
            root=base64.b64decode(EMPTY),
            height=0,
            leaves=base64.b64decode(EMPTY),
            built=1763905000,
            policy=Policy(0x1E00FFFF, 1024, 65536, 0, "eventsourcing-sqlite/1"),
        ),
    ),
    (
        FULL,
        Manifest(
            origin="example.com/orders@2",
            size=2049,
            root=digest(1),
            height=17,
            leaves=digest(2),
            position=2**63 - 1,
            late=3,
            built=1763905001,
            sealed=Sealed(12, digest(3)),
            fork=Fork("example.com/orders", 4),
            pin=Pointer("example.com/orders", 12, digest(4)),
            children=(
                Pointer("example.com/orders/balances", 30, digest(5)),
                Pointer("example.com/orders/erasures", 5, digest(6)),
            ),
            policy=Policy(0x1D00FFFF, 512, 9, 4, "eventchain-sqlite/1"),
            replaces=Replaced("example.com/orders", 40, digest(7), "art.17/ticket=4711"),
        ),
    ),
    (
        CHILD,
        Manifest(
            origin="example.com/orders/balances",
            size=1,
            root=digest(8),
            height=13,
            leaves=digest(8),
            position=0,
            built=1763905100,
            sealed=Sealed(12, digest(3)),
            fork=Fork("example.com/orders", 12),
            pin=Pointer("example.com/orders", 12, digest(4)),
        ),
    ),
]
LINES = FULL.decode().splitlines(keepends=True)


@pytest.mark.parametrize(("raw", "manifest"), KNOWN)
def test_known_manifests(raw, manifest):
    assert bytes(manifest) == raw
    assert Manifest.parse(raw) == manifest
    assert manifest.checkpoint_body == b"".join(raw.splitlines(keepends=True)[:3])


# -- round trips

PART = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,8}", fullmatch=True).filter(
    lambda p: p not in ("tile", "checkpoint")
)
ORIGINS = st.builds(
    lambda parts, n: "/".join(parts) + (f"@{n}" if n else ""),
    st.lists(PART, min_size=1, max_size=4),
    st.none() | st.integers(2, 10**18 - 1),
)
NUMBERS = st.integers(0, 2**63 - 1) | st.integers(0, 300)
DIGESTS = st.binary(min_size=32, max_size=32)
POINTERS = st.builds(Pointer, ORIGINS, NUMBERS, DIGESTS)
POLICIES = st.builds(
    Policy,
    st.integers(1, 2**256 - 1).map(bits_of).filter(lambda bits: bits <= 0x2100FFFF),
    st.integers(1, 2**63 - 1),
    st.integers(1, 2**63 - 1),
    NUMBERS,
    st.text(string.ascii_letters + string.digits + "+._/@-", min_size=1, max_size=20),
)
TOKENS = st.text(string.ascii_letters + string.digits + "+._/@=-", min_size=1, max_size=30)
MANIFESTS = st.integers(0, 1).flatmap(
    lambda empty: st.builds(
        Manifest,
        origin=ORIGINS,
        size=st.just(0) if empty else st.integers(1, 2**63 - 1),
        root=DIGESTS,
        height=NUMBERS,
        leaves=DIGESTS,
        built=NUMBERS,
        position=st.none() if empty else NUMBERS,
        late=NUMBERS,
        sealed=st.none() | st.builds(Sealed, NUMBERS, DIGESTS),
        fork=st.none() | st.builds(Fork, ORIGINS, NUMBERS),
        pin=st.none() | POINTERS,
        children=st.lists(POINTERS, max_size=4, unique_by=lambda child: child.origin).map(
            lambda children: tuple(sorted(children, key=lambda child: child.origin))
        ),
        policy=st.none() | POLICIES,
        replaces=st.none() | st.builds(Replaced, ORIGINS, NUMBERS, DIGESTS, TOKENS),
    )
)


@given(MANIFESTS)
def test_round_trip(manifest):
    raw = bytes(manifest)
    assert Manifest.parse(raw) == manifest
    assert bytes(Manifest.parse(raw)) == raw
    assert raw.startswith(manifest.checkpoint_body)
    assert all(0x20 <= byte < 0x7F or byte == 0x0A for byte in raw)


def refused(raw):
    """Whether these bytes are refused; if they are not, they must be their own only spelling."""
    try:
        manifest = Manifest.parse(raw)
    except FormatError:
        return True
    assert bytes(manifest) == raw
    return False


@given(st.sampled_from([GENESIS, FULL, CHILD]), st.data())
def test_any_byte_changed_is_refused_or_said_exactly(raw, data):
    at = data.draw(st.integers(0, len(raw) - 1))
    refused(raw[:at] + data.draw(st.binary(min_size=1, max_size=1)) + raw[at + 1 :])


@pytest.mark.parametrize("raw", [GENESIS, FULL, CHILD])
@pytest.mark.parametrize("odd", [b"\n", b" ", b"\r", b"\0", b"\x80", b"0", b"-", b"+", b"=", b"A", b"_"])
def test_odd_bytes_in_every_place(raw, odd):
    for at in range(len(raw) + 1):
        refused(raw[:at] + odd + raw[at:])
        refused(raw[:at] + odd + raw[at + 1 :])
        refused(raw[:at])


def test_every_cut_is_refused():
    # Whole lines can be missing; a manifest that is cut within the lines it must have can not be read.
    for raw in (GENESIS, FULL, CHILD):
        for at in range(len(raw)):
            if raw[:at][-1:] != b"\n" or b"\nbuilt " not in raw[:at]:
                assert refused(raw[:at])


@given(st.binary(max_size=400))
@example(b"")
@example(b"\n" * 10)
@example(b"a\n0\n" + EMPTY.encode() + b"\n \n \n \n")
@example(b"\xff\xfe")
def test_random_bytes(raw):
    assert refused(raw)


@given(
    st.lists(
        st.sampled_from([*LINES, *GENESIS.decode().splitlines(keepends=True), "\n", "late 0\n"]), max_size=16
    )
)
def test_lines_in_any_order(lines):
    refused("".join(lines).encode())


# -- what is refused, one by one


def changed(old, new, raw=FULL):
    assert raw.count(old.encode()) == 1
    return raw.replace(old.encode(), new.encode())


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (FULL[:-1], "cut short"),
        (FULL + b"\n", "unknown line ''"),
        (FULL.replace(b"\n", b"\r\n"), "origin|unknown"),
        (FULL + b"note hello\n", "unknown line 'note hello'"),
        (FULL + b"height\n", "two lines 'height'"),
        (changed("height 17\n", "Height 17\n"), "unknown"),
        (changed("height 17\n", " height 17\n"), "unknown"),
        (changed("height 17\n", "height 17\nheight 17\n"), "two lines 'height'"),
        (changed("height 17\n", ""), "without a line 'height'"),
        (changed("built 1763905001\n", ""), "without a line 'built'"),
        (changed(LINES[4], ""), "without a line 'leaves'"),
        (changed(LINES[3] + LINES[4], LINES[4] + LINES[3]), "print back"),
        (changed(LINES[12], LINES[11]), "not sorted|unique|once"),
        (changed(LINES[11] + LINES[12], LINES[12] + LINES[11]), "sorted by origin"),
        (changed("height 17\n", "height 017\n"), "decimal"),
        (changed("height 17\n", "height 17 \n"), "decimal"),
        (changed("height 17\n", "height  17\n"), "decimal"),
        (changed("height 17\n", "height\t17\n"), "unknown"),
        (changed("height 17\n", "height +17\n"), "decimal"),
        (changed("height 17\n", "height -1\n"), "decimal"),
        (changed("height 17\n", "height 1_7\n"), "decimal"),
        (changed("height 17\n", "height 1e1\n"), "decimal"),
        (changed("height 17\n", "height \n"), "decimal"),
        (changed("height 17\n", "height\n"), "decimal"),
        (changed("height 17\n", "height 9223372036854775808\n"), "decimal"),
        (changed("\n2049\n", "\n02049\n"), "decimal"),
        (changed("\n2049\n", "\n2049 \n"), "decimal"),
        (changed("\n2049\n", "\n\n"), "decimal"),
        (changed("\n2049\n", "\n0\n"), "position does not fit"),
        (changed("position 9223372036854775807\n", ""), "position does not fit"),
        (changed("late 3\n", "late 0\n"), "print back"),
        (changed("AQE=\n", "AQF=\n"), "digest"),  # stray bits under the padding
        (changed("AQE=\n", "AQE\n"), "digest"),
        (changed("AQE=\n", "AQE==\n"), "digest"),
        (changed("\nAQEB", "\nAQE-"), "digest"),
        (changed("\nAQEB", "\n AQEB"), "digest"),
        (changed("\nAQEBAQEB", "\nAQEB"), "digest"),
        (changed("sealed 12 ", "sealed  12 "), "2 fields"),
        (changed("sealed 12 ", "sealed 12"), "2 fields"),
        (changed("fork example.com/orders 4\n", "fork example.com/orders\n"), "2 fields"),
        (changed("fork example.com/orders 4\n", "fork example.com/orders 4 x\n"), "2 fields"),
        (changed("fork example.com/orders 4\n", "fork Example.com/orders 4\n"), "origin"),
        (changed("fork example.com/orders 4\n", "fork example.com/orders 04\n"), "decimal"),
        (changed("art.17/ticket=4711", "art.17 ticket=4711"), "4 fields"),
        (changed("art.17/ticket=4711", "art.17/ticket:4711"), "4 fields"),
        (changed(" art.17/ticket=4711", ""), "4 fields"),
        (changed("art.17/ticket=4711", ""), "4 fields"),
        (changed("example.com/orders@2\n", "example.com/orders@1\n"), "origin"),
        (changed("lag=9", "lag=09"), "not a policy"),
        (changed("lag=9 late=4", "late=4 lag=9"), "not a policy"),
        (changed("bits=1d00ffff", "bits=1D00FFFF"), "not a policy"),
        (changed("bits=1d00ffff", "bits=1d00ffff more=1"), "not a policy"),
        (changed("bits=1d00ffff", "bits=00000000"), "compact target"),
        (FULL.replace(b"example", "exämple".encode()), "not ASCII"),
    ],
)
def test_refused(raw, why):
    with pytest.raises(FormatError, match=why):
        Manifest.parse(raw)


def test_no_line_but_child_is_repeated():
    for line in LINES[3:]:
        twice = changed(line, line + line)
        with pytest.raises(FormatError):
            Manifest.parse(twice)


def test_at_most_64_kib():
    room = MAX_MANIFEST - len(FULL) + len("art.17/ticket=4711")
    longest = changed("art.17/ticket=4711", "r" * room)
    assert len(longest) == 65_536
    assert bytes(Manifest.parse(longest)) == longest
    with pytest.raises(FormatError, match="64 KiB"):
        Manifest.parse(changed("art.17/ticket=4711", "r" * (room + 1)))
    children = tuple(Pointer(f"example.com/c{i:04}", i, digest(1)) for i in range(1000))
    manifest = Manifest("example.com", 0, digest(0), 0, digest(0), 0, children=children)
    with pytest.raises(FormatError, match="64 KiB"):
        bytes(manifest)


# -- parts

GOOD_ORIGINS = [
    "a",
    "0",
    "example.com",
    "example.com/orders",
    "example.com/orders/balances",
    "example.com/orders@2",
    "example.com/orders@10",
    "example.com/orders@999999",
    "a--b__c..d/e-",
    "tiles/tile-2/a.tile/checkpoints",
]
BAD_ORIGINS = [
    "",
    "/",
    "/a",
    "a/",
    "a//b",
    "A",
    "a b",
    "a\n",
    "-a",
    ".a",
    "_a",
    "a/.",
    "a/..",
    "a/-b",
    "é",
    "a@",
    "a@0",
    "a@1",
    "a@02",
    "a@-2",
    "a@2@3",
    "a@2/b",
    "a/@2",
    "@2",
    "a@x",
    "a+b",
    "a=b",
    "a:b",
    "tile",
    "tile/a",
    "a/tile",
    "a/tile/b",
    "a/tile@2",
    "checkpoint",
    "a/checkpoint",
    "checkpoint@2",
]


@pytest.mark.parametrize("origin", GOOD_ORIGINS)
def test_origins(origin):
    assert check_origin(origin) == origin
    assert base_origin(origin) == origin.split("@")[0]
    assert Manifest.parse(changed("example.com/orders@2\n", origin + "\n")).origin == origin


@pytest.mark.parametrize("origin", BAD_ORIGINS)
def test_origins_that_are_refused(origin):
    with pytest.raises(FormatError, match="not an origin"):
        check_origin(origin)
    assert refused(changed("example.com/orders@2\n", origin + "\n"))


@given(st.binary(min_size=32, max_size=32))
def test_digests(raw):
    assert encode_digest(raw) == base64.standard_b64encode(raw).decode()
    assert decode_digest(encode_digest(raw)) == raw


@given(st.text(max_size=50) | st.binary(max_size=40).map(lambda raw: base64.b64encode(raw).decode()))
def test_digests_that_are_refused(text):
    try:
        raw = decode_digest(text)
    except FormatError:
        return
    assert len(raw) == 32
    assert encode_digest(raw) == text


@pytest.mark.parametrize(
    "text",
    ["", "00", "01", "-0", "+1", " 1", "1 ", "1\n", "0x1", "1.0", "１", "9223372036854775808", "9" * 5000],
)
def test_numbers_that_are_refused(text):
    with pytest.raises(FormatError, match="decimal"):
        parse_number(text)


def test_numbers():
    assert [parse_number(text) for text in ("0", "7", "9223372036854775807")] == [0, 7, 2**63 - 1]
