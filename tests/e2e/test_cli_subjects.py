"""``forget``, ``keys``, ``retain`` and the selectors of ``erase`` as their user meets them."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from commands import run

from eventchain.assembly import open_chain
from eventchain.contracts.event_store import NewEvent

REASON = ("--reason", "request of 3 May")
DAY = 86_400 * 10**6
BOB = "bob@home"
"""A name that no hash in base64 holds by chance."""
ENCRYPTION = """
[encryption]
keys = "sqlite:///keys.db"
wrapping_key = "file:wrapping.key"
metadata = true
"""
RETENTION = """
[retention.visits]
types = ["Viewed"]
older_than = "365 days"

[retention.small]
where = 'data.n < 3'

[retention.none]
older_than = "9999 days"
"""
PROJECTION = """
[projection.total]
use = "sum"
path = "data.n"
"""


def configure(text: str, *, old: str = "") -> None:
    """Put text at the end of the configuration, or in the last place of what is there."""
    file = Path("eventchain.toml")
    before, _, after = file.read_text().rpartition(old) if old else (file.read_text(), "", "")
    file.write_text(before + text + after)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 events, in turn of alice, bob and nobody; of every other one the time is two years ago."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("EVENTCHAIN_CONFIG", raising=False)
        run("init", "--origin", "example.com/shop", "--difficulty", 8, "--backend", "reference")
        configure(ENCRYPTION)
        run("keys", "init")
        append(0, 40)
        run("mine")
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it."""
    monkeypatch.chdir(shutil.copytree(made, tmp_path / "shop"))
    monkeypatch.delenv("EVENTCHAIN_CONFIG", raising=False)
    return tmp_path / "shop"


