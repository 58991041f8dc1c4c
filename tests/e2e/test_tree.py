"""The chain tree: what the model reads from rows, what is shown of it, and stores that are damaged."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from chains import BITS, ERASURES, ORIGIN, SNAPSHOTS, SOURCE, Chain, child_event, new_chain
from click.testing import CliRunner, Result
from tampering import Column, columns, edits

from eventchain.chain.lineage import PAGE, Kind, Lineage, Tree, read_tree
from eventchain.chain.tip import read_tips
from eventchain.cli import cli
from eventchain.cli.tree_rows import MOST, Shape, chosen, rows_of
from eventchain.cli.tree_svg import svg_of
from eventchain.formats.manifest import Manifest
from eventchain.formats.policy import Policy

INNER = f"{SNAPSHOTS}/inner"
INMOST = f"{INNER}/inmost"
WAITS = f"{ORIGIN}/waits"
SVG = "{http://www.w3.org/2000/svg}"


def configured(chain: Chain) -> Chain:
    (chain.folder / "eventchain.toml").write_text(
        'store = "sqlite:///events.db"\nchain = "sqlite:///chain.db"\n'
    )
    return chain


def an_event(number: int = 0) -> Any:
    return child_event(stream="s", version=0, id=str(number), type="t", time=0, data=b"", metadata=None)


@pytest.fixture(scope="module")
def family(grown: Chain, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """The grown chain, with a branch of a branch of a branch, a branch that is not mined and a tail that is
    not either."""
    chain = configured(grown.copy(tmp_path_factory.mktemp("family")))
    with chain.working() as work:
        tips, builder = work.builder.tips, work.builder
        work.seal(lambda builder: builder.add_child(tips[SNAPSHOTS], 7, INNER, an_event()))
        for number in range(PAGE + 4):  # more than are read at a time
            work.seal(lambda builder, number=number: builder.extend_child(tips[INNER], an_event(number)))
        work.seal(lambda builder: builder.add_child(tips[INNER], 9, INMOST, an_event()))
        with work.store.transaction():
            builder.add_child(builder.trunk, 12, WAITS, an_event())
            builder.extend_child(tips[WAITS], an_event(1))
        chain.clock.tick()
        work.append(372, 20)
        work.sealer.link_backlog(5)
    return chain


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """A short trunk with three times as many branches as are shown, each grown a second after the last."""
    chain = configured(new_chain(tmp_path_factory.mktemp("crowd"), Policy(BITS, 64, 1000, 0, SOURCE)))
    with chain.working() as work:
        work.append(0, 60)
        work.sealer.seal_backlog(10)
        work.record([1])
        for number in range(3 * MOST):
            chain.clock.tick()
            origin = f"{ORIGIN}/part-{number}"
            work.seal(
                lambda builder, n=number, origin=origin: builder.add_child(
                    builder.trunk, 1 + n % 5, origin, an_event(n)
                )
            )
    return chain


def tree_of(chain: Chain) -> Tree:
    with chain.opened() as (store, _), store.snapshot():
        return read_tree(store)


def by_origin(tree: Tree) -> dict[str, Lineage]:
    return {lineage.origin: lineage for _, lineage in tree.walk()}


def show(chain: Chain, *args: object, code: int = 0) -> Result:
    options = ["tree", "-C", str(chain.folder / "eventchain.toml"), *map(str, args)]
    result = CliRunner().invoke(cli, options)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


# -- the model


def test_the_model_says_what_the_blocks_say(family: Chain) -> None:
    tree = tree_of(family)
    assert tree.faults == []
    assert [(depth, lineage.origin) for depth, lineage in tree.walk()] == [
        (0, ORIGIN),
        (1, ERASURES),
        (1, SNAPSHOTS),
        (2, INNER),
        (3, INMOST),
        (1, WAITS),
    ]
    found = by_origin(tree)
    trunk, snapshots, inner, waits = found[ORIGIN], found[SNAPSHOTS], found[INNER], found[WAITS]
    assert [lineage.kind for lineage in (trunk, found[ERASURES], snapshots, inner)] == [
        Kind.TRUNK, Kind.ERASURES, Kind.SNAPSHOTS, Kind.EVENTS,
    ]  # fmt: skip
    assert (trunk.height, trunk.size, trunk.sealed_height, trunk.sealed_size) == (18, 392, 14, 372)
    assert (trunk.blocks, trunk.unsealed) == (19, 4)
    assert (snapshots.fork, snapshots.size, snapshots.blocks, snapshots.unsealed) == (5, 3, 3, 0)
    assert snapshots.pin is not None
    assert (snapshots.pin.origin, snapshots.pin.height) == (ORIGIN, 12)
    assert (inner.name, inner.fork, inner.size, inner.sealed_height) == ("inner", 7, PAGE + 5, PAGE + 12)
    assert (waits.blocks, waits.unsealed, waits.sealed_height, waits.sealed_size) == (2, 2, 12, 0)


def test_landmarks_are_the_blocks_worth_naming(family: Chain) -> None:
    trunk = by_origin(tree_of(family))[ORIGIN]
    marks = {mark.height: mark for mark in trunk.landmarks}
    assert list(marks) == [0, 5, 10, 12, 14, 18]  # genesis, a fork, the policy, a fork, sealed, head
    assert [height for height, mark in marks.items() if mark.policy] == [0, 10]
    with family.opened() as (store, _):
        said = {m.height: m for m in map(Manifest.parse, store.blocks(1, 0, 100).manifests)}
    for height, mark in marks.items():
        assert (mark.size, mark.built, mark.policy) == (
            said[height].size, said[height].built, said[height].policy,
        )  # fmt: skip
        assert mark.before == (said[height - 1].size if height else 0)


def test_the_newest_snapshot_is_found_under_blocks_without_any(family: Chain, tmp_path: Path) -> None:
    chain = family.copy(tmp_path)
    with chain.working() as work:
        for _ in range(3):  # its newest blocks name a child that grows, and hold nothing themselves
            chain.clock.tick()
            work.seal(lambda builder: builder.extend_child(builder.tips[INNER], an_event()))
            work.seal(lambda builder: builder.add_child_lines(builder.tips[SNAPSHOTS]))
    snapshots = by_origin(tree_of(chain))[SNAPSHOTS]
    assert (snapshots.blocks, snapshots.size, snapshots.kind) == (6, 3, Kind.SNAPSHOTS)
    assert snapshots.pin is not None
    assert snapshots.pin.height == 12


def test_what_is_mined_but_named_by_no_block_is_sealed(tmp_path: Path) -> None:
    chain = new_chain(tmp_path)
    with chain.working() as work:
        work.append(0, 3 * PAGE)
        work.sealer.link_backlog(1)
        work.sealer.resume()
        work.sealer.seal_all()
    trunk = tree_of(chain).roots[0]
    assert (trunk.sealed_height, trunk.unsealed) == (3 * PAGE, 0)
    keep = (
        "UPDATE blocks SET header = CAST(substr(header, 1, 68) || zeroblob(4) || substr(header, 73) AS BLOB)"
    )
    chain.sql(chain.chain_file, f"{keep} WHERE height IN (20, 30)")
    trunk = tree_of(chain).roots[0]
    assert (trunk.sealed_height, trunk.sealed_size) == (19, 19)  # up to the first hole


def test_the_tips_of_many_branches_are_read_in_one_pass_over_each(
    crowd: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All inherit the policy that the trunk states; it is not looked for again for each."""
    asked: list[int] = []
    with crowd.opened() as (store, _):
        marked = store.marked
        monkeypatch.setattr(
            store, "marked", lambda branch, *rest: asked.append(branch) or marked(branch, *rest)
        )
        tips = read_tips(store)
    assert sorted(asked) == sorted(tip.branch.id for tip in tips.values())
    assert len({tip.policy for tip in tips.values()}) == 1


