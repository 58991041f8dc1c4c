"""SHA-256's compression of several messages side by side ("multi-buffer"): one word of all messages in a
vector, or x86's SHA instructions on a few messages in turn, since their latency is long."""

from __future__ import annotations

from typing import Any, Protocol

from llvmlite import ir

from eventchain_kernels.native.emit import I32, I64, Code, swap
from eventchain_kernels.native.sha256 import INITIAL, QUAD, K, Lanes, ShaExtensions


class MultiBuffer(Protocol):
    """The state of some lanes, each with a message of its own. What is emitted works on memory."""

    def settle(self, finished: Any) -> None:
        """Keep all lanes' digests; those ``finished``, a vector of bits, go back to the initial state."""

    def digest(self, lane: Any) -> list[Any]:
        """A lane's digest when last settled: its two halves."""

    def compress(self, blocks: Any) -> None:
        """Take in a block of 64 bytes for each lane. blocks: address of their addresses."""


def multi_buffer(code: Code, lanes: int, sha_extensions: bool) -> MultiBuffer:
    return _Extensions(code, lanes) if sha_extensions else _Vectors(code, lanes)


class _Vectors:
    """One word of every lane in a vector."""

    def __init__(self, code: Code, lanes: int) -> None:
        self._code = code
        self._sha = Lanes(code.builder, lanes)
        self._align = min(4 * lanes, 64)
        self._digests = code.array(I32, 8 * lanes)
        self._words = code.array(I32, 16 * lanes)
        state = code.array(I32, 8 * lanes)
        self._rows = [code.builder.add(state, I64(4 * lanes * word)) for word in range(8)]

    def _state(self) -> list[Any]:
        return [self._code.load(self._sha.type, row, self._align) for row in self._rows]

    def _keep(self, state: list[Any]) -> None:
        for row, value in zip(self._rows, state, strict=True):
            self._code.store(value, row, self._align)

    def compress(self, blocks: Any) -> None:
        code, b, lanes = self._code, self._code.builder, self._sha.lanes
        block = ir.VectorType(I32, 16)
        together = min(lanes, 16)  # as many as stay in registers
        with code.count(I64(lanes), together) as (first, _):
            addresses = [code.load(I64, code.at(blocks, b.add(first, I64(i))), 8) for i in range(together)]
            rows = [code.load(block, address) for address in addresses]
            for t, word in enumerate(transposed(b, rows)):
                code.store(swap(b, word), code.at(self._words, first, 4, 4 * lanes * t), self._align)
        self._keep(compressed(code, self._sha, self._state(), self._words))

    def settle(self, finished: Any) -> None:
        code, b = self._code, self._code.builder
        state = self._state()
        for half in (0, 1):
            quads = zipped(b, [swap(b, word) for word in state[4 * half : 4 * half + 4]])
            for i, quad in enumerate(quads):
                at = I64(4 * self._sha.lanes * (4 * half + i))
                code.store(quad, b.add(self._digests, at), align=16)
        initial = [self._sha.constant(word) for word in INITIAL]
        self._keep([b.select(finished, i, s) for i, s in zip(initial, state, strict=True)])

    def digest(self, lane: Any) -> list[Any]:
        code, b, lanes = self._code, self._code.builder, self._sha.lanes
        row = b.mul(b.and_(lane, I64(3)), I64(4 * lanes))
        at = b.add(self._digests, b.add(row, b.shl(b.lshr(lane, I64(2)), I64(4))))
        return [code.load(QUAD, b.add(at, I64(16 * lanes * half)), 16) for half in (0, 1)]


