"""Child branches: what the builder makes and refuses, and what verify says of those that break the rules."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from chains import (
    BITS,
    ERASURES,
    ORIGIN,
    SNAPSHOTS,
    SOURCE,
    Chain,
    Work,
    child_event,
    genesis_anchor,
    manifests,
    new_chain,
    newest_anchors,
)
from oracle import check_chain

from eventchain.chain.build import Builder, Leaves, Snapshot
from eventchain.errors import PolicyError
from eventchain.formats.manifest import Pointer
from eventchain.formats.policy import Policy
from eventchain.formats.snapshot import About

NOTES = f"{ORIGIN}/notes"


def an_event(**values: object) -> object:
    told = {"stream": "s", "version": 0, "id": "i", "type": "t", "time": 0, "data": b"", "metadata": None}
    return child_event(**{**told, **values})


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    chain = new_chain(tmp_path)
    with chain.working() as work:
        work.append(0, 20)
        work.sealer.seal_backlog(10)
    return chain


# -- what is built


def test_the_grown_chain_is_clean_and_holds_what_it_should(grown: Chain, tmp_path: Path) -> None:
    chain = grown.copy(tmp_path)
    chain.check()
    report = chain.verify([genesis_anchor(chain), *newest_anchors(chain)])
    assert report.verdict == "clean"
    assert (report.blocks, report.sealed_blocks, report.events) == (19, 19, 376)
    trunk, snapshots, erasures = (manifests(chain, origin) for origin in (ORIGIN, SNAPSHOTS, ERASURES))
    assert [manifest.pin and manifest.pin.height for manifest in snapshots] == [5, 10, 12]
    assert snapshots[0].fork == (ORIGIN, 5)
    assert erasures[0].fork == (ORIGIN, 0)
    lines = [(child.origin, child.height) for manifest in trunk for child in manifest.children]
    assert lines == [(SNAPSHOTS, 6), (ERASURES, 1), (SNAPSHOTS, 7), (SNAPSHOTS, 8)]
    assert [manifest.height for manifest in trunk if manifest.children and manifest.size == 200] == [6]


def test_a_child_inherits_the_policy_at_its_fork(chain: Chain) -> None:
    with chain.working() as work:
        builder = work.builder
        work.seal(lambda builder: builder.tighten(builder.trunk, Policy(BITS, 5, 900, 0, SOURCE)))
        work.seal(lambda builder: builder.add_child(builder.trunk, 1, NOTES, an_event()))
        assert builder.tips[NOTES].policy.events == 64  # at block 1, before it was tightened
        work.seal(lambda builder: builder.add_child(builder.trunk, 3, SNAPSHOTS, an_event()))
        assert builder.tips[SNAPSHOTS].policy.events == 5
        work.child_lines()
    chain.check()


def test_a_branch_of_a_branch(chain: Chain) -> None:
    inner = f"{SNAPSHOTS}/inner"
    with chain.working() as work:
        work.snapshot(b"1")
        tips = work.builder.tips
        parent = tips[SNAPSHOTS]
        work.seal(lambda builder: builder.add_child(parent, parent.height, inner, an_event()))
        chain.clock.tick()
        work.seal(lambda builder: builder.add_child_lines(parent))
        chain.clock.tick()
        work.child_lines()
    chain.check()
    with chain.working() as work:  # and goes on after it was read back
        work.seal(lambda builder: builder.extend_child(builder.tips[inner], an_event(id="j")))
        work.seal(lambda builder: builder.add_child_lines(builder.tips[SNAPSHOTS]))
        work.child_lines()
    chain.check()


def a_snapshot(origin: str, parent: str, height: int, state: bytes = b"{}") -> Snapshot:
    size = 10 * height if parent == ORIGIN else height - 1  # of the blocks of the two chains here
    return Snapshot(origin, parent, height, state, About("", "f", origin.rpartition("/")[2], size))


def test_snapshots_of_a_branch_and_of_its_branch(chain: Chain) -> None:
    inner = f"{SNAPSHOTS}/inner"

    def add(*snapshots: Snapshot) -> None:
        with work.store.transaction():
            built = [block for snapshot in snapshots for block in work.builder.add_snapshot(snapshot)]
        for block in built:
            work.sealer.build(block)
        work.sealer.seal_all()

    with chain.working() as work:
        add(a_snapshot(SNAPSHOTS, ORIGIN, 1), a_snapshot(SNAPSHOTS, ORIGIN, 2))
        add(a_snapshot(inner, SNAPSHOTS, 3))
        assert work.builder.unnamed
        with work.store.transaction():
            built = work.builder.add_all_child_lines()
        assert [block.said[0].origin for block in built] == [SNAPSHOTS, ORIGIN]
        for block in built:
            work.sealer.build(block)
        work.sealer.seal_all()
        assert not work.builder.unnamed
    chain.check()
    assert [manifest.pin and manifest.pin.height for manifest in manifests(chain, SNAPSHOTS)] == [1, 2, None]
    assert manifests(chain, inner)[0].fork == (SNAPSHOTS, 3)
    with chain.working() as work, pytest.raises(PolicyError, match="forks off"), work.store.transaction():
        work.builder.add_snapshot(a_snapshot(inner, ORIGIN, 2))


def test_child_lines_of_many_branches_fit_into_several_blocks(chain: Chain) -> None:
    """A manifest holds 64 KiB, and each line here takes 300 bytes."""
    with chain.working() as work:
        work.append(20, 10)
        with work.store.transaction():
            built = [
                block
                for number in range(400)
                for block in work.builder.add_snapshot(
                    a_snapshot(f"{ORIGIN}/{number:03}-{'x' * 200}", ORIGIN, 2)
                )
            ]
        for block in built:
            work.sealer.build(block)
        work.sealer.seal_backlog(10)
    chain.check()
    lines = [len(manifest.children) for manifest in manifests(chain) if manifest.children]
    assert sum(lines) == 400
    assert len(lines) == 3


def test_late_events_enter_first_and_only_as_many_as_allowed(tmp_path: Path) -> None:
    chain = new_chain(tmp_path, Policy(BITS, 64, 1000, 2, SOURCE))
    with chain.working() as work:
        work.append(0, 10)
    parked = "CREATE TABLE parked AS SELECT * FROM events WHERE position IN (3, 5, 6)"
    chain.sql(chain.events_file, parked, "DELETE FROM events WHERE position IN (3, 5, 6)")
    with chain.working() as work:
        work.sealer.seal_backlog(10)
    chain.check()
    chain.sql(chain.events_file, "INSERT INTO events SELECT * FROM parked", "DROP TABLE parked")
    (missed,) = {finding.kind for finding in chain.verify().wrong}
    assert missed == "inserted"
    with chain.working() as work:
        work.append(10, 3)
        work.sealer.seal_backlog(4)
    chain.check()
    assert [manifest.late for manifest in manifests(chain)] == [0, 0, 2, 1]


def test_the_oracle_and_verify_allow_an_unsealed_tail(chain: Chain) -> None:
    with chain.working() as work:
        work.append(20, 20)
        work.sealer.link_backlog(10)
    chain.check()
    report = chain.verify()
    assert [notice.kind for notice in report.notices] == ["unsealed-tail"]
    assert (report.blocks, report.sealed_blocks) == (5, 3)


# -- what is refused


@pytest.fixture
def work(chain: Chain) -> Iterator[Work]:
    with chain.working() as work:
        work.snapshot(b"1")
        yield work


def test_builders_refuse_what_the_rules_forbid(work: Work) -> None:
    trunk, child = work.builder.trunk, work.builder.tips[SNAPSHOTS]
    two = an_event()
    two = type(two).from_pylist(two.to_pylist() * 2, schema=two.schema)  # type: ignore[attr-defined]
    forbidden = [
        lambda: work.builder.add_child(trunk, 3, NOTES, an_event()),  # not there
        lambda: work.builder.add_child(trunk, 0, SNAPSHOTS, an_event()),  # twice
        lambda: work.builder.add_child(trunk, 0, f"{SNAPSHOTS}@2", an_event()),  # the same, incarnate
        lambda: work.builder.extend_child(child, an_event(), pin=2),  # pinned already
        lambda: work.builder.extend_child(child, an_event(), pin=9),  # not sealed
        lambda: work.builder.extend_child(child, two, pin=2),
        lambda: work.builder.tighten(trunk, trunk.policy),
        lambda: work.builder.tighten(trunk, Policy(BITS, 65, 900, 0, SOURCE)),
        lambda: work.builder.add_genesis("example.com/other", trunk.policy),
    ]
    for build in forbidden:
        with pytest.raises(PolicyError) as raised, work.store.transaction():
            build()
        assert raised.value.hint


# -- what verify says of branches that were built against the rules


class Forger(Builder):
    """Builds what the honest one refuses."""

    pinned: Pointer | None = None
    named: bool = True
    lies: dict[str, object] = {}  # noqa: RUF012  (each forger is told his own)

    def _entries(self, tip, events, built):  # type: ignore[no-untyped-def]
        honest = super()._entries(tip, events, built)
        told = [{**row, **self.lies} for row in honest.to_pylist()]
        return type(honest).from_pylist(told, schema=honest.schema)

    def _check(self, *_: object) -> None: ...

    def _grown(self, tip):  # type: ignore[no-untyped-def]
        return super()._grown(tip) if self.named else []

    def _append(self, tip, *arguments, **named):  # type: ignore[no-untyped-def]
        if self.pinned:
            named["pin"] = self.pinned
        return super()._append(tip, *arguments, **named)


def kinds(chain: Chain) -> list[str]:
    with chain.opened() as (store, events), pytest.raises(AssertionError):
        check_chain(store, events)
    return [finding.kind for finding in chain.verify().wrong]


def test_a_child_that_no_parent_names_is_found(chain: Chain) -> None:
    with chain.working(builder=Forger) as work:
        work.builder.named = False  # type: ignore[attr-defined]
        work.snapshot(b"1")
        chain.clock.tick()
        work.append(20, 5)
        work.sealer.seal_backlog(10)
    assert kinds(chain) == ["branch"]
    assert "does not name it" in chain.verify().wrong[0].message


def test_a_snapshot_of_another_block_than_it_pins_is_found(chain: Chain) -> None:
    with chain.working(builder=Forger) as work:
        at = work.builder.now() * 10**6
        honest = {"version": 2, "id": f"{ORIGIN}/2", "type": "eventchain.snapshot"}
        lies: list[dict[str, object]] = [
            {"version": 1},
            {"id": f"{ORIGIN}/1"},
            {"stream": ORIGIN},
            {"type": "other"},
            {"time": at + 1},
        ]
        for number, lie in enumerate(lies):
            origin = f"{SNAPSHOTS}-{number}"
            work.builder.lies = lie  # type: ignore[attr-defined]
            told = an_event(**honest)
            work.seal(lambda builder: builder.add_child(builder.trunk, 2, origin, told, 2))  # noqa: B023
        work.child_lines()
    assert kinds(chain) == ["branch"] * 5


@pytest.mark.parametrize(
    ("pin", "kind"),
    [
        (Pointer(ORIGIN, 2, bytes(32)), "branch"),  # no such link
        (Pointer(ORIGIN, 9, bytes(32)), "branch"),  # no such block
        (Pointer("example.com/other", 2, bytes(32)), "manifest"),
    ],
)
def test_a_pin_of_what_is_not_there_is_found(chain: Chain, pin: Pointer, kind: str) -> None:
    with chain.working(builder=Forger) as work:
        work.builder.pinned = pin  # type: ignore[attr-defined]
        with work.store.transaction():
            work.builder.add_child(work.builder.trunk, 1, NOTES, an_event(), None)
    assert kind in kinds(chain)


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        (None, "is not a snapshot's metadata"),
        (b'{"filter":"","fingerprint":"1","projection":"balances"}', "is not a snapshot's metadata"),
        (b'{"filter":"","fingerprint":"1","projection":"balances","size":"20"}', "is not"),
        (b'{"fingerprint":"1","filter":"","projection":"balances","size":20}', "is not"),
        (b'{"filter":"","fingerprint":"1","projection":"other","size":20}', "the projection 'other'"),
        (b'{"filter":"","fingerprint":"1","projection":"balances","size":19}', "covers? 19 events"),
    ],
)
def test_a_snapshot_that_says_what_cannot_be_is_found(
    chain: Chain, metadata: bytes | None, said: str
) -> None:
    with chain.working(builder=Forger) as work:
        work.builder.lies = {"metadata": metadata}  # type: ignore[attr-defined]
        work.snapshot(b"1")
        work.child_lines()
    assert kinds(chain) == ["branch"]
    assert re.search(said, chain.verify().wrong[0].message)


def test_a_child_by_a_strange_name_is_found(chain: Chain) -> None:
    with chain.working() as work:
        work.seal(lambda builder: builder.add_child(builder.trunk, 1, "example.com/balances", an_event()))
        work.child_lines()
    assert kinds(chain) == ["branch"]


def test_a_child_whose_positions_are_not_its_indices_is_found(chain: Chain) -> None:
    """Else its snapshots would be looked for where they are not."""
    with chain.working() as work:
        work.snapshot(b"1")
        tip = work.builder.tips[SNAPSHOTS]
        with work.store.transaction():
            batch = an_event(position=7)
            work.store.add_events(tip.branch.id, batch)
            built = work.builder._append(tip, Leaves.of(batch), [1])
        work.sealer.build(built)
        work.sealer.seal_all()
        work.child_lines()
    assert kinds(chain) == ["manifest"]


def test_a_child_that_names_no_seal_is_found(chain: Chain) -> None:
    """Its fork was sealed before it was built, or it was not built then."""

    class Silent(Forger):
        def _append(self, tip, *arguments, **named):  # type: ignore[no-untyped-def]
            tip.sealed, kept = None, tip.sealed
            built = super()._append(tip, *arguments, **named)
            tip.sealed = kept
            return built

    with chain.working(builder=Silent) as work:
        work.seal(lambda builder: builder.add_child(builder.trunk, 2, NOTES, an_event()))
    assert kinds(chain) == ["manifest"]


def test_a_fork_off_an_unsealed_block_is_found(chain: Chain) -> None:
    with chain.working(builder=Forger) as work:
        work.append(20, 5)
        work.sealer.link_backlog(10)
        trunk = work.builder.trunk
        said = trunk.sealed
        trunk.sealed = said._replace(height=3)  # type: ignore[union-attr]
        work.builder.block_at = lambda tip, height: (Pointer(ORIGIN, height, tip.link), bytes(32))  # type: ignore[method-assign]
        with work.store.transaction():
            work.builder.add_child(trunk, 3, NOTES, an_event())
    assert "branch" in kinds(chain)


def test_two_branches_of_one_origin_and_a_second_trunk_are_found(chain: Chain) -> None:
    with chain.working() as work:
        work.snapshot(b"1")
        work.child_lines()
    chain.sql(chain.chain_file, "INSERT INTO branches VALUES (7, 'example.com/twin')")
    for table in ("blocks", "tiles", "pieces"):
        names = {"blocks": "height, header, extranonce, manifest", "tiles": "level, tile, hashes"}.get(
            table, "tile, salts, positions, digest"
        )
        chain.sql(chain.chain_file, f"INSERT INTO {table} SELECT 7, {names} FROM {table} WHERE branch = 1")
    found = chain.verify().wrong
    assert [finding.kind for finding in found] == ["branch"] * len(found)
    assert 1 <= len(found) <= 3
