"""Files of events: what goes in comes out, and a broken file says where."""

from __future__ import annotations

import base64
import gzip
import json
import os
import threading
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventchain.errors import ConfigError, FormatError, StoreError
from eventchain.eventstores import open_event_store
from eventchain.formats.event import EVENT_SCHEMA, UNKNOWN
from eventchain.interchange import parquet, read_events, write_events
from eventchain.interchange.line import Event, Versions, from_line, to_line

PERMITS = Path(__file__).parents[2].parent / "shared/data/permits.cloudevents.jsonl.gz"
MINIMAL = {"specversion": "1.0", "id": "e1", "source": "/s", "type": "t"}


def one(text, versions=None):
    return from_line(
        text.encode() if isinstance(text, str) else text, Versions() if versions is None else versions
    )


def line(**more):
    return json.dumps(MINIMAL | more)


def table(path):
    return pa.Table.from_batches(read_events(path), schema=EVENT_SCHEMA)


# -- one line -----------------------------------------------------------------------------------------


def test_a_full_line():
    raw = '{"amount":1.50, "amount":1.5e0,"text":"\\u00e9 }\\" é"}'
    text = (
        '{"data":'
        + raw
        + ',"subject":"account-7" , "sequence":"0000000042","time":"2024-02-29T23:59:59.123456789'
        '+02:00","type":"Deposited","source":"/bank","id":"a","specversion":"1.0","weight":1.0,"flag":true}'
    )
    event = one(text)
    assert event[:5] == ("account-7", 42, "a", "Deposited", 1709243999123456)
    assert event.data == raw.encode()
    assert event.metadata == (
        b'{"flag":true,"sequence":"0000000042","source":"/bank","specversion":"1.0","subject":"account-7",'
        b'"time":"2024-02-29T23:59:59.123456789+02:00","weight":1.0}'
    )
    again = to_line(event, Versions())
    assert one(again) == event
    written = json.loads(again)
    assert written == json.loads(text)
    assert again.startswith(b'{"specversion":"1.0","id":"a"')


def test_what_is_missing():
    versions = Versions()
    assert one(line(), versions) == Event(
        "/s", 0, "e1", "t", UNKNOWN, None, b'{"source":"/s","specversion":"1.0"}'
    )
    assert one(line(subject="x", sequence="7"), versions).version == 7
    assert one(line(subject="x"), versions).version == 8
    assert one(line(), versions).version == 1


def test_data_base64():
    event = one(line(data_base64="AP8="))
    assert event.data == b"\x00\xff"
    assert event.metadata == b'{"data_base64":true,"source":"/s","specversion":"1.0"}'
    assert json.loads(to_line(event, Versions())) == MINIMAL | {"data_base64": "AP8="}
    # JSON that came as base64 goes as base64
    event = one(line(data_base64=base64.b64encode(b"[1]").decode()))
    assert json.loads(to_line(event, Versions()))["data_base64"]


@pytest.mark.parametrize(
    "raw", ["null", "0", '""', "-1.5E+3", '" \\u2028 "', "[ 1 ,\t2 ]", "{ }", "1e999", "9" * 5000]
)
def test_data_is_kept_as_it_stands(raw):
    event = one('{"specversion":"1.0","id":"e","source":"s","type":"t","data": ' + raw + " }")
    assert event.data == raw.encode()
    assert one(to_line(event, Versions())) == event


@pytest.mark.parametrize(
    ("time", "microseconds"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1969-12-31T23:59:59.9Z", -100_000),
        ("1970-01-01t01:00:00.0000019+01:00", 1),
        ("1969-12-31T22:30:00-01:30", 0),
        ("2016-12-31T23:59:60Z", 1483228800_000_000),
        ("0001-01-01T00:00:00Z", -62135596800_000_000),
        ("9999-12-31T23:59:59.999999Z", 253402300799_999_999),
    ],
)
def test_times(time, microseconds):
    assert one(line(time=time)).time == microseconds


