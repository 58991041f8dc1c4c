"""Tables of PostgreSQL databases by a mapping, and the presets for Marten and Axon, whose tables are made
here as their documentation and sources describe them."""

from __future__ import annotations

import re
import time
from contextlib import ExitStack, closing, contextmanager
from itertools import count
from typing import NamedTuple

import pytest
from click.testing import CliRunner
from gaps import watch
from hypothesis import given, settings
from hypothesis import strategies as st
from postgres import connected, execute

from eventchain.cli import cli
from eventchain.errors import ConfigError, StoreError
from eventchain.eventstores import open_event_store
from eventchain.eventstores.postgresql_fence import Fence, Look
from eventchain.formats.event import UNKNOWN, id_for_people

TABLE = """
CREATE TABLE log (n bigserial PRIMARY KEY, tenant text, name int, v int, uid uuid, kind varchar(9),
    at timestamptz, body json, note xml)
"""
MAPPING = """
table = "log"
position = "n"
stream = ["tenant", "name"]
version = "v"
id = "uid"
type = "kind"
time = "at"
data = "body"
metadata = ["*"]
"""
UID = "12345678-1234-5678-1234-567812345678"
ROW = f"INSERT INTO log VALUES (DEFAULT, 'a', 7, 3, '{UID}', 'placed', '2024-01-02 03:04:05.678901+01', "
ROW += """'{"b" : 1, "a": "ä"}', NULL)"""


@pytest.fixture(scope="module")
def database(postgres):
    return postgres.new_database()


_numbers = count()


@pytest.fixture
def made(database, tmp_path):
    """Makes a table in a new schema, writes the mapping, and gives the database's URL and the store's."""

    def make(*statements, mapping=MAPPING):
        (tmp_path / "log.toml").write_text(mapping)
        schema = f"s{next(_numbers)}"
        url = f"{database}&options=-csearch_path%3D{schema}"
        execute(url, f"CREATE SCHEMA {schema}", *(statements or (TABLE,)))
        return url, f"table+{url}&mapping={tmp_path}/log.toml"

    return make


def everything(url):
    with closing(open_event_store(url)) as store:
        rows = store.read(None, 100).to_pylist()
        for row in rows:
            if not id_for_people(row["id"])[1]:
                assert row in store.find(row["id"]).to_pylist()
        return rows


def test_the_declaration(made):
    url, store_url = made()
    execute(url, ROW)
    assert everything(store_url) == [{
        "position": 1, "stream": "a/7", "version": 3, "id": UID, "type": "placed", "time": 1704161045678901,
        "data": '{"b" : 1, "a": "ä"}'.encode(), "metadata": b'{"tenant":"a"}',
    }]  # fmt: skip
    with closing(open_event_store(store_url)) as store:
        assert store.source == "table-postgresql/1-dd411f8829eadecd"
        assert not hasattr(store, "append")
        assert store.pinned_url.startswith(f"{store.url}&schema=s")
        assert store.faults() == []
        for missing in (UID.upper().replace("-", ""), "", "a'b", "\0", "\ud800", "100%"):
            assert store.find(missing).num_rows == 0
    with pytest.raises(ConfigError, match="its own application"):
        open_event_store(store_url, create=True)


def test_an_id_of_several_columns(made):
    mapping = MAPPING.replace('"uid"', '["tenant", "name", "uid"]')
    table = TABLE.replace("tenant", '"the % tenant"')
    url, store_url = made(table, mapping=mapping.replace("tenant", "the % tenant"))
    execute(url, ROW, ROW.replace("'a'", "'a/b'"))
    ids = [row["id"] for row in everything(store_url)]
    assert ids == [f"a/7/{UID}", f"a/b/7/{UID}"]
    url, store_url = made(mapping=MAPPING.replace('"uid"', '["uid", "tenant"]'))
    execute(url, ROW.replace("'a'", "'100%/b'"))
    assert [row["id"] for row in everything(store_url)] == [f"{UID}/100%/b"]


