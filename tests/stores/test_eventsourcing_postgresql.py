"""Applications on the library `eventsourcing` whose events are in PostgreSQL."""

from __future__ import annotations

import time
from contextlib import closing, contextmanager
from itertools import count
from uuid import UUID, uuid4

import pytest
from click.testing import CliRunner
from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import IntegrityError, StoredEvent
from gaps import watch
from postgres import connected, eventsourcing_env, execute

from eventchain.cli import cli
from eventchain.errors import ConfigError, StoreError
from eventchain.eventstores import open_event_store
from eventchain.formats.event import UNKNOWN


class Counter(Aggregate):
    @event("Started")
    def __init__(self):
        self.count = 0

    @event("Counted")
    def add(self):
        self.count += 1


class Bank(Application):
    pass


class Shop(Application):
    pass


@pytest.fixture
def url(postgres):
    return postgres.new_database()


@pytest.fixture(params=["no", "yes"], ids=["locking", "functions"])
def bank(request, url):
    env = eventsourcing_env(url) | {"POSTGRES_ENABLE_DB_FUNCTIONS": request.param}
    with closing(Bank(env=env)) as application:
        yield application


@contextmanager
def opened(url, **options):
    more = "".join(f"&{name}={value}" for name, value in options.items())
    with closing(open_event_store(f"eventsourcing+{url}{more}")) as store:
        yield store


def test_the_declaration(bank, url):
    counter = Counter()
    bank.save(counter)
    counter.add()
    bank.save(counter)
    with opened(url) as store:
        (row,) = store.read(1, 10).to_pylist()
        kept = list(bank.recorder.select_events(counter.id))[1]
        assert row == {
            "position": 2, "stream": str(counter.id), "version": 2, "id": f"{counter.id}/2",
            "type": kept.topic, "time": UNKNOWN, "data": kept.state, "metadata": None,
        }  # fmt: skip
        assert store.source == "eventsourcing-postgresql/1"
        assert not hasattr(store, "append")
        assert store.pinned_url == f"{store.url}&schema=public&table=bank_events"
        for other in (str(counter.id).upper(), counter.id.hex, "x", "", "a%b", "\0"):
            assert store.find(f"{other}/2").num_rows == 0
        assert store.find(f"{counter.id}/2").num_rows == 1
        assert store.find(f"{counter.id}/3").num_rows == 0
        with pytest.raises(ConfigError, match="its own application"):
            open_event_store(store.url, create=True)


def test_further_columns_are_covered(bank, url):
    bank.save(Counter())
    execute(
        url, "ALTER TABLE bank_events ADD \"it's 100%\" text DEFAULT 'a\"\\b', ADD \"ä\" timestamptz "
        "DEFAULT '2024-01-02 03:04:05+05', ADD raw bytea DEFAULT '\\x00ff', ADD a jsonb DEFAULT '{\"b\":1}'"
    )  # fmt: skip
    with opened(url) as store:
        batch = store.read(None, 10)
        assert batch["metadata"][0].as_py().decode() == (
            r"""{"a":"{\"b\": 1}","it's 100%":"a\"\\b","raw":"00ff","ä":"2024-01-01 22:04:05+00"}"""
        )
        assert store.find(batch["id"][0].as_py()) == batch
        execute(url, "ALTER TABLE bank_events ALTER a DROP NOT NULL", "UPDATE bank_events SET a = NULL")
        assert store.read(None, 10)["metadata"][0].as_py().startswith(b'{"a":null,')


def test_text_as_the_originators_type(url):
    env = eventsourcing_env(url) | {"ORIGINATOR_ID_TYPE": "text"}
    with closing(Bank(env=env)) as bank:
        bank.recorder.insert_events([StoredEvent("order/7", 3, "Placed", b"state")])
        with opened(url) as store:
            assert store.read(None, 10).to_pylist()[0]["id"] == "order/7/3"
            assert store.find("order/7/3").num_rows == 1
            assert store.find(f"{uuid4()}/3").num_rows == 0