# -- what is shown


def test_the_tree_in_plain_text_is_the_documentations(family: Chain) -> None:
    result = show(family)
    assert result.stderr == ""
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text("utf-8")
    (example,) = re.findall(rf"^```\n({re.escape(ORIGIN)}  .*?)^```$", page, re.MULTILINE | re.DOTALL)
    when = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d")
    assert when.sub("WHEN", result.stdout) == when.sub("WHEN", example)
    assert f"policy bits={BITS:08x} events=60 lag=900 late=0 source={SOURCE}" in result.stdout


def test_status_sends_to_the_tree(crowd: Chain) -> None:
    args = ["status", "-C", str(crowd.folder / "eventchain.toml"), "--rate", "1M"]
    assert f"branches    {3 * MOST + 1}; `eventchain tree` shows them" in CliRunner().invoke(cli, args).stdout


def test_a_branch_with_all_below_it(family: Chain) -> None:
    for name in ("balances", SNAPSHOTS):
        lines = show(family, name).stdout.splitlines()
        assert lines[0].startswith(
            f"{SNAPSHOTS}  3 snapshots, off block 5 of {ORIGIN}, newest of block 12, sealed"
        )
        assert sum("inner" in line for line in lines) == 1
        assert "waits" not in "".join(lines)
    assert show(family, "inmost").stdout.startswith(INMOST)
    assert show(family, "balances/inner").stdout.startswith(INNER)