@settings(deadline=None)
@given(st.datetimes(), st.sampled_from(["Z", "+00:00", "-11:30", "+14:00"]))
def test_times_agree_with_the_standard_library(moment, offset):
    text = moment.isoformat() + offset
    since = datetime.fromisoformat(text) - datetime.fromisoformat("1970-01-01T00:00:00Z")
    assert one(line(time=text)).time == (since.days * 86400 + since.seconds) * 10**6 + since.microseconds


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not JSON"),
        ("nonsense", "not JSON"),
        ("[]", "not JSON"),
        ('{"specversion":"1.0"', "not JSON"),
        ('{"specversion":"1.0",}', "not JSON"),
        ("{1:2}", "not JSON"),
        (line() + " x", "follows"),
        (line() + line(), "follows"),
        (line(data=float("nan")), "NaN"),
        (line(specversion="0.3"), "specversion"),
        (line(specversion=1.0), "specversion"),
        (line(id=""), "id"),
        (line(type=None), "type"),
        (line(source=5), "source"),
        (line(subject=""), "subject"),
        (line(subject=1), "subject"),
        (line(sequence="1.5"), "sequence"),
        (line(sequence="٣"), "sequence"),
        (line(sequence=True), "sequence"),
        (line(sequence=str(2**63)), "sequence"),
        (line(sequence="9" * 5000), "sequence"),
        (line(time="yesterday"), "time"),
        (line(time="2024-02-30T00:00:00Z"), "does not exist"),
        (line(time="2024-02-03T00:00:61Z"), "does not exist"),
        (line(time="2024-02-03T00:00:00+24:00"), "does not exist"),
        (line(time="2024-02-03T00:00:00"), "time"),
        (line(time=5), "time"),
        (line(extra={"a": 1}), "extra"),
        (line(data=1, data_base64="AA=="), "both"),
        (line(data_base64="A"), "Base64"),
        (line(data_base64="A A="), "Base64"),
        (line(data_base64=5), "data_base64"),
        (line(subject="\ud800"), "surrogate"),
        (line(id="\udfff"), "surrogate"),
        (line(id="e")[:-1] + ',"id":"e"}', "twice"),
        (line(id="e")[:-1] + ',"\\u0069d":"e"}', "twice"),
        (b'{"id":"\xff"}', "byte 8"),
        (line()[:-1] + ',"data":' + "[" * 100_000 + "]" * 100_000 + "}", "deep"),
        ('{"id":"a\tb"}', "control"),
    ],
)
def test_broken_lines(text, says):
    with pytest.raises(FormatError, match=says):
        one(text)


def test_a_json_number_is_a_sequence_too():
    event = one(line(sequence=12))
    assert event.version == 12
    assert json.loads(to_line(event, Versions())) == MINIMAL | {"sequence": 12}


texts = st.text(st.characters(exclude_categories=["Cs"]))
int64 = st.integers(-(2**63), 2**63 - 1)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
some_json = json_values.map(lambda v: json.dumps(v, ensure_ascii=False).encode())
names = st.sampled_from(["subject", "sequence", "time", "data", "data_base64", "id", "specversion", "x", "é"])
attribute_values = (
    st.none() | st.booleans() | st.sampled_from(["1.0", "0", "007", "2024-01-01T00:00:00Z"]) | texts
)
metadata = (
    st.none()
    | st.binary()
    | some_json
    | st.dictionaries(names, attribute_values).map(
        lambda d: json.dumps(
            {"source": "s", "specversion": "1.0"} | d,
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=False,
        ).encode()
    )
)
few = st.sampled_from(["s", "a", ""])
events = st.builds(
    Event,
    few | texts,
    st.integers(-1, 8) | int64,
    texts,
    texts,
    st.sampled_from([UNKNOWN, 0, -1]) | int64,
    st.none() | st.binary() | some_json,
    metadata,
)


@settings(max_examples=300, deadline=None)
@given(st.lists(events, max_size=5))
def test_every_event_comes_back(given_events):
    writing, reading = Versions(), Versions()
    for event in given_events:
        text = to_line(event, writing)
        assert b"\n" not in text
        json.loads(text)
        assert from_line(text, reading) == event


extensions = st.dictionaries(
    st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True).filter(
        lambda n: n not in ("id", "type", "data", "source")
    ),
    st.none() | st.booleans() | st.integers() | texts,
    max_size=3,
).map(lambda d: {k: v for k, v in d.items() if k not in ("time", "subject", "sequence")})
words = texts.filter(bool)
lines = st.builds(
    lambda more, id_, type_, source, some, data: {
        "specversion": "1.0",
        **more,
        "id": id_,
        "type": type_,
        "source": source,
        **some,
        **data,
    },
    extensions,
    words,
    words,
    words,
    st.fixed_dictionaries(
        {},
        optional={
            "subject": words,
            "sequence": st.from_regex(r"0{0,3}[0-9]{1,6}", fullmatch=True),
            "time": st.datetimes().map(
                lambda d: d.isoformat() + "123Z" if d.microsecond else d.isoformat() + "Z"
            ),
        },
    ),
    st.just({})
    | st.builds(lambda v: {"data": v}, json_values)
    | st.binary().map(lambda b: {"data_base64": base64.b64encode(b).decode()}),
)


