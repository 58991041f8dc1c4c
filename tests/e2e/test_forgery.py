"""Forgeries that need mining: what is found from the rows alone, and what only an anchor finds.

The forger has everything: the project's own builder with its checks taken out, both stores, and the work.
"""

from __future__ import annotations

import itertools
import shutil
import sqlite3
import struct
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest
from chains import (
    ERASURES,
    SOURCE,
    Chain,
    child_event,
    genesis_anchor,
    new_chain,
    newest_anchors,
)
from oracle import check_chain
from unit.plain_format import merkle_root, sha256, work_is_done

from eventchain.chain.build import NO_LEAVES, Builder
from eventchain.formats.header import bits_for_difficulty
from eventchain.formats.policy import Policy
from eventchain.formats.salts import Salts

FIRST = Policy(bits_for_difficulty(4), 16, 8, 0, SOURCE)
TIGHTER = Policy(bits_for_difficulty(5), 12, 8, 0, SOURCE)


class Forger(Builder):
    """Builds whatever it is told to."""

    def _check(self, *_: object) -> None: ...


# -- the forger's tools


def plain_chain(folder: Path) -> Chain:
    """Genesis; 50 events in blocks 1 to 5; a tighter policy in 6; 50 events in 7 to 11."""
    chain = new_chain(folder, FIRST)
    with chain.working() as work:
        work.append(0, 50)
        chain.clock.tick()
        work.sealer.seal_backlog(10)
        chain.clock.tick()
        work.seal(lambda builder: builder.tighten(builder.trunk, TIGHTER))
        chain.clock.tick()
        work.append(50, 50)
        work.sealer.seal_backlog(10)
    return chain


