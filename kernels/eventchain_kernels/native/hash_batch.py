"""Generates ``hash_joined``: SHA-256 of many messages, several at a time, each joined from parts.

Each lane works on one message and takes the next one when it has finished, so that lanes stay busy
whatever the lengths are. A message never lies anywhere as a whole: its parts are copied into the lane's own
window, a kilobyte at a time, and hashed from there while they are in the nearest cache.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from eventchain_kernels.native.emit import I8, I32, I64, Code, Variable, swap
from eventchain_kernels.native.sha256 import INITIAL, QUAD, K, Lanes, ShaExtensions

ARGUMENTS = ("parts", "part_count", "first", "stop", "padded", "out", "lengths")
"""parts: address of part_count descriptions (below); first, stop: messages; padded: 1, or 0 to leave padding
out (messages are whole blocks, one at least); out: address of 32 bytes a message; lengths: of an i64 a
message, set to its length in bytes, or 0."""

KIND, DATA, STRIDE, SIZE, OFFSETS, VALID, FIRST, FIELD, PART_SIZE = range(0, 72, 8)
ROW, INTEGER, VALUE_32, VALUE_64 = range(4)
"""A part of every message, in i64, and its kinds. Row: message i has ``size`` bytes at ``data + i·stride``.
Integer: the i64 at ``data + 8·i``, big-endian. Value: what an Arrow array has between its 32 or 64-bit
``offsets`` i and i + 1 (an address) of ``data``, after its length, big-endian in ``field`` bytes (0, 4 or 8);
where bit ``first + i`` of the bitmap ``valid`` (an address, or 0) says null, the length is all ones and
nothing follows."""

ITEM, PART, TAKEN, TOTAL, LANE_SIZE = range(0, 40, 8)
"""What is known of a lane, in i64. item: its message, or −1; part, taken: part to be copied next, and how
much of it has been; total: bytes of the message in the windows so far."""

WINDOW = 1024
SPARE = 192
"""Bytes beyond a window for what begins in it: 64 of data, then a block and a half of padding."""


def build(module: ir.Module, lanes: int, sha_extensions: bool) -> None:
    code = Code(module, "hash_joined", ARGUMENTS)
    parts, part_count, first, stop, padded, out, lengths = code.args()
    b = code.builder
    known, windows = code.array(I8, LANE_SIZE * lanes), code.array(I8, (WINDOW + SPARE) * lanes)
    # Of each lane: where its next block lies, how many there are in its window, and whether they end it.
    blocks, left, last = code.array(I64, lanes), code.array(I32, lanes), code.array(I32, lanes)
    pointers, counts = ir.VectorType(I64, lanes), ir.VectorType(I32, lanes)
    engine = (_Extensions if sha_extensions else _Vectors)(code, lanes)
    following, live = code.variable(first), code.variable(I64(0))

    def begin(lane: Any, me: Any) -> None:
        """The lane hands out its digest and takes the next message, if there is one."""
        done = code.load(I64, b.add(me, I64(ITEM)), 8)
        with b.if_then(b.icmp_signed(">=", done, I64(0))):
            live.set(b.sub(live.get(), I64(1)))
            for half, quad in enumerate(engine.digest(lane)):
                code.store(quad, b.add(code.at(out, done, 32), I64(16 * half)))
            with b.if_then(b.icmp_unsigned("!=", lengths, I64(0))):
                code.store(code.load(I64, b.add(me, I64(TOTAL)), 8), code.at(lengths, done), 8)
        mine = following.get()
        some = code.less(mine, stop)
        following.set(b.add(mine, b.zext(some, I64)))
        live.set(b.add(live.get(), b.zext(some, I64)))
        code.store(b.select(some, mine, I64(-1)), b.add(me, I64(ITEM)), 8)
        for word in (PART, TAKEN, TOTAL):
            code.store(I64(0), b.add(me, I64(word)), 8)

    def serve(lane: Any) -> None:
        """The lane has hashed its window."""
        me, window = code.at(known, lane, LANE_SIZE), code.at(windows, lane, WINDOW + SPARE)
        with b.if_then(b.icmp_unsigned("!=", code.load(I32, code.at(last, lane, 4), 4), I32(0))):
            begin(lane, me)
        count, ends = code.variable(I64(WINDOW // 64)), code.variable(I32(1))
        # A lane with nothing more to do works on its window, unheeded.
        with b.if_then(b.icmp_signed(">=", code.load(I64, b.add(me, I64(ITEM)), 8), I64(0))):
            rest = code.load(I64, code.at(blocks, lane), 8)
            used, done = _fill(code, me, window, rest, parts, part_count, padded)
            count.set(b.lshr(used, I64(6)))
            ends.set(b.zext(done, I32))
        code.store(window, code.at(blocks, lane), 8)
        code.store(b.trunc(count.get(), I32), code.at(left, lane, 4), 4)
        code.store(ends.get(), code.at(last, lane, 4), 4)

    ones, nothing = ir.Constant(counts, [1] * lanes), ir.Constant(counts, [0] * lanes)
    with code.count(I64(lanes)) as (lane, _):
        code.store(I64(-1), code.at(known, lane, LANE_SIZE), 8)
        code.store(code.at(windows, lane, WINDOW + SPARE), code.at(blocks, lane), 8)
    code.store(nothing, left, 64)
    code.store(ones, last, 64)
    with code.forever() as work:
        empty = b.icmp_unsigned("==", code.load(counts, left, 64), nothing)
        ready = code.variable(b.zext(b.bitcast(empty, ir.IntType(lanes)), I64))
        with b.if_then(b.icmp_unsigned("!=", ready.get(), I64(0))):
            engine.settle(b.and_(empty, b.icmp_unsigned("!=", code.load(counts, last, 64), nothing)))
            with code.forever() as each:
                some = ready.get()
                each.leave_unless(b.icmp_unsigned("!=", some, I64(0)))
                ready.set(b.and_(some, b.sub(some, I64(1))))
                serve(b.cttz(some, ir.IntType(1)(1)))
        work.leave_unless(b.icmp_unsigned("!=", live.get(), I64(0)))
        engine.compress(blocks)
        code.store(b.sub(code.load(counts, left, 64), ones), left, 64)
        step = ir.Constant(pointers, [64] * lanes)
        code.store(b.add(code.load(pointers, blocks, 64), step), blocks, 64)
    b.ret_void()


def _fill(
    code: Code, me: Any, window: Any, rest: Any, parts: Any, part_count: Any, padded: Any
) -> tuple[Any, Any]:
    """Copies what comes next of a lane's message into its window, with the padding after the last part, and
    gives how much is there and whether that is all. ``rest``: where the last whole block ended."""
    b = code.builder

    def get(word: int) -> Any:
        return code.load(I64, b.add(me, I64(word)), 8)

    before, item = get(TOTAL), get(ITEM)
    wide = ir.VectorType(I8, 64)
    code.store(code.load(wide, rest), window)  # what was no whole block any more
    kept = b.and_(before, I64(63))
    used, part, taken = code.variable(kept), code.variable(get(PART)), code.variable(get(TAKEN))

    def put(value: Any, size: Any) -> None:
        code.store(value, b.add(window, used.get()))
        used.set(b.add(used.get(), size))

    with code.forever() as loop:
        loop.leave_unless(code.less(part.get(), part_count))
        loop.leave_unless(code.less(used.get(), I64(WINDOW)))
        it = code.at(parts, part.get(), PART_SIZE)
        kind = code.load(I64, it, 8)
        source, size = code.variable(I64(0)), code.variable(I64(0))
        with b.if_else(b.icmp_unsigned("==", kind, I64(ROW))) as (row, other):
            with row:
                source.set(b.add(_of(code, it, DATA), b.mul(item, _of(code, it, STRIDE))))
                size.set(_of(code, it, SIZE))
            with other, b.if_else(b.icmp_unsigned("==", kind, I64(INTEGER))) as (integer, value):
                with integer:
                    put(swap(b, code.load(I64, code.at(_of(code, it, DATA), item))), I64(8))
                with value:
                    said = _value(code, it, kind, item, source, size)
                    with b.if_then(b.icmp_unsigned("==", taken.get(), I64(0))):
                        field = _of(code, it, FIELD)
                        shift = b.and_(b.sub(I64(64), b.shl(field, I64(3))), I64(63))
                        put(swap(b, b.shl(said, shift)), field)
        # Branches, not selections: what follows of a message should not wait for the sizes before it.
        ahead, room = b.sub(size.get(), taken.get()), b.sub(I64(WINDOW + 64), used.get())
        target, begin = b.add(window, used.get()), b.add(source.get(), taken.get())
        with b.if_then(code.less(room, ahead)):
            _copy(code, target, begin, room)
            used.set(I64(WINDOW + 64))
            taken.set(b.add(taken.get(), room))
            loop.leave()
        _copy(code, target, begin, ahead)
        used.set(b.add(used.get(), ahead))
        taken.set(I64(0))
        part.set(b.add(part.get(), I64(1)))

    total = b.add(before, b.sub(used.get(), kept))
    done = b.icmp_unsigned("==", part.get(), part_count)
    with b.if_then(b.and_(done, b.icmp_unsigned("!=", padded, I64(0)))):
        end = b.add(window, used.get())
        for at in (0, 64):
            code.store(ir.Constant(wide, [0] * 64), b.add(end, I64(at)))
        code.store(I8(0x80), end)
        used.set(b.and_(b.add(used.get(), I64(9 + 63)), I64(-64)))
        code.store(swap(b, b.shl(total, I64(3))), b.sub(b.add(window, used.get()), I64(8)))
    for word, value in ((PART, part.get()), (TAKEN, taken.get()), (TOTAL, total)):
        code.store(value, b.add(me, I64(word)), 8)
    return used.get(), done


def _of(code: Code, part: Any, word: int) -> Any:
    return code.load(I64, code.builder.add(part, I64(word)), 8)


def _value(code: Code, part: Any, kind: Any, item: Any, source: Variable, size: Variable) -> Any:
    """Where an Arrow array's value lies, its size, and what its field says."""
    b = code.builder
    offsets, valid = _of(code, part, OFFSETS), _of(code, part, VALID)
    with b.if_else(b.icmp_unsigned("==", kind, I64(VALUE_32))) as branches:
        for integer, branch in zip((I32, I64), branches, strict=True):
            with branch:
                width = integer.width // 8
                here = code.at(offsets, item, width)
                begin, end = code.load(integer, here), code.load(integer, b.add(here, I64(width)))
                source.set(b.add(_of(code, part, DATA), b.zext(begin, I64) if width == 4 else begin))
                size.set(b.zext(b.sub(end, begin), I64) if width == 4 else b.sub(end, begin))
    said = code.variable(size.get())
    with b.if_then(b.icmp_unsigned("!=", valid, I64(0))):
        index = b.add(item, _of(code, part, FIRST))
        byte = code.load(I8, b.add(valid, b.lshr(index, I64(3))))
        bit = b.and_(b.lshr(byte, b.trunc(b.and_(index, I64(7)), I8)), I8(1))
        with b.if_then(b.icmp_unsigned("==", bit, I8(0))):
            size.set(I64(0))
            said.set(I64(-1))
    return said.get()


