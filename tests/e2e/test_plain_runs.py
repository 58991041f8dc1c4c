"""Runs of plain blocks that verify takes at once: the same report as block by block, whatever was edited."""

from __future__ import annotations

import sqlite3
import struct
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from chains import BITS, SOURCE, Chain, new_chain
from tampering import change, columns, edits, value
from unit.plain_format import merkle_root, work_is_done

from eventchain.formats.header import bits_for_difficulty
from eventchain.formats.policy import Policy
from eventchain.verify import Report, blocks
from eventchain.verify.walk import BlockTable

POLICY = Policy(BITS, 4, 1000, 0, SOURCE)


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """Genesis and 60 blocks of one event, a tightened policy after 40; the last names the others' seals."""
    chain = new_chain(tmp_path_factory.mktemp("long"), POLICY)
    with chain.working() as work:
        work.append(0, 40)
        work.sealer.seal_backlog(1)
        work.seal(lambda builder: builder.tighten(builder.trunk, Policy(BITS, 3, 900, 0, SOURCE)))
        chain.clock.tick()
        for first, count in (40, 18), (58, 1):
            work.append(first, count)
            work.sealer.seal_backlog(1)
    return chain


@pytest.fixture(params=[(8192, 16), (7, 2)], ids=["at once", "in small runs"])
def sizes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "CHUNK", request.param[0])
    monkeypatch.setattr(blocks, "STRIDE", request.param[1])


def both(chain: Chain) -> Report:
    """The report, which is the same when no run is taken."""
    now = time.time()  # the same for both: they say how far in the future a block is
    report = chain.verify(now=now)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks._Walker, "_undisturbed", lambda self: False)
        assert chain.verify(now=now) == report
    return report


