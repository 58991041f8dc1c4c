"""Building blocks on a real chain store, each held against the format in plain Python."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing

import numpy as np
import plain_format as plain
import pyarrow as pa
import pytest
from plain_format import Event

from eventchain.chain.build import CLOCK_TOLERANCE, NO_LEAVES, Builder, Leaves
from eventchain.chain.nodes import LogReader, LogWriter
from eventchain.chain.tip import policy_at, read_tips
from eventchain.chainstores import open_chain_store
from eventchain.contracts.chain_store import Blocks
from eventchain.errors import FormatError, PolicyError, StoreError
from eventchain.formats.event import EVENT_SCHEMA
from eventchain.formats.header import HEADER
from eventchain.formats.manifest import Manifest, Pointer, Sealed
from eventchain.formats.policy import Policy
from eventchain.formats.salts import Salts

ORIGIN = "example.com/orders"
CHILD = "example.com/orders/balances"
EASY = 0x2100FFFF
POLICY = Policy(EASY, 1024, 100, 0, "test/1")


class Clock:
    def __init__(self):
        self.time = 1_700_000_000

    def __call__(self):
        return self.time


def salts(count):
    return np.arange(count * 16, dtype=np.uint8).reshape(count, 16)


def made_up(first, count, step=1):
    """Leaves as no event makes them, at positions ``first``, ``first + step`` and so on."""
    hashes = b"".join(hashlib.sha256(b"leaf %d" % (first + i)).digest() for i in range(count))
    positions = first + step * np.arange(count, dtype=np.int64)
    return Leaves(np.frombuffer(hashes, np.uint8).reshape(-1, 32), Salts(salts(count)), positions)


def batch_of(events):
    return pa.RecordBatch.from_pylist([event._asdict() for event in events], schema=EVENT_SCHEMA)


def one_event(number):
    return Event(0, CHILD, number, f"{ORIGIN}/{number}", "eventchain.snapshot", number, b"state", None)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(tmp_path):
    with closing(open_chain_store(f"sqlite:///{tmp_path}/chain.db", create=True)) as store, store.writer():
        yield store


@pytest.fixture
def builder(store, clock):
    builder = Builder(store, clock, salts)
    with store.transaction():
        builder.add_genesis(ORIGIN, POLICY)
    return builder


def add(builder, method, *arguments, **options):
    if method == "extend":
        tip, blocks = arguments
        arguments = tip, Leaves.join(blocks), [len(leaves) for leaves in blocks]
    with builder.store.transaction():
        return getattr(builder, method)(*arguments, **options)


def mine(builder, tip, *heights):
    """Mine blocks of a branch with hashlib, all that are not mined yet unless ``heights`` are given."""
    blocks = builder.store.blocks(tip.branch.id, 0, 10_000)
    for row, height in enumerate(blocks.heights.tolist()):
        if blocks.headers["time"][row] or (heights and height not in heights):
            continue
        prev, bits = blocks.headers["prev"][row].tobytes(), int(blocks.headers["bits"][row])
        time = Manifest.parse(blocks.manifests[row]).built + 5
        root, nonce = plain.merkle_root(blocks.manifests[row], height), 0
        while not plain.work_is_done(raw := plain.header(0x20002000, prev, root, time, bits, nonce)):
            nonce += 1
        found = Blocks(np.array([height]), np.frombuffer(raw, HEADER), np.array([height]), [])
        with builder.store.transaction():
            assert builder.store.solve_blocks(tip.branch.id, found) == 1
        tip.mined(height, raw, height)


def manifests(store, tip):
    return [Manifest.parse(raw) for raw in store.blocks(tip.branch.id, 0, 10_000).manifests]


def check_links(store, tip, prev):
    """Headers of blocks that are not mined, by the format; the link of the newest one."""
    blocks = store.blocks(tip.branch.id, 0, 10_000)
    for row in range(len(blocks)):
        bits = int(blocks.headers["bits"][row])
        assert blocks.headers["prev"][row].tobytes() == prev
        if not blocks.headers["time"][row]:
            root = plain.merkle_root(blocks.manifests[row], 0)
            assert blocks.headers[row].tobytes() == plain.header(0x20000000, prev, root, 0, bits, 0)
            assert blocks.extranonces[row] == 0
        prev = plain.link(prev, blocks.manifests[row], bits)
    assert tip.link == prev
    return prev


def seals(store, tip, seal=bytes(32)):
    """The seal of each block of a mined branch."""
    blocks, found = store.blocks(tip.branch.id, 0, 10_000), []
    for row in range(len(blocks)):
        header = blocks.headers[row].tobytes()
        link = plain.link(header[4:36], blocks.manifests[row], int(blocks.headers["bits"][row]))
        seal = plain.seal(seal, link, header, int(blocks.extranonces[row]))
        found.append(seal)
    return found


# -- the trunk


def test_genesis(store, builder):
    empty = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
    blocks = store.blocks(builder.trunk.branch.id, 0, 10)
    assert blocks.manifests == [
        f"{ORIGIN}\n0\n{empty}\nheight 0\nleaves {empty}\nbuilt 1700000000\n"
        "policy bits=2100ffff events=1024 lag=100 late=0 source=test/1\n".encode()
    ]
    assert (
        check_links(store, builder.trunk, bytes(32)).hex()
        == "781d5e5a95ffe8d9edf19c2cb4375b822254b9c43d159faae133c1c23ae692d5"
    )
    with pytest.raises(PolicyError, match="already has a genesis"):
        add(builder, "add_genesis", ORIGIN, POLICY)


def test_blocks_of_events(store, builder):
    events = [Event(3 * i + 7, f"s{i}", i, f"e{i}", "t", i, b"d" * i, None) for i in range(10)]
    leaves = Leaves.of(batch_of(events), salts)
    hashes = [plain.leaf(event, salts(10)[i].tobytes()) for i, event in enumerate(events)]
    assert leaves.hashes.tobytes() == b"".join(hashes)
    add(builder, "extend", builder.trunk, [leaves[:3], leaves[3:3], leaves[3:10]])
    said = manifests(store, builder.trunk)[1:]
    assert [m.size for m in said] == [3, 3, 10]
    assert [m.height for m in said] == [1, 2, 3]
    assert [m.position for m in said] == [13, 13, 34]
    assert [m.root for m in said] == [plain.mth(hashes[:size]) for size in (3, 3, 10)]
    assert [m.leaves for m in said] == [plain.mth(hashes[a:b]) for a, b in ((0, 3), (3, 3), (3, 10))]
    assert all(m.policy is None and m.sealed is None and not m.children for m in said)
    check_links(store, builder.trunk, bytes(32))


@pytest.mark.parametrize("again", [False, True])
def test_any_batches_make_the_same_log(store, builder, clock, again):
    """Tiles and pieces are what the leaves say, whether one builder goes on or each batch has its own."""
    sizes = [1, 255, 1, 300, 0, 256, 511, 1024, 2, 1000]
    everything, first = [], 0
    for size in sizes:
        if again:
            builder = Builder(store, clock, salts)
        leaves = made_up(first, size)
        half = size // 2
        add(builder, "extend", builder.trunk, [leaves[:half], leaves[half:]])
        everything += [row.tobytes() for row in leaves.hashes]
        first += size
        newest = manifests(store, builder.trunk)[-1]
        assert (newest.size, newest.root) == (first, plain.mth(everything))
        check_log(store, builder.trunk.branch.id, everything)
    check_links(store, builder.trunk, bytes(32))


def check_log(store, branch, leaves):
    row, level = leaves, 0
    while row:
        tiles = store.tiles(branch, level, 0, 10_000)
        assert [tile.index for tile in tiles] == list(range((len(row) + 255) // 256))
        assert b"".join(tile.hashes for tile in tiles) == b"".join(row)
        row = [plain.mth(row[i : i + 256]) for i in range(0, len(row) - 255, 256)]
        level += 1
    assert not store.tiles(branch, level, 0, 10)
    pieces = store.pieces(branch, 0, 10_000)
    assert [piece.index for piece in pieces] == list(range((len(leaves) + 255) // 256))
    positions = np.frombuffer(b"".join(piece.positions for piece in pieces), ">i8")
    assert positions.tolist() == list(range(len(leaves)))
    for piece in pieces:
        assert len(piece.salts) == 2 * len(piece.positions)
        assert piece.digest == hashlib.sha256(piece.salts + piece.positions).digest()


def test_tiles_of_three_levels(store, builder):
    branch = builder.trunk.branch.id
    writer, first, hashes = LogWriter(store, branch, 0), 0, []
    for size in (65_000, 535, 1, 300):
        leaves = made_up(first, size)
        with store.transaction():
            writer.append(leaves.hashes, leaves.salts, leaves.positions, [size])
        hashes += [row.tobytes() for row in leaves.hashes]
        first += size
        again = LogWriter(store, branch, first)
        assert again.frontier.root() == writer.frontier.root()
    assert writer.frontier.root() == plain.mth(hashes)
    check_log(store, branch, hashes)
    reader = LogReader(store, branch)
    assert reader.node(16, 0) == plain.mth(hashes[:65_536])
    assert reader.node(9, 127) == plain.mth(hashes[127 * 512 : 128 * 512])
    assert reader.find(65_600, first) == 65_600


def test_the_sealed_prefix(store, builder, clock):
    trunk = builder.trunk
    add(builder, "extend", trunk, [made_up(0, 2), made_up(2, 2), made_up(4, 2)])
    assert trunk.sealed is None
    mine(builder, trunk, 1, 3)
    assert trunk.sealed is None  # the genesis is a hole
    assert read_tips(store)[ORIGIN].sealed is None
    mine(builder, trunk, 0)
    assert trunk.sealed_height == 1
    add(builder, "extend", trunk, [made_up(6, 1)])
    mine(builder, trunk)
    known = seals(store, trunk)
    assert trunk.sealed == Sealed(4, known[4])
    assert read_tips(store)[ORIGIN].sealed == Sealed(4, known[4])
    assert manifests(store, trunk)[4].sealed == Sealed(1, known[1])
    again = Builder(store, clock, salts)
    add(again, "extend", again.trunk, [made_up(7, 1)])
    assert manifests(store, trunk)[5].sealed == Sealed(4, known[4])
    check_links(store, again.trunk, bytes(32))


def test_a_builder_that_was_made_anew_knows_the_same(store, builder, clock):
    add(builder, "extend", builder.trunk, [made_up(0, 300)])
    mine(builder, builder.trunk, 0)
    add(builder, "add_child", builder.trunk, 0, CHILD, batch_of([one_event(0)]), pin=0)
    add(builder, "extend", builder.trunk, [made_up(300, 1)])
    again = Builder(store, clock, salts)
    assert list(again.tips) == list(builder.tips) == [ORIGIN, CHILD]
    for origin, tip in builder.tips.items():
        other = again.tips[origin]
        for name in (
            "branch",
            "height",
            "link",
            "policy",
            "built",
            "position",
            "sealed",
            "parent",
            "named",
            "pinned",
        ):
            assert getattr(other, name) == getattr(tip, name), (origin, name)
        assert other.log.frontier.root() == tip.log.frontier.root()
        assert other.log.size == tip.log.size


# -- policy


def test_what_the_policy_does_not_allow(store, clock):
    builder = Builder(store, clock, salts)
    add(builder, "add_genesis", ORIGIN, Policy(EASY, 10, 3, 1, "test/1"))
    trunk = builder.trunk
    with pytest.raises(PolicyError, match="11 events; the policy allows 10"):
        add(builder, "extend", trunk, [made_up(0, 10), made_up(10, 11)])
    with pytest.raises(PolicyError, match="2 late events"):
        add(builder, "extend", trunk, [made_up(0, 10)], late=[2])
    assert builder.room(trunk) == 2
    with pytest.raises(PolicyError, match="block 3 would be 4 ahead"):
        add(builder, "extend", trunk, [made_up(0, 1), made_up(1, 1), made_up(2, 1)])
    assert (trunk.height, trunk.log.size, trunk.position) == (0, 0, None)  # nothing changed
    add(builder, "extend", trunk, [made_up(0, 1), made_up(1, 1)])
    assert builder.room(trunk) == 0
    with pytest.raises(PolicyError, match="mine before building more"):
        add(builder, "extend", trunk, [NO_LEAVES])
    mine(builder, trunk, 0)
    assert builder.room(trunk) == 1
    add(builder, "extend", trunk, [made_up(2, 1)])
    check_links(store, trunk, bytes(32))


def test_tightening(store, builder, clock):
    trunk = builder.trunk
    for policy in (POLICY, Policy(EASY, 2000, 1, 0, "test/1"), Policy(EASY, 5, 100, 0, "test/2")):
        with pytest.raises(PolicyError, match="does not tighten"):
            add(builder, "tighten", trunk, policy)
    harder = Policy(0x207FFFFF, 5, 100, 0, "test/1")
    add(builder, "tighten", trunk, harder)
    assert manifests(store, trunk)[1].policy == harder
    assert store.blocks(trunk.branch.id, 1, 1).headers["bits"].tolist() == [
        harder.bits
    ]  # from this very block
    assert Builder(store, clock).trunk.policy == harder
    assert policy_at(store, builder.tips, ORIGIN, 0) == POLICY
    assert policy_at(store, builder.tips, ORIGIN, 1) == harder
    with pytest.raises(PolicyError, match="6 events"):
        add(builder, "extend", trunk, [made_up(0, 6)])


def test_late_leaves_do_not_lower_the_position(store, clock):
    builder = Builder(store, clock, salts)
    add(builder, "add_genesis", ORIGIN, Policy(EASY, 10, 9, 2, "test/1"))
    trunk = builder.trunk
    add(builder, "extend", trunk, [made_up(100, 3, step=10)])
    add(
        builder,
        "extend",
        trunk,
        [Leaves.join([made_up(105, 1), made_up(121, 1)]), made_up(3, 2)],
        late=[1, 2],
    )
    said = manifests(store, trunk)[1:]
    assert [(m.position, m.late) for m in said] == [(120, 0), (121, 1), (121, 2)]
    reader = LogReader(store, trunk.branch.id)
    assert reader.positions(0, 7).tolist() == [100, 110, 120, 105, 121, 3, 4]
    assert reader.positions(2, 5).tolist() == [120, 105, 121]
    assert [reader.find(p, 7) for p in (100, 105, 121, 3, 4, 5, 0, 200)] == [0, 3, 4, 5, 6, None, None, None]


def test_the_clock(store, builder, clock):
    clock.time += 10
    add(builder, "extend", builder.trunk, [NO_LEAVES])
    clock.time -= 10
    add(builder, "extend", builder.trunk, [NO_LEAVES])  # a clock that goes back a little
    clock.time += 20
    again = Builder(store, clock)
    add(again, "extend", again.trunk, [NO_LEAVES])
    start = 1_700_000_000
    assert [m.built for m in manifests(store, builder.trunk)] == [start, start + 10, start + 10, start + 20]
    clock.time = start + 20 - CLOCK_TOLERANCE
    assert again.now() == start + 20
    clock.time -= 1
    with pytest.raises(PolicyError, match="7201 seconds after this host's clock"):
        again.now()


def test_positions_are_not_negative():
    with pytest.raises(FormatError, match="position -5"):
        Leaves.of(batch_of([Event(-5, "s", 0, "i", "t", 0, None, None)]))


# -- child branches


def test_a_child_branch(store, builder, clock):
    trunk = builder.trunk
    add(builder, "extend", trunk, [made_up(0, 5), made_up(5, 5)])
    with pytest.raises(PolicyError, match="not sealed"):
        add(builder, "add_child", trunk, 1, CHILD, batch_of([one_event(1)]))
    mine(builder, trunk, 0, 1)
    trunk_seals = seals(store, trunk)
    clock.time += 5
    built = add(builder, "add_child", trunk, 1, CHILD, batch_of([one_event(1)]), pin=1)
    assert built.not_before.tolist() == [clock.time]
    child = builder.tips[CHILD]
    links = [bytes(32)]
    for raw in store.blocks(trunk.branch.id, 0, 3).manifests:
        links.append(plain.link(links[-1], raw, EASY))
    (first,) = manifests(store, child)
    kept = one_event(1)._replace(time=clock.time * 10**6)  # as the block was built
    leaf = plain.leaf(kept, salts(1)[0].tobytes())
    assert (first.origin, first.height, first.size) == (CHILD, 2, 1)
    assert (first.root, first.leaves, first.position) == (leaf, leaf, 0)
    assert (first.fork, first.pin) == ((ORIGIN, 1), (ORIGIN, 1, links[2]))
    assert first.sealed == Sealed(1, trunk_seals[1])
    assert first.policy is None
    check_links(store, child, links[2])

    # The parent names it, once, and the child's seal goes on from the fork.
    add(builder, "add_child_lines", trunk)
    assert manifests(store, trunk)[-1].children == (Pointer(CHILD, 2, child.link),)
    assert add(builder, "add_child_lines", trunk) is None
    mine(builder, child)
    assert child.sealed == Sealed(2, seals(store, child, trunk_seals[1])[0])
    mine(builder, trunk)
    for pin in (1, 4, -1):
        with pytest.raises(PolicyError, match="cannot follow"):
            add(builder, "extend_child", child, batch_of([one_event(2)]), pin=pin)
    add(builder, "extend_child", child, batch_of([one_event(2)]), pin=2)
    add(builder, "extend", trunk, [made_up(10, 1), made_up(11, 1)])
    assert manifests(store, trunk)[-2].children == (Pointer(CHILD, 3, child.link),)
    assert manifests(store, trunk)[-1].children == ()
    second = manifests(store, child)[1]
    assert (second.fork, second.pin, second.position) == (None, (ORIGIN, 2, links[3]), 1)
    assert second.sealed == child.sealed
    kept = store.events(child.branch.id, None, 10)
    at = clock.time * 10**6
    events = [one_event(i + 1)._replace(position=i, time=at) for i in (0, 1)]
    assert kept.to_pylist() == [event._asdict() for event in events]
    hashes = [plain.leaf(event, salts(1)[0].tobytes()) for event in events]
    assert second.root == plain.mth(hashes)
    check_log(store, child.branch.id, hashes)


def test_children_are_named_in_order_and_inherit_from_the_fork(store, builder):
    trunk = builder.trunk
    mine(builder, trunk)
    tighter = Policy(EASY, 7, 50, 0, "test/1")
    add(builder, "tighten", trunk, tighter)
    mine(builder, trunk)
    for name, height in (("zz", 0), ("aa", 1), ("mm/nn", 1)):
        add(builder, "add_child", trunk, height, f"{ORIGIN}/{name}", batch_of([one_event(0)]))
    tips = builder.tips
    assert [tips[f"{ORIGIN}/{name}"].policy for name in ("zz", "aa", "mm/nn")] == [POLICY, tighter, tighter]
    again = read_tips(store)
    assert [again[f"{ORIGIN}/{name}"].policy for name in ("zz", "aa", "mm/nn")] == [POLICY, tighter, tighter]
    add(builder, "add_child_lines", trunk)
    origins = [child.origin for child in manifests(store, trunk)[-1].children]
    assert origins == [f"{ORIGIN}/{name}" for name in ("aa", "mm/nn", "zz")]
    for origin in (f"{ORIGIN}/aa", ORIGIN, f"{ORIGIN}@2"):
        with pytest.raises(PolicyError, match="there is a branch"):
            add(builder, "add_child", trunk, 0, origin, batch_of([one_event(0)]))
    with pytest.raises(FormatError, match="origin"):
        add(builder, "add_child", trunk, 0, f"{ORIGIN}/tile", batch_of([one_event(0)]))


def test_a_branch_of_a_branch(store, builder, clock):
    mine(builder, builder.trunk)
    add(builder, "add_child", builder.trunk, 0, CHILD, batch_of([one_event(0), one_event(1)]))
    child = builder.tips[CHILD]
    mine(builder, child)
    add(builder, "add_child", child, 1, CHILD + "/deep", batch_of([one_event(0)]))
    deep = builder.tips[CHILD + "/deep"]
    assert (deep.parent, deep.height) == (CHILD, 2)
    assert manifests(store, deep)[0].sealed == child.sealed
    add(builder, "add_child_lines", builder.trunk)
    assert [c.origin for c in manifests(store, builder.trunk)[-1].children] == [
        CHILD
    ]  # its own children only
    assert Builder(store, clock).tips[CHILD + "/deep"].policy == POLICY


# -- what an administrator has changed


def edit(store, statement, *values):
    with closing(sqlite3.connect(store.url.removeprefix("sqlite:///"))) as connection, connection:
        assert connection.execute(statement, values).rowcount == 1


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("DELETE FROM tiles WHERE level = 0 AND tile = 1", "tile 0/1 is missing or cut short|tile 0/1"),
        (
            "UPDATE tiles SET hashes = substr(hashes, 1, 33) WHERE level = 0 AND tile = 1",
            "tile 0/1.* cut short",
        ),
        ("UPDATE tiles SET hashes = zeroblob(32 * 44) WHERE level = 0 AND tile = 1", "do not make the root"),
        ("UPDATE tiles SET hashes = zeroblob(32) WHERE level = 1", "do not make the root"),
        ("DELETE FROM tiles WHERE level = 1", "tile 1/0"),
        ("DELETE FROM pieces WHERE tile = 1", "piece 1 is missing"),
        ("UPDATE pieces SET salts = x'00' WHERE tile = 1", "piece 1 is missing or cut short"),
        ("UPDATE pieces SET positions = x'' WHERE tile = 1", "piece 1 is missing or cut short"),
        ("UPDATE blocks SET manifest = x'0a' WHERE height = 1", "manifest"),
        ("UPDATE blocks SET manifest = x'ff' WHERE height = 0", "manifest"),
        ("UPDATE blocks SET height = 9 WHERE height = 1", "another one"),
        ("DELETE FROM blocks WHERE height = 0", "damaged"),
        ("UPDATE branches SET origin = 'other'", "another one"),
        ("UPDATE blocks SET extranonce = -1 WHERE height = 0", "extranonce"),
    ],
)
def test_nothing_is_built_on_a_damaged_store(store, builder, clock, statement, why):
    add(builder, "extend", builder.trunk, [made_up(0, 300)])
    mine(builder, builder.trunk)
    Builder(store, clock)
    edit(store, statement)
    with pytest.raises(StoreError, match=why) as caught:
        Builder(store, clock)
    assert caught.value.hint


def test_reading_a_damaged_log(store, builder):
    add(builder, "extend", builder.trunk, [made_up(0, 600)])
    edit(store, "UPDATE tiles SET hashes = substr(hashes, 1, 100) WHERE level = 0 AND tile = 0")
    edit(store, "DELETE FROM tiles WHERE level = 0 AND tile = 1")
    edit(store, "UPDATE pieces SET positions = substr(positions, 1, 9) WHERE tile = 0")
    edit(store, "DELETE FROM pieces WHERE tile = 1")
    reader = LogReader(store, builder.trunk.branch.id)
    assert reader.leaf(2) == made_up(0, 600).hashes[2].tobytes()
    assert reader.position(0) == 0
    broken = [
        lambda: reader.leaf(3),
        lambda: reader.node(1, 1),
        lambda: reader.leaf(256),
        lambda: reader.position(1),
        lambda: reader.position(300),
        lambda: reader.positions(0, 10),
        lambda: reader.positions(250, 300),
        lambda: reader.find(599, 600),
    ]
    for read in broken:
        with pytest.raises(StoreError, match="damaged"):
            read()
