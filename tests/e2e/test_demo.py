"""The demonstration, as a user runs it, and the parts that it is made of."""

from __future__ import annotations

import os
import shlex
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventchain.demo import dba
from eventchain.demo.bank import balances, do_business, open_bank
from eventchain.demo.story import difficulty_for, prepare, unnamed
from eventchain.errors import EventChainError


def _run(folder: Path, *arguments: str, code: str | None = None) -> subprocess.CompletedProcess[str]:
    start = ["-m", "eventchain"] if code is None else ["-c", code]
    return subprocess.run(
        [sys.executable, *start, *arguments],
        cwd=folder,
        env={**os.environ, "EVENTCHAIN_BACKEND": "cpu", "EVENTCHAIN_CONFIG": "/nowhere/else.toml"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_names_all_three_edits_and_leaves_everything_in_the_folder(tmp_path: Path) -> None:
    done = _run(tmp_path, "demo", "--folder", "a bank")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All three are named" in done.stdout
    folder = tmp_path / "a bank"
    left = {file.name for file in folder.iterdir()}
    assert left >= {"bank.db", "bank-tampered.db", "chain.db", "eventchain.toml", "anchor.txt"}
    assert not {name for name in left if name.endswith(("-wal", "-shm"))}

    last = [line.strip() for line in done.stdout.splitlines() if line.startswith("  eventchain ")]
    verify, show_block, show_event, help_ = (shlex.split(line, comments=True)[1:] for line in last)
    config = ["-C", "eventchain.toml"]
    tampered = _run(folder, *verify, *config)
    assert tampered.returncode == 1
    assert [line.split(":")[0] for line in tampered.stdout.splitlines()] == [
        "inserted", "altered", "missing", "verdict",
    ]  # fmt: skip
    assert _run(folder, "verify", *config).returncode == 0
    assert _run(folder, *show_block, *config).returncode == 0
    assert "Deposited" in _run(folder, *show_event, *config).stdout
    assert _run(folder, *help_).returncode == 0


def test_refuses_a_folder_with_something_in_it(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("three years of work")
    done = _run(tmp_path, "demo", "--folder", "mine")
    assert done.returncode == 2
    assert "not an empty folder" in done.stderr
    assert "hint:" in done.stderr
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "three years of work"


def test_says_what_to_install_when_the_library_is_missing(tmp_path: Path) -> None:
    code = "import sys; sys.modules['eventsourcing'] = None; from eventchain.cli import main; main()"
    done = _run(tmp_path, "demo", code=code)
    assert done.returncode == 2
    assert 'hint: pip install "eventsourcing>=9.5,<9.6"' in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(EventChainError, match="file"):
            prepare(folder)


@pytest.fixture
def bank_file(tmp_path: Path) -> Path:
    file = tmp_path / "bank.db"
    with open_bank(file) as bank:
        do_business(bank, 200, accounts=10)
    return file


def _business(file: Path) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(file)) as connection:
        query = (
            "SELECT rowid, originator_id, originator_version, topic,"
            " json_extract(CAST(state AS TEXT), '$.amount')"
            " FROM stored_events ORDER BY rowid"
        )
        return connection.execute(query).fetchall()


def test_the_same_seed_does_the_same_business(bank_file: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.db"
    with open_bank(again) as bank:
        do_business(bank, 200, accounts=10)
    assert _business(again) == _business(bank_file)
    assert len(_business(again)) == dba.count(again) > 200


def test_no_account_is_overdrawn_and_transfers_keep_the_sum(bank_file: Path) -> None:
    signs = {"Deposited": 1, "Withdrawn": -1, "Sent": -1, "Received": 1, "Opened": 0}
    rows = _business(bank_file)
    with open_bank(bank_file) as bank:
        held = balances(bank, accounts=10)
    assert all(balance.cents >= 0 for balance in held)
    booked = sum(signs[str(topic).rpartition(".")[2]] * (amount or 0) for *_, topic, amount in rows)  # type: ignore[call-overload]
    assert sum(balance.cents for balance in held) == booked


def test_the_bank_notices_none_of_the_edits(bank_file: Path) -> None:
    before = _business(bank_file)
    with open_bank(bank_file) as bank:
        untouched = balances(bank, accounts=10)
    tamperings = dba.plan(bank_file)
    assert [dba.run(bank_file, one) for one in tamperings] == [1, 1, 1]
    changed = {row[0] for row in set(before) ^ set(_business(bank_file))}
    assert changed == {one.position for one in tamperings}
    with open_bank(bank_file) as bank:
        held = balances(bank, accounts=10)
    richer = [new.cents > old.cents for old, new in zip(untouched, held, strict=True)]
    assert sum(richer) == 3
    assert all(new.cents >= old.cents for old, new in zip(untouched, held, strict=True))


def test_only_the_right_kind_at_the_right_position_counts_as_named(bank_file: Path) -> None:
    tamperings = dba.plan(bank_file)
    right: list[dict[str, object]] = [{"kind": one.kind, "position": one.position} for one in tamperings]
    assert unnamed(tamperings, [*right, {"verdict": "findings"}]) == []
    assert unnamed(tamperings, right[1:]) == tamperings[:1]
    assert unnamed(tamperings, [{**finding, "position": 99_999} for finding in right]) == tamperings
    assert unnamed(tamperings, [{**finding, "kind": "link"} for finding in right]) == tamperings


@given(st.floats(1e3, 1e13), st.integers(1, 1000), st.floats(0.1, 60))
def test_the_difficulty_takes_about_the_time_wanted(rate: float, blocks: int, seconds: float) -> None:
    bits = difficulty_for(rate, blocks, seconds)
    takes = blocks * 2.0**bits / rate
    assert takes <= seconds * 2**0.5001 or bits == 8
    assert takes >= seconds / 2**0.5001