def test_nulls_that_are_no_mistake(made):
    url, store_url = made(mapping=MAPPING + 'nullable = ["stream", "version", "type", "time"]')
    execute(
        url,
        ROW,
        f"INSERT INTO log (uid) VALUES ('{UID}')",
        f"INSERT INTO log (uid, kind) VALUES ('{UID}', '')",
    )
    _, row, odd = everything(store_url)
    assert [row[name] for name in ("stream", "version", "type", "time")] == ["", UNKNOWN, "", UNKNOWN]
    assert (row["data"], row["metadata"]) == (None, b"{}")
    assert id_for_people(odd["id"]) == (UID, ["type"])  # what a null reads as
    url, store_url = made()
    execute(url, f"INSERT INTO log (uid) VALUES ('{UID}')")
    assert id_for_people(everything(store_url)[0]["id"]) == (UID, ["stream", "version", "type", "time"])


@pytest.mark.parametrize(
    ("kind", "format_", "value", "microseconds"),
    [
        ("timestamp", None, "'2024-01-02 03:04:05.678901'", 1704164645678901),
        ("text", "iso", "'2024-01-02T03:04:05.678901Z'", 1704164645678901),
        ("varchar(99)", "iso", "'2024-01-02 03:04:05.6789019+01:30'", 1704164645678901 - 5400 * 10**6),
        ("text", "iso", "'2024-01-02T03:04:05-0030'", 1704164645000000 + 1800 * 10**6),
        ("char(50)", "iso", "'0001-01-01T00:00:00'", -62135596800000000),
        ("text", "iso", "'soon'", UNKNOWN), ("text", "iso", "'0000-01-01T00:00:00Z'", UNKNOWN),
        ("text", "iso", "'2024-13-01T00:00:00Z'", UNKNOWN),
        ("text", "iso", "'2024-01-01T24:00:00Z'", UNKNOWN),
        ("int", "seconds", "5", 5_000_000), ("bigint", "milliseconds", "-5", -5000),
        ("bigint", "microseconds", str(2**63 - 1), 2**63 - 1),
    ],
)  # fmt: skip
def test_times(made, kind, format_, value, microseconds):
    mapping = MAPPING + (f'time_format = "{format_}"\n' if format_ else "")
    url, store_url = made(TABLE.replace("timestamptz", kind), mapping=mapping)
    execute(url, ROW.replace("'2024-01-02 03:04:05.678901+01'", value))
    (row,) = everything(store_url)
    assert (row["time"], row["id"]) == (microseconds, UID)
    assert (b'"at":' in row["metadata"]) == (format_ == "iso")


@pytest.mark.parametrize(
    ("kind", "format_", "values"),
    [
        ("timestamptz", None, ["'infinity'", "'-infinity'", "'293000-01-01'", "'293000-01-02'", "NULL"]),
        ("bigint", "seconds", [str(2**62), str(2**62 + 1), str(-(2**62)), "NULL"]),
        ("bigint", "microseconds", [str(-(2**63)), "NULL"]),
    ],
)  # fmt: skip
def test_times_that_have_no_number(made, kind, format_, values):
    mapping = MAPPING + (f'time_format = "{format_}"\n' if format_ else "")
    url, store_url = made(TABLE.replace("timestamptz", kind), mapping=mapping)
    seen = []
    for value in values:  # no two alike
        execute(
            url,
            "DELETE FROM log",
            ROW.replace("DEFAULT", "1").replace("'2024-01-02 03:04:05.678901+01'", value),
        )
        (row,) = everything(store_url)
        assert id_for_people(row["id"]) == (UID, ["time"])
        assert row not in seen
        seen.append(row)


def test_bytes_text_and_large_objects(made):
    mapping = MAPPING.replace('["*"]', '["note", "tenant"]')
    for kind, value, data in (
        ("bytea", "'\\x00ff'", b"\x00\xff"), ("text", "'ä'", "ä".encode()),
        ("jsonb", """'{"b":1.50, "a":null}'""", b'{"a": null, "b": 1.50}'), ("int[]", "'{1,2}'", b"{1,2}"),
    ):  # fmt: skip
        url, store_url = made(TABLE.replace("body json", f"body {kind}"), mapping=mapping)
        execute(url, ROW.replace("""'{"b" : 1, "a": "ä"}'""", value))
        assert everything(store_url)[0]["data"] == data
    url, store_url = made(TABLE.replace("body json", "body oid"), mapping=mapping)
    with pytest.raises(StoreError, match=r"log.toml:10: no chain would cover 'body'") as caught:
        open_event_store(store_url)
    assert "large object" in caught.value.hint
    url, store_url = made(TABLE.replace("body json", "body oid").replace("note xml", "note oid"))
    execute(
        url, ROW.replace("""'{"b" : 1, "a": "ä"}'""", "lo_from_bytea(5000, 'one')").replace("NULL", "5001")
    )
    (row,) = everything(store_url)
    assert (row["data"], row["metadata"]) == (b"one", b'{"body":"5000","note":"5001","tenant":"a"}')
    execute(url, "SELECT lo_from_bytea(5001, '\\xff')")
    assert everything(store_url)[0]["metadata"] == b'{"body":"5000","note":"5001:ff","tenant":"a"}'
    execute(url, "SELECT lo_put(5000, 0, 'two')")
    assert everything(store_url)[0]["data"] == b"two"
    execute(url, "SELECT lo_unlink(5000)")
    gone = everything(store_url)[0]
    assert (gone["data"], gone["metadata"]) == (None, b'{"body":"5000","note":"5001:ff","tenant":"a"}')


