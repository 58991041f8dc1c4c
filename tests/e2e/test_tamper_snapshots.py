"""The tamper matrix for snapshots: what an administrator does to them is found, branch and block named.

The snapshots were taken by policy, of two projections and of the snapshots of one of them.
"""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
from chains import ORIGIN, Chain, new_chain
from oracle import check_chain

from eventchain.assembly import Chain as Sealing
from eventchain.chain.build import Snapshot
from eventchain.errors import EventChainError
from eventchain.formats.snapshot import About
from eventchain.projections.spec import Every, Spec
from eventchain.verify import Finding

TYPES, AMOUNTS, HISTORY = f"{ORIGIN}/types", f"{ORIGIN}/amounts", f"{ORIGIN}/types/history"
SPECS = {
    "types": Spec("types", "count", {"by": "type"}, every=Every(events=20)),
    "amounts": Spec("amounts", "sum", {"path": "data.amount"}, every=Every(events=30)),
    "history": Spec("history", "latest", every=Every(events=2), of="types"),
}


class At(NamedTuple):
    """Where a finding is, without its words."""

    kind: str
    origin: str
    height: int | None
    position: int | None = None


@pytest.fixture(scope="module")
def snapped(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """120 events in blocks of 10, and every snapshot that they make due."""
    files = new_chain(tmp_path_factory.mktemp("snapped"))
    for first in range(0, 120, 40):
        with files.working() as work:
            work.append(first, 40)
        with files.opened() as (store, events):
            chain = Sealing(events, store, clock=files.clock, projections=SPECS)
            with chain.sealing("reference") as sealer:
                sealer.seal_backlog(10)
        files.clock.tick()
    files.check()
    return files


@pytest.fixture
def chain(snapped: Chain, tmp_path: Path) -> Chain:
    return snapped.copy(tmp_path)


def numbered(chain: Chain) -> dict[str, int]:
    with chain.opened() as (store, _):
        return {branch.origin: branch.id for branch in store.branches()}


def sql(chain: Chain, *statements: str, **values: object) -> None:
    """Named parameters; the branches are ``types``, ``amounts``, ``history`` and ``trunk``."""
    numbers = numbered(chain)
    known = {"types": TYPES, "amounts": AMOUNTS, "history": HISTORY, "trunk": ORIGIN}
    named = {name: numbers[origin] for name, origin in known.items()}
    with closing(sqlite3.connect(chain.chain_file)) as connection:
        connection.create_function("sha256", 1, lambda raw: hashlib.sha256(raw).digest())
        for statement in statements:
            changed = connection.execute(statement, {**named, **values})
            assert changed.rowcount, f"{statement} changes nothing"
        connection.commit()


def blocks(chain: Chain, origin: str) -> dict[int, bytes]:
    """The manifests of a branch by height."""
    with closing(sqlite3.connect(chain.chain_file)) as connection:
        found = "SELECT height, manifest FROM blocks WHERE branch = ? ORDER BY height"
        return dict(connection.execute(found, (numbered(chain)[origin],)).fetchall())


def snapshots(chain: Chain, origin: str) -> list[int]:
    """The heights of a branch's blocks that hold a snapshot, the index in its log for index."""
    return [height for height, manifest in blocks(chain, origin).items() if b"\npin " in manifest]


def check(sealed: Sealing, name: str) -> None:
    list(sealed.check_snapshots([name]))


def findings(chain: Chain) -> list[Finding]:
    """What verify finds; the oracle finds something too. What uses snapshots raises no error but ours."""
    with chain.opened() as (store, events):
        with pytest.raises(AssertionError):
            check_chain(store, events)
        sealed = Sealing(events, store, projections=SPECS)
        for name in SPECS:
            uses = (sealed.restore, partial(sealed.restore, at=60), sealed.snapshots, partial(check, sealed))
            for use in uses:
                with suppress(EventChainError):
                    use(name)
    return chain.verify().wrong


def found(chain: Chain) -> list[At]:
    return [At(one.kind, one.origin, one.height, one.position) for one in findings(chain)]


def test_there_is_something_to_tamper_with(snapped: Chain) -> None:
    assert [len(snapshots(snapped, origin)) for origin in (TYPES, AMOUNTS, HISTORY)] == [6, 4, 3]
    assert any(b"\nchild " in manifest for manifest in blocks(snapped, TYPES).values())


# -- states and what is said of them

ONE = "WHERE branch = :types AND position = 3"
EDITS = {
    "state": f"UPDATE branch_events SET data = CAST('{{\"deposited\":1000}}' AS BLOB) {ONE}",
    "state erased": f"UPDATE branch_events SET data = NULL {ONE}",
    "one digit": f"UPDATE branch_events SET data = CAST(replace(data, '0', '1') AS BLOB) {ONE}",
    "projection": f"""UPDATE branch_events SET metadata =
        CAST(replace(metadata, 'types', 'kinds') AS BLOB) {ONE}""",
    "filter": f"""UPDATE branch_events SET metadata =
        CAST(replace(metadata, '"filter":""', '"filter":"position > 1"') AS BLOB) {ONE}""",
    "size": f"UPDATE branch_events SET metadata = CAST(replace(metadata, '80', '70') AS BLOB) {ONE}",
    "the block that it is of": f"UPDATE branch_events SET version = version - 1 {ONE}",
    "time": f"UPDATE branch_events SET time = time + 1 {ONE}",
    "stream": f"UPDATE branch_events SET stream = '{AMOUNTS}' {ONE}",
}


@pytest.mark.parametrize("what", EDITS)
def test_an_altered_snapshot(chain: Chain, what: str) -> None:
    sql(chain, EDITS[what])
    assert found(chain) == [At("altered", TYPES, snapshots(chain, TYPES)[3], 3)]


def test_of_a_branch_of_a_branch(chain: Chain) -> None:
    sql(chain, "UPDATE branch_events SET data = x'7b7d' WHERE branch = :history AND position = 1")
    assert found(chain) == [At("altered", HISTORY, snapshots(chain, HISTORY)[1], 1)]


def test_states_exchanged(chain: Chain) -> None:
    sql(
        chain,
        "CREATE TEMP TABLE held AS SELECT * FROM branch_events WHERE branch = :types",
        "UPDATE branch_events SET data = (SELECT data FROM held WHERE position = 4) "
        "WHERE branch = :types AND position = 1",
        "UPDATE branch_events SET data = (SELECT data FROM held WHERE position = 1) "
        "WHERE branch = :types AND position = 4",
    )
    at = snapshots(chain, TYPES)
    assert found(chain) == [At("altered", TYPES, at[1], 1), At("altered", TYPES, at[4], 4)]


def test_snapshots_exchanged(chain: Chain) -> None:
    move = "UPDATE branch_events SET position = {1} WHERE branch = :types AND position = {0}"
    sql(chain, move.format(1, 99), move.format(4, 1), move.format(99, 4))
    at = snapshots(chain, TYPES)[4]
    assert found(chain) == [
        At("reordered", TYPES, at, 1),  # where the one that stands there belongs
        At("branch", TYPES, at, 4),
    ]


def test_a_snapshot_moved_to_another_branch(chain: Chain) -> None:
    sql(
        chain,
        "UPDATE branch_events SET branch = :amounts, position = 4 WHERE branch = :types AND position = 5",
    )
    inserted, missing = sorted(findings(chain), key=lambda one: one.kind)
    assert (inserted.kind, inserted.origin) == ("inserted", AMOUNTS)
    assert (missing.kind, missing.origin, missing.height, missing.position, missing.message) == (
        "missing", TYPES, snapshots(chain, TYPES)[5], 5, "is not in the chain store",
    )  # fmt: skip


def test_a_snapshot_put_in_the_place_of_another_branch_s(chain: Chain) -> None:
    sql(
        chain,
        "DELETE FROM branch_events WHERE branch = :amounts AND position = 2",
        "UPDATE branch_events SET branch = :amounts WHERE branch = :types AND position = 2",
    )
    assert sorted(found(chain)) == [
        At("altered", AMOUNTS, snapshots(chain, AMOUNTS)[2], 2),
        At("missing", TYPES, snapshots(chain, TYPES)[2], 2),
    ]


# -- blocks


def test_pins_swapped(chain: Chain) -> None:
    heights = snapshots(chain, TYPES)
    said = blocks(chain, TYPES)
    one, other = heights[1], heights[4]
    pins = [next(line for line in said[at].split(b"\n") if line.startswith(b"pin ")) for at in (one, other)]
    change = "UPDATE blocks SET manifest = :said WHERE branch = :types AND height = :at"
    sql(chain, change, at=one, said=said[one].replace(*pins))
    sql(chain, change, at=other, said=said[other].replace(pins[1], pins[0]))
    assert found(chain) == [At("header", TYPES, one), At("header", TYPES, other)]


def test_blocks_of_snapshots_exchanged(chain: Chain) -> None:
    heights = snapshots(chain, TYPES)
    move = "UPDATE blocks SET height = {1} WHERE branch = :types AND height = {0}"
    one, other = heights[1], heights[4]
    sql(chain, move.format(one, 99), move.format(other, one), move.format(99, other))
    named = found(chain)
    assert {(at.kind, at.origin) for at in named} == {("block", TYPES)}
    assert {one, other} <= {at.height for at in named}


@pytest.mark.parametrize("which", [0, 2, 5])
def test_a_snapshot_s_block_dropped(chain: Chain, which: int) -> None:
    height = snapshots(chain, TYPES)[which]
    sql(chain, "DELETE FROM blocks WHERE branch = :types AND height = :height", height=height)
    if not which:
        height += 1  # where the branch begins now
    assert found(chain) == [At("block", TYPES, height)]


def test_a_branch_cut_off_as_if_it_had_never_been_longer(chain: Chain) -> None:
    """The newest snapshot's block, event, leaf and salt: nothing of it is left in its branch."""
    height = snapshots(chain, AMOUNTS)[-1]
    sql(
        chain,
        "DELETE FROM blocks WHERE branch = :amounts AND height >= :height",
        "DELETE FROM branch_events WHERE branch = :amounts AND position = 3",
        "UPDATE tiles SET hashes = substr(hashes, 1, 96) WHERE branch = :amounts AND level = 0",
        "UPDATE pieces SET salts = substr(salts, 1, 48), positions = substr(positions, 1, 24) "
        "WHERE branch = :amounts",
        "UPDATE pieces SET digest = sha256(CAST(salts || positions AS BLOB)) WHERE branch = :amounts",
        height=height,
    )
    assert found(chain) == [At("branch", AMOUNTS, height)]


def test_a_branch_dropped(chain: Chain) -> None:
    _drop(chain, "history")
    (finding,) = findings(chain)
    assert (finding.kind, finding.origin) == ("branch", TYPES)
    assert f"the branch {HISTORY} is gone" in finding.message
    assert b"\nchild " in blocks(chain, TYPES)[finding.height or 0]


def _drop(chain: Chain, name: str) -> None:
    tables = [f"DELETE FROM {table} WHERE branch = :{name}" for table in ("blocks", "tiles", "pieces")]
    sql(
        chain,
        *tables,
        f"DELETE FROM branch_events WHERE branch = :{name}",
        f"DELETE FROM branches WHERE id = :{name}",
    )


# -- the tree


@pytest.mark.parametrize("origin", [ORIGIN, TYPES])
def test_a_child_line_removed(chain: Chain, origin: str) -> None:
    said = blocks(chain, origin)
    height = next(height for height, manifest in said.items() if b"\nchild " in manifest)
    lines = [line for line in said[height].split(b"\n") if not line.startswith(b"child ")]
    sql(
        chain,
        "UPDATE blocks SET manifest = :said WHERE branch = :branch AND height = :height",
        said=b"\n".join(lines),
        branch=numbered(chain)[origin],
        height=height,
    )
    assert found(chain) == [At("header", origin, height)]


def test_a_branch_said_to_fork_off_another_block(chain: Chain) -> None:
    said = blocks(chain, AMOUNTS)
    first = min(said)
    line = f"\nfork {ORIGIN} {first - 1}\n"
    assert line.encode() in said[first]
    sql(
        chain,
        "UPDATE blocks SET manifest = :said WHERE branch = :amounts AND height = :first",
        said=said[first].replace(line.encode(), f"\nfork {ORIGIN} {first - 2}\n".encode()),
        first=first,
    )
    named = found(chain)
    assert {at.origin for at in named} == {AMOUNTS}
    assert first in {at.height for at in named}


def _forge(chain: Chain, origin: str, *told: Snapshot) -> None:
    """A branch built anew with the project's own builder, and mined: all of its work is done."""
    _drop(chain, origin.rpartition("/")[2])
    chain.clock.tick()
    with chain.working() as work:
        for snapshot in told:
            with work.store.transaction():
                built = work.builder.add_snapshot(snapshot)
            for one in built:
                work.sealer.build(one)
            work.sealer.seal_all()


@pytest.mark.parametrize("moved", [0, 1], ids=["another state", "another block"])
def test_a_branch_mined_anew(chain: Chain, moved: int) -> None:
    """With another state, or forked off another block: the trunk names the old one."""
    first = min(blocks(chain, AMOUNTS))
    sizes = [int(manifest.split(b"\n")[1]) for manifest in blocks(chain, ORIGIN).values()]
    told = [
        Snapshot(AMOUNTS, ORIGIN, height, b"{}", About("", "0" * 16, "amounts", sizes[height]))
        for height in range(first - 1 - moved, first + 3 - moved)
    ]
    _forge(chain, AMOUNTS, *told)
    (finding,) = findings(chain)
    assert (finding.kind, finding.origin) == ("branch", AMOUNTS)
    assert f"of {ORIGIN} names, is another now" in finding.message
    assert finding.height in blocks(chain, AMOUNTS)


@pytest.mark.parametrize("other", ["amounts", "history"])
def test_two_branches_renamed_into_each_other(chain: Chain, other: str) -> None:
    rename = "UPDATE branches SET origin = '{1}' WHERE origin = '{0}'"
    origin = {"amounts": AMOUNTS, "history": HISTORY}[other]
    sql(chain, rename.format(TYPES, "x"), rename.format(origin, TYPES), rename.format("x", origin))
    assert {at.origin for at in found(chain)} >= {TYPES, origin}