def test_a_branch_that_is_not_there(family: Chain) -> None:
    result = show(family, "balance", code=2)
    assert "there is no branch balance\nhint: did you mean balances" in result.stderr
    assert "lists them" in show(family, "Ω", code=2).stderr


def test_depth(family: Chain) -> None:
    result = show(family, "--depth", 1)
    assert "+ 1 branch of its own" in result.stdout
    assert "2 branches not shown" in result.stderr
    result = show(family, "--depth", 0)
    assert re.findall(r"… .*", result.stdout) == [
        "… 4 branches  off blocks 0 to 5, 3 snapshots, 1 erasure record, 22 events, sealed",
        "… 1 branch    off block 12, 2 events, 1 not sealed to the end",
    ]
    assert "5 branches not shown" in result.stderr
    depths = [
        branch["depth"] for branch in json.loads(show(family, "--depth", 1, "--json").stdout)["branches"]
    ]
    assert depths == [0, 1, 1, 1]


def test_of_many_branches_a_choice_is_shown(crowd: Chain) -> None:
    result = show(crowd)
    shown = re.findall(r"part-(\d+)", result.stdout)
    folded = sum(int(count) for count in re.findall(r"… (\d+) branch", result.stdout))
    assert len(shown) == MOST - 1  # and the erasures
    assert "erasures" in result.stdout
    assert sorted(map(int, shown)) == list(range(2 * MOST + 1, 3 * MOST))  # those that grew last
    assert folded == 2 * MOST + 1
    assert f"{folded} branches not shown" in result.stderr
    assert "branches" not in show(crowd, "--all").stdout
    assert len(re.findall(r"part-\d+", show(crowd, "--all").stdout)) == 3 * MOST


def test_json_is_complete(family: Chain, crowd: Chain) -> None:
    told = json.loads(show(family, "--json").stdout)
    assert told["faults"] == []
    assert told["chain_store"].startswith("sqlite:")
    trunk, _, snapshots, inner, *_, waits = told["branches"]
    assert (trunk["origin"], trunk["parent"], trunk["fork"], trunk["sealed_height"]) == (
        ORIGIN,
        None,
        None,
        14,
    )
    assert (trunk["unsealed_blocks"], trunk["unsealed_events"], trunk["sealed_events"]) == (4, 20, 372)
    assert snapshots["pin"]["height"] == 12
    assert snapshots["children"] == [INNER]
    assert (inner["parent"], inner["fork"], inner["depth"], inner["pin"]) == (SNAPSHOTS, 7, 2, None)
    assert (waits["sealed_height"], waits["sealed_blocks"], waits["unsealed_blocks"]) == (None, 0, 2)
    assert len(json.loads(show(crowd, "--json").stdout)["branches"]) == 3 * MOST + 2
    assert show(family, "--json", "--svg", "-", code=2).stdout == ""


