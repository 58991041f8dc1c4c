"""Removing events from the log: what is left, what stays proven of the old log, and what is found."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chains import (
    BITS,
    ERASURES,
    ORIGIN,
    SNAPSHOTS,
    SOURCE,
    Chain,
    child_event,
    grown_chain,
    manifests,
    new_chain,
    new_event,
    newest_anchors,
)
from eventchain_reference import open_backend
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import check_chain
from tampering import change, columns, edits, rows, value

from eventchain.assembly import Chain as Assembled
from eventchain.chain.feed import Feed, sealed_events
from eventchain.chain.prefix import SealedPrefix
from eventchain.chain.proof import check_proof
from eventchain.chain.sealed import find_event, receipt_of
from eventchain.erasure import remove as removal
from eventchain.erasure.remove import (
    Remover,
    finish,
    pending,
    plan_removal,
    purge,
    removed_positions,
    require_complete,
)
from eventchain.errors import StoreError
from eventchain.formats.anchor import Anchor
from eventchain.formats.erasure import Erasure, Removal
from eventchain.formats.header import bits_for_difficulty, meets_target
from eventchain.formats.policy import Policy
from eventchain.mining.engine import Engine

SECOND = f"{ORIGIN}@2"


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    """300 events, of which 2 pieces, sealed in blocks of 48."""
    chain = new_chain(tmp_path / "chain")
    with chain.working() as work:
        work.append(0, 300)
        work.sealer.seal_backlog(48)
    return chain


@contextmanager
def removing(chain: Chain) -> Iterator[tuple[Any, Any, Remover]]:
    with (
        chain.opened() as (store, events),
        store.writer(),
        Engine(open_backend().devices, clock=chain.clock) as engine,
    ):
        yield store, events, Remover(store, events, engine, chain.clock)


def record(chain: Chain, *positions: int) -> None:
    """Seal the record of a removal, and do nothing else."""
    with removing(chain) as (store, events, remover):
        remover.record(plan_removal(store, events, np.array(positions)), "a request", "dpo", 48)


def resume(chain: Chain) -> None:
    with removing(chain) as (store, events, remover):
        remover.rebuild()
        finish(store, events)


def events_of(chain: Chain) -> dict[int, tuple[bytes | None, bytes | None]]:
    """What the feed of sealed events gives, by position."""
    with chain.opened() as (store, events):
        rows = [row for batch in sealed_events(store, events) for row in batch.to_pylist()]
    return {row["position"]: (row["data"], row["metadata"]) for row in rows}


def wrong(chain: Chain, anchors: Any = ()) -> list[tuple[str, str]]:
    return [(finding.kind, finding.origin) for finding in chain.verify(anchors).wrong]


# -- what it does


def test_the_events_are_gone_and_everything_from_their_block_on_is_mined_anew(chain: Chain) -> None:
    before, blocks = events_of(chain), manifests(chain)
    old = newest_anchors(chain)
    assert chain.remove(100, 250)[0] == 2
    chain.check()
    assert events_of(chain) == {at: row for at, row in before.items() if at not in (100, 250)}
    after = manifests(chain)
    assert after[:3] == blocks[:3]
    assert [said.origin for said in after] == [ORIGIN] * 3 + [SECOND] * 5
    assert [said.size for said in after] == [0, 48, 96, 143, 191, 239, 286, 298]
    first = after[3]
    assert first.replaces == (ORIGIN, old[0].height, old[0].seal, f"{ERASURES}/0")
    assert [child.origin for child in first.children] == [ERASURES]
    assert {said.sealed for said in after[3:]} == {first.sealed}  # one batch: linked before any was mined
    with chain.opened() as (_, events):
        assert events.read(99, 1)["position"].to_pylist() == [101]
    report = chain.verify(old)
    assert (report.anchors, report.anchored_height) == (1, 2)
    assert "replaced lawfully" in next(f.message for f in report.notices if f.kind == "anchor")
    assert report.newest[0].origin == SECOND
    with chain.working() as work:
        work.append(300, 100)
        work.sealer.seal_backlog(48)
    chain.check()
    assert max(events_of(chain)) == 400


def test_the_last_events_and_all_of_them(chain: Chain) -> None:
    chain.remove(300)
    chain.check()
    assert manifests(chain)[-1].position == 299
    chain.remove(*range(1, 300))
    chain.check()
    assert events_of(chain) == {}
    (_, only) = manifests(chain)
    assert (only.size, only.position, only.origin) == (0, None, f"{ORIGIN}@3")
    with chain.working() as work:
        work.append(300, 10)
        work.sealer.seal_backlog(48)
    chain.check()
    assert sorted(events_of(chain)) == list(range(301, 311))  # no position is given again


def test_everything_that_a_chain_may_hold(tmp_path: Path) -> None:
    chain = grown_chain(tmp_path / "chain")
    anchors = newest_anchors(chain)
    chain.clock.tick()
    chain.remove(250, 310)
    chain.check()
    assert not chain.verify(anchors).wrong
    with chain.opened() as (store, _):
        assert [branch.origin for branch in store.branches()] == [SECOND, ERASURES]
        assert {one.origin for one in store.incarnations()} == {ORIGIN, SNAPSHOTS}
    # What was erased in place before is removed, too; and events are erased of what was removed from.
    chain.erase(5, 300)
    anchors += newest_anchors(chain)
    chain.remove(20, 199)
    chain.check()
    report = chain.verify(anchors)
    assert not report.wrong
    assert report.erased == 3  # 200, 5 and 300
    with chain.opened() as (store, events):
        assert removed_positions(store).tolist() == [20, 199, 250, 310]
        proof = receipt_of(store, find_event(events, "event-299")).proof
        assert proof is not None
        assert check_proof(proof) == []


def test_snapshots_that_cover_nothing_removed_live_on(chain: Chain) -> None:
    with chain.working() as work:
        work.snapshot(b"state 1")
        work.child_lines()
        work.append(300, 60)
        work.sealer.seal_backlog(48)
    chain.remove(350)
    chain.check()
    with chain.opened() as (store, _):
        assert [branch.origin for branch in store.branches()] == [SECOND, SNAPSHOTS, ERASURES]
    with chain.working() as work:
        work.snapshot(b"state 2")
        work.child_lines()
    chain.check()


def test_late_leaves_and_policies_that_were_tightened(tmp_path: Path) -> None:
    chain = new_chain(tmp_path / "chain", Policy(BITS, 64, 1000, 2, SOURCE))
    with chain.working() as work:
        work.append(0, 30)
    parked = "CREATE TABLE parked AS SELECT * FROM events WHERE position IN (3, 5, 7)"
    chain.sql(chain.events_file, parked, "DELETE FROM events WHERE position IN (3, 5, 7)")
    with chain.working() as work:
        work.sealer.seal_backlog(10)
    chain.sql(chain.events_file, "INSERT INTO events SELECT * FROM parked", "DROP TABLE parked")
    harder = bits_for_difficulty(5)
    with chain.working() as work:
        work.sealer.seal_backlog(10)
        work.append(30, 20)
        work.sealer.seal_backlog(10)
        work.seal(lambda builder: builder.tighten(builder.trunk, Policy(harder, 4, 100, 0, SOURCE)))
        work.append(50, 9)
        work.sealer.seal_backlog(10)
    chain.check()
    chain.remove(4, 30)
    chain.check()
    first = next(said for said in manifests(chain) if said.replaces)
    assert first.policy == Policy(harder, 4, 100, 2, SOURCE)
    assert manifests(chain)[-1].policy == Policy(harder, 4, 100, 0, SOURCE)
    chain.remove(59)
    chain.check()


def test_more_blocks_than_the_lag_allows_are_mined_in_rounds(tmp_path: Path) -> None:
    chain = new_chain(tmp_path / "chain", Policy(BITS, 8, 5, 0, SOURCE))
    with chain.working() as work:
        work.append(0, 200)
        work.sealer.seal_backlog(8)
    chain.remove(3)
    chain.check()
    assert len({said.sealed for said in manifests(chain)[1:]}) > 3


def test_what_cannot_be_removed(chain: Chain) -> None:
    with chain.opened() as (store, events), pytest.raises(StoreError, match="301 is not sealed"):
        plan_removal(store, events, np.array([7, 301]))
    chain.sql(chain.events_file, "UPDATE events SET data = x'00' WHERE position = 7")
    with chain.opened() as (store, events), pytest.raises(StoreError, match="7 is not what was sealed"):
        plan_removal(store, events, np.array([7]))


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE tiles SET hashes = zeroblob(length(hashes)) WHERE level = 0 AND tile = 1",
        "UPDATE blocks SET header = CAST(substr(header, 1, 76) || x'{nonce}' AS BLOB) WHERE height = 5",
    ],
)
def test_what_was_altered_before_is_not_made_lawful(chain: Chain, damage: str) -> None:
    with chain.opened() as (store, _):
        header = store.blocks(1, 5, 1).headers.copy()
    header["nonce"] = 1
    while meets_target(header)[0]:  # one in 16 does
        header["nonce"] += 1
    chain.sql(chain.chain_file, damage.format(nonce=header["nonce"].astype("<u4").tobytes().hex()))
    with pytest.raises(StoreError, match=r"damaged"):
        chain.remove(150)
    assert chain.verify().wrong


def test_a_plan_says_what_it_costs(tmp_path: Path) -> None:
    chain = grown_chain(tmp_path / "chain")
    with chain.opened() as (store, events):
        plan = plan_removal(store, events, np.array([250]))
    assert (plan.height, plan.blocks, plan.events, plan.closed) == (8, 7, 123, {SNAPSHOTS: 3})
    assert plan.to_mine == 6  # four of them hold events, one block is cut by the policy, and the record's
    assert plan.hashes == 6 * 16


# -- broken off


class Broken(Exception):
    pass


def broken(*_: Any) -> None:
    raise Broken


def test_until_the_switch_the_old_chain_serves_and_nothing_is_sealed(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = events_of(chain)
    record(chain, 100)
    for target in (
        "eventchain.erasure.rebuild.Rebuilder._link",
        "eventchain.chain.sealing.Sealer.seal_all",
        "eventchain.chain.sealing.Sealer._submit",
        "eventchain.erasure.remove.Remover._switch",
    ):
        with removing(chain) as (_, _, remover), monkeypatch.context() as patched:
            patched.setattr(target, broken)
            with pytest.raises(Broken):
                remover.rebuild()
        assert events_of(chain) == before
        assert wrong(chain) == [("unerased", ERASURES)]
        with chain.opened() as (store, events):
            assert pending(store) is not None
            with pytest.raises(StoreError, match="under way"):
                plan_removal(store, events, np.array([7]))
            assembled = Assembled(events, store)
            with pytest.raises(StoreError, match="under way"), assembled.linking():
                pass
    with chain.opened() as (_, events):  # events keep arriving
        events.append_batches([child_event(**new_event(300))])
    resume(chain)
    assert sorted(events_of(chain)) == [at for at in before if at != 100]
    with chain.working() as work:
        work.sealer.seal_backlog(48)
    chain.check()
    assert 301 in events_of(chain)


def test_a_record_that_is_not_sealed_yet_is_sealed_first(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("eventchain.chain.sealing.Sealer.build", broken)
        with pytest.raises(Broken):
            record(chain, 100)
    with chain.opened() as (store, _):
        unsealed = pending(store)
        assert unsealed is not None
        assert not unsealed.sealed
        with pytest.raises(StoreError, match="under way"):
            require_complete(store)
    assert chain.verify().wrong == []
    resume(chain)
    chain.check()


def test_after_the_switch_what_is_left_to_destroy_is_found(chain: Chain) -> None:
    record(chain, 100)
    with removing(chain) as (_, _, remover):
        remover.rebuild()
    assert wrong(chain) == [("unerased", SECOND)] * 2  # the event's row, and the files
    with chain.opened() as (store, _), pytest.raises(StoreError, match="under way"):
        require_complete(store)
    resume(chain)
    chain.check()
    resume(chain)
    chain.check()


def test_readers_go_on_in_the_next_incarnation(chain: Chain) -> None:
    with chain.opened() as (store, events):
        prefix, feed = SealedPrefix(store), Feed(store, events)
        assert prefix.size == 300
        chain.remove(100, 299)
        assert prefix.advance()
        assert (prefix.branch.origin, prefix.size, prefix.position) == (SECOND, 298, 300)
        assert feed.prefix.advance()
        with chain.working() as work:
            work.append(300, 10)
            work.sealer.seal_backlog(48)
        assert prefix.advance()
        assert not prefix.advance()
        assert (prefix.size, prefix.position) == (308, 310)
        assert feed.after(298) == 297


# -- nothing is left in the files


def leaks(chain: Chain, secrets: dict[str, bytes]) -> set[str]:
    files = [file.read_bytes() for file in chain.folder.rglob("*") if file.is_file()]
    return {name for name, raw in secrets.items() if any(raw in text for text in files)}


def test_no_byte_of_payload_or_salt_is_left_and_after_a_purge_no_leaf(tmp_path: Path) -> None:
    chain = new_chain(tmp_path / "chain")
    with chain.working() as work:
        work.append(0, 600)
        work.sealer.seal_backlog(48)
        work.snapshot(b"the state of all that was " * 4)
        work.child_lines()
    positions = (1, 150, 257, 512, 600)
    secrets: dict[str, bytes] = {"state": b"the state of all that was"}
    with chain.opened() as (store, events):
        for at in positions:
            (row,) = events.read(at - 1, 1).to_pylist()
            if row["data"] is not None:
                secrets[f"data {at}"] = row["data"]
            piece, tile = store.pieces(1, (at - 1) // 256, 1)[0], store.tiles(1, 0, (at - 1) // 256, 1)[0]
            place = (at - 1) % 256
            secrets[f"salt {at}"] = piece.salts[16 * place :][:16]
            secrets[f"leaf {at}"] = tile.hashes[32 * place :][:32]
    secrets = {name: raw for name, raw in secrets.items() if len(raw) > 12}
    assert leaks(chain, secrets) == set(secrets)
    with closing(sqlite3.connect(chain.events_file)) as other:  # keeps the files of the log there
        other.execute("SELECT count(*) FROM events").fetchall()
        chain.remove(*positions)
        assert all(name.startswith("leaf") for name in leaks(chain, secrets))
    assert {name for name in secrets if name.startswith("leaf")} == leaks(chain, secrets)
    chain.check()
    anchors = newest_anchors(chain)
    with chain.opened() as (store, _), store.writer():
        purge(store, anchors)
    assert leaks(chain, secrets) == set()
    assert chain.verify(anchors).wrong == []


# -- what stays proven of the old log


def test_a_purge_needs_an_anchor_of_the_log_as_it_is(chain: Chain) -> None:
    old = newest_anchors(chain)
    chain.remove(100)
    new = newest_anchors(chain)
    with chain.opened() as (store, _), store.writer():
        for anchors in ((), old, [Anchor(SECOND, new[0].height, bytes(32), bytes(32))]):
            with pytest.raises(StoreError, match="no anchor of"):
                purge(store, anchors)
        assert purge(store, new) == 1
        assert purge(store, new) == 0
    report = chain.verify(new)
    assert (report.wrong, [f.kind for f in report.notices]) == ([], ["unproven", "erasure"])
    assert wrong(chain, old) == [("anchor", ORIGIN)]  # whether it was so, nobody can tell any more
    assert wrong(chain, [*old, *new]) == []
    chain.remove(200)
    assert wrong(chain, [*new, *newest_anchors(chain)]) == []


@pytest.fixture(scope="session")
def removed(grown: Chain, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """The grown chain after a removal: an archive, and a branch that was closed. Copy it before you change
    anything."""
    chain = grown.copy(tmp_path_factory.mktemp("removed") / "chain")
    chain.remove(250, 310)
    return chain


def archived(chain: Chain) -> int:
    with chain.opened() as (store, _):
        return next(one.id for one in store.incarnations() if one.origin == ORIGIN)


KINDS = {
    "blocks": {"archive", "stray", "branch", "block"},
    "tiles": {"archive", "stray", "tile"},
    "pieces": {"archive", "stray", "piece"},
    "incarnations": {"archive", "stray", "unerased"},
}


@pytest.mark.parametrize("table", KINDS)
def test_every_column_of_what_is_archived(removed: Chain, tmp_path: Path, table: str) -> None:
    old, archive, tried = newest_anchors(removed), archived(removed), 0
    for column in columns(removed.chain_file):
        keys, found = rows(removed.chain_file, table)
        picked = [key for key in found if table == "incarnations" or key[0] == archive]
        for turn, key in enumerate(picked if column.table == table else ()):
            possible = edits(column, value(removed.chain_file, table, column.name, keys, key))
            for number, edit in enumerate(possible):
                if number % len(picked) != turn:
                    continue  # every edit of the column once, over its rows
                chain = removed.copy(tmp_path / "chain")
                if not change(chain.chain_file, column, key, keys, edit):
                    continue
                tried += 1
                where = f"{table}.{column.name} of {key}: {edit.how}"
                told = {finding.kind for finding in chain.verify(old).wrong}
                assert told, f"{where} is not found"
                assert told <= KINDS[table], f"{where}: {told}"
    assert tried > 10


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM blocks WHERE branch = {archive} AND height = 10",
        "DELETE FROM blocks WHERE branch = {archive} AND height >= 12",
        "DELETE FROM tiles WHERE branch = {archive}",
        "DELETE FROM pieces WHERE branch = {archive}",
        "INSERT INTO tiles SELECT branch, 0, 9, hashes FROM tiles WHERE branch = {archive}",
        "INSERT INTO tiles SELECT branch, 1, 0, hashes FROM tiles WHERE branch = {archive}",
        "UPDATE pieces SET salts = x'00' WHERE branch = {archive}",
        "DELETE FROM incarnations WHERE id = {archive}",
        "UPDATE incarnations SET origin = 'example.com/orders@x' WHERE id = {archive}",
        "UPDATE incarnations SET origin = 'example.com/orders@999999999999999999' WHERE id = {archive}",
    ],
)
def test_an_archive_that_was_altered_is_found(removed: Chain, tmp_path: Path, damage: str) -> None:
    chain = removed.copy(tmp_path / "chain")
    statement = damage.format(archive=archived(removed)) + (" LIMIT 1" if "SELECT" in damage else "")
    assert chain.sql(chain.chain_file, statement)
    assert {kind for kind, _ in wrong(chain)} <= {"archive", "stray"}
    assert wrong(chain)
    with chain.opened() as (store, events), pytest.raises(AssertionError):
        check_chain(store, events)


def test_an_archive_that_nothing_leads_to_is_found(chain: Chain) -> None:
    chain.remove(100)
    chain.sql(
        chain.chain_file,
        "INSERT INTO incarnations VALUES (99, 1, 'example.com/orders@7', 3, 0)",
        "INSERT INTO blocks SELECT 99, height, header, extranonce, manifest FROM blocks WHERE branch = 1",
    )
    assert wrong(chain) == [("stray", "")]


def test_an_anchor_that_the_archive_does_not_hold_is_found(chain: Chain, tmp_path: Path) -> None:
    twin = chain.copy(tmp_path / "twin")
    with twin.working() as work:
        work.append(300, 60)
        work.sealer.seal_backlog(48)
    with chain.working() as work:
        work.append(300, 50)
        work.sealer.seal_backlog(48)
    chain.remove(100)
    assert wrong(chain, newest_anchors(twin)) == [("anchor", ORIGIN)]


def forged(chain: Chain, positions: tuple[tuple[int, int], ...], **lie: Any) -> None:
    """A record of a removal that its builder would not make, sealed and then carried out."""
    with chain.working() as work:
        trunk = work.builder.trunk
        assert trunk.sealed is not None
        removed = Removal(trunk.height, trunk.link, trunk.sealed.seal)
        data = bytes(Erasure(ORIGIN, positions, "r", "a", removed))
        event = child_event(
            stream="", version=0, id=f"{ERASURES}/0", type="eventchain.erasure", time=0,
            data=data, metadata=None,
        )  # fmt: skip
        work.seal(lambda builder: builder.add_child(builder.trunk, 0, ERASURES, event))


def test_a_record_that_names_another_event_than_was_removed_is_found(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    forged(chain, ((100, 100), (250, 250)))
    real = removal.read_part
    monkeypatch.setattr(removal, "read_part", lambda store, positions: real(store, np.array([100, 251])))
    resume(chain)
    assert ("archive", SECOND) in wrong(chain)


def test_a_removal_without_a_record_is_found(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """The DBA has the power to mine, and mines the chain anew without an event, as a removal does it."""
    old = newest_anchors(chain)
    chain.remove(100)
    chain.sql(chain.chain_file, "DELETE FROM branch_events")
    found = wrong(chain, old)
    assert ("archive", SECOND) in found or ("missing", ERASURES) in found
    assert chain.verify(old).anchors == 0


def test_a_branch_that_was_closed_stays_closed(tmp_path: Path) -> None:
    chain = grown_chain(tmp_path / "chain")
    twin = chain.copy(tmp_path / "twin")
    anchors = newest_anchors(chain)
    chain.remove(100)
    assert not chain.verify(anchors).wrong
    with twin.opened() as (store, _):
        branch = next(branch for branch in store.branches() if branch.origin == SNAPSHOTS)
    chain.sql(
        chain.chain_file,
        "DELETE FROM incarnations WHERE origin = 'example.com/orders/balances'",
        f"INSERT INTO branches VALUES ({branch.id}, '{SNAPSHOTS}')",
    )
    assert ("branch", SNAPSHOTS) in wrong(chain)


# -- any mixture


@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_mixture_leaves_exactly_the_right_events(grown: Chain, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        chain = grown.copy(Path(folder) / "chain")
        expected, appended = events_of(chain), 372
        anchors: list[Anchor] = []
        for _ in range(data.draw(st.integers(1, 4))):
            if data.draw(st.booleans()):
                with chain.working() as work:
                    work.append(appended, 5)
                    work.sealer.seal_backlog(48)
                added = {n + 1: new_event(n) for n in range(appended, appended + 5)}
                expected |= {at: (row["data"], row["metadata"]) for at, row in added.items()}
                appended += 5
            chosen = data.draw(st.sets(st.sampled_from(sorted(expected)), min_size=1, max_size=20))
            anchors += newest_anchors(chain)
            if data.draw(st.booleans()):
                chain.remove(*chosen)
                expected = {at: row for at, row in expected.items() if at not in chosen}
            else:
                chain.erase(*chosen)
                expected |= dict.fromkeys(chosen, (None, None))
            assert events_of(chain) == expected
            if not expected:
                break
        chain.check()
        assert chain.verify(anchors).wrong == []