def test_the_table_is_chosen(bank, url):
    bank.save(Counter())
    bank.factory.aggregate_recorder(purpose="snapshots")  # has no order: not a candidate
    with opened(url) as store:
        assert store.head() == 1
    with closing(Shop(env=eventsourcing_env(url))), pytest.raises(ConfigError) as caught, opened(url):
        pass
    assert "table=bank_events, table=shop_events" in caught.value.hint
    with opened(url, table="shop_events") as store:
        assert store.head() is None
    with pytest.raises(StoreError, match="lacks notification_id"), opened(url, table="bank_snapshots"):
        pass
    with pytest.raises(StoreError, match="no table none"), opened(url, table="none"):
        pass
    with pytest.raises(StoreError, match="no event table"), opened(url, schema="pg_catalog"):
        pass


def test_a_view_named_like_it_does_not_take_its_place(bank, url):
    bank.save(Counter())
    execute(url, "CREATE VIEW more AS SELECT * FROM bank_events")
    with pytest.raises(ConfigError, match="bank_events, more"), opened(url):
        pass


@pytest.mark.parametrize(
    "statement",
    [
        "DROP INDEX bank_events_notification_id_idx",
        "ALTER TABLE bank_events ALTER notification_id DROP NOT NULL",
        "ALTER TABLE bank_events ALTER state TYPE text USING encode(state, 'hex')",
    ],
)
def test_an_edited_schema_is_refused(bank, url, statement):
    execute(url, statement)
    with pytest.raises(StoreError), opened(url):
        pass


def test_init_mine_and_verify(bank, url, tmp_path):
    counter = Counter()
    for _ in range(5):
        counter.add()
    bank.save(counter)
    config = ["-C", str(tmp_path / "eventchain.toml")]
    init = ["init", *config, "--difficulty", "1", "--backend", "reference", "--origin", "a"]
    for command in ([*init, "--store", f"eventsourcing+{url}"], ["mine", *config], ["verify", *config]):
        result = CliRunner().invoke(cli, command)
        assert result.exit_code == 0, result.output
    execute(url, "UPDATE bank_events SET state = state || ' ' WHERE originator_version = 3")
    result = CliRunner().invoke(cli, ["verify", *config])
    assert result.exit_code == 1
    assert f"{counter.id}/3" in result.output


def test_nothing_is_missed_with_many_writers(bank, url):
    """Appends of one event or several, some of which conflict and burn their positions."""
    ids = [uuid4() for _ in range(4)]
    number = count(1)

    def write(dice):
        time.sleep(dice.uniform(0, 0.05))  # whoever watches reads everything each time
        first, many = next(number), dice.randint(1, 20)
        originator = dice.choice(ids) if dice.random() < 0.3 else uuid4()
        version = dice.randint(1, 5) if originator in ids else first
        events = [StoredEvent(originator, version + n, "t", b"x" * n) for n in range(many)]
        try:
            bank.recorder.insert_events(events)
        except IntegrityError:
            assert originator in ids

    @contextmanager
    def idle():
        """Somebody else's insert, left open; with the library's lock others wait for it."""
        with connected(url) as other, other.transaction():
            other.execute(
                "INSERT INTO bank_events (originator_id, originator_version, topic, state) "
                f"VALUES ('{UUID(int=1)}', 1, 't', '')"
            )
            if bank.env.get("POSTGRES_ENABLE_DB_FUNCTIONS") == "yes":
                yield
        if bank.env.get("POSTGRES_ENABLE_DB_FUNCTIONS") != "yes":
            yield

    with opened(url) as store:
        too_late = watch(store, [write] * 5, idle(), 3)
    if bank.env.get("POSTGRES_ENABLE_DB_FUNCTIONS") == "yes":
        assert too_late > 0  # the fence had something to do
