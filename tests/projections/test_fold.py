"""One pass for all: what a run sees, what becomes of one that fails, and of its state."""

from __future__ import annotations

import json
from typing import Any

import pytest
import rfc8785
from folds import batch_of, folded, run_of, simple
from hypothesis import given
from hypothesis import strategies as st

from eventchain.errors import ProjectionError
from eventchain.formats.event import UNKNOWN
from eventchain.projections import Event, Projection
from eventchain.projections.filter import Filter, Range
from eventchain.projections.fold import Fold
from eventchain.projections.projection import canonical
from eventchain.projections.ready import Count, Sum


class Seen(Projection[list[Any]]):
    """What it is shown."""

    def initial(self) -> list[Any]:
        return []

    def apply(self, state: list[Any], event: Event) -> list[Any]:
        return [*state, [event.position, event.stream, event.json]]


class Picky(Projection[int]):
    def initial(self) -> int:
        return 0

    def apply(self, state: int, event: Event) -> int:
        return state + int(event.json["n"])


class Keeping(Projection[list[Event]]):
    def initial(self) -> list[Event]:
        return []

    def apply(self, state: list[Event], event: Event) -> list[Event]:
        state.append(event)
        return state


ROWS = [simple(f"s{index % 2}", {"n": index}, id=f"id-{index}") for index in range(10)]


def test_an_event_has_everything() -> None:
    row = simple("s", {"n": [1.5, 10**30]}, "kind", version=3, id="i", time=7, metadata=b'{"by":"Ada"}')
    run = run_of(Keeping())
    Fold([run]).feed(batch_of([row, simple("t", None, version=UNKNOWN, time=UNKNOWN)]), 0)
    one, two = run.state
    assert (one.position, one.stream, one.version, one.id, one.type, one.time) == (1, "s", 3, "i", "kind", 7)
    assert (one.data, one.metadata) == (row["data"], b'{"by":"Ada"}')
    assert one.json == {"n": [1.5, 10**30]}
    assert one.json is one.json
    assert one.metadata_json == {"by": "Ada"}
    assert (two.version, two.time, two.data, two.json, two.metadata_json) == (None, None, None, None, None)
    assert "kind i of s" in repr(one)


@pytest.mark.parametrize("data", [b"", b"{", b'"\xff"', b"NaN", b"[" * 100_000])
def test_data_that_is_not_json_is_a_value_error(data: bytes) -> None:
    run = run_of(Keeping())
    Fold([run]).feed(batch_of([simple("s", data)]), 0)
    with pytest.raises(ValueError):  # noqa: PT011
        run.state[0].json  # noqa: B018


def test_projections_of_a_pass_share_what_is_parsed() -> None:
    runs = [run_of(Keeping()), run_of(Keeping(), Filter(where="data.n > 3"))]
    Fold(runs).feed(batch_of(ROWS), 0)
    assert runs[1].state == runs[0].state[4:]  # the same objects


def test_each_run_sees_what_its_state_does_not_cover() -> None:
    early, late = run_of(Seen()), run_of(Seen())
    late.size = 6
    fold = Fold([early, late])
    batch = batch_of(ROWS)
    fold.feed(batch.slice(0, 4), 0)
    fold.feed(batch.slice(4), 4)
    assert [data["n"] for _, _, data in early.state] == list(range(10))
    assert [data["n"] for _, _, data in late.state] == [6, 7, 8, 9]
    assert early.size == late.size == 10
    with pytest.raises(ValueError, match="covers 10 events and is shown those after 11"):
        fold.feed(batch, 11)


def test_a_run_that_fails_stops_and_the_others_go_on() -> None:
    rows = [*ROWS[:5], simple("s0", {"m": 1}, id="bad"), *ROWS[5:]]
    picky, counting, seen = run_of(Picky(), name="picky"), run_of(Count("stream")), run_of(Seen())
    fold = Fold([picky, counting, seen])
    fold.feed(batch_of(rows), 0)
    fold.feed(batch_of(ROWS), 11)
    said = "projection picky: failed at the event at position 16 (bad): KeyError: 'n'"
    assert picky.error is not None
    assert picky.error.message == said
    causes: list[BaseException] = []
    cause: BaseException | None = picky.error
    while cause := cause.__cause__:
        causes.append(cause)
    assert isinstance(causes[-1], KeyError)  # the user's own traceback is kept
    assert fold.active == [counting, seen]
    assert json.loads(counting.dump()) == {"s0": 11, "s1": 10}
    assert len(seen.state) == 21
    with pytest.raises(ProjectionError, match="picky"):
        picky.dump()


class Leaving(Seen):
    def apply(self, state: Any, event: Any) -> Any:
        raise SystemExit(f"enough of {event.stream}")


def test_a_run_that_exits_stops_and_the_others_go_on() -> None:
    leaving, seen = run_of(Leaving(), name="leaving"), run_of(Seen())
    Fold([leaving, seen]).feed(batch_of(ROWS), 0)
    assert leaving.error is not None
    assert leaving.error.message.endswith("SystemExit: enough of s0")
    assert len(seen.state) == len(ROWS)


def test_a_filter_keeps_what_would_fail_away() -> None:
    rows = [*ROWS, simple("s0", {"m": 1})]
    assert folded(Picky(), batch_of(rows), Filter(where="has(data.n)")) == b"45"
    assert folded(Picky(), batch_of(rows), Filter(positions=Range(1, 28))) == b"45"


@pytest.mark.parametrize("state", [{1: 2}, {"a": {1, 2}}, 2**53, b"x", float("nan"), "\ud800"])
def test_a_state_that_is_not_json_is_an_error(state: Any) -> None:
    run = run_of(Seen())
    run.state = state
    with pytest.raises(ProjectionError, match="projection totals: the state is not JSON"):
        run.dump()


@pytest.mark.parametrize(("dumped", "kind"), [("{}", "str"), (None, "NoneType"), (bytearray(), "bytearray")])
def test_a_dump_that_is_not_bytes_is_an_error(
    monkeypatch: pytest.MonkeyPatch, dumped: Any, kind: str
) -> None:
    monkeypatch.setattr(Seen, "dump", lambda self, state: dumped)
    with pytest.raises(ProjectionError, match=f"projection totals: dump: it gives {kind}, not bytes"):
        run_of(Seen()).dump()


def test_states_are_canonical() -> None:
    run = run_of(Seen())
    run.state = {"b": 1.0, "a": [True, None, "é\n"], "\U0001f600": 1e21, "\ufb33": 0.1}
    assert run.dump().decode() == '{"a":[true,null,"é\\n"],"b":1,"\U0001f600":1e+21,"\ufb33":0.1}'


TEXT = st.text(st.characters(exclude_categories=[]), max_size=4)


@given(st.dictionaries(TEXT, st.one_of(TEXT, st.integers(-(2**54), 2**54), st.booleans(), st.floats())))
def test_flat_states_are_canonical_too(state: dict[str, Any]) -> None:
    try:
        expected = rfc8785.dumps(state)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError):
        with pytest.raises(ProjectionError):
            canonical(state)
    else:
        assert canonical(state) == expected


def test_the_empty_batch() -> None:
    run = run_of(Sum("data.n"))
    Fold([run]).feed(batch_of([]), 0)
    assert (run.size, run.dump()) == (0, b"{}")
