"""Aggregates, applications and projections of the library ``eventsourcing``, as their users wrote them."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from eventsourcing.application import Application
from eventsourcing.dispatch import singledispatchmethod
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import JSONTranscoder, Tracking, TrackingRecorder, Transcoding
from eventsourcing.popo import POPOTrackingRecorder
from eventsourcing.projection import Projection as LibraryProjection
from folds import batch_of, run_of, simple

from eventchain.demo.bank import Account, balances, do_business, open_bank
from eventchain.errors import ProjectionError
from eventchain.eventstores.eventsourcing_sqlite import EventsourcingSQLiteStore
from eventchain.projections.fold import Fold, Run
from eventchain.projections.projection import imported

HERE = __name__


class DateAsISO(Transcoding):
    type = date
    name = "date_iso"

    def encode(self, obj: date) -> str:
        return obj.isoformat()

    def decode(self, data: str) -> date:
        return date.fromisoformat(data)


@dataclass(frozen=True)
class Line:
    item: str
    price: Decimal


class Basket(Aggregate):
    @event("Opened")
    def __init__(self, day: date) -> None:
        self.day = day
        self.lines: dict[int, Line] = {}
        self.tags: set[str] = set()
        self.pair = (1, [2])
        self.odd = {"_type_": "x", "_data_": 1}

    @event("Added")
    def add(self, item: str, price: Decimal) -> None:
        self.lines[len(self.lines)] = Line(item, price)
        self.tags |= {item, item.upper()}

    @event("Discarded")
    def discard(self) -> None:
        pass


class Shop(Application[UUID]):
    def register_transcodings(self, transcoder: JSONTranscoder) -> None:
        super().register_transcodings(transcoder)
        transcoder.register(DateAsISO())


class Sales(TrackingRecorder):
    """What a projection is written for."""


class SalesInMemory(POPOTrackingRecorder, Sales):
    def __init__(self) -> None:
        super().__init__()
        self.by_basket: defaultdict[UUID, Decimal] = defaultdict(Decimal)
        self.count = 0


class SalesProjection(LibraryProjection[Sales]):
    @singledispatchmethod
    def process_event(self, domain_event: Any, tracking: Tracking) -> None:
        self.view.insert_tracking(tracking)

    @process_event.register
    def added(self, domain_event: Basket.Added, tracking: Tracking) -> None:
        self.view.insert_tracking(tracking)
        self.view.by_basket[domain_event.originator_id] += domain_event.price
        self.view.count += 1


@pytest.fixture
def bank(tmp_path: Path) -> tuple[Any, Any]:
    """Its events, and the balances that it believes in."""
    path = tmp_path / "bank.db"
    bank = open_bank(path)
    do_business(bank, 40, accounts=5)
    expected = {balance.stream: balance.cents for balance in balances(bank, accounts=5)}
    bank.close()
    store = EventsourcingSQLiteStore(f"eventsourcing+sqlite:///{path}")
    return store.read(None, 10_000), expected


@pytest.fixture
def shop(tmp_path: Path) -> Any:
    path = tmp_path / "shop.db"
    app = Shop({"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": str(path)})
    for number in range(3):
        basket = Basket(date(2026, 1, 1 + number))
        for item in range(number + 1):
            basket.add(f"item {item}", Decimal("1.10"))
        app.save(basket)
    app.save(Account(number="1", owner="Ada"))
    app.close()
    return EventsourcingSQLiteStore(f"eventsourcing+sqlite:///{path}").read(None, 10_000)


def through_snapshots(use: str, batch: Any, options: dict[str, Any] | None = None) -> Run:
    """The state, dumped and loaded after every event, which is the one without."""
    whole, cut = run_of(imported(use, options)), run_of(imported(use, options))
    Fold([whole]).feed(batch, 0)
    for at in range(batch.num_rows):
        Fold([cut]).feed(batch.slice(at, 1), at)
        cut.state = cut.projection.load(cut.dump())
    assert cut.dump() == whole.dump()
    assert whole.projection.fingerprint() == cut.projection.fingerprint()
    return cut


@pytest.mark.parametrize("use", ["eventchain.demo.bank:Account", "eventchain.demo.bank:Bank"])
def test_aggregates_are_those_of_the_application(bank: tuple[Any, Any], use: str) -> None:
    batch, expected = bank
    run = through_snapshots(use, batch)
    assert {stream: account.balance for stream, account in run.state.items()} == expected
    dumped = json.loads(run.dump())
    assert {value["topic"] for value in dumped.values()} == {"eventchain.demo.bank:Account"}
    (some, *_) = run.state.values()
    some.deposit(5)  # it goes on living
    assert [event.amount for event in some.collect_events()] == [5]


def test_any_attributes_survive(shop: Any) -> None:
    options = {"application": f"{HERE}:Shop"}
    found = through_snapshots(f"{HERE}:Basket", shop, options).state.values()
    baskets = sorted(found, key=lambda basket: basket.day)
    assert [basket.day.day for basket in baskets] == [1, 2, 3]  # and no Account
    last = baskets[-1]
    assert last.lines == {number: Line(f"item {number}", Decimal("1.10")) for number in range(3)}
    assert last.tags == {f"{word} {number}" for word in ("item", "ITEM") for number in range(3)}
    assert (last.pair, last.odd) == ((1, [2]), {"_type_": "x", "_data_": 1})
    assert len(through_snapshots(f"{HERE}:Shop", shop).state) == 4


def test_a_view_is_found_and_filled(shop: Any) -> None:
    view = through_snapshots(f"{HERE}:SalesProjection", shop, {"application": f"{HERE}:Shop"}).state.view
    assert view.count == 6
    assert sorted(view.by_basket.values()) == [Decimal("1.10"), Decimal("2.20"), Decimal("3.30")]
    assert isinstance(view.by_basket, defaultdict)


def test_late_events_reach_a_view(shop: Any) -> None:
    run = run_of(imported(f"{HERE}:SalesProjection", {"application": f"{HERE}:Shop"}))
    backwards = shop.take(list(range(shop.num_rows - 1, -1, -1)))
    Fold([run]).feed(backwards, 0)
    assert run.error is None
    assert run.state.view.count == 6


def test_an_event_out_of_line_is_named(bank: tuple[Any, Any]) -> None:
    batch, _ = bank
    run = run_of(imported("eventchain.demo.bank:Account"), name="accounts")
    Fold([run]).feed(batch.take([0, *range(2, batch.num_rows)]), 0)
    assert run.error is not None
    assert "projection accounts: failed at the event at position" in run.error.message
    assert "OriginatorVersionError" in run.error.message


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (simple("a", None, "eventchain.demo.bank:Account.Opened"), "no state or version"),
        (simple("a", b"{", "eventchain.demo.bank:Account.Opened"), "MapperDeserialisationError"),
        (simple("a", {}, "gone.bank:Account.Opened"), "TopicError"),
    ],
)
def test_events_that_cannot_be_read(row: dict[str, Any], said: str) -> None:
    run = run_of(imported("eventchain.demo.bank:Account"))
    Fold([run]).feed(batch_of([row]), 0)
    assert run.error is not None
    assert said in run.error.message
    assert "position 1 (e)" in run.error.message


class Unwritable(Aggregate):
    def __init__(self) -> None:
        self.thing = object()


class Nowhere(LibraryProjection[TrackingRecorder]):
    def process_event(self, domain_event: Any, tracking: Tracking) -> None: ...


def test_what_cannot_be_written_or_found_says_so() -> None:
    projection = imported(f"{HERE}:Unwritable")
    with pytest.raises(ProjectionError, match="the state holds object objects"):
        projection.dump({"a": Unwritable()})
    with pytest.raises(ProjectionError, match=r"Nowhere has \d+ views in memory"):
        imported(f"{HERE}:Nowhere")
