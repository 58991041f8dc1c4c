"""Events and leaves: every byte that is hashed of an event."""

from __future__ import annotations

import numpy as np
import plain_format as plain
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plain_format import Event

from eventchain.errors import FormatError
from eventchain.formats.event import EVENT_SCHEMA, UNKNOWN, empty_batch
from eventchain.formats.leaf import MAX_ENTRY, commitments, entry_leaves, leaf_hashes, new_salts

I64 = st.integers(-(2**63), 2**63 - 1)
EVENTS = st.builds(
    Event,
    position=st.integers(0, 2**63 - 1),
    stream=st.text(max_size=20),
    version=I64,
    id=st.text(max_size=20),
    type=st.text(max_size=20),
    time=I64,
    data=st.none() | st.binary(max_size=200),
    metadata=st.none() | st.binary(max_size=80),
)
FIXED = 13 + 8 + 8 + 8 + 4 + 4 + 4 + 32


def batch_of(events):
    return pa.RecordBatch.from_pylist([event._asdict() for event in events], schema=EVENT_SCHEMA)


def rows(salts):
    return np.frombuffer(b"".join(salts), np.uint8).reshape(-1, 16)


def listed(hashes):
    assert hashes.dtype == np.uint8
    assert hashes.shape[1:] == (32,)
    return [row.tobytes() for row in hashes]


# -- known answers

VECTORS = [
    (
        Event(0, "", 0, "", "", 0, b"", b""),
        bytes(16),
        "1a074bccb41e86372e52327698cdcd3e1d9d9a1e1e4102e21d926bcf5c87b9b7",
    ),
    (
        Event(0, "", 0, "", "", 0, None, None),
        bytes(16),
        "20ae68ffc282474198e77d778e0e563093a4f4d3acfcca927fe78bd7a8b403ee",
    ),
    (
        Event(1, "account-7", 3, "e-1", "Deposited", 1_700_000_000_000_000, b'{"amount":5}', None),
        bytes(range(16)),
        "f81bc48292c2c618536f724bcab4ac4d9bddc6a5ff7f23099f98a550d19deba4",
    ),
    (
        Event(2**63 - 1, "s", UNKNOWN, "i", "t", UNKNOWN, None, b"m"),
        b"\xff" * 16,
        "7edd5609018ec2edf08f3d1111e501b13001d95d29512bcd0ae9abda78a495d2",
    ),
    (
        Event(258, "Straße/東京", -1, "é", "Δ🙂", -1, "größe".encode(), b"\x00\x01"),
        bytes(range(16, 32)),
        "8384218437326552a1a92f73107b064c3496d4cc33918ab7a06cd6dca898b8c2",
    ),
    (
        Event(9, "big", 0, "b", "Blob", 1, b"eventchain" * 10_000, b"\n" * 70_000),
        b"0123456789abcdef",
        "9c36f7a9c86eceef8368baa4444008bc7c3fea62a809e3cb664a40af4e62d6b9",
    ),
]


@pytest.mark.parametrize(("event", "salt", "expected"), VECTORS)
def test_known_leaves(event, salt, expected):
    assert plain.leaf(event, salt).hex() == expected
    assert leaf_hashes(batch_of([event]), rows([salt])).tobytes().hex() == expected


def test_known_leaves_together():
    batch = batch_of([event for event, _, _ in VECTORS])
    hashes = leaf_hashes(batch, rows([salt for _, salt, _ in VECTORS]))
    assert [row.tobytes().hex() for row in hashes] == [expected for _, _, expected in VECTORS]


# -- properties


@given(st.lists(st.tuples(EVENTS, st.binary(min_size=16, max_size=16)), max_size=12), st.data())
def test_leaves_are_what_the_format_says_also_in_a_slice(pairs, data):
    first = data.draw(st.integers(0, len(pairs)))
    count = data.draw(st.integers(0, len(pairs) - first))
    batch = batch_of([event for event, _ in pairs]).slice(first, count)
    here = pairs[first : first + count]
    salts = rows([salt for _, salt in here])
    assert listed(leaf_hashes(batch, salts)) == [plain.leaf(event, salt) for event, salt in here]
    salted = commitments(batch, salts)
    assert listed(salted) == [plain.commitment(event, salt) for event, salt in here]
    assert listed(entry_leaves(batch, salted)) == [plain.leaf(event, salt) for event, salt in here]


@pytest.mark.parametrize("sizes", [(4096, 5000), (70_000, None, 0), (None, None), (9000, 10)])
def test_long_payloads_are_hashed_alike(sizes):
    """On average they are longer than what is hashed alone, or not."""
    events = [
        Event(
            n, "s", n, f"i{n}", "t", n, None if size is None else bytes([n]) * size, b"m" * n if n else None
        )
        for n, size in enumerate(sizes)
    ]
    salts = new_salts(len(events))
    pairs = [(event, salt.tobytes()) for event, salt in zip(events, salts, strict=True)]
    assert listed(leaf_hashes(batch_of(events), salts)) == [plain.leaf(*pair) for pair in pairs]
    several = batch_of(events)
    assert (entry_leaves(several, commitments(several, salts)) == leaf_hashes(several, salts)).all()


@given(EVENTS, st.binary(min_size=16, max_size=16), st.data())
def test_every_change_of_an_event_changes_its_leaf(event, salt, data):
    name = data.draw(st.sampled_from([*Event._fields, "salt"]))
    if name == "salt":
        other = event, data.draw(st.binary(min_size=16, max_size=16).filter(lambda new: new != salt))
    else:
        changed = data.draw(
            EVENTS.map(lambda new: getattr(new, name)).filter(lambda v: v != getattr(event, name))
        )
        other = event._replace(**{name: changed}), salt
    before = leaf_hashes(batch_of([event]), rows([salt])).tobytes()
    assert leaf_hashes(batch_of([other[0]]), rows([other[1]])).tobytes() != before


