"""The layouts: what is sent comes back, and whatever else arrives is a FormatError and nothing worse."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from eventchain_fleet.messages import (
    MAX_HEADERS,
    MAX_SEARCHES,
    MAX_TAGS,
    Alive,
    Done,
    Here,
    Over,
    Piece,
    Shut,
    tags_of,
)
from hypothesis import given
from hypothesis import strategies as st

from eventchain.contracts.backend import NONCES, Solutions, Work
from eventchain.errors import FormatError
from eventchain.formats.header import HEADER, bits_for_difficulty, merkle_root

U64 = st.integers(0, 2**64 - 1)
NAMES = st.text(max_size=16).filter(lambda text: "\0" not in text)
RATES = st.floats(0, 1e20)


@st.composite
def pieces(draw):
    n = draw(st.integers(1, 5))
    headers = np.frombuffer(draw(st.binary(min_size=80 * n, max_size=80 * n)), HEADER).copy()
    headers["bits"] = [bits_for_difficulty(draw(st.integers(0, 224))) for _ in range(n)]
    start = np.array(draw(st.lists(U64, min_size=n, max_size=n)), np.uint64)
    rolls = 2 ** draw(st.integers(0, 16))
    work = Work(headers, start, draw(st.integers(1, rolls * NONCES)), rolls)
    return Piece(draw(U64), draw(U64), draw(U64), work)


@st.composite
def dones(draw):
    n = draw(st.integers(0, 5))
    index = np.array(draw(st.lists(st.integers(0, 2**32 - 1), min_size=n, max_size=n)), np.uint32)
    counter = np.array(draw(st.lists(U64, min_size=n, max_size=n)), np.uint64)
    return Done(draw(U64), draw(U64), Solutions(index, counter))


U32 = st.integers(0, 2**32 - 1)
SENT = {
    Piece: pieces(),
    Done: dones(),
    Here: st.builds(Here, st.integers(0, 2**16 - 1), st.integers(0, 63), RATES, U64, U32, NAMES),
    Alive: st.builds(Alive, U64, U32, U32, RATES, RATES, NAMES),
    Over: st.builds(Over, st.lists(U64, max_size=4).map(tuple), st.lists(U64, max_size=4).map(tuple)),
    Shut: st.builds(Shut, NAMES),
}
KINDS = pytest.mark.parametrize("kind", SENT, ids=lambda kind: kind.__name__)


@KINDS
@given(data=st.data())
def test_what_is_sent_comes_back(kind, data):
    message = data.draw(SENT[kind])
    raw = message.encode()
    again = kind.decode(raw)
    assert again.encode() == raw
    if kind not in {Piece, Done}:  # arrays do not compare
        assert again == message


@KINDS
@given(data=st.data())
def test_other_bytes_are_refused(kind, data):
    raw = data.draw(SENT[kind]).encode()
    for wrong in (raw[:-1], raw + b"\0", b"ECx1" + raw[4:], raw[:3] + b"2" + raw[4:], b"", raw[:4]):
        with pytest.raises(FormatError):
            kind.decode(wrong)


@KINDS
@given(data=st.data())
def test_any_bytes_are_decoded_or_refused(kind, data):
    raw = bytearray(data.draw(SENT[kind]).encode())
    for _ in range(data.draw(st.integers(1, 8))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    noise = data.draw(st.binary(max_size=200))
    for fuzzed in (bytes(raw), noise, kind.MAGIC + noise):
        try:
            assert kind.decode(fuzzed).encode() == fuzzed or kind in {Here, Alive, Shut}
        except FormatError:
            continue


def test_counts_that_would_fill_the_memory_are_refused():
    most = 2**32 - 1
    for kind, raw in (
        (Piece, Piece.LAYOUT.pack(b"ECp1", 1, 2, 3, 1, most, 5)),
        (Done, Done.LAYOUT.pack(b"ECd1", 1, 2, most)),
        (Over, Over.LAYOUT.pack(b"ECo1", most, most)),
        (Over, Over.LAYOUT.pack(b"ECo1", MAX_SEARCHES + 1, 0) + bytes(8 * MAX_SEARCHES + 8)),
        (Over, Over.LAYOUT.pack(b"ECo1", 0, MAX_TAGS + 1) + bytes(8 * MAX_TAGS + 8)),
        (Done, Done.LAYOUT.pack(b"ECd1", 1, 2, MAX_HEADERS + 1) + bytes(12 * MAX_HEADERS + 12)),
    ):
        with pytest.raises(FormatError):
            kind.decode(raw)


@pytest.mark.parametrize(
    ("rolls", "n", "count"), [(0, 1, 5), (3, 1, 5), (2**17, 1, 5), (1, 0, 5), (1, 1, 0), (1, 1, 2**32 + 1)]
)
def test_a_piece_that_makes_no_sense_is_refused(rolls, n, count):
    header = np.zeros(n, HEADER)
    header["bits"] = bits_for_difficulty(8)
    with pytest.raises(FormatError, match="a piece of"):
        Piece.decode(Piece.LAYOUT.pack(b"ECp1", 1, 2, 3, rolls, n, count) + header.tobytes() + bytes(8 * n))


def test_a_piece_whose_bits_are_no_target_is_refused():
    with pytest.raises(FormatError, match="no target"):
        Piece.decode(Piece.LAYOUT.pack(b"ECp1", 1, 2, 3, 1, 1, 5) + bytes(88))


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), -1.0])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(FormatError):
        Here.decode(Here.LAYOUT.pack(b"ECh1", 0, 20, rate, 0, 0, b"x"))


def test_the_largest_piece_fits_a_message_of_nats():
    headers = np.zeros(MAX_HEADERS, HEADER)
    headers["bits"] = bits_for_difficulty(1)
    piece = Piece(1, 2, 3, Work(headers, np.zeros(MAX_HEADERS, np.uint64), 2**32))
    assert len(piece.encode()) < 2**20 - 512
    assert len(Piece.decode(piece.encode()).work.headers) == MAX_HEADERS


def test_the_bytes_of_a_piece():
    """As docs/fleet.md has them, by hand."""
    header = np.zeros(1, HEADER)
    header["bits"] = bits_for_difficulty(8)
    raw = Piece(1, 2, 3, Work(header, np.array([7], np.uint64), 9, 16)).encode()
    head = b"ECp1" + struct.pack(">QQQIIQ", 1, 2, 3, 16, 1, 9)
    assert raw == head + header.tobytes() + struct.pack(">Q", 7)


def test_tags_tell_headers_apart():
    headers = np.zeros(3, HEADER)
    for row, extranonce in enumerate((0, 1, 0)):
        headers["merkle_root"][row] = np.frombuffer(merkle_root(b"a block", extranonce), np.uint8)
    one, two, again = tags_of(headers).tolist()
    assert one == again != two
    assert one == int.from_bytes(merkle_root(b"a block")[:8], "big")
