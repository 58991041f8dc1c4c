"""Lawful erasure in place: what is gone, what stays proven, and what verify calls anything else."""

from __future__ import annotations

import hashlib
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from chains import BITS, ERASURES, ORIGIN, SOURCE, Chain, child_event, new_chain, new_event
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import check_chain

from eventchain.chain.feed import sealed_events
from eventchain.chain.proof import check_proof, proof_as_dict
from eventchain.chain.sealed import find_event, receipt_of
from eventchain.erasure.plan import in_stream, plan_erasure, positions_where
from eventchain.erasure.records import Records
from eventchain.errors import StoreError
from eventchain.formats.erasure import Erasure
from eventchain.formats.event import EVENT_SCHEMA
from eventchain.formats.policy import Policy


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    """300 events, of which 2 pieces, sealed in blocks of 48."""
    chain = new_chain(tmp_path)
    with chain.working() as work:
        work.append(0, 300)
        work.sealer.seal_backlog(48)
    return chain


def told(chain: Chain) -> list[tuple[str, int | None, int]]:
    """What verify finds, each as kind, position and how many; the oracle finds something too."""
    with chain.opened() as (store, events), pytest.raises(AssertionError):
        check_chain(store, events)
    return [(finding.kind, finding.position, finding.count) for finding in chain.verify().wrong]


def payloads(chain: Chain) -> dict[int, tuple[bytes | None, bytes | None]]:
    """What the feed of sealed events gives, by position."""
    with chain.opened() as (store, events):
        rows = [row for batch in sealed_events(store, events) for row in batch.to_pylist()]
    return {row["position"]: (row["data"], row["metadata"]) for row in rows}


# -- what it does


def test_erased_events_are_gone_and_everything_else_is_as_it_was(chain: Chain) -> None:
    before = payloads(chain)
    with chain.opened() as (store, events):
        plan = plan_erasure(store, events, np.array([7, 8, 300]))
    assert (len(plan.places), plan.already, plan.blocks, plan.snapshots) == (3, 0, 2, {})
    outcome = chain.erase(7, 8, 300)
    assert outcome.erased.tolist() == [7, 8, 300]
    assert not len(outcome.waiting) | len(outcome.lost)
    chain.check()
    report = chain.verify()
    assert report.erased == 3
    (notice,) = report.notices
    assert (notice.kind, notice.origin, notice.position, notice.count) == ("erasure", ERASURES, 0, 3)
    assert "dpo: a request" in notice.message
    assert payloads(chain) == before | dict.fromkeys((7, 8, 300), (None, None))
    with chain.opened() as (store, events):
        assert not store.events(store.branches()[0].id, None, 1).num_rows
        record = Records(store).of(8)
        assert record is not None
        assert record.erasure == Erasure(ORIGIN, ((7, 8), (300, 300)), "a request", "dpo")
        assert record.sealed
    with chain.working() as work:  # the last piece, of which a part is erased, grows
        work.append(300, 300)
        work.sealer.seal_backlog(48)
    chain.check()


def test_what_stays_of_an_erased_event_is_proven(chain: Chain) -> None:
    chain.erase(7)
    with chain.opened() as (store, events):
        receipt = receipt_of(store, find_event(events, "event-6"))
        assert (receipt.sealed, receipt.block, receipt.erased) == (True, 1, True)
        proof = receipt.proof
        assert proof is not None
        assert check_proof(proof) == []
        printed = proof_as_dict(proof)
        assert (printed["salt"], printed["event"]["data_base64"]) == (None, None)
        for change in ({"type": b"x"}, {"stream": b"x"}, {"time": 1}, {"id": b"x"}, {"version": 9}):
            changed = proof.event._replace(**change)
            assert check_proof(replace(proof, event=changed))
        assert check_proof(replace(proof, event=proof.event._replace(data=b"made up")))


def test_it_is_done_once(chain: Chain) -> None:
    chain.erase(7)
    with chain.opened() as (store, events):
        plan = plan_erasure(store, events, np.array([7, 9]))
        assert (plan.places.positions.tolist(), plan.already) == ([9], 1)
        assert len(Records(store)) == 1
    assert not len(chain.complete().erased)
    chain.erase(9)
    with chain.opened() as (store, _):
        assert [record.erasure.ranges for record in Records(store)] == [((7, 7),), ((9, 9),)]
    chain.check()


def test_events_that_are_not_sealed_or_not_as_sealed_are_refused(chain: Chain) -> None:
    with chain.working() as work:
        work.append(300, 1)
    with chain.opened() as (store, events):
        for position in (301, 999):
            with pytest.raises(StoreError, match=f"{position} is not sealed") as refused:
                plan_erasure(store, events, np.array([7, position]))
            assert refused.value.hint
    chain.sql(chain.events_file, "UPDATE events SET data = x'00' WHERE position = 7")
    chain.sql(chain.events_file, "DELETE FROM events WHERE position = 8")
    with chain.opened() as (store, events):
        for position, what in ((7, "is not what was sealed"), (8, "is missing")):
            with pytest.raises(StoreError, match=f"{position} {what}"):
                plan_erasure(store, events, np.array([position]))