def test_metadata_as_it_is_stored(made):
    mapping = (
        'table = "log"\nposition = "n"\nstream = "s"\nid = "i"\ntype = "t"\ntime = "at"\nmetadata = "m"\n'
    )
    for kind, value, metadata in (("bytea", "'\\xff'", b"\xff"), ("jsonb", "'{\"a\":1}'", b'{"a": 1}')):
        table = f"CREATE TABLE log (n serial PRIMARY KEY, s text, i int, t text, at timestamptz, m {kind})"
        url, store_url = made(table, mapping=mapping)
        execute(url, f"INSERT INTO log VALUES (DEFAULT, 's', 9, 't', 'epoch', {value})")
        (row,) = everything(store_url)
        assert (row["id"], row["time"], row["metadata"], row["data"]) == ("9", 0, metadata, None)
        execute(url, "UPDATE log SET at = 'infinity'")
        assert everything(store_url)[0]["metadata"] == metadata + b" infinity"


def test_a_column_that_comes_later(made):
    url, store_url = made()
    execute(url, ROW)
    before = everything(store_url)
    execute(url, "ALTER TABLE log ADD later text")
    assert everything(store_url) == before
    execute(url, "UPDATE log SET later = ''")
    assert everything(store_url) != before


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (TABLE.replace("bigserial PRIMARY KEY", "bigserial"), "log.toml:3: 'n' does not number"),
        (TABLE.replace("bigserial PRIMARY KEY", "numeric DEFAULT 1 PRIMARY KEY"), "'n' does not number"),
        (TABLE.replace("bigserial", "bigint"), "no sequence is known that numbers"),
        (TABLE.replace("v int", "v text"), "log.toml:5: 'v' .* is of type text"),
        (TABLE.replace("timestamptz", "date"), "log.toml:8: 'at' .* is of type date"),
        (TABLE.replace("body", "boody"), "log.toml:9: .* has no column 'body'"),
        ("CREATE VIEW log AS SELECT 1 AS n", "no ordinary table"),
    ],
)
def test_tables_that_do_not_fit(made, table, said):
    _, store_url = made(table)
    with pytest.raises(StoreError, match=said) as caught:
        open_event_store(store_url)
    assert caught.value.hint


def test_sequences(made):
    loose = TABLE.replace("bigserial", "bigint")
    _, store_url = made(loose, mapping="sequences = []\n" + MAPPING)  # the application gives the numbers
    assert everything(store_url) == []
    named = 'sequences = ["a-b", "c"]\n' + MAPPING
    _, store_url = made(loose, mapping=named)
    with pytest.raises(StoreError, match="there is no a-b or c"):
        open_event_store(store_url)
    _, store_url = made(loose, 'CREATE SEQUENCE "a-b"', mapping=named)
    assert everything(store_url) == []


@pytest.mark.parametrize("grace", ["x", "-1", "nan", "1e9"])
def test_a_grace_that_is_none(made, grace):
    _, store_url = made()
    with pytest.raises(ConfigError, match="grace"):
        open_event_store(f"{store_url}&grace={grace}")


VALUES = st.tuples(
    st.sampled_from(["NULL", "''", "'a'", "'a/1'"]), st.sampled_from(["NULL", "1", "-7"]),
    st.sampled_from(["NULL", "0", "7"]), st.sampled_from(["NULL", f"'{UID}'"]),
    st.sampled_from(["NULL", "''", "'t'"]),
    st.sampled_from(["NULL", "'epoch'", "'infinity'", "'293333-1-1'"]),
    st.sampled_from(["NULL", "0", "4000", "4001"]), st.sampled_from(["NULL", "4000", "4001"]),
)  # fmt: skip


