"""The command line on real stores: every command, exit codes, JSON, bad input, interruption."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import run
from eventsourcing.sqlite import SQLiteApplicationRecorder, SQLiteDatastore
from waiting import wait_for

from eventchain.chain.build import Builder
from eventchain.chain.proof import check_proof
from eventchain.chain.view import ChainView, Hidden, events_of
from eventchain.chainstores import open_chain_store
from eventchain.cli import COMMANDS
from eventchain.cli.common import about, announce, counted
from eventchain.config import Config
from eventchain.contracts.event_store import NewEvent
from eventchain.eventstores import open_event_store
from eventchain.formats.header import bits_for_difficulty
from eventchain.formats.policy import Policy
from eventchain.interchange import read_events
from eventchain.mining.backends import Choice, open_backend, survey

PERMITS = Path(__file__).parents[3] / "shared" / "data" / "permits.cloudevents.jsonl.gz"
EVENTS = 300
COMMAND = [sys.executable, "-c", "from eventchain.cli import main; main()"]


def append(folder: Path, count: int, first: int = 0) -> None:
    store = open_event_store(f"sqlite:///{folder}/events.db")
    for stream in range(3):
        numbers = [number for number in range(first, first + count) if number % 3 == stream]
        store.append(
            f"account-{stream}",
            None,
            [NewEvent(f"e{n}", "Deposited", b'{"amount": %d}' % n, None, n) for n in numbers],
        )
    store.close()


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 300 events sealed at 8 bits in blocks of up to 50."""
    folder = tmp_path_factory.mktemp("sealed")
    run("init", "-C", folder / "eventchain.toml", "--origin", "example.com/bank", "--difficulty", 8,
        "--block-events", 50, "--backend", "reference")  # fmt: skip
    append(folder, EVENTS)
    run("mine", "-C", folder / "eventchain.toml")
    return folder


