"""The oracle: one slow, plain derivation of a whole chain store from its bytes and its events.

It takes the formats from the design, one event and one header at a time, and shares no code with the package.
Most end-to-end tests call it next to ``verify``: what both accept, two independent readers accept.
"""

from __future__ import annotations

import base64
import json
import re
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from unit.plain_format import (
    Event,
    entry,
    header,
    largest_power_below,
    leaf,
    link,
    merkle_root,
    seal,
    sha256,
    target,
    work_is_done,
)

ORDER = ["height", "leaves", "position", "late", "built", "sealed", "fork", "pin", "child", "policy"]
ORDER += ["replaces"]
FIELDS = dict.fromkeys(ORDER, 1) | {"sealed": 2, "fork": 2, "pin": 3, "child": 3, "policy": 5, "replaces": 4}
ZERO = bytes(32)
ROLLED = 0x1FFFE000
HOURS_2 = 7200


def check_chain(store: Any, events: Any, now: float | None = None) -> None:
    """Re-derive everything. store: a chain store; events: its event store; now: unix seconds.

    Raises AssertionError, with the branch, the block and what differs. An unsealed tail is in order.
    """
    try:
        _check_chain(store, events, time.time() if now is None else now)
    except (KeyError, IndexError, ValueError, OverflowError, struct.error) as error:
        raise AssertionError(f"malformed: {error!r}") from error


def _check_chain(store: Any, events: Any, now: float) -> None:
    assert store.strays() == []
    branches: dict[str, Branch] = {}
    for number, (id_, origin) in enumerate(store.branches()):
        assert origin.partition("@")[0] not in {known.partition("@")[0] for known in branches}, origin
        branch = Branch(id_, origin)
        check_blocks(store, branch, branches, now)
        assert (branch.parent is None) == (number == 0), f"{origin}: the first branch is the only trunk"
        branches[origin] = branch
        source: Any = events.read if number == 0 else lambda after, n, b=id_: store.events(b, after, n)
        check_log(store, branch, source)
    assert branches, "no branch"
    policy = dict(part.split("=") for part in next(iter(branches.values())).blocks[0]["policy"])
    assert policy["source"] == events.source
    trunk, *children = branches.values()
    erased, removals = read_records(store, trunk, children)
    check_removals(store, trunk, removals)
    removed = [position for record in removals.values() for position in record["positions"]]
    assert sorted(set(erased) - set(removed)) == trunk.erased, "what is erased is not what the records say"
    assert not set(removed) & set(trunk.positions), "removed events are in the log"
    assert not set(removed) & {event.position for event in all_events(events.read)}, (
        "removed events are there"
    )
    closed = {origin for record in removals.values() for origin in record["closed"]}
    for branch in branches.values():
        check_children(branch, branches, closed)
    for branch in children:
        before = incarnation(branch.origin) - 1
        assert branch.origin not in closed, f"{branch.origin}: was closed"
        assert not before or base(branch.origin) + (f"@{before}" if before > 1 else "") in closed, (
            branch.origin
        )
    assert not any(one.unfinished for one in store.incarnations()), "a removal is not complete"


# -- what is kept of a branch


@dataclass
class Branch:
    id: int
    origin: str
    parent: Branch | None = None
    fork: int = -1
    blocks: list[dict[str, Any]] = field(default_factory=list)
    erased: list[int] = field(default_factory=list)
    leaves: list[bytes] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)

    def at(self, height: int) -> dict[str, Any]:
        """The block at a height of this branch's own path, through its fork."""
        if height <= self.fork:
            assert self.parent is not None
            return self.parent.at(height)
        return self.blocks[height - self.fork - 1]


def base(origin: str) -> str:
    return origin.partition("@")[0]


def incarnation(origin: str) -> int:
    return int(origin.partition("@")[2] or 1)


# -- manifests, split by hand


def number(text: str) -> int:
    assert re.fullmatch(r"0|[1-9][0-9]*", text), text
    assert int(text) < 2**63, text
    return int(text)


def digest(text: str) -> bytes:
    raw = base64.b64decode(text, validate=True)
    assert len(raw) == 32, text
    assert base64.b64encode(raw).decode() == text, text
    return raw


