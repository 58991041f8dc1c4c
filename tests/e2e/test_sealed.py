"""Finished means sealed: receipts, waiting, and the feed of sealed events."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from pathlib import Path

import pyarrow as pa
import pytest
from chains import Chain as Files
from chains import new_chain
from click.testing import CliRunner

from eventchain import Chain
from eventchain.chain.prefix import SealedPrefix
from eventchain.chain.proof import check_proof
from eventchain.chain.sealed import Receipt, Waiting
from eventchain.cli import cli
from eventchain.errors import NotSealedError, StoreError
from eventchain.formats.policy import Policy


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """100 sealed events, then 20 that are linked and not mined, then 5 that are in no block."""
    files = new_chain(tmp_path)
    with files.working() as work:
        work.append(0, 100)
        work.sealer.seal_backlog(10)
    with files.working() as work:
        work.append(100, 20)
        work.sealer._engine = None
        work.sealer.link_backlog(10)
        work.append(120, 5)
    return files


@pytest.fixture
def chain(files):
    with files.opened() as (store, events):
        yield Chain(events, store)


def ids(batches) -> list[str]:
    return [name for batch in batches for name in batch["id"].to_pylist()]


# -- receipts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", ["event-34", 35])
def test_receipt_of_a_sealed_event(chain, wanted):
    receipt = chain.receipt(wanted)
    assert receipt.sealed
    assert (receipt.block, receipt.confirmations) == (4, 6)
    assert receipt.event.id == b"event-34"
    assert receipt.time is not None
    assert receipt.proof is not None
    assert check_proof(receipt.proof) == []


@pytest.mark.parametrize(("wanted", "block"), [("event-110", 12), ("event-122", None)])
def test_receipt_of_a_pending_event(chain, wanted, block):
    receipt = chain.receipt(wanted)
    assert (receipt.sealed, receipt.block, receipt.time, receipt.proof) == (False, block, None, None)
    assert receipt.confirmations == 0


@pytest.mark.parametrize("wanted", ["nobody", 4711, -1])
def test_no_receipt_of_an_event_that_is_not_there(chain, wanted):
    with pytest.raises(StoreError, match="there is no event"):
        chain.receipt(wanted)


@pytest.mark.parametrize("position", [35, 111])
def test_no_receipt_for_an_event_in_the_place_of_another(files, chain, position):
    """SQLite may give a position again after a delete: the new event is not sealed for that."""
    assert files.sql(files.events_file, f"UPDATE events SET id = 'new' WHERE position = {position}") == 1
    with pytest.raises(StoreError, match=f"position {position} is not the one that the chain holds"):
        chain.receipt("new")
    with pytest.raises(StoreError, match="is not the one"):
        chain.wait_sealed(position, timeout=0)


def test_the_prefix_is_followed(files):
    with files.opened() as (store, _):
        prefix = SealedPrefix(store)
        assert (prefix.height, prefix.size, prefix.position) == (10, 100, 100)
        assert not prefix.advance()
        with files.working() as work:
            work.sealer.resume()
            work.sealer.seal_all()
        assert prefix.advance()
        assert (prefix.height, prefix.size, prefix.position) == (12, 120, 120)


# -- waiting ------------------------------------------------------------------------------------------


def test_waiting_until_another_process_seals_it(files, chain):
    def seal() -> None:
        time.sleep(0.2)
        with files.working() as work:
            work.sealer.resume()
            work.sealer.seal_backlog(10)

    thread = threading.Thread(target=seal)
    thread.start()
    receipt = chain.wait_sealed("event-122", timeout=60)
    thread.join()
    assert (receipt.sealed, receipt.block) == (True, 13)


def test_waiting_in_a_coroutine(files, chain):
    async def both() -> list[Receipt]:
        waiting = [asyncio.create_task(chain.wait_sealed_async(f"event-{n}", timeout=60)) for n in (5, 119)]
        await asyncio.to_thread(seal)
        return await asyncio.gather(*waiting)

    def seal() -> None:
        with files.working() as work:
            work.sealer.resume()
            work.sealer.seal_all()

    assert [receipt.block for receipt in asyncio.run(both())] == [1, 12]


def test_confirmations_are_waited_for(chain):
    assert chain.wait_sealed("event-90", confirmations=0, timeout=0).block == 10
    assert chain.wait_sealed("event-80", confirmations=1, timeout=0).confirmations == 1
    with pytest.raises(NotSealedError, match="with 1 blocks on top"):
        chain.wait_sealed("event-90", confirmations=1, timeout=0.01)


def test_the_time_is_over(files):
    seconds = iter(range(100))
    with files.opened() as (store, events):
        waiting = Waiting(store, events, "event-110", timeout=5, clock=lambda: next(seconds))
        assert waiting.look() == pytest.approx(0.05)
        with pytest.raises(NotSealedError, match="after 5 s"):
            [waiting.look() for _ in range(10)]


# -- the feed -----------------------------------------------------------------------------------------


def test_the_feed_ends_where_sealing_does(files, chain):
    assert ids(chain.sealed_events()) == [f"event-{n}" for n in range(100)]
    assert ids(chain.sealed_events(after=97)) == ["event-97", "event-98", "event-99"]
    assert ids(chain.sealed_events(after=100)) == []
    with files.working() as work:
        work.sealer.resume()
        work.sealer.seal_backlog(10)
    assert ids(chain.sealed_events(after=100)) == [f"event-{n}" for n in range(100, 125)]


def test_positions_with_gaps(files, chain):
    """A position that no event has is as good a place to go on from."""
    assert files.sql(files.events_file, "DELETE FROM events WHERE position > 120") == 5
    assert ids(chain.sealed_events(after=0)) == [f"event-{n}" for n in range(100)]


def test_late_events_come_in_the_logs_order(tmp_path):
    files = new_chain(tmp_path, Policy(0x2100FFFF, 64, 1000, 5, "eventchain-sqlite/1"))
    with files.working() as work:
        work.append(0, 20)
        files.sql(files.events_file, "UPDATE events SET position = position + 100 WHERE position > 10")
        files.sql(files.events_file, "CREATE TABLE aside AS SELECT * FROM events WHERE position < 4")
        files.sql(files.events_file, "DELETE FROM events WHERE position < 4")
        work.sealer.seal_backlog(64)
        files.sql(files.events_file, "INSERT INTO events SELECT * FROM aside")
        files.sql(files.events_file, "DROP TABLE aside")
        work.append(200, 2)
        work.sealer.seal_backlog(64)
    with files.opened() as (store, events):
        positions = [
            position
            for batch in Chain(events, store).sealed_events()
            for position in batch["position"].to_pylist()
        ]
        again = [
            position
            for batch in Chain(events, store).sealed_events(after=2)
            for position in batch["position"].to_pylist()
        ]
        elsewhere = [
            position
            for batch in Chain(events, store).sealed_events(after=50)  # which no event has
            for position in batch["position"].to_pylist()
        ]
    assert positions == [*range(4, 11), *range(111, 121), 1, 2, 3, 121, 122]
    assert again == [3, 121, 122]
    assert elsewhere == [*range(111, 121), 1, 2, 3, 121, 122]


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE events SET data = x'00' WHERE position = 50", "position 50 is not what was sealed"),
        ("DELETE FROM events WHERE position = 50", "position 50 is missing"),
        ("UPDATE events SET type = 'withdrawn' WHERE position = 100", "100 is not what was sealed"),
    ],
)
def test_the_feed_gives_nothing_that_was_changed(files, chain, statement, said):
    assert files.sql(files.events_file, statement) == 1
    with pytest.raises(StoreError, match=said):
        ids(chain.sealed_events())


def test_an_empty_chain_feeds_nothing(tmp_path):
    with new_chain(tmp_path).opened() as (store, events):
        assert list(Chain(events, store).sealed_events()) == []


# -- the command line ---------------------------------------------------------------------------------


def run(files: Files, *arguments: str):
    config = files.folder / "eventchain.toml"
    config.write_text('store = "sqlite:///events.db"\nchain = "sqlite:///chain.db"\n')
    return CliRunner().invoke(cli, [*arguments, "-C", str(config)])


def test_commands(files):
    sealed = run(files, "receipt", "event-34", "--json")
    assert sealed.exit_code == 0
    assert json.loads(sealed.stdout)["block"] == 4
    assert "sealed in block 4, 6 sealed blocks on top" in run(files, "receipt", "event-34").stdout
    pending = run(files, "receipt", "event-122")
    assert (pending.exit_code, "in no block yet" in pending.stdout) == (1, True)
    built = run(files, "receipt", "event-110", "--json")
    assert (built.exit_code, json.loads(built.stdout)["state"]) == (1, "pending")
    assert run(files, "receipt", "nobody").exit_code == 2
    assert run(files, "wait", "event-34", "--confirmations", "6").exit_code == 0
    late = run(files, "wait", "event-110", "--timeout", "0.01", "--json")
    assert late.exit_code == 1
    assert json.loads(late.stdout)["state"] == "pending"
    assert "not sealed" in late.stderr


def test_batches_are_of_the_events_schema(chain):
    (batch, *_) = chain.sealed_events()
    assert isinstance(batch, pa.RecordBatch)