def append(first: int, count: int) -> None:
    with open_chain() as chain:
        now = int(time.time() * 10**6)
        for n in range(first, first + count):
            when = now - 730 * DAY * (n % 2)
            new = NewEvent(f"e{n}", ("Viewed", "Bought")[n // 2 % 2], b'{"n":%d}' % n, b"m%d" % n, when)
            chain.events.append(f"s{n % 5}", None, [new], subject=("alice", BOB, None)[n % 3])


def erased() -> set[int]:
    """The positions that are on record."""
    with open_chain() as chain:
        records = chain.erasures()
        return {p for r in records for first, last in r.erasure.ranges for p in range(first, last + 1)}


def total() -> Any:
    with open_chain() as chain:
        return json.loads(chain.restore("total").dump)


# -- the life of a subject


def test_a_subject_from_its_first_event_to_being_forgotten(folder: Path) -> None:
    configure(PROJECTION)
    shown = json.loads(run("show", "e1", "--json").stdout)[0]
    assert (shown["data"], shown["metadata"], shown["as_sealed"]) == ('{"n":1}', "m1", True)
    lines = [json.loads(line) for line in run("export", "-").stdout.splitlines()]
    assert [line["data"]["n"] for line in lines] == list(range(40))
    everything = total()
    proof = json.loads(run("show", "e1", "--proof").stdout)
    assert proof["event"]["data_base64"].startswith("/0VWQ1NVQg")  # what is proven is the ciphertext

    planned = run("forget", BOB, "--dry-run")
    assert "to erase: 13 events" in planned.stderr
    assert "backups and replicas can be read no more" in planned.stderr
    assert json.loads(run("forget", BOB, "--dry-run", "--json").stdout)["events"] == 13
    assert erased() == set()
    append(40, 3)  # not sealed yet, of which one is bob's
    assert "1 event not sealed yet" in run("forget", BOB, "--dry-run").stderr
    assert "--yes does not ask" in run("forget", BOB, *REASON, code=2).stderr
    assert "needs a reason" in run("forget", BOB, "--yes", code=2).stderr
    told = json.loads(run("forget", BOB, *REASON, "--yes", "--json").stdout)
    bobs = set(range(2, 44, 3))
    assert (set(told["erased"]), told["complete"]) == (bobs, True)
    assert erased() == bobs
    verified = run("verify")
    assert "(14 lawfully erased)" in verified.stdout
    assert BOB not in verified.output
    shown = json.loads(run("show", "e1", "--json").stdout)[0]
    assert (shown["data"], shown["as_sealed"]) == (None, True)
    assert shown["erased"]["reason"] == "request of 3 May"
    assert json.loads(run("show", "e0", "--json").stdout)[0]["data"] == '{"n":0}'
    assert f"there is no key of '{BOB}'" in run("forget", BOB, *REASON, "--yes", code=2).stderr
    assert json.loads(json.dumps(total())) != everything


def test_without_keys_the_ciphertext_is_what_there_is(folder: Path) -> None:
    configure("", old=ENCRYPTION)
    shown = json.loads(run("show", "e1", "--json").stdout)[0]
    assert shown["data_base64"].startswith("/0VWQ1NVQg")
    assert shown["as_sealed"] is True
    (line,) = (line for line in map(json.loads, run("export", "-").stdout.splitlines()) if line["id"] == "e1")
    assert line["data_base64"] == shown["data_base64"]
    assert "clean" in run("verify").stdout
    assert "no [encryption]" in run("forget", BOB, *REASON, "--yes", code=2).stderr
    assert "no [encryption]" in run("erase", "--subject", BOB, *REASON, "--yes", code=2).stderr
    assert "no [encryption]" in run("keys", "rotate", code=2).stderr


def test_what_needs_no_payload_needs_no_keys(folder: Path) -> None:
    (folder / "wrapping.key").unlink()
    (folder / "keys.db").unlink()
    append_plain = NewEvent("plain", "t", b"x")
    with open_chain() as chain:
        chain.events.append("p", -1, [append_plain])
    run("mine")
    run("status")
    run("receipt", "e1")
    assert "clean" in run("verify").stdout
    run("erase", "e2", *REASON, "--yes")
    assert "there is no key store" in run("export", "-", code=2).stderr
    assert "not decrypted: there is no key store" in run("show", "e1").stderr


def test_a_forgotten_event_that_is_still_there_is_a_tombstone(folder: Path) -> None:
    with open_chain() as chain:
        keys = chain.events.keys
        keys.destroy(keys.begin_forgetting(BOB))
    shown = json.loads(run("show", "e1", "--json").stdout)[0]
    assert (shown["data"], shown["metadata"], shown["forgotten"], shown["as_sealed"]) == (
        None,
        None,
        True,
        True,
    )
    assert "its key was destroyed" in run("show", "e1").stdout
    lines = [json.loads(line) for line in run("export", "-").stdout.splitlines()]
    assert sum("data" not in line for line in lines) == 13
    with open_chain() as chain:
        rows = [row for batch in chain.sealed_events() for row in batch.to_pylist()]
    assert sum(row["data"] is None for row in rows) == 13


def test_an_edited_event_is_shown_as_it_stands(folder: Path) -> None:
    with closing(sqlite3.connect("events.db")) as db, db:
        db.execute("UPDATE events SET data = (SELECT data FROM events WHERE id = 'e4') WHERE id = 'e1'")
    shown = run("show", "e1", "--json")
    assert "not decrypted: the data of the event at position 2 is not what was encrypted" in shown.stderr
    assert json.loads(shown.stdout)[0]["as_sealed"] is False
    assert "is not what was encrypted" in run("export", "-", code=2).stderr


def test_the_documented_example_runs_as_it_stands(folder: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "erasure.md").read_text(encoding="utf-8")
    tables = re.findall(r"^```toml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    configure("".join(tables), old=ENCRYPTION)
    (example,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    values: dict[str, Any] = {}
    exec(example, values)
    assert values["batch"]["data"].to_pylist()[-1] == b'{"to":"1 Main Street"}'
    assert b"Main Street" not in values["stored"]["data"].to_pylist()[-1]
    assert not values["forgotten"].any()
    assert "to erase" not in run("retain", "--dry-run").stderr
    assert json.loads(run("forget", "customer-42", *REASON, "--yes", "--json").stdout)["erased"] == [41]


# -- keys


def test_the_wrapping_key_is_changed(folder: Path) -> None:
    assert (folder / "wrapping.key").stat().st_mode & 0o777 == 0o600
    before = run("export", "-").stdout
    assert "key store is" in run("keys", "init").stdout  # again, and nothing changes
    configure('wrapping_key = "file:new.key"', old='wrapping_key = "file:wrapping.key"')
    refused = run("keys", "init", code=2)
    assert "is there already, and its wrapping key" in refused.stderr
    assert "there is no wrapping key" in run("export", "-", code=2).stderr
    configure(
        'wrapping_key = "file:new.key"\nold_wrapping_key = "file:wrapping.key"',
        old='wrapping_key = "file:new.key"',
    )
    told = json.loads(run("keys", "init", "--json").stdout)
    assert told["wrapping_key_made"] is True
    assert run("export", "-").stdout == before
    assert json.loads(run("keys", "rotate", "--json").stdout)["rotated"] == 3
    assert run("keys", "rotate").stdout == "wrapped 0 keys anew\n"
    (folder / "wrapping.key").unlink()
    configure("", old='old_wrapping_key = "file:wrapping.key"\n')
    assert run("export", "-").stdout == before


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('keys = "sqlite:///keys.db"\n', "", "the key 'keys' is missing"),
        ("keys.db", "events.db", "the keys must lie in a file of their own"),
        ("keys.db", "chain.db", "the keys must lie in a file of their own"),
        ('wrapping_key = "file:wrapping.key"\n', "", "the key 'wrapping_key' is missing"),
        ("file:wrapping.key", "wrapping.key", "is no place of a wrapping key"),
        ("file:wrapping.key", "env:", "is no place of a wrapping key"),
        ("metadata = true", "metadata = 1", "must be true or false"),
        ("metadata = true", "metdata = true", "unknown key 'metdata' in [encryption]"),
    ],
)
def test_a_wrong_encryption_is_named_with_its_line(folder: Path, old: str, new: str, said: str) -> None:
    configure(new, old=ENCRYPTION[ENCRYPTION.index(old) :][: len(old)])
    text = Path("eventchain.toml").read_text()
    assert new in text
    refused = run("verify", code=2).stderr
    assert said in refused
    assert "eventchain.toml:" in refused


# -- choosing events


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        (("--where", 'data.n > 36 && type == "Viewed"'), [38]),
        (("--where", 'stream == "s1"', "--position", 1), [1, *range(2, 41, 5)]),
        (("--where", 'metadata.x == "1"'), []),
        (("--subject", BOB), list(range(2, 41, 3))),
        (("--subject", "nobody"), []),
    ],
)
def test_events_are_chosen_by_condition_and_subject(
    folder: Path, selector: tuple[Any, ...], expected: list[int]
) -> None:
    if not expected:
        assert "there is no event" in run("erase", *selector, *REASON, code=2).stderr
        return
    assert json.loads(run("erase", *selector, "--dry-run", "--json").stdout)["positions"] == expected
    run("erase", *selector, *REASON, "--yes")
    assert erased() == set(expected)
    assert "clean" in run("verify").stdout
    append(40, 3)  # the subject keeps its key
    assert json.loads(run("show", "e40", "--json").stdout)[0]["data"] == '{"n":40}'