@pytest.fixture
def chain(sealed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, as the working folder: its configuration is the default one."""
    folder = tmp_path / "a folder"
    shutil.copytree(sealed, folder)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("EVENTCHAIN_CONFIG", raising=False)
    return folder


def sql(file: Path, statement: str) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute(statement)
    connection.close()


def links(folder: Path, file: str = "chain.db") -> list[bytes]:
    """What every block says, and so its link."""
    with sqlite3.connect(folder / file) as connection:
        rows = connection.execute("SELECT manifest FROM blocks ORDER BY branch, height").fetchall()
    connection.close()
    return [row[0] for row in rows]


# -- init ---------------------------------------------------------------------------------------------


def test_init_makes_a_chain_that_verifies(tmp_path: Path) -> None:
    config = tmp_path / "eventchain.toml"
    made = json.loads(run("init", "-C", config, "--difficulty", 8, "--backend", "reference", "--json").stdout)
    assert made["hashes_per_block"] == 256
    assert made["seconds_per_block"] == pytest.approx(256 / made["hashes_per_second"], rel=0.01)
    assert str(Config.load(config).anchor) == made["anchor"]
    assert {"eventchain.toml", "events.db", "chain.db"} <= set(os.listdir(tmp_path))
    assert "clean, anchored at block 0" in run("verify", "-C", config).stdout


def test_init_says_what_a_block_costs_and_what_to_keep(tmp_path: Path) -> None:
    options = ["--origin", "a/b", "--difficulty", 8, "--backend", "reference"]
    result = run("init", "-C", tmp_path / "c.toml", *options)
    assert "a/b 0 " in result.stdout
    assert "8 bits: 256 hashes a block, about " in result.stdout
    assert "outside the reach" in result.stderr


def test_init_overwrites_nothing(chain: Path) -> None:
    before = {name: (chain / name).read_bytes() for name in ("eventchain.toml", "chain.db", "events.db")}
    assert "exists already" in run("init", code=2).stderr
    assert "chain.db exists already" in run("init", "-C", "other.toml", code=2).stderr
    assert before == {name: (chain / name).read_bytes() for name in before}
    assert not (chain / "other.toml").exists()


@pytest.mark.parametrize(
    "args",
    [
        ["--backend", "reference", "--device", "7"],
        ["--backend", "nonsense"],
        ["--origin", "No Origin"],
        ["--origin", ""],
        ["--chain", "sqlite:///:memory:"],
        ["--store", "sqlite:///:memory:"],
        ["--chain", "nonsense://x"],
        ["--store", "nonsense://x"],
        ["--store", "eventsourcing+sqlite:///absent.db"],
        ["--chain", "sqlite:///nowhere/chain.db"],
        ["--chain", "sqlite:///same.db", "--store", "sqlite:///same.db"],
        ["--difficulty", "300"],
        ["--lag", "0"],
    ],
)
def test_a_failed_init_leaves_nothing_behind(args: list[str], tmp_path: Path) -> None:
    options = args if "--backend" in args else [*args, "--backend", "reference"]
    result = run("init", "-C", tmp_path / "eventchain.toml", *options, code=2)
    assert result.stderr
    assert "backend reference" not in result.stderr  # all is checked before devices are measured
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_an_interrupted_init_leaves_nothing_behind(tmp_path: Path, number: int, code: int) -> None:
    # 2^60 hashes: it would mine its genesis for ever.
    process = subprocess.Popen(
        [*COMMAND, "init", "--difficulty", "60", "--backend", "reference"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    said = [process.stderr.readline() for _ in range(3)]  # before the genesis is mined
    assert said[1].startswith("mining the genesis: 1.15 E hashes a block, about ")
    assert "warning: every block takes that long" in said[2]
    time.sleep(0.3)
    assert _size(tmp_path / "chain.db") > 0
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in err
    assert os.listdir(tmp_path) == []


def test_of_two_inits_at_once_one_wins(tmp_path: Path) -> None:
    command = [*COMMAND, "init", "--difficulty", "8", "--backend", "reference"]
    quiet: dict[str, Any] = {"cwd": tmp_path, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    both = [subprocess.Popen(command, **quiet) for _ in range(2)]
    assert sorted(process.wait(60) for process in both) == [0, 2]
    assert "clean" in run("verify", "-C", tmp_path / "eventchain.toml").stdout


def test_a_chain_whose_genesis_was_linked_and_never_mined(tmp_path: Path) -> None:
    open_event_store(f"sqlite:///{tmp_path}/events.db", create=True).close()
    store = open_chain_store(f"sqlite:///{tmp_path}/chain.db", create=True)
    with store.writer(), store.transaction():
        policy = Policy(bits_for_difficulty(8), 10, 10, 0, "eventchain-sqlite/1")
        Builder(store, time.time).add_genesis("x", policy)
    store.close()
    config = tmp_path / "c.toml"
    config.write_text('store = "sqlite:///events.db"\nchain = "sqlite:///chain.db"\n')
    assert "sealed      nothing" in run("status", "-C", config, "--rate", "1M").stdout
    assert "not mined yet" in run("show", 0, "-C", config).stdout
    run("mine", "-C", config, "--backend", "reference")
    assert "sealed      through block 0" in run("status", "-C", config, "--rate", "1M").stdout


def test_init_seals_a_store_that_is_there_already(tmp_path: Path) -> None:
    open_event_store(f"sqlite:///{tmp_path}/events.db", create=True).close()
    append(tmp_path, 9)
    config = tmp_path / "eventchain.toml"
    run("init", "-C", config, "--difficulty", 8, "--backend", "reference")
    run("mine", "-C", config)
    assert json.loads(run("verify", "-C", config, "--json").stdout)["events"] == 9


# -- mine ---------------------------------------------------------------------------------------------


def test_mine_reports_what_it_did(chain: Path) -> None:
    append(chain, 120, EVENTS)
    result = run("mine", "--json", "--block-events", 40)
    done = json.loads(result.stdout)
    assert (done["events_sealed"], done["blocks_sealed"], done["blocks_unsealed"]) == (120, 3, 0)
    assert done["sealed_position"] == EVENTS + 120
    append(chain, 1, EVENTS + 120)
    assert json.loads(run("mine", "--json", "--duty", "50%").stdout)["events_sealed"] == 1
    assert done["events_per_second"] > 0
    assert "backend reference: hashlib" in result.stderr
    again = json.loads(run("mine", "--json").stdout)
    assert (again["events_built"], again["blocks_sealed"]) == (0, 0)
    assert run("mine").stdout.startswith("nothing to seal")
    assert "nothing to link" in run("mine", "--link-only").stdout


def test_linked_blocks_are_mined_later(chain: Path) -> None:
    append(chain, 100, EVENTS)
    assert "linked 100 events in 2 blocks" in run("mine", "--link-only").stdout
    result = run("verify", "--json")
    *findings, verdict = map(json.loads, result.stdout.splitlines())
    assert [finding["kind"] for finding in findings if finding["notice"]] == ["unsealed-tail"]
    assert verdict["blocks"] - verdict["sealed_blocks"] == 2
    status = json.loads(run("status", "--json", "--rate", "1M").stdout)
    assert (status["linked_blocks"], status["linked_events"], status["backlog_events"]) == (2, 100, 100)
    assert "not mined yet" in run("show", status["built_height"]).stdout
    before = links(chain)
    assert json.loads(run("mine", "--json").stdout)["events_sealed"] == 100
    assert links(chain) == before
    assert "clean" in run("verify").stdout


def test_option_comes_before_environment_before_configuration(
    chain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no backend 'first'" in run("mine", "--backend", "first", code=2).stderr
    monkeypatch.setenv("EVENTCHAIN_BACKEND", "second")
    assert "no backend 'second'" in run("mine", code=2).stderr
    assert "no backend 'first'" in run("mine", "--backend", "first", code=2).stderr
    monkeypatch.delenv("EVENTCHAIN_BACKEND")
    text = (chain / "eventchain.toml").read_text()
    (chain / "eventchain.toml").write_text(text.replace('"reference"', '"third"'))
    assert "no backend 'third'" in run("mine", code=2).stderr
    monkeypatch.setenv("EVENTCHAIN_DEVICE", "9")
    assert "no device matches '9'" in run("mine", "--backend", "reference", code=2).stderr


def test_the_configuration_is_named_by_the_environment(
    chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "no configuration file" in run("status", code=2).stderr
    monkeypatch.setenv("EVENTCHAIN_CONFIG", str(chain / "eventchain.toml"))
    assert "example.com/bank" in run("status", "--rate", "1M").stdout


def test_a_second_writer_is_refused(chain: Path) -> None:
    store = open_chain_store("sqlite:///chain.db")
    with store.writer():
        done = subprocess.run([*COMMAND, "mine"], capture_output=True, text=True, check=False)
    store.close()
    assert done.returncode == 2
    assert "error: another writer holds" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_interrupted_mine_goes_on_and_verifies(tmp_path: Path) -> None:
    config = tmp_path / "eventchain.toml"
    run("init", "-C", config, "--difficulty", 13, "--block-events", 10, "--backend", "reference")
    append(tmp_path, 600)
    process = subprocess.Popen(  # it rests after a few blocks, however slowly we look
        [*COMMAND, "mine", "-C", str(config), "--duty", "1%"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for(lambda: _mined(tmp_path) > 3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the next `eventchain mine` goes on" in err
    assert "Traceback" not in err
    found = _headers(tmp_path)
    assert 3 < len(found) < 61
    run("mine", "-C", config)
    assert [header for header in _headers(tmp_path) if header in found] == found  # nothing is mined again
    verdict = json.loads(run("verify", "-C", config, "--json").stdout)
    assert (verdict["verdict"], verdict["events"], verdict["sealed_blocks"]) == ("clean", 600, 61)


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _headers(folder: Path) -> list[bytes]:
    """Headers that are mined, by height."""
    with sqlite3.connect(folder / "chain.db") as connection:
        rows = connection.execute("SELECT header FROM blocks ORDER BY height").fetchall()
    connection.close()
    return [row[0] for row in rows if row[0][68:72] != bytes(4)]


def _mined(folder: Path) -> int:
    return len(_headers(folder))


# -- verify -------------------------------------------------------------------------------------------


def test_findings_name_the_event(chain: Path) -> None:
    sql(chain / "events.db", "UPDATE events SET data = CAST('{}' AS BLOB) WHERE position = 77")
    result = run("verify", "--json", code=1)
    finding, verdict = map(json.loads, result.stdout.splitlines())
    assert (finding["kind"], finding["position"], finding["notice"]) == ("altered", 77, False)
    assert finding["id"] == "e228"  # the 77th of account-0's hundred
    assert finding["stream"] == "account-0"
    assert (verdict["verdict"], verdict["findings"], verdict["anchors_to_keep"]) == ("findings", 1, [])
    text = run("verify", code=1).stdout
    assert "altered: example.com/bank block 2, position 77, stream account-0, event e228" in text
    assert "verdict: 1 finding in" in text


def test_text_from_the_store_cannot_act_on_the_terminal(chain: Path) -> None:
    sql(chain / "events.db", "UPDATE events SET stream = char(27) || '[2J' WHERE position = 5")
    output = run("verify", code=1).stdout + run("show", "--position", 5).stdout
    assert "\x1b" not in output
    assert "\\x1b[2J" in output


def test_an_anchor_file_is_made_met_and_renewed(chain: Path) -> None:
    first = run("verify", "--anchor", "anchor.txt")
    assert "anchor.txt does not exist yet" in first.stderr
    made = Path("anchor.txt").read_text()
    assert made.strip() in first.stdout
    append(chain, 60, EVENTS)
    run("mine")
    verdict = json.loads(run("verify", "--json", "--anchor", "anchor.txt").stdout)
    assert (verdict["anchors"], verdict["anchored_height"]) == (2, 6)
    assert Path("anchor.txt").read_text() == verdict["anchors_to_keep"][0] + "\n" != made


def test_a_cut_off_tail_is_found_with_an_anchor_and_the_anchor_is_kept(chain: Path) -> None:
    shutil.copytree(chain, "older")
    append(chain, 60, EVENTS)
    run("mine")
    run("verify", "--anchor", "anchor.txt")
    kept = Path("anchor.txt").read_text()
    sql(chain / "events.db", f"DELETE FROM events WHERE position > {EVENTS}")
    older = ["--chain", "sqlite:///older/chain.db"]
    assert "clean" in run("verify", *older).stdout
    result = run("verify", "--json", "--anchor", "anchor.txt", *older, code=1)
    assert [json.loads(line).get("kind") for line in result.stdout.splitlines()] == ["anchor", None]
    assert Path("anchor.txt").read_text() == kept


def test_an_auditor_needs_no_configuration(chain: Path, tmp_path: Path) -> None:
    shutil.move("eventchain.toml", tmp_path / "elsewhere.toml")
    urls = ["--store", "sqlite:///events.db", "--chain", "sqlite:///chain.db"]
    result = run("verify", *urls)
    assert "verdict: self-consistent only" in result.stdout
    assert "No anchor was given" in result.stderr
    genesis = Config.load(tmp_path / "elsewhere.toml").anchor
    Path("genesis.txt").write_text(f"{genesis}\n")
    assert "verdict: clean" in run("verify", *urls, "--anchor", "genesis.txt").stdout


def test_a_broken_anchor_file_is_refused_and_kept(chain: Path) -> None:
    Path("anchor.txt").write_text("not an anchor")
    assert "anchor.txt holds no anchor" in run("verify", "--anchor", "anchor.txt", code=2).stderr
    assert Path("anchor.txt").read_text() == "not an anchor"


@pytest.mark.parametrize("name", ["events.db", "chain.db", "eventchain.toml"])
def test_a_file_that_holds_no_anchors_is_never_overwritten(chain: Path, name: str) -> None:
    before = Path(name).read_bytes()
    assert f"{name} holds no anchor" in run("verify", "--anchor", name, code=2).stderr
    assert Path(name).read_bytes() == before


def test_anchors_of_another_chain_are_never_overwritten(chain: Path, tmp_path: Path) -> None:
    run("init", "-C", tmp_path / "o.toml", "--origin", "other", "--difficulty", 8, "--backend", "reference")
    run("verify", "-C", tmp_path / "o.toml", "--anchor", "other.txt")
    before = Path("other.txt").read_text()
    assert "anchor: other" in run("verify", "--anchor", "other.txt", code=1).stdout
    assert Path("other.txt").read_text() == before


def test_a_folder_that_cannot_take_anchors_is_named_before_anything_is_read(chain: Path) -> None:
    sql(chain / "events.db", "UPDATE events SET time = 0 WHERE position = 77")  # a finding, were it read
    result = run("verify", "--anchor", "nowhere/anchor.txt", code=2)
    assert "there is no folder for the anchors of nowhere/anchor.txt" in result.stderr
    assert "hint: make " in result.stderr
    assert result.stdout == ""


def test_anchors_are_written_though_nobody_reads_the_verdict(chain: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [*COMMAND, "verify", "--anchor", "anchor.txt"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert done.returncode == 141
    assert Path("anchor.txt").read_text().startswith("example.com/bank 6 ")


# -- status -------------------------------------------------------------------------------------------


def test_status_counts_and_prices(chain: Path) -> None:
    append(chain, 70, EVENTS)
    status = json.loads(run("status", "--json", "--rate", "2.56 kH/s", "--from", 1, "--from", 6).stdout)
    assert status["origin"] == "example.com/bank"
    assert (status["sealed_height"], status["sealed_position"], status["sealed_events"]) == (6, 300, 300)
    assert (status["event_store_head"], status["backlog_events"], status["backlog_blocks"]) == (370, 70, 2)
    assert status["total_work"] == 7 * 256
    whole, last = status["rewrite"]
    assert (whole["from_block"], whole["least_blocks"], whole["least_hashes"]) == (1, 6, 6 * 256)
    assert whole["seconds"]["host"] == pytest.approx(0.6)
    assert whole["seconds"]["gpu"] == pytest.approx(6 * 256 / 10e9)
    assert whole["seconds"]["asic"] == pytest.approx(6 * 256 / 100e12)
    assert (last["events"], last["least_blocks"]) == (50, 1)


def test_a_forger_is_priced_by_the_policy_and_not_by_how_the_blocks_were_cut(chain: Path) -> None:
    append(chain, 100, EVENTS)
    run("mine", "--block-events", 1)
    (cost,) = json.loads(run("status", "--json", "--rate", "1M", "--from", 7).stdout)["rewrite"]
    assert (cost["blocks"], cost["hashes"]) == (100, 100 * 256)
    assert (cost["least_blocks"], cost["least_hashes"]) == (2, 2 * 256)


def test_status_in_words(chain: Path) -> None:
    text = run("status").stdout
    assert "sealed      through block 6, position 300 (300 events)" in text
    assert "10 GH/s" in text
    assert "100 TH/s" in text
    assert "ceil(m / events)" in text
    assert "block 7 is not sealed" in run("status", "--from", 7, code=2).stderr


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_no_number_is_wrapped_or_cut_however_narrow_the_terminal(chain: Path, columns: int) -> None:
    ours, theirs = os.openpty()
    command = [*COMMAND, "status", "--rate", "123M", "--gpu-rate", "1.23G"]
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm"}
    subprocess.run(command, stdout=theirs, stderr=subprocess.DEVNULL, env=environment, check=True)
    os.close(theirs)
    said = b""
    with suppress(OSError):  # when nothing is left, as the other end is closed
        while part := os.read(ours, 10_000):
            said += part
    os.close(ours)
    text = click.unstyle(said.decode()).partition("The least")[0]
    lines = text.partition("total work")[2].splitlines()[1:]
    assert max(map(len, lines)) <= columns
    assert "…" not in text
    for whole in ("123 MH/s", "1.23 GH/s", "1.54 k", "12.5 µs", "under 1 µs"):
        assert whole in text
    assert ("rewrite from block 1" in text) == (columns < 80)  # lines instead of the table


# -- show ---------------------------------------------------------------------------------------------


def test_show_a_block(chain: Path) -> None:
    block = json.loads(run("show", 6, "--json").stdout)
    assert (block["state"], block["leaves"], block["manifest"][0]) == ("sealed", 50, "example.com/bank")
    assert block["header"]["bits"] == "2000ffff"
    anchor = json.loads(run("verify", "--json").stdout)["anchors_to_keep"][0]
    assert anchor == f"example.com/bank 6 {block['link']} {block['seal']}"
    text = run("show", "6").stdout
    assert "height 6" in text
    assert block["seal"] in text


def test_show_an_event_by_id_and_by_position(chain: Path) -> None:
    (event,) = json.loads(run("show", "e228", "--json").stdout)
    assert event == json.loads(run("show", 77, "--json").stdout)[0]
    assert (event["state"], event["block"], event["as_sealed"]) == ("sealed", 2, True)
    assert event["data"] == '{"amount": 228}'
    assert "block 1 of" in run("show", 1).stdout
    assert "e0" in run("show", "--position", 1).stdout
    assert "there is no" in run("show", "nothing", code=2).stderr
    assert "there is no block 77" in run("show", "--block", 77, code=2).stderr


def test_an_outsider_can_recompute_the_proof(chain: Path) -> None:
    result = run("show", "e228", "--proof")
    assert "The proof holds against block 6" in result.stderr
    proof = json.loads(result.stdout)
    b64 = base64.b64decode

    def h(*parts: bytes) -> bytes:
        return hashlib.sha256(b"".join(parts)).digest()

    data = b64(proof["event"]["data_base64"])
    assert data == b'{"amount": 228}'
    commitment = h(b"\x03", b64(proof["salt"]), struct.pack(">Q", len(data)), data, b"\xff" * 8)
    entry = b64(proof["entry_base64"])
    assert entry.endswith(commitment)
    assert b"account-0" in entry
    node = h(b"\x00", entry)
    assert node == b64(proof["leaf"])
    index, last = proof["index"], proof["size"] - 1
    for step in map(b64, proof["path"]):  # RFC 9162, 2.1.3.2
        if index & 1 or index == last:
            node = h(b"\x01", step, node)
            while not index & 1 and index:
                index, last = index >> 1, last >> 1
        else:
            node = h(b"\x01", node, step)
        index, last = index >> 1, last >> 1
    block = proof["block"]
    manifest = block["manifest"].encode()
    assert b64(manifest.split(b"\n")[2]) == node
    header = bytes.fromhex(block["header"])
    assert header[36:68] == h(h(manifest, struct.pack(">Q", block["extranonce"])))
    assert int.from_bytes(h(h(header)), "little") < 2**248
    link = b64(block["link"])
    assert h(b"\x02", b64(block["previous_seal"]), link, header, bytes(8)) == b64(block["seal"])


def test_every_event_has_a_proof_and_a_changed_proof_does_not_hold(chain: Path) -> None:
    store, events = open_chain_store("sqlite:///chain.db"), open_event_store("sqlite:///events.db")
    view = ChainView(store)
    for event in events_of(events.read(None, EVENTS))[::7]:
        proof = view.prove(event)
        assert check_proof(proof) == []
        other = replace(proof.block, header=bytes(80))
        for changed in (
            replace(proof, event=event._replace(version=event.version + 1)),
            replace(proof, event=event._replace(metadata=b"")),  # it was null
            replace(proof, hidden=Hidden(bytes(16))),
            replace(proof, index=proof.index ^ 1),
            replace(proof, path=proof.path[1:]),
            replace(proof, path=(*proof.path, bytes(32))),
            replace(proof, block=other),
            replace(proof, block=replace(proof.block, extranonce=1)),
            replace(proof, block=replace(proof.block, previous_seal=bytes(32))),
        ):
            assert check_proof(changed)
    events.close()
    store.close()


def test_the_proof_of_an_altered_event_does_not_hold(chain: Path) -> None:
    sql(chain / "events.db", "UPDATE events SET time = time + 1 WHERE position = 77")
    assert "is not the one that was sealed" in run("show", "e228", "--proof", code=1).stderr
    assert json.loads(run("show", "e228", "--json").stdout)[0]["as_sealed"] is False


def test_an_event_that_is_not_sealed_has_no_proof(chain: Path) -> None:
    append(chain, 30, EVENTS)
    (event,) = json.loads(run("show", "e300", "--json").stdout)
    assert event["state"] == "not in the chain yet"
    assert "not in the chain yet" in run("show", "e300", "--proof", code=2).stderr
    run("mine", "--link-only")
    assert "not sealed yet" in run("show", "e300", "--proof", code=2).stderr
    assert "salt" not in run("show", "e300").stdout


# -- backends and bench -------------------------------------------------------------------------------


def test_backends_lists_devices_or_reasons() -> None:
    found = json.loads(run("backends", "--json").stdout)
    assert {"reference", "cpu", "opencl", "cuda"} <= {one["name"] for one in found}
    for one in found:
        assert one["devices"] or one["reason"]
    assert "reference\n  0: hashlib, one core" in run("backends").stdout


def test_devices_are_announced_and_those_set_aside_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    devices = tuple(open_backend("reference").devices)
    announce(Choice("reference", devices, {"cuda": "no CUDA device", "card 2": "it failed"}))
    said = capsys.readouterr().err
    assert said == "backend reference: hashlib, one core\nset aside: card 2: it failed\n"


def test_bench_ends_by_itself_with_a_number_each() -> None:
    (row,) = json.loads(run("bench", "--backend", "reference", "--seconds", 0.05, "--json").stdout)
    assert row["backend"] == "reference"
    assert row["one_header_mhs"] > 0
    assert row["many_headers_mhs"] > 0
    assert "MH/s" in run("bench", "--backend", "reference", "--seconds", 0.05).stdout
    run("bench", "--backend", "nonsense", code=2)


def test_words_for_numbers() -> None:
    assert [counted(n, "event") for n in (0, 1, 2000)] == ["0 events", "1 event", "2,000 events"]
    assert (about(1e-9), about(252)) == ("under 1 µs", "about 4.2 min")


# -- bad input, pipes, imports ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args",
    [
        ["nonsense"],
        ["status", "--nonsense"],
        ["mine", "--block-events", "0"],
        ["mine", "--duty", "0%"],
        ["mine", "--duty", "101"],
        ["mine", "--duty", "half"],
        ["mine", "--device", "99"],
        ["verify", "--store", "nonsense"],
        ["verify", "--chain", "sqlite:///absent.db"],
        ["verify", "--chain", "sqlite:///eventchain.toml"],
        ["verify", "--chain", "sqlite:///events.db"],
        ["verify", "--store", "sqlite:///chain.db"],
        ["verify", "--anchor", "nowhere/anchor.txt"],
        ["verify", "--anchor", "eventchain.toml/anchor.txt"],
        ["verify", "--anchor", os.devnull],
        ["verify", "--anchor", "chain.db"],
        ["status", "--rate", "fast"],
        ["status", "--rate", "-5"],
        ["status", "--from", "-1"],
        ["show"],
        ["show", "9" * 40],
        ["show", ""],
        ["show", "--position", str(2**63)],
        ["show", "--block", "x"],
        ["show", "--block", "1", "--proof"],
        ["import", "absent.jsonl"],
        ["import", "chain.db"],
        ["export", "nowhere/events.jsonl"],
        ["bench", "--seconds", "0"],
        ["status", "-C", "."],
        ["status", "-C", "chain.db"],
    ],
)
def test_bad_input_is_a_message_and_exit_2(args: list[str], chain: Path) -> None:
    result = run(*args, code=2)
    assert "rror: " in result.stderr
    assert result.exception is None or isinstance(result.exception, SystemExit)


def test_a_chain_store_without_a_chain(chain: Path) -> None:
    open_chain_store("sqlite:///empty.db", create=True).close()
    text = Path("eventchain.toml").read_text().replace("chain.db", "empty.db")
    Path("eventchain.toml").write_text(text)
    for command in (["mine"], ["mine", "--link-only"], ["status"], ["show", "1"]):
        assert "holds no chain" in run(*command, code=2).stderr
    assert "anchor" in run("verify", code=1).stdout


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_command_explains_itself(command: str) -> None:
    assert "Usage: " in run(command, "--help").stdout
    summary = next(
        line for line in run("--help").stdout.splitlines() if line.strip().startswith(command + " ")
    )
    assert not summary.endswith("...")


@pytest.mark.parametrize(
    "command", [["show", "1"], ["status", "--rate", "1M"], ["tree"], ["tree", "--svg", "-"]]
)
def test_a_reader_that_goes_away_is_no_error(chain: Path, command: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*COMMAND, *command], stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert done.returncode == 141
    assert done.stderr == b""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("args", [["show", "1"], ["verify", "--json"], ["--help"]])
def test_a_full_disk_is_a_message_and_exit_2(
    chain: Path, args: list[str], unbuffered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    with open("/dev/full", "w") as full:
        done = subprocess.run([*COMMAND, *args], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert "error: cannot write to standard output: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert "ignored" not in done.stderr


def test_closed_streams_are_no_trouble(chain: Path) -> None:
    for closed in (">&-", "2>&-", "<&- >&- 2>&-"):
        script = f'"$@" {closed}'
        done = subprocess.run(
            ["sh", "-c", script, "sh", *COMMAND, "status", "--rate", "1M"], capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        assert ("total work" in done.stdout) == (closed == "2>&-")


def test_an_interruption_at_the_very_start_is_quiet() -> None:
    script = """if True:
        import signal, sys
        class Interrupts:  # as when Ctrl-C falls into the imports
            def find_spec(self, name, path=None, target=None):
                if name == sys.argv[1]:
                    signal.raise_signal(signal.SIGINT)
        sys.meta_path.insert(0, Interrupts())
        from eventchain.__main__ import main
        main()
    """
    for name in ("eventchain.cli", "click"):
        done = subprocess.run(
            [sys.executable, "-c", script, name], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (130, "")


def test_help_is_quick_since_it_loads_nothing_but_click() -> None:
    script = """if True:
        import sys
        before = set(sys.modules)
        from eventchain.cli import cli
        cli(["--help"], standalone_mode=False)
        loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
        more = loaded - set(sys.stdlib_module_names) - {"click", "eventchain"}
        sys.exit(f"loaded {more}" if more else 0)
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_loads_nothing_heavy() -> None:
    script = """if True:
        import sys, eventchain
        heavy = {"numpy", "pyarrow", "sqlalchemy", "click", "rich"} & set(sys.modules)
        assert not heavy, heavy
        assert eventchain.__version__ and eventchain.Config
        assert not hasattr(eventchain, "nonsense")
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_same_in_python(chain: Path) -> None:
    import eventchain

    append(chain, 20, EVENTS)
    with eventchain.open_chain() as opened:
        with opened.sealing("reference") as sealer:
            sealer.seal_backlog(10)
            assert sealer.progress.events_sealed == 20
        report = opened.verify()
        assert (report.verdict, report.events) == ("clean", EVENTS + 20)


# -- import and export --------------------------------------------------------------------------------


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A chain with no events, as the working folder."""
    monkeypatch.chdir(tmp_path)
    run("init", "--difficulty", 8, "--backend", "reference")
    return tmp_path


def test_events_come_back_from_every_kind_of_file(chain: Path, tmp_path: Path) -> None:
    exported = subprocess.run([*COMMAND, "export", "-"], capture_output=True, check=True).stdout
    assert len(exported.splitlines()) == EVENTS
    for name in ("events.jsonl", "events.jsonl.gz", "events.parquet"):
        assert f"exported {EVENTS} events" in run("export", name).stderr
        assert "--force replaces it" in run("export", name, code=2).stderr
    assert Path("events.jsonl").read_bytes() == exported
    other = tmp_path / "other.toml"
    urls = ["--store", "sqlite:///b.db", "--chain", "sqlite:///c.db"]
    run("init", "-C", other, *urls, "--difficulty", 8, "--backend", "reference")
    piped = [*COMMAND, "import", "-", "-C", str(other)]
    done = subprocess.run(piped, input=exported, capture_output=True, check=True)
    assert done.stdout.startswith(b"imported 300 events")
    for name in ("events.jsonl", "events.jsonl.gz", "events.parquet"):
        run("export", "again.jsonl", "-C", other, "--force")
        assert Path("again.jsonl").read_bytes() == exported
        sql(tmp_path / "b.db", "DELETE FROM events")  # an id may be there once only
        assert json.loads(run("import", name, "-C", other, "--json").stdout)["events"] == EVENTS
    run("export", "again.jsonl", "-C", other, "--force")
    assert Path("again.jsonl").read_bytes() == exported


@pytest.mark.parametrize("command", [["export", "--force"], ["tree", "--svg"]])
def test_what_is_no_ordinary_file_is_not_replaced(chain: Path, command: list[str]) -> None:
    os.mkfifo("pipe.jsonl")
    assert "no ordinary file" in run(*command, "pipe.jsonl", code=2).stderr
    assert Path("pipe.jsonl").is_fifo()


def test_another_applications_store_is_not_written(empty: Path) -> None:
    SQLiteApplicationRecorder(SQLiteDatastore("bank.db")).create_table()
    text = Path("eventchain.toml").read_text()
    Path("bank.toml").write_text(text.replace("sqlite:///events.db", "eventsourcing+sqlite:///bank.db"))
    assert "not ours to write" in run("import", "bank.toml", "-C", "bank.toml", code=2).stderr
    assert "the chain seals events of" in run("mine", "-C", "bank.toml", code=2).stderr
    assert "policy" in run("verify", "-C", "bank.toml", code=1).stdout


def test_a_broken_line_is_named_and_nothing_is_imported(empty: Path) -> None:
    good = '{"specversion":"1.0","id":"%s","source":"/s","type":"t","subject":"a","data":1}'
    Path("events.jsonl").write_text("\n".join([good % "a", good % "b", '{"specversion":"1.0"}']))
    assert "line 3" in run("import", "events.jsonl", code=2).stderr
    assert json.loads(run("status", "--json", "--rate", "1M").stdout)["event_store_head"] is None
    assert "; nothing was imported" in run("import", "events.jsonl", code=2).stderr


GOOD = '{"specversion":"1.0","id":"%s","source":"/s","type":"t","subject":"%s","sequence":"%d","data":1}'


def test_events_that_are_there_already_are_named_by_their_lines(empty: Path) -> None:
    def refused(*lines: str, file: str = "events.jsonl") -> str:
        Path("events.jsonl").write_text("\n".join(lines))
        if file != "events.jsonl":
            pq.write_table(pa.Table.from_batches(read_events("events.jsonl")), file)
        error = run("import", file, code=2).stderr
        assert "; nothing was imported" in error
        assert "hint: " in error
        return error

    a, b = GOOD % ("a", "s", 0), GOOD % ("b", "s", 1)
    said = refused(a, "", b, GOOD % ("a", "s", 2))
    assert "events.jsonl, line 4: event id 'a' stands on line 1 too" in said
    assert "line 2: version 0 of stream 's' stands on line 1 too" in refused(a, GOOD % ("b", "s", 0))
    assert "x.parquet, row 2: event id 'a' stands on row 0 too" in refused(
        a, b, GOOD % ("a", "t", 0), file="x.parquet"
    )
    many = [GOOD % (f"e{n}", "s", n) for n in range(9000)]  # more than a batch
    assert "line 9001: event id 'e7' stands on line 8 too" in refused(*many, GOOD % ("e7", "t", 0))
    assert "line 9001: version 7 of stream 's' stands on line 8 too" in refused(*many, GOOD % ("x", "s", 7))
    assert json.loads(run("status", "--json", "--rate", "1M").stdout)["event_store_head"] is None
    Path("events.jsonl").write_text("\n".join([a, b]))
    assert run("import", "events.jsonl").stdout.startswith("imported 2 events")
    assert "line 1: event id 'a' is in the store already" in refused(a, b)
    assert "line 2: version 1 of stream 's' is in the store already" in refused(
        GOOD % ("c", "s", 2), GOOD % ("d", "s", 1)
    )
    lines = "\n".join([GOOD % ("c", "s", 2), b]).encode()
    done = subprocess.run([*COMMAND, "import", "-"], input=lines, capture_output=True, check=False)
    assert b"standard input, event 2: event id 'b' is in the store already" in done.stderr
    assert json.loads(run("status", "--json", "--rate", "1M").stdout)["event_store_head"] == 2


@pytest.mark.skipif(not PERMITS.exists(), reason="the permits log is not part of the project")
def test_permits_are_sealed_alike_by_every_backend(empty: Path) -> None:
    assert "imported 8,577 events" in run("import", PERMITS).stdout
    run("mine", "--link-only", "--block-events", 100)
    said = links(empty)
    assert len(said) == 87
    usable = {one.name: one.devices for one in survey()}
    for backend in ("reference", "cpu", "opencl"):
        if backend == "opencl" and not usable["opencl"]:
            continue  # the others need nothing
        shutil.copy("chain.db", f"{backend}.db")
        text = Path("eventchain.toml").read_text().replace("chain.db", f"{backend}.db")
        Path(f"{backend}.toml").write_text(text)
        done = json.loads(run("mine", "-C", f"{backend}.toml", "--backend", backend, "--json").stdout)
        assert done["blocks_sealed"] == 86
        verdict = json.loads(run("verify", "-C", f"{backend}.toml", "--json").stdout)
        assert (verdict["verdict"], verdict["events"]) == ("clean", 8577)
        assert links(empty, f"{backend}.db") == said