def _copy(code: Code, target: Any, source: Any, size: Any, width: int = 32) -> None:
    """The widest pieces that fit, the last one overlapping: parts are short, a call of memcpy is long."""
    b = code.builder
    kind = ir.IntType(8 * width) if width <= 8 else ir.VectorType(I8, width)

    def move(at: Any) -> None:
        code.store(code.load(kind, b.add(source, at)), b.add(target, at))

    with b.if_else(code.less(size, I64(width))) as (short, long):
        with long:
            end = b.sub(size, I64(width))
            if width == 32:
                with code.count(end, width) as (i, _):
                    move(i)
            else:
                move(I64(0))
            move(end)
        with short:
            if width > 4:
                _copy(code, target, source, size, width // 2)
            else:
                with b.if_then(b.icmp_unsigned("!=", size, I64(0))):
                    kind = I8
                    for at in (I64(0), b.lshr(size, I64(1)), b.sub(size, I64(1))):
                        move(at)


class _Vectors:
    """The state of all lanes, one word of each in a vector, and the digests of those that have finished."""

    def __init__(self, code: Code, lanes: int) -> None:
        self._code = code
        self._sha = Lanes(code.builder, lanes)
        self._digests = code.array(I32, 8 * lanes)
        self._words = code.array(I32, 16 * lanes)
        state = code.array(I32, 8 * lanes)
        self._rows = [code.builder.add(state, I64(4 * lanes * word)) for word in range(8)]

    def _state(self) -> list[Any]:
        return [self._code.load(self._sha.type, row, align=64) for row in self._rows]

    def _keep(self, state: list[Any]) -> None:
        for row, value in zip(self._rows, state, strict=True):
            self._code.store(value, row, align=64)

    def compress(self, blocks: Any) -> None:
        code, b, lanes = self._code, self._code.builder, self._sha.lanes
        block = ir.VectorType(I32, 16)
        together = min(lanes, 16)  # as many as stay in registers
        with code.count(I64(lanes), together) as (first, _):
            rows = [code.load(block, code.load(I64, code.at(blocks, b.add(first, I64(i))), 8)) for i in range(together)]
            for t, word in enumerate(transposed(b, rows)):
                code.store(swap(b, word), code.at(self._words, first, 4, 4 * lanes * t), 4 * together)
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
    """The state of each lane as x86's SHA instructions want it, and the digests of those that have finished."""

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


def zipped(b: ir.IRBuilder, rows: list[Any]) -> list[Any]:
    """Four vectors of n words transposed in each quarter of 128 bits: quad i of result j holds word 4·i + j
    of each of them."""
    n = rows[0].type.count
    kind = ir.VectorType(I32, n)

    def mixed(x: Any, y: Any, order: tuple[int, int, int, int]) -> Any:
        """In every quad these of x's words (0 to 3) and y's (4 to 7)."""
        return b.shuffle_vector(x, y, kind([q + w % 4 + w // 4 * n for q in range(0, n, 4) for w in order]))

    low, high = (0, 4, 1, 5), (2, 6, 3, 7)
    pairs = [(mixed(*rows[:2], order), mixed(*rows[2:], order)) for order in (low, high)]
    return [mixed(*pair, order) for pair in pairs for order in ((0, 1, 4, 5), (2, 3, 6, 7))]


def transposed(b: ir.IRBuilder, rows: list[Any]) -> list[Any]:
    """From a vector of 16 words for each lane to a vector of all lanes for each of 16 words."""
    quads = [zipped(b, rows[i : i + 4]) for i in range(0, len(rows), 4)]

    def word(t: int) -> Any:
        column = [quad[t % 4] for quad in quads]
        places = range(t // 4 * 4, t // 4 * 4 + 4)
        if len(column) == 1:
            return b.shuffle_vector(column[0], column[0], QUAD(list(places)))
        size = 16
        while len(column) > 1:
            order = [*places, *(size + place for place in places)]
            kind = ir.VectorType(I32, len(order))
            column = [b.shuffle_vector(x, y, kind(order)) for x, y in zip(column[::2], column[1::2], strict=True)]
            size = len(order)
            places = range(size)
        return column[0]

    return [word(t) for t in range(16)]


def compressed(code: Code, sha: Lanes, state: list[Any], block: Any) -> list[Any]:
    """The compression function, sixteen rounds a turn of a loop: unrolled, it would not fit into the nearest
    cache of instructions, beside the rest or at all."""
    b = code.builder
    size = 4 * sha.lanes
    table = ir.GlobalVariable(code.module, ir.ArrayType(I32, 64), "K")
    table.global_constant, table.linkage = True, "internal"
    table.initializer = ir.Constant(table.value_type, K)
    places = [b.add(block, I64(size * t)) for t in range(16)]
    now = state
    for t in range(16):
        now = sha.round(now, sha.constant(K[t]), code.load(sha.type, places[t], size))
    turning = [code.variable(word) for word in now]
    with code.count(I64(48), 16) as (turn, _):
        constants = code.at(b.ptrtoint(table, I64), turn, 4, 64)
        now = [word.get() for word in turning]
        for t in range(16):
            before = [code.load(sha.type, places[(t - distance) % 16], size) for distance in (16, 15, 7, 2)]
            word = sha.schedule(*before)
            code.store(word, places[t], size)
            now = sha.round(now, sha.splat(code.load(I32, b.add(constants, I64(4 * t)), 4)), word)
        for variable, value in zip(turning, now, strict=True):
            variable.set(value)
    return [sha.add(old, word.get()) for old, word in zip(state, turning, strict=True)]