@given(st.binary(max_size=6), st.binary(max_size=6))
def test_bytes_do_not_move_between_fields(left, right):
    if not left:
        return
    salt = rows([bytes(16)])
    event = Event(1, "s", 1, "i", "t", 1, left, right)
    moved = event._replace(data=left[:-1], metadata=left[-1:] + right)
    assert leaf_hashes(batch_of([event]), salt).tobytes() != leaf_hashes(batch_of([moved]), salt).tobytes()


def test_null_is_not_empty():
    event = Event(1, "s", 1, "i", "t", 1, b"", b"")
    forms = [
        event,
        event._replace(data=None),
        event._replace(metadata=None),
        event._replace(data=None, metadata=None),
    ]
    hashes = leaf_hashes(batch_of(forms), rows([bytes(16)] * 4))
    assert len(set(listed(hashes))) == 4


# -- Arrow's many ways to hold the same values


def test_offsets_and_null_bitmaps_that_do_not_start_at_a_byte():
    events = [
        Event(i, f"s{i}", i, f"i{i}", "t" * i, i, None if i % 3 else bytes(i), None if i % 5 == 0 else b"m")
        for i in range(40)
    ]
    whole = batch_of(events)
    salts = rows([bytes([i]) * 16 for i in range(40)])
    for first in (1, 3, 7, 8, 9, 17, 39, 40):
        here = leaf_hashes(whole.slice(first), salts[first:])
        assert listed(here) == [plain.leaf(event, bytes([event.position]) * 16) for event in events[first:]]


def test_columns_with_different_offsets():
    data = pa.array([b"x", None, b"yy", None, b"zzz"], pa.binary()).slice(2)
    batch = batch_of([Event(i, "s", 0, str(i), "t", 0, None, None) for i in range(3)])
    batch = batch.set_column(6, EVENT_SCHEMA.field(6), data)
    expected = [
        plain.leaf(Event(i, "s", 0, str(i), "t", 0, value, None), bytes(16))
        for i, value in enumerate([b"yy", None, b"zzz"])
    ]
    assert listed(leaf_hashes(batch, rows([bytes(16)] * 3))) == expected


def test_garbage_under_a_null_is_not_hashed():
    """Arrow leaves the bytes of a null undefined; here they are not zero bytes long."""
    offsets = pa.py_buffer(np.array([0, 3, 6], np.int32))
    data = pa.Array.from_buffers(pa.binary(), 2, [pa.py_buffer(b"\x02"), offsets, pa.py_buffer(b"abcdef")])
    batch = batch_of([Event(0, "s", 0, "i", "t", 0, None, None)] * 2).set_column(
        6, EVENT_SCHEMA.field(6), data
    )
    expected = [plain.leaf(Event(0, "s", 0, "i", "t", 0, value, None), bytes(16)) for value in (None, b"def")]
    assert listed(leaf_hashes(batch, rows([bytes(16)] * 2))) == expected


def test_large_columns():
    event = Event(5, "stream", 1, "id", "type", 2, b"data", None)
    large = {pa.string(): pa.large_string(), pa.binary(): pa.large_binary()}
    schema = pa.schema([pa.field(f.name, large.get(f.type, f.type)) for f in EVENT_SCHEMA])
    batch = pa.RecordBatch.from_pylist([event._asdict()] * 2, schema=schema)
    assert listed(leaf_hashes(batch, rows([bytes(16)] * 2))) == [plain.leaf(event, bytes(16))] * 2


def test_no_events():
    assert empty_batch().schema == EVENT_SCHEMA
    assert leaf_hashes(empty_batch(), new_salts(0)).shape == (0, 32)
    assert leaf_hashes(batch_of([Event(0, "", 0, "", "", 0, None, None)]).slice(1), new_salts(0)).shape == (
        0,
        32,
    )


def test_salts_and_commitments_that_are_not_contiguous():
    event = Event(1, "s", 1, "i", "t", 1, b"d", b"m")
    salts = rows([bytes([i]) * 16 for i in range(6)])[::2]
    hashes = leaf_hashes(batch_of([event] * 3), salts)
    assert listed(hashes) == [plain.leaf(event, bytes([i]) * 16) for i in (0, 2, 4)]


# -- limits


@pytest.mark.parametrize("name", ["stream", "id", "type"])
def test_the_longest_entry(name):
    event = Event(7, "", 1, "", "", 1, None, None)._replace(**{name: "x" * (65_535 - FIXED)})
    assert len(plain.entry(event, bytes(32))) == MAX_ENTRY == 65_535
    assert leaf_hashes(batch_of([event]), rows([bytes(16)])).tobytes() == plain.leaf(event, bytes(16))
    longer = event._replace(**{name: getattr(event, name) + "x"})
    fine = Event(8, "", 1, "", "", 1, None, None)
    with pytest.raises(FormatError, match="position 7 makes an entry of 65536 bytes") as caught:
        leaf_hashes(batch_of([fine, longer]), rows([bytes(16)] * 2))
    assert caught.value.hint


def test_length_is_counted_in_bytes():
    event = Event(7, "é" * 32_728, 1, "", "", 1, None, None)
    assert len(plain.entry(event, bytes(32))) == 65_537
    with pytest.raises(FormatError, match="65537 bytes"):
        leaf_hashes(batch_of([event]), rows([bytes(16)]))


def test_salts_are_fresh():
    salts = new_salts(1000)
    assert salts.shape == (1000, 16)
    assert len({row.tobytes() for row in salts}) == 1000
    assert not np.array_equal(salts, new_salts(1000))
