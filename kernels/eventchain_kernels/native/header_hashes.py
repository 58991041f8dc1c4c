"""Generates ``hash_headers``: SHA-256 twice of many headers of 80 bytes, several side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir

from eventchain_kernels.native.emit import I64, Code, swap
from eventchain_kernels.native.nonce_search import (
    DIGEST_BITS,
    HEADER_BITS,
    PADDING,
    digest_block,
    second_block,
)
from eventchain_kernels.native.sha256 import INITIAL, QUAD, Lanes, ShaExtensions

ARGUMENTS = ("headers", "first", "stop", "out")
"""headers: address of 80 bytes a header; first, stop: which of them; out: address of 32 bytes a header."""

SIZE = 80


def build(module: ir.Module, lanes: int, sha_extensions: bool) -> None:
    code = Code(module, "hash_headers", ARGUMENTS)
    headers, first, stop, out = code.args()
    b = code.builder
    hashed = _with_extensions if sha_extensions else _with_vectors
    last = b.sub(stop, I64(1))
    with code.count(b.sub(stop, first), lanes) as (index, _):
        # Lanes beyond the end do the last header again.
        rows = [code.minimum(b.add(b.add(first, index), I64(lane)), last) for lane in range(lanes)]
        quads = [
            [
                swap(b, code.load(QUAD, b.add(code.at(headers, row, SIZE), I64(at))))
                for at in range(0, SIZE, 16)
            ]
            for row in rows
        ]
        for row, digest in zip(rows, hashed(code, quads), strict=True):
            for number, quad in enumerate(digest):
                code.store(swap(b, quad), b.add(code.at(out, row, 32), I64(16 * number)))
    b.ret_void()


def _with_extensions(code: Code, messages: list[list[Any]]) -> list[list[Any]]:
    """Two quads of digest for five of each message."""
    sha = ShaExtensions(code.builder)
    initial = (QUAD([INITIAL[i] for i in (5, 4, 1, 0)]), QUAD([INITIAL[i] for i in (7, 6, 3, 2)]))
    padding, nothing = QUAD([PADDING, 0, 0, 0]), QUAD([0] * 4)
    states = sha.compress([initial] * len(messages), [m[:4] for m in messages])
    ends = [[m[4], padding, nothing, QUAD([0, 0, 0, HEADER_BITS])] for m in messages]
    digests = [
        [sha.pick(*state, 3, 2, 7, 6), sha.pick(*state, 1, 0, 5, 4)] for state in sha.compress(states, ends)
    ]
    again = [[*digest, padding, QUAD([0, 0, 0, DIGEST_BITS])] for digest in digests]
    states = sha.compress([initial] * len(messages), again)
    return [[sha.pick(*state, 3, 2, 7, 6), sha.pick(*state, 1, 0, 5, 4)] for state in states]


def _with_vectors(code: Code, messages: list[list[Any]]) -> list[list[Any]]:
    b = code.builder
    sha = Lanes(b, len(messages))
    words = [word for quads in zip(*messages, strict=True) for word in transposed(b, quads)]
    initial = [sha.constant(word) for word in INITIAL]
    state = sha.compress(initial, words[:16])
    digest = sha.compress(state, second_block(words[16:19], words[19], sha.constant))
    digest = sha.compress(initial, digest_block(digest, sha.constant))
    halves = [gathered(b, digest[:4]), gathered(b, digest[4:])]
    return [list(quads) for quads in zip(*halves, strict=True)]


def transposed(builder: ir.IRBuilder, quads: Sequence[Any]) -> list[Any]:
    """From four words of each message to four vectors with a word of all: x86 shuffles within 128 bits, so
    every fourth message goes into one vector first."""
    groups = len(quads) // 4
    rows = [_joined(builder, [quads[4 * group + row] for group in range(groups)]) for row in range(4)]
    return _four_by_four(builder, rows)


def gathered(builder: ir.IRBuilder, words: Sequence[Any]) -> list[Any]:
    """The way back."""
    rows = _four_by_four(builder, words)
    groups = words[0].type.count // 4
    undefined = ir.Constant(words[0].type, ir.Undefined)
    return [
        builder.shuffle_vector(rows[row], undefined, QUAD([4 * group + i for i in range(4)]))
        for group in range(groups)
        for row in range(4)
    ]


def _joined(builder: ir.IRBuilder, parts: Sequence[Any]) -> Any:
    while len(parts) > 1:
        size = 2 * parts[0].type.count
        order = ir.VectorType(ir.IntType(32), size)(list(range(size)))
        parts = [builder.shuffle_vector(*parts[i : i + 2], order) for i in range(0, len(parts), 2)]
    return parts[0]


def _four_by_four(builder: ir.IRBuilder, rows: Sequence[Any]) -> list[Any]:
    """Rows and columns changed, of each four by four words."""
    lanes = rows[0].type.count

    def mixed(x: Any, y: Any, *order: int) -> Any:
        """In each quad these elements of x (0 to 3) and y (4 to 7)."""
        at = [
            quad + element % 4 + (lanes if element >= 4 else 0)
            for quad in range(0, lanes, 4)
            for element in order
        ]
        return builder.shuffle_vector(x, y, ir.VectorType(ir.IntType(32), lanes)(at))

    a, b, c, d = rows
    low, high = (
        (mixed(a, b, 0, 4, 1, 5), mixed(c, d, 0, 4, 1, 5)),
        (mixed(a, b, 2, 6, 3, 7), mixed(c, d, 2, 6, 3, 7)),
    )
    return [mixed(*pair, *order) for pair in (low, high) for order in ((0, 1, 4, 5), (2, 3, 6, 7))]
