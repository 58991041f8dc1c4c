"""[projection.NAME] tables: everything is read, and every mistake is named with its line."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from eventchain.config import Config
from eventchain.errors import ConfigError, ProjectionError
from eventchain.projections import ready
from eventchain.projections.filter import Filter, Range
from eventchain.projections.spec import READY, Every, Spec

HEAD = 'store = "sqlite:///e.db"\nchain = "sqlite:///c.db"\n'
WHOLE = (
    HEAD
    + """\
[projection.totals]
use = "sum"
path = "data.amount"
by = "type"
filter = 'type.startsWith("permit.")'
positions = "10.."
times = "2010-10-01..2010-10-01"
every = "10000 events"

[projection."2nd.of-totals"]
use = "shop.totals:Orders"
options = { rate = 3 }
every = "1h"
of = "totals"
"""
)


def load(text: str) -> Config:
    return Config.parse(text, Path("eventchain.toml"))


def test_everything_is_read() -> None:
    totals, second = load(WHOLE).projections.values()
    assert totals == Spec(
        name="totals",
        use="sum",
        options={"path": "data.amount", "by": "type"},
        where='type.startsWith("permit.")',
        positions="10..",
        times="2010-10-01..2010-10-01",
        every=Every(events=10000),
    )
    assert second == Spec(
        name="2nd.of-totals",
        use="shop.totals:Orders",
        options={"rate": 3},
        every=Every(seconds=3600),
        of="totals",
    )
    day = Range(1_285_891_200_000_000, 1_285_977_599_999_999)
    assert totals.filter() == Filter(Range(10, None), day, 'type.startsWith("permit.")')
    assert isinstance(totals.projection(), ready.Sum)
    assert load(HEAD).projections == {}


@pytest.mark.parametrize(
    ("old", "new", "said", "hint"),
    [
        ("[projection.totals]", "[projection.Totals]", ":3: 'Totals' cannot be the name", "lower-case"),
        ("[projection.totals]", "[projection.erasures]", ":3: 'erasures' cannot be the name", "tile"),
        ("[projection.totals]", "[projections.totals]", ":3: unknown key 'projections'", "projection"),
        ('use = "sum"\n', "", ":3: the key 'use' is missing", "use ="),
        (
            'use = "sum"',
            'use = "sums"',
            ":4: there is no projection 'sums'",
            "latest, count, sum, or an import",
        ),
        ('use = "sum"', "use = 5", ":4: 'use' must be a string", ""),
        ('use = "sum"', 'use = "count"', ":5: unknown key 'path' in [projection.totals]", "every, of, by"),
        ('path = "data.amount"\n', "", ":3: the key 'path' is missing", "path ="),
        ('by = "type"', 'options = { by = "type" }', ":6: unknown key 'options'", "path, by"),
        ('by = "type"', "by = true", ":6: 'by' must be a string", ""),
        ("filter = 'type", "fliter = 'type", ":7: unknown key 'fliter'", "filter"),
        ('"10000 events"', '"soon"', ":10: 'soon' is no interval", "10000 events"),
        ('"10000 events"', '"0 events"', ":10: '0 events' is no interval", ""),
        ('every = "1h"', "every = 3600", ":15: 'every' must be a string", ""),
        ('of = "totals"', 'of = "total"', ":16: there is no projection 'total'", "there are totals"),
        ('of = "totals"', 'of = "2nd.of-totals"', ":16: '2nd.of-totals' would be a projection of itself", ""),
        ("options = { rate = 3 }", "rate = 3", ":14: unknown key 'rate' in [projection.2nd", "options"),
        ("options = { rate = 3 }", "options = 3", ":14: 'options' must be a table", ""),
    ],
)
def test_mistakes(old: str, new: str, said: str, hint: str) -> None:
    assert old in WHOLE
    with pytest.raises(ConfigError) as caught:
        load(WHOLE.replace(old, new, 1))
    assert f"eventchain.toml{said}" in caught.value.message
    assert hint in caught.value.hint


def test_a_table_that_is_none() -> None:
    with pytest.raises(ConfigError, match=r":3: 'projection' must be a table"):
        load(HEAD + "projection = 1\n")
    with pytest.raises(ConfigError, match=r":4: 'a' must be a table"):
        load(HEAD + "[projection]\na = 1\n")


def test_the_circle_of_two() -> None:
    text = HEAD + '[projection.a]\nuse = "count"\nof = "b"\n[projection.b]\nuse = "count"\nof = "a"\n'
    with pytest.raises(ConfigError, match=r":5: 'a' would be a projection of itself"):
        load(text)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (Spec("a", "sum", {"path": "amount"}), "projection a: 'amount' is not a path into an event"),
        (Spec("a", "count", where="type = 'x'"), "projection a: the filter is wrong at line 1, column 6"),
        (Spec("a", "count", positions="x"), "projection a: 'x' is not a range of positions"),
        (Spec("a", "count", times="x.."), "projection a: 'x' is not a time"),
        (Spec("a", "nowhere:X"), "projection a: there is no module 'nowhere'"),
    ],
)
def test_what_is_wrong_when_it_is_used_names_the_projection(spec: Spec, said: str) -> None:
    with pytest.raises(ProjectionError) as caught:
        (spec.projection(), spec.filter())
    assert said in caught.value.message


def test_the_options_of_the_configuration_are_those_of_the_classes() -> None:
    for name, options in READY.items():
        kind = getattr(ready, name.capitalize())
        taken = inspect.signature(kind).parameters
        assert tuple(taken) == tuple(options)
        assert [key for key in taken if taken[key].default is inspect.Parameter.empty] == [
            key for key, needed in options.items() if needed
        ]


def test_a_run_begins_or_goes_on() -> None:
    spec = Spec("a", "sum", {"path": "data.n"}, positions="1..")
    assert spec.run().state.units == {}
    run = spec.run(b'{"x":"1.5"}', 7)
    assert (run.name, run.size, run.dump(), str(run.filter)) == ("a", 7, b'{"x":"1.5"}', "positions 1..")
    with pytest.raises(ProjectionError, match="projection a: load: DecodeError"):
        spec.run(b"{")


@pytest.mark.parametrize(
    ("text", "every"),
    [
        ("1 event", Every(events=1)),
        ("10000 events", Every(events=10000)),
        ("90s", Every(seconds=90)),
        ("5m", Every(seconds=300)),
        ("2 d", Every(seconds=172800)),
    ],
)
def test_intervals(text: str, every: Every) -> None:
    assert Every.parse(text) == every
    assert str(every) == text.replace(" d", "d")