@pytest.mark.usefixtures("sizes")
def test_most_blocks_are_taken_in_runs(long: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    one_by_one: list[int] = []
    append = BlockTable.append
    monkeypatch.setattr(
        BlockTable, "append", lambda table, block: (one_by_one.append(block.height), append(table, block))
    )
    report = long.verify()
    assert report.clean
    assert (report.blocks, report.sealed_blocks) == (61, 61)
    assert len(one_by_one) < 25
    assert {0, 1, 41, 42} <= set(one_by_one)  # genesis, the policy, and the block after each
    monkeypatch.undo()
    both(long)


EDITED = (20, 42)


def _edits(chain: Chain) -> Iterator[tuple[int, Any, Any]]:
    for column in columns(chain.chain_file):
        if column.table == "blocks" and column.name != "branch":
            for height in EDITED:
                old = value(chain.chain_file, "blocks", column.name, ["branch", "height"], [1, height])
                for edit in edits(column, old):
                    yield height, column, edit


@pytest.mark.usefixtures("sizes")
def test_an_edited_row(long: Chain, tmp_path: Path) -> None:
    count = 0
    for number, (height, column, edit) in enumerate(_edits(long)):
        chain = long.copy(tmp_path / str(number % 2))
        if change(chain.chain_file, column, [1, height], ["branch", "height"], edit):
            assert both(chain).wrong, (height, column.name, edit.how)
            count += 1
    assert count > 80


def remined(chain: Chain, height: int, edit: tuple[bytes, bytes], *, bits: int = BITS, time: int = 0) -> None:
    """A block that says something else, with the work for it; nothing after it follows."""
    with closing(sqlite3.connect(chain.chain_file)) as db:
        row = "SELECT header, manifest FROM blocks WHERE branch = 1 AND height = ?"
        header, manifest = db.execute(row, (height,)).fetchone()
        manifest = manifest.replace(*edit)
        begun = header[:36] + merkle_root(manifest, 0) + struct.pack("<I", time or _time(header))
        nonce = 0
        while not work_is_done(mined := begun + struct.pack("<II", bits, nonce)):
            nonce += 1
        edited = "UPDATE blocks SET header = ?, manifest = ?, extranonce = 0 WHERE branch = 1 AND height = ?"
        db.execute(edited, (mined, manifest, height))
        db.commit()


def _time(header: bytes) -> int:
    return int(struct.unpack("<I", header[68:72])[0])


SAID = {
    "nothing else": (b"", b""),
    "a larger log": (b"/orders\n20\n", b"/orders\n21\n"),
    "a smaller log": (b"/orders\n20\n", b"/orders\n18\n"),
    "many leaves": (b"/orders\n20\n", b"/orders\n99\n"),
    "a log without end": (b"/orders\n20\n", b"/orders\n999999999999999999\n"),
    "a higher position": (b"\nposition 20\n", b"\nposition 22\n"),
    "a lower position": (b"\nposition 20\n", b"\nposition 18\n"),
    "the position before": (b"\nposition 20\n", b"\nposition 19\n"),
    "the largest number": (b"\nposition 20\n", b"\nposition 9223372036854775807\n"),
    "a late leaf": (b"\nbuilt ", b"\nlate 1\nbuilt "),
    "an earlier time": (b"\nbuilt 1", b"\nbuilt 0"),
    "no leading zero": (b"\nbuilt 1", b"\nbuilt 01"),
    "a later time": (b"\nbuilt 1", b"\nbuilt 2"),
    "another height": (b"\nheight 20\n", b"\nheight 21\n"),
    "another origin": (b"example.com/orders\n", b"example.com/orderz\n"),
    "itself sealed": (b"\nsealed ", b"\nsealed 20\nsealed "),
}


@pytest.mark.usefixtures("sizes")
@pytest.mark.parametrize("what", SAID)
def test_a_block_that_says(what: str, long: Chain, tmp_path: Path) -> None:
    chain = long.copy(tmp_path / "copy")
    remined(chain, 20, SAID[what])
    assert both(chain).clean == (what == "nothing else")


@pytest.mark.usefixtures("sizes")
@pytest.mark.parametrize(
    "how", ["easier", "in the future", "before it was built", "another seal named", "no seal"]
)
def test_a_block_that_was_mined(how: str, long: Chain, tmp_path: Path) -> None:
    chain = long.copy(tmp_path / "copy")
    with closing(sqlite3.connect(chain.chain_file)) as db:
        manifest = db.execute("SELECT manifest FROM blocks WHERE height = 20 AND branch = 1").fetchone()[0]
    last = manifest.rpartition(b"sealed ")[2]
    seal = last.split()[1]
    if how == "easier":
        remined(chain, 20, (b"", b""), bits=bits_for_difficulty(3))
    elif how == "in the future":
        remined(chain, 20, (b"", b""), time=2**32 - 1)
    elif how == "before it was built":
        remined(chain, 20, (b"", b""), time=1)
    elif how == "another seal named":
        remined(chain, 20, (seal, (b"B" if seal[:1] == b"A" else b"A") + seal[1:]))
    else:
        remined(chain, 20, (b"sealed " + last, b""))
    assert both(chain).wrong


@pytest.mark.usefixtures("sizes")
def test_blocks_missing_and_swapped(long: Chain, tmp_path: Path) -> None:
    for number, sql in enumerate(
        [
            "DELETE FROM blocks WHERE branch = 1 AND height = 20",
            "DELETE FROM blocks WHERE branch = 1 AND height BETWEEN 17 AND 30",
            "DELETE FROM blocks WHERE branch = 1 AND height < 5",
            "DELETE FROM blocks WHERE branch = 1 AND height > 50",
            "UPDATE blocks SET height = height + 1000 WHERE branch = 1 AND height > 30",
            "UPDATE blocks SET manifest = (SELECT manifest FROM blocks WHERE height = 21) WHERE height = 20",
            "UPDATE blocks SET header = zeroblob(80) WHERE height % 2",
        ]
    ):
        chain = long.copy(tmp_path / str(number))
        assert chain.sql(chain.chain_file, sql)
        assert both(chain).wrong


def test_grown_chains_alike(grown: Chain) -> None:
    assert both(grown).clean