@settings(deadline=None)
@given(st.lists(lines, max_size=4), st.randoms())
def test_every_cloud_event_goes_out_as_it_came(given_lines, order):
    reading, writing, again = Versions(), Versions(), Versions()
    for members in given_lines:
        shuffled = list(members.items())
        order.shuffle(shuffled)
        text = json.dumps(dict(shuffled), ensure_ascii=order.random() < 0.5)
        event = from_line(text.encode(), reading)
        written = to_line(event, writing)
        assert json.loads(written) == members
        assert from_line(written, again) == event
        if "data" in members:
            assert event.data in text.encode()


# -- files --------------------------------------------------------------------------------------------


def test_line_ends_blank_lines_and_a_byte_order_mark(tmp_path):
    file = tmp_path / "events.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + line(id="1").encode() + b"\r\n\r\n  \n" + line(id="2").encode())
    found = table(file)
    assert found["id"].to_pylist() == ["1", "2"]
    assert found["position"].to_pylist() == [0, 1]
    (tmp_path / "empty.jsonl").write_bytes(b"")
    assert table(tmp_path / "empty.jsonl").num_rows == 0


@pytest.mark.parametrize("packed", [False, True])
def test_a_broken_line_is_named_and_nothing_is_imported(tmp_path, packed):
    good = [line(id=str(n)) for n in range(9000)]  # more than a batch
    content = "\n".join([*good, "", line(id="x", time="noon"), *good]).encode()
    file = tmp_path / "events.any"
    file.write_bytes(gzip.compress(content) if packed else content)
    store = open_event_store(f"sqlite:///{tmp_path}/events.db", create=True)
    with pytest.raises(FormatError, match="line 9002: time 'noon'"):
        store.append_batches(read_events(file))
    assert store.head() is None
    store.close()