def test_events_of_a_stream(chain: Chain) -> None:
    with chain.opened() as (_, events):
        found = positions_where(events, in_stream("account-3"))
    assert found.tolist() == list(range(4, 301, 7))
    chain.erase(*found.tolist())
    chain.check()
    assert chain.verify().erased == len(found)


def test_late_events_are_erased_too(tmp_path: Path) -> None:
    chain = new_chain(tmp_path, Policy(BITS, 64, 1000, 2, SOURCE))
    with chain.working() as work:
        work.append(0, 10)
    parked = "CREATE TABLE parked AS SELECT * FROM events WHERE position IN (3, 5)"
    chain.sql(chain.events_file, parked, "DELETE FROM events WHERE position IN (3, 5)")
    with chain.working() as work:
        work.sealer.seal_backlog(10)
    chain.sql(chain.events_file, "INSERT INTO events SELECT * FROM parked", "DROP TABLE parked")
    with chain.working() as work:
        work.sealer.seal_backlog(4)
    chain.erase(3, 4)
    chain.check()
    assert chain.verify().erased == 2


# -- nothing is left in the files


def secrets(chain: Chain, positions: list[int]) -> dict[str, bytes]:
    """Payloads and salts that must be found nowhere."""
    found: dict[str, bytes] = {}
    with chain.opened() as (store, events):
        for position in positions:
            (row,) = events.read(position - 1, 1).to_pylist()
            found[f"data of {position}"] = row["data"][:32]  # more may be cut apart by pages
            piece = store.pieces(1, (position - 1) // 256, 1)[0]
            at = 16 * ((position - 1) % 256)
            found[f"salt of {position}"] = piece.salts[at : at + 16]
    return found


def leaks(folder: Path, wanted: dict[str, bytes]) -> list[str]:
    """Which of these bytes are in any file of the folder."""
    files = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    assert files
    return [f"{what} in {f.name}" for what, raw in wanted.items() for f, text in files.items() if raw in text]


def test_no_byte_of_payload_or_salt_is_left_in_sqlite_files(tmp_path: Path) -> None:
    chain = new_chain(tmp_path)
    with chain.working() as work:
        for first in range(0, 600, 100):  # partial pieces are written again and again
            rows = [
                {**new_event(n), "data": hashlib.sha256(b"%d" % n).digest() * (1 + n % 200)}
                for n in range(first, first + 100)
            ]
            work.events.append_batches([pa.RecordBatch.from_pylist(rows, schema=EVENT_SCHEMA)])
            work.sealer.seal_backlog(48)
    erased = [1, 2, 150, 199, 256, 257, 512, 600]
    wanted = secrets(chain, erased)
    assert len(leaks(tmp_path, wanted)) >= len(wanted)
    with closing(sqlite3.connect(chain.events_file)) as other:  # keeps the files of the log there
        other.execute("SELECT count(*) FROM events").fetchall()
        chain.erase(*erased)
        assert leaks(tmp_path, wanted) == []
    assert leaks(tmp_path, wanted) == []
    chain.check()


def test_a_reader_of_an_old_state_is_in_the_way(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventchain.eventstores.sqlite_file.BUSY_SECONDS", 0.1)
    wanted = secrets(chain, [7])
    with closing(sqlite3.connect(chain.events_file, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM events").fetchall()
        with pytest.raises(StoreError, match="a reader of an old state"):
            chain.erase(7, 299)
        assert ("unerased", None, 1) in told(chain)
        with chain.working() as work:  # the piece grows, and is as unfinished as before
            work.append(300, 30)
            work.sealer.seal_backlog(48)
        assert told(chain).count(("unerased", None, 1)) == 2
        reader.execute("COMMIT")
    assert chain.complete().erased.tolist() == [7, 299]
    assert leaks(chain.folder, wanted) == []
    chain.check()


# -- tampering


def piece(chain: Chain, index: int = 0) -> tuple[bytes, bytes, bytes]:
    with closing(sqlite3.connect(chain.chain_file)) as db:
        query = "SELECT salts, positions, digest FROM pieces WHERE branch = 1 AND tile = ?"
        (row,) = db.execute(query, (index,)).fetchall()
        return row[0], row[1], row[2]


def put_piece(chain: Chain, salts: bytes, digest: bytes | None = None, index: int = 0) -> None:
    _, positions, _ = piece(chain, index)
    made = hashlib.sha256(salts + positions).digest() if digest is None else digest
    update = "UPDATE pieces SET salts = ?, digest = ? WHERE branch = 1 AND tile = ?"
    chain.sql(chain.chain_file, update, parameters=(salts, made, index))


NULL = "UPDATE events SET data = NULL, metadata = NULL WHERE position = {0}"


def test_a_payload_that_is_destroyed_without_a_record_is_found(chain: Chain) -> None:
    chain.sql(chain.events_file, NULL.format(9))
    assert told(chain) == [("altered", 9, 1)]


def test_an_erasure_without_a_record_is_found_however_well_it_is_made(chain: Chain, tmp_path: Path) -> None:
    twin = chain.copy(tmp_path / "twin")
    twin.erase(9, 20)  # as the tool does it
    salts, _, _ = piece(twin)
    put_piece(chain, salts)
    assert told(chain) == [("erased", 9, 1), ("erased", 20, 1)]  # the payloads are still there
    chain.sql(chain.events_file, NULL.format(9), NULL.format(20))
    assert told(chain) == [("erased", 9, 1), ("erased", 20, 1)]
    (finding, _) = chain.verify().wrong
    assert (finding.height, finding.stream, finding.id) == (1, "account-1", "event-8")


def test_an_erased_event_that_is_not_gone_is_found(chain: Chain) -> None:
    chain.sql(chain.events_file, "CREATE TABLE kept AS SELECT * FROM events WHERE position IN (9, 20)")
    before, _, _ = piece(chain)
    chain.erase(9, 20)
    restore = "UPDATE events SET data = (SELECT data FROM kept WHERE kept.position = events.position) "
    chain.sql(chain.events_file, restore + "WHERE position = 9")
    assert told(chain) == [("unerased", 9, 1)]
    assert payloads(chain)[9] == (None, None)  # the feed does not hand it out
    chain.sql(chain.events_file, "DROP TABLE kept")
    assert chain.complete().erased.tolist() == [9]
    chain.check()
    put_piece(chain, before)  # an older piece put back
    assert told(chain) == [("unerased", 9, 1), ("unerased", 20, 1)]
    outcome = chain.complete()
    assert outcome.lost.tolist() == [9, 20]  # no commitment can be made of what is gone


@pytest.mark.parametrize("mended", [True, False])
def test_an_altered_commitment_is_found(chain: Chain, mended: bool) -> None:
    chain.erase(9)
    salts, _, digest = piece(chain)
    forged = salts[:-1] + bytes([salts[-1] ^ 1])
    put_piece(chain, forged, None if mended else digest)
    assert told(chain) == [("altered" if mended else "salt-replaced", 9, 1)]


def test_what_is_left_of_an_erased_event_cannot_be_edited(chain: Chain) -> None:
    chain.erase(9)
    chain.sql(chain.events_file, "UPDATE events SET type = 'x' WHERE position = 9")
    assert told(chain) == [("altered", 9, 1)]
    chain.sql(chain.events_file, "DELETE FROM events WHERE position = 9")
    assert told(chain) == [("missing", 9, 1)]


def test_a_mark_of_an_unfinished_erasure_is_found(chain: Chain) -> None:
    salts, _, _ = piece(chain)
    put_piece(chain, salts, bytes(32))
    assert told(chain) == [("piece", None, 1)]
    put_piece(chain, salts)
    chain.erase(9)
    salts, _, _ = piece(chain)
    put_piece(chain, salts, bytes(32))
    assert told(chain) == [("unerased", None, 1)]
    chain.complete()
    chain.check()


def forged_record(chain: Chain, erasure: Any, **lie: Any) -> None:
    """A record as its builder would not make it, sealed."""
    with chain.working() as work:
        known = {"stream": "", "version": 0, "id": f"{ERASURES}/0", "type": "eventchain.erasure", "time": 0}
        data = erasure if isinstance(erasure, bytes) else bytes(erasure)
        event = child_event(**{**known, "data": data, "metadata": None, **lie})
        work.seal(lambda builder: builder.add_child(builder.trunk, 0, ERASURES, event))
        work.child_lines()


@pytest.mark.parametrize(
    ("ranges", "expected"),
    [
        (((9, 9),), [("unerased", 9, 1)]),  # nothing was done
        (((12, 21),), [("unerased", 12, 10)]),
        (((500, 501),), [("unerased", 0, 1)]),  # nothing is there; the record is named
    ],
)
def test_a_record_that_claims_more_than_is_gone_is_found(
    chain: Chain, ranges: tuple[tuple[int, int], ...], expected: list[tuple[str, int, int]]
) -> None:
    forged_record(chain, Erasure(ORIGIN, ranges, "r", "a"))
    assert told(chain) == expected


def test_a_huge_range_costs_nothing(chain: Chain) -> None:
    forged_record(chain, Erasure(ORIGIN, ((0, 2**63 - 1),), "r", "a"))
    assert {kind for kind, _, _ in told(chain)} == {"unerased"}


@pytest.mark.parametrize(
    ("data", "lie"),
    [
        (b"{}", {}),
        (Erasure("example.com/other", ((9, 9),), "r", "a"), {}),
        (Erasure(ORIGIN, ((9, 9),), "r", "a"), {"version": 1}),
        (Erasure(ORIGIN, ((9, 9),), "r", "a"), {"id": "x"}),
        (Erasure(ORIGIN, ((9, 9),), "r", "a"), {"type": "x"}),
        (Erasure(ORIGIN, ((9, 9),), "r", "a"), {"metadata": b"{}"}),
    ],
)
def test_a_record_that_is_none_is_found(chain: Chain, data: Any, lie: dict[str, Any]) -> None:
    forged_record(chain, data, **lie)
    assert told(chain) == [("branch", 0, 1)]


def test_a_record_that_is_not_sealed_makes_nothing_lawful(chain: Chain, tmp_path: Path) -> None:
    twin = chain.copy(tmp_path / "twin")
    twin.erase(9)
    salts, _, _ = piece(twin)
    with chain.working() as work, work.store.transaction():
        event = child_event(
            stream="", version=0, id=f"{ERASURES}/0", type="eventchain.erasure", time=0,
            data=bytes(Erasure(ORIGIN, ((9, 9),), "r", "a")), metadata=None,
        )  # fmt: skip
        work.builder.add_child(work.builder.trunk, 0, ERASURES, event)
    assert chain.verify().wrong == []  # and nothing is destroyed before it is sealed
    assert not len(chain.complete().erased)
    put_piece(chain, salts)
    chain.sql(chain.events_file, NULL.format(9))
    assert ("erased", 9, 1) in told(chain)


def test_two_records_of_one_event_are_found(chain: Chain) -> None:
    chain.erase(9)
    with chain.working() as work:
        known = {"stream": "", "version": 1, "id": f"{ERASURES}/1", "type": "eventchain.erasure", "time": 0}
        event = child_event(**known, data=bytes(Erasure(ORIGIN, ((9, 9),), "again", "x")), metadata=None)
        work.seal(lambda builder: builder.extend_child(builder.tips[ERASURES], event))
        work.child_lines()
    assert [(f.kind, f.origin, f.position) for f in chain.verify().wrong] == [("unerased", ERASURES, 1)]


def test_a_record_that_is_removed_or_altered_is_found(chain: Chain, tmp_path: Path) -> None:
    chain.erase(9)
    twin = chain.copy(tmp_path / "twin")
    twin.sql(twin.chain_file, "DELETE FROM branch_events WHERE branch = 2")
    assert [kind for kind, _, _ in told(twin)] == ["erased", "missing"]
    raw = bytes(Erasure(ORIGIN, ((9, 9),), "another reason", "dpo"))
    chain.sql(chain.chain_file, "UPDATE branch_events SET data = ? WHERE branch = 2", parameters=(raw,))
    assert [kind for kind, _, _ in told(chain)] == ["erased", "altered"]


# -- any mixture


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_mixture_of_erasures_leaves_exactly_the_right_events(grown: Chain, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        chain = grown.copy(Path(folder) / "chain")
        expected = payloads(chain)
        gone = {position for position, kept in expected.items() if kept == (None, None)}
        for _ in range(data.draw(st.integers(1, 3))):
            chosen = data.draw(st.sets(st.integers(1, len(expected)), min_size=1, max_size=40))
            with chain.working() as work:
                if data.draw(st.booleans()):
                    work.append(len(expected), 5)
                    added = {n + 1: (row["data"], row["metadata"]) for n, row in enumerate_events(expected)}
                    expected |= added
                work.record(sorted(chosen))
            if data.draw(st.booleans()):  # the next erasure, or the end, completes it
                chain.complete()
            gone |= chosen
        chain.complete()
        expected |= dict.fromkeys(gone, (None, None))
        assert payloads(chain) == expected
        chain.check()


def enumerate_events(known: dict[int, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    return ((number, new_event(number)) for number in range(len(known), len(known) + 5))


def test_records_on_a_branch_that_forks_elsewhere_are_found(chain: Chain) -> None:
    with chain.working() as work:
        known = {"stream": "", "version": 0, "id": f"{ERASURES}/0", "type": "eventchain.erasure", "time": 0}
        event = child_event(**known, data=bytes(Erasure(ORIGIN, ((500, 500),), "r", "a")), metadata=None)
        work.seal(lambda builder: builder.add_child(builder.trunk, 2, ERASURES, event))
        work.child_lines()
    assert ("branch", None, 1) in told(chain)