@pytest.fixture(
    params=["", 'nullable = ["stream", "version", "type", "time"]'],
    ids=["strict", "nullable"],
    scope="module",
)
def loose(request, postgres, tmp_path_factory):
    file = tmp_path_factory.mktemp("loose") / "log.toml"
    file.write_text(MAPPING + request.param)
    url = postgres.new_database()
    execute(url, TABLE.replace("json", "oid").replace("xml", "oid"), "SELECT lo_from_bytea(4000, '')")
    with connected(url) as connection, closing(open_event_store(f"table+{url}&mapping={file}")) as store:
        yield connection, store


@settings(deadline=None, max_examples=30)
@given(st.lists(VALUES, min_size=2, max_size=5))
def test_whatever_is_stored_is_read_and_no_two_rows_alike(loose, rows):
    connection, store = loose
    read = []
    for row in rows:
        connection.execute("DELETE FROM log")
        connection.execute(f"INSERT INTO log VALUES (1, {', '.join(row)})")
        batch = store.read(None, 100)
        batch.validate(full=True)
        read += batch.to_pylist()
    assert len(read) == len(rows)
    for i in range(len(rows)):
        for j in range(i):
            assert (read[i] == read[j]) == (rows[i] == rows[j]), (rows[i], rows[j])


# -- the grace


def test_how_the_fence_waits_for_its_grace():
    now = [0.0]

    def sleep(seconds):
        now[0] += seconds

    a, b, none = frozenset("a"), frozenset("b"), frozenset()
    fence = Fence(lambda: now[0], grace=5)
    assert fence.head(lambda: Look(7, none), sleep) == 7  # nothing is known yet: it waits
    assert 5 <= now[0] < 6
    assert fence.waiting() is None
    looks = iter([Look(9, none), *[Look(9, none)] * 100])
    assert fence.head(lambda: next(looks), sleep) == 7  # as long as for a writer
    assert fence.waiting() >= 1
    now[0] += 5
    assert fence.head(lambda: Look(9, a), sleep) == 7  # a began meanwhile, and may have drawn 8 before
    now[0] += 5
    assert fence.head(lambda: Look(12, frozenset("ab")), sleep) == 7
    assert fence.head(lambda: Look(12, b), sleep) == 9  # b began after the grace of 9
    now[0] += 5
    assert fence.head(lambda: Look(12, none), sleep) == 12
    assert fence.waiting() is None


def test_the_grace_of_a_store(made):
    url, store_url = made()
    execute(url, ROW)
    with closing(open_event_store(f"{store_url}&grace=0.2")) as store:
        assert store.head() == 1  # a run of `mine` that knows nothing waits
        assert store.fence() is None
    with closing(open_event_store(f"{store_url}&grace=0.2")) as store:
        assert store.head() == 1
        store._fence._grace = 1000
        execute(url, ROW)
        fence = store.fence()
        assert (fence.head, fence.newest, fence.holders) == (1, 2, ())


# -- presets


class Preset(NamedTuple):
    """``insert`` takes the position, where ``draw`` gives one, and a number that makes it unique."""

    mapping: str
    tables: tuple[str, ...]
    insert: str
    draw: str | None = None


MARTEN_TABLES = (
    """CREATE TABLE mt_events (seq_id bigint PRIMARY KEY, id uuid NOT NULL, stream_id uuid,
    version bigint NOT NULL, data jsonb NOT NULL, bdata bytea, type varchar(500) NOT NULL,
    timestamp timestamptz DEFAULT now() NOT NULL, tenant_id varchar DEFAULT '*DEFAULT*',
    mt_dotnet_type varchar, headers jsonb, is_archived bool DEFAULT false, UNIQUE (stream_id, version))""",
    "CREATE SEQUENCE mt_events_sequence OWNED BY mt_events.seq_id",
)
MARTEN_COLUMNS = "INSERT INTO mt_events (seq_id, id, stream_id, version, data, type, timestamp) "
MARTEN_VALUES = """gen_random_uuid(), '12345678-1234-5678-1234-567812345678', {1}, '{{"b":1, "a":{1}}}',
    'placed', '2024-01-02 03:04:05.678901Z')"""