@pytest.mark.parametrize(
    ("where", "said"),
    [("type ==", "Syntax error"), (" ", "--where has no condition"), ("nothing == 1", "nothing")],
)
def test_a_condition_that_is_none(folder: Path, where: str, said: str) -> None:
    assert said in run("erase", "--where", where, *REASON, "--yes", code=2).stderr


# -- retention


def test_rules_erase_what_is_over_and_once(folder: Path) -> None:
    configure(RETENTION)
    append(40, 4)  # not sealed: for the next time
    visits = {n + 1 for n in range(40) if n % 2 and n // 2 % 2 == 0}
    planned = json.loads(run("retain", "--dry-run", "--json").stdout)
    assert set(planned["visits"]["positions"]) == visits
    assert planned["small"]["positions"] == [1, 3]  # 2 is a visit's
    assert planned["none"]["positions"] == []
    told = run("retain", "--dry-run").stderr
    assert "retention rule visits: events older than 365 days, of type Viewed\nto erase: 10 events" in told
    assert "retention rule none: events older than 9999 days: none" in told
    assert "--yes does not ask" in run("retain", code=2).stderr
    assert erased() == set()
    assert run("retain", "--yes", "--actor", "dpo").stdout == "erased 12 events\n"
    assert erased() == visits | {1, 3}
    with open_chain() as chain:
        records = [(record.erasure.actor, record.erasure.reason) for record in chain.erasures()]
    assert records == [
        ("dpo", "retention rule visits: events older than 365 days, of type Viewed"),
        ("dpo", "retention rule small: events where data.n < 3"),
    ]
    assert "clean" in run("verify").stdout
    # those of the last append were sealed with the records, and are over too
    assert run("retain", "--yes").stdout == "erased 1 event\n"
    assert run("retain", "--yes").stdout == "nothing is left to erase\n"
    told = json.loads(run("retain", "--yes", "--json").stdout)
    assert told == {"erased": [], "waiting": [], "lost": [], "complete": True}
    assert len(erased()) == 13


def test_an_event_without_a_time_is_never_too_old(folder: Path) -> None:
    configure('[retention.all]\nolder_than = "1 day"\n')
    with open_chain() as chain:
        chain.events.append("timeless", -1, [NewEvent("timeless", "t", b"x")])
    run("mine")
    run("retain", "--yes")
    assert erased() == set(range(2, 41, 2))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[retention.a]\n", "would erase every event"),
        ("[retention]\na = 1\n", "'a' must be a table"),
        ('[retention.a]\nolder_than = "1 year"\n', "'1 year' is no age"),
        ("[retention.a]\nolder_than = 365\n", "'older_than' must be a string"),
        ('[retention.a]\ntypes = "Viewed"\n', "'types' must be a list"),
        ("[retention.a]\ntypes = []\n", "'types' must be a list of names"),
        ("[retention.a]\ntypes = [1]\n", "'types' must be a list of names"),
        ('[retention.a]\nwhen = "now"\n', "unknown key 'when' in [retention.a]"),
        ('[retention.a]\nwhere = "type =="\n', "retention rule a: "),
        ("", "no [retention] rules"),
    ],
)
def test_wrong_rules_are_named(folder: Path, text: str, said: str) -> None:
    configure(text)
    assert said in run("retain", "--yes", code=2).stderr
