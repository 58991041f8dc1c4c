"""``eventchain tree``: the trunk, every branch, and what is sealed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eventchain.cli.branches import named
from eventchain.cli.common import config_option, console, counted, json_option, note, print_json, printable

if TYPE_CHECKING:
    from collections.abc import Collection

    from eventchain.chain.lineage import Lineage, Tree
    from eventchain.cli.tree_rows import Row

MAX_FAULTS = 10
ASCII = str.maketrans("│├└─┊●○…", "|||-:*o.")


@click.command("tree")
@click.argument("branch", required=False, metavar="[BRANCH]")
@config_option
@click.option("--all", "every", is_flag=True, help="Show every branch. Default: of more than 30 a choice.")
@click.option(
    "--depth", type=click.IntRange(min=0), metavar="N", help="Branches of branches down to N; 0: none."
)
@click.option(
    "--svg",
    "picture",
    type=click.Path(dir_okay=False, path_type=Path, allow_dash=True),
    metavar="FILE",
    help="Draw every branch into FILE, - for stdout, and print nothing else.",
)
@json_option
def command(
    branch: str | None,
    config_file: Path,
    every: bool,
    depth: int | None,
    picture: Path | None,
    as_json: bool,
) -> None:
    """Show the chain's branches and what is sealed of each.

    With BRANCH, its name as it is shown or its origin, that one and all below it. Of more than 30 branches
    those are shown that wait to be sealed, those that grew last and the records of erasures; --json and
    --svg always have all. The chain store is read and not checked: `eventchain verify` does that.
    """
    from contextlib import closing

    from eventchain.chain.lineage import read_tree
    from eventchain.chainstores import open_chain_store
    from eventchain.cli.tree_rows import chosen
    from eventchain.config import Config
    from eventchain.errors import StoreError

    if picture is not None and as_json:
        raise click.UsageError("--svg and --json cannot go together")
    with closing(open_chain_store(Config.load(config_file).chain)) as store, store.snapshot():
        url, tree = store.url, read_tree(store)
    _say_faults(tree.faults)
    if not tree.roots:
        raise StoreError("the chain store holds no chain", hint="`eventchain init` begins one")
    if branch is not None:
        tree = _below(tree, branch)
    if as_json:
        print_json(_as_dict(url, tree, depth))
        return
    shown = chosen(tree, depth, every or picture is not None)
    if picture is not None:
        _draw(tree, shown, picture)
        return
    _print(tree, shown)
    left = sum(id(lineage) not in shown for _, lineage in tree.walk())
    if left:
        note(f"{counted(left, 'branch', 'es')} not shown; --all, a larger --depth or BRANCH shows more")


def _say_faults(faults: list[str]) -> None:
    for fault in faults[:MAX_FAULTS]:
        note(f"warning: {printable(fault)}")
    if len(faults) > MAX_FAULTS:
        note(f"warning: and {len(faults) - MAX_FAULTS:,} more like these")
    if faults:
        note(
            "The chain store is damaged or was edited, and what is shown is not all; run `eventchain verify`"
        )


def _below(tree: Tree, wanted: str) -> Tree:
    """The tree of one branch. Raises ConfigError where there is none of that name."""
    from dataclasses import replace

    lineages = [lineage for _, lineage in tree.walk()]
    origin = named([lineage.origin for lineage in lineages], wanted)
    return replace(tree, roots=[lineage for lineage in lineages if lineage.origin == origin][:1])


# -- JSON ---------------------------------------------------------------------------------------------


def _as_dict(url: str, tree: Tree, depth: int | None) -> dict[str, Any]:
    return {
        "chain_store": url,
        "faults": tree.faults,
        "branches": [_branch(lineage, at) for at, lineage in tree.walk() if depth is None or at <= depth],
    }


def _branch(lineage: Lineage, depth: int) -> dict[str, Any]:
    """Every number that is printed, and where each policy was stated."""
    from eventchain.formats.manifest import encode_digest

    pin = lineage.pin
    return {
        "origin": lineage.origin,
        "kind": lineage.kind.value,
        "depth": depth,
        "parent": lineage.forks_off,
        "fork": lineage.fork if lineage.forks_off is not None else None,
        "children": [child.origin for child in lineage.children],
        "height": lineage.height,
        "blocks": lineage.blocks,
        "events": lineage.size,
        "position": lineage.position,
        "built": lineage.built,
        "sealed_height": lineage.sealed_height if lineage.unsealed < lineage.blocks else None,
        "sealed_blocks": lineage.blocks - lineage.unsealed,
        "sealed_events": lineage.sealed_size,
        "unsealed_blocks": lineage.unsealed,
        "unsealed_events": lineage.size - lineage.sealed_size,
        "pin": pin and {"origin": pin.origin, "height": pin.height, "link": encode_digest(pin.link)},
        "landmarks": [
            {
                "height": mark.height,
                "events": mark.size,
                "built": mark.built,
                "policy": str(mark.policy) if mark.policy else None,
            }
            for mark in lineage.landmarks
        ],
    }


# -- the terminal -------------------------------------------------------------------------------------


def _print(tree: Tree, shown: Collection[int]) -> None:
    from rich.text import Text

    from eventchain.cli.tree_rows import Shape, rows_of

    out = console()
    for number, root in enumerate(tree.roots):
        if number:
            out.print()
        rows = rows_of(root, shown)
        labels = [_label(row) for row in rows]
        widths = _widths(rows, labels)
        texts = [_aligned(row, label, widths) for row, label in zip(rows, labels, strict=True)]
        # Columns are kept by all branches or by none.
        columns = [text for row, text in zip(rows, texts, strict=True) if row.shape is Shape.BRANCH]
        narrow = max(map(len, columns), default=0) > out.width
        for row, label, text in zip(rows, labels, texts, strict=True):
            if len(text) > out.width or (narrow and row.shape is Shape.BRANCH):
                text = _folded(row, label, out.width)
            if out.options.ascii_only:
                text, label = text.translate(ASCII), label.translate(ASCII)
            drawn = Text(text)
            drawn.stylize(_style(row), 0, len(label))
            if not row.sealed:
                drawn.stylize("yellow", len(label))
            elif row.shape in (Shape.GAP, Shape.FOLD):
                drawn.stylize("dim")
            out.print(drawn, soft_wrap=True)


def _label(row: Row) -> str:
    from eventchain.cli.tree_rows import Shape

    if row.shape is Shape.TITLE:
        return row.name
    if row.shape in (Shape.BLOCK, Shape.FORK):
        return f"{'●' if row.sealed else '○'}  {row.name}"
    if row.shape is Shape.GAP:
        return f"┊  {row.name}"
    *rails, more = row.rails
    return "".join("│   " if rail else "    " for rail in rails) + ("├── " if more else "└── ") + row.name


def _folded(row: Row, label: str, width: int) -> str:
    """A row that is too wide for the terminal: its facts on lines of their own."""
    from textwrap import wrap

    from eventchain.cli.tree_rows import Shape

    rails = () if row.shape is Shape.TITLE else row.rails
    below = "".join("│   " if rail else "    " for rail in rails) + "  "
    facts = wrap(", ".join(row.facts), max(width - len(below), 20), break_long_words=False)
    return "\n".join([label, *(below + line for line in facts)])


def _widths(rows: list[Row], labels: list[str]) -> dict[Any, list[int]]:
    """For each shape the width of each column, the label's first; the last may be of any width."""
    columns: dict[Any, list[int]] = {}
    for row, label in zip(rows, labels, strict=True):
        widths = columns.setdefault(row.shape, [])
        for number, text in enumerate([label, *row.facts]):
            widths += [0] * (number + 1 - len(widths))
            widths[number] = max(widths[number], len(text))
    return columns