AXON4_TABLE = """CREATE TABLE domain_event_entry (global_index {} PRIMARY KEY,
    aggregate_identifier varchar(255) NOT NULL, sequence_number bigint NOT NULL, type varchar(255),
    event_identifier varchar(255) NOT NULL UNIQUE, meta_data {}, payload {} NOT NULL,
    payload_revision varchar(255), payload_type varchar(255) NOT NULL, time_stamp varchar(255) NOT NULL,
    UNIQUE (aggregate_identifier, sequence_number))"""
AXON4_VALUES = (
    "'order', {{1}}, 'Order', 'id-{{1}}', {}, NULL, 'com.example.Placed', '2024-01-02T03:04:05.678Z')"
)
AXON4_OBJECTS = "lo_from_bytea(0, 'meta{1}'), lo_from_bytea(0, 'payload{1}')"
AXON5_TABLE = """CREATE TABLE aggregate_event_entry (global_index bigint PRIMARY KEY,
    aggregate_type varchar(255), aggregate_identifier varchar(255), aggregate_sequence_number bigint,
    type varchar(255) NOT NULL, version varchar(255) NOT NULL, timestamp varchar(255) NOT NULL,
    payload oid NOT NULL, metadata oid, identifier varchar(255) NOT NULL,
    UNIQUE (aggregate_identifier, aggregate_sequence_number))"""
PRESETS = {
    "marten": Preset(
        "marten", MARTEN_TABLES,
        f"{MARTEN_COLUMNS} VALUES (nextval('mt_events_sequence'), {MARTEN_VALUES}",
    ),
    "axon4-bytea": Preset(
        "axon4", (AXON4_TABLE.format("bigserial", "bytea", "bytea"),),
        "INSERT INTO domain_event_entry VALUES (DEFAULT, " + AXON4_VALUES.format("'meta{1}', 'payload{1}'"),
    ),
    "axon4": Preset(
        "axon4",
        (AXON4_TABLE.format("bigint", "oid", "oid"), "CREATE SEQUENCE domain_event_entry_seq"),
        "INSERT INTO domain_event_entry VALUES ({0}, " + AXON4_VALUES.format(AXON4_OBJECTS),
        "domain_event_entry_seq",
    ),
    "axon5": Preset(
        "axon5", (AXON5_TABLE, 'CREATE SEQUENCE "aggregate-event-global-index-sequence"'),
        "INSERT INTO aggregate_event_entry VALUES ({0}, 'Order', 'order', {1}, 'example.Placed', '0.0.1', "
        "'2024-01-02T03:04:05.678Z', lo_from_bytea(0, 'payload{1}'), lo_from_bytea(0, 'meta{1}'), 'id-{1}')",
        '"aggregate-event-global-index-sequence"',
    ),
}  # fmt: skip
READ = {
    "marten": {
        "stream": UID, "type": "placed", "time": 1704164645678901, "data": b'{"a": 1, "b": 1}',
        "metadata": b'{"is_archived":"false","tenant_id":"*DEFAULT*"}',
    },
    "axon4-bytea": {
        "stream": "order", "id": "id-1", "type": "com.example.Placed", "time": 1704164645678000,
        "data": b"payload1", "metadata": b'{"meta_data":"6d65746131",'
        b'"time_stamp":"2024-01-02T03:04:05.678Z","type":"Order"}',
    },
    "axon4": {
        "stream": "order", "id": "id-1", "type": "com.example.Placed", "time": 1704164645678000,
        "data": b"payload1", "metadata": b'{"meta_data":"#:6d65746131","payload":"#",'
        b'"time_stamp":"2024-01-02T03:04:05.678Z","type":"Order"}',
    },
    "axon5": {
        "stream": "order", "id": "id-1", "type": "example.Placed", "time": 1704164645678000,
        "data": b"payload1", "metadata": b'{"aggregate_type":"Order","metadata":"#:6d65746131","payload":"#",'
        b'"timestamp":"2024-01-02T03:04:05.678Z","version":"0.0.1"}',
    },
}  # fmt: skip


@pytest.fixture(params=PRESETS.values(), ids=PRESETS)
def preset(request):
    return request.param


@pytest.fixture
def url(preset, postgres):
    url = postgres.new_database()
    execute(url, *preset.tables)
    return url


def write(connection, preset, number):
    """As the product does: where it draws a position first, in the same transaction."""
    position = None
    if preset.draw:
        ((position,),) = connection.execute(f"SELECT nextval('{preset.draw}')").fetchall()
    connection.execute(preset.insert.format(position, number))