def test_damaged_gzip(tmp_path):
    file = tmp_path / "events.jsonl.gz"
    whole = gzip.compress("\n".join(line(id=str(n)) for n in range(5000)).encode())
    scribbled = whole[:100] + b"\x55" * 50 + whole[150:]
    for damaged in (whole[: len(whole) // 2], whole[:-3], scribbled, whole[:5]):
        file.write_bytes(damaged)
        with pytest.raises(FormatError, match=r"line \d+: .*"):
            table(file)


@pytest.mark.parametrize("name", ["events.parquet", "events.jsonl.gz"])
def test_an_empty_file_of_a_kind_that_never_is(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(FormatError, match=f"{name} is empty"):
        read_events(tmp_path / name)


def test_an_empty_file_of_lines_has_no_events(tmp_path):
    (tmp_path / "events.jsonl").touch()
    assert list(read_events(tmp_path / "events.jsonl")) == []


def test_damaged_parquet_is_reported_as_parquet(tmp_path):
    write_events([example()], tmp_path / "whole.parquet")
    whole = (tmp_path / "whole.parquet").read_bytes()
    for name, content in (("x.parquet", b"XXXX" + whole[4:-4]), ("x", whole[: len(whole) // 2])):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FormatError, match="cannot be read as Parquet"):
            table(tmp_path / name)


def test_a_pipe_is_read_to_its_end(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    content = "\n".join(line(id=str(n)) for n in range(3)).encode()
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=[content])
    writer.start()
    assert table(tmp_path / "pipe")["id"].to_pylist() == ["0", "1", "2"]
    writer.join()


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(StoreError, match=r"No such file.*\(a relative name starts from"):
        read_events(tmp_path / "none.jsonl")
    with pytest.raises(StoreError, match="directory"):
        read_events(tmp_path)
    with pytest.raises(StoreError, match="cannot write"):
        write_events([], tmp_path / "no folder" / "x.jsonl")
    with pytest.raises(ConfigError, match="does not say"):
        write_events([], tmp_path / "x.csv")


def example():
    rows = [
        {"position": 7, "stream": "s", "version": 0, "id": "a", "type": "t", "time": 5, "data": b'{"a": 1}'},
        {
            "position": 9,
            "stream": "s",
            "version": 1,
            "id": "b\n",
            "type": "t",
            "time": UNKNOWN,
            "data": b"\xff",
            "metadata": b"",
        },
        {
            "position": 10,
            "stream": "é",
            "version": UNKNOWN,
            "id": "c",
            "type": "",
            "time": 2**63 - 1,
            "data": None,
            "metadata": b"[\n]",
        },
    ]
    return pa.RecordBatch.from_pylist(rows, schema=EVENT_SCHEMA)


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.parquet"])
def test_written_files_are_read_back(tmp_path, name):
    batch, file = example(), tmp_path / name
    file.write_bytes(b"what was there before")
    assert write_events([batch, batch.slice(0, 0), batch], file) == 6
    assert table(file).drop(["position"]) == pa.Table.from_batches([batch, batch]).drop(["position"])
    assert table(file)["position"].to_pylist() == list(range(6))
    first = file.read_bytes()
    write_events([batch, batch], file)
    assert file.read_bytes() == first or name == "x.parquet"
    assert [f.name for f in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.parquet"])
def test_a_failed_export_leaves_the_old_file(tmp_path, name):
    def failing():
        yield example()
        raise StoreError("the store is gone")

    file = tmp_path / name
    file.write_bytes(b"old")
    with pytest.raises(StoreError, match="gone"):
        write_events(failing(), file)
    assert file.read_bytes() == b"old"
    assert [f.name for f in tmp_path.iterdir()] == [name]


def test_standard_output(capfdbinary):
    assert write_events([example()], "-") == 3
    written = capfdbinary.readouterr().out.splitlines()
    assert json.loads(written[0])["data"] == {"a": 1}
    with pytest.raises(ConfigError):
        parquet.write([], "-")


def test_parquet_of_others(tmp_path):
    file = tmp_path / "x.parquet"
    whole = pa.Table.from_batches([example()])
    other = whole.drop(["position"]).set_column(0, "stream", whole["stream"].dictionary_encode())
    other = other.set_column(1, "version", pa.array([0, 1, 2], pa.uint32()))
    other = other.set_column(5, "data", whole["data"].cast(pa.large_binary()))
    pq.write_table(other.append_column("more", pa.array([1, 2, 3])), file)
    assert table(file)["stream"] == whole["stream"]
    assert table(file)["version"].to_pylist() == [0, 1, 2]
    assert table(file)["data"] == whole["data"]

    def broken(changed, says):
        pq.write_table(changed, file)
        with pytest.raises(FormatError, match=says):
            table(file)

    broken(whole.drop(["type"]), "no column type")
    broken(whole.set_column(5, "time", pa.array([0.5, 1.0, 2.0])), "time of .* is double, not integers")
    broken(whole.set_column(6, "data", pa.array(["a", "b", "c"])), "data of .* is string, not binary")
    broken(whole.set_column(2, "version", pa.array([1, None, 3])), "row 1: version is null")
    broken(whole.set_column(2, "version", pa.array([1, 2, 2**63], pa.uint64())), "rows 0 to 2: version")
    lines_file = tmp_path / "y.parquet"
    pq.write_table(whole, lines_file)
    content = lines_file.read_bytes()
    lines_file.write_bytes(content[: len(content) // 2])
    with pytest.raises(FormatError, match="Parquet"):
        table(lines_file)


@pytest.mark.skipif(not PERMITS.exists(), reason="the permits log is not part of the project")
def test_the_permits_log(tmp_path):
    given_lines = gzip.decompress(PERMITS.read_bytes()).splitlines()
    assert len(given_lines) == 8577
    found = table(PERMITS)
    # Independently of the scanner: in this log data is the last member.
    raw = [text[text.index(b',"data":') + len(b',"data":') : -1] for text in given_lines]
    assert found["data"].to_pylist() == raw
    store = open_event_store(f"sqlite:///{tmp_path}/events.db", create=True)
    assert store.append_batches(read_events(PERMITS)) == 8577
    stored = store.read(None, 10_000)
    store.close()
    assert pa.Table.from_batches([stored]).drop(["position"]) == found.drop(["position"])
    write_events([stored], tmp_path / "out.jsonl.gz")
    exported = gzip.decompress((tmp_path / "out.jsonl.gz").read_bytes()).splitlines()
    assert [json.loads(text) for text in exported] == [json.loads(text) for text in given_lines]
    assert table(tmp_path / "out.jsonl.gz") == found