def check_origin(text: str) -> str:
    assert re.fullmatch(r"[a-z0-9][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*)*(@[1-9][0-9]*)?", text), text
    assert not {"tile", "checkpoint"} & set(text.partition("@")[0].split("/")), text
    assert not text.endswith("@1"), text
    return text


def split_manifest(raw: bytes) -> dict[str, Any]:
    """Every line's fields by key; ``child`` is a list of them, absent lines are None."""
    assert len(raw) <= 65536
    assert re.fullmatch(rb"([\x20-\x7e]+\n){6,}", raw), "not lines of printable ASCII"
    origin, size, root, *lines = raw.decode("ascii")[:-1].split("\n")
    said: dict[str, Any] = dict.fromkeys(ORDER) | {"child": []}
    keys = [line.split(" ")[0] for line in lines]
    assert keys == sorted(keys, key=ORDER.index), f"lines in the wrong order: {keys}"
    assert len(set(keys)) == len(keys) - max(0, keys.count("child") - 1), f"a line twice: {keys}"
    for line in lines:
        key, *values = line.split(" ")
        assert len(values) == FIELDS[key], line
        assert all(re.fullmatch(r"[A-Za-z0-9+._/@=-]+", value) for value in values), line
        if key == "child":
            said["child"].append((check_origin(values[0]), number(values[1]), digest(values[2])))
        else:
            said[key] = values
    said |= {"origin": check_origin(origin), "size": number(size), "root": digest(root)}
    assert all(said[key] for key in ("height", "leaves", "built")), "a line is missing"
    said["leaves"] = digest(*said["leaves"])
    for key in ("height", "position", "late", "built"):
        said[key] = number(*said[key]) if said[key] else None
    assert said["late"] != 0, "`late 0` is left out"
    if said["sealed"]:
        said["sealed"] = number(said["sealed"][0]), digest(said["sealed"][1])
    if said["fork"]:
        said["fork"] = check_origin(said["fork"][0]), number(said["fork"][1])
    if said["pin"]:
        said["pin"] = check_origin(said["pin"][0]), number(said["pin"][1]), digest(said["pin"][2])
    if said["replaces"]:
        old, height, its_seal, reason = said["replaces"]
        said["replaces"] = check_origin(old), number(height), digest(its_seal), reason
    named = [child[0] for child in said["child"]]
    assert named == sorted(set(named)), f"children not sorted: {named}"
    assert (said["position"] is None) == (said["size"] == 0), "a position, and an empty log"
    return said


def parse_policy(fields: list[str]) -> dict[str, Any]:
    policy: dict[str, Any] = {}
    for pair in fields:
        key, _, value = pair.partition("=")
        policy[key] = value
    assert list(policy) == ["bits", "events", "lag", "late", "source"], fields
    assert re.fullmatch("[0-9a-f]{8}", policy["bits"]), fields
    policy |= {key: number(policy[key]) for key in ("events", "lag", "late")}
    policy["target"] = check_bits(int(policy.pop("bits"), 16))
    return policy


