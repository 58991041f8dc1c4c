"""Snapshots of projections: when they are due, what they hold, and what comes of them."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
from chains import BITS, ORIGIN, SOURCE, manifests, new_chain, new_event
from hypothesis import given, settings
from hypothesis import strategies as st

from eventchain.assembly import Chain
from eventchain.chain.build import Snapshot
from eventchain.errors import PolicyError, ProjectionError, StoreError
from eventchain.formats.event import EVENT_SCHEMA
from eventchain.formats.policy import Policy
from eventchain.formats.snapshot import About
from eventchain.projections import Projection
from eventchain.projections.fold import Fold
from eventchain.projections.spec import Every, Spec
from eventchain.snapshots.beside import Beside
from eventchain.snapshots.series import all_series
from eventchain.snapshots.take import Last, Point, Taker, at_the_head, by_policy

COUNT = Spec("types", "count", {"by": "type"}, every=Every(events=20))
SUM = Spec("amounts", "sum", {"path": "data.amount"}, every=Every(events=50))
OF_COUNT = Spec("history", "latest", every=Every(events=2), of="types")
HERE = Path(__file__).stem


class Fragile(Projection[int]):
    """Fails at one event."""

    at = 10**9

    def initial(self) -> int:
        return 0

    def apply(self, state, event):
        if event.position == self.at:
            raise ValueError("I do not like this one")
        return state + 1


class Changing(Fragile):
    """Its fingerprint is what it is told."""

    token = "1"

    def fingerprint(self) -> str:
        return self.token


class Told(Fragile):
    """Counts what it is shown."""

    events = 0

    def apply(self, state, event):
        Told.events += 1
        return state + 1


class Taking:
    """A chain of 10 events a block, and whoever takes snapshots of it."""

    def __init__(self, folder: Path, *specs: Spec) -> None:
        self.files = new_chain(folder)
        self.specs = {spec.name: spec for spec in specs}
        self.dropped: list[tuple[str, str]] = []
        self.notices: list[str] = []

    def taker(self, store, events, due=by_policy) -> Taker:
        return Taker(
            store,
            events,
            all_series(store, self.specs).values(),
            due,
            dropped=lambda series, error: self.dropped.append((series.name, str(error))),
            notice=self.notices.append,
        )

    def seal(self, first: int, count: int, due=by_policy, block_events: int = 10) -> int:
        """Append so many events and seal them; gives the number of snapshots."""
        with self.files.working() as work:
            beside = Beside(
                self.taker(work.store, work.events, due), lambda error: self.dropped.append(("", str(error)))
            )
            work.sealer._snapshots = beside
            with beside.working():
                work.append(first, count)
                work.sealer.resume()
                work.sealer.seal_backlog(block_events)
            self.replayed = work.sealer.progress.events_replayed
            return work.sealer.progress.snapshots_sealed

    def chain(self, store, events) -> Chain:
        return Chain(events, store, projections=self.specs)

    def pins(self, name: str) -> list[int]:
        return [m.pin.height for m in manifests(self.files, f"{ORIGIN}/{name}") if m.pin]


def counts(end: int) -> dict[str, int]:
    return dict(Counter(new_event(number)["type"] for number in range(end)))


def test_snapshots_are_taken_by_policy_while_sealing(tmp_path):
    taking = Taking(tmp_path, COUNT, SUM)
    assert taking.seal(0, 65) == 3 + 1
    assert taking.replayed >= 60
    taking.files.check()
    assert (taking.pins("types"), taking.pins("amounts")) == ([2, 4, 6], [5])
    assert taking.seal(65, 60) == 3 + 1
    taking.files.check()
    # Block 7 ends at 65 events, 8 holds child lines only, 9 ends at 75 events, 10 at 85.
    assert (taking.pins("types"), taking.pins("amounts")) == ([2, 4, 6, 10, 12, 14], [5, 12])
    assert not taking.dropped
    with taking.files.opened() as (store, events):
        chain = taking.chain(store, events)
        restored = chain.restore("types", at=13)
        assert restored.state == counts(115)
        assert (restored.snapshot.height, restored.replayed, restored.size) == (12, 10, 115)
        assert restored.dump == json.dumps(counts(115), sort_keys=True, separators=(",", ":")).encode()
        assert chain.restore("types").replayed == 0
        assert chain.state("types") == counts(125)
        assert chain.state("types", at=6) == counts(60)
        assert chain.state("types", at=1) == counts(10)
        assert chain.state("types", at=0) == {}
        assert [pin.height for pin in chain.snapshots("types")] == [2, 4, 6, 10, 12, 14]
        with pytest.raises(ProjectionError, match="block 99"):
            chain.state("types", at=99)
        with pytest.raises(ProjectionError, match="no projection 'nothing'"):
            chain.state("nothing")


def test_a_projection_of_snapshots_is_a_branch_of_a_branch(tmp_path):
    taking = Taking(tmp_path, COUNT, OF_COUNT)
    assert taking.seal(0, 90) == 4 + 2
    taking.files.check()
    assert [m.pin.height for m in manifests(taking.files, f"{ORIGIN}/types/history") if m.pin] == [4, 6]
    with taking.files.opened() as (store, events):
        chain = taking.chain(store, events)
        assert json.loads(chain.restore("history").dump) == {f"{ORIGIN}/types": counts(80)}
        assert all(not one.fault for one in chain.check_snapshots(["types", "history"]))
    assert taking.seal(90, 40) == 2 + 1
    taking.files.check()


def test_one_is_taken_at_the_head_and_none_twice(tmp_path):
    taking = Taking(tmp_path, COUNT)
    with taking.files.working() as work:
        work.append(0, 25)
        work.sealer.seal_backlog(10)

    def take() -> int:
        with taking.files.working() as work:
            beside = Beside(taking.taker(work.store, work.events, at_the_head), taking.dropped.append)
            work.sealer._snapshots = beside
            with beside.working():
                work.sealer.seal_snapshots()
            return work.sealer.progress.snapshots_sealed

    assert take() == 1
    assert taking.pins("types") == [3]
    taking.files.check()
    assert take() == 0
    taking.specs["types"] = Spec("types", "count", {"by": "stream"})  # of no use any more
    assert take() == 1
    assert taking.pins("types") == [3, 4]
    assert take() == 0
    taking.files.check()
    assert not taking.dropped


def test_a_restart_begins_at_the_last_snapshot(tmp_path, monkeypatch):
    taking = Taking(tmp_path, Spec("all", f"{HERE}:Fragile", every=Every(events=40)))
    assert taking.seal(0, 80) == 2
    seen = []
    monkeypatch.setattr(Fragile, "apply", lambda self, state, event: seen.append(event.position) or state + 1)
    # Its fingerprint is of the source, which is still the same.
    assert taking.seal(80, 50) == 1
    assert seen == list(range(81, 121))


def test_a_failing_projection_stops_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(Fragile, "at", 55)
    taking = Taking(tmp_path, COUNT, Spec("fragile", f"{HERE}:Fragile", every=Every(events=20)))
    assert taking.seal(0, 100) == 5 + 2
    ((name, reason),) = taking.dropped
    assert name == "fragile"
    assert "position 55 (event-54)" in reason
    assert "I do not like this one" in reason
    taking.files.check()
    monkeypatch.setattr(Fragile, "at", 10**9)
    assert taking.seal(100, 20) == 1 + 4  # what was due is made up for


def test_one_that_is_not_due_is_not_begun(tmp_path, monkeypatch):
    rare = Spec("all", f"{HERE}:Fragile", every=Every(events=1000))
    taking = Taking(tmp_path, COUNT, rare)
    monkeypatch.setattr(Fragile, "at", 1)  # it would fail at once
    assert taking.seal(0, 40) == 2
    assert not taking.dropped


def test_what_cannot_be_used_is_told_at_once(tmp_path):
    taking = Taking(
        tmp_path,
        replace(COUNT, name="wrong", where="data.n ="),
        Spec("none", "no.such.module:Thing", every=Every(events=1000)),
        COUNT,
    )
    assert taking.seal(0, 20) == 1
    assert [name for name, _ in taking.dropped] == ["wrong", "none"]
    assert "line 1, column" in taking.dropped[0][1]
    assert "no module" in taking.dropped[1][1]


def test_changed_code_is_noticed_and_everything_replayed(tmp_path, monkeypatch):
    taking = Taking(tmp_path, Spec("all", f"{HERE}:Changing", every=Every(events=20)))
    taking.seal(0, 40)
    monkeypatch.setattr(Changing, "token", "2")
    with taking.files.opened() as (store, events):
        chain = taking.chain(store, events)
        restored = chain.restore("all")
        assert (restored.state, restored.snapshot, restored.replayed) == (40, None, 40)
        assert "code or options changed" in restored.notice
        assert [bool(one.notice) for one in chain.check_snapshots(["all"])] == [True, True]
    taking.seal(40, 25)
    (notice,) = taking.notices
    assert notice.startswith("projection all: the snapshot of block 4 is not used: the projection's code")
    with taking.files.opened() as (store, events):
        restored = taking.chain(store, events).restore("all")
        assert (restored.state, restored.snapshot.height, restored.notice) == (65, 7, "")


def test_a_changed_filter_is_noticed(tmp_path):
    taking = Taking(tmp_path, COUNT)
    taking.seal(0, 40)
    taking.specs["types"] = Spec("types", "count", {"by": "type"}, 'type == "deposited"')
    with taking.files.opened() as (store, events):
        restored = taking.chain(store, events).restore("types")
        assert restored.state == {"deposited": 20}
        assert restored.notice.endswith("it had no filter; all events are replayed")


def test_after_a_change_was_taken_back_an_older_snapshot_is_used(tmp_path, monkeypatch):
    taking = Taking(tmp_path, Spec("all", f"{HERE}:Changing", every=Every(events=10)))
    taking.seal(0, 40)
    monkeypatch.setattr(Changing, "token", "2")
    taking.seal(40, 30)
    monkeypatch.setattr(Changing, "token", "1")
    with taking.files.opened() as (store, events):
        restored = taking.chain(store, events).restore("all")
        heights = taking.pins("all")
        assert (restored.state, restored.snapshot.height) == (70, heights[3])
        assert restored.replayed == 30
        assert restored.notice == (
            f"the snapshot of block {heights[-1]} is not used: the projection's code or options changed"
        )
    taking.notices.clear()
    assert taking.seal(70, 10) == 1
    (notice,) = taking.notices
    assert notice.endswith("code or options changed")
    with taking.files.opened() as (store, events):
        restored = taking.chain(store, events).restore("all")
        assert (restored.state, restored.replayed, restored.notice) == (80, 0, "")
        notes = [bool(one.notice) for one in taking.chain(store, events).check_snapshots(["all"])]
        assert notes == [False] * 4 + [True] * 3 + [False]


def test_a_branch_of_another_parent_is_not_gone_on_with(tmp_path):
    taking = Taking(tmp_path, COUNT)
    with taking.files.working() as work:
        work.append(0, 40)
        work.sealer.seal_backlog(10)
        told = Snapshot(f"{ORIGIN}/types", ORIGIN, 4, b"{}", About("", "", "types", 40))
        inner = Snapshot(f"{ORIGIN}/types/amounts", f"{ORIGIN}/types", 5, b"{}", About("", "", "amounts", 1))
        for snapshot in (told, inner):
            with work.store.transaction():
                built = work.builder.add_snapshot(snapshot)
            work.sealer.build(*built)
            work.sealer.seal_all()
        series = all_series(work.store, {"types": COUNT, "amounts": SUM})
        wrong = replace(series["amounts"], origin=f"{ORIGIN}/types/amounts")
        taker = Taker(work.store, work.events, [wrong], dropped=lambda *what: taking.dropped.append(what))
        assert list(taker.look()) == []
    ((_, error),) = taking.dropped
    assert "holds what is of example.com/orders/types, not of example.com/orders" in str(error)


def test_time_makes_them_due(tmp_path):
    taking = Taking(tmp_path, Spec("types", "count", {"by": "type"}, every=Every(seconds=60)))
    for minute in range(4):
        taking.seal(10 * minute, 10)
        taking.files.clock.tick(45)
    # Built at 0, 45, 90 and 135 s, the genesis at 0.
    assert taking.pins("types") == [3]
    taking.files.clock.tick(600)
    taking.seal(40, 10)
    assert taking.pins("types") == [3, 6]  # 4 holds child lines, 5 was built at 135 s
    taking.files.check()


def test_no_time_without_events_makes_one_due():
    view = SimpleNamespace(
        first=0, sealed_height=9, size=lambda height: min(5, max(0, height)), said=lambda height:
        SimpleNamespace(built=100 * height), built_by=lambda time: min(9, time // 100),
        block_of=lambda leaf: leaf + 1,
    )  # fmt: skip
    series = SimpleNamespace(spec=SimpleNamespace(every=Every(seconds=150)))
    assert list(by_policy(series, view, None)) == [Point(2, 2), Point(4, 4), Point(5, 6)]
    assert list(by_policy(series, view, Last(Point(5, 6), lambda: True))) == []


def test_lag_holds_snapshots_back_and_loses_none(tmp_path):

    taking = Taking(tmp_path / "a", Spec("types", "count", {"by": "type"}, every=Every(events=1)))
    taking.files = new_chain(tmp_path / "b", Policy(BITS, 64, 2, 0, SOURCE))
    assert taking.seal(0, 20, block_events=1) == 20
    taking.files.check()


def test_it_is_stopped_in_the_middle_of_a_page(tmp_path, monkeypatch):
    """A slow projection must not keep a Ctrl-C waiting for a page of events."""
    taking = Taking(tmp_path, Spec("all", f"{HERE}:Told", every=Every(events=600)))
    monkeypatch.setattr(Told, "events", 0)
    with taking.files.working() as work:
        work.append(0, 600)
        work.sealer.seal_backlog(64)

        def progress(events):
            if Told.events:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            list(taking.taker(work.store, work.events).look(progress))
    assert 0 < Told.events < 300


def test_an_altered_event_stops_snapshots_not_sealing(tmp_path):
    taking = Taking(tmp_path, COUNT)
    taking.seal(0, 35)
    statement = "UPDATE events SET type = 'other' WHERE position = 33"
    assert taking.files.sql(taking.files.events_file, statement) == 1
    assert taking.seal(35, 30) == 0
    assert taking.dropped
    assert "position 33 is not what was sealed" in taking.dropped[0][1]
    with taking.files.opened() as (store, events):
        with pytest.raises(StoreError, match="position 33"):
            taking.chain(store, events).state("types")
        assert taking.chain(store, events).state("types", at=2) == counts(20)


def test_an_altered_state_is_not_used(tmp_path):
    taking = Taking(tmp_path, COUNT)
    taking.seal(0, 40)
    changed = "UPDATE branch_events SET data = x'7b7d' WHERE position = 1"
    assert taking.files.sql(taking.files.chain_file, changed) == 1
    with taking.files.opened() as (store, events):
        chain = taking.chain(store, events)
        with pytest.raises(StoreError, match=r"position 1 of example\.com/orders/types is not what"):
            chain.state("types")
        faults = [one.fault for one in chain.check_snapshots(["types"])]
        assert faults == ["", "the event at position 1 of example.com/orders/types is not what was sealed"]
    (finding,) = taking.files.verify().wrong
    assert (finding.kind, finding.origin, finding.position) == ("altered", f"{ORIGIN}/types", 1)


def test_a_sealed_lie_is_found_by_replaying(tmp_path):
    """The state was wrong when it was sealed: no hash tells, the events do."""
    taking = Taking(tmp_path, COUNT)
    taking.seal(0, 60)
    with taking.files.working() as work:
        (series,) = all_series(work.store, taking.specs).values()
        work.append(60, 20)
        work.sealer.seal_backlog(10)
        lie = dict(counts(80), deposited=7)
        told = Snapshot(series.origin, ORIGIN, 9, json.dumps(lie).encode(), series.about(80))
        with work.store.transaction():
            built = work.builder.add_snapshot(told)
        for blocks in built:
            work.sealer.build(blocks)
        work.sealer.seal_backlog(10)
    taking.files.check()
    with taking.files.opened() as (store, events):
        checked = list(taking.chain(store, events).check_snapshots(["types"]))
    assert [one.height for one in checked if one.fault] == [9]
    wrong = checked[-1]
    assert [(change.path, change.after) for change in wrong.changes] == [("/deposited", 7)]
    assert wrong.since == 6
    deposits = [n for n in range(60, 80) if new_event(n)["type"] == "deposited"]
    assert wrong.event.position == deposits[0] + 1


def test_builders_refuse_a_snapshot_of_another_parent(tmp_path):
    taking = Taking(tmp_path, COUNT, OF_COUNT)
    taking.seal(0, 90)
    with taking.files.working() as work:
        series = all_series(work.store, taking.specs)["history"]
        told = Snapshot(series.origin, ORIGIN, 9, b"{}", series.about(90))
        with pytest.raises(PolicyError, match="forks off"), work.store.transaction():
            work.builder.add_snapshot(told)


@settings(max_examples=12)
@given(
    blocks=st.lists(st.integers(1, 9), min_size=1, max_size=8),
    every=st.integers(1, 15),
    where=st.sampled_from(["", 'type == "deposited"', "data.amount > 40", 'stream != "account-3"']),
    use=st.sampled_from(
        [("count", {"by": "stream"}), ("sum", {"path": "data.amount", "by": "type"}), ("latest", {})]
    ),
    data=st.data(),
)
def test_state_through_snapshots_is_state_through_replay(tmp_path_factory, blocks, every, where, use, data):
    spec = Spec("p", use[0], use[1], where, every=Every(events=every))
    taking = Taking(tmp_path_factory.mktemp("chain"), spec)
    done = 0
    for count in blocks:
        taking.seal(done, count, block_events=data.draw(st.integers(1, 5)))
        done += count
    assert not taking.dropped
    taking.files.check()
    with taking.files.opened() as (store, events):
        chain = taking.chain(store, events)
        series = all_series(store, taking.specs)["p"]
        assert all(not one.fault and not one.notice for one in chain.check_snapshots(["p"]))
        heights = len(manifests(taking.files)) - 1
        for height in {0, heights, data.draw(st.integers(0, heights))}:
            through = chain.restore("p", at=height)
            run, size = series.begin(), through.size
            kept = [event for batch in chain.sealed_events() for event in batch.to_pylist()][:size]

            if kept:
                Fold([run]).feed(pa.RecordBatch.from_pylist(kept, schema=EVENT_SCHEMA), 0)
            assert through.dump == run.dump()


def test_snapshots_that_cover_erased_events_are_not_called_wrong(tmp_path):
    taking = Taking(tmp_path, SUM, COUNT)
    taking.seal(0, 160)
    assert taking.files.erase(70).erased.tolist() == [70]
    taking.files.check()
    with taking.files.opened() as (store, events):
        chain = taking.chain(store, events)
        checked = list(chain.check_snapshots(["amounts", "types"]))
        assert {(one.series.name, one.notice) for one in checked if one.notice} == {
            ("amounts", "events that it covers were erased: 1")
        }
        assert [one.height for one in checked if one.notice] == [10]  # and the next one follows from it
        assert [one.height for one in checked if one.series.name == "amounts"] == [5, 10, 15]
        assert all(not one.fault for one in checked)
        assert chain.restore("amounts").snapshot.height == 15


class Unready(Fragile):
    def initial(self) -> int:
        raise OSError("not today")


class Unnamed(Fragile):
    def fingerprint(self) -> str:
        raise OSError("no name")


class Optioned(Fragile):
    @property
    def options(self):
        return {"of": object()}


@pytest.mark.parametrize(
    ("use", "told"),
    [
        ("Unready", "projection broken: initial: OSError: not today"),
        ("Unnamed", "projection broken: fingerprint: OSError: no name"),
        ("Optioned", "projection broken: fingerprint: `options` is not JSON: "),
    ],
)
def test_a_projection_that_cannot_begin_is_dropped(tmp_path, use, told):
    taking = Taking(tmp_path, COUNT, Spec("broken", f"{HERE}:{use}", every=Every(events=10)))
    assert taking.seal(0, 20) == 1
    ((name, said),) = taking.dropped
    assert name == "broken"
    assert told in said


def test_what_nobody_expects_ends_sealing_and_hangs_nothing(tmp_path, monkeypatch):
    def look(*_):
        raise OSError("nobody knows")

    monkeypatch.setattr(Taker, "look", look)
    taking = Taking(tmp_path, COUNT)
    with pytest.raises(OSError, match="nobody knows"):
        taking.seal(0, 20)
    taking.files.check()
