"""Generates ``hash_levels``: the levels of a Merkle log above a row of its nodes, in one call.

A node is ``H(0x01 ‖ left ‖ right)`` (RFC 6962), 65 bytes: two blocks that differ from pair to pair in 64
bytes only. So each lane has its two blocks laid out once, and a pair is copied into them.
"""

from __future__ import annotations

from llvmlite import ir

from eventchain_kernels.native.emit import I8, I16, I64, VOID, Code
from eventchain_kernels.native.multi_buffer import multi_buffer

ARGUMENTS = ("nodes", "count", "before", "rows", "levels")
"""nodes: address of ``count`` hashes of 32 bytes, the first two of which make a node above, and so on;
before: complete nodes that the log had at this level before the first of them; rows: address for the levels
above, up to ``levels`` of them or to one of fewer than two nodes, end to end. Each has a row before its own
hashes: there lies what the log had before at this level, if that number is odd, and is paired with the
first of them."""

MESSAGE = 65


def build(module: ir.Module, lanes: int, sha_extensions: bool) -> None:
    pairs = _hash_pairs(module, lanes, sha_extensions)
    code = Code(module, "hash_levels", ARGUMENTS)
    nodes, count, before, rows, levels = code.args()
    b = code.builder
    source, left, earlier, target = (code.variable(value) for value in (nodes, count, before, rows))
    with code.count(levels) as (_, level):
        parents = b.lshr(left.get(), I64(1))
        level.leave_unless(b.icmp_unsigned("!=", parents, I64(0)))
        above = b.add(target.get(), I64(32))
        b.call(pairs, [source.get(), parents, above])
        earlier.set(b.lshr(earlier.get(), I64(1)))
        odd = b.and_(earlier.get(), I64(1))
        source.set(b.sub(above, b.shl(odd, I64(5))))
        left.set(b.add(parents, odd))
        target.set(code.at(above, parents, 32))
    b.ret_void()


def _hash_pairs(module: ir.Module, lanes: int, sha_extensions: bool) -> ir.Function:
    code = Code(module, "hash_pairs", ("pairs", "count", "out"), VOID)
    code.function.linkage = "internal"
    pairs, count, out = code.args()
    b = code.builder
    wide, bits = ir.VectorType(I8, 64), ir.VectorType(ir.IntType(1), lanes)
    messages, blocks = code.array(I8, 128 * lanes), code.array(I64, 2 * lanes)
    buffer = multi_buffer(code, lanes, sha_extensions)
    everyone = ir.Constant(bits, [1] * lanes)
    buffer.settle(everyone)
    with code.count(I64(lanes)) as (lane, _):
        message = code.at(messages, lane, 128)
        for half in (0, 1):
            block = b.add(message, I64(64 * half))
            code.store(block, code.at(blocks, lane, 8, 8 * lanes * half), 8)
            code.store(ir.Constant(wide, [0] * 64), block)
        code.store(I8(1), message)
        code.store(I8(0x80), b.add(message, I64(MESSAGE)))
        code.store(I16(int.from_bytes((8 * MESSAGE).to_bytes(2, "big"), "little")), b.add(message, I64(126)))
    last = b.sub(count, I64(1))
    with code.count(count, lanes) as (first, _):
        with code.count(I64(lanes)) as (lane, _):  # lanes beyond the last pair repeat it
            pair = code.at(pairs, code.minimum(b.add(first, lane), last), 64)
            code.store(code.load(wide, pair), code.at(messages, lane, 128, 1))
        with code.count(I64(2)) as (half, _):
            buffer.compress(code.at(blocks, half, 8 * lanes))
        buffer.settle(everyone)
        with code.count(I64(lanes)) as (lane, _):
            at = code.at(out, code.minimum(b.add(first, lane), last), 32)
            for half, quad in enumerate(buffer.digest(lane)):
                code.store(quad, b.add(at, I64(16 * half)))
    b.ret_void()
    return code.function