def check_bits(bits: int) -> int:
    """The target of canonical, positive bits of at most 256 bits: no other exponent says the same."""
    mantissa, value = bits & 0xFFFFFF, target(bits)
    assert 0 < mantissa < 0x800000, f"{bits:08x} is zero or negative"
    assert value < 2**256, f"{bits:08x} is too large"
    size = -(-value.bit_length() // 8)
    assert bits >> 24 == size + (value >> 8 * (size - 1) > 0x7F), f"{bits:08x} is not canonical"
    assert target((bits >> 24 << 24) | mantissa) == value
    assert bits >> 24 >= 3 or mantissa & (256 ** (3 - (bits >> 24)) - 1) == 0, f"{bits:08x} has lost digits"
    return value


# -- blocks


def rows_of(store: Any, branch: Branch) -> Iterator[tuple[int, bytes, int, bytes]]:
    first = 0
    while len(rows := store.blocks(branch.id, first, 500)):
        for row in range(len(rows)):
            first = int(rows.heights[row])
            yield first, rows.headers[row].tobytes(), int(rows.extranonces[row]), rows.manifests[row]
        first += 1


def check_blocks(store: Any, branch: Branch, branches: dict[str, Branch], now: float) -> None:
    """Manifests, links, work, policy, seals and times of one branch."""
    before: dict[str, Any] | None = None  # the block below, through the fork
    policy: dict[str, Any] | None = None
    pinned = -1
    for height, raw, extranonce, manifest in rows_of(store, branch):
        where = f"{branch.origin} {height}"
        said = split_manifest(manifest)
        if not branch.blocks:
            if said["fork"]:
                (branch.parent,) = (b for b in branches.values() if base(b.origin) == base(said["fork"][0]))
                branch.fork = said["fork"][1]
                before = branch.parent.at(branch.fork)
                assert before["origin"] == said["fork"][0], f"{where}: forks off another incarnation"
                assert before["seal"], f"{where}: forks off a block that is not sealed"
                policy = before["in force"]
                parent = branch.parent.origin.partition("@")[0]
                assert branch.origin.startswith(f"{parent}/"), f"{where}: a child of {parent} by another name"
                assert said["sealed"] and said["sealed"][0] >= branch.fork, f"{where}: its fork is sealed"  # noqa: PT018
            else:
                assert said["policy"], f"{where}: a genesis without a policy"
                assert said["size"] == 0, f"{where}: a genesis with events"
        else:
            assert said["fork"] is None, f"{where}: forks again"
        if said["replaces"]:
            old = said["replaces"][0]
            assert branch.parent is None and before, f"{where}: replaces {old}"  # noqa: PT018
            assert base(old) == base(said["origin"]) == base(before["origin"]), where
            assert incarnation(said["origin"]) == incarnation(old) + 1 > incarnation(before["origin"]), where
        elif branch.blocks and before:
            assert said["origin"] == before["origin"], where
        else:
            assert said["origin"] == (branch.origin if said["fork"] else base(branch.origin)), where
        assert said["height"] == height == (before["height"] + 1 if before else 0), where

        version, prev, root, mined, bits, nonce = struct.unpack("<I32s32sIII", raw)
        assert header(version, prev, root, mined, bits, nonce) == raw
        assert prev == (before["link"] if before else ZERO), f"{where}: its link"
        assert version & ~ROLLED == 0x20000000, f"{where}: its version"
        assert root == merkle_root(manifest, extranonce), f"{where}: its merkle root"
        assert extranonce < 2**63, where
        said["link"] = link(prev, manifest, bits)
        said["mined"] = mined != 0
        if mined:
            assert work_is_done(raw), f"{where}: its work"
            assert said["built"] <= mined <= now + HOURS_2, f"{where}: mined at {mined}"
        else:
            assert (version, nonce, extranonce) == (0x20000000, 0, 0), f"{where}: half a solution"
        assert said["built"] <= now + HOURS_2, f"{where}: built in the future"
        assert not before or said["built"] >= before["built"], f"{where}: built before the block below it"

        if said["policy"]:
            stated = parse_policy(said["policy"])
            if policy is not None:
                looser = any(stated[key] > policy[key] for key in ("target", "events", "lag", "late"))
                assert not looser, f"{where}: a looser policy"
                assert stated != policy and stated["source"] == policy["source"], f"{where}: its policy"  # noqa: PT018
            policy = stated
        assert policy is not None, where
        said["in force"] = policy
        added = said["size"] - (branch.blocks[-1]["size"] if branch.blocks else 0)
        assert 0 <= added <= policy["events"], f"{where}: adds {added} leaves"
        assert (said["late"] or 0) <= min(policy["late"], added), f"{where}: late leaves"
        assert check_bits(bits) <= policy["target"], f"{where}: easier than the policy"
        assert height - (said["sealed"][0] if said["sealed"] else -1) <= policy["lag"], f"{where}: lag"

        if before and before.get("sealed"):
            assert said["sealed"], f"{where}: no longer names a sealed block"
            assert said["sealed"][0] >= before["sealed"][0], f"{where}: its sealed height falls"
        if said["sealed"]:
            assert said["sealed"][0] < height, where
            assert branch.at(said["sealed"][0])["seal"] == said["sealed"][1], f"{where}: the seal it names"
        pin_sealed = True
        if said["pin"]:
            assert branch.parent is not None, where
            assert said["pin"][1] > pinned, f"{where}: pins do not rise"
            pinned = said["pin"][1]
            assert said["pin"][0] == branch.parent.at(pinned)["origin"], f"{where}: pins a stranger"
            assert branch.parent.at(pinned)["link"] == said["pin"][2], f"{where}: pins another block"
            assert branch.parent.at(pinned)["seal"], f"{where}: pins a block that is not sealed"
            assert branch.parent.at(pinned)["built"] <= said["built"], f"{where}: pins a block built later"
            assert added == 1, f"{where}: a snapshot block with {added} leaves"

        said["seal"] = None
        if mined and pin_sealed and (before is None or before["seal"]):
            said["seal"] = seal(before["seal"] if before else ZERO, said["link"], raw, extranonce)
        branch.blocks.append(said)
        before = said
    assert branch.blocks, f"{branch.origin}: no blocks"
    assert branch.blocks[-1]["origin"] == branch.origin, f"{branch.origin}: its newest block"


def check_children(parent: Branch, branches: dict[str, Branch], closed: set[str]) -> None:
    """``child`` lines against child branches, both ways; those that were closed are gone."""
    named: dict[str, int] = {}
    for said in parent.blocks:
        where = f"{parent.origin} {said['height']}"
        for origin, height, its_link in said["child"]:
            if origin in closed:
                continue
            child = branches[origin]
            assert child.parent is parent, f"{where}: {origin} is no child of it"
            block = child.at(height)
            assert height > child.fork, f"{where}: names {origin} below its fork"
            assert block["link"] == its_link, f"{where}: {origin} {height} is another block"
            assert block["built"] <= said["built"], f"{where}: {origin} {height} was built later"
            assert height > named.get(origin, -1), f"{where}: names {origin} {height} again"
            named[origin] = height
        for child in branches.values():
            if child.parent is parent and said["height"] > child.fork:
                for block in child.blocks:
                    due = block["built"] < said["built"] and block["height"] > named.get(child.origin, -1)
                    assert not due, f"{where}: does not name {child.origin} {block['height']}"


def read_records(
    store: Any, trunk: Branch, children: list[Branch]
) -> tuple[list[int], dict[str, dict[str, Any]]]:
    """The positions that sealed records say are erased, and the records of removals by their id."""
    erased: list[int] = []
    removals: dict[str, dict[str, Any]] = {}
    for branch in children:
        assert not branch.erased, f"{branch.origin}: an erasure on a child branch"
        if branch.origin != f"{base(trunk.origin)}/erasures":
            continue
        assert (branch.parent, branch.fork) == (trunk, 0), f"{branch.origin}: forks elsewhere"
        first = 0
        records = list(all_events(lambda after, n, id_=branch.id: store.events(id_, after, n)))
        for said in branch.blocks:
            for number_ in range(first, said["size"] if said["seal"] else first):
                event = records[number_]
                id_ = f"{branch.origin}/{number_}"
                time = said["built"] * 10**6
                wanted = (number_, branch.origin, number_, id_, "eventchain.erasure", time)
                assert event[:6] == wanted, id_
                told = json.loads(event.data)
                positions: list[int] = []
                for start, end in told["positions"]:
                    positions += range(int(start), int(end) + 1)  # OverflowError for more than there can be
                assert base(told["origin"]) == base(trunk.origin), id_
                if told["mode"] == "erased":
                    assert sorted(told) == ["actor", "mode", "origin", "positions", "reason"], id_
                    erased += positions
                    continue
                assert told["mode"] == "removed", id_
                assert told["rebuilt"] == [], id_
                removals[id_] = told | {"positions": positions}
            first = said["size"]
    assert len(set(erased)) == len(erased), "erased twice"
    return erased, removals


def check_removals(store: Any, trunk: Branch, removals: dict[str, dict[str, Any]]) -> None:
    """Each incarnation is the one before it, less exactly what its record names."""
    path, leaves, positions = trunk.blocks, trunk.leaves, trunk.positions
    found = set()
    for count in range(incarnation(trunk.origin), 1, -1):
        (first,) = (said for said in path if said["replaces"] and incarnation(said["origin"]) == count)
        old, height, its_seal, reason = first["replaces"]
        record = removals[reason]
        found.add(reason)
        assert (record["origin"], int(record["height"])) == (old, height), reason
        assert digest(record["seal"]) == its_seal, reason
        (row,) = (one for one in store.incarnations() if (one.branch, one.origin) == (trunk.id, old))
        blocks = path[: first["height"]]
        for said in archived_blocks(store, row.id, blocks[-1]):
            blocks = [*blocks, said]
        head = blocks[-1]
        assert (head["origin"], head["height"], head["seal"]) == (old, height, its_seal), old
        assert head["link"] == digest(record["link"]), old
        size = path[first["height"] - 1]["size"]
        tiles = b"".join(tile.hashes for tile in paged(lambda at, n=row.id: store.tiles(n, 0, at, 100)))
        rows = b"".join(piece.positions for piece in paged(lambda at, n=row.id: store.pieces(n, at, 100)))
        assert not any(piece.salts for piece in paged(lambda at, n=row.id: store.pieces(n, at, 100))), old
        kept = [tiles[at : at + 32] for at in range(0, len(tiles), 32)][size % 256 :]
        assert not any(store.tiles(row.id, level, 0, 1) for level in range(1, 8)), (
            f"{old}: tiles above leaves"
        )
        before = leaves[:size] + kept
        before_positions = positions[:size] + list(struct.unpack(f">{len(rows) // 8}q", rows))[size % 256 :]
        assert len(before) == len(before_positions) == head["size"], old
        root = root_of_ranges(before)
        for said in blocks[first["height"] :]:
            assert root(0, said["size"]) == said["root"], f"{old} {said['height']}: the root of the log"
        removed = set(record["positions"])
        stay = [pair for pair in zip(before, before_positions, strict=True) if pair[1] not in removed]
        assert stay == list(zip(leaves, positions, strict=True))[: len(stay)], f"{old}: what stays of it"
        assert len(before) == len(stay) + len(removed), f"{old}: what the record names"
        path, leaves, positions = blocks, before, before_positions
    assert found == set(removals), "a removal that was not carried out"


def archived_blocks(store: Any, row: int, before: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Blocks of a replaced incarnation with their links and seals."""
    for height, raw, extranonce, manifest in rows_of(store, Branch(row, "")):
        said = split_manifest(manifest)
        assert said["height"] == height == before["height"] + 1, f"{row} {height}: its height"
        _, prev, root, mined, bits, _ = struct.unpack("<I32s32sIII", raw)
        assert prev == before["link"], f"{row} {height}: its link"
        assert root == merkle_root(manifest, extranonce), f"{row} {height}: its merkle root"
        assert mined, f"{row} {height}: not mined"
        assert work_is_done(raw), f"{row} {height}: its work"
        said["link"] = link(prev, manifest, bits)
        said["seal"] = seal(before["seal"], said["link"], raw, extranonce)
        yield said
        before = said


# -- the log


def all_events(read: Callable[[int | None, int], Any]) -> Iterator[Event]:
    after: int | None = None
    while (batch := read(after, 1000)).num_rows:
        for row in batch.to_pylist():
            yield Event(**row)
            after = row["position"]


def check_log(store: Any, branch: Branch, read: Callable[[int | None, int], Any]) -> None:
    """Every event is the leaf that stands for it; every root, tile and piece is of these leaves."""
    name, size = branch.origin, branch.blocks[-1]["size"]
    events = {event.position: event for event in all_events(read)}
    salts, positions, kept = read_pieces(store, branch, size)

    leaves: list[bytes] = []
    for index, position in enumerate(positions):
        assert position in events, f"{name}: the event at {position}, leaf {index}, is missing"
        event = events[position]
        if index in kept:
            assert event.data is event.metadata is None, f"{name}: a payload at {position}, erased"
            leaves.append(sha256(b"\0" + entry(event, kept[index])))
        else:
            leaves.append(leaf(event, salts[index]))
    branch.erased = sorted(positions[index] for index in kept)
    branch.leaves, branch.positions = leaves, positions
    check_tiles(store, branch, leaves)
    root = root_of_ranges(leaves)

    first, covered = 0, -1
    for said in branch.blocks:
        where, end = f"{name} {said['height']}", said["size"]
        assert root(first, end) == said["leaves"], f"{where}: the root of its leaves"
        assert root(0, end) == said["root"], f"{where}: the root of the log"
        late = first + (said["late"] or 0)
        early, main = positions[first:late], positions[late:end]
        assert early == sorted(set(early)), f"{where}: its late leaves do not rise"
        assert all(position < covered for position in early), f"{where}: a late leaf that is not late"
        assert main == sorted(set(main)), f"{where}: its leaves do not rise"
        assert all(position > covered for position in main), f"{where}: a leaf that is late"
        covered = max([covered, *main])
        assert covered == (-1 if said["position"] is None else said["position"]), f"{where}: its position"
        if said["pin"]:
            check_snapshot(branch, said, events[positions[first]])
        first = end
    assert len(set(positions)) == size, f"{name}: a position twice"
    extra = [position for position in events if position <= covered and position not in set(positions)]
    assert not extra, f"{name}: inserted at {extra}"
    if branch.parent is not None:
        assert positions == list(range(size)), f"{name}: positions of a child are its indices"
        assert len(events) == size, f"{name}: events beyond the log"


def root_of_ranges(leaves: list[bytes]) -> Callable[[int, int], bytes]:
    @cache
    def root(first: int, end: int) -> bytes:  # RFC 6962 MTH of a range
        if end - first < 2:
            return leaves[first] if first < end else sha256(b"")
        split = first + largest_power_below(end - first)
        return sha256(b"\x01" + root(first, split) + root(split, end))

    return root


def check_snapshot(branch: Branch, said: dict[str, Any], event: Event) -> None:
    origin, height, _ = said["pin"]
    wanted = (branch.origin, height, f"{origin}/{height}", "eventchain.snapshot", said["built"] * 10**6)
    found = event.stream, event.version, event.id, event.type, event.time
    assert found == wanted, f"{branch.origin} {said['height']}: its snapshot"
    assert branch.parent is not None
    assert event.metadata is not None
    about = json.loads(event.metadata)
    assert sorted(about) == ["filter", "fingerprint", "projection", "size"]
    assert (
        event.metadata
        == json.dumps(about, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    )
    assert about["projection"] == branch.origin.split("@")[0].split("/")[-1]
    assert about["size"] == branch.parent.at(height)["size"], (
        f"{branch.origin} {said['height']}: what it covers"
    )


def read_pieces(store: Any, branch: Branch, size: int) -> tuple[list[bytes], list[int], dict[int, bytes]]:
    """Salts and positions of all leaves, and by leaf the commitments of those that were erased."""
    salts: list[bytes] = []
    positions: list[int] = []
    kept: dict[int, bytes] = {}
    for index, piece in enumerate(paged(lambda first: store.pieces(branch.id, first, 100))):
        count = min(256, size - 256 * index)
        where = f"{branch.origin}: piece {index}"
        erased = [at for at in range(count) if piece.salts[16 * at : 16 * at + 16] == bytes(16)]
        sizes = (index, 16 * count + 32 * len(erased), 8 * count)
        assert (piece.index, len(piece.salts), len(piece.positions)) == sizes, where
        for number, at in enumerate(erased):
            kept[256 * index + at] = piece.salts[16 * count + 32 * number :][:32]
        assert sha256(piece.salts + piece.positions) == piece.digest, f"{where}: its digest"
        salts += [piece.salts[at : at + 16] for at in range(0, 16 * count, 16)]
        positions += struct.unpack(f">{count}q", piece.positions)
    assert len(positions) == size, f"{branch.origin}: pieces of {len(positions)} leaves, not {size}"
    return salts, positions, kept


def check_tiles(store: Any, branch: Branch, leaves: list[bytes]) -> None:
    row = leaves
    for level in range(8):
        tiles = list(paged(lambda first, level=level: store.tiles(branch.id, level, first, 100)))
        assert [tile.index for tile in tiles] == list(range(-(-len(row) // 256))), f"tiles of level {level}"
        for tile in tiles:
            wanted = b"".join(row[256 * tile.index : 256 * (tile.index + 1)])
            assert tile.hashes == wanted, f"{branch.origin}: tile {level}/{tile.index}"
        above = []
        for index in range(len(row) // 256):  # complete tiles only
            nodes = row[256 * index : 256 * (index + 1)]
            while len(nodes) > 1:
                nodes = [sha256(b"\x01" + nodes[i] + nodes[i + 1]) for i in range(0, len(nodes), 2)]
            above += nodes
        row = above


def paged(read: Callable[[int], list[Any]]) -> Iterator[Any]:
    first = 0
    while rows := read(first):
        yield from rows
        first = rows[-1].index + 1
