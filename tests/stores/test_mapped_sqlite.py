"""Tables of SQLite files by a mapping: what each kind of column becomes, and that no edit goes unseen."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from eventchain.cli import cli
from eventchain.errors import ConfigError, StoreError
from eventchain.eventstores import open_event_store
from eventchain.formats.event import UNKNOWN, id_for_people

TABLE = """
CREATE TABLE log (n INTEGER PRIMARY KEY, tenant TEXT, name INT, v INTEGER, uid BLOB, kind VARCHAR(9), at TEXT,
    body JSON, note)
"""
MAPPING = """
table = "log"
position = "n"
stream = ["tenant", "name"]
version = "v"
id = "uid"
type = "kind"
time = "at"
time_format = "iso"
data = "body"
metadata = ["*"]
"""
ROW = ("a", 7, 3, b"\x01\xef", "placed", "2024-01-02T03:04:05.678901Z", '{"a": "ä"}', None)


def sql(path, statement, *parameters):
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        return connection.execute(statement, parameters).fetchall()


def insert(path, row):
    sql(path, f"INSERT INTO log VALUES (NULL, {', '.join('?' * len(row))})", *row)


@pytest.fixture
def made(tmp_path):
    """Makes the table, writes the mapping, and gives the URL."""
    path = tmp_path / "log.db"

    def make(mapping=MAPPING, table=TABLE):
        (tmp_path / "log.toml").write_text(mapping)
        path.unlink(missing_ok=True)
        sql(path, table)
        return path, f"table+sqlite:///{path}?mapping={tmp_path}/log.toml"

    return make


def one(url):
    with closing(open_event_store(url)) as store:
        (row,) = store.read(None, 10).to_pylist()
        if not id_for_people(row["id"])[1]:
            assert store.find(row["id"]) == store.read(None, 10)
        return row


def test_the_declaration(made):
    path, url = made()
    insert(path, ROW)
    assert one(url) == {
        "position": 1, "stream": "a/7", "version": 3, "id": "01ef", "type": "placed",
        "time": 1704164645678901, "data": '{"a": "ä"}'.encode(),
        "metadata": b'{"at":"text:%s","tenant":"text:61"}' % ROW[5].encode().hex().upper().encode(),
    }  # fmt: skip
    sql(path, "UPDATE log SET note = 0.5, at = NULL, body = NULL")
    row = one(url)
    assert (row["data"], row["metadata"]) == (None, b'{"note":"real:0.5","tenant":"text:61"}')
    with closing(open_event_store(url)) as store:
        assert store.source == "table-sqlite/1-d899e1496b044b3c"
        assert not hasattr(store, "append")
        assert store.find("01EF").num_rows == store.find("\ud800").num_rows == 0
    with pytest.raises(ConfigError, match="its own application"):
        open_event_store(url, create=True)


def test_metadata_as_it_is_stored(made):
    path, url = made(
        'table = "log"\nposition = "n"\nstream = "s"\nid = "i"\ntype = "t"\nmetadata = "m"\ndata = "d"\n',
        "CREATE TABLE log (n INTEGER PRIMARY KEY, s TEXT, i TEXT, t TEXT, m TEXT, d BLOB)",
    )
    insert(path, ("s", "i", "t", '{"a":1}', b"\xff"))
    row = one(url)
    assert (row["metadata"], row["data"], row["version"], row["time"]) == (
        b'{"a":1}',
        b"\xff",
        UNKNOWN,
        UNKNOWN,
    )


@pytest.mark.parametrize(
    ("format_", "value", "microseconds"),
    [
        ("seconds", 5, 5_000_000), ("seconds", -1, -1_000_000),
        ("seconds", 9223372036854, 9223372036854 * 10**6),
        ("milliseconds", 5, 5000), ("microseconds", 5, 5), ("microseconds", -(2**63) + 1, -(2**63) + 1),
    ],
)  # fmt: skip
def test_times_that_are_numbers(made, format_, value, microseconds):
    path, url = made(MAPPING.replace("iso", format_), TABLE.replace("at TEXT", "at BIGINT"))
    insert(path, (*ROW[:5], value, *ROW[6:]))
    assert one(url)["time"] == microseconds


@pytest.mark.parametrize(
    "value", [9223372036855, -9223372036855, 2**63 - 1, -(2**63), 0.5, "soon", b"5", None]
)
def test_times_that_have_no_number(made, value):
    path, url = made(MAPPING.replace("iso", "seconds"), TABLE.replace("at TEXT", "at BIGINT"))
    insert(path, (*ROW[:5], value, *ROW[6:]))
    assert id_for_people(one(url)["id"]) == ("01ef", ["time"])


@given(
    st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)), st.sampled_from(["T", " "]),
    st.sampled_from(["", ".%f"]), st.integers(-14 * 60, 14 * 60) | st.none(),
)  # fmt: skip
@settings(max_examples=60)
def test_times_that_are_text(moment, between, fraction, ahead):
    from eventchain.eventstores.sqlite_columns import micros_of_text

    text = f"{moment.isoformat(between, 'seconds')}{moment.strftime(fraction)}"
    if ahead is not None:
        text += f"{'-' if ahead < 0 else '+'}{abs(ahead) // 60:02}:{abs(ahead) % 60:02}" if ahead else "Z"
    expected = moment.replace(tzinfo=UTC, microsecond=moment.microsecond if fraction else 0)
    since = expected - datetime(1970, 1, 1, tzinfo=UTC) - timedelta(minutes=ahead or 0)
    with closing(sqlite3.connect(":memory:")) as connection:
        (found,) = connection.execute(
            f"SELECT {micros_of_text('x')} FROM (SELECT ? AS x)", (text,)
        ).fetchone()
    assert found == since // timedelta(microseconds=1)


@pytest.mark.parametrize(
    "text", ["", "soon", "2024-01-02", "2024-13-02T03:04:05Z", "2024-01-02T03:04:05.Z",
             "2024-01-02T03:04:05x", "2024-01-02T03:04:05.1a", "20240102T030405Z"],
)  # fmt: skip
def test_text_that_is_no_time(made, text):
    path, url = made()
    insert(path, (*ROW[:5], text, *ROW[6:]))
    row = one(url)
    assert (row["time"], row["id"]) == (UNKNOWN, "01ef")
    assert text.encode().hex().upper().encode() in row["metadata"]


def test_nulls_that_are_no_mistake(made):
    path, url = made(MAPPING + 'nullable = ["stream", "version", "type", "time"]')
    insert(path, (None, None, None, b"\x01", None, None, None, None))
    row = one(url)
    assert (row["stream"], row["version"], row["id"]) == ("", UNKNOWN, "01")
    assert (row["type"], row["time"], row["metadata"]) == ("", UNKNOWN, b"{}")
    sql(path, f"UPDATE log SET kind = '', v = {-(2**63)}")  # what a null reads as
    assert id_for_people(one(url)["id"]) == ("01", ["version", "type"])


def test_a_column_that_comes_later_changes_nothing(made):
    path, url = made()
    insert(path, ROW)
    before = one(url)
    sql(path, "ALTER TABLE log ADD COLUMN later TEXT")
    assert one(url) == before
    sql(path, "UPDATE log SET later = ''")
    assert one(url) != before


def test_a_column_that_is_not_covered_is_refused(made):
    path, url = made(MAPPING.replace('["*"]', '["note", "at", "tenant"]'))
    insert(path, ROW)
    with closing(open_event_store(url)) as store:
        sql(path, "ALTER TABLE log ADD COLUMN later TEXT")
        with pytest.raises(StoreError, match=r"log.toml:11: no chain would cover 'later'") as caught:
            store.read(None, 10)
        assert "`metadata`" in caught.value.hint


@pytest.mark.parametrize(
    ("mapping", "table", "said"),
    [
        (MAPPING, TABLE.replace("INTEGER PRIMARY KEY", "INTEGER UNIQUE"), "log.toml:3: 'n' does not number"),
        (MAPPING, TABLE.replace("INTEGER PRIMARY KEY", "INT PRIMARY KEY"), "'n' does not number"),
        (MAPPING, TABLE.replace("v INTEGER", "v TEXT"), "log.toml:5: 'v' .* not declared as an integer"),
        (
            MAPPING,
            TABLE.replace("at TEXT", "at REAL"),
            "log.toml:8: 'at' .* for real values, which are not iso",
        ),
        (MAPPING.replace('time_format = "iso"\n', ""), TABLE, "log.toml:8: 'at' of .* is for text values"),
        (MAPPING.replace('"body"', '"boody"'), TABLE, "log.toml:10: .* has no column 'boody'"),
        (MAPPING, "CREATE VIEW log AS SELECT 1 AS n", "is a view"),
    ],
)
def test_tables_that_do_not_fit(made, mapping, table, said):
    _, url = made(mapping, table)
    with pytest.raises(StoreError, match=said) as caught:
        open_event_store(url)
    assert caught.value.hint


def test_a_mapping_that_is_wrong(made, tmp_path):
    path, url = made(MAPPING + "tabel = 1\n")
    with pytest.raises(ConfigError, match=r"log.toml:12: unknown key 'tabel'"):
        open_event_store(url)
    with pytest.raises(ConfigError, match="names no mapping"):
        open_event_store(f"table+sqlite:///{path}")


def test_another_table_of_the_same_form(made):
    path, url = made()
    sql(path, 'CREATE TABLE "the other %" AS SELECT * FROM log')
    with pytest.raises(StoreError, match="does not number"):  # made without its key
        open_event_store(f"{url}&table=the%20other%20%25")
    sql(path, TABLE.replace("log", '"log 2"'))
    with closing(open_event_store(f"{url}&table=log%202")) as store:
        assert store.head() is None


VALUES = st.one_of(
    st.none(), st.integers(-(2**63), 2**63 - 1), st.text("a/\0", max_size=3), st.binary(max_size=2),
    st.floats(allow_nan=False).map(lambda value: value + 0.0),  # for SQLite -0.0 is 0.0
    st.sampled_from(["", b"", 0, 5, "5", 5.0, b"5", "integer:5", "text:35", "2024-01-02T03:04:05Z",
                     "2024-01-02 03:04:05", -(2**63), 10**13]),
)  # fmt: skip
LOOSE = TABLE.replace("note)", "m TEXT, note)")
FORMS = {
    "iso": (MAPPING, LOOSE),
    "seconds": (MAPPING.replace("iso", "seconds"), LOOSE.replace("at TEXT", "at INTEGER")),
    "nullable": (
        MAPPING.replace("iso", "microseconds") + 'nullable = ["stream", "version", "type", "time"]',
        LOOSE.replace("at TEXT", "at INTEGER"),
    ),
    "listed": (
        'table = "log"\nposition = "n"\nstream = "kind"\nversion = "v"\nid = ["kind", "v"]\ntype = "kind"\n'
        'data = "body"\nmetadata = "m"\n',
        "CREATE TABLE log (n INTEGER PRIMARY KEY, v, kind, m, body TEXT)",
    ),
    "several in the id": (MAPPING.replace('"uid"', '["v", "uid", "name"]'), LOOSE),
}  # fmt: skip


@pytest.fixture(params=FORMS.values(), ids=FORMS, scope="module")
def loose(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("loose")
    mapping, table = request.param
    (folder / "log.toml").write_text(mapping)
    sql(folder / "log.db", table)
    with closing(open_event_store(f"table+sqlite:///{folder}/log.db?mapping={folder}/log.toml")) as store:
        yield folder / "log.db", store


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_whatever_is_stored_is_read_and_no_two_rows_alike(loose, data):
    path, store = loose
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        names = [row[1] for row in connection.execute("PRAGMA table_info(log)") if not row[5]]
        row = st.lists(VALUES, min_size=len(names), max_size=len(names))
        some = data.draw(st.lists(row, min_size=1, max_size=4))
        at, value = data.draw(st.integers(0, len(names) - 1)), data.draw(VALUES)
        some += [[*r[:at], value, *r[at + 1 :]] for r in some]
        connection.execute("BEGIN")
        connection.execute("DELETE FROM log")
        marks = ", ".join("?" * len(names))
        connection.executemany(f"INSERT INTO log ({', '.join(names)}) VALUES ({marks})", some)
        connection.execute("COMMIT")
        kept = ", ".join(f"typeof({name}) || hex({name}) || quote({name})" for name in names)
        stored = connection.execute(f"SELECT {kept} FROM log ORDER BY n").fetchall()
    batch = store.read(None, 100)
    batch.validate(full=True)
    read = [tuple(row.values())[1:] for row in batch.to_pylist()]
    assert len(read) == len(some)
    for i in range(len(some)):
        for j in range(i):
            assert (read[i] == read[j]) == (stored[i] == stored[j]), (some[i], some[j])


# -- as its user would


def run(*arguments):
    return CliRunner().invoke(cli, list(map(str, arguments)))


@pytest.mark.parametrize(
    ("edit", "kind", "position"),
    [
        ("UPDATE log SET note = 'other' WHERE n = 3", "altered", 3),
        (
            "UPDATE log SET at = '2024-01-02T03:04:05.678901+00:00' WHERE n = 3",
            "altered",
            3,
        ),  # the same moment
        ("DELETE FROM log WHERE n = 3", "missing", 3),
        (
            "INSERT INTO log SELECT 0, tenant, name, v, uid, kind, at, body, note FROM log WHERE n = 3",
            "inserted",
            0,
        ),
        ("UPDATE log SET n = 100 WHERE n = 3", "reordered", 100),
    ],
)
def test_what_an_administrator_does_is_named(made, tmp_path, edit, kind, position):
    path, url = made()
    for number in range(9):
        insert(path, (*ROW[:2], number, bytes([number]), *ROW[4:]))
    config = tmp_path / "eventchain.toml"
    options = ("--difficulty", 1, "--backend", "reference", "--origin", "a")
    assert run("init", "-C", config, *options, "--store", url).exit_code == 0
    assert run("mine", "-C", config).exit_code == 0
    assert run("verify", "-C", config).exit_code == 0
    sql(path, edit)
    verified = run("verify", "-C", config)
    assert verified.exit_code == 1
    assert verified.output.startswith(f"{kind}: ")
    assert re.search(rf"position {position}[,:]", verified.output)


def test_a_mapping_that_was_changed_is_named(made, tmp_path):
    path, _ = made()
    insert(path, ROW)
    config = tmp_path / "eventchain.toml"
    relative = "table+sqlite:///log.db?mapping=log.toml"
    options = ("--difficulty", 1, "--backend", "reference", "--origin", "a")
    assert run("init", "-C", config, *options, "--store", relative).exit_code == 0
    assert f'store = "{relative}"' in config.read_text()
    assert run("mine", "-C", config).exit_code == 0
    (tmp_path / "log.toml").write_text(MAPPING.replace('"iso"', '"iso"\nnullable = ["time"]'))
    mined = run("mine", "-C", config)
    assert (mined.exit_code, "was the mapping changed?" in mined.output) == (2, True)
    verified = run("verify", "-C", config)
    assert (verified.exit_code, "was the mapping changed?" in verified.output) == (1, True)


def test_what_to_run_for_an_erasure_deletes_rows(made):
    path, url = made()
    for number in range(3):
        insert(path, (*ROW[:2], number, *ROW[3:]))
    with closing(open_event_store(url)) as store:
        text = store.how_to_erase([(2, 2)])
        with closing(sqlite3.connect(path)) as connection:
            connection.executescript(text)
            connection.commit()
        assert store.read(None, 10)["position"].to_pylist() == [1, 3]