class _Extensions:
    """The state of each lane as x86's SHA instructions want it."""

    def __init__(self, code: Code, lanes: int) -> None:
        self._code = code
        self._lanes = lanes
        self._sha = ShaExtensions(code.builder)
        states, self._digests = code.array(I32, 8 * lanes), code.array(I32, 8 * lanes)
        self._states = [code.at(states, lane, 32) for lane in range(lanes)]

    def _pair(self, at: Any) -> tuple[Any, Any]:
        return self._code.load(QUAD, at, 16), self._code.load(QUAD, self._code.builder.add(at, I64(16)), 16)

    def _keep(self, at: Any, pair: tuple[Any, Any]) -> None:
        for half, quad in enumerate(pair):
            self._code.store(quad, self._code.builder.add(at, I64(16 * half)), 16)

    def compress(self, blocks: Any) -> None:
        code, b = self._code, self._code.builder
        addresses = [code.load(I64, code.at(blocks, lane), 8) for lane in range(self._lanes)]
        words = [[swap(b, code.load(QUAD, b.add(a, I64(16 * q)))) for q in range(4)] for a in addresses]
        states = [self._pair(at) for at in self._states]
        for at, state in zip(self._states, self._sha.compress(states, words), strict=True):
            self._keep(at, state)

    def settle(self, finished: Any) -> None:
        b = self._code.builder
        initial = [QUAD([INITIAL["ABCDEFGH".index(word)] for word in half]) for half in ("FEBA", "HGDC")]
        for lane, at in enumerate(self._states):
            abef, cdgh = self._pair(at)
            abcd, efgh = self._sha.pick(abef, cdgh, 3, 2, 7, 6), self._sha.pick(abef, cdgh, 1, 0, 5, 4)
            self._keep(self._code.at(self._digests, lane, 32), (swap(b, abcd), swap(b, efgh)))
            done = b.extract_element(finished, I32(lane))
            self._keep(at, (b.select(done, initial[0], abef), b.select(done, initial[1], cdgh)))

    def digest(self, lane: Any) -> list[Any]:
        return list(self._pair(self._code.at(self._digests, lane, 32)))


def compressed(code: Code, sha: Lanes, state: list[Any], block: Any) -> list[Any]:
    """The compression function on vectors, sixteen rounds a turn of a loop: unrolled, it would not stay in
    the cache of decoded instructions. block: address of 16 vectors, overwritten."""
    b = code.builder
    size, align = 4 * sha.lanes, min(4 * sha.lanes, 64)
    table = ir.GlobalVariable(code.module, ir.ArrayType(I32, 64), "K")
    table.global_constant, table.linkage = True, "internal"
    table.initializer = ir.Constant(table.value_type, K)
    places = [b.add(block, I64(size * t)) for t in range(16)]

    def word(t: int) -> Any:
        return code.load(sha.type, places[t % 16], align)

    now = state
    for t in range(16):
        now = sha.round(now, sha.constant(K[t]), word(t))
    turning = [code.variable(value) for value in now]
    with code.count(I64(48), 16) as (done, _):
        constants = code.at(b.ptrtoint(table, I64), done, 4, 64)
        now = [variable.get() for variable in turning]
        for t in range(16):
            new = sha.schedule(word(t), word(t + 1), word(t + 9), word(t + 14))
            code.store(new, places[t], align)
            now = sha.round(now, sha.splat(code.load(I32, b.add(constants, I64(4 * t)), 4)), new)
        for variable, value in zip(turning, now, strict=True):
            variable.set(value)
    return [sha.add(old, variable.get()) for old, variable in zip(state, turning, strict=True)]


def zipped(b: ir.IRBuilder, rows: list[Any]) -> list[Any]:
    """Four vectors of words, transposed in each 128 bits: quad i of result j is word 4·i + j of each."""
    n = rows[0].type.count

    def mixed(x: Any, y: Any, order: str) -> Any:
        """In every quad these of x's words (0 to 3) and y's (4 to 7)."""
        places = [quad + int(w) % 4 + int(w) // 4 * n for quad in range(0, n, 4) for w in order]
        return b.shuffle_vector(x, y, ir.VectorType(I32, n)(places))

    w, x, y, z = rows
    pairs = [(mixed(w, x, order), mixed(y, z, order)) for order in ("0415", "2637")]
    return [mixed(front, back, order) for front, back in pairs for order in ("0145", "2367")]


def transposed(b: ir.IRBuilder, rows: list[Any]) -> list[Any]:
    """From a vector of 16 words for each lane to a vector of all lanes for each of 16 words."""
    quads = [zipped(b, rows[i : i + 4]) for i in range(0, len(rows), 4)]
    return [joined(b, [quad[t % 4] for quad in quads], t // 4 * 4) for t in range(16)]


def joined(b: ir.IRBuilder, vectors: list[Any], first: int) -> Any:
    """Four words of each vector of 16, from ``first``, end to end."""
    n = 4 * len(vectors)
    if len(vectors) <= 2:
        places = [16 * i + first + word for i in range(len(vectors)) for word in range(4)]
        return b.shuffle_vector(vectors[0], vectors[-1], ir.VectorType(I32, n)(places))
    half = len(vectors) // 2
    front, back = (joined(b, part, first) for part in (vectors[:half], vectors[half:]))
    return b.shuffle_vector(front, back, ir.VectorType(I32, n)(list(range(n))))
