"""The erasure record and the salts of a piece: one spelling each, and nothing read that was not written."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventchain.errors import FormatError
from eventchain.formats.erasure import Erasure, Removal, branch_of, ranges_of
from eventchain.formats.event import EVENT_SCHEMA
from eventchain.formats.leaf import commitments, leaf_hashes, new_salts
from eventchain.formats.salts import Salts, is_whole

POSITIONS = st.sets(st.integers(0, 2**63 - 1) | st.integers(0, 60), min_size=1, max_size=30)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def record(positions: set[int], reason: str = "r", actor: str = "a") -> Erasure:
    return Erasure("example.com/orders@2", ranges_of(np.array(sorted(positions))), reason, actor)


# -- the record


@given(POSITIONS, TEXT, TEXT)
def test_a_record_reads_back(positions: set[int], reason: str, actor: str) -> None:
    made = record(positions, reason, actor)
    assert Erasure.parse(bytes(made)) == made
    assert made.count == len(positions)
    told = [at for at in range(61) if made.covers(np.array([at]))[0]]
    assert told == sorted(at for at in positions if at <= 60)


DIGEST = st.binary(min_size=32, max_size=32)
ORIGINS = st.sets(st.sampled_from(["a/b", "a/b@2", "a/c", "a/b/c@17"])).map(
    lambda found: tuple(sorted(found))
)


@given(POSITIONS, st.integers(0, 2**63 - 1), DIGEST, DIGEST, ORIGINS, ORIGINS)
def test_a_record_of_a_removal_reads_back(
    positions: set[int],
    height: int,
    link: bytes,
    seal: bytes,
    rebuilt: tuple[str, ...],
    closed: tuple[str, ...],
) -> None:
    removed = Removal(height, link, seal, rebuilt, closed)
    made = dataclasses.replace(record(positions), removal=removed)
    assert Erasure.parse(bytes(made)) == made
    told = json.loads(bytes(made))
    assert list(told) == sorted(told)
    assert (told["mode"], told["height"], told["closed"]) == ("removed", str(height), list(closed))


@pytest.mark.parametrize(
    "change",
    [
        {"mode": "erased"},
        {"height": 7},
        {"height": "07"},
        {"link": "AA=="},
        {"seal": None},
        {"closed": "a"},
        {"closed": ["b", "a"]},
        {"closed": ["a", "a"]},
        {"rebuilt": ["Not An Origin"]},
        {"rebuilt": [1]},
    ],
)
def test_what_is_no_record_of_a_removal_is_refused(change: dict[str, object]) -> None:
    made = dataclasses.replace(record({1, 2, 7}), removal=Removal(7, bytes(32), bytes(32)))
    raw = json.dumps(json.loads(bytes(made)) | change, sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(FormatError):
        Erasure.parse(raw)


@given(POSITIONS, TEXT, st.integers(0, 10_000), st.integers(0, 255))
def test_a_changed_byte_is_another_record_or_none(
    positions: set[int], reason: str, where: int, byte: int
) -> None:
    raw = bytearray(bytes(made := record(positions, reason)))
    before = raw[where % len(raw)]
    raw[where % len(raw)] = byte
    try:
        read = Erasure.parse(bytes(raw))
    except FormatError:
        return
    assert bytes(read) == raw
    assert (read == made) == (byte == before)


@given(st.binary(max_size=200))
def test_any_other_bytes_are_refused(raw: bytes) -> None:
    with pytest.raises(FormatError):
        Erasure.parse(raw)


def test_the_record_is_canonical_json() -> None:
    """RFC 8785, 3.2.2.2: what of text is escaped, and how."""
    text = "\u20ac$\u000f\nA'B\"\\/\b\f\r\t\u007f"
    made = Erasure("a", ((1, 2), (9007199254740993, 9007199254740993)), text, "é")
    spelled = (
        '{"actor":"é","mode":"erased","origin":"a","positions":[["1","2"],'
        '["9007199254740993","9007199254740993"]],'
        '"reason":"\u20ac$\\u000f\\nA\'B\\"\\\\/\\b\\f\\r\\t\u007f"}'
    )
    assert bytes(made) == spelled.encode()


@pytest.mark.parametrize(
    "change",
    [
        {"mode": "removed"},
        {"mode": 1},
        {"reason": None},
        {"origin": "Not An Origin"},
        {"digest": "x"},
        {"positions": []},
        {"positions": "1"},
        {"positions": [["1"]]},
        {"positions": [[1, 2]]},
        {"positions": [["2", "1"]]},
        {"positions": [["01", "2"]]},
        {"positions": [["-1", "2"]]},
        {"positions": [["1", "2"], ["3", "4"]]},  # one range
        {"positions": [["5", "6"], ["1", "2"]]},
        {"positions": [["1", "9223372036854775808"]]},
        {"reason": "\ud800"},
    ],
)
def test_what_is_no_record_is_refused(change: dict[str, object]) -> None:
    told = json.loads(bytes(record({1, 2, 7}))) | change
    raw = json.dumps(told, sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(FormatError):
        Erasure.parse(raw)


def test_text_that_is_none_is_refused() -> None:
    with pytest.raises(FormatError, match="surrogates"):
        bytes(record({1}, "\ud800"))


def test_one_spelling_only() -> None:
    raw = bytes(record({1, 2}))
    for other in (raw + b"\n", raw.replace(b",", b", "), raw.replace(b"a", b"\\u0061", 1)):
        with pytest.raises(FormatError):
            Erasure.parse(other)


def test_the_branch_of_any_incarnation() -> None:
    assert (
        branch_of("example.com/orders@3") == branch_of("example.com/orders") == "example.com/orders/erasures"
    )


# -- salts


@given(st.lists(st.booleans(), max_size=300), st.data())
def test_salts_and_commitments_read_back(erased: list[bool], data: st.DataObject) -> None:
    count = len(erased)
    kept = np.frombuffer(data.draw(st.binary(min_size=32 * count, max_size=32 * count)), np.uint8)
    kept = kept.reshape(-1, 32) | np.uint8(1)  # none is zero
    salts, rows = Salts(new_salts(count)), np.flatnonzero(np.array(erased, bool))
    changed = salts.erase(rows, kept[rows])
    raw = bytes(changed)
    assert len(raw) == 16 * count + 32 * len(rows)
    assert is_whole(raw, count)
    again = Salts.read(raw, count)
    assert again.erased.tolist() == erased
    assert bytes(again) == raw
    for row, gone in enumerate(erased):
        assert (salts.salts[row].tobytes() in raw) != gone
        assert again.salts[row].any() != gone
    cut = data.draw(st.integers(0, count))
    assert bytes(Salts.join([again[:cut], again[cut:]])) == raw
    for other in (raw + b"\0", raw[:-1], raw[:-32]):
        assert not (other != raw and is_whole(other, count)) or count == 0
    Salts.read(raw[: data.draw(st.integers(0, len(raw)))], count)  # reads whatever is there


def test_leaves_by_salt_or_by_commitment() -> None:
    rows = [
        {"position": n, "stream": "s", "version": n, "id": f"e{n}", "type": "t", "time": 0,
         "data": b"d%d" % n, "metadata": None}
        for n in range(4)
    ]  # fmt: skip
    batch, salts = pa.RecordBatch.from_pylist(rows, schema=EVENT_SCHEMA), new_salts(4)
    leaves = leaf_hashes(batch, salts)
    at = np.array([1, 3])
    erased = Salts(salts).erase(at, commitments(batch, salts)[at])
    bare = [row | ({"data": None} if n in (1, 3) else {}) for n, row in enumerate(rows)]
    for told in (batch, pa.RecordBatch.from_pylist(bare, schema=EVENT_SCHEMA)):
        assert (erased.leaves(told) == leaves).all()
    assert (
        not (erased.leaves(batch.set_column(4, EVENT_SCHEMA.field(4), pa.array("xxxx"))) == leaves)
        .all(axis=1)
        .any()
    )