def _aligned(row: Row, label: str, widths: dict[Any, list[int]]) -> str:
    from eventchain.cli.tree_rows import Shape

    texts = [label, *row.facts]
    if row.shape is Shape.BRANCH:
        texts = [text.ljust(width) for text, width in zip(texts, widths[row.shape], strict=False)]
        return "  ".join(texts).rstrip()
    return f"{label.ljust(widths[row.shape][0])}  {', '.join(row.facts)}".rstrip()


def _style(row: Row) -> str:
    from eventchain.chain.lineage import Kind
    from eventchain.cli.tree_rows import Shape

    if row.shape is Shape.TITLE:
        return "bold"
    if row.shape is Shape.BRANCH:
        return {Kind.SNAPSHOTS: "cyan", Kind.ERASURES: "magenta"}.get(row.kind, "green")
    return "dim" if row.shape in (Shape.GAP, Shape.FOLD) else "bold"


# -- the picture --------------------------------------------------------------------------------------


def _draw(tree: Tree, shown: Collection[int], file: Path) -> None:
    from eventchain.cli.tree_svg import svg_of
    from eventchain.interchange.files import STANDARD, replaced

    with replaced(file) as opened:
        opened.write(svg_of(tree, shown).encode("utf-8"))
    if str(file) != STANDARD:
        note(f"drew {counted(len(shown) - len(tree.roots), 'branch', 'es')} into {file}")