def test_ascii_where_the_output_knows_no_more(family: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    result = CliRunner(charset="ascii").invoke(cli, ["tree", "-C", str(family.folder / "eventchain.toml")])
    assert result.exit_code == 0
    assert "|-- balances" in result.stdout


def test_a_narrow_terminal_breaks_rows(family: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    monkeypatch.setattr("eventchain.cli.tree.console", lambda: Console(width=60, highlight=False))
    lines = show(family).stdout.splitlines()
    assert max(map(len, lines)) <= 60
    assert "├── balances" in lines
    assert "│     off block 5, 3 snapshots, newest of block 12, sealed" in lines


# -- the picture


def elements(svg: str, name: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(svg).iter(SVG + name))


def boxes(svg: str) -> list[tuple[float, float, float, str]]:
    """Where each text is: its left and right end, its base line, and what it says."""
    found = []
    for text in elements(svg, "text"):
        x, y, said = float(text.get("x", 0)), float(text.get("y", 0)), text.text or ""
        size = 16 if text.get("class") == "title" else 13
        width = len(said) * size * 0.602  # the widest of the fonts that are named
        left = x - width if text.get("text-anchor") == "end" else x
        found.append((left, left + width, y, said))
    return found


def assert_legible(svg: str) -> None:
    """Nothing leaves the picture and no text meets another."""
    root = ElementTree.fromstring(svg)
    placed = sorted(boxes(svg), key=lambda box: (box[2], box[0]))
    for left, right, y, said in placed:
        assert left >= 0, said
        assert right <= float(root.get("width", 0)), said
        assert 0 < y < float(root.get("height", 0)), said
    for one, other in pairwise(placed):
        assert other[2] - one[2] >= 13 or (one[2] == other[2] and one[1] < other[0]), (one, other)


@pytest.mark.parametrize("which", ["family", "crowd"])
def test_the_picture_has_every_branch_and_no_text_on_another(
    which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    chain = request.getfixturevalue(which)
    result = show(chain, "--svg", "-")
    assert result.stdout == show(chain, "--svg", "-", "--all").stdout
    titles = {title.text.partition(":")[0] for title in elements(result.stdout, "title") if title.text}
    assert titles >= set(by_origin(tree_of(chain))) - {ORIGIN}
    assert elements(result.stdout, "desc")
    assert_legible(result.stdout)
    assert not [said for *_, said in boxes(result.stdout) if said.endswith((",", " "))]
    assert "http" not in result.stdout.replace("http://www.w3.org/2000/svg", "")  # self-contained
    said = show(chain, "--svg", tmp_path / "tree.svg")
    assert (said.stdout, "branches into" in said.stderr) == ("", True)
    assert (tmp_path / "tree.svg").read_text("utf-8") == result.stdout


def test_a_picture_that_cannot_be_written(family: Chain, tmp_path: Path) -> None:
    assert "cannot write" in show(family, "--svg", tmp_path / "absent" / "tree.svg", code=2).stderr
    show(family, "--svg", tmp_path, code=2)


# -- damaged stores


def _forked(origin: str) -> str:
    """The branch of snapshots says that it forks off another one's block 6."""
    said = f"replace(CAST(manifest AS TEXT), 'fork {ORIGIN} 5', 'fork {origin} 6')"
    return f"UPDATE blocks SET manifest = CAST({said} AS BLOB) WHERE branch = 2"


def _in_a_circle() -> str:
    """A branch forks off the one below it, and an older branch off that."""
    said = f"replace(CAST(manifest AS TEXT), 'fork {SNAPSHOTS} 7', 'fork {INMOST} 10')"
    said = f"replace({said}, 'fork {ORIGIN} 0', 'fork {INNER} 9')"
    return f"UPDATE blocks SET manifest = CAST({said} AS BLOB)"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("DELETE FROM blocks WHERE branch = 1 AND height = 0", "blocks 0 to 18 of {0} 1 are missing"),
        ("DELETE FROM blocks WHERE branch = 1 AND height IN (7, 8)", "blocks 0 to 18 of {0} 2 are missing"),
        ("DELETE FROM blocks WHERE branch = 1", "the branch {0} has no block that can be read"),
        ("DELETE FROM blocks WHERE branch = 2 AND height = 6", "{1} does not say what it forks off"),
        ("DELETE FROM blocks WHERE branch = 1 AND height > 11", "off block 12 of {0}, which is not there"),
        ("DELETE FROM branches WHERE id = 2", "there is no branch 2 for 3 blocks in the store"),
        ("DELETE FROM branches WHERE id = 2", "{2} forks off {1}, which is not there"),
        ("INSERT INTO branches VALUES (50, 'x')", "the branch x has no block that can be read"),
        (
            "UPDATE branches SET origin = 'other' WHERE id = 2",
            "block 8 of other says that it is block 8 of {1}",
        ),
        (
            "UPDATE blocks SET manifest = x'' WHERE branch = 1 AND height = 18",
            "block 18 of {0} cannot be read",
        ),
        ("UPDATE blocks SET manifest = x'ff00' WHERE branch = 2", "{1} has no block that can be read"),
        ("UPDATE blocks SET manifest = x'ff00'", "{0} has no block that can be read"),
        (_forked("nowhere"), "{1} forks off nowhere, which is not there"),
        (_forked(INNER), "{1} forks off itself, by way of {2}"),
        (_forked(SNAPSHOTS), "{1} forks off itself, by way of {1}"),
        (_in_a_circle(), "{2} forks off itself, by way of {2}/inmost"),
        (_forked(ORIGIN).replace("6'", "9'"), "{1} has blocks below block 9, which it forks off"),
        (f"UPDATE blocks SET height = {2**63 - 1} WHERE branch = 2 AND height = 8", "are missing"),
        (
            "UPDATE blocks SET height = -3 WHERE branch = 2 AND height = 6",
            "{1} does not say what it forks off",
        ),
    ],
)
def test_damage_is_told_and_the_rest_is_shown(family: Chain, tmp_path: Path, damage: str, said: str) -> None:
    chain = configured(family.copy(tmp_path))
    chain.sql(chain.chain_file, damage)
    tree = tree_of(chain)
    wanted = said.format(ORIGIN, SNAPSHOTS, INNER)
    assert any(wanted in fault for fault in tree.faults), tree.faults
    if not tree.roots:
        assert "holds no chain" in show(chain, code=2).stderr
        return
    result = show(chain, "--all")
    assert "eventchain verify" in result.stderr
    told = json.loads(show(chain, "--json").stdout)
    assert told["faults"] == tree.faults
    for branch in told["branches"]:
        assert branch["origin"].rpartition("/")[2] in result.stdout
    assert_legible(show(chain, "--svg", "-").stdout)


def test_no_edit_of_any_value_breaks_it(family: Chain, tmp_path: Path) -> None:
    """Of each branch its first and its newest block, and its own row; one at a time, and then undone."""
    chain = family.copy(tmp_path)
    tried = 0
    with chain.opened() as (store, _), closing(sqlite3.connect(chain.chain_file)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        before = read_tree(store)
        for column in columns(chain.chain_file):
            if column.table not in ("blocks", "branches"):
                continue
            for key, old in _some_rows(connection, column):
                for edit in edits(column, old):
                    try:
                        _put(connection, column, key, edit.value, edit.sql)
                    except sqlite3.IntegrityError:
                        continue
                    _draw(read_tree(store))
                    key_now = {**key, column.name: edit.value} if column.name in key else key
                    _put(connection, column, key_now, old)
                    tried += 1
        assert [lineage.size for _, lineage in read_tree(store).walk()] == [
            lineage.size for _, lineage in before.walk()
        ]
    assert tried > 500


def _some_rows(connection: sqlite3.Connection, column: Column) -> list[tuple[dict[str, int], Any]]:
    """Keys and the value of the column."""
    keys, where = ["id"], ""
    if column.table == "blocks":
        ends = "SELECT branch, {}(height) FROM blocks GROUP BY branch"
        keys, where = ["branch", "height"], f"WHERE (branch, height) IN ({ends} UNION {ends})"
        where = where.format("min", "max")
    rows = connection.execute(f"SELECT {', '.join(keys)}, {column.name} FROM {column.table} {where}")
    return [(dict(zip(keys, row, strict=False)), row[-1]) for row in rows]


def _put(
    connection: sqlite3.Connection, column: Column, key: dict[str, int], value: Any, sql: str = "?"
) -> None:
    where = " AND ".join(f"{name} = ?" for name in key)
    update = f"UPDATE {column.table} SET {column.name} = {sql} WHERE {where}"
    assert connection.execute(update, [value, *key.values()]).rowcount == 1
    connection.commit()


def _draw(tree: Tree) -> None:
    shown = chosen(tree, None, every=True)
    for root in tree.roots:
        branches = sum(row.shape is Shape.BRANCH for row in rows_of(root, shown))
        assert branches == len(list(root.walk())) - 1
    if tree.roots:
        ElementTree.fromstring(svg_of(tree, shown))


def test_a_store_without_a_chain(tmp_path: Path) -> None:
    chain = configured(Chain(tmp_path, new_chain(tmp_path / "other").clock))
    with chain.opened(create=True):
        pass
    result = show(chain, code=2)
    assert "holds no chain" in result.stderr
    assert "eventchain init" in result.stderr