@pytest.mark.parametrize("name", READ)
def test_what_a_preset_reads(postgres, name):
    preset = PRESETS[name]
    url = postgres.new_database()
    execute(url, *preset.tables)
    with connected(url) as connection:
        write(connection, preset, 1)
    (row,) = everything(f"table+{url}&mapping={preset.mapping}")
    row["metadata"] = re.sub(rb'"[0-9]{5,}(:[0-9a-f]+)?"', rb'"#\1"', row["metadata"])
    assert {key: row[key] for key in READ[name]} == READ[name]
    assert (row["position"], row["version"]) == (1, 1)


def test_an_axon_event_of_no_aggregate(postgres):
    url = postgres.new_database()
    execute(
        url,
        *PRESETS["axon5"].tables,
        PRESETS["axon5"].insert.replace("'Order', 'order', {1}", "NULL, NULL, NULL").format(1, 1),
    )
    (row,) = everything(f"table+{url}&mapping=axon5")
    assert (row["stream"], row["version"], row["id"]) == ("", UNKNOWN, "id-1")


def test_nothing_is_missed_with_many_writers(preset, url):
    number = count(1)
    with ExitStack() as stack:
        connections = [stack.enter_context(connected(url)) for _ in range(4)]

        def writing(connection):
            def once(dice):
                with connection.transaction(force_rollback=dice.random() < 0.3):
                    for _ in range(dice.randint(1, 3)):
                        write(connection, preset, next(number))
                        time.sleep(dice.uniform(0, 0.01))

            return once

        @contextmanager
        def idle():
            with connected(url) as other, other.transaction():
                write(other, preset, 0)
                yield

        with closing(open_event_store(f"table+{url}&mapping={preset.mapping}")) as store:
            assert watch(store, [writing(one) for one in connections], idle(), 1.5) > 0


EDITED = {
    "marten": ("mt_events", "headers", "'{}'", "seq_id"),
    "axon4-bytea": ("domain_event_entry", "payload_revision", "'1'", "global_index"),
    "axon4": ("domain_event_entry", "payload", "lo_from_bytea(0, 'other')", "global_index"),
    "axon5": ("aggregate_event_entry", "version", "'1'", "global_index"),
}
EDITS = [
    ("UPDATE {0} SET {1} = {2} WHERE {3} = 3", "altered", 3),
    ("DELETE FROM {0} WHERE {3} = 3", "missing", 3),
    ("UPDATE {0} SET {3} = 0 WHERE {3} = 3", "reordered", 0),
    ("UPDATE {0} SET {3} = 0 WHERE {3} = 9", "inserted", 0),
]


@pytest.mark.parametrize("name", EDITED)
def test_what_an_administrator_does_is_named(postgres, tmp_path, name):
    preset, table = PRESETS[name], EDITED[name][0]
    url = postgres.new_database()
    execute(url, *preset.tables)
    with connected(url) as connection:
        for number in range(1, 9):
            write(connection, preset, number)
        options = ["-C", str(tmp_path / "eventchain.toml")]
        init = ["init", *options, "--difficulty", "1", "--backend", "reference", "--origin", "a"]
        store = f"table+{url}&mapping={preset.mapping}"
        for command in ([*init, "--store", store], ["mine", *options], ["verify", *options]):
            result = CliRunner().invoke(cli, command)
            assert result.exit_code == 0, result.output
        write(connection, preset, 9)
    execute(url, f"CREATE TABLE kept AS SELECT * FROM {table}")
    for edit, kind, position in EDITS:
        execute(
            url, f"TRUNCATE {table}", f"INSERT INTO {table} SELECT * FROM kept", edit.format(*EDITED[name])
        )
        result = CliRunner().invoke(cli, ["verify", *options])
        assert result.exit_code == 1
        assert result.output.startswith(f"{kind}: ")
        assert re.search(rf"position {position}[,:]", result.output)


def test_what_to_run_for_an_erasure_leaves_nothing(preset, url):
    with connected(url) as connection:
        for number in (1, 2, 3):
            write(connection, preset, number)
        with closing(open_event_store(f"table+{url}&mapping={preset.mapping}")) as store:
            for statement in store.how_to_erase([(2, 2)]).split(";\n"):
                connection.execute(statement)
            assert store.read(None, 10)["position"].to_pylist() == [1, 3]
        left = connection.execute("SELECT convert_from(lo_get(oid), 'UTF8') FROM pg_largeobject_metadata")
        assert not any(text.endswith("2") for (text,) in left)
