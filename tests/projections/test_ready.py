"""The ready-made projections are what plain Python makes of the same events, however these are cut."""

from __future__ import annotations

import base64
import json
from collections import Counter
from decimal import MAX_PREC, Context, Decimal
from typing import Any

import pytest
from folds import ROWS, Written, at, batch_of, folded, object_in, run_of, simple
from hypothesis import given
from hypothesis import strategies as st

from eventchain.errors import ProjectionError
from eventchain.projections import fold
from eventchain.projections.filter import Filter
from eventchain.projections.fold import Fold
from eventchain.projections.page import _name, _names
from eventchain.projections.projection import Projection
from eventchain.projections.ready import Count, Latest, Sum

EXACT = Context(prec=MAX_PREC)
NUMERIC = 'type != "a"'  # in the rows below: those whose amounts are numbers


def grouped(value: Any) -> str | None:
    """The name of a group."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str) else None


def is_number(value: Any) -> bool:
    if not isinstance(value, str):
        return value is None
    try:
        return isinstance(json.loads(value), int | float) and value not in ("true", "false")
    except ValueError:
        return False


def plain(value: Decimal) -> str:
    text = format(value, "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


@given(
    ROWS, st.sampled_from([("type",), ("stream",), ("data.channel", "channel"), ("data.case.x", "case", "x")])
)
def test_count(rows: list[dict[str, Any]], by: tuple[str, ...]) -> None:
    keys = (row[by[0]] if len(by) == 1 else grouped(at(row, *by[1:])) for row in rows)
    expected = dict(Counter(key for key in keys if key is not None))
    assert json.loads(folded(Count(by[0]), batch_of(rows))) == expected


@given(ROWS, st.sampled_from([("stream",), ("data.channel", "channel")]))
def test_sum(rows: list[dict[str, Any]], by: tuple[str, ...]) -> None:
    rows = [row for row in rows if is_number(at(row, "amount"))]
    expected: dict[str, Decimal] = {}
    for row in rows:
        key = row["stream"] if len(by) == 1 else grouped(at(row, "channel"))
        if at(row, "amount") is not None and key is not None:
            expected[key] = EXACT.add(expected.get(key, Decimal(0)), Decimal(at(row, "amount")))
    found = json.loads(folded(Sum("data.amount", by[0]), batch_of(rows)))
    assert found == {key: plain(value) for key, value in expected.items()}


@given(ROWS)
def test_latest(rows: list[dict[str, Any]]) -> None:
    expected: dict[str, Any] = {}
    for row in rows:
        data = row["data"]
        try:
            expected[row["stream"]] = None if data is None else json.loads(data.decode())
        except ValueError:
            expected[row["stream"]] = {"base64": base64.b64encode(data).decode()}
    dumped = folded(Latest(), batch_of(rows))
    assert json.loads(dumped) == expected
    assert Latest().dump(Latest().load(dumped)) == dumped


def test_latest_keeps_the_data_as_it_stands() -> None:
    rows = [
        simple("b", b'{"b": 1.50, "a":[ ]}'),
        simple("a", b"\xff"),
        simple("c", None),
        simple("b", b" 1e400 "),
    ]
    assert folded(Latest(), batch_of(rows)) == b'{"a":{"base64":"/w=="},"b":1e400,"c":null}'
    assert folded(Latest(), batch_of(rows[:1])) == b'{"b":{"b": 1.50, "a":[ ]}}'


PROJECTIONS = [
    Latest(),
    Count(),
    Count("stream"),
    Count("data.channel"),
    Sum("data.amount", "type"),
    Sum("data.x"),
]
FILTERS = ["", NUMERIC, 'data.channel == "Internet"', 'stream != "" && has(data.case)']


@given(ROWS, st.data())
def test_any_cuts_give_the_same_state(rows: list[dict[str, Any]], data: st.DataObject) -> None:
    """Any pages, parts, batches and restarts from a dumped state, alone or together with others."""
    rows = [row for row in rows if is_number(at(row, "amount")) and is_number(at(row, "x"))]
    batch = batch_of(rows)
    filters = [Filter(where=data.draw(st.sampled_from(FILTERS))) for _ in PROJECTIONS]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=4)))
    runs = [run_of(one, filter) for one, filter in zip(PROJECTIONS, filters, strict=True)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fold, "PAGE", data.draw(st.integers(1, 9)))
        patch.setattr(fold, "PART", data.draw(st.integers(1, 4)))
        for start, end in zip([0, *cuts], [*cuts, len(rows)], strict=True):
            Fold(runs).feed(batch.slice(start, end - start), start)
            for run in runs:
                run.state = run.projection.load(run.dump())
    for run, one, filter in zip(runs, PROJECTIONS, filters, strict=True):
        assert run.dump() == folded(one, batch, filter)


@given(ROWS)
def test_dumped_states_come_back(rows: list[dict[str, Any]]) -> None:
    rows = [row for row in rows if is_number(at(row, "amount")) and is_number(at(row, "x"))]
    for projection in PROJECTIONS:
        dumped = folded(projection, batch_of(rows))
        assert projection.dump(projection.load(dumped)) == dumped


@pytest.mark.parametrize(
    "amount", ['"12.5 EUR"', "true", "{}", "[1]", '" 1"', '"1_0"', '""', '"NaN"', "1e1001", '"٣"']
)
def test_what_is_no_number_is_an_error_that_names_the_event(amount: str) -> None:
    rows = [simple("a", {"amount": 1}), simple("a", f'{{"amount":{amount}}}'.encode(), id="the-id")]
    run = run_of(Sum("data.amount"))
    Fold([run]).feed(batch_of(rows), 0)
    assert run.error is not None
    assert "projection totals: failed at the event at position 4 (the-id): data.amount: " in str(run.error)
    with pytest.raises(ProjectionError, match="position 4"):
        run.dump()


def test_sums_are_exact() -> None:
    def total(*texts: str) -> str:
        rows = [simple("a", f'{{"n":{text}}}'.encode()) for text in texts]
        return json.loads(folded(Sum("data.n"), batch_of(rows)))["a"]

    assert total(*["0.1"] * 10) == "1"
    assert total("9223372036854775807", "9223372036854775807") == "18446744073709551614"
    assert total("9007199254740993", "0.000000000000000001") == "9007199254740993.000000000000000001"
    assert total("1e30", "-1E+30", '"2.50"') == "2.5"
    assert total("-0", "0.0") == "0"
    assert total("1e1000", "1") == "1" + "0" * 999 + "1"
    many = folded(Sum("data.n"), batch_of([simple("a", b'{"n":9e999}'), simple("a", b'{"n":9e-1000}')]))
    assert Sum("data.n").dump(Sum("data.n").load(many)) == many
    assert total("1e-1000") == "0." + "0" * 999 + "1"


def test_the_state_of_a_sum_can_be_asked() -> None:
    run = run_of(Sum("data.n"))
    Fold([run]).feed(batch_of([simple("a", {"n": 1.5}), simple("a", {"n": "2"})]), 0)
    assert run.state["a"] == Decimal("3.5")


def test_options_are_in_the_fingerprint_and_code_is_not() -> None:
    prints = {
        one.fingerprint()
        for one in (Latest(), Count(), Count("stream"), Sum("data.a"), Sum("data.a", "type"))
    }
    assert len(prints) == 5
    assert Count("type").fingerprint() == Count().fingerprint() == "daf5db969ad874c7"


@pytest.mark.parametrize(
    "path", ["", "data", "amount", "data.", "data.a.", "type.x", "data[0]", 'data["a]', "position"]
)
def test_what_is_no_path_is_refused(path: str) -> None:
    with pytest.raises(ProjectionError, match="is not a path into an event"):
        Sum(path)


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ('data["org:group"]', {"org:group": 1}),
        ("data.a.b", {"a": {"b": 1}}),
        ('data["q\\"uote"].x', {'q"uote': {"x": 1}}),
        ('data.a["b\\\\"]', {"a": {"b\\": 1}}),
    ],
)
def test_paths_reach_any_member(path: str, data: Any) -> None:
    assert json.loads(folded(Sum(path), batch_of([simple("s", data)]))) == {"s": "1"}


def test_a_path_and_one_below_it_are_read_in_one_pass() -> None:
    rows = [simple("s", {"a": {"b": 2}}), simple("s", {"a": 5}), simple("s", {})]
    runs = [run_of(Sum("data.a.b")), run_of(Count("data.a")), run_of(Count("stream"))]
    Fold(runs).feed(batch_of(rows), 0)
    assert [json.loads(run.dump()) for run in runs] == [{"s": "2"}, {"5": 1}, {"s": 3}]


def test_the_oracle_reads_numbers_as_written() -> None:
    assert isinstance(object_in(b'{"a":1.50}')["a"], Written)
    assert isinstance(PROJECTIONS[0], Projection)


JSON_TEXTS = st.recursive(
    st.sampled_from([b"1", b"null", b"true", b'""', b'"a"', b'"\\u0041"', b'"\xc3\xa4"', b"-2.5e3", b""]),
    lambda inner: (
        st.lists(inner.filter(bool), max_size=4).map(lambda all_: b"[" + b",".join(all_) + b"]")
        | st.lists(inner.filter(bool), max_size=3).map(
            lambda all_: b"{" + b",".join(b'"":' + value for value in all_) + b"}"
        )
    ),
    max_leaves=6,
)


@given(st.lists(JSON_TEXTS, max_size=7))
def test_names_of_many_are_those_of_each(texts):
    assert _names(texts) == [_name(text) for text in texts]
