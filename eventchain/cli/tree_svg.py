"""The chain tree as one self-contained SVG: rows as in the terminal, the lines between them drawn.

The trunk runs down on the left, the heights that branches fork off beside it; every branch has a row of its
own, its dot in the lane of its depth, and its facts in columns. So no line crosses another and no text can
meet another, with any number of branches. Straight runs of blocks are one dashed row, however long they are.
All text is of a fixed-width font, since only its width can be known without measuring.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import pairwise
from xml.sax.saxutils import escape, quoteattr

from eventchain.chain.lineage import Kind, Tree
from eventchain.cli.common import counted, printable
from eventchain.cli.tree_rows import Row, Shape, rows_of

SIZE = 13  # of the text, in px
ADVANCE = 0.62 * SIZE  # of a character; the widest of the fonts named below has 0.602 em
ROW, GAP_ROW, TITLE_ROW = 24, 20, 52
LANE = 22  # between the lanes of two depths
MARGIN = 24
RADIUS = 5
LONGEST = 60
"""Characters of a name or fact; the tooltip has all of them."""

STYLE = """
text { font: 13px ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace; fill: #1f2328 }
.page { fill: #ffffff }
.title { font-weight: bold; font-size: 16px }
.name, .height { font-weight: bold }
.quiet { fill: #59636e }
.waits { fill: #8a4600 }
.line { fill: none; stroke: #8c959f; stroke-width: 2 }
.run { stroke-dasharray: 2 4 }
.trunk { fill: #1f2328; stroke: #1f2328 }
.snapshots { fill: #0969da; stroke: #0969da }
.erasures { fill: #cf222e; stroke: #cf222e }
.events { fill: #1a7f37; stroke: #1a7f37 }
.dot { stroke-width: 2 }
.dot.unsealed { fill: #ffffff }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 }
.page, .dot.unsealed { fill: #0d1117 }
.quiet { fill: #9198a1 }
.waits { fill: #f0b060 }
.line { stroke: #6e7681 }
.trunk { fill: #e6edf3; stroke: #e6edf3 }
.snapshots { fill: #58a6ff; stroke: #58a6ff }
.erasures { fill: #ff7b72; stroke: #ff7b72 }
.events { fill: #56d364; stroke: #56d364 }
.dot.unsealed { fill: #0d1117 }
}
"""


def svg_of(tree: Tree, shown: Collection[int]) -> str:
    """The text of an SVG document of the branches whose ids are ``shown``."""
    parts = [_Root(rows_of(root, shown)) for root in tree.roots]
    widest = max(part.width for part in parts)
    body: list[str] = []
    y = float(MARGIN)
    for part in parts:
        body += part.draw(y)
        y += part.height
    kinds = dict.fromkeys(row.kind for part in parts for row in part.rows if row.shape is Shape.BRANCH)
    waits = any(not row.sealed for part in parts for row in part.rows)
    legend = list(_legend(list(kinds), waits, y + ROW))
    width = max(widest, _LEGEND * (len(kinds) + waits)) + 2 * MARGIN
    height = y + (2 * ROW if legend else 0) + MARGIN / 2
    name = tree.roots[0].origin
    below = sum(row.shape is Shape.BRANCH for part in parts for row in part.rows)
    first = parts[0].rows[0]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
            f'viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-labelledby="title desc">',
            f'<title id="title">{escape(printable(name))} and its branches</title>',
            f'<desc id="desc">{escape(_said(first))}; {counted(below, "branch", "es")}.</desc>',
            f"<style>{STYLE}</style>",
            '<rect class="page" width="100%" height="100%"/>',
            *body,
            *legend,
            "</svg>\n",
        ]
    )


class _Root:
    """The drawing of one root. x of lane 0 leaves room for the heights on its left."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows
        heights = [len(row.name) for row in rows if row.shape in (Shape.BLOCK, Shape.FORK)]
        self._x0 = MARGIN + max(heights, default=1) * ADVANCE + 14
        self._columns = self._starts()
        ends = [self._end(row) for row in rows]
        self.width = max(ends) - MARGIN
        self._tops = self._layout()
        self.height = self._tops[-1]

    def draw(self, top: float) -> Iterator[str]:
        """From top on, lines first, so that dots lie on them."""
        ys = [top + y for y in self._tops]
        yield from self._lines(ys)
        for row, y in zip(self.rows, ys, strict=False):
            yield from self._row(row, y)

    # -- where things are

    def _layout(self) -> list[float]:
        """The y of each row's middle, and the height of all. A block that is named for its branches only is
        drawn in the row of the first of them, which is the next."""
        tops, y = [], 0.0
        for row in self.rows:
            step = {Shape.TITLE: TITLE_ROW, Shape.GAP: GAP_ROW, Shape.FORK: 0}.get(row.shape, ROW)
            tops.append(y + (step or ROW) / 2)
            y += step
        return [*tops, y]

    def _lane(self, row: Row) -> float:
        return self._x0 + LANE * (len(row.rails) if row.shape is Shape.BRANCH else 1)

    def _starts(self) -> list[float]:
        """The x of each column of the branches, the name's end first."""
        branches = [row for row in self.rows if row.shape is Shape.BRANCH]
        x = max((self._lane(row) + 14 + len(_short(row.name)) * ADVANCE for row in branches), default=0.0)
        starts = []
        for column in range(max((len(row.facts) for row in branches), default=0)):
            starts.append(x + 24)
            texts = [row.facts[column] for row in branches if column < len(row.facts)]
            x += 24 + max(len(_short(text)) for text in texts) * ADVANCE
        return starts

    def _end(self, row: Row) -> float:
        if row.shape is Shape.BRANCH:
            return self._columns[len(row.facts) - 1] + len(_short(row.facts[-1])) * ADVANCE
        if row.shape is Shape.TITLE:
            return MARGIN + max(len(_short(row.name)) * ADVANCE * 16 / SIZE, len(_said(row)) * ADVANCE)
        return self._x0 + 14 + (len(row.name) + 2 + len(_said(row))) * ADVANCE

    # -- lines

    def _lines(self, ys: list[float]) -> Iterator[str]:
        root = [i for i, row in enumerate(self.rows) if len(row.rails) <= 1 and row.shape is not Shape.TITLE]
        for above, below in pairwise(root):
            if ys[above] != ys[below]:
                run = Shape.GAP in (self.rows[above].shape, self.rows[below].shape)
                yield _line(f"M{self._x0:.1f} {ys[above]:.1f}V{ys[below]:.1f}", run)
        begun: list[float] = []  # for each depth from where on the line to the next branch is drawn
        for row, y in zip(self.rows, ys, strict=False):
            if row.shape is not Shape.BRANCH:
                continue
            depth, x = len(row.rails), self._lane(row)
            begun[depth - 1 :] = [y]
            if depth == 1:
                yield _line(f"M{self._x0:.1f} {y:.1f}H{x:.1f}")
            else:
                yield _line(f"M{x - LANE:.1f} {begun[depth - 2]:.1f}V{y - 8:.1f}q0 8 8 8H{x:.1f}")
                begun[depth - 2] = y - 8

    # -- rows

    def _row(self, row: Row, y: float) -> Iterator[str]:
        base = y + SIZE * 0.35
        if row.shape is Shape.TITLE:
            yield _label(MARGIN, base - 16, _short(row.name), "title")
            yield _label(MARGIN, base + 6, _said(row), "quiet" if row.sealed else "waits")
            return
        if row.shape in (Shape.BLOCK, Shape.FORK):
            yield _dot(Kind.TRUNK, row.sealed, self._x0, y)
            yield _label(self._x0 - 14, base, row.name, "height", end=True)
            if row.shape is Shape.BLOCK:
                yield _label(self._x0 + 14, base, _said(row), "" if row.sealed else "waits")
            return
        if row.shape is not Shape.BRANCH:
            text = ", ".join((row.name, *row.facts))
            yield _label(self._x0 + 14, base, text, "quiet" if row.sealed else "waits")
            return
        x = self._lane(row)
        origin = printable(row.lineage.origin) if row.lineage else row.name
        yield f"<g><title>{escape(origin)}: {escape(_said(row))}</title>"
        yield _dot(row.kind, row.sealed, x, y)
        yield _label(x + 14, base, _short(row.name), "name")
        for column, (start, fact) in enumerate(zip(self._columns, row.facts, strict=False)):
            yield _label(start, base, _short(fact), "waits" if column == 3 and not row.sealed else "quiet")
        yield "</g>"


_LEGEND = 130
_WORDS = {Kind.SNAPSHOTS: "snapshots", Kind.ERASURES: "erasures", Kind.EVENTS: "events"}


def _legend(kinds: list[Kind], waits: bool, y: float) -> Iterator[str]:
    x = float(MARGIN + RADIUS)
    for kind in kinds:
        yield _dot(kind, True, x, y)
        yield _label(x + 14, y + SIZE * 0.35, _WORDS.get(kind, "events"), "quiet")
        x += _LEGEND
    if waits:
        yield _dot(Kind.TRUNK, False, x, y)
        yield _label(x + 14, y + SIZE * 0.35, "not sealed to its end", "quiet")


# -- elements


def _dot(kind: Kind, sealed: bool, x: float, y: float) -> str:
    """A circle for blocks and snapshots, a square for erasures, a diamond for events: not by colour alone."""
    kept = f'class="dot {kind.value}{"" if sealed else " unsealed"}"'
    if kind is Kind.ERASURES:
        side = 2 * RADIUS - 1
        return f'<rect {kept} x="{x - side / 2:.1f}" y="{y - side / 2:.1f}" width="{side}" height="{side}"/>'
    if kind is Kind.EVENTS:
        reach = RADIUS + 1
        return (
            f'<path {kept} d="M{x - reach:.1f} {y:.1f}l{reach} {-reach} {reach} {reach} {-reach} {reach}z"/>'
        )
    return f'<circle {kept} cx="{x:.1f}" cy="{y:.1f}" r="{RADIUS}"/>'


def _line(path: str, run: bool = False) -> str:
    return f'<path class="line{" run" if run else ""}" d="{path}"/>'


def _label(x: float, y: float, text: str, style: str, end: bool = False) -> str:
    anchor = ' text-anchor="end"' if end else ""
    kept = f" class={quoteattr(style)}" if style else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{kept}{anchor}>{escape(text)}</text>'


def _said(row: Row) -> str:
    return ", ".join(row.facts)


def _short(text: str) -> str:
    """Its middle left out where it is too long: the ends tell branches apart."""
    half = (LONGEST - 1) // 2
    return text if len(text) <= LONGEST else f"{text[:half]}…{text[-half:]}"