def cut(chain: Chain, height: int, branch: int = 1) -> None:
    """Take off all blocks above, with their leaves, as if they had never been."""
    with closing(sqlite3.connect(chain.chain_file)) as db:
        db.execute("DELETE FROM blocks WHERE branch = ? AND height > ?", (branch, height))
        (manifest,) = db.execute(
            "SELECT manifest FROM blocks WHERE branch = ? AND height = ?", (branch, height)
        ).fetchone()
        size = int(manifest.split(b"\n")[1])
        for level in range(8):
            keep, rest = divmod(size >> 8 * level, 256)
            which = (branch, level, keep)
            db.execute("DELETE FROM tiles WHERE branch = ? AND level = ? AND tile > ?", which)
            shorter = (
                "UPDATE tiles SET hashes = substr(hashes, 1, ?) WHERE branch = ? AND level = ? AND tile = ?"
            )
            db.execute(shorter, (32 * rest, *which))
        db.execute("DELETE FROM tiles WHERE hashes = x''")
        db.execute("DELETE FROM pieces WHERE branch = ? AND tile > ?", (branch, size // 256))
        rows = db.execute(
            "SELECT rowid, salts, positions FROM pieces WHERE branch = ? AND tile = ?", which[::2]
        )
        for row, salts, positions in rows.fetchall():
            salts = bytes(Salts.read(salts, len(positions) // 8)[: size % 256])
            positions = positions[: 8 * (size % 256)]
            told = (salts, positions, sha256(salts + positions), row)
            db.execute("UPDATE pieces SET salts = ?, positions = ?, digest = ? WHERE rowid = ?", told)
        db.execute("DELETE FROM pieces WHERE positions = x''")
        db.execute("DELETE FROM branch_events WHERE branch = ? AND position >= ?", (branch, size))
        db.commit()


def rebuild(chain: Chain, *, tighten: bool = True) -> None:
    """Seal again what the event store holds now, with the policy's line at its place."""
    with chain.working(builder=Forger) as work:
        work.sealer.seal_backlog(10)
        if tighten:
            work.seal(lambda builder: builder.tighten(builder.trunk, TIGHTER))


def edit_event(chain: Chain, position: int = 25) -> None:
    amount = "UPDATE events SET data = CAST('{\"amount\":1000000}' AS BLOB) WHERE position = ?"
    assert chain.sql(chain.events_file, amount, parameters=(position,)) == 1


def read(chain: Chain, height: int, branch: int = 1) -> tuple[bytes, int, bytes]:
    with closing(sqlite3.connect(chain.chain_file)) as db:
        row = "SELECT header, extranonce, manifest FROM blocks WHERE branch = ? AND height = ?"
        return db.execute(row, (branch, height)).fetchone()


def write(chain: Chain, height: int, header: bytes, extranonce: int, branch: int = 1) -> None:
    row = "UPDATE blocks SET header = ?, extranonce = ? WHERE branch = ? AND height = ?"
    assert chain.sql(chain.chain_file, row, parameters=(header, extranonce, branch, height)) == 1


def mine(header: bytes, *, not_nonce: int = -1) -> bytes:
    """The header with a nonce, another than this one."""
    for nonce in itertools.count():
        mined = header[:76] + struct.pack("<I", nonce)
        if nonce != not_nonce and work_is_done(mined):
            return mined
    raise AssertionError


# -- the forgeries


def one_event_rewritten(chain: Chain) -> None:
    cut(chain, 2)
    edit_event(chain)
    rebuild(chain)


def one_block_remined(chain: Chain) -> None:
    edit_event(chain)
    aside = chain.copy(chain.folder / "aside")
    cut(aside, 2)
    aside.sql(aside.events_file, "DELETE FROM events WHERE position > 30")
    rebuild(aside, tighten=False)
    splice = "UPDATE {0} SET {1} = CAST((SELECT x.{1} FROM aside.{0} AS x) || substr({1}, {2} + 1) AS BLOB)"
    chain.sql(
        chain.chain_file,
        f"ATTACH '{aside.chain_file}' AS aside",
        splice.format("tiles", "hashes", 32 * 30),
        splice.format("pieces", "salts", 16 * 30),
        "REPLACE INTO blocks SELECT * FROM aside.blocks WHERE branch = 1 AND height = 3",
    )
    with closing(sqlite3.connect(chain.chain_file)) as db:
        (salts, positions) = db.execute("SELECT salts, positions FROM pieces").fetchone()
        db.execute("UPDATE pieces SET digest = ?", (sha256(salts + positions),))
        db.commit()


def all_in_one_block(chain: Chain) -> None:
    cut(chain, 2)
    edit_event(chain)
    with chain.working(builder=Forger) as work:
        work.builder.trunk.policy = Policy(FIRST.bits, 10_000, 8, 0, SOURCE)
        work.sealer.seal_backlog(10_000)


def packed_with_a_looser_policy(chain: Chain) -> None:
    cut(chain, 2)
    edit_event(chain)
    loose = Policy(FIRST.bits, 10_000, 8, 0, SOURCE)
    with chain.working(builder=Forger) as work:
        work.seal(lambda builder: builder._append(builder.trunk, NO_LEAVES, [0], policy=loose))
        work.sealer.seal_backlog(10_000)


def easier_blocks(chain: Chain) -> None:
    cut(chain, 2)
    edit_event(chain)
    with chain.working(builder=Forger) as work:
        work.builder.trunk.policy = Policy(bits_for_difficulty(1), 16, 8, 0, SOURCE)
        work.sealer.seal_backlog(10)


def easier_genesis(chain: Chain) -> None:
    edit_event(chain)
    chain.chain_file.unlink()
    with chain.working(create=True) as work:
        work.genesis(Policy(bits_for_difficulty(1), 10_000, 8, 0, SOURCE))
        work.sealer.seal_backlog(10_000)


def same_genesis_again(chain: Chain) -> None:
    edit_event(chain)
    chain.chain_file.unlink()
    with chain.working(create=True) as work:
        work.genesis(FIRST)
        work.sealer.seal_backlog(10)


def policy_line_dropped(chain: Chain) -> None:
    cut(chain, 5)
    rebuild(chain, tighten=False)


def blocks_deleted(chain: Chain) -> None:
    chain.sql(chain.chain_file, "DELETE FROM blocks WHERE height > 8")


def tail_cut(chain: Chain) -> None:
    cut(chain, 8)


def tail_cut_with_its_events(chain: Chain) -> None:
    cut(chain, 8)
    chain.sql(chain.events_file, "DELETE FROM events WHERE position > 70")


def older_copy(chain: Chain) -> None:
    for file in (chain.chain_file, chain.events_file):
        shutil.copy(chain.folder / "older" / file.name, file)


def solution_replaced(height: int, branch: int = 1) -> Callable[[Chain], None]:
    def forge(chain: Chain) -> None:
        header, extranonce, _ = read(chain, height, branch)
        (nonce,) = struct.unpack("<I", header[76:])
        write(chain, height, mine(header, not_nonce=nonce), extranonce, branch)

    return forge


def solution_removed(height: int, branch: int = 1) -> Callable[[Chain], None]:
    def forge(chain: Chain) -> None:
        header, _, manifest = read(chain, height, branch)
        bits = header[72:76]
        unmined = b"\0\0\0\x20" + header[4:36] + merkle_root(manifest, 0) + bytes(4) + bits + bytes(4)
        write(chain, height, unmined, 0, branch)

    return forge


def mined_at(seconds: int) -> Callable[[Chain], None]:
    """The last block's time, so much after it was built."""

    def forge(chain: Chain) -> None:
        header, extranonce, manifest = read(chain, 11)
        (built,) = (int(line.split()[1]) for line in manifest.split(b"\n") if line.startswith(b"built"))
        write(chain, 11, mine(header[:68] + struct.pack("<I", built + seconds) + header[72:]), extranonce)

    return forge


def built_at(seconds: int) -> Callable[[Chain], None]:
    """The last block rebuilt as of another time."""

    def forge(chain: Chain) -> None:
        class Moved(Forger):
            def now(self) -> int:
                return chain.clock.now + seconds

        cut(chain, 10)
        with chain.working(builder=Moved) as work:
            work.sealer._check_clock = lambda: None  # type: ignore[method-assign]
            work.sealer.seal_backlog(10)

    return forge


def too_far_ahead(chain: Chain) -> None:
    cut(chain, 6)
    with chain.working(builder=Forger) as work:
        work.builder.room = lambda tip: 1000  # type: ignore[method-assign]
        work.sealer.seal_backlog(2)


def branch_dropped(chain: Chain) -> None:
    for table in ("blocks", "tiles", "pieces", "branch_events"):
        chain.sql(chain.chain_file, f"DELETE FROM {table} WHERE branch = 2")
    chain.sql(chain.chain_file, "DELETE FROM branches WHERE id = 2")


def branch_dropped_and_trunk_rewritten(chain: Chain) -> None:
    branch_dropped(chain)  # that of snapshots: without the erasures' the erased events would be findings
    cut(chain, 5)
    with chain.working(builder=Forger) as work:
        work.sealer.seal_backlog(48)


def branch_cut(chain: Chain) -> None:
    cut(chain, 7, branch=2)


def erasures_again(chain: Chain, fork: int, data: bytes) -> None:
    for table in ("blocks", "tiles", "pieces", "branch_events"):
        chain.sql(chain.chain_file, f"DELETE FROM {table} WHERE branch = 3")
    chain.sql(chain.chain_file, "DELETE FROM branches WHERE id = 3")
    told = child_event(
        stream=ERASURES, version=0, id="x", type="eventchain.erasure", time=0, data=data, metadata=None
    )
    with chain.working(builder=Forger) as work:
        work.seal(lambda builder: builder.add_child(builder.trunk, fork, ERASURES, told))


def branch_moved(chain: Chain) -> None:
    erasures_again(chain, 3, b"")


def branch_rewritten(chain: Chain) -> None:
    erasures_again(chain, 0, b"nothing was erased")


def unnamed_block_rewritten(chain: Chain) -> None:
    cut(chain, 8, branch=2)
    with chain.working(builder=Forger) as work:
        work.snapshot(b"forged")


class Case(NamedTuple):
    """Whether it is found: from the rows alone, with the genesis' anchor, with the newest anchors that
    were taken before. ``kinds``: what it is called without an anchor."""

    forge: Callable[[Chain], None]
    alone: bool
    genesis: bool
    newest: bool
    kinds: str = ""
    on: str = "plain"


# The truth that the documentation repeats.
FORGERIES = {
    "one event changed, every block from it on mined again": Case(one_event_rewritten, False, False, True),
    "one event changed, only its block mined again": Case(one_block_remined, True, True, True, "link"),
    "everything from a block on packed into one block": Case(all_in_one_block, True, True, True, "policy"),
    "the same under a looser policy line": Case(packed_with_a_looser_policy, True, True, True, "policy"),
    "everything from a block on at an easier target": Case(easier_blocks, True, True, True, "policy"),
    "a rewrite from an easier genesis": Case(easier_genesis, False, True, True),
    "a rewrite from a new genesis of the same policy": Case(same_genesis_again, False, True, True),
    "a dropped policy line, everything after it mined again": Case(policy_line_dropped, False, False, True),
    "the newest blocks deleted, tiles and pieces forgotten": Case(blocks_deleted, True, True, True, "block"),
    "a cut-off tail of the chain": Case(tail_cut, False, False, True),
    "a cut-off tail of the chain and of the events": Case(tail_cut_with_its_events, False, False, True),
    "an older copy of both stores": Case(older_copy, False, False, True),
    "another nonce in mid-chain": Case(solution_replaced(3), True, True, True, "seal"),
    "another nonce in a block above the newest named seal": Case(solution_replaced(9), False, False, True),
    "another nonce in the last block": Case(solution_replaced(11), False, False, True),
    "a hole below a named seal": Case(solution_removed(3), True, True, True, "hole"),
    "the last block's solution removed": Case(solution_removed(11), False, False, True),
    "more blocks ahead of the seals than the lag": Case(too_far_ahead, True, True, True, "policy"),
    "a block mined before it was built": Case(mined_at(-5), True, True, True, "time"),
    "a block mined in the future": Case(mined_at(4 * 3600), True, True, True, "time"),
    "a block built before the one below it": Case(built_at(-3600), True, True, True, "time"),
    "a block built in the future": Case(built_at(4 * 3600), True, True, True, "time"),
    "a branch dropped": Case(branch_dropped, True, True, True, "branch", "grown"),
    "a branch dropped, the trunk mined again without it": Case(
        branch_dropped_and_trunk_rewritten, False, False, True, on="grown"
    ),
    "a branch's last block cut off": Case(branch_cut, True, True, True, "branch", "grown"),
    "a branch moved to another fork": Case(branch_moved, True, True, True, "branch", "grown"),
    "a branch rewritten": Case(branch_rewritten, True, True, True, "branch", "grown"),
    "another nonce in a branch's last block": Case(solution_replaced(8, 2), False, False, True, on="grown"),
    "a branch's block rewritten that no parent names yet": Case(
        unnamed_block_rewritten, False, False, True, on="unnamed"
    ),
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory, grown: Chain) -> dict[str, Chain]:
    folder = tmp_path_factory.mktemp("forged")
    plain = plain_chain(folder / "plain")
    older = plain.copy(plain.folder / "older")
    cut(older, 8)
    older.sql(older.events_file, "DELETE FROM events WHERE position > 70")
    unnamed = grown.copy(folder / "unnamed")
    with unnamed.working() as work:
        unnamed.clock.tick()
        work.snapshot(b"state 4")
    return {"plain": plain, "grown": grown, "unnamed": unnamed}


@pytest.mark.parametrize("name", FORGERIES)
def test_forgery(name: str, bases: dict[str, Chain], tmp_path: Path) -> None:
    case, base = FORGERIES[name], bases[FORGERIES[name].on]
    genesis, newest = genesis_anchor(base), newest_anchors(base)
    chain = base.copy(tmp_path / "copy")
    if (base.folder / "older").exists():
        shutil.copytree(base.folder / "older", chain.folder / "older")
    assert chain.verify([genesis, *newest]).verdict == "clean"
    case.forge(chain)

    alone = chain.verify()
    assert bool(alone.wrong) == case.alone, alone.wrong
    assert alone.verdict == ("findings" if case.alone else "self-consistent only")
    if case.alone:
        assert case.kinds in {finding.kind for finding in alone.wrong}, alone.wrong
        assert len(alone.wrong) <= 2, alone.wrong
    assert bool(chain.verify([genesis]).wrong) == case.genesis
    found = chain.verify(newest).wrong
    assert bool(found) == case.newest
    if case.newest and not case.alone:
        assert {finding.kind for finding in found} == {"anchor"}

    with chain.opened() as (store, events):  # the oracle knows no anchors
        if case.alone:
            with pytest.raises(AssertionError):
                check_chain(store, events)
        else:
            check_chain(store, events)
