"""Filters take the events that CEL takes, however they go about it, and have one spelling."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from folds import ROWS, batch_of, moment, object_in, simple
from hypothesis import given
from hypothesis import strategies as st

from eventchain.errors import ProjectionError
from eventchain.formats.event import UNKNOWN
from eventchain.projections import cel
from eventchain.projections.filter import Filter, Range, parse_positions, parse_times
from eventchain.projections.page import Events, Page

CONDITIONS = st.sampled_from(
    [
        'type.startsWith("permit.")',
        'stream == "order-1"',
        "stream.size() > 6",
        "position % 2 == 1",
        "version >= 1",
        'id in ["e1", "x"]',
        'time > timestamp("2010-01-01T00:00:00Z")',
        'data.channel == "Internet"',
        "data.amount > 1.0",
        "data.amount != 0",
        "data.amount==1",
        " data.amount <= 1.50 ",
        "data.amount >= -5",
        "data.x < 9223372036854775807",
        "data.x == 9223372036854775807.0",
        "data.amount > 9007199254740993",
        'data.channel != "Internet"',
        "data.channel < 'E'",
        'data.x >= "a�b"',
        "data.case != 'x'",
        "metadata.case.x == 1.5",
        "data.case.x == 1",
        'data["org:group"] == "Desk"',
        "has(data.case)",
        "!has(data.case)",
        "has(data.case.x)",
        "!has(data.case.x)",
        "data.case.b == 3",
        '"case" in data',
        "size(data) == 1",
        'metadata.x == "Internet"',
        "data.channel == metadata.channel",
        'data.exists(name, name == "x")',
        "[data.amount, 5].exists(data, data == 5)",
        'type == "a" ? data.amount == 0 : true',
        "type == \"a&&(b\" || type == 'order.Paid'",
        'r"a\\d" == type',
        "event.data.amount == 1 && event.type != ''",
        "true",
        "false",
        "data.x",
    ]
)
EXPRESSIONS = st.just("data.amount == 1 // && false") | st.recursive(
    CONDITIONS,
    lambda parts: st.one_of(
        st.builds("({}) && {}".format, parts, parts),
        st.builds("{}&&{}".format, CONDITIONS, CONDITIONS),
        st.builds("({}) || ({})".format, parts, parts),
        st.builds("!({})".format, parts),
    ),
    max_leaves=5,
)


def number(text: str) -> float | int:
    value = float(text) if set(text) & set(".eE") else int(text)
    return value if -(2**63) <= value < 2**63 else float(text)


def test_integers_of_any_size_are_compared() -> None:
    rows = [simple("s", f'{{"n":{sign}{"9" * 400}}}'.encode()) for sign in ("", "-")]
    assert Filter(where="data.n > 1").chosen(Events.of(batch_of(rows))).rows.tolist() == [0]
    assert Filter(where="data.n + 1.0 > 1.0").chosen(Events.of(batch_of(rows))).rows.tolist() == [0]


def visible(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "�")
    if isinstance(value, list):
        return [visible(one) for one in value]
    if isinstance(value, dict):
        return {visible(name): visible(one) for name, one in value.items()}
    return value


def plainly(program: Any, row: dict[str, Any], position: int) -> bool:
    """What CEL says of one event when it is shown everything."""
    known = {"position": position, "data": object_in(row["data"], number)}
    known["metadata"] = object_in(row["metadata"], number)
    known |= {name: row[name] for name in ("stream", "id", "type")}
    known |= {"version": row["version"]} if row["version"] != UNKNOWN else {}
    known |= {"time": moment(row["time"])} if moment(row["time"]) else {}
    variables = {f"event.{name}": visible(value) for name, value in known.items()}
    return program.eval(data=variables).plain_value() is True


@given(ROWS, EXPRESSIONS)
def test_the_events_are_those_that_cel_takes(rows: list[dict[str, Any]], where: str) -> None:
    batch, program = batch_of(rows), cel.compiled(where)
    expected = [i for i, row in enumerate(rows) if plainly(program, row, batch.column(0)[i].as_py())]
    assert Filter(where=where).chosen(Events.of(batch)).rows.tolist() == expected
    backwards = np.array(range(len(rows) - 1, -1, -2), np.int64)
    paths = Filter(where=where).paths
    some = Filter(where=where).chosen(Events(Page(batch, paths), backwards)).rows.tolist()
    assert some == [row for row in backwards.tolist() if row in expected]


@given(ROWS, st.integers(0, 40), st.integers(0, 40))
def test_ranges(rows: list[dict[str, Any]], first: int, last: int) -> None:
    batch = batch_of(rows)
    low, high = sorted((first, last))
    taken = Filter(positions=Range(low, high)).chosen(Events.of(batch)).rows.tolist()
    assert taken == [i for i in range(len(rows)) if low <= 3 * i + 1 <= high]
    early = Filter(times=Range(None, 10)).chosen(Events.of(batch)).rows.tolist()
    assert early == [i for i, row in enumerate(rows) if UNKNOWN < row["time"] <= 10]


def test_conditions_are_taken_apart_only_where_that_changes_nothing() -> None:
    assert cel.conjuncts("a && b&&(c && d)") == ["a ", " b", "(c && d)"]
    assert cel.conjuncts('a == "x && y" && b') == ['a == "x && y" ', " b"]
    for whole in (
        "a && b || c",
        "a ? b && c : d",
        'r"x" == a && b',
        'b"x" == a && b',
        "a && b // && c",
        '"""&&""" == a && b',
    ):
        assert cel.conjuncts(whole) == [whole]


@pytest.mark.parametrize(
    ("where", "paths"),
    [
        ('type == "a" && data.case.channel == "x"', {"type", "data.case.channel"}),
        ("data.a == 1 || data.a.b == 2", {"data.a"}),
        ('data["a:b"].c.startsWith("x")', {'data["a:b"].c'}),
        ("has(data.a) || has(data.b.c)", {"data.a", "data.b"}),
        ("size(data) > 0", {"data"}),
        ("data[id] == 1", {"data", "id"}),
        ("metadata.data.type == 'x'", {"metadata.data.type"}),
        ("1 == 1", set()),
        ('data.url == "https://x"', {"data.url"}),
        ('"a" in data.x && r"b" == id', set(map(str, cel._VARIABLES))),
        ("event.data.x == 1", set(map(str, cel._VARIABLES))),
    ],
)
def test_what_an_expression_looks_at(where: str, paths: set[str]) -> None:
    assert {str(path) for path in cel.looked_at(where)} == paths


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ('type == "a" &&', "wrong at line 1, column 15: Syntax error: mismatched input '<EOF>'"),
        ("data.a == 1 && tipe == 'x'", "column 16: undeclared reference to 'tipe'"),
        ("type.startWith('x')", "column 15: undeclared reference to 'startWith'"),
        ("position == 'a'", "column 10: found no matching overload"),
        ("type ==\n 'a' && x", "line 2, column 9: undeclared reference to 'x'"),
        ("type", "is neither true nor false but STRING"),
        ("(" * 1000, "recursion limit"),
    ],
)
def test_a_wrong_filter_says_where(where: str, said: str) -> None:
    with pytest.raises(ProjectionError) as caught:
        Filter(where=where)
    assert said in caught.value.message
    assert "over position, stream" in caught.value.hint
    if "column" in said:
        assert caught.value.message.splitlines()[2].rstrip(".^ ") == " |"  # the caret


def test_spelling() -> None:
    whole = Filter(parse_positions("10..20"), parse_times("2010-10-01..2010-12-31"), ' type == "a" ')
    assert str(whole) == (
        'positions 10..20 and times 2010-10-01T00:00:00Z..2010-12-31T23:59:59.999999Z and type == "a"'
    )
    assert str(Filter()) == ""
    assert str(Filter(where="  ")) == ""
    assert (
        str(Filter(times=parse_times("2010-10-01T02:00:00.5+02:00..")))
        == "times 2010-10-01T00:00:00.500000Z.."
    )
    assert str(Filter(positions=Range(None, 5))) == "positions ..5"


LIMITS = st.one_of(st.none(), st.integers(0, 10**15))
RANGES = st.tuples(LIMITS, LIMITS).map(lambda ends: Range(*(sorted(ends) if None not in ends else ends)))


@given(RANGES, RANGES, st.one_of(st.just(""), EXPRESSIONS, st.just('"positions 1..2" == type')))
def test_the_spelling_is_read_back(positions: Range, times: Range, where: str) -> None:
    written = Filter(positions, times, where)
    read = Filter.parse(str(written))
    assert read == written
    assert str(read) == str(written)


@pytest.mark.parametrize("text", ["10", "..", "a..b", "20..10", "-1..5", "0..99999999999999999999", "1 .. 2"])
def test_what_is_no_range_of_positions_is_refused(text: str) -> None:
    with pytest.raises(ProjectionError):
        parse_positions(text)


@pytest.mark.parametrize(
    "text", ["2010", "..", "2010-13-01..", "2010-10-01T09:00:00..", "2011-01-01..2010-01-01"]
)
def test_what_is_no_range_of_times_is_refused(text: str) -> None:
    with pytest.raises(ProjectionError):
        parse_times(text)


def test_a_filter_remembers_only_so_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cel, "_REMEMBERED", 3)
    rows = [simple("s", {"n": index % 7}) for index in range(40)]
    taken = Filter(where="data.n > 4").chosen(Events.of(batch_of(rows)))
    assert len(taken) == sum(index % 7 > 4 for index in range(40))
